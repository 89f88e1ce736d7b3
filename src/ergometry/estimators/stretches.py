"""Stretches: the means of vectors along a run, with an error that neither a trend nor serial correlation spoils."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ergometry.estimators.moments import Moments
from ergometry.estimators.sampling import effective_freedom, widening

Array = npt.NDArray[np.float64]

MOST = 64
_CURVED = 8
_Z90 = 1.6448536


@dataclass(frozen=True)
class Stretches:
    """Moments of vectors of d float64, by stretches of steps of one length; at most ``most`` hold any.

    The length is the least power of two that does with so many, so it follows from the steps alone: ``merge`` is
    associative and commutative (up to rounding), whatever it is that is merged.

    Two errors of the mean over all vectors. :meth:`along` asks for the mean over this very path: only what differs
    between neighbouring stretches is noise (successive differences, von Neumann 1941; of eight stretches and more,
    differences of differences, to which a steady trend adds nothing either). :meth:`stationary` asks for the
    expectation of a stationary process that the path is a sample of: all that differs between stretches is noise.
    Correlation over less than a stretch is within the means that are compared, and so in either. Both are widened for
    being told from few stretches (and the first for skew, which leaves few of them to tell), so that ± 1.645 standard
    errors hold 90 % as Student's t would have it.

    >>> s = Stretches.of(np.arange(4.0), np.array([[1.0], [3.0], [1.0], [3.0]]))
    >>> print(s.mean, s.along().round(3), s.stationary().round(3))
    [2.] [[1.567]] [[0.682]]
    """

    dimension: int
    length: int
    parts: Mapping[int, Moments]
    most: int = MOST

    @classmethod
    def zero(cls, dimension: int, most: int = MOST) -> Stretches:
        """Return the state of no vector of so many numbers."""
        return cls(dimension, 1, MappingProxyType({}), most)

    @classmethod
    def of(cls, steps: Array, rows: Array, most: int = MOST) -> Stretches:
        """Return the state of (n, d) vectors, each at its step (n,), a non-negative whole number."""
        keys = np.asarray(steps, dtype=np.int64)
        length = 1
        while len(np.unique(keys // length)) > most:
            length *= 2
        keys = keys // length
        parts = {int(key): Moments.of(rows[keys == key]) for key in np.unique(keys)}
        return cls(rows.shape[1], length, MappingProxyType(parts), most)

    def add(self, step: float, x: Sequence[float] | Array) -> Stretches:
        """Return the state with one more vector."""
        return self.merge(Stretches.of(np.array([step]), np.asarray(x, dtype=np.float64).reshape(1, -1), self.most))

    def merge(self, other: Stretches) -> Stretches:
        """Return the state of both sets of vectors."""
        length = max(self.length, other.length)
        while True:
            parts: dict[int, Moments] = {}
            for state in (self, other):
                for key, moments in state.parts.items():
                    at = key * state.length // length
                    parts[at] = parts[at].merge(moments) if at in parts else moments
            if len(parts) <= self.most:
                return Stretches(self.dimension, length, MappingProxyType(parts), self.most)
            length *= 2

    @property
    def n(self) -> int:
        """Number of vectors."""
        return sum(moments.n for moments in self.parts.values())

    @property
    def mean(self) -> Array:
        """Mean of all vectors, (d,); NaN of none."""
        if not self.n:
            return np.full(self.dimension, math.nan)
        return np.asarray(sum(m.n * m.mean for m in self.parts.values()) / self.n)

    def _each(self) -> tuple[Array, Array]:
        """Return the numbers (k,) and the means (k, d) of the stretches, in order."""
        ordered = [self.parts[key] for key in sorted(self.parts)]
        return np.array([m.n for m in ordered], dtype=np.float64), np.array([m.mean for m in ordered])

    def along(self) -> Array | None:
        """Return the covariance (d, d) of the mean over this path; None of one stretch."""
        if len(self.parts) < 2:
            return None
        counts, means = self._each()
        taps = np.array([1.0, -2.0, 1.0] if len(counts) >= _CURVED else [1.0, -1.0])
        width = len(counts) - len(taps) + 1
        windows = [slice(i, i + width) for i in range(len(taps))]
        # A stretch's mean has the variance σ²/n: so weighed, each difference is worth the same.
        worth = np.sqrt(sum(k * k / counts[at] for k, at in zip(taps, windows, strict=True)))
        apart = sum(k * means[at] for k, at in zip(taps, windows, strict=True)) / worth[:, None]
        freedom = width * (18.0 / 35.0 if len(taps) == 3 else 2.0 / 3.0)  # overlapping differences say less each
        # What falls steeply, or is skewed, has its variance from few differences.
        freedom = min(freedom, *(effective_freedom(square) for square in (apart**2).T))
        return _widened(apart.T @ apart / width / self.n, freedom)

    def stationary(self) -> Array | None:
        """Return the covariance (d, d) of the mean as of a stationary process; None of one stretch."""
        if len(self.parts) < 2:
            return None
        counts, means = self._each()
        apart = (means - self.mean) * np.sqrt(counts)[:, None]
        return _widened(apart.T @ apart / (len(counts) - 1) / self.n, len(counts) - 1.0)


def _widened(covariance: Array, freedom: float) -> Array:
    """Return a covariance of so many degrees of freedom times (t/z)², at 90 %."""
    return covariance * widening(freedom) ** 2


def function(
    mean: Array, covariance: Array | None, f: Callable[[Array], float], slope: Callable[[Array], Array]
) -> tuple[float, float | None]:
    """Return f(mean) and its standard error by the delta method; ``slope`` is the gradient of f, (d,)."""
    value = f(mean)
    if covariance is None or not math.isfinite(value):
        return value, None
    a = slope(mean)
    return value, math.sqrt(max(float(a @ covariance @ a), 0.0))


def ratio_interval(mean: Array, covariance: Array) -> tuple[float, float]:
    """Return the 90 % interval of b/a, both positive in truth, from the mean (a, b) and its covariance (2, 2).

    Those ρ for which b − ρa is within z = 1.645 of its own standard errors of zero: between the roots of
    (a² − z²v_a)ρ² − 2(ab − z²c)ρ + (b² − z²v_b). Where a is within 1.645 errors of zero the upper end is infinite, as
    what was seen does not bound the ratio then; where b is, the lower one is 0. NaN where a is negative by more: no
    ratio of positive numbers is like that.

    Source: Fieller 1954.

    >>> print("%.2f %.2f" % ratio_interval(np.array([1.0, 2.0]), np.diag([0.09, 0.0])))
    1.34 3.95
    >>> print("%.2f %.2f" % ratio_interval(np.array([1.0, 2.0]), np.diag([1.0, 0.0])))
    0.76 inf
    """
    a, b = (float(x) for x in mean)
    z2 = _Z90**2
    bottom, top = a**2 - z2 * float(covariance[0, 0]), b**2 - z2 * float(covariance[1, 1])
    if bottom > 0 and a < 0:
        return math.nan, math.nan
    middle = a * b - z2 * float(covariance[0, 1])
    larger = middle + math.sqrt(max(middle**2 - bottom * top, 0.0))
    return top / larger if top > 0 and larger > 0 else 0.0, larger / bottom if bottom > 0 else math.inf
