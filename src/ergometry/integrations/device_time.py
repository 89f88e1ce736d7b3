"""Phases by an accelerator's own time: events put into its stream where phases change, read when passed."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from ergometry.core.series import DEVICE_STEPS


class Event(Protocol):
    """A timed mark in a device's stream."""

    def record(self) -> None:
        """Put the mark into the current stream."""
        ...

    def query(self) -> bool:
        """Say whether the device has passed it."""
        ...

    def elapsed_time(self, end: Any) -> float:
        """Return the device time from this mark to ``end``, in milliseconds."""
        ...


class DeviceTimer:
    """Adds up device time per phase and step; emits (step, six phases in seconds) when a step's marks have passed."""

    def __init__(self, new_event: Callable[[], Event], emit: Callable[[int, list[float]], None]) -> None:
        self._new_event, self._emit = new_event, emit
        self._marks: deque[tuple[Event, int, int]] = deque()
        self._last: Event | None = None
        self._spare: list[Event] = []
        self._sums = [0.0] * 6
        self._step = 0

    def mark(self, ended_phase: int, step: int) -> None:
        """Mark here in the stream that a phase of a step has ended."""
        event = self._spare.pop() if self._spare else self._new_event()
        event.record()
        self._marks.append((event, ended_phase, step))

    def poll(self) -> None:
        """Add up the marks that the device has passed."""
        while self._marks and self._marks[0][0].query():
            event, phase, step = self._marks.popleft()
            if step != self._step:
                self.flush()
                self._step = step
            if self._last is not None:
                self._sums[phase] += self._last.elapsed_time(event) / 1e3
                self._spare.append(self._last)
            self._last = event

    def flush(self) -> None:
        """Emit the step that is being added up, if it has anything."""
        if any(self._sums):
            self._emit(self._step, self._sums)
        self._sums = [0.0] * 6


def timer_of(device: torch.device, emit: Callable[..., None]) -> DeviceTimer:
    """Return a timer of an accelerator's phases, which emits rows of ``DEVICE_STEPS``."""
    new_event = functools.partial(torch.get_device_module(device).Event, enable_timing=True)
    index = float(device.index or 0)
    return DeviceTimer(new_event, lambda step, sums: emit(DEVICE_STEPS, step, index, *sums))
