"""R7: entropy production of a linear Langevin equation whose force rotates, dx = −A·x dt + √(2D)·dB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ergometry.langevin.statistics import Blocks, uncertainty_bound
from ergometry.verification.check import Array, Check, sampled, stderr_of_mean

PATHS, STEPS, DT = 4_000, 1_500, 0.01

TURNING = np.array([[1.0, 2.0], [-1.0, 1.5]]), np.diag([1.0, 0.5])
BALANCED = np.array([[1.0, 1.0], [0.5, 2.0]]), np.diag([1.0, 0.5])
"""A is not symmetric, and yet AD = DAᵀ: no entropy is produced."""
SYMMETRIC = np.array([[1.0, 0.5], [0.5, 2.0]]), np.diag([1.0, 0.25])
"""A is symmetric, and yet AD ≠ DAᵀ: baths of unlike temperatures."""


class Currents(NamedTuple):
    """Of each path, per unit time, (PATHS,): entropy given to the bath, and area swept."""

    entropy: Array
    area: Array


def rotation(rng: np.random.Generator) -> Iterator[Check]:
    """R7: the closed form of the entropy production rate, its zeros, simulated paths, and the uncertainty relation."""
    omega = 1.5
    yield Check(
        quantity="σ at A = 1 + ωJ, D = 1",
        expected=2.0 * omega**2,
        value=entropy_production(np.array([[1.0, omega], [-omega, 1.0]]), np.eye(2)),
        tolerance=1e-12,
        why="there C = 1, and the rate is 2ω²",
    )
    yield Check(
        quantity="σ, AD = DAᵀ, A not symmetric",
        expected=0.0,
        value=entropy_production(*BALANCED),
        tolerance=1e-12,
    )
    yield Check(
        quantity="σ, AD ≠ DAᵀ, A symmetric",
        expected=0.0625 * 3.0,
        value=entropy_production(*SYMMETRIC),
        tolerance=1e-12,
        why="a²(T₁ − T₂)²/[T₁T₂(k₁ + k₂)] of two springs k coupled by a at T₁, T₂",
    )
    for words, (drift, diffusion) in (("turning", TURNING), ("balanced", BALANCED)):
        rate = entropy_production(drift, diffusion)
        found = simulate(drift, diffusion, rng)
        mean, stderr = float(found.entropy.mean()), stderr_of_mean(found.entropy)
        quantity = f"σ {words}, sampled"
        if rate < 1e-9:
            yield sampled(quantity, rate, mean, stderr)
            continue
        yield Check(quantity=quantity, expected=rate, value=mean, tolerance=0.02 * rate, stderr=stderr, why="2 %")
        seconds = STEPS * DT
        bound = uncertainty_bound(found.area * seconds, Blocks.of(PATHS, 1)) * (1.0 / seconds)
        yield Check(
            quantity="its bound from a current (TUR)",
            expected=rate,
            value=bound.value,
            tolerance=0.0,
            stderr=bound.stderr,
            relation="≤",
            why="2⟨J⟩²/(τ·Var J), J the area swept",
        )


def stationary_covariance(drift: Array, diffusion: Array) -> Array:
    """Return C of AC + CAᵀ = 2D, (n, n)."""
    n = len(drift)
    both = np.kron(drift, np.eye(n)) + np.kron(np.eye(n), drift)
    return np.asarray(np.linalg.solve(both, 2.0 * diffusion.ravel()).reshape(n, n))


def entropy_production(drift: Array, diffusion: Array) -> float:
    """Return the stationary entropy production rate, nat per unit time: tr(AᵀD⁻¹AC) − trA.

    It is the mean of vᵀD⁻¹v with the current velocity v = (DC⁻¹ − A)x, whence it is never negative, and zero only if
    AC = D, that is if AD = DAᵀ.
    """
    covariance = stationary_covariance(drift, diffusion)
    return float(np.trace(drift.T @ np.linalg.solve(diffusion, drift @ covariance)) - np.trace(drift))


def simulate(drift: Array, diffusion: Array, rng: np.random.Generator) -> Currents:
    """Sample stationary paths by their exact Gaussian transition, and the Stratonovich integrals along them.

    Entropy is −∫xᵀAᵀD⁻¹∘dx and the area ½∫(x₁∘dx₂ − x₂∘dx₁), by the midpoint rule over one step and over two: its
    bias is linear in the step, so that twice the one less the other is free of it to second order.
    """
    covariance = stationary_covariance(drift, diffusion)
    carry = _exponential(-DT * drift)
    kick = np.linalg.cholesky(covariance - carry @ covariance @ carry.T)
    force = -np.linalg.solve(diffusion, drift)
    forms = (force, np.array([[0.0, -0.5], [0.5, 0.0]]))  # J = ½∫xᵀ·form·dx, symmetrised by the midpoint
    x = np.linalg.cholesky(covariance) @ rng.normal(size=(2, PATHS))
    before, sums = x, np.zeros((2, 2, PATHS))
    for step in range(STEPS):
        following = carry @ x + kick @ rng.standard_normal((2, PATHS))
        for number, form in enumerate(forms):
            sums[0, number] += _midpoint(form, x, following)
            if step % 2:
                sums[1, number] += _midpoint(form, before, following)
        x = following
        if step % 2:
            before = x
    fine, coarse = sums / (STEPS * DT)
    entropy, area = 2.0 * fine - coarse
    return Currents(entropy, area)


def _midpoint(form: Array, x: Array, following: Array) -> Array:
    """Return ½(x + x⁺)·form·(x⁺ − x), with ``form`` M such that the force is M·x: (Mx)·dx."""
    return np.asarray(np.sum((form @ (0.5 * (x + following))) * (following - x), axis=0))


def _exponential(matrix: Array) -> Array:
    values, vectors = np.linalg.eig(matrix)
    return np.asarray(np.real(vectors @ np.diag(np.exp(values)) @ np.linalg.inv(vectors)))
