"""Exact moments of the ensemble where the loss is quadratic and the prior isotropic: one recursion for each mode.

Prior and loss then share their eigenvectors, and the chain of :mod:`ergometry.langevin.sampler` is an autoregression in
each: what :mod:`ergometry.langevin.gaussian` does with matrices is done here with numbers, for every data set at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.langevin.curvature import Parabola
from ergometry.langevin.statistics import Array, Blocks, Jackknife


@dataclass(frozen=True)
class Modes:
    """What is exact of G data sets, for the weights at the end of the protocol.

    Attributes:
        mean: (G, N), ⟨θ⟩ given the data.
        covariance: (G, N, N), given the data.
        entropy_change: (G,), S(θ|D) − S(θ_0), nat.
        wasserstein_sq: (G,), W₂² from the prior: the two covariances commute.
        delta_f: (G,), free-energy change from the prior to the Boltzmann state of the last control.
        least_loss: (G,), min L, NaN where it has none.
        hessian: (N, N) that all data sets share, to single precision, or None.
    """

    mean: Array
    covariance: Array
    entropy_change: Array
    wasserstein_sq: Array
    delta_f: Array
    least_loss: Array
    hessian: Array | None

    def marginal_entropy(self, data_sets: npt.NDArray[np.int64]) -> float:
        """Gaussian entropy of the weights over noise and the chosen data sets, nat: ≥ S(θ), = where θ is Gaussian."""
        means = self.mean[data_sets]
        covariance = self.covariance[data_sets].mean(0) + np.cov(means.T, ddof=1).reshape(self.covariance.shape[1:])
        n = len(covariance)
        return 0.5 * (n * (1.0 + math.log(2.0 * math.pi)) + float(np.linalg.slogdet(covariance)[1]))

    def marginal(self, blocks: Blocks, data_sets_of: npt.NDArray[np.int64]) -> Jackknife:
        """Return :meth:`marginal_entropy` over blocks, less its bias; ``data_sets_of`` (R,) is each replica's."""
        return blocks.left_out(lambda kept: self.marginal_entropy(np.unique(data_sets_of[kept]))).corrected


def exact_modes(
    loss: Parabola, std: float, temperature: float, learning_rate: float, controls: Sequence[float]
) -> Modes:
    """Return the exact moments after the protocol, of the discrete chain.

    Args:
        loss: L of each data set.
        std: σ of the prior, of every weight.
        temperature: T.
        learning_rate: η.
        controls: λ of each step.
    """
    hessian, linear = loss.hessian.numpy(), loss.linear.numpy()
    values, vectors = np.linalg.eigh(hessian)
    pull = np.einsum("gji,gj->gi", vectors, linear)
    stiffness = temperature / std**2
    mean, variance = np.zeros_like(pull), np.full_like(pull, std**2)
    for control in controls:
        curvature = control * values + stiffness
        mean = mean - learning_rate * (curvature * mean - control * pull)
        variance = (1.0 - learning_rate * curvature) ** 2 * variance + 2.0 * temperature * learning_rate
    last = controls[-1]
    curvature = last * values + stiffness
    delta_f = last * loss.constant.numpy() - 0.5 * np.sum((last * pull) ** 2 / curvature, 1)
    delta_f = delta_f + 0.5 * temperature * np.sum(np.log(curvature / stiffness), 1)
    flat = values.min(1) <= 1e-12 * values.max(1)
    depth = 0.5 * np.sum(pull**2 / np.where(flat[:, None], 1.0, values), 1)
    same = bool(np.all(np.abs(hessian - hessian[0]) <= 1e-5 * np.abs(hessian[0]).max()))
    return Modes(
        mean=np.einsum("gij,gj->gi", vectors, mean),
        covariance=np.einsum("gij,gj,gkj->gik", vectors, variance, vectors),
        entropy_change=0.5 * np.sum(np.log(variance / std**2), 1),
        wasserstein_sq=np.sum(mean**2 + (np.sqrt(variance) - std) ** 2, 1),
        delta_f=delta_f,
        least_loss=np.where(flat, np.nan, loss.constant.numpy() - depth),
        hessian=hessian[0] if same else None,
    )
