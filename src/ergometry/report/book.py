"""Book: what every renderer reads of a run, each part worked out once, however many samples there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ergometry.core.domain import Domain
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.report.summary import summary
from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts
from ergometry.work.timeline import Timeline


@dataclass(frozen=True)
class Book:
    """A run with what follows from it: the trace of every domain, its timeline, accounts and JSON summary."""

    run: Run
    traces: dict[Domain, Trace]
    timeline: Timeline
    accounts: Accounts
    summary: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> Book:
        """Work everything out, walking over the samples once."""
        traces, timeline = run.traces(), Timeline.of(run)
        books = accounts(run, traces, timeline)
        return cls(run, traces, timeline, books, summary(run, books, timeline))
