"""Sampling: sums over all steps from rows of some of them, and the error that the steps left out leave in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FEW = 8
"""Sampled steps below which a standard error has a relative error above a quarter, and no model is fitted."""
_MOST_LEVERAGE, _MOST_POWER, _POWER_TOLERANCE = 0.9, 3.0, 1e-12


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


def _mean_power(guide: Array, x: Array, weights: Array) -> float:
    """Return the c of x ~ guideᶜ, 0 to 3; 0 where the rows' sum is not positive.

    That at which Σ w·x and Σ w·x·ln(guide) are those of the model: the likelihood of Poisson's numbers, which asks of x
    nothing but its mean, so that it may be noisy and negative. The mean of ln(guide) under the weights w·guideᶜ
    rises with c, so that there is one such c.
    """
    whole = float(weights @ x)
    if not whole > 0:
        return 0.0
    level = np.log(guide)
    goal = float((weights * x) @ level) / whole

    def short(c: float) -> tuple[float, float]:
        """Return by how much the mean at c is below the one sought, and how fast it rises."""
        tilted = weights * np.exp(c * (level - level.max()))
        tilted /= tilted.sum()
        mean = float(tilted @ level)
        return goal - mean, float(tilted @ (level - mean) ** 2)

    low, high = 0.0, _MOST_POWER
    if short(low)[0] <= 0:
        return low
    if short(high)[0] >= 0:
        return high
    c = 1.0
    while high - low > _POWER_TOLERANCE:  # Newton's steps, halves where one leaves the bracket
        lacking, slope = short(c)
        low, high = (c, high) if lacking > 0 else (low, c)
        after = c + lacking / slope if slope > 0 else math.inf
        after = after if low < after < high else 0.5 * (low + high)
        if abs(after - c) < _POWER_TOLERANCE:
            return after
        c = after
    return c


def _size_power(guide: Array, x: Array, weights: Array) -> float:
    """Return the p of |x| ~ guideᵖ, by least squares of the logarithms, 0 to 3; 0 where nothing tells."""
    told = x != 0
    if np.count_nonzero(told) < _FEW:
        return 0.0
    level, size, w = np.log(guide[told]), np.log(np.abs(x[told])), weights[told]
    level = level - np.average(level, weights=w)
    spread = float(w @ level**2)
    return float(np.clip(w @ (level * size) / spread, 0.0, _MOST_POWER)) if spread > 0 else 0.0


@dataclass(frozen=True)
class Sampling:
    """Which steps the rows stand for.

    Attributes:
        weights: (n,) how many steps are nearest to each row.
        steps: how many in all.
        seen: (n,) the guide at the rows: a positive number that is known of every step, its loss.
        every: (S,) the guide at all steps; empty: there is no guide.
    """

    weights: Array
    steps: int
    seen: Array = field(default_factory=lambda: np.zeros(0))
    every: Array = field(default_factory=lambda: np.zeros(0))

    def total(self, values: Array, variances: Array) -> tuple[float, float | None]:
        """Return the sum over all steps and its standard error.

        Each row is a sample of one from the stratum of steps nearest to it, so an uneven cadence does not bias the
        sum. The error has two stages: unsampled steps, Σ w(w−1)·s², and unsampled parameters, Σ w·variance, taken as
        independent between steps. It is None where one sampled step stands for several, or a variance is not known. A
        row that is not finite adds nothing.

        With a guide ℓ and eight rows at least the sum is model-assisted: x ≈ a + b·ℓᶜ is fitted to the rows, its values
        at all steps are added up, and the rows' residuals scaled up. What the loss knows of steps that were not
        looked at, such as a steep start, is then in the sum; s is each row's own residual, over 1 − its leverage. Where
        the model is wrong the residuals are larger, and no bias comes of it but in the order of 1/n. They too go with
        a power of ℓ, so that what the rows have missed of it is made up for. Without a guide s² is half the mean square
        of successive differences (a trend is not noise), and nothing tells of what is over between two sampled steps.

        What is so skewed that few rows make most of the variance is known less well than its number of rows says:
        with t_i their parts of it, the error is widened to Student's t of (Σt)²/Σt² degrees of freedom at 90 %, of
        fewer where all steps' losses say that a sample of so many has fewer.

        Source: Särndal, Swensson & Wretman 1992 (the model-assisted sum); Wu 1982 (the ratio that scales its
        variance); Satterthwaite 1946 (degrees of freedom).
        """
        finite = np.isfinite(values)
        x, v = np.where(finite, values, 0.0), np.where(finite, variances, 0.0)
        fit = self._fit(x) if np.all(finite) else None
        if fit is None:
            value = float(self.weights @ x)
            return value, self._error(self._successive(x), v)
        return fit.total, self._error(self._residual(fit.residuals), v * fit.gain**2)

    def ratio(self, above: tuple[Array, Array], below: tuple[Array, Array]) -> tuple[float, float | None]:
        """Return Σ above / Σ below, each (values, variances), and its standard error.

        The error is that of Σ(above − ratio·below), to first order: the two rise and fall together. With a guide the
        sums are those of ``below`` and of what ``above`` falls short of it, which has a power of the loss of its own:
        that of the logarithms, since the shortfall is without noise and few steps make most of it.
        """
        (x, x_variance), (y, y_variance) = above, below
        finite = np.isfinite(x) & np.isfinite(y)
        whole, short = (self._fit(y), self._fit(y - x, _size_power)) if np.all(finite) else (None, None)
        if whole is None or short is None:
            bottom = self.total(y, y_variance)[0]
            ratio = self.total(x, x_variance)[0] / bottom
            _, stderr = self.total(x - ratio * y, x_variance + ratio**2 * y_variance)
        else:
            bottom, ratio = whole.total, 1.0 - short.total / whole.total
            apart = short.residuals - short.total / whole.total * whole.residuals
            variances = x_variance * short.gain**2 + ratio**2 * y_variance * whole.gain**2
            stderr = self._error(self._residual(apart), variances)
        return ratio, None if stderr is None else stderr / abs(bottom)

    def noisy(self, columns: Array) -> tuple[Array, Array] | None:
        """Return the sums over all steps of (n, d) columns that are themselves noisy, and their covariance (d, d).

        Each number is an unbiased estimate of its step's own, as |G|² from one batch is. Σ w·x then errs by the rows'
        noise, Σ w²σ², and by the steps left out, Σ w(w−1)s². A row's residual holds both, σ² + s², so that Σ w² times
        its square is the variance, or above it by Σ w·s². All else is as in :meth:`total`; None where there is no
        guide, or a number that is not finite.
        """
        fits = [self._fit(x) for x in columns.T] if np.all(np.isfinite(columns)) else []
        found = [fit for fit in fits if fit is not None]
        if not found or len(found) < len(fits):
            return None
        apart = np.array([self.weights * fit.residuals for fit in found])
        wider = []
        for fit, parts in zip(found, apart**2, strict=True):
            missed, freedom = self._known(fit.residuals, parts)
            wider.append(math.sqrt(missed) * widening(freedom))
        return np.array([fit.total for fit in found]), apart @ apart.T * np.outer(wider, wider)

    def _fit(self, x: Array, power_of: Callable[[Array, Array, Array], float] = _mean_power) -> _Fit | None:
        """Return the model-assisted sum; None where there is no guide, too few rows for one, or nothing to add to."""
        w = self.weights
        if len(w) < _FEW or len(self.seen) != len(w) or len(w) >= self.steps:
            return None
        power = power_of(self.seen, x, w)
        middle = float(np.mean(self.every))
        z, every = (self.seen / middle) ** power, (self.every / middle) ** power
        model = np.column_stack((np.ones_like(z), z))
        worth = w / z  # what is twice as large scatters twice as much, in its square
        solve = np.linalg.pinv(model.T @ (worth[:, None] * model), hermitian=True)
        coefficients = solve @ (model.T @ (worth * x))
        leverage = np.einsum("ip,pq,iq->i", model, solve, model) * worth
        sums = np.array([float(self.steps), float(every.sum())])
        gain = 1.0 + (sums - w @ model) @ solve @ (model / z[:, None]).T
        residuals = x - model @ coefficients
        total = float(sums @ coefficients + w @ residuals)
        return _Fit(total, gain * residuals / (1.0 - np.minimum(leverage, _MOST_LEVERAGE)), gain)

    def _successive(self, x: Array) -> tuple[float, float] | None:
        """Return the variance of Σ wx and its degrees of freedom, from successive differences; None of one row."""
        spread = float(self.weights @ (self.weights - 1.0))
        if spread <= 0:
            return 0.0, math.inf
        rises = np.diff(x) ** 2
        return (spread * float(np.mean(rises)) / 2.0, effective_freedom(rises)) if len(rises) else None

    def _residual(self, residuals: Array) -> tuple[float, float]:
        """Return the variance of a sum and its degrees of freedom, from residuals.

        Where neighbours are alike the model has missed a trend, which is no noise: then s² is half the square of what
        they differ by, of which overlapping ones tell two thirds of their number.
        """
        squares, told = residuals**2, 1.0
        if _alike(residuals):
            between = 0.5 * np.diff(residuals) ** 2
            squares, told = 0.5 * (np.append(between, between[-1]) + np.append(between[0], between)), 2.0 / 3.0
        parts = self.weights * (self.weights - 1.0) * squares
        missed, freedom = self._known(residuals, parts)
        return missed * float(parts.sum()), told * freedom

    def _known(self, residuals: Array, parts: Array) -> tuple[float, float]:
        """Return what a variance is to be scaled by for what the rows missed, 1 at least, and its degrees of freedom.

        |r| ~ ℓᵖ is fitted to the rows: then Σ ℓ²ᵖ over all steps is to Σ w·ℓ²ᵖ as the variance is to that of the rows.
        ℓ²ᵖ of all steps also tells how skewed it is, which the rows understate where they have missed the largest:
        the freedom is the geometric mean of theirs and of what so many rows have of all steps', where that is less.
        """
        power = 2.0 * _size_power(self.seen, residuals, self.weights)
        middle = float(np.mean(self.every))
        every, seen = (self.every / middle) ** power, (self.seen / middle) ** power
        own, drawn = effective_freedom(parts), effective_freedom(every) * len(seen) / self.steps
        return max(float(every.sum() / (self.weights @ seen)), 1.0), min(own, math.sqrt(own * drawn))

    def _error(self, between: tuple[float, float] | None, variances: Array) -> float | None:
        if between is None or not np.all(np.isfinite(variances)):
            return None
        variance, freedom = between
        return math.sqrt(variance * widening(freedom) ** 2 + float(self.weights @ variances))

    @property
    def said(self) -> str:
        """Say how many steps were sampled, or nothing where all were."""
        rows = len(self.weights)
        if rows >= self.steps:
            return ""
        few = ", so few that the error is itself uncertain" if rows < _FEW else ""
        return f"from {rows} of {self.steps} steps, each standing for those nearest to it{few}"


def sample_steps(sampled: Array, all_steps: Array, guide: Array | None = None) -> Sampling:
    """Return which of ``all_steps`` each of ``sampled`` (increasing) stands for: those nearest to it.

    The first step, where it was looked at, stands for itself alone: a cadence that begins there draws it for certain,
    and no other step is like it (momentum has not built up, the loss is at its highest).

    Args:
        sampled: (n,) the steps that were looked at.
        all_steps: (S,) those that they stand for.
        guide: (S,) a number known of each, the step's loss; not used unless all are finite and positive.

    >>> sample_steps(np.array([1.0, 4.0]), np.arange(8.0)).weights
    array([3., 5.])
    >>> sample_steps(np.array([0.0, 4.0]), np.arange(8.0)).weights
    array([1., 7.])
    """
    population = np.union1d(all_steps, sampled)
    middles = 0.5 * (sampled[1:] + sampled[:-1])
    if len(sampled) > 1 and sampled[0] == population[0]:
        middles[0] = sampled[0]
    owner = np.searchsorted(middles, population, side="left")
    weights = np.bincount(owner, minlength=len(sampled)).astype(np.float64)
    usable = guide is not None and len(population) == len(guide) and np.all(np.isfinite(guide)) and np.all(guide > 0)
    if guide is None or not usable:
        return Sampling(weights, len(population))
    order = np.argsort(all_steps, kind="stable")
    every = np.asarray(guide, dtype=np.float64)[order]
    return Sampling(weights, len(population), every[np.searchsorted(population, sampled)], every)


class _Fit(NamedTuple):
    """A model-assisted sum, the rows' residuals as they count in it, and how much more than its weight each counts."""

    total: float
    residuals: Array
    gain: Array


def _alike(x: Array) -> bool:
    """Say whether neighbours are alike, by von Neumann's ratio below 2 at 5 %, of roots, so that no one rules it."""
    size, n = np.sign(x) * np.sqrt(np.abs(x)), len(x)
    ratio = float(np.sum(np.diff(size) ** 2)) / max(float(size @ size), 1e-300)
    return ratio < 2.0 - 1.645 * 2.0 * math.sqrt((n - 2) / (n * n - 1))


def effective_freedom(parts: Array) -> float:
    """Return (Σt)²/Σt², the degrees of freedom of a sum: n of equal parts, n/3 of squares of normal numbers."""
    whole = float(parts.sum())
    return whole**2 / float(parts @ parts) if whole > 0 else math.inf


def widening(freedom: float) -> float:
    """Return the quantile of Student's t of so many degrees of freedom over the normal one, at two-sided 90 %.

    Cornish and Fisher's expansion in 1/freedom, good to 0.4 % from 2 and to 5 % at 1, below which it is that of 1.

    >>> print(*(f"{widening(f):.3f}" for f in (1, 2, 5, 30, math.inf)))
    3.651 1.770 1.225 1.032 1.000
    """
    f, z = max(freedom, 1.0), 1.6449
    terms = (
        (z**2 + 1) / 4,
        (5 * z**4 + 16 * z**2 + 3) / 96,
        (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384,
        (79 * z**8 + 776 * z**6 + 1482 * z**4 - 1920 * z**2 - 945) / 92160,
    )
    return 1.0 + sum(term / f ** (i + 1) for i, term in enumerate(terms))
