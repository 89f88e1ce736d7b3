"""Tap: one estimator's hand in the training process, and the cadence that holds it to its share of the step time.

A tap reads, never writes: no random number is drawn from a stream of the script's, no tensor or buffer of the script's
changes, nothing is synchronised on the step path. Whatever a tap raises ends that tap alone, with its reason.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ergometry.integrations.pending import Pending
from ergometry.integrations.schedules import Schedule
from ergometry.integrations.steps import StepMachine

LEVELS = ("off", "light", "full")


def _unknown(*_: Any) -> None:
    return None


def _always(*_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Site:
    """What a tap may use of the process that it taps.

    Attributes:
        emit: writes a row, ``emit(series, *values)``.
        pending: reads device tensors without waiting for them.
        machine: the step machine; its ``index`` is the step under way.
        now: seconds since the run's origin.
        schedule: returns the learning rates of an optimizer and their sums, up to the step under way.
        meta: keeps labels with the run, ``meta(key=value)``.
        notice: warns, ``notice(code, detail)``.
        level: ``light`` or ``full``.
        every: steps from one use to the next, where the user asked for a fixed cadence; None: by share of time.
        loss: the user's ``loss(model, batch)``, where the API owns it; else None.
        probe: the user's probe batch, else None.
        dataset: returns the number of examples that the batches of the last loader are drawn from without
            replacement; None where they stream, repeat or are not known.
        affords: says whether so many seconds may be spent outside of any cadence, as at the end of a run.
        loss_scale: of the tensors that a backward is about to run on, returns the factor (a tensor) by which a
            gradient scaler has multiplied them; None where none has.
    """

    emit: Callable[..., None]
    pending: Pending
    machine: StepMachine
    now: Callable[[], float]
    schedule: Callable[[Any], Schedule]
    meta: Callable[..., None]
    notice: Callable[..., None]
    level: str = "light"
    every: int | None = None
    loss: Callable[..., Any] | None = None
    probe: Any = None
    dataset: Callable[[], float | None] = _unknown
    loss_scale: Callable[[Any], Any] = _unknown
    affords: Callable[[float], bool] = _always

    @property
    def full(self) -> bool:
        """Whether dear quantities were asked for."""
        return self.level == "full"


@dataclass
class Pace:
    """How far the training has come.

    Attributes:
        steps: training steps begun.
        trained_s: seconds that the steps before this one took by themselves, without the instrument's own time.
        step_s: seconds that a step takes, 0 while that is not known.
    """

    steps: int = 0
    trained_s: float = 0.0
    step_s: float = 0.0


class Cadence:
    """When to use a dear thing: when its share of the training's time has paid for it, or every so many steps.

    No use is had before it is paid. What the first one is likely to cost is a guess, in steps and for what it makes
    ready; what it did cost is paid, and is no measure of the next ones.
    """

    def __init__(
        self, share: float, every: int | None = None, *, guess_steps: float = 1.0, ready_s: float = 0.0
    ) -> None:
        """Take the first use to cost ``guess_steps`` training steps and ``ready_s`` seconds."""
        self.share, self.every = share, every
        self._guess_steps, self._ready_s = guess_steps, ready_s
        self.uses = 0
        self.cost_s = 0.0
        """Seconds spent so far."""
        self._charged_s = self._earned_s = self._price_s = self._step_s = 0.0

    def price_s(self, step_s: float) -> float:
        """Return what a use costs, s, where a step takes ``step_s``."""
        self._step_s = step_s
        return self._price_s or self._guess_steps * step_s + (0.0 if self.uses else self._ready_s)

    def due(self, pace: Pace) -> bool:
        """Say whether to use it in this step."""
        if self.every is not None:
            return (pace.steps - 1) % self.every == 0
        price_s = self.price_s(pace.step_s)
        self._earned_s = self.share * pace.trained_s
        # Of what was not spent, as where it could not be used, no more is kept than pays for two.
        self._charged_s = max(self._charged_s, self._earned_s - 2.0 * price_s)
        return pace.step_s > 0 and self._earned_s - self._charged_s >= price_s

    def next_s(self, pace: Pace) -> float:
        """Return the ``trained_s`` before which no use is due."""
        if self.every is not None:
            return 0.0
        return (self._charged_s + self.price_s(pace.step_s)) / self.share

    def spent(self, seconds: float) -> None:
        """Pay for one use."""
        self.uses += 1
        self.cost_s += seconds
        self._charged_s += seconds
        if self.uses == 1:
            self._charged_s = max(self._charged_s, self._earned_s)  # a guess too high would else buy two in a row
            self._price_s = min(seconds, self._guess_steps * self._step_s)
        else:
            self._price_s = seconds if self.uses == 2 else 0.7 * self._price_s + 0.3 * seconds

    def lapse(self) -> None:
        """Take note that a use came to nothing: the next one is due when a quarter of its price is saved anew."""
        self._charged_s = max(self._charged_s, self._earned_s - 0.75 * self.price_s(self._step_s))


def cadence_of(site: Site, light: float, full: float, **guess: float) -> Cadence:
    """Return the cadence of a tap that has these shares of the step time at the two levels."""
    return Cadence(full if site.full else light, site.every, **guess)


class Steppers:
    """The optimizers that made the last step, and those of the step under way: held weakly, in their order."""

    def __init__(self) -> None:
        self._last: list[weakref.ref[Any]] = []
        self._now: list[weakref.ref[Any]] = []

    def begin(self) -> None:
        """Take note that another step begins."""
        self._last, self._now = self._now or self._last, []

    def add(self, optimizer: Any) -> None:
        """Take note that an optimizer is about to step."""
        for ref in self._now:
            if ref() is optimizer:
                return
        self._now.append(weakref.ref(optimizer))

    def last(self) -> list[Any]:
        """Return those that made the last step."""
        return [optimizer for ref in self._last if (optimizer := ref()) is not None]

    def missing(self) -> bool:
        """Say whether one that made the last step has not stepped in this one yet."""
        now = [ref() for ref in self._now]
        return any(all(other is not optimizer for other in now) for optimizer in self.last())


class Tap:
    """One estimator's hand in the training process: overrides what it needs.

    The conductor asks a tap whether it wants a step, and tells it of that step alone: these calls in the thread that
    trains, in this order. A step may have several forwards and backwards (accumulation) and several optimizers; of a
    closure's repeated calls every one is told.

    Attributes:
        cadence: when it is used; None: it is asked at every step.
        use: whether the step under way was given for a use, not only because it was wanted after one (``again``).
        refuses: whether it cannot be used, for a reason that :meth:`why` says.
        again: whether the next step is wanted too, whatever its time.
        unclocked_s: seconds spent so far within the script's own calls, which the conductor's clock does not see.
        steppers: the conductor's.
    """

    name = "tap"
    """As the run's label ``physics`` has it: ``first_law``, ``noise``, …"""
    cadence: Cadence | None = None
    use = True
    unclocked_s = 0.0
    steppers: Steppers

    @property
    def again(self) -> bool:
        """Whether the next step is wanted too."""
        return False

    @property
    def refuses(self) -> bool:
        """Whether it cannot be used, for a reason that :meth:`why` says."""
        return False

    def due(self, pace: Pace) -> bool:
        """Say whether a step that is about to begin is wanted."""
        return self.cadence is None or self.cadence.due(pace)

    def next_s(self, pace: Pace) -> float:
        """Return the ``trained_s`` before which :meth:`due` need not be asked."""
        return 0.0 if self.cadence is None else self.cadence.next_s(pace)

    def step_begin(self, step: int, step_s: float) -> None:
        """Take note of a training step's first forward, about to run; steps take about ``step_s``."""

    def step_end(self) -> None:
        """Let go of the step: the next one begins, or the training is over."""

    def forward_begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """Take note of an outermost training forward, about to run."""

    def forward_end(self, module: Any, out: Any) -> None:
        """Take note of its end."""

    def backward_begin(self, tensors: Any) -> None:
        """Take note of a backward, about to run on ``tensors``."""

    def backward_end(self, tensors: Any) -> None:
        """Take note of its end: gradients are accumulated."""

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Take note of an optimizer's step, about to run; with a closure its gradients come later."""

    def optimizer_end(self, optimizer: Any, step: int) -> None:
        """Take note of its end: the parameters have moved. Not called for a step that was skipped."""

    def skipped(self) -> None:
        """Take note that the optimizer's step was skipped (not a finite gradient)."""

    def unwound(self) -> None:
        """Forget the step under way: the script's own code raised."""

    def finish(self) -> None:
        """Emit what is left; the training is over. At most a few per cent of the run's time may be spent here."""

    def why(self) -> str:
        """Say why there is nothing to read, or an empty string."""
        return ""

    def stop(self) -> None:
        """Let go of everything: hooks, modes, copies."""
