"""Schedules: power over time and batch size over time, and what each gains over holding it constant.

With speed ∝ P^α, P the dynamic power and 0 ≤ α < 1, and a schedule P(t) ∝ (1 − t/T)^k at a fixed mean power:

- steps made by the end, relative to constant power: (k+1)^α/(kα+1), at most 1, at k = 0: constant power is best for the
  *final* loss;
- the area between the loss's start and its curve, with the loss linear in steps, relative to constant power:
  2(k+1)^α/(kα+2), largest at k = 1/(1−α): the best for the loss *at any time*.

8.1 as written is k = ½.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerSchedule:
    """P(t) = ``start_w``·(1 − t/T)^``exponent``.

    ``final`` and ``anytime`` are its steps at the end and its area under the loss curve, relative to constant power at
    the same mean power and time: more is better.
    """

    name: str
    verdict: str
    start_w: float
    exponent: float
    final: float
    anytime: float

    def power_w(self, t: Array | float) -> Array:
        """Return P at shares ``t`` of the duration, 0 to 1, W."""
        return np.asarray(self.start_w * (1.0 - np.asarray(t)) ** self.exponent)


def final_gain(exponent: float, alpha: float) -> float:
    """Return (k+1)^α/(kα+1): steps by the end, relative to constant power.

    >>> print(f"{final_gain(0.5, 0.466):.4f}")
    0.9797
    """
    return float((exponent + 1.0) ** alpha / (exponent * alpha + 1.0))


def anytime_gain(exponent: float, alpha: float) -> float:
    """Return 2(k+1)^α/(kα+2): area under the loss curve saved, relative to constant power.

    >>> print(f"{anytime_gain(2.0, 0.5):.4f}")
    1.1547
    """
    return float(2.0 * (exponent + 1.0) ** alpha / (exponent * alpha + 2.0))


def power_schedules(mean_w: float, alpha: float) -> tuple[PowerSchedule, ...]:
    """Return constant power, 8.1 as written, and the best for the loss at any time, all at one mean power.

    Args:
        mean_w: mean dynamic power, W.
        alpha: α of speed ∝ P^α; see :func:`speed_exponent`.

    Raises:
        UsageError: α outside of [0, 1).
    """
    if not 0.0 <= alpha < 1.0:
        raise UsageError(
            expected="a speed exponent from 0 to below 1",
            got=f"{alpha:g}",
            remedy="measure the speed at two power limits or more",
        )
    best = 1.0 / (1.0 - alpha)
    kinds = (
        ("constant", "optimal for the final loss", 0.0),
        ("square root (8.1 as written)", "false as an optimum for the final loss", 0.5),
        ("anytime", "optimal for the area under the loss curve", best),
    )
    return tuple(
        PowerSchedule(name, verdict, (k + 1.0) * mean_w, k, final_gain(k, alpha), anytime_gain(k, alpha))
        for name, verdict, k in kinds
    )


def speed_exponent(dynamic_w: Sequence[float], speed: Sequence[float]) -> float:
    """Return α of speed ∝ P^α by least squares of the logarithms, P the dynamic power.

    Raises:
        UsageError: fewer than two different positive powers.
    """
    p, v = np.asarray(dynamic_w, dtype=np.float64), np.asarray(speed, dtype=np.float64)
    good = np.isfinite(p) & np.isfinite(v) & (p > 0) & (v > 0)
    if len(np.unique(p[good])) < 2:
        raise UsageError(
            expected="speeds at two different powers or more",
            got=f"{len(np.unique(p[good]))}",
            remedy="measure the run at another power limit",
        )
    x, y = np.log(p[good]), np.log(v[good])
    return float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))


@dataclass(frozen=True)
class BatchSchedule:
    """B*(s) = √(B_c(s)·e0/e1) over a run, rounded to powers of two.

    Attributes:
        progress: (k,) where each stretch begins, as a share of the progress.
        batch: (k,) batch size of each.
        gain: energy of the best constant batch size over that of this schedule, minus one.
        constant: the best constant batch size.
    """

    progress: Array
    batch: npt.NDArray[np.int64]
    gain: float
    constant: float


def batch_schedule(progress: Sequence[float], critical: Sequence[float], e0_j: float, e1_j: float) -> BatchSchedule:
    """Return the batch size over the progress of a run that takes the fewest joules, and what it gains.

    Progress at critical batch B_c costs in proportion to (1 + B_c/B)(e0 + e1·B) joules, which is least at
    B* = √(B_c·e0/e1), where it is (√e0 + √(e1·B_c))². The best constant batch size is √(mean B_c·e0/e1).

    Args:
        progress: (k,) where each stretch begins, increasing from 0 to below 1.
        critical: (k,) B_c, or the noise scale that stands in for it, of each stretch, example/step.
        e0_j: J/step.
        e1_j: J/example.

    Raises:
        UsageError: not increasing, or not positive.
    """
    at, b_c = np.asarray(progress, dtype=np.float64), np.asarray(critical, dtype=np.float64)
    ordered = len(at) == len(b_c) > 0 and at[0] >= 0 and at[-1] < 1 and np.all(np.diff(at) > 0)
    if not ordered or not (np.all(np.isfinite(b_c)) and np.all(b_c > 0) and e0_j > 0 and e1_j > 0):
        raise UsageError(
            expected="increasing shares of progress from 0 to below 1, positive batch sizes and joules",
            got=f"{len(at)} shares, {len(b_c)} batch sizes, e0 {e0_j:g} J, e1 {e1_j:g} J",
            remedy="leave out the stretches in which the noise scale is not known",
        )
    share = np.diff(np.append(at, 1.0)) / (1.0 - at[0])
    wanted = np.sqrt(b_c * e0_j / e1_j)
    batch = np.maximum(2.0 ** np.round(np.log2(wanted)), 1.0)
    constant = math.sqrt(float(share @ b_c) * e0_j / e1_j)

    def energy(b: Array | float) -> float:
        return float(share @ ((1.0 + b_c / b) * (e0_j + e1_j * b)))

    return BatchSchedule(at, batch.astype(np.int64), energy(constant) / energy(batch) - 1.0, constant)
