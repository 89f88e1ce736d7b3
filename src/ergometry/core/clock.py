"""Clocks: monotonic seconds, injected so that tests need no sleep. Wall-clock time is only ever a label."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic time in seconds, comparable between the processes of one machine."""

    def now(self) -> float:
        """Return monotonic time in seconds."""
        ...


class SystemClock:
    """The machine's monotonic clock: ``time.perf_counter``, which on Linux is CLOCK_MONOTONIC in every process."""

    def now(self) -> float:
        """Return monotonic time in seconds."""
        return time.perf_counter()


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Return the time it was last set to."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``."""
        self._now_s += seconds
