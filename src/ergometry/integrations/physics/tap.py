"""Tap: one estimator's hand in the training process, and the cadence that holds it to its share of the step time.

A tap reads, never writes: no random number is drawn from a stream of the script's, no tensor or buffer of the script's
changes, nothing is synchronised on the step path. Whatever a tap raises ends that tap alone, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ergometry.integrations.ledger import Allowance
from ergometry.integrations.pending import Pending
from ergometry.integrations.steps import StepMachine

LEVELS = ("off", "light", "full")


def _unknown(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Site:
    """What a tap may use of the process that it taps.

    Attributes:
        emit: writes a row, ``emit(series, *values)``.
        pending: reads device tensors without waiting for them.
        machine: the step machine; its ``index`` is the step under way.
        now: seconds since the run's origin.
        meta: keeps labels with the run, ``meta(key=value)``.
        notice: warns, ``notice(code, detail)``.
        level: ``light`` or ``full``.
        every: steps from one use to the next, where the user asked for a fixed cadence; None: by share of time.
        loss: the user's ``loss(model, batch)``, where the API owns it; else None.
        probe: the user's probe batch, else None.
        dataset: returns the number of examples that the batches of the last loader are drawn from without
            replacement; None where they stream, repeat or are not known.
        loss_scale: of the tensors that a backward is about to run on, returns the factor (a tensor) by which a
            gradient scaler has multiplied them; None where none has.
    """

    emit: Callable[..., None]
    pending: Pending
    machine: StepMachine
    now: Callable[[], float]
    meta: Callable[..., None]
    notice: Callable[..., None]
    level: str = "light"
    every: int | None = None
    loss: Callable[..., Any] | None = None
    probe: Any = None
    dataset: Callable[[], float | None] = _unknown
    loss_scale: Callable[[Any], Any] = _unknown

    @property
    def full(self) -> bool:
        """Whether dear quantities were asked for."""
        return self.level == "full"


class Cadence:
    """When to use a dear thing: as often as its share of the step time allows, or every so many steps."""

    def __init__(self, share: float, every: int | None = None) -> None:
        self._allowance, self.share, self.every = Allowance(share), share, every
        self.uses = self.asked = 0
        self.cost_s = 0.0
        """Seconds spent so far."""

    def due(self, step_s: float) -> bool:
        """Take note of a step that takes ``step_s``, and say whether to use it now."""
        self.asked += 1
        if self.every is not None:
            return (self.asked - 1) % self.every == 0
        return self._allowance.due(step_s)

    def spent(self, seconds: float) -> None:
        """Pay for one use."""
        self.uses += 1
        self.cost_s += seconds
        self._allowance.spent(seconds)


class Tap:
    """One estimator's hand in the training process: overrides what it needs.

    The conductor calls these in the thread that trains, in this order within a step. A step may have several forwards
    and backwards (accumulation) and several optimizers; of a closure's repeated calls every one is told.
    """

    name = "tap"
    """As the run's label ``physics`` has it: ``first_law``, ``noise``, …"""
    cadence: Cadence | None = None

    def step_begin(self, step: int, step_s: float) -> None:
        """Take note of a training step's first forward, about to run; steps take about ``step_s``."""

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
