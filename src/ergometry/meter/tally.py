"""A running tally of joules and watts, for the progress line and live readings. The stored samples are the record."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ergometry.core.domain import Domain, cover
from ergometry.core.ports import Signal


class Tally:
    """Joules so far and watts now, over the domains that cover the machine, from successive samples."""

    def __init__(self, sources: Sequence[Sequence[Signal]]) -> None:
        first: dict[Domain, tuple[int, int]] = {}
        for i, signals in enumerate(sources):
            for j, signal in enumerate(signals):
                domain = Domain(signal.domain)
                if domain not in first or signal.quantity == "energy_j":
                    first[domain] = (i, j)
        self._read = [(i, j, sources[i][j]) for i, j in cover(first).values()]
        self._last: dict[tuple[int, int], tuple[float, float]] = {}
        self.energy_j = 0.0
        self.power_w = math.nan

    def update(self, t_s: float, readings: Sequence[Sequence[float]]) -> None:
        """Take one sample of every source, all read at about ``t_s``."""
        power = 0.0
        fresh = False
        for i, j, signal in self._read:
            x = readings[i][j]
            if not math.isfinite(x):
                continue
            t0, x0 = self._last.get((i, j), (t_s, x))
            self._last[i, j] = (t_s, x)
            if t_s <= t0:
                continue
            if signal.quantity == "power_w":
                joules = 0.5 * (x + x0) * (t_s - t0)
            else:
                joules = x - x0 + (signal.wrap_j if x < x0 and signal.wrap_j else 0.0)
            limit = signal.max_power_w
            if joules < 0 or (limit and joules > limit * (t_s - t0 + 1.0)):
                continue
            self.energy_j += joules
            power += joules / (t_s - t0)
            fresh = True
        if fresh:
            self.power_w = power
