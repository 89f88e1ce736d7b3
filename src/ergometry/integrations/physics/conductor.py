"""Conductor: passes the events of training on to the taps, and ends one that fails, never the training."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ergometry.integrations.counting.ambient import Pass
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.tap import Tap
from ergometry.integrations.physics.tape import Unreplayable
from ergometry.integrations.physics.tapes import Tapes

_TOLD_S = 5.0
_SCALED = 8
EVENTS = (
    "step_begin",
    "forward_begin",
    "forward_end",
    "backward_begin",
    "backward_end",
    "optimizer_begin",
    "optimizer_end",
    "skipped",
    "unwound",
    "finish",
    "stop",
)


def _hears(tap: Tap, event: str) -> bool:
    return getattr(type(tap), event) is not getattr(Tap, event)


class Conductor:
    """Tells every tap what happens. ``failed`` holds why a tap was ended.

    The tapes that taps read are made here: what the script runs passes through :meth:`run`, and what it runs between
    its calls is recorded from :meth:`go_on` until :meth:`pause`. What taps compute themselves is never recorded.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        *,
        meta: Any,
        notice: Any,
        level: str,
        tapes: Tapes | None = None,
        pending: Pending | None = None,
    ) -> None:
        """Tell ``taps``, make ``tapes`` for them, and read what they have ``pending``."""
        self.taps = list(taps)
        # A tap is told only what it listens to: an event costs the others nothing.
        self._hearers = {event: [tap for tap in taps if _hears(tap, event)] for event in EVENTS}
        self._meta, self._notice, self.level = meta, notice, level
        self.tapes, self._pending = tapes, pending
        self.failed: dict[str, str] = {}
        self._ended: list[Tap] = []
        self._step = -1
        self._scaled: list[tuple[weakref.ref[Tensor], Tensor]] = []
        self._told_s = 0.0
        self.clocked_s = 0.0
        """Seconds spent in the taps' calls so far, by the clock of who passes events on."""

    # What the script runs

    def run(self, original: Callable[..., Any], subject: Any, args: Any, kwargs: Any) -> Any:
        """Run a call of the script's, recorded if a tape is being made."""
        if self.tapes is None or not self.tapes.recording:
            return original(subject, *args, **kwargs)
        return self.tapes.run(original, subject, args, kwargs)

    def pause(self) -> None:
        """Record nothing from here on."""
        if self.tapes is not None and self.tapes.engaged:
            self._tell(self.tapes, "pause")

    def go_on(self, counted: Pass | None) -> None:
        """Record what the script runs from here on, if a tape is being made and that is not being ``counted``."""
        if self.tapes is None or not self.tapes.engaged:
            return
        if counted is not None and counted.kind == "tail":
            self.drop()
        else:
            self._tell(self.tapes, "go_on")

    def drop(self) -> None:
        """Give the tape up that is being made: the counter has a mode of its own on."""
        if self.tapes is not None and self.tapes.engaged:
            self._tell(self.tapes, "drop")

    # Events

    def _each(self, event: str, *args: Any, **kwargs: Any) -> None:
        for tap in tuple(self._hearers[event]):
            self._tell(tap, event, *args, **kwargs)

    def _tell(self, tap: Tap | None, event: str, *args: Any, **kwargs: Any) -> None:
        if tap is None or tap.name in self.failed:
            return
        try:
            getattr(tap, event)(*args, **kwargs)
        except Unreplayable as reason:
            if event != "finish":  # by then the script may have let go of its model: what was read stands
                self._end(tap, str(reason))
        except Exception as error:
            self._end(tap, f"{type(error).__name__}: {error}")
            self._notice("physics.failed", f"{tap.name}: {self.failed[tap.name]}")

    def _end(self, tap: Tap, why: str) -> None:
        if tap in self.taps:
            self.taps.remove(tap)
            for hearers in self._hearers.values():
                hearers[:] = [other for other in hearers if other is not tap]
            self._ended.append(tap)
        self.failed[tap.name] = why
        try:
            tap.stop()
        except Exception as second:
            self.failed[tap.name] += f" ({second})"

    def forward_begin(self, step: int, step_s: float, module: Any, args: Any, kwargs: Any) -> None:
        """Pass on an outermost training forward; the first one of a step begins the step, which take ``step_s``."""
        if step != self._step:
            self._step = step
            self._tell(self.tapes, "step_begin", step, step_s)
            self._each("step_begin", step, step_s)
        self._each("forward_begin", module, args, kwargs)
        self._tell(self.tapes, "forward_begin", module, args, kwargs)

    def forward_end(self, module: Any, out: Any) -> None:
        """Pass on its end."""
        self._tell(self.tapes, "forward_end", module, out)
        self._each("forward_end", module, out)

    def backward_begin(self, tensors: Any) -> None:
        """Pass on a backward that is about to run."""
        self._tell(self.tapes, "backward_begin", tensors)
        self._each("backward_begin", tensors)

    def backward_end(self, tensors: Any, *, retained: bool = False) -> None:
        """Pass on its end; ``retained``: another backward of the same forward may come."""
        if retained:
            self._tell(self.tapes, "retain")
        self._each("backward_end", tensors)

    def scaled(self, outputs: Any, out: Any, scaler: Any) -> None:
        """Take note of what a gradient scaler made of a loss."""
        if self.taps and isinstance(out, Tensor) and out is not outputs and getattr(scaler, "_scale", None) is not None:
            self._scaled = [*self._scaled[-_SCALED:], (weakref.ref(out), scaler._scale)]
            self._tell(self.tapes, "scaled", outputs, out)

    def loss_scale(self, tensors: Any) -> Tensor | None:
        """Return the factor by which a gradient scaler has multiplied what a backward is called on; None: no scaler."""
        first = tensors[0] if isinstance(tensors, (list, tuple)) and tensors else tensors
        return next((scale for out, scale in self._scaled if out() is first), None)

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Pass on an optimizer's step that is about to run."""
        self._tell(self.tapes, "optimizer_begin", optimizer, closure=closure)
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
        self._tell(self.tapes, "unwound")
        self._each("unwound")

    # Now and then, and at the end

    def poll(self) -> None:
        """Have the taps read what has arrived from a device."""
        self._read("poll")

    def _read(self, how: str) -> None:
        try:
            if self._pending is not None:
                getattr(self._pending, how)()
        except Exception as error:
            self._notice("physics.failed", f"what a device sent could not be read: {type(error).__name__}: {error}")

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
        self._read("drain")
        self.tell()
        self.stop()

    def stop(self) -> None:
        """Let go of everything."""
        self._each("stop")
        self._tell(self.tapes, "stop")

    @property
    def spent_s(self) -> float:
        """Seconds that the taps have cost so far: in their calls, and in the recorded passes of the script's."""
        return self.clocked_s + (self.tapes.recorded_s if self.tapes is not None else 0.0)
