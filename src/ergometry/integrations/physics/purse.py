"""Purse: what all taps together may spend at level light, and which of them a step is for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from ergometry.integrations.physics.tap import Cadence, Pace, Tap

ALLOWED = 0.035
"""Of the training's time, that everything at level light may take: 5 %, less what no clock of ours sees."""
_LENT = 0.5
"""Of what is allowed, that first uses may take before their own shares have saved it up: short runs have them too."""
_LENDS = 3
"""Attempts at a first use that are lent for."""


class Purse:
    """Chooses, when a step begins, the taps that it is for: those that are due, as far as all together can pay.

    A use is had when what all have spent, and what it is likely to cost, is within :data:`ALLOWED` of the time that
    training has taken by itself. So whatever a use costs, the next one waits until it is paid. Not bound by it: level
    full, and cadences that the user has fixed.
    """

    def __init__(self, pace: Pace, level: str, spent_s: Callable[[], float]) -> None:
        """Choose at ``pace``; ``spent_s`` returns what all have spent so far, s."""
        self._pace, self._level, self._spent_s = pace, level, spent_s
        self.used: Counter[str] = Counter()
        """How often a step was for each tap, by name."""
        self._at_s, self._at_step = 0.0, 0.0

    def asks(self) -> bool:
        """Say whether a tap may be due in the step that begins."""
        return self._pace.trained_s >= self._at_s or self._pace.steps >= self._at_step

    def affords(self, seconds: float) -> bool:
        """Say whether so much can be paid now."""
        return self._level != "light" or self._spent_s() + seconds <= ALLOWED * self._pace.trained_s

    def choose(self, taps: Sequence[Tap]) -> list[Tap]:
        """Return the taps that the step is for, each told whether it is for a use; settle when to ask again."""
        self._at_s = self._at_step = math.inf
        pace, spent_s = self._pace, self._spent_s()
        # Of those that were not used yet the cheap ones first: a short run then has as many as it can.
        for tap in sorted(taps, key=self._rank):
            cadence, tap.use, next_s = tap.cadence, tap.due(pace), tap.next_s(pace)
            if next_s == math.inf:
                continue
            if cadence is None or cadence.every is not None:
                every = cadence.every if cadence is not None and cadence.every is not None else 1
                self._at_step = min(self._at_step, pace.steps + every - (pace.steps - 1) % every)
                continue
            if self._level == "light":
                price_s = cadence.price_s(pace.step_s)
                if self._lends(tap, cadence) and pace.step_s > 0:
                    lent_s = (spent_s + price_s) / (_LENT * ALLOWED)
                    tap.use, next_s = tap.use or lent_s <= pace.trained_s, min(next_s, lent_s)
                paid_s = (spent_s + price_s) / ALLOWED
                tap.use, next_s = tap.use and paid_s <= pace.trained_s, max(next_s, paid_s)
                spent_s += price_s if tap.use else 0.0
            self._at_s = min(self._at_s, next_s)
        chosen = [tap for tap in taps if tap.use or tap.again]
        self.used.update(tap.name for tap in chosen)
        return chosen

    def _lends(self, tap: Tap, cadence: Cadence) -> bool:
        return not cadence.uses and self.used[tap.name] < _LENDS

    def _rank(self, tap: Tap) -> tuple[bool, float]:
        cadence = tap.cadence
        first = cadence is not None and not cadence.uses
        return not first, cadence.price_s(self._pace.step_s) if cadence is not None and first else 0.0

    def why(self, tap: Tap) -> str:
        """Say that a tap was never used since the run was too short to pay for it, and what would; else nothing."""
        cadence, pace = tap.cadence, self._pace
        if cadence is None or cadence.uses or self.used[tap.name] or tap.refuses or not pace.steps:
            return ""
        price_s = cadence.price_s(pace.step_s)
        cost = f"a use takes about {1e3 * price_s:.2g} ms" if pace.step_s > 0 else "what a use takes is not known yet"
        saved = f"its share of {pace.steps} steps is {1e3 * cadence.share * pace.trained_s:.2g} ms"
        return f"its cadence never came due ({cost}, {saved}): --physics full or --physics-every N takes one anyway"
