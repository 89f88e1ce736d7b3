"""The loss of each step: the scalars that backward was called on, unscaled, read without waiting for a device."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch

from ergometry.integrations.pending import Pending
from ergometry.integrations.steps import StepMachine


class LossReader:
    """Reads losses into the step machine (CPU), or late through ``emit(step, loss)`` (accelerators)."""

    def __init__(self, machine: StepMachine, pending: Pending, emit: Callable[[int, float], None]) -> None:
        self._machine, self._pending, self._emit = machine, pending, emit
        self._scaled: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None
        self._held: tuple[int, torch.Tensor] | None = None
        self.unreadable = 0
        """Backwards whose loss was not a finite scalar."""
        self.scale: torch.Tensor | None = None
        """What a gradient scaler has multiplied the last loss by; None: nothing did."""

    def scaled(self, loss: Any, out: Any, scaler: Any) -> None:
        """Remember what ``GradScaler.scale`` made of a loss, and by which factor."""
        if isinstance(out, torch.Tensor) and out is not loss and getattr(scaler, "_scale", None) is not None:
            self._scaled = (weakref.ref(out), scaler._scale.detach().clone())

    def read(self, tensors: Any) -> None:
        """Add the scalars of one backward to the step's loss."""
        self.scale = None
        for loss in tensors if isinstance(tensors, (tuple, list)) else (tensors,):
            self._read_one(loss)

    def _read_one(self, loss: Any) -> None:
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            self.unreadable += 1
            return
        value: Any = loss
        scaled, self._scaled = self._scaled, None
        if scaled is not None and loss is scaled[0]():
            self.scale = scaled[1]
            value = value.detach() / scaled[1].to(value.device, non_blocking=True)
        if value.device.type != "cpu":
            self._read_late(value.detach().reshape(()), self._machine.index)
            return
        x = float(value.item())
        # NaN is no loss yet: one that is not finite is kept as infinity, whatever is added to it.
        self._machine.add_loss(x if math.isfinite(x) else math.inf)
        self.unreadable += not math.isfinite(x)

    def _read_late(self, value: torch.Tensor, step: int) -> None:
        """Sum a step's losses on the device; the sum arrives after the step's other rows, the last one counts."""

        def read(x: float) -> None:
            self._emit(step, x if math.isfinite(x) else math.nan)
            self.unreadable += not math.isfinite(x)

        if self._held is not None and self._held[0] == step:
            value = self._held[1] + value
        self._held = (step, value)
        self._pending.read(value, read)
