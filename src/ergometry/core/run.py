"""Run: a stored run as plain data. Everything that explains a run reads this, and this alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core.domain import Domain, cover
from ergometry.core.errors import InvalidSeries
from ergometry.core.notices import Notice
from ergometry.core.ports import Signal
from ergometry.core.series import Series
from ergometry.core.trace import Trace

Array = npt.NDArray[np.float64]

STATUSES = ("running", "completed", "failed", "interrupted", "stopped")


@dataclass(frozen=True)
class Table:
    """Rows of float64: ``rows`` (n, columns)."""

    columns: tuple[str, ...]
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> Array:
        return self.rows[:, self.columns.index(column)]

    @classmethod
    def empty(cls, columns: Sequence[str]) -> Table:
        """Return a table without rows."""
        return cls(tuple(columns), np.empty((0, len(columns))))


@dataclass(frozen=True)
class SampleTable:
    """The samples of one sensor: a table whose first column is ``t_s`` and the signal of each other column."""

    source: str
    signals: tuple[Signal, ...]
    table: Table


@dataclass(frozen=True)
class Run:
    """One run. Times in it are monotonic seconds since its origin; ``meta`` has the labels.

    ``meta`` keys, each absent until known: ``id``, ``name``, ``tags``, ``command`` (list), ``cwd``, ``started``
    (ISO 8601, UTC), ``host``, ``python``, ``torch``, ``devices`` (list of names), ``pid``, ``machine``
    (cpu model and the like), ``parameters``, ``inferred`` (how examples and tokens were), ``classes``
    (last dimension of the model's output), ``label`` (what carries one: token or example),
    ``windows`` (names by number), ``sampling_hz``, ``options``.
    """

    path: Path
    status: str
    duration_s: float
    meta: Mapping[str, Any]
    tables: Mapping[str, Table]
    samples: tuple[SampleTable, ...] = ()
    notices: tuple[Notice, ...] = ()
    dropped: int = 0
    exit_status: int | None = None
    disk_bytes: int = 0
    absent: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def id(self) -> str:
        """The run's id: the name of its folder."""
        return str(self.meta.get("id", self.path.name))

    def table(self, series: Series) -> Table:
        """Return a table of the run, empty if it has none of this kind."""
        return self.tables.get(series.name) or Table.empty(series.columns)

    def traces(self) -> dict[Domain, Trace]:
        """Return the trace of every domain that was sampled at least twice, an energy counter before a power."""
        return dict(self._traces)

    @cached_property
    def _traces(self) -> dict[Domain, Trace]:
        # Kept: a trace is as large as its samples, and several readers of one run ask for it.
        found: dict[Domain, Trace] = {}
        for samples in self.samples:
            t = samples.table["t_s"]
            for column, signal in enumerate(samples.signals, start=1):
                domain = Domain(signal.domain)
                try:
                    trace = Trace.from_samples(t, samples.table.rows[:, column], signal)
                except InvalidSeries:
                    continue
                found[domain] = _better(found[domain], trace) if domain in found else trace
        return found

    def cover(self) -> dict[Domain, Trace]:
        """Return the traces of the domains that together cover what was metered, nothing counted twice."""
        return cover(self.traces())


def _better(one: Trace, other: Trace) -> Trace:
    """Return what two readings of one domain tell: both in turn, else the counter's, else the first's."""
    earlier, later = sorted((one, other), key=lambda trace: float(trace.t_s[0]))
    if earlier.t_s[-1] < later.t_s[0]:
        return earlier.then(later)
    return other if (other.signal.quantity, one.signal.quantity) == ("energy_j", "power_w") else one
