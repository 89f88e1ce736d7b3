"""Schedules: how often each optimizer has stepped, and the sum of its learning rates over those steps.

Kept at every step, so that whoever looks at some of them knows what lies between, for a microsecond a step.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from ergometry.core import series

_NUMBERS = {float}


class Told(NamedTuple):
    """What a schedule says of its steps so far.

    Attributes:
        begun: steps that have begun.
        steps: of those, the ones that ended and were not skipped.
        sums: Σ η over ``steps``, by parameter group, 1/loss.
        unread: steps at which a learning rate could not be read.
    """

    begun: int
    steps: int
    sums: tuple[float, ...]
    unread: int


class Schedule:
    """One optimizer's learning rates.

    Attributes:
        rates: η by parameter group in the step under way; None where one is not a number ≥ 0, or lies on a device,
            which reading it would wait for.
    """

    def __init__(self, number: int, tell: Callable[..., None]) -> None:
        self._number, self._tell = number, tell
        self.rates: list[float] | None = []
        self._said: list[Any] = []  # as the groups had them last
        self._numbers = False
        self._told: dict[int, float] = {}
        self._begun = self._steps = self._unread = self._since = 0
        self._sums: tuple[float, ...] = ()  # over the steps up to ``_since``

    def begin(self, groups: list[dict[str, Any]], step: int) -> None:
        """Take note that a step begins, and tell of what has changed since the last one."""
        self._begun += 1
        said = [group.get("lr") for group in groups]
        # A tensor may have been changed in place, and comparing one may wait for a device.
        numbers = set(map(type, said)) == _NUMBERS
        if not (numbers and self._numbers and said == self._said):
            self._change(said, step)
        self._said, self._numbers = said, numbers
        self._unread += self.rates is None

    def _change(self, said: list[Any], step: int) -> None:
        self._settle(len(said))
        rates: list[float] = []
        for group, eta in enumerate(said):
            try:
                lies_far = getattr(eta, "device", None) is not None and eta.device.type != "cpu"
                rate = math.nan if lies_far else float(eta)
            except (TypeError, ValueError, RuntimeError):
                rate = math.nan  # None, or whatever an optimizer of the user's own calls so
            if not math.isnan(rate) and self._told.get(group) != rate:
                self._told[group] = rate
                self._tell(step, self._number, group, rate)
            rates.append(rate)
        self.rates = rates if all(0.0 <= eta < math.inf for eta in rates) else None

    def _settle(self, groups: int) -> None:
        """Add up what the present rates brought, and go on with so many groups."""
        sums = self._summed()
        self._sums, self._since = (*sums[:groups], *(0.0,) * (groups - len(sums))), self._steps

    def _summed(self) -> tuple[float, ...]:
        steps = self._steps - self._since
        if self.rates is None or not steps:
            return self._sums
        return tuple([x + eta * steps for x, eta in zip(self._sums, self.rates, strict=True)])

    def end(self) -> None:
        """Take note that the step has ended."""
        self._steps += 1

    def told(self) -> Told:
        """Return what there is to tell of the steps so far."""
        return Told(self._begun, self._steps, self._summed(), self._unread)


class Schedules:
    """The schedules of all optimizers, which are held weakly."""

    def __init__(self, emit: Callable[..., None]) -> None:
        """Write rows of ``LEARNING_RATES`` through ``emit``."""
        self._emit = emit
        self._found: weakref.WeakKeyDictionary[Any, Schedule] = weakref.WeakKeyDictionary()
        self._made = 0

    def of(self, optimizer: Any) -> Schedule:
        """Return the schedule of an optimizer."""
        found = self._found.get(optimizer)
        if found is None:
            found = self._found[optimizer] = Schedule(self._made, self._tell)
            self._made += 1
        return found

    def _tell(self, *row: float) -> None:
        self._emit(series.LEARNING_RATES, *row)
