"""Steps to target: S(B) = S_min·(1 + B_c/B), and what is known of the critical batch size B_c.

B_c is known from runs of this job at other batch sizes (or short runs branched off one checkpoint), from other sizes of
the model through a power law, or, widely, from the gradient noise scale. Each is a :class:`~.belief.Belief`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate
from ergometry.planning.belief import Belief

Array = npt.NDArray[np.float64]

STEPS_RMS = 0.05
"""Relative scatter of steps to a target about the law, one sigma: 4–5 % rms on the public tables of Zhang 2024."""

NOISE_SCALE_FACTOR = 3.0
"""The noise scale stands in for B_c within this factor, one sigma: it is a prior, not a measurement."""

UNTOLD_FACTOR = 10.0
"""A noise scale whose error is not known (one look, or an |G|² not told from zero) is itself known within this factor,
one sigma: what is seen of it then has no upper end, so that this is a belief."""

SIZE_EXPONENT, SIZE_EXPONENT_SD = 0.47, 0.15
"""B_c ∝ size^κ: the exponent in the training set's size of Zhang 2024 (2410.21676), and how far it is trusted."""

_GRID = 801
_REACH = 1e3


@dataclass(frozen=True)
class StepsLaw:
    """S(B) = S_min·(1 + B_c/B), fitted.

    Attributes:
        least_steps: S_min at the median of B_c, step.
        critical_batch: B_c, example/step.
        scatter: relative scatter of the steps about the law.
        batch, log_steps, log_sd: (n,) what was fitted: B, ln S and its standard deviation, scatter included.
    """

    least_steps: float
    critical_batch: Belief
    scatter: float
    batch: Array
    log_steps: Array
    log_sd: Array

    def steps(self, batch: float) -> float:
        """Return S(B) at the median of B_c, step."""
        return self.least_steps * (1.0 + self.critical_batch.median / batch)

    def off(self, i: int, critical: Array, generator: np.random.Generator) -> Array:
        """Return draws of ln(S_i/S(B_i)): by how much run ``i`` of those fitted was unlucky, given draws of B_c.

        S_min is drawn with them. Of the run's residual only the part that is not an error of reading is luck.
        """
        weight = self.log_sd**-2.0
        apart = self.log_steps - np.log1p(critical[:, None] / self.batch)
        least = apart @ weight / weight.sum() + generator.normal(size=len(critical)) / math.sqrt(weight.sum())
        luck = min(self.scatter / float(self.log_sd[i]), 1.0) ** 2
        spread = self.scatter * math.sqrt(1.0 - luck)
        return np.asarray(luck * (apart[:, i] - least) + spread * generator.normal(size=len(critical)))


def fit_steps(
    batch: Sequence[float],
    steps: Sequence[float],
    prior: Belief | None = None,
    *,
    log_error: Sequence[float] | None = None,
) -> StepsLaw:
    """Fit S(B) to steps that runs at two batch sizes or more took to one target.

    ln S has scatter σ about the law, taken as :data:`STEPS_RMS` or the residuals' own where those are more; S_min is
    integrated out and the posterior of ln B_c, on a grid, is given by its mean and standard deviation.

    Args:
        batch: (n,) examples per step.
        steps: (n,) steps to the target; runs that never reached it (NaN or infinite) are left out.
        prior: what is known of B_c besides.
        log_error: (n,) standard error of ln(steps), besides the scatter; none by default.

    Raises:
        UsageError: fewer than two different batch sizes reached the target.
    """
    b, s = np.asarray(batch, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    error = np.zeros(len(b)) if log_error is None else np.asarray(log_error, dtype=np.float64)
    reached = np.isfinite(b) & np.isfinite(s) & np.isfinite(error) & (b > 0) & (s > 0)
    b, s, error = b[reached], s[reached], error[reached]
    if len(np.unique(b)) < 2:
        raise UsageError(
            expected="runs that reached the target at two batch sizes or more",
            got=f"{len(np.unique(b))} such batch sizes among {len(reached)} runs",
            remedy="branch short runs at other batch sizes off one checkpoint",
        )
    grid = np.linspace(math.log(b.min() / _REACH), math.log(b.max() * _REACH), _GRID)
    weight = 1.0 / (STEPS_RMS**2 + error**2)
    residuals = np.log(s) - np.log1p(np.exp(grid[:, None]) / b)
    residuals -= (residuals @ weight / weight.sum())[:, None]
    squares = residuals**2 @ weight
    grown = max(1.0, math.sqrt(float(squares.min()) / (len(b) - 2))) if len(b) > 2 else 1.0
    scatter, log_sd = grown * STEPS_RMS, grown * weight**-0.5
    log_density = -0.5 * squares / grown**2
    if prior is not None:
        log_density -= 0.5 * ((grid - prior.log_mean) / prior.log_sd) ** 2
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = float(density @ grid)
    sd = max(math.sqrt(float(density @ (grid - mean) ** 2)), float(grid[1] - grid[0]))
    source = f"runs at {len(np.unique(b))} batch sizes" + (f", {prior.source}" if prior is not None else "")
    critical = Belief(mean, sd, source)
    least = math.exp(float((np.log(s) - np.log1p(critical.median / b)) @ weight / weight.sum()))
    return StepsLaw(least, critical, scatter, b, np.log(s), log_sd)


def from_noise_scale(b_noise: Estimate) -> Belief | None:
    """Return what the simple noise scale says of B_c; None where it says nothing.

    Its value within a factor 3, and its own error; within a factor 10 more where that is not known.
    """
    if b_noise.value is None or not math.isfinite(b_noise.value) or b_noise.value <= 0:
        return None
    unknown = b_noise.stderr is None or not math.isfinite(b_noise.stderr)
    relative = math.log(UNTOLD_FACTOR) if unknown else (b_noise.stderr or 0.0) / b_noise.value
    return Belief(
        math.log(b_noise.value), math.hypot(math.log(NOISE_SCALE_FACTOR), relative), "gradient noise scale (stand-in)"
    )


def from_sizes(sizes: Sequence[float], critical: Sequence[Belief], size: float) -> Belief:
    """Return what B_c at other sizes of a model (or of its training set) says of it at this one, B_c ∝ size^κ.

    Linear regression of ln B_c on ln size, with a prior on κ, and the regression's own scatter in the error.

    Raises:
        UsageError: no other size is known.
    """
    if not sizes:
        raise UsageError(expected="B_c at one other size or more", got="none", remedy="plan from the noise scale")
    x = np.log(np.asarray(sizes, dtype=np.float64)) - math.log(size)
    y = np.array([belief.log_mean for belief in critical])
    variance = np.array([belief.log_sd**2 for belief in critical])
    # (a, κ) with a flat prior on a = ln B_c at this size
    design = np.column_stack([np.ones_like(x), x])
    precision = (design / variance[:, None]).T @ design + np.diag([0.0, SIZE_EXPONENT_SD**-2])
    right = (design / variance[:, None]).T @ y + np.array([0.0, SIZE_EXPONENT / SIZE_EXPONENT_SD**2])
    covariance = np.linalg.inv(precision)
    found = covariance @ right
    misfit = float(np.sum((y - design @ found) ** 2 / variance))
    grown = max(1.0, misfit / max(len(x) - 1, 1))
    return Belief(float(found[0]), math.sqrt(grown * covariance[0, 0]), f"size law over {len(x)} other sizes")


def ratio(batch: Array | float, reference: float, critical: Array | float) -> Array:
    """Return S(B)/S(B_ref) = (1 + B_c/B)/(1 + B_c/B_ref), broadcast.

    >>> float(ratio(200.0, 100.0, 100.0))
    0.75
    """
    return np.asarray((1.0 + critical / np.asarray(batch)) / (1.0 + critical / reference))
