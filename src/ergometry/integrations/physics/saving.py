"""Saving: a cadence for what costs many steps, so that even the first use is paid before it is had."""

from __future__ import annotations

from ergometry.integrations.physics.tap import Cadence


class Saving(Cadence):
    """A cadence that saves its share of the step time until it can pay; the first price is a guess in steps."""

    def __init__(self, share: float, guess_steps: float, every: int | None = None) -> None:
        """Take a use to cost as much as ``guess_steps`` training steps, until one was had."""
        super().__init__(share, every)
        self._guess_steps = guess_steps
        self._credit_s = self._step_s = self._last_s = 0.0

    @property
    def price_s(self) -> float:
        """What a use costs, s."""
        return self._last_s or self._guess_steps * self._step_s

    def due(self, step_s: float) -> bool:
        """Take note of a step that takes ``step_s``, and say whether to use it now."""
        self._step_s = step_s
        if self.every is not None:
            return super().due(step_s)
        self.asked += 1
        self._credit_s = min(self._credit_s + self.share * step_s, 2.0 * self.price_s)
        return step_s > 0 and self._credit_s >= self.price_s

    def spent(self, seconds: float) -> None:
        """Pay for one use."""
        self.uses += 1
        self.cost_s += seconds
        self._credit_s = min(self._credit_s - seconds, 0.0)  # a guess too high would else buy two in a row
        self._last_s = seconds
