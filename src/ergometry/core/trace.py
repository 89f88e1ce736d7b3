"""Trace: the cumulative energy of one domain over time, and the energy of any window of it, with its error."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core import counter, knots
from ergometry.core.counter import BLOCK, unwrap
from ergometry.core.errors import InvalidSeries
from ergometry.core.estimate import Estimate, Provenance, weakest
from ergometry.core.ports import Signal
from ergometry.core.wander import SWING, Sight, Wander

__all__ = ["Trace", "unwrap"]

Array = npt.NDArray[np.float64]

_MARGIN = 2.0
"""Sampling intervals that the ends of a window may lie beyond the samples before that counts as bridged."""

_GAP = 5.0
"""Sampling intervals without a reading of a power after which it counts as bridged; a counter carries what was used."""


@dataclass(frozen=True)
class Trace:
    """Cumulative energy E(t) of one domain: ``t_s`` (n,) increasing monotonic seconds, ``e_j`` (n,) joules from 0.

    These are the *knots*: what the samples say, where it belongs in time (:mod:`ergometry.core.knots`). Between knots E
    is interpolated linearly; after the last one it goes on at the power around it until the last sample, and beyond
    the samples at the mean power. The energy of a window is ``E(t1) - E(t0)``, hence additive: windows that tile a span
    sum to the span's energy.

    The variance of a window is the sum of (:mod:`ergometry.core.wander`):

    * *late updates*: a knot lies anywhere in a time of width w: (P·w)²/12, with the knot's share in the window;
      knots that both edges hang on are counted once;
    * *resolution*: its square over 12 at each knot likewise; of a power, the same rounding for the whole window;
    * the *split* of an interval that an edge cuts, from how the power strays between intervals;
    * what was *not seen*: between instants of power, or by a counter whose sensor looks part of the time;
    * what was *bridged*: the spread of the trace's powers times the time, within each bridge and beyond the ends;
    * the *relative* error that all windows share (the board's gain, or the model's error).

    Scaling power by a and time by b scales value and error by ab.
    """

    t_s: Array
    e_j: Array
    signal: Signal
    gaps: int = field(default=0)
    bridges: Array = field(default_factory=lambda: np.empty((0, 3)))
    """(m, 3): beginning and end (s) of each bridged interval, and the power put there (W)."""
    widths_s: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """(n,) the time in which each knot may lie, s; None: the update period for all."""
    sampled_until_s: float | None = None
    """Time of the last sample; None: of the last knot."""

    def __post_init__(self) -> None:
        if len(self.t_s) != len(self.e_j) or len(self.t_s) < 2 or not _increases(self.t_s):
            raise InvalidSeries(
                expected="at least two samples at increasing times",
                got=f"{len(self.t_s)} times and {len(self.e_j)} values",
                remedy="sample for longer, or drop the samples whose clock ran backward",
            )

    @classmethod
    def from_samples(cls, t_s: npt.ArrayLike, x: npt.ArrayLike, signal: Signal) -> Trace:
        """Build from a signal's samples: a counter is unwrapped, a power integrated.

        Samples that are NaN, whose time does not increase or that are wrong (:mod:`ergometry.core.counter`) are left
        out, and counted in ``gaps``.

        Args:
            t_s: (n,) monotonic seconds.
            x: (n,) joules (``signal.quantity == "energy_j"``) or watts (``"power_w"``).
            signal: what the samples are.

        Raises:
            InvalidSeries: fewer than two usable samples.
        """
        t, y = np.asarray(t_s, dtype=np.float64), np.asarray(x, dtype=np.float64)
        if t.shape != y.shape:
            raise InvalidSeries(
                expected="one value per time",
                got=f"{t.shape} times, {y.shape} values",
                remedy="pass columns of one table",
            )
        times, readings = _usable(t, y)
        gaps = len(t) - len(times)
        if len(times) < 2:
            return cls(times, readings, signal, gaps)  # refused there
        until_s = float(times[-1])
        if signal.quantity == "power_w":
            at, energy, bridges = _integrate(times, readings, signal)
            return cls(at, energy, signal, gaps, bridges, sampled_until_s=until_s)
        counted = counter.count(times, readings, signal)
        late_s = 0.5 * signal.update_period_s
        bridges = counted.bridges * (1.0, 1.0, signal.gain) - (late_s, late_s, 0.0)
        at, energy, widths = knots.place(counted.t_s, counted.e_j, signal.update_period_s)
        energy *= signal.gain
        return cls(at, energy, signal, gaps + counted.left_out, bridges, widths, until_s)

    def then(self, later: Trace) -> Trace:
        """Return this trace and a later one of the same domain as one, the time between them bridged.

        So it is with a source that was lost and came back as another: its board had been exchanged, say. The
        errors are those of the worse of the two signals.
        """
        power_w = 0.5 * (self.mean_power_w + later.mean_power_w)
        begin_s, end_s = float(self.t_s[-1]), float(later.t_s[0])
        offset_j = self.e_j[-1] + power_w * (end_s - begin_s) - later.e_j[0]
        signals = (self.signal, later.signal)
        widths = [
            np.full(len(trace.t_s), trace.signal.update_period_s) if trace.widths_s is None else trace.widths_s
            for trace in (self, later)
        ]
        return Trace(
            np.concatenate((self.t_s, later.t_s)),
            np.concatenate((self.e_j, later.e_j + offset_j)),
            max(signals, key=lambda signal: (signal.rel_stderr, signal.update_period_s)),
            self.gaps + later.gaps,
            np.vstack((self.bridges, [[begin_s, end_s, power_w]], later.bridges)),
            np.concatenate(widths).astype(np.float32),
            later.sampled_until_s,
        )

    def cumulative_j(self, t_s: npt.ArrayLike) -> Array:
        """Return E at the times given, in joules."""
        at = np.asarray(t_s, dtype=np.float64)
        inside = np.interp(at, self.t_s, self.e_j)
        before, tail, after = self._outside_s(at)
        return np.asarray(inside + (after - before) * self.mean_power_w + tail * self._tail_power_w)

    @property
    def mean_power_w(self) -> float:
        """Mean power over the whole trace, W."""
        return float((self.e_j[-1] - self.e_j[0]) / (self.t_s[-1] - self.t_s[0]))

    def edge_stderr_j(self, t_s: npt.ArrayLike) -> Array:
        """Return the standard error of E at the times given that is due to sampling there, in joules."""
        at = np.asarray(t_s, dtype=np.float64)
        before, tail, after = self._outside_s(at)
        variance = self._wander.of_edges(np.atleast_1d(at)).reshape(at.shape)
        variance += ((before + after) * self._spread_w) ** 2 + (tail * SWING * self._tail_power_w) ** 2
        if len(self.bridges):
            i = np.minimum(np.searchsorted(self.bridges[:, 1], at, side="right"), len(self.bridges) - 1)
            inside = np.maximum(np.minimum(at - self.bridges[i, 0], self.bridges[i, 1] - at), 0.0)
            variance += (inside * self._spread_w) ** 2
        return np.asarray(np.sqrt(variance))

    def stderr_j(self, t0_s: npt.ArrayLike, t1_s: npt.ArrayLike) -> Array:
        """Return the standard error of the energy of windows, in joules, less the relative one that they share."""
        t0, t1 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(t, dtype=np.float64)) for t in (t0_s, t1_s)))
        variance = self._wander.of_windows(t0, t1)
        begins, ends = self._outside_s(t0), self._outside_s(t1)
        before, tail, after = (np.abs(b - a) for a, b in zip(begins, ends, strict=True))
        variance += (before**2 + after**2) * self._spread_w**2 + (tail * SWING * self._tail_power_w) ** 2
        variance += (self.signal.resolution_w * self.signal.gain * (t1 - t0)) ** 2 / 12.0
        variance += self._bridged_s2(t0, t1) * self._spread_w**2
        return np.asarray(np.where(t1 > t0, np.sqrt(variance), 0.0))

    def bridged_j(self, t0_s: float, t1_s: float) -> float:
        """Return how much of the energy of [t0_s, t1_s] was not read but bridged by the power near by, in joules.

        That is the time of readings lost for good, and the time more than two sampling intervals beyond the samples.
        """
        overlap = np.minimum(t1_s, self.bridges[:, 1]) - np.maximum(t0_s, self.bridges[:, 0])
        joules = float(np.sum(np.clip(overlap, 0.0, None) * self.bridges[:, 2]))
        begins, ends = (self._outside_s(np.float64(t)) for t in (t0_s, t1_s))
        beyond_s = sum(float(abs(b - a)) for a, b in zip(begins[::2], ends[::2], strict=True))
        margin_s = _MARGIN * float(self.t_s[-1] - self.t_s[0]) / (len(self.t_s) - 1)
        return joules + (beyond_s * self.mean_power_w if beyond_s > margin_s else 0.0)

    def energy(self, t0_s: float, t1_s: float) -> Estimate:
        """Return the energy of the window [t0_s, t1_s], in joules; *modelled* if some of it is bridged.

        Raises:
            InvalidSeries: the window ends before it begins.
        """
        if not t1_s >= t0_s:
            raise InvalidSeries(
                expected="t1_s >= t0_s", got=f"[{t0_s}, {t1_s}]", remedy="give the window's beginning first"
            )
        value = float(np.diff(self.cumulative_j(np.array([t0_s, t1_s])))[0])
        stderr = float(np.hypot(self.stderr_j(t0_s, t1_s)[0], self.signal.rel_stderr * value))
        provenance, method = Provenance(self.signal.provenance), self.signal.method
        bridged = self.bridged_j(t0_s, t1_s)
        if bridged > 0:
            provenance = weakest(provenance, Provenance.MODELLED)
            # A bridge spreads its joules evenly: a part of it may hold some where the knots below have none.
            share = min(bridged / value, 1.0) if value > 0.0 else 1.0
            method = f"{method}, {float(f'{100 * share:.2g}'):g} % of it bridged"
        return Estimate(value, stderr, "J", provenance, method)

    def power_w(self, edges_s: npt.ArrayLike) -> Array:
        """Return the mean power of each interval between consecutive ``edges_s`` (m,), in watts (m-1,)."""
        edges = np.asarray(edges_s, dtype=np.float64)
        return np.asarray(np.diff(self.cumulative_j(edges)) / np.diff(edges))

    def to_json(self) -> dict[str, Any]:
        """Return the trace as JSON: times, cumulative joules, the signal, and the bridges."""
        return {
            "t_s": self.t_s.tolist(),
            "e_j": self.e_j.tolist(),
            "signal": self.signal.to_json(),
            "gaps": self.gaps,
            "bridges": self.bridges.tolist(),
        }

    @cached_property
    def _wander(self) -> Wander:
        signal = self.signal
        period_s, averaging_s = signal.update_period_s, signal.averaging_s
        if signal.quantity == "power_w":
            return Wander(self.t_s, self.e_j, 0.0, Sight(averaging_s))
        skipped = max(1.0 - averaging_s / period_s, 0.0) if averaging_s > 0 and period_s > 0 else 0.0
        sight = Sight(None, skipped, period_s, signal.resolution_j * signal.gain)
        return Wander(self.t_s, self.e_j, period_s if self.widths_s is None else self.widths_s, sight)

    @cached_property
    def _spread_w(self) -> float:
        """Standard deviation of the trace's powers, and at least that of a power's swing: the error of a bridge."""
        squares = 0.0
        for start in range(0, len(self.t_s) - 1, BLOCK):
            d, e = (np.diff(x[start : start + BLOCK + 1]) for x in (self.t_s, self.e_j))
            squares += float(np.sum(e**2 / d))
        mean_w = self.mean_power_w
        spread_w2 = squares / float(self.t_s[-1] - self.t_s[0]) - mean_w**2
        return float(np.hypot(np.sqrt(max(spread_w2, 0.0)), SWING * mean_w))

    @cached_property
    def _tail_power_w(self) -> float:
        """Power around the last knots, W, over ten times as long as the tail."""
        tail_s = (self.sampled_until_s or self.t_s[-1]) - self.t_s[-1]
        i = max(int(np.searchsorted(self.t_s, self.t_s[-1] - 10.0 * tail_s, side="right")) - 2, 0)
        return float((self.e_j[-1] - self.e_j[i]) / (self.t_s[-1] - self.t_s[i]))

    def _bridged_s2(self, t0: Array, t1: Array) -> Array:
        """Return the sum of the squares of what windows share with each bridge, s²."""
        begins, ends = self.bridges[:, 0], self.bridges[:, 1]
        if not len(begins):
            return np.zeros(len(t0))
        first, stop = np.searchsorted(ends, t0, side="right"), np.searchsorted(begins, t1, side="left")
        whole = np.concatenate(([0.0], np.cumsum((ends - begins) ** 2)))
        a, b = np.minimum(first, len(ends) - 1), np.maximum(stop - 1, 0)
        cut_a, cut_b = (np.minimum(t1, ends[i]) - np.maximum(t0, begins[i]) for i in (a, b))
        several = cut_a**2 + cut_b**2 + whole[b] - whole[np.minimum(a + 1, b)]
        return np.asarray(np.where(stop > first, np.where(a == b, cut_a**2, several), 0.0))

    def _outside_s(self, at: npt.NDArray[np.float64] | np.float64) -> tuple[Array, Array, Array]:
        """Return the seconds before the first knot, from the last knot up to the last sample, and beyond it."""
        until_s = self.t_s[-1] if self.sampled_until_s is None else max(self.sampled_until_s, self.t_s[-1])
        before = np.maximum(self.t_s[0] - at, 0.0)
        tail = np.minimum(np.maximum(at - self.t_s[-1], 0.0), until_s - self.t_s[-1])
        return np.asarray(before), np.asarray(tail), np.asarray(np.maximum(at - until_s, 0.0))


def _usable(t: Array, x: Array) -> tuple[Array, Array]:
    """Return copies of the samples that are finite and whose time increases."""
    t_out, x_out = np.empty(len(t)), np.empty(len(t))
    kept, past_s = 0, -np.inf
    for start in range(0, len(t), BLOCK):
        tb, xb = t[start : start + BLOCK], x[start : start + BLOCK]
        finite = np.isfinite(tb)
        past = np.maximum.accumulate(np.concatenate(([past_s], np.where(finite, tb, -np.inf))))
        past_s = float(past[-1])
        good = np.isfinite(xb) & finite & (tb > past[:-1])
        stop = kept + int(np.count_nonzero(good))
        t_out[kept:stop], x_out[kept:stop] = tb[good], xb[good]
        kept = stop
    return t_out[:kept], x_out[:kept]


def _integrate(t: Array, x: Array, signal: Signal) -> tuple[Array, Array, Array]:
    """Return knots, cumulative joules and bridges of readings of power; each holds half-way to the next."""
    t -= 0.5 * (signal.update_period_s + signal.averaging_s)
    at, energy = np.empty(len(t) + 1), np.empty(len(t) + 1)
    at[0], at[1:-1], at[-1] = t[0], 0.5 * (t[1:] + t[:-1]), t[-1]
    energy[0], total = 0.0, 0.0
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        joules = signal.gain * x[part] * np.diff(at[start : start + BLOCK + 1])
        energy[start + 1 : start + 1 + len(joules)] = total + np.cumsum(joules)
        total = float(energy[start + len(joules)])
    typical_s = float(np.median(np.diff(t[:BLOCK]))) if len(t) > 1 else 0.0
    wide = [np.flatnonzero(np.diff(t[s : s + BLOCK + 1]) > _GAP * typical_s) + s for s in range(0, len(t), BLOCK)]
    gaps = np.concatenate(wide)
    power = signal.gain * 0.5 * (x[gaps] + x[gaps + 1])
    return at, energy, np.column_stack((t[gaps], t[gaps + 1], power))


def _increases(t_s: Array) -> bool:
    return all(bool(np.all(np.diff(t_s[s : s + BLOCK + 1]) > 0)) for s in range(0, len(t_s) - 1, BLOCK))
