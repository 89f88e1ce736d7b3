"""Exact Gaussian dynamics: Langevin motion in quadratic potentials, where every term of the second law is closed.

A state is the distribution of the weights of an ensemble of data sets: given the data it is Gaussian with a covariance
that does not depend on them, and its mean is affine in z ~ 𝒩(0, 1), which stands for what differs between data sets.
Then entropy, information about the data, energy, heat and transport distance are exact, for the discrete chain
(Euler–Maruyama at any step) and for the continuous motion alike, and the theorems can be checked to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quadratic:
    """Potential U(θ) = ½θᵀHθ − hᵀθ + u with h = linear + tilt·z, in loss units.

    Attributes:
        hessian: (N, N) float64, H, symmetric.
        linear: (N,) float64, the mean of h over data sets.
        constant: u, averaged over data sets.
        tilt: (N, p) float64, how h follows the data; (N, 1) of zeros if it does not.
    """

    hessian: Array
    linear: Array
    constant: float
    tilt: Array

    @classmethod
    def trap(cls, hessian: Array, centre: Array | None = None, spread: Array | None = None) -> Quadratic:
        """Return ½(θ−c)ᵀH(θ−c) with c = centre + spread·z.

        >>> Quadratic.trap(np.eye(1), np.array([2.0])).constant
        2.0
        """
        n = len(hessian)
        c = np.zeros(n) if centre is None else centre
        b = np.zeros((n, 1)) if spread is None else spread
        constant = 0.5 * float(c @ hessian @ c + np.sum(b * (hessian @ b)))
        return cls(hessian, hessian @ c, constant, hessian @ b)

    def scaled(self, factor: float) -> Quadratic:
        """Return factor·U."""
        return Quadratic(self.hessian * factor, self.linear * factor, self.constant * factor, self.tilt * factor)

    def plus(self, other: Quadratic) -> Quadratic:
        """Return the sum of two potentials."""
        constant, tilt = self.constant + other.constant, self.tilt + other.tilt
        return Quadratic(self.hessian + other.hessian, self.linear + other.linear, constant, tilt)

    def free_energy(self, temperature: float) -> float:
        """Free energy F = −T ln ∫e^{−U/T}dθ, averaged over data sets; H must be positive definite.

        >>> Quadratic.trap(2 * math.pi * np.eye(1)).free_energy(1.0)
        0.0
        """
        n = len(self.linear)
        solved = np.linalg.solve(self.hessian, np.column_stack((self.linear, self.tilt)))
        least = self.constant - 0.5 * float(self.linear @ solved[:, 0] + np.sum(self.tilt * solved[:, 1:]))
        return least - 0.5 * temperature * (n * math.log(2.0 * math.pi * temperature) - _logdet(self.hessian))


@dataclass(frozen=True)
class State:
    """Distribution of the weights: 𝒩(mean + response·z, covariance) given the data, z ~ 𝒩(0, 1) over data sets.

    Attributes:
        mean: (N,) float64.
        covariance: (N, N) float64, given the data.
        response: (N, p) float64, how the mean follows the data.
    """

    mean: Array
    covariance: Array
    response: Array

    @classmethod
    def prior(cls, n: int, std: float | Array, p: int = 0) -> State:
        """Return 𝒩(0, std²), which knows nothing of the data."""
        return cls(
            np.zeros(n), np.diag(np.broadcast_to(np.asarray(std, dtype=np.float64), (n,)) ** 2), np.zeros((n, p))
        )

    @property
    def marginal(self) -> Array:
        """Covariance (N, N) over noise and data sets."""
        return np.asarray(self.covariance + self.response @ self.response.T)

    @property
    def entropy(self) -> float:
        """Entropy S(θ) of the weights over noise and data sets, in nat."""
        return entropy(self.marginal)

    @property
    def conditional_entropy(self) -> float:
        """Entropy S(θ|D) of the weights given the data, in nat."""
        return entropy(self.covariance)

    @property
    def information(self) -> float:
        """Information I(θ; D) = S(θ) − S(θ|D) that the weights hold about the data, in nat."""
        return self.entropy - self.conditional_entropy

    def energy(self, u: Quadratic) -> float:
        """Mean energy ⟨U⟩ over noise and data sets."""
        second = self.marginal + np.outer(self.mean, self.mean)
        tilted = float(u.linear @ self.mean + np.sum(u.tilt * self.response))
        return 0.5 * float(np.sum(u.hessian * second)) - tilted + u.constant

    def force_sq(self, u: Quadratic) -> float:
        """Mean |∇U|² over noise and data sets."""
        drift = np.column_stack((u.hessian @ self.mean - u.linear, u.hessian @ self.response - u.tilt))
        return float(np.sum(u.hessian * (u.hessian @ self.covariance)) + np.sum(drift**2))


@dataclass(frozen=True)
class Relaxation:
    """What a stretch of motion in one potential did.

    Attributes:
        state: the state at its end.
        heat: mean heat to the bath Q, loss; the path heat of :mod:`ergometry.langevin.sampler` for the discrete chain.
        displacement: (N, 1+p) float64, mean displacement by the midpoint rule: of the mean and of the response.
    """

    state: State
    heat: float
    displacement: Array


def step(state: State, u: Quadratic, dt: float, temperature: float) -> Relaxation:
    """Return one Euler–Maruyama step θ' = θ − dt·∇U + √(2T·dt)·ξ, exactly.

    The heat is T·⟨ln K(θ'|θ)/K(θ|θ')⟩ of the step's own Gaussian kernel K, −½⟨(g+g')·Δθ⟩ + (dt/4)⟨|g'|²−|g|²⟩; of a
    quadratic the first term is the drop of ⟨U⟩.

    >>> u = Quadratic.trap(np.eye(1), np.array([1.0]))
    >>> end = step(State.prior(1, 1.0), u, 0.5, 1.0)
    >>> end.state.mean.tolist(), end.state.covariance.tolist(), end.heat
    ([0.5], [[1.25]], 0.1875)
    """
    drift = np.column_stack((u.hessian @ state.mean - u.linear, u.hessian @ state.response - u.tilt))
    decay = np.eye(len(state.mean)) - dt * u.hessian
    covariance = decay @ state.covariance @ decay.T + 2.0 * temperature * dt * np.eye(len(decay))
    later = State(state.mean - dt * drift[:, 0], covariance, state.response - dt * drift[:, 1:])
    heat = state.energy(u) - later.energy(u) + 0.25 * dt * (later.force_sq(u) - state.force_sq(u))
    return Relaxation(later, heat, -0.5 * dt * (drift + decay @ drift))


def relax(state: State, u: Quadratic, t: float, temperature: float) -> Relaxation:
    """Return continuous Langevin motion dθ = −∇U dt + √(2T)dW for a time t, exactly, by H's eigenvectors.

    >>> u = Quadratic.trap(np.eye(1), np.array([1.0]))
    >>> end = relax(State.prior(1, 1.0), u, math.log(2.0), 1.0)
    >>> end.state.mean.tolist(), end.state.covariance.tolist(), end.heat
    ([0.5], [[1.0]], 0.375)
    """
    values, vectors = np.linalg.eigh(u.hessian)
    decay = np.exp(-values * t)

    def rise(rates: Array) -> Array:  # ∫₀ᵗ e^{−rate·s} ds, also where a rate is 0
        product = rates * t
        safe = np.where(product == 0.0, 1.0, product)
        return np.where(product == 0.0, t, t * -np.expm1(-product) / safe)

    inside = vectors.T @ np.column_stack((state.mean, state.response))
    pull = vectors.T @ np.column_stack((u.linear, np.broadcast_to(u.tilt, state.response.shape)))
    moved = vectors @ (decay[:, None] * inside + rise(values)[:, None] * pull)
    cov = np.outer(decay, decay) * (vectors.T @ state.covariance @ vectors)
    cov += 2.0 * temperature * np.diag(rise(2.0 * values))
    later = State(moved[:, 0], vectors @ cov @ vectors.T, moved[:, 1:])
    displacement = moved - np.column_stack((state.mean, state.response))
    return Relaxation(later, state.energy(u) - later.energy(u), displacement)


def entropy(covariance: Array) -> float:
    """Entropy of a Gaussian, ½ ln det(2πe·C), in nat.

    >>> print(f"{entropy(np.eye(1)):.4f}")
    1.4189
    """
    return 0.5 * (len(covariance) * (1.0 + math.log(2.0 * math.pi)) + _logdet(covariance))


def wasserstein_sq(a: State, b: State) -> float:
    """Squared transport distance W₂² between two states, given the data and averaged over data sets.

    |Δm|² + tr[A + B − 2(A^{1/2}BA^{1/2})^{1/2}] (Bures); between any two distributions with these moments it is a lower
    bound (Gelbrich 1990).

    >>> wasserstein_sq(State.prior(1, 1.0), State(np.array([3.0]), np.array([[4.0]]), np.zeros((1, 0))))
    10.0
    """
    root = _sqrt(a.covariance)
    shared = np.linalg.eigvalsh(root @ b.covariance @ root)
    moved = float(np.sum((b.mean - a.mean) ** 2) + np.sum((b.response - a.response) ** 2))
    spread = float(np.trace(a.covariance + b.covariance)) - 2.0 * float(np.sum(np.sqrt(np.maximum(shared, 0.0))))
    return moved + spread


def _sqrt(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _logdet(matrix: Array) -> float:
    return float(np.linalg.slogdet(matrix)[1])
