"""Sampling: sums over all steps from rows of some of them, and the error that the steps left out leave in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FEW = 8
"""Sampled steps below which a standard error has a relative error above a quarter."""


@dataclass(frozen=True)
class Observations:
    """What was seen of some steps: ``rows`` (n, d) float64, the first column the step, in increasing order of rows.

    The state of the estimators whose error depends on where the sampled steps lie.
    """

    rows: Array

    @classmethod
    def zero(cls, d: int) -> Observations:
        """Return the state of no step, of ``d`` numbers each."""
        return cls(np.empty((0, d)))

    @classmethod
    def of(cls, rows: Array) -> Observations:
        """Return the state of the rows of (n, d) float64, in any order."""
        if len(rows) < 2 or np.all(np.diff(rows[:, 0]) > 0):
            return cls(rows)
        return cls(rows[np.lexsort(rows.T[::-1])])

    def add(self, x: Sequence[float] | Array) -> Observations:
        """Return the state with one more step."""
        return self.merge(Observations(np.asarray(x, dtype=np.float64)[None]))

    def merge(self, other: Observations) -> Observations:
        """Return the state of both sets of steps."""
        return Observations.of(np.concatenate((self.rows, other.rows)))


@dataclass(frozen=True)
class Sampling:
    """Which steps the rows stand for: ``weights`` (n,), how many are nearest to each; ``steps``, how many in all."""

    weights: Array
    steps: int

    def total(self, values: Array, variances: Array) -> tuple[float, float | None]:
        """Return the sum over all steps and its standard error.

        Each row is a sample of one from the stratum of steps nearest to it, so an uneven cadence does not bias the
        sum. The error has two stages: unsampled steps, Σ w(w−1)·s², with s² half the mean square of successive
        differences (a trend is not noise); unsampled parameters, Σ w·variance, taken as independent between
        steps. It does not hold what is over between two sampled steps, such as a steep start. It is None where one
        sampled step stands for several, or a variance is not known. A row that is not finite adds nothing.
        """
        finite = np.isfinite(values)
        x = np.where(finite, values, 0.0)
        v = np.where(finite, variances, 0.0)
        value, spread, pairs = float(self.weights @ x), float(self.weights @ (self.weights - 1.0)), len(x) - 1
        if not np.all(np.isfinite(v)) or (spread > 0 and pairs < 1):
            return value, None
        rises = np.diff(x) if spread > 0 else np.zeros(0)
        between = spread * float(rises @ rises) / (2 * max(pairs, 1))
        return value, math.sqrt(between + float(self.weights @ v))

    def ratio(self, above: tuple[Array, Array], below: tuple[Array, Array]) -> tuple[float, float | None]:
        """Return Σ above / Σ below, each (values, variances), and its standard error.

        The error is that of Σ(above − ratio·below), to first order: the two rise and fall together.
        """
        whole, _ = self.total(*below)
        ratio = self.total(*above)[0] / whole
        _, stderr = self.total(above[0] - ratio * below[0], above[1] + ratio**2 * below[1])
        return ratio, None if stderr is None else stderr / abs(whole)

    @property
    def said(self) -> str:
        """Say how many steps were sampled, or nothing where all were."""
        rows = len(self.weights)
        if rows >= self.steps:
            return ""
        few = ", so few that the error is itself uncertain" if rows < _FEW else ""
        return f"from {rows} of {self.steps} steps, each standing for those nearest to it{few}"


def sample_steps(sampled: Array, all_steps: Array) -> Sampling:
    """Return which of ``all_steps`` each of ``sampled`` (increasing) stands for: those nearest to it.

    >>> sample_steps(np.array([0.0, 4.0]), np.arange(8.0)).weights
    array([3., 5.])
    """
    population = np.union1d(all_steps, sampled)
    middles = 0.5 * (sampled[1:] + sampled[:-1])
    owner = np.searchsorted(middles, population, side="left")
    return Sampling(np.bincount(owner, minlength=len(sampled)).astype(np.float64), len(population))
