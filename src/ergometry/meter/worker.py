"""Workers: who calls a sensor. The recorder itself, or a thread that it need not wait for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Worker(Protocol[T]):
    """Does jobs one after another, in the order in which they were asked for. A job never raises."""

    def ask(self, job: Callable[[], T]) -> None:
        """Have a job done."""
        ...

    def answer(self, timeout_s: float) -> T | None:
        """Return what the oldest job gave that has not been returned yet, None if there is none in time."""
        ...


class AtOnce(Generic[T]):
    """Does a job while it is asked for."""

    def __init__(self) -> None:
        self._answers: deque[T] = deque()

    def ask(self, job: Callable[[], T]) -> None:
        """Do a job."""
        self._answers.append(job())

    def answer(self, timeout_s: float) -> T | None:  # noqa: ARG002 - what was asked for has been done
        """Return what the oldest job gave that has not been returned yet, None if there is none."""
        return self._answers.popleft() if self._answers else None


class InThread(Generic[T]):
    """Does jobs in a thread of its own. One that never ends holds up those behind it, and nothing else.

    The thread is a daemon, so that Python's exit does not wait for it.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], T]] = SimpleQueue()
        self._answers: SimpleQueue[T] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def ask(self, job: Callable[[], T]) -> None:
        """Have a job done; returns at once."""
        self._jobs.put(job)

    def answer(self, timeout_s: float) -> T | None:
        """Return what the oldest job gave that has not been returned yet, None if there is none within the time."""
        try:
            return self._answers.get(timeout_s > 0.0, max(timeout_s, 0.0))
        except Empty:
            return None

    def _work(self) -> None:
        while True:
            self._answers.put(self._jobs.get()())
