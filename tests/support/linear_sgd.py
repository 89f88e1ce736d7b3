"""SGD with heavy-ball momentum on a quadratic loss with Gaussian gradient noise, whose stationary state is exact."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Path(NamedTuple):
    """Of each of K steps, summed over the parameters: θ·g, |Δθ|², (θ−θ̄)·g for θ̄ the mean of the steps before, |G|²."""

    theta_g: Array
    dtheta_sq: Array
    virial: Array
    true_grad_sq: Array


def simulate(
    rng: np.random.Generator,
    *,
    curvature: Array,
    noise: Array,
    eta: float,
    momentum: float = 0.0,
    steps: int = 1000,
    burn_in: int = 0,
    start: float = 0.0,
    minimum: float = 0.0,
) -> Path:
    """Follow θ ← θ + Δθ, Δθ ← μΔθ − ηg, g = a(θ−θ*) + ξ, ⟨ξ²⟩ = ``noise`` of each parameter, from ``start``."""
    n = len(curvature)
    theta, moved, total = np.full(n, start), np.zeros(n), np.zeros(n)
    found = np.full((4, steps), np.nan)
    for k in range(-burn_in, steps):
        gradient = curvature * (theta - minimum)
        g = gradient + np.sqrt(noise) * rng.standard_normal(n)
        moved = momentum * moved - eta * g
        if k >= 0:
            around = theta - total / k if k else np.full(n, np.nan)
            found[:, k] = theta @ g, moved @ moved, around @ g, gradient @ gradient
            total += theta
        theta = theta + moved
    return Path(*found)
