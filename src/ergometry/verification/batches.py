"""R11: batch sizes and power of least energy, against a search that knows nothing of the closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ergometry import equations as eq
from ergometry.verification.check import Array, Check

ROOFLINE = {
    "throughput-bound": (100.0, 50.0, 0.1, 10.0, 1e-4, 0.01),
    "at the corner": (100.0, 0.5, 0.01, 100.0, 0.05, 0.001),
    "latency-bound": (100.0, 0.5, 10.0, 100.0, 0.5, 1e-4),
}
"""B_c (example/step), e0d (J/step), e1d (J/example), P_static (W), τ0 (s/step), τ1 (s/example)."""


def batches(_rng: np.random.Generator) -> Iterator[Check]:
    """R11: B* and E* in closed form, the median form at the roofline, and the power cap of least energy."""
    least_steps, critical, e0, e1 = 1000.0, 300.0, 40.0, 0.2
    best, energy = least(lambda b: least_steps * (1.0 + critical / b) * (e0 + e1 * b), 1e-2, 1e7)
    yield _near("B* = √(B_c·e0/e1)", best, eq.optimal_batch(critical, e0, e1))
    yield _near("E* = S_min(√e0 + √(e1·B_c))²", energy, eq.least_energy(least_steps, critical, e0, e1))
    for regime, (bc, e0d, e1d, static, tau0, tau1) in ROOFLINE.items():

        def cost(b: Array, at: tuple[float, ...] = (bc, e0d, e1d, static, tau0, tau1)) -> Array:
            bc, e0d, e1d, static, tau0, tau1 = at
            return (1.0 + bc / b) * (e0d + e1d * b + static * np.maximum(tau0, b * tau1))

        best, _ = least(cost, 1e-2, 1e7)
        yield _near(f"median form, {regime}", best, eq.roofline_batch(bc, e0d, e1d, static, tau0, tau1))
    static, exponent, c = 90.0, 2.7, 35.0
    frequency, _ = least(lambda f: (static + c * f**exponent) / f, 1e-3, 1e3)
    cap = static + c * frequency**exponent
    yield _near("power cap P* = P_s·a/(a−1), W", cap, eq.energy_optimal_power(static, exponent))


def least(cost: Callable[[Array], Array], low: float, high: float) -> tuple[float, float]:
    """Return where a function of one dip is least between two bounds, and its value there, by narrowing grids."""
    for _ in range(6):
        grid = np.geomspace(low, high, 2001)
        at = int(np.argmin(cost(grid)))
        low, high = grid[max(at - 2, 0)], grid[min(at + 2, len(grid) - 1)]
    return float(grid[at]), float(cost(grid)[at])


def _near(quantity: str, expected: float, value: object) -> Check:
    return Check(
        quantity=quantity,
        expected=expected,
        value=float(value),  # type: ignore[arg-type]
        tolerance=1e-4 * expected,
        why="1e-4 of the least found by search",
    )
