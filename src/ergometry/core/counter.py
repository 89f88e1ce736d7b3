"""Counters: what an energy counter's readings say was used, whatever wraps, falls, jumps or stands still in them.

The rules, in the order in which they are applied:

* A fall that may be a **wrap** (the increment modulo the range is one that real power allows) is one.
* Readings that fall, or rise more than real power allows, and come back within :data:`WRONG_IN_A_ROW` readings are
  **wrong readings**, and left out. To come back is to make good at least half of what they were off.
* Any other such fall or rise is a **reset**: counting goes on from the new value, and what was used across that
  interval is unknown, so it is bridged. A counter that steps back a little and stays there is one that was reset.
* A reading that stands still, while the least power that the counter otherwise shows would have moved it three times
  over, is of a **stuck counter**. "Otherwise" means at least :data:`ENOUGH` other intervals over at least half of the
  time, 95 % of which show more than a tenth of the median power: a domain that can truly rest, as an integrated GPU,
  is also near rest at times. If the next rise makes good what was missed the readings are left out; else the time is
  bridged.

A bridged interval gets the median power of its neighbours, and is never silently zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core.ports import Signal

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

BLOCK = 1 << 15
"""Samples handled at a time, so that a run of ten million needs no ten copies of itself."""

WRONG_IN_A_ROW = 5

ENOUGH = 16

ALLOWANCE_S = 1.0
"""An interval may carry what real power allows in this much longer: counters update late."""

_MOST_FALLS = 10_000
_NEIGHBOURS = 4
_PROBES = 4096
_STILL = 3.0
_LOW_QUANTILE, _LOW = 0.05, 0.1


class Counted(NamedTuple):
    """Energy by a counter: times, cumulative joules, the bridged intervals (begin s, end s, W), readings left out."""

    t_s: Array
    e_j: Array
    bridges: Array
    left_out: int


def unwrap(counter: npt.ArrayLike, wrap: float | None, max_step: npt.ArrayLike | None = None) -> Array:
    """Return the cumulative sum of a counter's increments, starting at zero, with wraps carried.

    An increment is the difference modulo ``wrap``. NaN readings (failed reads) contribute nothing themselves: the
    next good reading carries the whole difference. A fall that cannot be a wrap (``wrap`` is None, or the
    carried increment exceeds ``max_step``, the largest that real power allows) is a reset: it contributes
    zero, since what was used across it is unknown.

    Args:
        counter: (n,) readings, float64.
        wrap: the counter's range in its own unit; None for one that does not wrap.
        max_step: (n-1,) or scalar, largest believable increment.

    >>> unwrap([10, 15, 45, 255, 0, 10, 3, 2, 2], 256)
    array([  0.,   5.,  35., 245., 246., 256., 505., 760., 760.])
    """
    x = np.asarray(counter, dtype=np.float64)
    good = np.flatnonzero(np.isfinite(x))
    rises = np.zeros(len(x))
    if len(good) > 1:
        limits = np.broadcast_to(np.asarray(np.inf if max_step is None else max_step, dtype=np.float64), len(x) - 1)
        # A gap of failed reads may hold the sum of the limits it spans.
        spans = np.add.reduceat(limits[: good[-1]], good[:-1])
        rises[good[1:]] = _rises(x[good], wrap, spans)[0]
    return np.cumsum(rises)


def count(t_s: Array, x_j: Array, signal: Signal) -> Counted:
    """Return the energy that a counter's readings show, from zero, by the rules of this module.

    Args:
        t_s: (n,) increasing seconds; may be overwritten.
        x_j: (n,) finite readings, J; may be overwritten.
        signal: its ``wrap_j``, ``max_power_w``, ``update_period_s`` and ``resolution_j``.
    """
    n = len(t_s)
    wrong = _wrong_readings(t_s, x_j, signal)
    if wrong:
        keep = np.ones(n, dtype=bool)
        keep[wrong] = False
        t_s, x_j = t_s[keep], x_j[keep]
    resets = _accumulate(t_s, x_j, signal)
    still = _stuck(t_s, x_j, resets, signal)
    lost = np.concatenate([resets, *([last] for _, last in still)]).astype(np.intp)
    if still:
        # One interval from the first still reading to the last; none in between.
        keep = np.ones(len(t_s), dtype=bool)
        for first, last in still:
            keep[first + 1 : abs(last) + (last < 0)] = False
        index = np.cumsum(keep) - 1
        lost = index[lost[lost > 0]]
        t_s, x_j = t_s[keep], x_j[keep]
    bridges = _bridge(t_s, x_j, np.unique(lost))
    return Counted(t_s, x_j, bridges, n - len(t_s))


def _limits(dt_s: Array, signal: Signal) -> Array:
    """Return the largest believable increment of each interval, J."""
    return np.asarray(np.inf if signal.max_power_w is None else signal.max_power_w * (dt_s + ALLOWANCE_S))


def _rises(x: Array, wrap: float | None, limits: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return the increments, zero where they cannot be, and where that is."""
    rises = np.diff(x)
    if wrap is not None:
        rises[rises < 0] += wrap
    wrong = (rises < 0) | (rises > limits)
    rises[wrong] = 0.0
    return rises, wrong


def _wrong_readings(t_s: Array, x: Array, signal: Signal) -> list[int]:
    """Return the indices of readings that are off a course to which the next ones return."""
    odd = [np.empty(0, dtype=np.intp)]
    for start in range(0, len(x) - 1, BLOCK):
        part = slice(start, start + BLOCK + 1)
        off = _rises(x[part], signal.wrap_j, _limits(np.diff(t_s[part]), signal))[1]
        odd.append(np.flatnonzero(off) + start + 1)
    falls = np.concatenate(odd)
    if len(falls) > _MOST_FALLS:
        return []  # no course to return to
    wrong: list[int] = []
    for i in map(int, falls):
        if wrong and i <= wrong[-1] + 1:
            continue
        # The odd readings begin here; or what falls here rose before, by what real power allowed.
        spans = [(i, j) for j in range(i + 1, i + 1 + WRONG_IN_A_ROW)]
        spans += [(j, i) for j in range(i - 1, max(i - 1 - WRONG_IN_A_ROW, 0), -1)]
        begin, end = next((span for span in spans if span[1] < len(x) and _returns(t_s, x, *span, signal)), (0, 0))
        wrong += [j for j in range(begin, end) if not wrong or j > wrong[-1]]
    return wrong


def _returns(t_s: Array, x: Array, begin: int, end: int, signal: Signal) -> bool:
    """Say whether the readings from ``begin`` until before ``end`` are off a course that goes on at ``end``.

    What the first is off by, against the usual power, the reading at ``end`` is off by in the other direction.
    """
    rise = x[end] - x[begin - 1]
    if signal.wrap_j is not None and rise < 0:
        rise += signal.wrap_j
    if rise < 0 or rise > _limits(t_s[end] - t_s[begin - 1], signal):
        return False
    pairs = [*range(max(begin - _NEIGHBOURS, 1), begin), *range(end + 1, min(end + 1 + _NEIGHBOURS, len(x)))]
    powers = [(x[j] - x[j - 1]) / (t_s[j] - t_s[j - 1]) for j in pairs]
    usual_w = float(np.median([p for p in powers if p >= 0] or [0.0]))
    off, back = (x[j] - x[j - 1] - usual_w * (t_s[j] - t_s[j - 1]) for j in (begin, end))
    return bool(off * back < 0 and abs(back) >= 0.5 * abs(off))


def _accumulate(t_s: Array, x: Array, signal: Signal) -> Indices:
    """Turn readings into cumulative joules, in place; return the readings that end an unknown interval."""
    unknown = [np.empty(0, dtype=np.intp)]
    before, total = float(x[0]) if len(x) else 0.0, 0.0
    for start in range(0, len(x), BLOCK):
        begin = max(start - 1, 0)
        block = x[start : start + BLOCK].copy()
        full = np.concatenate(([before], block)) if start else block
        rises, wrong = _rises(full, signal.wrap_j, _limits(np.diff(t_s[begin : start + BLOCK]), signal))
        unknown.append(np.flatnonzero(wrong) + begin + 1)
        before = float(block[-1])
        np.cumsum(rises, out=rises)
        x[start : start + BLOCK] = total + (rises if start else np.concatenate(([0.0], rises)))
        total = float(x[min(start + BLOCK, len(x)) - 1])
    return np.concatenate(unknown)


def _stuck(t_s: Array, e_j: Array, resets: Indices, signal: Signal) -> list[tuple[int, int]]:
    """Return the stretches (first, last) in which a counter stood still that should not have.

    ``last`` is negative where the next rise makes good what was missed.
    """
    if len(e_j) < 2:
        return []
    blocks = range(0, len(e_j) - 1, BLOCK)
    found = [np.flatnonzero(np.diff(e_j[start : start + BLOCK + 1]) == 0) + start + 1 for start in blocks]
    still = np.setdiff1d(np.concatenate(found), resets, assume_unique=True)
    if not len(still):
        return []
    breaks = np.flatnonzero(np.diff(still) > 1)
    first = still[np.concatenate(([0], breaks + 1))] - 1
    last = still[np.concatenate((breaks, [len(still) - 1]))]
    spans = t_s[last] - t_s[first]
    probe = np.unique(np.linspace(1, len(e_j) - 1, min(_PROBES, len(e_j) - 1)).astype(np.intp))
    powers = (e_j[probe] - e_j[probe - 1]) / (t_s[probe] - t_s[probe - 1])
    powers = powers[powers > 0]
    if len(powers) < ENOUGH or spans.sum() > 0.5 * (t_s[-1] - t_s[0]):
        return []
    low_w, usual_w = float(np.quantile(powers, _LOW_QUANTILE)), float(np.median(powers))
    if low_w < _LOW * usual_w:
        return []
    found_out = []
    for i in np.flatnonzero(spans > _STILL * (signal.update_period_s + signal.resolution_j / low_w)):
        begin, end = int(first[i]), int(last[i])
        found_out.append((begin, -end if _caught_up(t_s, e_j, end, float(spans[i]), usual_w) else end))
    return found_out


def _caught_up(t_s: Array, e_j: Array, last: int, span_s: float, usual_w: float) -> bool:
    """Say whether the rise after a stretch holds at least half of what was missed in it."""
    if last + 1 >= len(e_j):
        return False
    own_s = t_s[last + 1] - t_s[last]
    return bool(e_j[last + 1] - e_j[last] > usual_w * (own_s + 0.5 * span_s))


def _bridge(t_s: Array, e_j: Array, ends: Indices) -> Array:
    """Add the missing energy of the intervals that end at the readings given, in place; return the bridges."""
    if not len(ends):
        return np.empty((0, 3))
    near = np.concatenate((np.arange(-_NEIGHBOURS, 0), np.arange(1, _NEIGHBOURS + 1)))
    duration_s = t_s[-1] - t_s[0]
    known_s = duration_s - float(np.sum(t_s[ends] - t_s[ends - 1]))
    overall_w = float(e_j[-1]) / known_s if known_s > 0 else 0.0
    power_w = np.empty(len(ends))
    for start in range(0, len(ends), BLOCK // 8):
        part = ends[start : start + BLOCK // 8]
        at = part[:, None] + near
        inside = np.clip(at, 1, len(t_s) - 1)
        powers = (e_j[inside] - e_j[inside - 1]) / (t_s[inside] - t_s[inside - 1])
        usable = (at == inside) & ~np.isin(inside, ends)
        powers[~usable] = np.nan
        # Where no neighbour is known, the mean of the trace stands in.
        powers[~usable.any(axis=1)] = overall_w
        power_w[start : start + len(part)] = np.nanmedian(powers, axis=1)
    missing_j = power_w * (t_s[ends] - t_s[ends - 1])
    for bridge, (begin, joules) in enumerate(zip(ends, np.cumsum(missing_j), strict=True)):
        stop = ends[bridge + 1] if bridge + 1 < len(ends) else len(e_j)
        e_j[begin:stop] += joules
    return np.column_stack((t_s[ends - 1], t_s[ends], power_w))
