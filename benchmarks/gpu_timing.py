"""What a power sensor does, told from readings of it under a known load. Pure functions; standard library only.

A reading is (time, value). The load is a list of (on, off) times between which the board was busy, of changing
length, so that windows longer than any one of them can be told (the idea of square waves is that of Yang et al.,
"Part-time Power Measurements", arXiv 2312.02741).
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

Waves = Sequence[tuple[float, float]]


class Updates(NamedTuple):
    """When a value changed, to half the time between two readings, and to what."""

    t_s: list[float]
    values: list[float]

    @property
    def period_s(self) -> float:
        """Return the time between two updates, s; NaN from fewer than three.

        It is the longest time of which all gaps are multiples, nearly: values that come again make gaps of several
        periods, and readings that come late shorten one gap and lengthen the next.
        """
        gaps = sorted(b - a for a, b in itertools.pairwise(self.t_s))
        if len(gaps) < 2:
            return math.nan

        def regularity(period_s: float) -> float:
            return statistics.fmean(math.cos(2 * math.pi * gap / period_s) for gap in gaps)

        shortest_s, longest_s = 0.8 * gaps[len(gaps) // 20], 1.1 * statistics.median(gaps)
        tried = [shortest_s * 1.01**i for i in range(math.ceil(math.log(longest_s / shortest_s) / math.log(1.01)) + 1)]
        scores = [regularity(period_s) for period_s in tried]
        guess = max(p for p, score in zip(tried, scores, strict=True) if score >= max(scores) - 0.05)
        short = [gap for gap in gaps if gap < 5.5 * guess]
        return sum(short) / sum(max(round(gap / guess), 1) for gap in short)


def updates(t_s: Sequence[float], values: Sequence[float]) -> Updates:
    """Return when the value changed: midway between the last old reading and the first new one.

    >>> updates([0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 6.0, 7.0])
    Updates(t_s=[1.5, 2.5], values=[6.0, 7.0])
    """
    changes = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    return Updates([(t_s[i] + t_s[i - 1]) / 2 for i in changes], [values[i] for i in changes])


def mean_power(counter: Updates) -> Updates:
    """Return the mean power between a counter's updates, W, at the later of each two."""
    steps = itertools.pairwise(zip(counter.t_s, counter.values, strict=True))
    power = [(t1, (e1 - e0) / (t1 - t0)) for (t0, e0), (t1, e1) in steps]
    return Updates([t for t, _ in power], [w for _, w in power])


def busy_until(waves: Waves) -> Callable[[float], float]:
    """Return the function that gives the busy seconds until a time.

    >>> busy = busy_until([(1.0, 2.0), (3.0, 5.0)])
    >>> [busy(t) for t in (0.0, 1.5, 2.5, 4.0, 9.0)]
    [0.0, 0.5, 1.0, 2.0, 3.0]
    """
    starts = [on for on, _ in waves]
    sums = [0.0, *itertools.accumulate(off - on for on, off in waves)]

    def busy_s(t: float) -> float:
        i = bisect_right(starts, t)
        return sums[i] if i == 0 else sums[i - 1] + min(t, waves[i - 1][1]) - starts[i - 1]

    return busy_s


class Window(NamedTuple):
    """A boxcar that explains a sensor's updates: its length and how late it is, s; idle and busy power, W; and r²."""

    window_s: float
    delay_s: float
    idle_w: float
    busy_w: float
    r2: float


def averaging_window(power: Updates, waves: Waves, longest_s: float = 2.0) -> Window | None:
    """Return the averaging window whose means of the load explain the updates best, by least squares.

    Of an update at u it is taken that P(u) = idle + (busy - idle) · (busy seconds in [u - d - w, u - d]) / w.
    Window and delay are looked for on a grid and then more finely; the powers follow by linear regression.

    Args:
        power: updates of a power, or of a counter's mean power.
        waves: when the board was busy.
        longest_s: the longest window that is looked for.

    Returns:
        None where the updates do not vary with the load.
    """
    busy_s = busy_until(waves)
    if len(power.t_s) < 8 or not waves or max(power.values) == min(power.values):
        return None
    mean_w = statistics.fmean(power.values)
    total = sum((w - mean_w) ** 2 for w in power.values)

    def fit(window_s: float, age_s: float) -> Window:
        delay_s = age_s - window_s / 2
        seen = [(busy_s(t - delay_s) - busy_s(t - delay_s - window_s)) / window_s for t in power.t_s]
        mean = statistics.fmean(seen)
        spread = sum((x - mean) ** 2 for x in seen)
        shared = sum((x - mean) * (w - mean_w) for x, w in zip(seen, power.values, strict=True))
        slope = shared / spread if spread > 0 else 0.0
        idle_w = mean_w - slope * mean
        return Window(window_s, delay_s, idle_w, idle_w + slope, slope * shared / total)

    # By the window and the age of its middle, which hardly depend on each other.
    lengths = [1e-3 * (1e3 * longest_s) ** (i / 30) for i in range(31)]
    starts = ((w, w / 2 + d) for w in lengths for d in (0.0, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2))
    at = max(starts, key=lambda start: fit(*start).r2)
    best, step = fit(*at), 0.3
    while step > 1e-3:
        around = [(at[0] * (1 + i * step), at[1] + j * step * 0.02) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        found = max(around, key=lambda near: fit(*near).r2)
        if fit(*found).r2 > best.r2:
            at, best = found, fit(*found)
        else:
            step /= 2
    return best if best.r2 > 0.3 else None


def integral_j(t_s: Sequence[float], power_w: Sequence[float]) -> float:
    """Return the energy under readings of power, by the trapezoid rule, J.

    >>> integral_j([0.0, 1.0, 3.0], [10.0, 20.0, 20.0])
    55.0
    """
    readings = itertools.pairwise(zip(t_s, power_w, strict=True))
    return math.fsum(0.5 * (a + b) * (t1 - t0) for (t0, a), (t1, b) in readings)


class Ratio(NamedTuple):
    """A ratio of means, and its standard error by the scatter of the rounds (NaN from a single one)."""

    ratio: float
    stderr: float


def disturbance(rounds: Sequence[dict[float, float]]) -> dict[float, Ratio]:
    """Return, by polling rate (Hz), the counter's mean power over that at the slowest rate.

    Args:
        rounds: mean powers of blocks of equal load, W, by rate, one block of each rate to a round: rounds are
            compared each within itself, as boards grow warm.

    >>> disturbance([{1.0: 100.0, 100.0: 25.0}, {1.0: 120.0, 100.0: 36.0}])[100.0]
    Ratio(ratio=0.275, stderr=0.025)
    """
    slowest = min(rounds[0])
    found = {}
    for rate in sorted(rounds[0]):
        ratios = [each[rate] / each[slowest] for each in rounds]
        spread = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
        found[rate] = Ratio(round(statistics.fmean(ratios), 12), round(spread, 12))
    return found
