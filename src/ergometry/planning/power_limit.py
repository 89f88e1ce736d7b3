"""The power limit that costs least, found by reading few of them.

The cost of an epoch as a function of the limit is smooth but for what the board itself does not repeat, so its
logarithm is a Gaussian process over log limit: an unknown level, a smooth part, and a part of each limit's own.
The next limit to read is the one expected to improve most on the best read so far, neighbours of it first: the search
climbs downhill from where curves usually have their minimum. It ends when no limit is expected to improve the best by
more than ``tolerance``, that is, when the intervals no longer leave room for a gain worth a reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ergometry.core.errors import UsageError

START = 0.6
"""Share of the board's maximum to read first."""
TOLERANCE = 0.02
"""Expected relative gain below which another reading is not worth its trouble."""
NEIGHBOUR = 4.0
"""How much more is made of a gain next to the best limit: valleys are narrower than smooth processes make them."""
SMOOTH_SD, SMOOTH_LENGTH, OWN_SD, LEVEL_SD = 0.15, 0.4, 0.0125, 3.0


@dataclass(frozen=True)
class Reading:
    """Natural logarithm of the cost at one limit (any unit, the same for all) and its standard error."""

    log_cost: float
    se: float


@dataclass(frozen=True)
class Found:
    """Where a search ended: the limit in W, the posterior of its log cost, and how many readings it took."""

    limit_w: float
    log_cost: float
    sd: float
    probes: int


def _checked(limits_w: Sequence[float], readings: Mapping[float, Reading], max_power_w: float) -> NDArray[np.float64]:
    limits = np.array(sorted(set(limits_w)), dtype=float)
    if len(limits) == 0 or not np.all(np.isfinite(limits)) or limits[0] <= 0 or limits[-1] > max_power_w:
        raise UsageError(
            expected=f"power limits above 0 and up to the board's {max_power_w:g} W",
            got=f"{[float(p) for p in limits]}",
            remedy="give limits the board can be set to",
        )
    for limit, reading in readings.items():
        if limit not in limits:
            raise UsageError(
                expected=f"readings at {[float(p) for p in limits]} W", got=f"{limit:g} W", remedy="leave it out"
            )
        if not (math.isfinite(reading.log_cost) and reading.se >= 0 and math.isfinite(reading.se)):
            raise UsageError(
                expected="a finite log cost and standard error",
                got=f"{reading} at {limit:g} W",
                remedy="leave out readings that failed",
            )
    return limits


def _posterior(
    limits: NDArray[np.float64], readings: Mapping[float, Reading]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
    """Mean and sd of log cost at every limit, and which were read."""
    x = np.log(limits)
    costs = [r.log_cost for r in readings.values()]
    # A curve that was seen to be steep is expected to turn sharply too.
    smooth = max(SMOOTH_SD, max(costs) - min(costs)) ** 2 * np.exp(-0.5 * ((x[:, None] - x) / SMOOTH_LENGTH) ** 2)
    prior = LEVEL_SD**2 + smooth + OWN_SD**2 * np.eye(len(x))
    read = [i for i, p in enumerate(limits) if p in readings]
    y = np.array([readings[limits[i]].log_cost for i in read])
    noise = np.array([max(readings[limits[i]].se, 1e-3) ** 2 for i in read])
    cross = prior[read]
    gain = np.linalg.solve(prior[np.ix_(read, read)] + np.diag(noise), cross).T
    # Around the first reading, so that scaling all costs shifts the mean and changes nothing else.
    mean = y[0] + gain @ (y - y[0])
    return mean, np.sqrt(np.maximum(np.diag(prior) - (gain * cross.T).sum(1), 1e-12)), read


def best_limit(limits_w: Sequence[float], readings: Mapping[float, Reading], *, max_power_w: float) -> Found:
    """The read limit of lowest posterior mean cost.

    Raises:
        UsageError: If nothing was read yet, or limits or readings are impossible.

    >>> best_limit((100.0, 150.0), {100.0: Reading(0.2, 0.0), 150.0: Reading(0.0, 0.0)}, max_power_w=250.0).limit_w
    150.0
    """
    limits = _checked(limits_w, readings, max_power_w)
    if not readings:
        raise UsageError(expected="at least one reading", got="none", remedy="read next_limit() first")
    mean, sd, read = _posterior(limits, readings)
    best = min(read, key=lambda i: float(mean[i]))
    return Found(float(limits[best]), float(mean[best]), float(sd[best]), len(read))


def next_limit(
    limits_w: Sequence[float],
    readings: Mapping[float, Reading],
    *,
    max_power_w: float,
    start: float = START,
    tolerance: float = TOLERANCE,
) -> float | None:
    """The limit to read next, or None when the best one is known well enough.

    The expected improvement of limit j over the best read limit b is E[max(0, μ_b − f_j)] =
    s_j·(z·Φ(z) + φ(z)), z = (μ_b − μ_j)/s_j, in units of relative cost; it counts four times next to b.

    Args:
        limits_w: Limits that can be set, W.
        readings: What was read, by limit; several readings of one limit are given as their mean.
        max_power_w: The board's highest limit, W.
        start: Share of it to begin with.
        tolerance: Expected relative gain at which to stop.

    >>> next_limit((100.0, 150.0, 200.0, 250.0), {}, max_power_w=250.0)
    150.0
    """
    limits = _checked(limits_w, readings, max_power_w)
    if not readings:
        return float(limits[np.argmin(np.abs(limits - start * max_power_w))])
    mean, sd, read = _posterior(limits, readings)
    best = min(read, key=lambda i: float(mean[i]))
    z = (mean[best] - mean) / sd
    tail = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    gain = sd * (z * tail + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
    gain[best] = 0.0
    gain[max(best - 1, 0) : best + 2] *= NEIGHBOUR
    pick = int(np.argmax(gain))
    return float(limits[pick]) if gain[pick] > tolerance else None


def search(
    measure: Callable[[float], Reading],
    limits_w: Sequence[float],
    *,
    max_power_w: float,
    start: float = START,
    tolerance: float = TOLERANCE,
    most: int = 50,
) -> Found:
    """Read limits until none is expected to gain more than ``tolerance``.

    Args:
        measure: Sets a limit and returns what was read there. Discard the first iteration after a change.
        limits_w: Limits that can be set, W.
        max_power_w: The board's highest limit, W.
        start: Share of it to begin with.
        tolerance: Expected relative gain at which to stop.
        most: Readings at most: a limit read again counts again.
    """
    sums: dict[float, tuple[float, float]] = {}
    readings: dict[float, Reading] = {}
    probes = 0
    while probes < most:
        limit = next_limit(limits_w, readings, max_power_w=max_power_w, start=start, tolerance=tolerance)
        if limit is None:
            break
        new = measure(limit)
        probes += 1
        weight, total = sums.get(limit, (0.0, 0.0))
        w = 1.0 / max(new.se, 1e-3) ** 2
        sums[limit] = weight + w, total + w * new.log_cost
        readings[limit] = Reading(sums[limit][1] / sums[limit][0], sums[limit][0] ** -0.5)
    found = best_limit(limits_w, readings, max_power_w=max_power_w)
    return Found(found.limit_w, found.log_cost, found.sd, probes)
