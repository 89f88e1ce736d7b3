"""Learning curve: steps until a run reaches a target loss, from the losses so far.

L(s) = L∞ + A·(s + s₀)^−α, which for a large α is an exponential, fitted to the losses averaged in stretches that grow
with s. How uncertain an extrapolation is shows in how much it moves: fits to resampled stretches (their noise) and to
later and later parts of the curve (the form's own error) are drawn together, and every draw is one answer.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError

Array = npt.NDArray[np.float64]

STRETCHES = 40
LEAST_STEPS = 30
_STARTS = (0.0, 0.02, 0.05, 0.12, 0.25)
"""Parts of the curve left out at its beginning, as shares of the steps."""
_DECAY = (0.02, 50.0)
"""Bounds of α. (1 + s/(ατ))^−α at the upper one is all but e^(−s/τ): a loss that settles at its floor within the run,
as under a constant learning rate, is of this form, and none with a long tail."""
_FAR = 1e12
_SEVERAL = 5
"""Stretches of several steps from which a typical scatter is told; fewer may all be quiet by chance."""


@dataclass(frozen=True)
class Curve:
    """Draws of a fitted learning curve.

    Attributes:
        floor: (n,) L∞, loss.
        height: (n,) L − L∞ at the last step seen, A·(seen + s₀)^−α, loss.
        shift: (n,) s₀, step.
        decay: (n,) α.
        last: loss at the last steps seen, smoothed.
        seen: steps seen.
    """

    floor: Array
    height: Array
    shift: Array
    decay: Array
    last: float
    seen: int

    def loss(self, step: float) -> Array:
        """Return (n,) draws of the loss at a step."""
        return self.floor + self.height * ((step + self.shift) / (self.seen + self.shift)) ** -self.decay

    def steps_to(self, target: float) -> Array:
        """Return (n,) draws of the steps, from the first, to a target not reached yet; infinite where it never is."""
        with np.errstate(all="ignore"):
            grown = (self.height / (target - self.floor)) ** (1.0 / self.decay)
            steps = (self.seen + self.shift) * grown - self.shift
        reached = (target > self.floor) & (steps < _FAR)
        return np.where(reached, np.maximum(steps, self.seen), np.inf)


def fit_curve(loss: Array, *, draws: int = 60, floor: float | None = 0.0, seed: int = 0) -> Curve:
    """Fit a learning curve to the losses of the first steps of a run.

    Args:
        loss: (n,) float64, loss of step 1, 2, and so on; those that are not finite are left out.
        draws: how many fits.
        floor: the least that the loss can be (0 for a cross-entropy or a squared error); None: unknown, which it is
            where a loss was negative.
        seed: of the resampling.

    Raises:
        UsageError: fewer than :data:`LEAST_STEPS` finite losses; record a longer run.
    """
    steps = np.flatnonzero(np.isfinite(loss)).astype(np.float64) + 1.0
    if len(steps) < LEAST_STEPS:
        raise UsageError(
            expected=f"{LEAST_STEPS} steps with a finite loss or more",
            got=str(len(steps)),
            remedy="record a longer run",
        )
    values = loss[np.isfinite(loss)]
    at, mean, error = stretches(steps, values)
    if values.min() < 0:
        floor = None  # a log-density or a reward has no floor at 0
    generator = np.random.default_rng(seed)
    found = []
    for k in range(draws):
        start = _STARTS[k % len(_STARTS)] * steps[-1]
        kept = at > start if np.count_nonzero(at > start) >= 8 else np.ones(len(at), dtype=bool)
        noisy = mean[kept] if k < len(_STARTS) else mean[kept] + error[kept] * generator.normal(size=kept.sum())
        found.append(_fit(at[kept], noisy, error[kept], floor, steps[-1]))
    floors, heights, shifts, decays = np.array(found).T
    # Every draw begins from where the run is now: what is extrapolated is the way from here.
    recent = at > 0.7 * steps[-1]
    weight = error[recent] ** -2.0
    now = heights[:, None] * ((at[recent] + shifts[:, None]) / (steps[-1] + shifts[:, None])) ** -decays[:, None]
    now += floors[:, None]
    apart = (mean[recent] - now) @ weight / weight.sum() + generator.normal(size=draws) / math.sqrt(weight.sum())
    return Curve(floors + apart, heights, shifts, decays, float(mean[recent] @ weight / weight.sum()), int(steps[-1]))


def stretches(steps: Array, values: Array) -> tuple[Array, Array, Array]:
    """Return the geometric middle, the mean loss and its error of stretches that grow with the steps."""
    edges = np.unique(np.geomspace(1, len(steps) + 1, STRETCHES + 1).astype(np.int64)) - 1
    counts = np.diff(edges)
    mean = np.add.reduceat(values, edges[:-1]) / counts
    at = np.exp(np.add.reduceat(np.log(steps), edges[:-1]) / counts)
    # Neighbouring batches' losses scatter by their noise; drift within a stretch is no noise.
    rises = np.diff(values)
    local = np.array(
        [np.mean(rises[a : max(b - 1, a + 1)] ** 2) if b - a > 1 else np.nan for a, b in itertools.pairwise(edges)]
    )
    several = np.count_nonzero(np.isfinite(local)) >= _SEVERAL
    typical = float(np.nanmedian(local)) if several else float(np.mean(rises**2))
    variance = 0.5 * np.where(np.isfinite(local), local, typical)
    error = np.sqrt(np.maximum(variance, 0.25 * typical) / counts)
    return at, mean, np.maximum(error, 1e-3 * np.abs(mean) + 1e-12)


def _fit(at: Array, mean: Array, error: Array, floor: float | None, seen: float) -> tuple[float, float, float, float]:
    """Return L∞, the height at step ``seen``, s₀ and α of least squares: for each (α, s₀) the other two are linear."""
    from scipy.optimize import minimize

    weight = 1.0 / error
    least = -math.inf if floor is None else floor

    def linear(log_decay: float, log_shift: float) -> tuple[float, float, float]:
        """Return the misfit, L∞ and the height."""
        shift = math.exp(log_shift)
        basis = ((at + shift) / (seen + shift)) ** -math.exp(log_decay)
        w2 = weight**2
        sw, sb, sy = w2.sum(), w2 @ basis, w2 @ mean
        sbb, sby = w2 @ basis**2, w2 @ (basis * mean)
        determinant = sw * sbb - sb**2
        a = (sw * sby - sb * sy) / determinant if determinant > 1e-300 else 0.0
        base = (sy - a * sb) / sw
        if base < least or a < 0:
            base = max(base, least)
            a = max((sby - base * sb) / sbb, 0.0)
        misfit = float(np.sum((weight * (mean - base - a * basis)) ** 2))
        return misfit, base, a

    low, high = math.log(_DECAY[0]), math.log(_DECAY[1])
    top = math.log(max(at[-1], 2.0))

    def bounded(x: Array) -> tuple[float, float]:
        """Return ln α and ln s₀ within bounds: τ = s₀/α up to twice the steps seen, beyond which a curve is a line."""
        log_decay = min(max(float(x[0]), low), high)
        return log_decay, min(max(float(x[1]), -3.0), top + max(log_decay + math.log(2.0), 0.0))

    def misfit(x: Array) -> float:
        inside = bounded(x)
        return linear(*inside)[0] + 1e3 * float(np.sum((x - np.array(inside)) ** 2))

    starts = [(math.log(alpha), shift) for alpha in (0.15, 0.5, 1.2) for shift in (0.0, 0.5 * top)]
    starts += [(high, high + top + math.log(tau)) for tau in (0.05, 0.2, 0.6)]
    first = min(starts, key=lambda x: misfit(np.array(x)))
    best = minimize(
        misfit, np.array(first), method="Nelder-Mead", options={"maxiter": 200, "xatol": 1e-3, "fatol": 1e-3}
    )
    log_decay, log_shift = bounded(best.x)
    _, base, a = linear(log_decay, log_shift)
    return base, a, math.exp(log_shift), math.exp(log_decay)
