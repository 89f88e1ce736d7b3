"""A running tally of joules and watts, for the progress line and live readings. The stored samples are the record."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ergometry.core.domain import Domain, cover
from ergometry.core.ports import Signal


class Tally:
    """Joules so far and watts now, over the domains that cover the machine, from successive readings.

    ``energy_j`` grows with each source as it is read; ``power_w`` is the sum of what each was last seen to draw, NaN
    before the first is known. Readings are raw: gains are applied here.
    """

    def __init__(self) -> None:
        self._signals: dict[str, tuple[Signal, ...]] = {}
        self._read: dict[str, list[tuple[int, Signal]]] = {}
        self._last: dict[tuple[str, int], tuple[float, float]] = {}
        self._power_w: dict[tuple[str, int], float] = {}
        self.energy_j = 0.0

    @property
    def power_w(self) -> float:
        """Return the sum of the powers last seen, W."""
        return math.fsum(self._power_w.values()) if self._power_w else math.nan

    def declare(self, source: str, signals: Sequence[Signal]) -> None:
        """Say what a source reads from here on; what another source reads of the same place is not added to it."""
        self._signals[source] = tuple(signals)
        first: dict[Domain, tuple[str, int]] = {}
        for name, columns in self._signals.items():
            for j, signal in enumerate(columns):
                domain = Domain(signal.domain)
                if domain not in first or signal.quantity == "energy_j":
                    first[domain] = (name, j)
        kept = list(cover(first).values())
        self._read = {
            name: [(j, columns[j]) for of, j in kept if of == name] for name, columns in self._signals.items()
        }
        # What the source read before is of other signals; what is not read any more draws nothing of its own.
        known = {key for key in kept if key[0] != source}
        self._last = {key: last for key, last in self._last.items() if key in known}
        self._power_w = {key: watts for key, watts in self._power_w.items() if key in known}

    def update(self, source: str, t_s: float, values: Sequence[float]) -> None:
        """Take one reading of a source: a value per signal, NaN where it failed.

        A failed reading of a counter is carried by the next good one. A fall that is no wrap, and a rise that no
        power explains, add nothing.
        """
        for j, signal in self._read[source]:
            x = values[j]
            if not math.isfinite(x):
                continue
            t0_s, x0 = self._last.get((source, j), (t_s, x))
            self._last[source, j] = (t_s, x)
            if t_s <= t0_s:
                continue
            if signal.quantity == "power_w":
                joules = 0.5 * (x + x0) * (t_s - t0_s)
            else:
                joules = x - x0 + (signal.wrap_j if x < x0 and signal.wrap_j else 0.0)
            limit = signal.max_power_w
            if joules < 0 or (limit and joules > limit * (t_s - t0_s + 1.0)):
                continue
            self.energy_j += signal.gain * joules
            self._power_w[source, j] = signal.gain * joules / (t_s - t0_s)
