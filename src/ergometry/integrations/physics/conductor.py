"""Conductor: passes the events of training on to the taps, and ends one that fails, never the training."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ergometry.integrations.counting.ambient import Pass
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.purse import ALLOWED, Purse
from ergometry.integrations.physics.tap import Pace, Steppers, Tap
from ergometry.integrations.physics.tape import Unreplayable
from ergometry.integrations.physics.tapes import Tapes

_TOLD_S = 5.0
_SCALED = 8
EVENTS = (
    "step_begin",
    "step_end",
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
_FOR_TAPES = ("forward_begin", "forward_end", "backward_begin", "backward_end", "optimizer_begin", "unwound")


def _hears(tap: Tap, event: str) -> bool:
    return getattr(type(tap), event) is not getattr(Tap, event)


class Conductor:
    """Tells taps what happens, in the steps that they are used in, and no tap in any other step.

    When a step begins, it is settled which taps it is for: those that are due, as far as all together keep to what is
    allowed (:class:`.purse.Purse`). What is heard by none is not told, and costs next to nothing. ``failed`` holds why
    a tap was ended.

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
        beside_s: Callable[[], float] = float,
    ) -> None:
        """Tell ``taps``, make ``tapes`` for them, and read what they have ``pending``.

        ``beside_s`` returns what else counts into what is allowed: seconds spent on the ledger of gradient work.
        """
        self.taps = list(taps)
        self._meta, self._notice, self.level = meta, notice, level
        self.tapes, self._pending = tapes, pending
        self.failed: dict[str, str] = {}
        self._ended: list[Tap] = []
        self.pace, self.steppers = Pace(), Steppers()
        for tap in self.taps:
            tap.steppers = self.steppers
        self.heard: dict[str, list[Tap]] = {}
        """Who is told of each event of the step under way; an event that is not there is told to none."""
        self._telling: list[Tap] = []
        self._uses: list[tuple[Tap, int]] = []  # those, with how often each was used before
        self._step = -1
        self._scaled: list[tuple[weakref.ref[Tensor], Tensor]] = []
        self._told_s = 0.0
        self.clocked_s = 0.0
        """Seconds spent in the taps' calls so far, by the clock of who passes events on."""
        self._within_s = 0.0  # in the taps themselves
        self._purse = Purse(self.pace, level, lambda: self.spent_s + beside_s())
        self.affords = self._purse.affords

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

    # Which steps are told of

    def begins(self, step: int, step_s: float, took_s: float | None = None) -> bool:
        """Take note of a training forward; say whether :meth:`step_begin` is to be called before it is told.

        Args:
            step: of which it is; the first one of a step begins it.
            step_s: what a step takes about, s.
            took_s: what the last one took, s, without the instrument's own time; None: as much as a step takes.
        """
        if step == self._step:
            return False
        began = time.perf_counter()
        pace, self._step = self.pace, step
        pace.steps += 1
        pace.step_s = step_s
        pace.trained_s += step_s if took_s is None else took_s
        self.steppers.begin()
        asks = bool(self._telling) or self._purse.asks()
        self.clocked_s += time.perf_counter() - began
        return asks and bool(self.taps)

    def step_begin(self) -> None:
        """End the last step for the taps that it was told to, and begin this one for those that it is wanted by."""
        for tap, uses in self._uses:
            self._tell(tap, "step_end")
            if tap.use and tap.cadence is not None and tap.cadence.uses == uses and not tap.again:
                tap.cadence.lapse()
        if self._telling:
            self._tell(self.tapes, "step_end")
        self._telling = self._purse.choose(self.taps)
        self._uses = [(tap, tap.cadence.uses if tap.cadence is not None else 0) for tap in self._telling]
        self._listen()
        if self._telling:
            self._tell(self.tapes, "step_begin", self._step, self.pace.step_s)
            self._each("step_begin", self._step, self.pace.step_s)

    def _listen(self) -> None:
        """Settle who hears which events until a step is wanted again."""
        self.heard = {event: found for event in EVENTS if (found := [t for t in self._telling if _hears(t, event)])}
        if "skipped" in self.heard:
            self.heard.setdefault("optimizer_end", [])  # which tells it
        if self._telling and self.tapes is not None:
            for event in _FOR_TAPES:
                self.heard.setdefault(event, [])

    # Events

    def _each(self, event: str, *args: Any, **kwargs: Any) -> None:
        for tap in self.heard.get(event, ()):
            self._tell(tap, event, *args, **kwargs)

    def _tell(self, tap: Tap | None, event: str, *args: Any, **kwargs: Any) -> None:
        if tap is None or tap.name in self.failed:
            return
        began = time.perf_counter()
        try:
            getattr(tap, event)(*args, **kwargs)
        except Unreplayable as reason:
            if event != "finish":  # by then the script may have let go of its model: what was read stands
                self._end(tap, str(reason))
        except Exception as error:
            self._end(tap, f"{type(error).__name__}: {error}")
            self._notice("physics.failed", f"{tap.name}: {self.failed[tap.name]}")
        self._within_s += time.perf_counter() - began

    def _end(self, tap: Tap, why: str) -> None:
        if tap in self.taps:
            self.taps.remove(tap)
            self._telling = [other for other in self._telling if other is not tap]
            self.heard = {
                event: [other for other in hearers if other is not tap] for event, hearers in self.heard.items()
            }
            self._ended.append(tap)
        self.failed[tap.name] = why
        try:
            tap.stop()
        except Exception as second:
            self.failed[tap.name] += f" ({second})"

    def forward_begin(self, step: int, step_s: float, module: Any, args: Any, kwargs: Any) -> None:
        """Pass on an outermost training forward of a step; the first one begins it."""
        if self.begins(step, step_s):
            self.step_begin()
        self._each("forward_begin", module, args, kwargs)
        if self._telling:
            self._tell(self.tapes, "forward_begin", module, args, kwargs)

    def forward_end(self, module: Any, out: Any) -> None:
        """Pass on its end."""
        if self._telling:
            self._tell(self.tapes, "forward_end", module, out)
        self._each("forward_end", module, out)

    def ran(self, module: Any, seconds: float) -> None:
        """Take note of what an outermost training forward takes that is not told of."""
        if self.tapes is not None:
            self.tapes.usual(module, seconds)

    def backward_begin(self, tensors: Any) -> None:
        """Pass on a backward that is about to run."""
        if self._telling:
            self._tell(self.tapes, "backward_begin", tensors)
        self._each("backward_begin", tensors)

    def backward_end(self, tensors: Any, *, retained: bool = False) -> None:
        """Pass on its end; ``retained``: another backward of the same forward may come."""
        if retained and self._telling:
            self._tell(self.tapes, "retain")
        self._each("backward_end", tensors)

    def scaled(self, outputs: Any, out: Any, scaler: Any) -> None:
        """Take note of what a gradient scaler made of a loss."""
        if self.taps and isinstance(out, Tensor) and out is not outputs and getattr(scaler, "_scale", None) is not None:
            self._scaled = [*self._scaled[-_SCALED:], (weakref.ref(out), scaler._scale)]
            if self._telling:
                self._tell(self.tapes, "scaled", outputs, out)

    def loss_scale(self, tensors: Any) -> Tensor | None:
        """Return the factor by which a gradient scaler has multiplied what a backward is called on; None: no scaler."""
        first = tensors[0] if isinstance(tensors, (list, tuple)) and tensors else tensors
        return next((scale for out, scale in self._scaled if out() is first), None)

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Pass on an optimizer's step that is about to run."""
        self.steppers.add(optimizer)
        if self._telling:
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
        if self._telling:
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
        """Keep with the run what each tap did and cost, and the passing on of events."""
        told: dict[str, Any] = {}
        for tap in (*self.taps, *self._ended):
            cadence = tap.cadence
            told[tap.name] = {
                "uses": cadence.uses if cadence else None,
                "steps": self.pace.steps if cadence else None,
                "cost_s": cadence.cost_s if cadence else None,
                "share": cadence.share if cadence else None,
                "why": self.failed.get(tap.name) or self._purse.why(tap) or tap.why(),
            }
        label: dict[str, Any] = {"level": self.level, "taps": told}
        if told:
            label |= {"events_s": max(self.clocked_s - self._within_s, 0.0)}
            if self.level == "light":
                label |= {"allowed": ALLOWED}
        self._meta(physics=label)

    def finish(self) -> None:
        """Have every tap emit what is left."""
        for event in ("step_end", "finish"):
            for tap in tuple(self.taps):
                if _hears(tap, event) and (event == "finish" or tap in self._telling):
                    self._tell(tap, event)
        self._read("drain")
        self.tell()
        self.stop()

    def stop(self) -> None:
        """Let go of everything."""
        for tap in tuple(self.taps):
            self._tell(tap, "stop")
        self._tell(self.tapes, "stop")
        self.heard, self._telling = {}, []

    @property
    def spent_s(self) -> float:
        """Seconds that the taps have cost so far: in their calls, and within the script's own."""
        recorded_s = self.tapes.recorded_s if self.tapes is not None else 0.0
        return self.clocked_s + recorded_s + sum([tap.unclocked_s for tap in (*self.taps, *self._ended)])
