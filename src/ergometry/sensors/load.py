"""What the modelled power of processors is computed from: how busy they are."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from ergometry.sensors.cgroup import CpuLimit, read_usage_s
from ergometry.sensors.proc import TICK_S, jiffies


class Load(Protocol):
    """How long some processors have been busy, of the time that they had."""

    @property
    def threads(self) -> float:
        """Return the logical CPUs' worth of time that there is, per second."""
        ...

    def read(self, now_s: float) -> tuple[float, float]:
        """Return (busy, available) processor seconds so far, from an origin of their own.

        Raises:
            OSError: the source cannot be read.
            ValueError: it does not hold what it should.
        """
        ...

    def close(self) -> None:
        """Release what was opened; again is harmless."""
        ...


class _File:
    """An open file that is read from its beginning each time."""

    def __init__(self, file: Path) -> None:
        self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def content(self, size: int = 512) -> bytes:
        return os.pread(self._fd, size, 0)

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class MachineLoad(_File):
    """The load of a machine's logical CPUs, or of those numbered, by /proc/stat; time stolen by the host is busy.

    Args:
        stat: ``/proc/stat``.
        threads: how many there are.
        cpus: their numbers; none: all of the machine's.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, stat: Path, threads: int, cpus: Collection[int] = ()) -> None:
        super().__init__(stat)
        self.threads = float(threads)
        self._cpus = tuple(cpus)

    def read(self, now_s: float) -> tuple[float, float]:  # noqa: ARG002 - ticks keep their own time
        """Return (busy, available) processor seconds so far."""
        ticks = jiffies(self.content(1 << 18 if self._cpus else 512), self._cpus)
        return (ticks.run + ticks.stolen) * TICK_S, sum(ticks) * TICK_S


class GroupLoad(_File):
    """The load of a control group's share of a machine: what it used of what its limit allows.

    Raises:
        OSError: the group's usage cannot be opened.
    """

    def __init__(self, limit: CpuLimit) -> None:
        super().__init__(limit.usage)
        self.threads = limit.cpus
        self._limit = limit

    def read(self, now_s: float) -> tuple[float, float]:
        """Return (busy, available) processor seconds so far."""
        return read_usage_s(self._limit, self.content()), self._limit.cpus * now_s
