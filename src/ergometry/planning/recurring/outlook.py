"""How a running attempt will end: learning curves of earlier runs, the epoch it will finish in, and when to give up."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ergometry.planning.recurring.settings import Settings

Array = NDArray[np.float64]

TAIL, CURVE_TAIL = 10.0, 3.0
"""Degrees of freedom of epochs and of curve readings. Where the two conflict the lighter tail wins: runs of a known
size end when such runs end, whatever an odd curve says; at an unknown size the curve decides."""
BLUR_FLOOR = 1e-6


class LearningCurves:
    """When each level of the metric is passed, as log(epoch/final epoch), for each batch size."""

    def __init__(self, x: Array, levels: int, settings: Settings) -> None:
        self._settings = settings
        self._near = np.exp(-0.5 * ((x[:, None] - x) / settings.curve_length) ** 2)
        self._runs = np.zeros(len(x))
        self._sum = np.zeros((len(x), levels))
        self._square = np.zeros((len(x), levels))
        self._at: dict[int, tuple[Array, Array]] = {}

    @property
    def known(self) -> bool:
        """Whether any finished run told of its levels on the way."""
        return self._sum.shape[1] > 1 and bool(self._runs.any())

    def add(self, i: int, crossed: list[int], epochs: int) -> None:
        """A finished run at size i: the epoch at whose end each level was first seen."""
        y = np.log((np.asarray(crossed) - 0.5) / epochs)
        y[-1] = 0.0
        self._runs[i] += 1
        self._sum[i] += y
        self._square[i] += y * y
        self._at.clear()

    def at(self, i: int) -> tuple[Array, Array]:
        """Mean and sd of log(epoch/final epoch) of each level at size i."""
        if i not in self._at:
            self._at[i] = self._compute(i)
        return self._at[i]

    def _compute(self, i: int) -> tuple[Array, Array]:
        s = self._settings
        runs = np.maximum(self._runs, 1)[:, None]
        weight = self._near[i] * self._runs
        mean = (weight @ (self._sum / runs)) / weight.sum()
        nearest = float((self._near[i] * (self._runs > 0)).max())
        within = (self._square - self._sum**2 / runs).sum(0)
        freedom = np.maximum(self._runs - 1, 0).sum()
        noise = (4 * (s.curve_noise * np.abs(mean) + 0.03) ** 2 + within) / (4 + freedom)
        return mean, np.sqrt((s.curve_spread * mean) ** 2 * (1 - nearest**2) + noise)


class Outlook:
    """Posterior of the final epoch of a running attempt, on a grid up to and beyond the last epoch allowed."""

    def __init__(self, max_epochs: int, settings: Settings) -> None:
        inside = np.unique(np.ceil(np.geomspace(1, max_epochs, 150)))
        self.grid = np.concatenate([inside, max_epochs * 1.2 ** np.arange(1, 20)])
        self.inside = self.grid <= max_epochs
        self.log_grid = np.log(self.grid)
        self._mass = np.diff(np.concatenate([[0.0], self.grid])) / self.grid
        self._settings = settings

    def posterior(
        self,
        mean: float,
        var: float,
        failure: float,
        epoch: int,
        crossed: list[int],
        curves: tuple[Array, Array] | None,
    ) -> tuple[Array, float]:
        """Weights of each final epoch on the grid, and that of never reaching the target; they sum to 1.

        Args:
            mean: Expected log epochs of a run at this size.
            var: Variance, of the expectation and from run to run.
            failure: Chance beforehand that the run fails.
            epoch: Epochs done, without reaching the target.
            crossed: Epoch at whose end each passed level was first seen.
            curves: ``LearningCurves.at`` this size, or None where nothing is known.
        """
        s, log_e = self._settings, self.log_grid
        # Runs end with an epoch: a final epoch is known to ±½.
        var = var + (0.29 / math.exp(min(mean, 20.0))) ** 2
        prior = (1 + (log_e - mean) ** 2 / (var * TAIL)) ** (-0.5 * (TAIL + 1)) * self._mass
        prior /= prior.sum()
        alive = np.where(self.grid > epoch, prior, 0.0)
        stuck = 1.0
        if curves is not None:
            when, spread = curves
            n, levels = len(crossed), len(when)
            seen = np.ones_like(log_e)
            if n:
                wide = math.hypot(float(spread[n - 1]), s.epoch_blur / crossed[-1])
                z = (math.log(crossed[-1] - 0.5) - log_e - when[n - 1]) / wide
                seen = (1 + z * z / CURVE_TAIL) ** (-0.5 * (CURVE_TAIL + 1)) + BLUR_FLOOR
            waits: Array | float = 1.0
            if n < levels - 1:
                wide = math.hypot(float(spread[n]), s.epoch_blur / epoch)
                z = (log_e + when[n] - math.log(epoch)) / wide
                waits = s.slow_start + (1 - s.slow_start) * 0.5 * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z**3)))
            # A run that fails goes along as others do and sticks at some level, any of those left.
            sticks = 1 / (levels - n) if n < levels else 1.0
            stuck = float(prior @ (seen * (sticks + (1 - sticks) * waits)))
            alive = alive * seen * waits
        alive = (1 - failure) * alive
        never = failure * stuck
        total = float(alive.sum()) + never
        return alive / total, never / total

    def continues(
        self,
        ending: tuple[Array, float],
        epoch: int,
        epoch_cost: float,
        again: Array,
        again_failed: float,
        worth: Array,
    ) -> bool:
        """Whether going on is worth more than starting again: optimal stopping over all deadlines.

        With deadline d a run that ends at E ≤ d costs its remaining epochs, any other costs d − epoch epochs and a
        restart. Going on is right if some deadline costs less than restarting now.

        Args:
            ending: Weights of each final epoch and of failing, as ``posterior`` gives them.
            epoch: Epochs done.
            epoch_cost: Cost of one.
            again: Cost of a restart, given the final epoch this run would have had, shape of the grid.
            again_failed: Cost of a restart, given that this run would have failed.
            worth: What finishing at each epoch teaches, in the same unit.
        """
        weights, never = ending
        left = self.grid - epoch
        ahead = self.inside & (left > 0)
        if not ahead.any():
            return False
        done = np.cumsum(weights)
        restart = weights * again
        now = float(restart.sum()) + never * again_failed
        going = epoch_cost * (np.cumsum(weights * left) + (float(done[-1]) + never - done) * left)
        total = going + now - np.cumsum(restart) - np.cumsum(weights * worth)
        return bool(total[ahead].min() < now)
