"""Wander: how far a power may stray from its mean inside an interval, judged by how it strays between intervals.

Take three neighbouring intervals with mean powers P₋, P, P₊, and q = (P - P₋)(P₊ - P). The sign of q tells two kinds of
load apart:

*Fast* (steps and kernels, over within an interval): each interval's mean goes its own way, so its two differences have
opposite signs. If energy strays as a fractional Brownian motion, with variance K·L^2H over a length L, the expectation
of -q is 1.54·K·d^(2H-2) for intervals of length d, and that of max(-q, 0) 1.13 times as much. H = ½ would be white
noise of power, H = 0 a regular ripple; training lies between, and H = ¼ misses neither by much. Where each power is
only an instant's, the energy of an interval strays as K·d² (H = 1), with 1.22·K for the expectation. K is averaged over
:data:`BIN` intervals.

*Slow* (a phase that begins within the interval): P₋ before, P₊ after, P between, so q > 0. If the power jumps at the
place s of the interval (0 to 1), q = s(1-s)·(P₊ - P₋)², and at a fraction f of it E is off by (P₊ - P₋)·d times f(1-s)
or s(1-f). Over s uniform, the mean square of that is (P₊ - P₋)²·g²/3 with g = d·f(1-f), which is the mean of 2q·g².

What the readings themselves scatter by (late updates, steps) is taken off both.

What no reading can show is bounded by stated shares of the power, the same for every sensor: :data:`SWING`,
:data:`RIPPLE` and :data:`UNSEEN`. They, and H, were chosen once, on the loads of ``benchmarks/coverage.py``, which
holds the model to its intervals for every class of sensor. A load in step with the sampling (steps of exactly a second,
or a simple fraction of one) shows least of itself: there the error is most often larger than is said.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core.counter import BLOCK

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

SWING = 0.35
"""Standard deviation of the power inside an interval over its mean: a stretch strays by no more, unless seen to."""

RIPPLE = 0.03
"""Standard error of how an interval's energy is split, over that energy, from a ripple that the sampling hides."""

UNSEEN = 0.1
"""Standard deviation, over the power, of what an update saw from the time that it stands for, if it saw but a part."""

BIN = 16
"""Intervals over which K is averaged."""

_HURST = 0.25
_CLIPPED, _OF_MEANS, _OF_INSTANTS = 1.13, 1.13 * 1.54, 1.22
_SLOW = 2.0
_NEAR = 1.0
"""Of the mean time between instants of power: powers much nearer to each other than this are alike."""


class Sight(NamedTuple):
    """What a sensor sees of the time between two knots.

    ``averaging_s`` is that of a power, None of a counter. A part-time counter skips the share ``skipped`` of every
    ``period_s``. ``resolution_j`` is the step of a counter.
    """

    averaging_s: float | None = None
    skipped: float = 0.0
    period_s: float = 0.0
    resolution_j: float = 0.0


class _Around(NamedTuple):
    """Intervals and their neighbours: lengths (s), powers (W), and the variances of the knots at the ends (J²)."""

    length_before: Array
    length: Array
    length_after: Array
    before: Array
    power: Array
    after: Array
    begin_j2: Array
    end_j2: Array

    def products(self) -> tuple[Array, Array]:
        """Return q (W²), and what the knots' errors add to -q in the mean."""
        q = (self.power - self.before) * (self.after - self.power)
        noise = (self.begin_j2 / self.length_before + self.end_j2 / self.length_after) / self.length
        return q, noise + (self.begin_j2 + self.end_j2) / self.length**2


class Wander:
    """The errors of a trace, from its knots: variances in J².

    Args:
        t_s: (n,) increasing times of the knots, n ≥ 2.
        e_j: (n,) cumulative joules at them.
        widths_s: (n,) or scalar, the time in which each knot's update may have been.
        sight: what the sensor sees.
    """

    def __init__(self, t_s: Array, e_j: Array, widths_s: npt.ArrayLike, sight: Sight) -> None:
        self._t_s, self._e_j, self._widths_s, self._sight = t_s, e_j, np.asarray(widths_s), sight
        n = self._intervals = len(t_s) - 1
        self._mean_s = float(t_s[-1] - t_s[0]) / n
        self._instant = sight.averaging_s is not None and sight.averaging_s < 0.5 * self._mean_s
        self._h2 = 2.0 if self._instant else 2.0 * _HURST
        bins = max(n // BIN, 1)
        self._k, unseen = np.empty(bins), np.zeros(bins + 1)
        for first in range(0, bins, BLOCK // BIN):
            last = min(first + BLOCK // BIN, bins)
            intervals = range(first * BIN, n if last == bins else last * BIN)
            self._k[first:last], unseen[first + 1 : last + 1] = self._scatter(intervals, last - first)
        self._unseen_j2 = np.cumsum(unseen)
        self._unseen_at_s = t_s[np.append(np.arange(bins) * BIN, n)]

    def of_edges(self, t_s: Array) -> Array:
        """Return the variance of E at the times given that comes of where the knots are and what lies between them."""
        i, f = self._locate(t_s)
        around = self._gather(i)
        fast, slow = self._split(around, self._k_of(i), np.minimum(f, 1.0 - f))
        return np.asarray(around.begin_j2 * (1.0 - f) ** 2 + around.end_j2 * f**2 + fast + slow)

    def of_windows(self, t0_s: Array, t1_s: Array) -> Array:
        """Return the variance of E(t1) - E(t0): both edges, what they share, and what was not seen between."""
        m, edges_s = len(t0_s), np.concatenate((t0_s, t1_s))
        place, fraction = self._locate(edges_s)
        i, j, f, g = place[:m], place[m:], fraction[:m], fraction[m:]
        same, part = i == j, np.maximum(g - f, 0.0)
        # At once, as a call costs more than a window's arithmetic: within i, from the edge to the end of i, and in j.
        place, parts = np.concatenate((i, i, j)), np.concatenate((part, 1.0 - f, g))
        around = self._gather(place)
        fast, slow = self._split(around, self._k_of(place), parts, np.repeat((True, False, False), m))
        strays, drifts = (np.where(same, x[:m], x[m : 2 * m] + x[2 * m :]) for x in (fast, slow))
        begin, end = around.begin_j2, around.end_j2
        knots = begin[:m] * (1.0 - f) ** 2 + end[:m] * f**2 + begin[2 * m :] * (1.0 - g) ** 2 + end[2 * m :] * g**2
        knots -= np.where(j == i + 1, 2.0 * end[:m] * f * (1.0 - g), 0.0)
        knots = np.where(same, (begin[:m] + end[:m]) * part**2, knots)
        joules = np.interp(edges_s, self._t_s, self._e_j)
        strays = _least(strays, (SWING * (joules[m:] - joules[:m])) ** 2)
        if self._sight.averaging_s is not None:
            # Of the readings at the two ends a part counts, which is in the split.
            edges_s = np.concatenate((self._t_s[i + 1], np.maximum(self._t_s[j], self._t_s[i + 1])))
        unseen = np.interp(edges_s, self._unseen_at_s, self._unseen_j2)
        return np.asarray(knots + strays + drifts + unseen[m:] - unseen[:m])

    def _scatter(self, intervals: range, bins: int) -> tuple[Array, Array]:
        """Return K of each of the bins that the intervals make, and the variance of what was not seen in it."""
        starts = np.arange(bins) * BIN
        sizes = np.diff(np.append(starts, len(intervals)))
        around = self._slice(intervals)
        length, power = around.length, around.power
        q, noise = around.products()
        each = np.maximum(-q, 0.0)
        each -= _CLIPPED * noise
        each *= 1.0 / _OF_INSTANTS if self._instant else length * np.sqrt(length) / _OF_MEANS  # d^(2-2H)
        weights = length.copy()
        # The first and last interval of a trace have but one neighbour, and say nothing.
        counts = sizes.astype(np.float64)
        for end, own in ((0, 0), (self._intervals - 1, -1)):
            if end in intervals:
                weights[own], counts[own] = 0.0, max(counts[own] - 1.0, 0.0)
        total = np.add.reduceat(weights, starts)
        k = np.divide(np.add.reduceat(weights * each, starts), total, out=np.zeros(bins), where=total > 0)
        # Of a few intervals, or one, little is known: the power may swing.
        mean_w, mean_s = (np.add.reduceat(x, starts) / sizes for x in (power, length))
        k = np.maximum(k, 0.0) + (SWING * mean_w / np.maximum(counts, 1.0)) ** 2 * mean_s ** (2.0 - self._h2)
        if self._sight.averaging_s is not None:
            unseen = self._missed(around, np.repeat(k, sizes))
        elif self._sight.skipped:
            unseen = self._sight.skipped * self._sight.period_s * length * (UNSEEN * power) ** 2
        else:
            return k, np.zeros(bins)
        return k, np.add.reduceat(unseen, starts)

    def _split(self, around: _Around, k: Array, f: Array, inside: npt.ArrayLike = False) -> tuple[Array, Array]:
        """Return the variance of the energy of a part f of intervals: that of fast and that of slow loads.

        The part lies anywhere ``inside``, or at an end.
        """
        d, whole_j = around.length, around.power * around.length
        q, noise = around.products()
        g = f * (1.0 - f)
        slow = _SLOW * np.maximum(q - noise, 0.0) * (d * g) ** 2
        if self._instant:
            # A stretch that begins or ends at an edge may be near a reading that was made there.
            alike = np.where(inside, 1.0, self._alike(d * f))
            return (self._missed(around, k) + (UNSEEN * whole_j) ** 2) * alike * f**2, slow
        bridge = (1.0 - f) * f**self._h2 + f * (1.0 - f) ** self._h2 - g
        smoothed_s = np.maximum((self._sight.averaging_s or 0.0) - d, 0.0)
        fast = k * (d**self._h2 * bridge + 0.4 * smoothed_s**self._h2) + (RIPPLE * whole_j) ** 2
        return _least(fast, (SWING * whole_j * g) ** 2), slow

    def _missed(self, around: _Around, k: Array) -> Array:
        """Return the variance of the energies of intervals of which a reading of power saw but a part."""
        d = around.length
        blind = np.maximum(1.0 - (self._sight.averaging_s or 0.0) / d, 0.0)
        alike = self._alike(d) if self._instant else 1.0
        jump_j, whole_j = (around.after - around.power) * d, around.power * d
        return np.asarray(blind * (k * d**self._h2 * alike + jump_j**2 / 12.0 + (UNSEEN * whole_j) ** 2))

    def _alike(self, seconds: Array) -> Array:
        """Return how much of their variance powers have that are so far apart; 1 at the mean time between readings."""
        return np.asarray((1.0 + _NEAR) * seconds / (seconds + _NEAR * self._mean_s))

    def _locate(self, t_s: Array) -> tuple[Indices, Array]:
        """Return the interval of each time, and the fraction of it that lies before; at the ends 0 and 1."""
        i = np.searchsorted(self._t_s[1:-1], t_s, side="right")
        fraction = (t_s - self._t_s[i]) / (self._t_s[i + 1] - self._t_s[i])
        return i, np.minimum(np.maximum(fraction, 0.0), 1.0)

    def _k_of(self, i: Indices) -> Array:
        return np.asarray(self._k[np.minimum(i // BIN, len(self._k) - 1)])

    def _gather(self, i: Indices) -> _Around:
        """Return any intervals of the trace; beyond its ends the powers are taken to go on as they went."""
        n = self._intervals
        at = (np.maximum(i - 1, 0), i, i + 1, np.minimum(i + 2, n))
        t, e = ([x[place] for place in at] for x in (self._t_s, self._e_j))
        (d0, d1, d2), (e0, e1, e2) = ([b - a for a, b in itertools.pairwise(x)] for x in (t, e))
        first, last, power = i == 0, i == n - 1, e1 / d1
        before = np.divide(e0, d0, out=power.copy(), where=~first)
        after = np.divide(e2, d2, out=power.copy(), where=~last)
        return _Around(
            np.where(first, d1, d0),
            d1,
            np.where(last, d1, d2),
            np.where(first, 2.0 * power - after, before),
            power,
            np.where(last, 2.0 * power - before, after),
            self._knots_j2((e0 + e1) / (t[2] - t[0]), i),
            self._knots_j2((e1 + e2) / (t[3] - t[1]), i + 1),
        )

    def _slice(self, intervals: range) -> _Around:
        """Return consecutive intervals, at a fraction of the cost."""
        a, b = intervals.start, intervals.stop
        if a == 0 or b == self._intervals:
            return self._gather(np.arange(a, b))
        t, e = self._t_s[a - 1 : b + 2], self._e_j[a - 1 : b + 2]
        d, joules = np.diff(t), np.diff(e)
        power = joules / d
        knots = self._knots_j2((e[2:] - e[:-2]) / (t[2:] - t[:-2]), slice(a, b + 1))
        return _Around(d[:-2], d[1:-1], d[2:], power[:-2], power[1:-1], power[2:], knots[:-1], knots[1:])

    def _knots_j2(self, power: Array, j: Indices | slice) -> Array:
        """Return the variance of knots: of when they were, by the power around them, and of the counter's step."""
        width = self._widths_s[j] if self._widths_s.ndim else self._widths_s
        return np.asarray(((power * width) ** 2 + self._sight.resolution_j**2) / 12.0)


def _least(a: Array, b: Array) -> Array:
    """Return about the lesser of two variances: 1/(1/a + 1/b)."""
    return np.divide(a * b, a + b, out=np.zeros_like(a), where=a + b > 0)
