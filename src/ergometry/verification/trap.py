"""R1 and R2: a particle in a harmonic trap that is dragged, or jumps, to a random target; k = γ = T = 1.

Every path is sampled with the exact Gaussian transition of position and work, so no time step biases it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ergometry import equations as eq
from ergometry.verification.check import Array, Check, sampled, stderr_of_mean

PATHS = 1_200_000
"""The standard deviation of W is 0.65: so many make three standard errors one per cent of its mean."""
DRAG_X, DRAG_TAU = 2.0, 10.0
QUENCH_X, QUENCH_T = 1.0, 2.0


def trap_drag(rng: np.random.Generator) -> Iterator[Check]:
    """R1: work, information and entropy of a trap dragged to θ* ~ 𝒩(0, x) over τ."""
    x, tau = DRAG_X, DRAG_TAU
    information = eq.drag_information(x, tau)
    entropy = eq.largest_information(information, eq.trap_drag_heat(x, tau))
    for quantity, expected, value in (
        ("work W, closed form", 0.1800, eq.trap_drag_work(x, tau)),
        ("information I, closed form", 0.4816, information),
        ("its bound ΔS + Q, closed form", 0.6516, entropy),
    ):
        yield _closed(quantity, expected, value)

    target, start = rng.normal(0.0, math.sqrt(x), PATHS), rng.normal(size=PATHS)
    end, work = dragged(start, np.zeros(PATHS), target / tau, tau, rng)
    yield sampled("W, sampled", float(eq.trap_drag_work(x, tau)), work.mean(), stderr_of_mean(work))
    heat = work - (0.5 * (end - target) ** 2 - 0.5 * start**2)
    gained, gained_each = gaussian_information(end, target)
    yield sampled("I, sampled", float(information), gained, stderr_of_mean(gained_each))
    spread, spread_each = gaussian_entropy_change(end)
    total = spread + float(heat.mean())
    yield sampled("ΔS + Q, sampled", float(entropy), total, stderr_of_mean(spread_each + heat))

    yield Check(
        quantity="least work, closed form",
        expected=x / (tau + 2.0),
        value=float(eq.trap_optimal_work(x, tau)),
        tolerance=1e-12,
        source="published",
        why="Schmiedl & Seifert 2007",
    )
    work = optimally_dragged(rng.normal(size=PATHS), target, tau, rng)
    yield sampled("least W, sampled", x / (tau + 2.0), work.mean(), stderr_of_mean(work), source="published")


def quench(rng: np.random.Generator) -> Iterator[Check]:
    """R2: efficiency, heat and speed limit of a trap that jumps to θ* ~ 𝒩(0, x)."""
    yield Check(
        quantity="efficiency η∞, closed form",
        expected=math.log(2.0) / (1.0 + math.log(2.0)),
        value=float(eq.quench_efficiency(1.0)),
        tolerance=1e-12,
    )
    times = np.geomspace(0.1, 10.0, 41)
    ratio = eq.least_entropy_production(3.0 * np.expm1(-times) ** 2, times) / eq.quench_heat(3.0, times)
    for quantity, found in (("bound/actual", ratio), ("its closed form", eq.quench_speed_ratio(times))):
        error = np.max(np.abs(found / (2.0 / times * np.tanh(0.5 * times)) - 1.0))
        yield Check(
            quantity=f"{quantity}, largest error",
            expected=0.0,
            value=float(error),
            tolerance=1e-12,
            why="relative, against (2/τ)·tanh(τ/2), τ from 0.1 to 10",
        )

    x, t = QUENCH_X, QUENCH_T
    target, start = rng.normal(0.0, math.sqrt(x), PATHS), rng.normal(size=PATHS)
    end, _ = dragged(start, target, np.zeros(PATHS), t, rng)
    heat = 0.5 * (start - target) ** 2 - 0.5 * (end - target) ** 2
    mean_heat = float(heat.mean())
    yield sampled(f"heat Q at t = {t:g}, sampled", float(eq.quench_heat(x, t)), mean_heat, stderr_of_mean(heat))

    gained, gained_each = gaussian_information(end, target)
    spread, spread_each = gaussian_entropy_change(end)
    eta = float(eq.certified_efficiency(gained, spread, mean_heat))
    each = (gained_each - eta * (spread_each + heat - mean_heat)) / (spread + mean_heat)
    yield sampled(f"η at t = {t:g}, sampled", float(eq.quench_efficiency(x, t)), eta, stderr_of_mean(each))

    # Given θ* the particle's mean moves by slope·θ*, and its variance not at all: W₂² = slope²·θ*².
    b = target - target.mean()
    product, square = (end - end.mean()) * b, b**2
    covariance, variance = float(product.mean()), float(square.mean())
    bound = float(eq.least_entropy_production(covariance**2 / variance, t))
    each = bound / mean_heat * (2.0 * product / covariance - square / variance - heat / mean_heat)
    yield sampled(
        f"bound/actual at t = {t:g}, sampled",
        2.0 / t * math.tanh(0.5 * t),
        bound / mean_heat,
        stderr_of_mean(each),
    )


def dragged(
    position: Array, trap: Array, speed: Array, seconds: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return where particles end, and the work done on each, as their traps move at constant speed.

    The lag u = trap − position obeys du = (speed − u)dt − √2·dB, and the work is speed·∫u dt: both together have a
    Gaussian transition, with variances 1 − e² and 2t − 3 + 4e − e² and covariance (1 − e)², e = e^{−t}.

    Args:
        position: (n,) float64, where each particle starts.
        trap: (n,) float64, where its trap starts.
        speed: (n,) float64, of the trap.
        seconds: for how long.
        rng: draws the thermal noise.
    """
    decay = math.exp(-seconds)
    root = np.linalg.cholesky(
        [[1.0 - decay**2, (1.0 - decay) ** 2], [(1.0 - decay) ** 2, 2.0 * seconds - 3.0 + 4.0 * decay - decay**2]]
    )
    noise = root @ rng.normal(size=(2, len(position)))
    above = trap - position - speed
    lag = speed + above * decay + noise[0]
    lag_integral = speed * seconds + above * (1.0 - decay) + noise[1]
    return trap + speed * seconds - lag, speed * lag_integral


def optimally_dragged(position: Array, target: Array, seconds: float, rng: np.random.Generator) -> Array:
    """Return the work of the best protocol: a jump of target/(τ+2), constant speed, and the same jump at the end."""
    jump = target / (seconds + 2.0)
    work = 0.5 * (position - jump) ** 2 - 0.5 * position**2
    position, along = dragged(position, jump, jump, seconds, rng)
    return np.asarray(work + along + 0.5 * (position - target) ** 2 - 0.5 * (position - target + jump) ** 2)


def gaussian_information(a: Array, b: Array) -> tuple[float, Array]:
    """Return the mutual information of two jointly Gaussian samples (n,), nat, and each pair's influence on it."""
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    rho = float(np.mean(a * b))
    return -0.5 * math.log1p(-(rho**2)), rho / (1.0 - rho**2) * (a * b - 0.5 * rho * (a**2 + b**2))


def gaussian_entropy_change(end: Array) -> tuple[float, Array]:
    """Return ΔS from unit variance to that of a Gaussian sample (n,), nat, and each element's influence on it."""
    variance = float(np.var(end))
    return 0.5 * math.log(variance), 0.5 * ((end - end.mean()) ** 2 / variance - 1.0)


def _closed(quantity: str, expected: float, value: object) -> Check:
    return Check(
        quantity=quantity,
        expected=expected,
        value=float(value),  # type: ignore[arg-type]
        tolerance=5e-5,
        why="the four digits of the reference case",
    )
