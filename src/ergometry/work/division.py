"""Division: what a device's joules went into, by the energy model that its run's windows have refined.

Each stretch's joules are shared out among its phases in proportion to what the model gives the work of each. What the
model does not explain is shared out with it, but counts as unknown: its part of the error is that of powers of which
nothing is known. Stretches whose work was not counted keep equal power throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.trace import Trace
from ergometry.work.coefficients import Coefficients
from ergometry.work.counted import CountedWork
from ergometry.work.energy_model import EnergyModel, Terms, division_variance, shares_of, terms
from ergometry.work.meters import grain_s
from ergometry.work.roofline import STATIC
from ergometry.work.timeline import STEP, Timeline

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MOST_WINDOWS = 256

GRAINS = 4.0
"""A window is at least so many times as long as the sensor's grain, and as the mean step: what its edges miss, and
that a step's work is spread evenly over it, then matter little."""

REL_WINDOW = 0.005
"""Relative error of the model in a window beside that of its coefficients, at least: temperature and clocks vary."""

MOST_UNKNOWN = 0.1
"""Share of a window's seconds in which something was not counted, at most."""

UNIFORM = math.sqrt(2.0 / 3.0)
"""E·f(1 - f) times this is the error of equal power: powers between zero and twice the mean, as in phases.py."""


@dataclass(frozen=True, eq=False)
class Division:
    """How the joules of a device fall to phases: ``shares`` (n, 6) of each stretch, by its calibration, refined.

    ``used`` (n,) are the stretches that were shared out by the model, ``work_by_phase`` (6, k) is all that was counted.
    """

    known: Coefficients
    work: CountedWork
    model: EnergyModel
    shares: Array
    used: Mask
    work_by_phase: Array

    @classmethod
    def by_model(cls, known: Coefficients, work: CountedWork, model: EnergyModel) -> Division:
        """Share out the steps whose work was counted by a model, the others by their seconds."""
        shares = work.timeline.shares.copy()
        used = work.whole & (work.timeline.kind == STEP)
        done = np.zeros((len(series.PHASES), len(model.names)))
        for at, block in work.blocks(model):
            shares[at][used[at]] = shares_of(block[used[at]], model)
            done += block.sum(axis=0)
        return cls(known, work, model, shares, used, done)

    @property
    def timeline(self) -> Timeline:
        """The stretches, with these shares in the place of those of the seconds."""
        return replace(self.work.timeline, shares=self.shares)

    def worked(self, energy_j: Array) -> tuple[Array, Array]:
        """Return, by phase, the joules (6,) that counted work explains, and the seconds (6,) that it took.

        All of a stretch's joules (n,), where all that it did was counted; else only those that the model gives what
        was, without static power, so that what was not counted is in none.
        """
        joules, seconds = np.zeros(len(series.PHASES)), np.zeros(len(series.PHASES))
        dynamic = np.where(np.array(self.model.names) == STATIC, 0.0, self.model.values)
        static = self.model.names.index(STATIC)
        for at, block in self.work.blocks(self.model):
            whole = self.work.whole[at]
            joules += energy_j[at][whole] @ self.shares[at][whole] + (block[~whole] @ dynamic).sum(axis=0)
            seconds += block[whole][:, :, static].sum(axis=0)
        return joules, seconds

    def variance(self, energy_j: Array, static_w: float) -> Array:
        """Return, per phase, the variance (J²) of sharing out the joules (n,) of stretches.

        Args:
            energy_j: of each stretch, of the device or of one of its readings.
            static_w: of that reading, for stretches that were not counted.
        """
        phases = len(series.PHASES)
        found = Terms(np.zeros(phases), np.zeros((phases, len(self.model.names))), np.zeros(phases))
        modelled = np.zeros(phases)
        for at, block in self.work.blocks(self.model):
            known = self.used[at]
            found += terms(energy_j[at][known], block[known], self.model)
            shares = self.shares[at][known]
            modelled += (block[known].sum(axis=1) @ self.model.values) @ (shares * (1.0 - shares))
        # What the model does not explain of these joules: of an error of equal power, not of the model.
        beyond = (found.between - modelled).clip(min=0.0)
        known_part = found._replace(between=found.between - beyond)
        rest = ~self.used
        dynamic = np.maximum(energy_j[rest] - static_w * self.timeline.seconds[rest], 0.0)
        equal = dynamic @ (self.shares[rest] * (1.0 - self.shares[rest]))
        return division_variance(known_part, self.model) + UNIFORM**2 * (beyond + equal) ** 2


def refine(prior: EnergyModel, work: CountedWork, traces: Sequence[Trace], duration_s: float) -> EnergyModel:
    """Return a model after the run's own windows: seconds, FLOP and bytes of each against its joules.

    A window's variance is that of its readings; of the seconds in which something was not counted, as much as all of
    their power; and :data:`REL_WINDOW`. One with more than :data:`MOST_UNKNOWN` of such seconds says nothing: what they
    lack is the same in all of them, and does not average out. Where the windows still stray further from the model
    than that, their variance is widened.

    Args:
        prior: the calibration's coefficients.
        work: of the run on the device.
        traces: the readings that make up the device's joules; none overlap.
        duration_s: the run's.
    """
    edges_s = _edges(work.timeline, traces, duration_s)
    if len(edges_s) < 2:
        return prior
    joules = np.sum([np.diff(trace.cumulative_j(edges_s)) for trace in traces], axis=0)
    variance = np.sum([trace.stderr_j(edges_s[:-1], edges_s[1:]) ** 2 for trace in traces], axis=0)
    done, unknown_s = _until(work, prior, edges_s)
    length_s = np.diff(edges_s)
    variance = variance + (unknown_s / length_s * joules) ** 2 + (REL_WINDOW * joules) ** 2
    told = unknown_s <= MOST_UNKNOWN * length_s
    joules, variance, done = joules[told], variance[told], done[told]
    found = prior.refined(done, joules, variance)
    misfit = (joules - done @ found.values) ** 2 / np.where(variance > 0, variance, np.inf)
    strayed = float(misfit.sum()) / max(len(joules) - len(prior.names), 1)
    return found if strayed <= 1.0 else prior.refined(done, joules, variance * strayed)


def _edges(timeline: Timeline, traces: Sequence[Trace], duration_s: float) -> Array:
    """Return the edges of windows, at readings of the coarsest trace."""
    slowest = max(traces, key=grain_s)
    at_s = slowest.t_s[(slowest.t_s >= 0) & (slowest.t_s <= duration_s)]
    steps = timeline.kind == STEP
    rows = int(np.count_nonzero(np.bincount(timeline.row[steps])))
    step_s = float(timeline.seconds[steps].sum()) / rows if rows else 0.0
    least_s = GRAINS * max(grain_s(slowest), step_s)
    span_s = float(at_s[-1] - at_s[0]) if len(at_s) > 1 else 0.0
    count = int(min(span_s // least_s if least_s > 0 else MOST_WINDOWS, MOST_WINDOWS))
    if count < 1:
        return np.empty(0)
    return np.unique(at_s[np.searchsorted(at_s, np.linspace(at_s[0], at_s[-1], count + 1)).clip(max=len(at_s) - 1)])


def _until(work: CountedWork, model: EnergyModel, edges_s: Array) -> tuple[Array, Array]:
    """Return the work (w, k) of windows, and the seconds (w,) in each in which something was not counted."""
    done = np.zeros((len(edges_s), len(model.names) + 1))
    for at, block in work.blocks(model):
        own = work.timeline.edges_s[at.start : at.stop + 1]
        unknown = np.where(work.whole[at], 0.0, np.diff(own))
        rows = np.column_stack((block.sum(axis=1), unknown))
        until = np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)))
        for k in range(rows.shape[1]):
            done[:, k] += np.interp(edges_s, own, until[:, k])
    each = np.diff(done, axis=0)
    return each[:, :-1], each[:, -1]
