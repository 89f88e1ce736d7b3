"""Findings: what the numbers of a run mean for whoever pays for it, the costliest first. Pure rules, real evidence."""

from __future__ import annotations

from collections.abc import Callable

from ergometry.core.run import Run
from ergometry.report.findings import boards, settings, training, work
from ergometry.report.findings.finding import Finding
from ergometry.work.accounts import Accounts

__all__ = ["ADVICE", "RULES", "Finding", "findings"]

Rule = Callable[[Run, Accounts], Finding | None]

RULES: tuple[Rule, ...] = (
    training.data_waiting,
    training.evaluation_share,
    training.loss_not_finite,
    training.loss_plateau,
    boards.heat,
    boards.power_brake,
    boards.power_cap,
    boards.other_limit,
    boards.little_used,
    boards.hot,
    work.low_mfu,
    work.memory_bound,
    work.residual,
)

Advice = Callable[[Run, Accounts, settings.Equations], Finding | None]

ADVICE: tuple[Advice, ...] = (
    settings.batch_size,
    settings.unstable,
    settings.short_steps,
    settings.precision,
    settings.power_limit,
)


def findings(run: Run, books: Accounts, equations: settings.Equations) -> list[Finding]:
    """Return what the run has to say, the costliest first; ``equations`` are its summary's entries."""
    found = [rule(run, books) for rule in RULES] + [advise(run, books, equations) for advise in ADVICE]
    return sorted((f for f in found if f is not None), key=lambda f: -f.stake_j)
