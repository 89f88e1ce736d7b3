"""Descent: how many steps a run took down to a loss, read off losses that scatter.

The first step whose loss is low, smoothed or not, comes the earlier the more a loss scatters, and small batches scatter
most: steps so read bend S(B). Here the losses are averaged in stretches that grow with the steps, a falling curve is
fitted to these (least squares, pooling neighbours that rise), and the crossing is read off it. Its error is that of the
same, repeated on stretches moved by their errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.planning.learning_curve import stretches

Array = npt.NDArray[np.float64]

LEAST_LOSSES = 8
_RESAMPLES = 48
_RISEN = 0.5
_LAST = 3


@dataclass(frozen=True)
class Descent:
    """A run's losses as stretches.

    Attributes:
        at: (k,) steps at the geometric middle of each stretch.
        mean: (k,) loss.
        error: (k,) its standard error.
        steps: (k',) and ``level`` (k',): corners of the falling curve.
        diverged: the loss ended as no number, or higher than half of what it had come down.
    """

    at: Array
    mean: Array
    error: Array
    steps: Array
    level: Array
    diverged: bool

    @property
    def first(self) -> float:
        """The loss that it began at."""
        return float(self.level[0])

    def level_at(self, step: float) -> float:
        """Return the falling curve's loss at a step."""
        return float(np.interp(math.log(step), np.log(self.steps), self.level))

    def steps_to(self, target: float) -> float:
        """Return the steps to a loss, infinite where the curve never comes down to it."""
        return _crossing(self.steps, self.level, target)

    def log_error(self, target: float, seed: int = 0) -> float:
        """Return the standard error of the logarithm of :meth:`steps_to`; infinite where scatter decides it."""
        generator = np.random.default_rng(seed)
        found = []
        for _ in range(_RESAMPLES):
            moved = self.mean + self.error * generator.normal(size=len(self.mean))
            found.append(_crossing(*_falling(self.at, moved, self.error), target))
        logs = np.log(found)
        reached = np.isfinite(logs)
        if np.count_nonzero(reached) < _RESAMPLES // 4:
            return math.inf
        # Where a part of them never arrives, only the earlier side is known, and the later one is as far.
        middle = float(np.median(np.where(reached, logs, np.inf)))
        if not math.isfinite(middle):
            return float(np.ptp(logs[reached]))
        lower = middle - float(np.quantile(logs, 0.16, method="inverted_cdf"))
        upper = float(np.quantile(logs, 0.84, method="inverted_cdf")) - middle
        return max(lower, upper) if math.isfinite(upper) else 2.0 * lower


def descent(loss: Array) -> Descent | None:
    """Return the descent of the losses of step 1, 2 and so on; None where fewer than eight are finite."""
    finite = np.isfinite(loss)
    if np.count_nonzero(finite) < LEAST_LOSSES:
        return None
    steps = np.flatnonzero(finite).astype(np.float64) + 1.0
    at, mean, error = stretches(steps, loss[finite])
    corners, level = _falling(at, mean, error)
    return Descent(at, mean, error, corners, level, _lost(loss) or _risen(loss[finite], mean, error))


def _lost(loss: Array) -> bool:
    """Say whether the losses ended as no number: none is known of the last twentieth, or the last few were infinite."""
    known = loss[~np.isnan(loss)]
    return not np.any(np.isfinite(loss[-max(len(loss) // 20, 1) :])) or not np.any(np.isfinite(known[-_LAST:]))


def _risen(values: Array, mean: Array, error: Array) -> bool:
    """Say whether the losses ended higher than half of what they had come down.

    By the last stretch, or by the median of the last twentieth: what explodes there makes its own error.
    """
    best = int(np.argmin(mean))
    came_down = float(mean[0] - mean[best])
    last = values[-max(len(values) // 20, _LAST) :]
    noise = float(np.median(np.abs(np.diff(values)))) / (0.6745 * math.sqrt(2))
    ends = (
        (float(mean[-1]), float(error[-1])),
        (float(np.median(last)), 1.2533 * noise / math.sqrt(len(last))),
    )
    return any(end - mean[best] > max(_RISEN * came_down, 4.0 * math.hypot(e, error[best])) for end, e in ends)


def _falling(at: Array, mean: Array, error: Array) -> tuple[Array, Array]:
    """Return the steps and the loss of the falling least-squares curve, each pooled block as one point."""
    from scipy.optimize import isotonic_regression

    found = isotonic_regression(mean, weights=error**-2.0, increasing=False)
    starts = found.blocks[:-1]
    weight = error**-2.0
    middle = np.add.reduceat(weight * np.log(at), starts) / np.add.reduceat(weight, starts)
    return np.exp(middle), np.asarray(found.x[starts])


def _crossing(steps: Array, level: Array, target: float) -> float:
    below = np.flatnonzero(level <= target)
    if not len(below):
        return math.inf
    j = int(below[0])
    if j == 0:
        return float(steps[0])
    part = (level[j - 1] - target) / (level[j - 1] - level[j])
    return float(math.exp((1 - part) * math.log(steps[j - 1]) + part * math.log(steps[j])))
