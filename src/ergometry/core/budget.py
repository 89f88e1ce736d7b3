"""Budget: what a run may take of energy, power and time, and how much slower than at full power it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ergometry.core.errors import UsageError
from ergometry.core.units import parse


@dataclass(frozen=True)
class Budget:
    """Limits of a run, in SI; None is no limit. Text with a unit is understood: ``Budget(energy="20 kJ")``.

    Attributes:
        energy: total energy, J.
        power: mean power at any time, W.
        time: duration, s.
        slowdown: duration over that of the fastest way to reach the same end, minus one: 0.05 or "5%".

    Raises:
        UsageError: a limit is not a positive number of its unit.

    >>> Budget(energy="20 kJ", time="1 h")
    Budget(energy=20000.0, power=None, time=3600.0, slowdown=None)
    """

    energy: float | None = None
    power: float | None = None
    time: float | None = None
    slowdown: float | None = None

    def __post_init__(self) -> None:
        for name, unit in (("energy", "J"), ("power", "W"), ("time", "s")):
            given: str | float | None = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _positive(name, given, parse(given, unit, f"a budget of {name}")))
        if self.slowdown is not None:
            object.__setattr__(self, "slowdown", _share(self.slowdown))

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        found = {name: getattr(self, name) for name in ("energy", "power", "time", "slowdown")}
        return {name: value for name, value in found.items() if value is not None}


def _positive(name: str, given: str | float, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(expected=f"a positive budget of {name}", got=str(given), remedy="leave it out to set no limit")
    return value


def _share(given: str | float) -> float:
    text = str(given).strip()
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(expected="a slowdown such as 5% or 0.05", got=text, remedy="leave it out to set no limit")
    return value
