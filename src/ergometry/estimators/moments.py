"""Moments: means and covariances of vectors, one at a time or merged; ratios and products of means with their error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and sum of products of deviations (d, d) of vectors of d numbers, float64.

    Merged by the pairwise formula of Chan, Golub & LeVeque (1983), which does not cancel.

    >>> m = Moments.of(np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> m.mean.tolist(), m.covariance.tolist()
    ([2.0, 4.0], [[2.0, 4.0], [4.0, 8.0]])
    """

    n: int
    mean: Array
    products: Array

    @classmethod
    def zero(cls, d: int) -> Moments:
        """Return the moments of no vector of ``d`` numbers."""
        return cls(0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def of(cls, rows: Array) -> Moments:
        """Return the moments of the rows of (n, d) float64."""
        if not len(rows):
            return cls.zero(rows.shape[1])
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def add(self, x: Sequence[float] | Array) -> Moments:
        """Return the moments with one more vector."""
        return self.merge(Moments(1, np.asarray(x, dtype=np.float64), np.zeros_like(self.products)))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of vectors."""
        n = self.n + other.n
        if not n:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.n / n)
        products = self.products + other.products + np.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, mean, products)

    @property
    def covariance(self) -> Array:
        """Unbiased covariance (d, d) of one vector; NaN below two."""
        return self.products / (self.n - 1) if self.n > 1 else np.full_like(self.products, math.nan)

    def stderr_of(self, slope: Sequence[float] | Array) -> float | None:
        """Standard error of slope·mean, of independent vectors; None below two."""
        if self.n < 2:
            return None
        a = np.asarray(slope, dtype=np.float64)
        return math.sqrt(max(float(a @ self.covariance @ a), 0.0) / self.n)

    def function(self, f: Callable[[Array], float], slope: Callable[[Array], Array]) -> tuple[float, float | None]:
        """Return f(mean) and its standard error by the delta method, ``slope`` being the gradient of f."""
        value = f(self.mean)
        return value, self.stderr_of(slope(self.mean)) if math.isfinite(value) else None
