"""Knots: where on the time axis a sensor's readings belong, and how exactly that is known.

A counter that is brought up to date every U seconds and read at t shows E(u) of its last update, t - U < u ≤ t. Equal
readings from t_a to t_b show one update, u in (t_b - U, t_a]; it came after the reading before; and U before the update
that the next reading shows. The knot is put at the middle of what is left, whose width over √12 is its standard error.
Readings that stay equal for longer than U tell nothing of when the update came, only that nothing was used.

A power is the mean of the last A seconds of an update: its knot lies U/2 + A/2 before the reading.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ergometry.core.counter import BLOCK

Array = npt.NDArray[np.float64]
Widths = npt.NDArray[np.float32]


def place(t_s: Array, e_j: Array, update_period_s: float) -> tuple[Array, Array, Widths | None]:
    """Return the knots of a counter: times, joules, and the width (s) of where each may lie; None: all of the period.

    Args:
        t_s: (n,) increasing times of readings; overwritten.
        e_j: (n,) cumulative joules of the readings; overwritten.
        update_period_s: U, s.
    """
    if update_period_s <= 0:
        return t_s, e_j, None
    kept, last_s = 0, -np.inf
    widths = np.empty(len(t_s), dtype=np.float32)
    for start in range(0, len(t_s), BLOCK):
        # Runs and neighbours that a block's end cuts lose a constraint, which makes their knots no less true.
        t, e = t_s[start : start + BLOCK].copy(), e_j[start : start + BLOCK].copy()
        low, high, groups = _bounds(t, e, update_period_s)
        low[0] = max(low[0], last_s)
        part = slice(kept, kept + len(groups))
        t_s[part], e_j[part], widths[part] = 0.5 * (low + high), e[groups], high - low
        kept, last_s = part.stop, float(t[-1])
    return t_s[:kept], e_j[:kept], widths[:kept]


def _bounds(t: Array, e: Array, period_s: float) -> tuple[Array, Array, npt.NDArray[np.intp]]:
    """Return the earliest and latest time of each update that is shown, and the first reading that shows it."""
    first = np.flatnonzero(np.concatenate(([True], np.diff(e) != 0)))
    last = np.append(first[1:], len(t)) - 1
    if len(first) < len(t) and np.any(t[last] - t[first] >= period_s):
        # Truly nothing used: every reading is a knot of its own.
        long = t[last] - t[first] >= period_s
        own = np.repeat(long, last - first + 1)
        starts = np.zeros(len(t), dtype=bool)
        starts[first] = True
        first = np.flatnonzero(starts | own)
        last = np.append(first[1:], len(t)) - 1
    low, high = t[last] - period_s, t[first].copy()
    changed = e[first[1:]] != e[first[:-1]]
    low[1:] = np.where(changed, np.maximum(low[1:], t[last[:-1]]), low[1:])
    earlier = high[1:] - period_s
    high[:-1] = np.where(changed & (earlier > low[:-1]), np.minimum(high[:-1], earlier), high[:-1])
    return low, high, first
