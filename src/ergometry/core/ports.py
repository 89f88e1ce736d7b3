"""Ports: what a power source looks like from inside. Standard library only: the recorder opens with these."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Signal:
    """One column of a sensor: what it meters and how well.

    ``quantity`` is ``energy_j`` (a counter that only rises, modulo ``wrap_j``) or ``power_w``.

    What an edge of a window can miss is bounded by ``resolution_j`` (``resolution_w`` of a power) and by
    ``update_period_s``, the time between two updates of what is read. An update holds the mean of the last
    ``averaging_s`` (0: an instant; of a counter: all the time since the update before). A counter whose sensor
    looks only that long of every period has ``averaging_s`` < ``update_period_s``: the A100's looks 25 of 100 ms.

    ``rel_stderr`` is the relative standard uncertainty that all windows share (the board's gain, or the model's
    error); ``gain`` is what readings are multiplied by, from a calibration of the board whose identity is ``board``.
    ``static_w`` is the static part of the power, where the source knows it.
    ``device`` is the torch device whose own time splits the joules into phases (``""``: host time).
    ``max_power_w`` is a bound no real reading exceeds: above it a jump is a fault, not a wrap.
    ``least_limit_w`` and ``greatest_limit_w`` are the power limits that the board can be set to.
    """

    domain: str
    quantity: str
    provenance: str
    method: str
    resolution_j: float = 0.0
    update_period_s: float = 0.0
    rel_stderr: float = 0.0
    wrap_j: float | None = None
    max_power_w: float | None = None
    static_w: float | None = None
    static_rel_stderr: float | None = None
    device: str = ""
    averaging_s: float = 0.0
    resolution_w: float = 0.0
    gain: float = 1.0
    board: str = ""
    least_limit_w: float | None = None
    greatest_limit_w: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that :meth:`from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Signal:
        """Return the signal that was stored; what a newer ergometry added is left out."""
        return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})


class Sensor(Protocol):
    """A power source. ``read`` never raises: a failed signal is NaN. Of several, one that hangs stalls no other."""

    @property
    def source(self) -> str:
        """Return the source's name, such as ``rapl``."""
        ...

    @property
    def signals(self) -> Sequence[Signal]:
        """Return what each column of :meth:`read` is."""
        ...

    @property
    def min_period_s(self) -> float:
        """Return the time that must pass between two readings: sooner, the source is disturbed or has nothing new."""
        ...

    @property
    def may_block(self) -> bool:
        """Say whether ``read`` may take long (a driver, another program): it is then read by a thread of its own."""
        ...

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one SI value per signal, NaN where the read failed; ``now_s`` is monotonic time."""
        ...

    def health(self) -> Sequence[tuple[float, ...]]:
        """Return one row of :data:`ergometry.core.series.HEALTH` per board, less its ``t_s``; none without boards."""
        ...

    def close(self) -> None:
        """Release what was opened; calling it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Availability:
    """What looking for a source found: present, or absent with the reason and the remedy.

    ``missing`` are domains that exist but cannot be read, and lie in none that can: a model is to stand for them.
    """

    source: str
    present: bool
    why: str = ""
    remedy: str = ""
    missing: tuple[str, ...] = ()


class Machine(NamedTuple):
    """The machine that is looked at: its sysfs and procfs, and the environment that says what to look for."""

    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    environ: Mapping[str, str] = os.environ

    @classmethod
    def here(cls) -> Machine:
        """Return this machine, with the sysfs that ``$ERGOMETRY_SYSFS`` puts in place of ``/sys``."""
        return cls(sysfs=Path(os.environ.get("ERGOMETRY_SYSFS") or "/sys"))


Opener = Callable[[Machine], tuple[Sensor | None, Availability]]
"""Looks for one source and opens it."""


class OpenSource(NamedTuple):
    """An open sensor, its signals as they are recorded (placed in the machine's tree, calibrated), and its opener."""

    sensor: Sensor
    signals: tuple[Signal, ...]
    open: Opener
