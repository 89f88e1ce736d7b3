"""Beliefs about a quantity over batch sizes: a law with unknown constants, and what the law does not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FREEDOM = 4.0
"""Degrees of freedom of the noise: single unlucky runs are outliers, not evidence."""
LEVEL_SD = 3.0


class LawBelief:
    """Posterior of f(x) = level + law_h(x) + deviation(x) at n places, h unknown.

    f is the logarithm of a positive quantity. Each hypothesis is a law and a run-to-run noise;
    given both, f is Gaussian and an observation is one Kalman update, O(n²). Hypotheses are weighted by how well they
    predicted (Student-t, so an outlier neither decides between laws nor moves f far).

    Args:
        x: Places, log₂ of batch size, shape (n,).
        laws: Candidate laws up to a constant, shape (h, n), and their log weights, shape (h,).
        origin: The place where they are made equal: the level is unknown, and no law shall profit from it.
        noises: Candidate standard deviations of one observation.
        sd: Of the smooth deviation.
        length: Its length, octaves.
        own_sd: Of each place's own deviation.
    """

    def __init__(
        self,
        x: Array,
        laws: tuple[Array, Array],
        noises: Sequence[float],
        *,
        origin: int,
        sd: float,
        length: float,
        own_sd: float,
    ) -> None:
        n = len(x)
        shapes, log_prior = laws
        shapes = shapes - shapes[:, [origin]]
        prior = LEVEL_SD**2 + sd**2 * np.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + own_sd**2 * np.eye(n)
        self.noise = np.asarray(noises, dtype=float)
        self._mean = np.repeat(shapes[None], len(self.noise), 0)
        self._cov = np.repeat(prior[None], len(self.noise), 0)
        self._log_weight = np.repeat(log_prior[None], len(self.noise), 0)
        self._moments: tuple[Array, Array, float] | None = None

    def update(self, i: int, y: float, extra_var: float = 0.0) -> None:
        """Observe y at place i, with ``extra_var`` beyond the run-to-run noise."""
        var = self.noise**2 + extra_var
        column = self._cov[:, :, i]
        off = y - self._mean[:, :, i]
        spread = (column[:, i] + var)[:, None]
        z2 = off * off / spread
        self._log_weight = self._log_weight - 0.5 * np.log(spread) - 0.5 * (FREEDOM + 1) * np.log1p(z2 / FREEDOM)
        self._log_weight -= self._log_weight.max()
        weight = np.exp(self._log_weight)
        surprise = (weight * z2).sum(1) / np.maximum(weight.sum(1), 1e-300)
        # One step of iterated reweighting for Student-t noise.
        var = var * np.maximum(1.0, (FREEDOM + surprise) / (FREEDOM + 1))
        gain = column / (column[:, i] + var)[:, None]
        self._mean = self._mean + off[:, :, None] * gain[:, None, :]
        self._cov = self._cov - gain[:, :, None] * column[:, None, :]
        self._moments = None

    def moments(self) -> tuple[Array, Array, float]:
        """Mean (n,), covariance (n, n) and noise variance of one run, over all hypotheses."""
        if self._moments is None:
            weight = np.exp(self._log_weight)
            weight /= weight.sum()
            mean = np.tensordot(weight, self._mean, 2)
            apart = (self._mean - mean).reshape(-1, len(mean))
            cov = np.tensordot(weight.sum(1), self._cov, 1) + (apart * weight.reshape(-1, 1)).T @ apart
            self._moments = mean, cov, float(weight.sum(1) @ self.noise**2)
        return self._moments


def epoch_laws(x: Array, origin: float, *, knee: float, knee_sd: float, no_floor: float) -> tuple[Array, Array]:
    """Laws of log epochs to a target over log₂ batch size, and their log prior weights.

    From S(B) = S_min(1 + B_c/B) steps, epochs E(B) ∝ B·S(B) ∝ 1 + B/B_c. At a given learning rate the noise of small
    batches keeps the loss above a floor ∝ 1/B, which the target falls under at some B_s: the distance left to go,
    and so the speed at the end, is smaller by 1 − B_s/B. Together E(B) ∝ (1 + B/B_c)/(1 − B_s/B), infinite below B_s.

    Args:
        x: log₂ of the batch sizes, shape (n,).
        origin: log₂ of the user's default, which is taken to work: B_s lies below it.
        knee: Expected log₂(B_c/default).
        knee_sd: Its standard deviation.
        no_floor: Weight of "no floor near", against 1 for each place of B_s.

    Returns:
        Laws up to a constant, shape (h, n), and log weights, shape (h,).
    """
    knees = np.arange(x[0] - 2, x[-1] + 4.5, 1.0)
    floors = origin - np.array([12.0, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1.1, 0.7])
    rise = np.log1p(2.0 ** (x - knees[:, None]))
    fall = -np.log(np.maximum(1 - 2.0 ** (floors[:, None] - x), 0.03))
    laws = (rise[:, None] + fall).reshape(-1, len(x))
    weights = -0.5 * ((knees - origin - knee) / knee_sd) ** 2
    odds = np.log(np.array([no_floor] + [1.0] * (len(floors) - 1)))
    return laws, (weights[:, None] + odds).ravel()


def epoch_cost_laws(x: Array) -> Array:
    """Laws of log cost per epoch: a step costs c₀ + c₁·B, an epoch of N/B steps N·c₁·(1 + B_t/B); shape (h, n)."""
    knees = np.arange(x[0] - 2, x[-1] + 4.5, 1.0)
    return np.log1p(2.0 ** (knees[:, None] - x))
