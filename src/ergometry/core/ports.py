"""Ports: what a power source looks like from inside. Standard library only: the recorder opens with these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Signal:
    """One column of a sensor: what it meters and how well.

    ``quantity`` is ``energy_j`` (a counter that only rises, modulo ``wrap_j``) or ``power_w``.
    ``rel_stderr`` is the relative standard uncertainty that all windows share (gain, model);
    ``resolution_j`` and ``update_period_s`` bound what an edge of a window can miss.
    ``static_w`` is the static part of the power, where the source knows it.
    ``device`` is the torch device whose own time splits the joules into phases (``""``: host time).
    ``max_power_w`` is a bound no real reading exceeds: above it a jump is a fault, not a wrap.
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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``Signal(**object)`` reads back."""
        return asdict(self)


class Sensor(Protocol):
    """A power source. ``read`` never blocks and never raises: a failed signal is NaN."""

    @property
    def source(self) -> str:
        """Return the source's name, such as ``rapl``."""
        ...

    @property
    def signals(self) -> Sequence[Signal]:
        """Return what each column of :meth:`read` is."""
        ...

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one SI value per signal, NaN where the read failed; ``now_s`` is monotonic time."""
        ...

    def close(self) -> None:
        """Release what was opened; calling it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Availability:
    """What looking for a source found: present, or absent with the reason and the remedy."""

    source: str
    present: bool
    why: str = ""
    remedy: str = ""
