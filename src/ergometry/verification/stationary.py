"""R4 and R5: the stationary state of SGD with heavy-ball momentum on a parabola with noise of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ergometry import equations as eq
from ergometry.estimators.equilibration import EquilibrationEstimator
from ergometry.verification.check import Array, Check, stderr_of_mean

CHAINS, STEPS, BURN_IN = 20_000, 1_600, 400


def variance(rng: np.random.Generator) -> Iterator[Check]:
    """R4: the exact variance of discrete SGD, where continuous theory is off by a factor 4; and of heavy ball."""
    for words, eta, momentum, expected in (
        ("μ=0 ηa=1.5", 1.5, 0.0, 3.0),
        ("μ=.5 ηa=1", 1.0, 0.5, 1.5),
        ("μ=.9 ηa=.1", 0.1, 0.9, 0.19 / 0.37),
    ):
        yield Check(
            quantity=f"{words}, closed form",
            expected=expected,
            value=float(eq.stationary_variance(eta, 1.0, 1.0, momentum)),
            tolerance=1e-12,
            why="ηc(1+μ)/{a(1−μ)[2(1+μ)−ηa]} by hand; continuous theory, ηc/2a, says 0.75 for the first",
        )
        means = np.zeros(CHAINS)
        for theta, _, _ in steps(eta, momentum, rng):
            means += theta**2 / STEPS
        yield _simulated(words, expected, float(means.mean()), stderr_of_mean(means))


def fluctuation_dissipation(rng: np.random.Generator) -> Iterator[Check]:
    """R5: ⟨θ·g⟩ = (1+μ)/(2η)·⟨|Δθ|²⟩ in a stationary state, and both are the exact number (a = c = 1)."""
    eta, momentum = 0.1, 0.9
    expected = float(eq.stationary_variance(eta, 1.0, 1.0, momentum))
    yield Check(
        quantity="both sides, closed form", expected=0.5135, value=expected, tolerance=5e-5, why="to four digits"
    )
    factor = (1.0 + momentum) / (2.0 * eta)
    # Sums, not dot products: those of BLAS wait for each other's threads here.
    sides = ((np.sum(theta * g), factor * np.sum(moved**2)) for theta, g, moved in steps(eta, momentum, rng))
    estimator = EquilibrationEstimator()
    found = estimator.result(estimator.of(np.array([(k, *pair) for k, pair in enumerate(sides)])))
    for quantity, side in (("⟨θ·g⟩", found.theta_g), ("(1+μ)/(2η)·⟨|Δθ|²⟩", found.dissipation)):
        each = side * (1.0 / CHAINS)
        yield _simulated(quantity, expected, each.value, each.stderr or 0.0)


def steps(eta: float, momentum: float, rng: np.random.Generator) -> Iterator[tuple[Array, Array, Array]]:
    """Yield θ, g and Δθ (CHAINS,) of each step of independent chains that start at 0, past the burn-in.

    θ ← θ + Δθ, Δθ ← μΔθ − ηg, g = θ + ξ, ξ ~ 𝒩(0, 1). The slowest of the cases forgets its start by 0.949 a step: 1e-9
    is left of it after the burn-in.
    """
    theta, moved = np.zeros(CHAINS), np.zeros(CHAINS)
    for step in range(BURN_IN + STEPS):
        g = theta + rng.standard_normal(CHAINS)
        moved = momentum * moved - eta * g
        if step >= BURN_IN:
            yield theta, g, moved
        theta = theta + moved


def _simulated(quantity: str, expected: float, value: float | None, stderr: float) -> Check:
    return Check(
        quantity=f"{quantity}, sampled",
        expected=expected,
        value=value,
        tolerance=0.003 * expected,
        stderr=stderr,
        why="0.3 %",
    )
