"""Belief: what is known of a positive quantity, as a log-normal distribution; several combine into one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Belief:
    """A positive quantity x with ln x ~ 𝒩(``log_mean``, ``log_sd``²); ``source`` says what it rests on.

    >>> one = Belief.of(100.0, factor=3.0, source="noise scale")
    >>> other = Belief.of(400.0, factor=3.0, source="history")
    >>> both = combined([one, other])
    >>> print(f"{both.median:.0f} within a factor {both.factor:.2f}: {both.source}")
    200 within a factor 2.17: noise scale, history
    """

    log_mean: float
    log_sd: float
    source: str

    @classmethod
    def of(cls, median: float, *, factor: float, source: str) -> Belief:
        """Return a belief by its median and the factor that one standard deviation is."""
        return cls(math.log(median), math.log(factor), source)

    @property
    def median(self) -> float:
        """The median."""
        return math.exp(self.log_mean)

    @property
    def factor(self) -> float:
        """The factor up or down that one standard deviation of ln x is."""
        return math.exp(self.log_sd)

    def interval(self, share: float = 0.9) -> tuple[float, float]:
        """Return the central interval that holds this share."""
        from statistics import NormalDist

        z = NormalDist().inv_cdf(0.5 + share / 2)
        return math.exp(self.log_mean - z * self.log_sd), math.exp(self.log_mean + z * self.log_sd)

    def draws(self, generator: np.random.Generator, n: int) -> Array:
        """Return ``n`` draws."""
        return np.exp(generator.normal(self.log_mean, self.log_sd, n))


def combined(beliefs: Iterable[Belief]) -> Belief:
    """Return what independent beliefs say together: their densities in ln x multiply.

    Where they disagree by more than their widths explain, the width grows by the Birge ratio, √(χ²/(n−1)).

    Raises:
        ValueError: there is none.
    """
    beliefs = list(beliefs)
    if not beliefs:
        raise ValueError("a combination of no beliefs")
    weights = [1.0 / belief.log_sd**2 for belief in beliefs]
    whole = math.fsum(weights)
    mean = math.fsum(w * belief.log_mean for w, belief in zip(weights, beliefs, strict=True)) / whole
    chi_sq = math.fsum(w * (b.log_mean - mean) ** 2 for w, b in zip(weights, beliefs, strict=True))
    birge = max(1.0, math.sqrt(chi_sq / (len(beliefs) - 1))) if len(beliefs) > 1 else 1.0
    return Belief(mean, birge / math.sqrt(whole), ", ".join(dict.fromkeys(belief.source for belief in beliefs)))
