"""Trace: the cumulative energy of one domain over time, and the energy of any window of it, with its error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import InvalidSeries
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.ports import Signal

Array = npt.NDArray[np.float64]

_BLOCK = 1 << 18


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
        steps = np.diff(x[good])
        limits = np.broadcast_to(np.asarray(np.inf if max_step is None else max_step, dtype=np.float64), len(x) - 1)
        # A gap of failed reads may hold the sum of the limits it spans.
        spans = np.add.reduceat(limits[: good[-1]], good[:-1])
        if wrap is not None:
            steps = np.where(steps < 0, steps + wrap, steps)
        steps[(steps < 0) | (steps > spans)] = 0.0
        rises[good[1:]] = steps
    return np.cumsum(rises)


def _energy_j(t_s: Array, x: Array, signal: Signal) -> Array:
    """Return cumulative joules, from zero, of samples that are finite and in order."""
    if signal.quantity == "power_w":
        return np.concatenate(([0.0], np.cumsum(0.5 * (x[1:] + x[:-1]) * np.diff(t_s))))
    # A second of allowance: counters update late, so one interval may carry a little of the last.
    limit = None if signal.max_power_w is None else signal.max_power_w * (np.diff(t_s) + 1.0)
    return unwrap(x, signal.wrap_j, limit)


@dataclass(frozen=True)
class Trace:
    """Cumulative energy E(t) of one domain: ``t_s`` (n,) increasing monotonic seconds, ``e_j`` (n,) joules from 0.

    Between samples E is interpolated linearly, and beyond the ends continued at the mean power. The
    energy of a window is ``E(t1) - E(t0)``, hence additive: windows that tile a span sum to the span's energy.

    The error has three parts: *resolution* and *staleness* of the counter at the two edges; *interpolation*,
    the unknown split of a sampling interval that an edge cuts (between 0 and the interval's energy: standard
    error ΔE·√(f(1-f)/3) at fraction f); and the *relative* error that all windows of the domain share
    (board gain, or the model's error). Scaling power by a and time by b scales value and error by ab.
    """

    t_s: Array
    e_j: Array
    signal: Signal
    gaps: int = field(default=0)

    def __post_init__(self) -> None:
        if len(self.t_s) != len(self.e_j) or len(self.t_s) < 2 or np.any(self.t_s[1:] <= self.t_s[:-1]):
            raise InvalidSeries(
                expected="at least two samples at increasing times",
                got=f"{len(self.t_s)} times and {len(self.e_j)} values",
                remedy="sample for longer, or drop the samples whose clock ran backward",
            )

    @classmethod
    def from_samples(cls, t_s: npt.ArrayLike, x: npt.ArrayLike, signal: Signal) -> Trace:
        """Build from a signal's samples: a counter is unwrapped, a power integrated by the trapezoid rule.

        Samples that are NaN or whose time does not increase are left out, and counted in ``gaps``.

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
        t_out, e_out = np.empty(len(t)), np.empty(len(t))
        kept, past_s, last = 0, -np.inf, (0.0, 0.0, 0.0)
        for start in range(0, len(t), _BLOCK):
            # In blocks, so that a run of ten million samples needs no ten copies of itself.
            tb, yb = t[start : start + _BLOCK], y[start : start + _BLOCK]
            finite = np.isfinite(tb)
            past = np.maximum.accumulate(np.concatenate(([past_s], np.where(finite, tb, -np.inf))))
            past_s = past[-1]
            good = np.isfinite(yb) & finite & (tb > past[:-1])
            tb, yb = tb[good], yb[good]
            if not len(tb):
                continue
            if kept:
                tb, yb = np.concatenate(([last[0]], tb)), np.concatenate(([last[1]], yb))
            e = last[2] + _energy_j(tb, yb, signal)
            tb, new = tb[bool(kept) :], e[bool(kept) :]
            t_out[kept : kept + len(tb)], e_out[kept : kept + len(tb)] = tb, new
            kept, last = kept + len(tb), (float(tb[-1]), float(yb[-1]), float(e[-1]))
        return cls(t_out[:kept], e_out[:kept], signal, len(t) - kept)

    def cumulative_j(self, t_s: npt.ArrayLike) -> Array:
        """Return E at the times given, in joules: linear between samples, at mean power beyond the ends."""
        at = np.asarray(t_s, dtype=np.float64)
        inside = np.interp(at, self.t_s, self.e_j)
        beyond = np.where(at < self.t_s[0], at - self.t_s[0], np.where(at > self.t_s[-1], at - self.t_s[-1], 0.0))
        return np.asarray(inside + beyond * self.mean_power_w)

    @property
    def mean_power_w(self) -> float:
        """Mean power over the whole trace, W."""
        return float(self.e_j[-1] / (self.t_s[-1] - self.t_s[0]))

    def edge_stderr_j(self, t_s: npt.ArrayLike) -> Array:
        """Return the standard error of E at the times given that is due to sampling there, in joules."""
        at = np.asarray(t_s, dtype=np.float64)
        i = np.clip(np.searchsorted(self.t_s, at, side="right") - 1, 0, len(self.t_s) - 2)
        width, energy = self.t_s[i + 1] - self.t_s[i], self.e_j[i + 1] - self.e_j[i]
        f = np.clip((at - self.t_s[i]) / width, 0.0, 1.0)
        split = energy * np.sqrt(f * (1.0 - f) / 3.0)
        outside = np.maximum(np.maximum(self.t_s[0] - at, at - self.t_s[-1]), 0.0) * self.mean_power_w
        stale = energy / width * self.signal.update_period_s / np.sqrt(12.0)
        resolution = self.signal.resolution_j / np.sqrt(12.0)
        return np.asarray(np.sqrt(split**2 + outside**2 + stale**2 + resolution**2))

    def energy(self, t0_s: float, t1_s: float) -> Estimate:
        """Return the energy of the window [t0_s, t1_s], in joules.

        Raises:
            InvalidSeries: the window ends before it begins.
        """
        if not t1_s >= t0_s:
            raise InvalidSeries(
                expected="t1_s >= t0_s", got=f"[{t0_s}, {t1_s}]", remedy="give the window's beginning first"
            )
        ends = np.array([t0_s, t1_s])
        value = float(np.diff(self.cumulative_j(ends))[0])
        edges = self.edge_stderr_j(ends)
        if t1_s == t0_s:
            edges = np.zeros(2)
        stderr = float(np.sqrt(np.sum(edges**2) + (self.signal.rel_stderr * value) ** 2))
        return Estimate(value, stderr, "J", Provenance(self.signal.provenance), self.signal.method)

    def power_w(self, edges_s: npt.ArrayLike) -> Array:
        """Return the mean power of each interval between consecutive ``edges_s`` (m,), in watts (m-1,)."""
        edges = np.asarray(edges_s, dtype=np.float64)
        return np.asarray(np.diff(self.cumulative_j(edges)) / np.diff(edges))

    def to_json(self) -> dict[str, Any]:
        """Return the trace as JSON: times, cumulative joules and the signal."""
        return {"t_s": self.t_s.tolist(), "e_j": self.e_j.tolist(), "signal": self.signal.to_json(), "gaps": self.gaps}
