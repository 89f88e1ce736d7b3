"""Conductor: passes the events of training on to the taps, and ends one that fails, never the training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ergometry.integrations.physics.tap import Tap

_TOLD_S = 5.0


class Conductor:
    """Tells every tap what happens. ``failed`` holds why a tap was ended."""

    def __init__(self, taps: Sequence[Tap], *, meta: Any, notice: Any, level: str) -> None:
        self.taps = list(taps)
        self._meta, self._notice, self.level = meta, notice, level
        self.failed: dict[str, str] = {}
        self._ended: list[Tap] = []
        self._step = -1
        self._told_s = 0.0

    def _each(self, event: str, *args: Any, **kwargs: Any) -> None:
        for tap in tuple(self.taps):
            try:
                getattr(tap, event)(*args, **kwargs)
            except Exception as error:
                self._end(tap, error)

    def _end(self, tap: Tap, error: Exception) -> None:
        self.taps.remove(tap)
        self._ended.append(tap)
        self.failed[tap.name] = f"{type(error).__name__}: {error}"
        self._notice("physics.failed", f"{tap.name}: {self.failed[tap.name]}")
        try:
            tap.stop()
        except Exception as second:
            self.failed[tap.name] += f" ({second})"

    def forward_begin(self, step: int, step_s: float, module: Any, args: Any, kwargs: Any) -> None:
        """Pass on an outermost training forward; the first one of a step begins the step."""
        if step != self._step:
            self._step = step
            self._each("step_begin", step, step_s)
        self._each("forward_begin", module, args, kwargs)

    def forward_end(self, module: Any, out: Any) -> None:
        """Pass on its end."""
        self._each("forward_end", module, out)

    def backward_begin(self, tensors: Any) -> None:
        """Pass on a backward that is about to run."""
        self._each("backward_begin", tensors)

    def backward_end(self, tensors: Any) -> None:
        """Pass on its end."""
        self._each("backward_end", tensors)

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Pass on an optimizer's step that is about to run."""
        self._each("optimizer_begin", optimizer, closure=closure)

    def optimizer_end(self, optimizer: Any, step: int, *, skipped: bool) -> None:
        """Pass on its end."""
        if skipped:
            self._each("skipped")
        else:
            self._each("optimizer_end", optimizer, step)

    def unwound(self) -> None:
        """Pass on that the script's own code raised."""
        self._step = -1
        self._each("unwound")

    def housekeep(self) -> None:
        """Keep with the run, now and then, what each tap did and cost."""
        now = time.perf_counter()
        if now - self._told_s > _TOLD_S:
            self._told_s = now
            self.tell()

    def tell(self) -> None:
        """Keep with the run what each tap did and cost."""
        told: dict[str, Any] = {}
        for tap in (*self.taps, *self._ended):
            cadence = tap.cadence
            told[tap.name] = {
                "uses": cadence.uses if cadence else None,
                "steps": cadence.asked if cadence else None,
                "cost_s": cadence.cost_s if cadence else None,
                "share": cadence.share if cadence else None,
                "why": self.failed.get(tap.name) or tap.why(),
            }
        self._meta(physics={"level": self.level, "taps": told})

    def finish(self) -> None:
        """Have every tap emit what is left."""
        self._each("finish")
        self.tell()
        self.stop()

    def stop(self) -> None:
        """Let go of everything."""
        self._each("stop")

    @property
    def spent_s(self) -> float:
        """Seconds that the taps have spent so far."""
        return sum(tap.cadence.cost_s for tap in (*self.taps, *self._ended) if tap.cadence)
