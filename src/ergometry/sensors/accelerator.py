"""A simulated accelerator: true power as a function of work, clock and power cap, with exact energy.

Power is ``static + FLOP/s · e_flop · c^(k-1) + bytes/s · e_byte`` at relative clock c: the rate of FLOP goes with the
clock and the voltage follows it, so dynamic power of the arithmetic goes as c^k. Memory has a clock of its own. A
kernel lasts as long as the slower of its arithmetic and its traffic (the roofline). A cap lowers the clock until
the power fits; what is bound by arithmetic then takes longer. Standard library only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from ergometry.core.errors import UsageError

_HALVINGS = 50


class Stretch(NamedTuple):
    """A time of constant power: its length (s), power (W), and the relative clock that held."""

    seconds: float
    power_w: float
    clock: float = 1.0


class Work(NamedTuple):
    """A kernel, a phase or a pause: floating-point operations, bytes moved, and the least time it takes (s)."""

    flop: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0


class Load:
    """Power over time as stretches of constant power, and its exact integral.

    Args:
        stretches: one after the other from time 0; those of no length are left out.
        repeat: whether the schedule begins anew at its end; else the last power goes on. The first goes back for ever.

    Raises:
        UsageError: no stretch has a length, or a length or a power is negative or not finite.

    >>> load = Load([Stretch(1.0, 100.0), Stretch(0.5, 300.0)], repeat=True)
    >>> load.energy_j(1.25), load.energy_j(3.0), load.power_w(2.6)
    (175.0, 500.0, 300.0)
    """

    def __init__(self, stretches: Iterable[Stretch], *, repeat: bool = False) -> None:
        kept = [stretch for stretch in stretches if stretch.seconds != 0]
        bad = next((s for s in kept if not (0 < s.seconds < math.inf and 0 <= s.power_w < math.inf)), None)
        if bad is not None or not kept:
            raise UsageError(
                expected="stretches of positive length and of power that is not negative",
                got="none" if bad is None else str(bad),
                remedy="give seconds and watts",
            )
        self.repeat = repeat
        self.stretches: Sequence[Stretch] = tuple(kept)
        self.edges_s = list(accumulate((s.seconds for s in kept), initial=0.0))
        self.energies_j = list(accumulate((s.seconds * s.power_w for s in kept), initial=0.0))
        self._begins_s = self.edges_s[:-1]
        self._powers_w = [s.power_w for s in kept]

    @property
    def duration_s(self) -> float:
        """Length of the schedule, once."""
        return self.edges_s[-1]

    def energy_j(self, t_s: float) -> float:
        """Return the exact energy from time 0 to ``t_s``, J; negative before 0."""
        before_j = 0.0
        if self.repeat and t_s >= 0:
            rounds, t_s = divmod(t_s, self.duration_s)
            before_j = rounds * self.energies_j[-1]
        i = bisect_right(self._begins_s, t_s, 1) - 1
        return before_j + self.energies_j[i] + self._powers_w[i] * (t_s - self._begins_s[i])

    def power_w(self, t_s: float) -> float:
        """Return the power at ``t_s``, W; at an edge that of the stretch that begins."""
        return self.at(t_s).power_w

    def at(self, t_s: float) -> Stretch:
        """Return the stretch that holds at ``t_s``."""
        if self.repeat and t_s >= 0:
            t_s %= self.duration_s
        return self.stretches[bisect_right(self._begins_s, t_s, 1) - 1]


@dataclass(frozen=True)
class Accelerator:
    """A board: static power (W), energies per operation (J) at full clock, peak rates, cap (W) and clocks.

    ``exponent`` is the k of dynamic power ∝ c^k; ``clock`` and ``least_clock`` are relative to the full clock.
    """

    static_w: float
    j_per_flop: float
    j_per_byte: float
    flop_per_s: float
    bytes_per_s: float
    cap_w: float = math.inf
    clock: float = 1.0
    least_clock: float = 0.15
    exponent: float = 2.5

    def capped(self, cap_w: float) -> Accelerator:
        """Return the same board under another power cap."""
        return replace(self, cap_w=cap_w)

    def clocked(self, clock: float) -> Accelerator:
        """Return the same board with its clock held at a share of the full one."""
        return replace(self, clock=clock)

    def do(self, work: Work) -> Stretch:
        """Return how long some work takes, at what power and clock, by the highest clock that the cap allows.

        Where even the least clock draws more than the cap, as a cap near static power does, the cap is not held.

        >>> board = Accelerator(50, 1e-12, 0, 3e14, 1e12)
        >>> board.do(Work(flop=3e14))
        Stretch(seconds=1.0, power_w=350.0, clock=1.0)
        >>> held = board.capped(200).do(Work(flop=3e14))
        >>> round(held.power_w), held.seconds > 1, held.power_w * held.seconds < 350
        (200, True, True)
        """
        full = self._at(work, self.clock)
        if full.power_w <= self.cap_w or self.clock <= self.least_clock:
            return full
        low, high = self.least_clock, self.clock
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._at(work, middle).power_w <= self.cap_w else (low, middle)
        return self._at(work, low)

    def load(self, works: Iterable[Work], *, repeat: bool = False) -> Load:
        """Return the power over time of a schedule of work, one piece after the other."""
        return Load((self.do(work) for work in works), repeat=repeat)

    def _at(self, work: Work, clock: float) -> Stretch:
        seconds = max(work.flop / (self.flop_per_s * clock), work.bytes / self.bytes_per_s, work.seconds)
        if seconds == 0:
            return Stretch(0.0, self.static_w, clock)
        dynamic_j = work.flop * self.j_per_flop * clock ** (self.exponent - 1) + work.bytes * self.j_per_byte
        return Stretch(seconds, self.static_w + dynamic_j / seconds, clock)
