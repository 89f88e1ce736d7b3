"""Readings: what the equations read of a run, each quantity read once and shared by the sections."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run
from ergometry.core.series import LOSSES
from ergometry.equations.codelength import read_information
from ergometry.equations.displacement import GradientWork, read_gradient_work
from ergometry.equations.priced import Priced, read_priced
from ergometry.work.accounts import Accounts

BIN_S = 1.0
_BLOCK = 1 << 16
"""Width of the bins whose largest mean power is taken as P_max, s."""


@dataclass(frozen=True)
class Readings:
    """What a run offers to the equations.

    Attributes:
        accounts: the run's books, in joules and counts.
        duration: wall time of the run, s.
        step_rate: ν₀ over the whole run, step/s, evaluation and idle time included.
        peak_power: P_max, W.
        information: I, nat.
        priced: what the work of a step costs; None without a calibration and counted work.
        gradient: sums over the optimizer's steps, loss units.
        loss_change: last minus first loss, loss units.
    """

    accounts: Accounts
    duration: Estimate
    step_rate: Estimate
    peak_power: Estimate
    information: Estimate
    priced: Priced | None
    gradient: GradientWork
    loss_change: Estimate

    def component_power(self, component: str) -> Estimate:
        """Return the mean power of one component, W."""
        return self.accounts.by_component[component] / self.duration

    def from_information(self, found: Estimate, method: str) -> Estimate:
        """Return what was computed from the information, pointing to 1.2 for what was inferred to have it."""
        if found.value is None:
            return found
        return replace(found, method=method, why="the information is inferred: see information_nat in 1.2")


def read(run: Run, accounts: Accounts) -> Readings:
    """Return what the equations read of a run."""
    duration = Estimate(run.duration_s, 0.0, "s", Provenance.MEASURED, "monotonic clock")
    return Readings(
        accounts=accounts,
        duration=duration,
        step_rate=accounts.work["steps"] / duration,
        peak_power=read_peak_power(run, accounts),
        information=read_information(run),
        priced=read_priced(run, accounts),
        gradient=read_gradient_work(run),
        loss_change=_loss_change(run),
    )


def read_peak_power(run: Run, accounts: Accounts) -> Estimate:
    """Largest mean power over a whole one-second bin, P_max, in W; of a run too short for two bins, its mean power.

    A largest of many noisy values is biased upward by about their noise; ``stderr`` is that of the one bin.
    """
    traces = list(accounts.metered.cover().values())
    if not traces or not run.duration_s >= 2 * BIN_S:
        return replace(
            accounts.power, why=accounts.power.why or "the run's mean power: it is too short for bins of 1 s"
        )
    bins = int(run.duration_s // BIN_S)
    highest_w, top = -np.inf, 0
    for first in range(0, bins, _BLOCK):
        # In blocks: a run of weeks has millions of bins.
        edges = BIN_S * np.arange(first, min(first + _BLOCK, bins) + 1)
        power_w = np.sum([trace.power_w(edges) for trace in traces], axis=0)
        if power_w.max() > highest_w:
            highest_w, top = power_w.max(), first + int(np.argmax(power_w))
    joules = total(trace.energy(top * BIN_S, (top + 1) * BIN_S) for trace in traces)
    seconds = Estimate(BIN_S, 0.0, "s", Provenance.MEASURED)
    return replace(joules / seconds, method=joules.method, why="taken as the largest mean power over one second")


def _loss_change(run: Run) -> Estimate:
    losses = run.table(LOSSES)["loss"]
    finite = losses[np.isfinite(losses)]
    if len(finite) < 2:
        return Estimate.unknown("loss", "needs two steps with a finite loss")
    why = "between the first and the last batch, whose own noise is in it and is not known"
    return Estimate(float(finite[-1] - finite[0]), None, "loss", Provenance.MEASURED, "minibatch losses", why)
