"""Forecast: what the rest of a run takes, from its own recent past.

A run warms up, compiles, changes batch size; only its present regime says anything of what comes. The regime's start is
the last change of level (binary segmentation of the means, accepted where it lowers the squared error by more than a
penalty that noise of the same correlation would not reach). The rest is then remaining × mean, with an error from
blocks resampled whole, so that slow waves count as what they are. A regime that is too short gives no forecast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError

Array = npt.NDArray[np.float64]

LEAST = 8
"""Values that a regime must have before it is extrapolated."""

_PENALTY = 4.0
_SAME = 0.01
"""Levels that differ by less than this share are one: it would not change a forecast that is worth having."""
_RESAMPLES = 400


@dataclass(frozen=True)
class Forecast:
    """What is left of a run, and the whole.

    Attributes:
        spent: sum so far.
        left: draws (n,) of the sum of what is left.
        steady_from: position of the first value of the present regime.
        why: why there is no forecast yet; '' where there is one (``left`` is then not empty).
    """

    spent: float
    left: Array
    steady_from: int
    why: str = ""

    @property
    def total(self) -> Array:
        """Draws (n,) of the whole."""
        return self.spent + self.left


def forecast(values: Array, remaining: float, *, seed: int = 0) -> Forecast:
    """Forecast the sum of the next ``remaining`` values of a series from those seen.

    Args:
        values: (n,) joules (or seconds) of equal parts of the run, in order: of steps, or of stretches of them.
        remaining: how many more are to come.
        seed: of the resampling.

    Raises:
        UsageError: ``remaining`` is negative or not finite.
    """
    if not (math.isfinite(remaining) and remaining >= 0):
        raise UsageError(
            expected="a number of steps left of 0 or more", got=f"{remaining:g}", remedy="state the steps in all"
        )
    seen = np.asarray(values, dtype=np.float64)
    seen = seen[np.isfinite(seen)]
    spent = float(seen.sum())
    start = steady_from(seen)
    regime = seen[start:]
    if len(regime) < LEAST:
        why = f"no forecast yet: the present regime is {len(regime)} of {LEAST} values long"
        return Forecast(spent, np.zeros(0), start, why)
    generator = np.random.default_rng(seed)
    means, spread = _resampled_means(regime, generator)
    # What is to come has its own scatter besides the error of the mean.
    ahead = generator.normal(0.0, 1.0, len(means)) * spread * math.sqrt(max(remaining, 0.0))
    return Forecast(spent, np.maximum(remaining * means + ahead, 0.0), start)


def steady_from(values: Array) -> int:
    """Return where the present level began: after the last change, 0 if there was none.

    >>> steady_from(np.r_[np.full(20, 5.0), np.full(40, 9.0)] + np.tile([0.1, -0.1], 30))
    20
    """
    start = 0
    while True:
        change = _change(values[start:])
        if change == 0:
            return start
        start += change


def _change(x: Array) -> int:
    """Return the best place to cut a series in two levels, 0 where one level does."""
    n = len(x)
    if n < 6:
        return 0
    # One odd value, as the first step that compiles, is no level: medians of three stand in.
    y = np.median(np.stack([np.r_[x[0], x[:-1]], x, np.r_[x[1:], x[-1]]]), axis=0)
    cuts = np.arange(2, n - 2)
    sums, total = np.cumsum(y)[cuts - 1], float(y.sum())
    gain = sums**2 / cuts + (total - sums) ** 2 / (n - cuts) - total**2 / n
    best = int(np.argmax(gain))
    rises = np.diff(x)
    noise = max(0.5 * float(np.median(rises**2) / 0.455), 1e-24)  # robust: half the mean square of differences
    before, after = sums[best] / cuts[best], (total - sums[best]) / (n - cuts[best])
    same = abs(after - before) <= _SAME * max(abs(before), abs(after))
    return int(cuts[best]) if not same and gain[best] > _PENALTY * noise * _correlated(x) * math.log(n) else 0


def _correlated(x: Array) -> float:
    """Return by how much correlation between neighbours swells the variance of a mean, at least 1."""
    d = x - x.mean()
    power = float(d @ d)
    if power <= 0:
        return 1.0
    rho = min(max(float(d[1:] @ d[:-1]) / power, 0.0), 0.6)
    return (1 + rho) / (1 - rho)


def _resampled_means(regime: Array, generator: np.random.Generator) -> tuple[Array, float]:
    """Return draws of the regime's mean by blocks resampled whole, and the scatter of one value beyond it.

    Blocks are of n^(1/3) values and more where neighbours are alike. Few blocks understate the spread of their mean,
    and what they say of it is itself uncertain: with k blocks the draws are widened by √(k/(k−1)) and have Student's
    tails of k − 1 degrees of freedom.
    """
    n = len(regime)
    length = min(max(round(n ** (1 / 3) * _correlated(regime) ** 0.5), 1), n // 2)
    blocks = -(-n // length)
    first = generator.integers(0, n, (_RESAMPLES, blocks))
    index = (first[..., None] + np.arange(length)) % n  # circular, so that every value counts alike
    means = regime[index.reshape(_RESAMPLES, -1)[:, :n]].mean(1)
    freedom = max(blocks - 1, 1)
    widened = np.sqrt(blocks / generator.chisquare(freedom, _RESAMPLES))  # √(k/(k−1)) · √((k−1)/χ²)
    centre = float(regime.mean())
    scatter = float(np.std(regime, ddof=1)) * math.sqrt(_correlated(regime))
    return centre + (means - centre) * widened, scatter
