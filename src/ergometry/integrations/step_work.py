"""The sums of one step's work: by phase, NaN where something in it was not counted.

Steps repeat: a pass that is known adds its number to a list, and the sums of a list of numbers are kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

PHASES = ("forward", "backward", "optimizer")
_MAX_ROWS = 512


class Sums(Protocol):
    """What a pass adds."""

    product_flops: float
    flops: float
    bytes: float
    parameter_bytes: float
    recomputed_flops: float
    communication_bytes: float


class Entry(NamedTuple):
    """A pass that is known, in one phase."""

    phase: str
    sums: Sums
    uncounted: bool


class _Sum:
    """Passes added up."""

    def __init__(self) -> None:
        self.products = math.nan
        self.flops = dict.fromkeys(PHASES, 0.0)
        self.bytes = dict.fromkeys(PHASES, 0.0)
        self.parameter_bytes = self.recomputed = self.communication = 0.0
        self.uncounted = False

    def add(self, phase: str, sums: Sums, *, uncounted: bool) -> None:
        self.flops[phase] += sums.flops
        self.bytes[phase] += sums.bytes
        self.parameter_bytes += sums.parameter_bytes
        self.recomputed += sums.recomputed_flops
        self.communication += sums.communication_bytes
        self.uncounted |= uncounted
        if phase != "optimizer":
            self.products = sums.product_flops + (0.0 if math.isnan(self.products) else self.products)

    def unknown(self, phase: str) -> None:
        self.flops[phase] = self.bytes[phase] = self.parameter_bytes = math.nan
        if phase == "backward":
            self.recomputed = self.communication = math.nan
        self.uncounted = True

    def row(self) -> tuple[float, ...]:
        return (
            self.products,
            *self.flops.values(),
            *self.bytes.values(),
            self.parameter_bytes,
            self.recomputed,
            self.communication,
        )


class StepWork:
    """FLOP and bytes of a step so far."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        """What the numbers of passes stand for."""
        self.passes: list[int] = []
        """Numbers of the known passes of the step, in order: whoever knows one appends it."""
        self.steps: dict[tuple[int, ...], int] = {}
        """How many steps were of which passes, since this was last emptied."""
        self._rows: dict[tuple[int, ...], tuple[tuple[float, ...], bool]] = {}
        self._more: _Sum | None = None
        self._uncounted = self._products_unknown = False

    def reset(self) -> None:
        """Begin a step."""
        self.settle()
        self._more = None
        self._uncounted = self._products_unknown = False

    def settle(self) -> None:
        """Count the step's passes among the steps', and forget them."""
        if self.passes:
            key = tuple(self.passes)
            self.steps[key] = self.steps.get(key, 0) + 1
            self.passes.clear()

    def add(self, phase: str, sums: Sums | None, *, uncounted: bool = False) -> None:
        """Add a pass that is not known by a number; None says that its work is not known at all."""
        if self._more is None:
            self._more = _Sum()
        if sums is not None:
            self._more.add(phase, sums, uncounted=uncounted)
            return
        self._more.unknown(phase)
        self._products_unknown |= phase != "optimizer"

    def incomplete(self) -> None:
        """Take note that something was not counted."""
        self._uncounted = True

    @property
    def product_flops(self) -> float:
        """FLOP of products in forward and backward: NaN if there were none, or if some are not known."""
        return math.nan if self._products_unknown else self._sums()[0][0]

    def row(self) -> tuple[float, ...]:
        """Return the columns of the ``work`` table after its step."""
        sums, uncounted = self._sums()
        return (*sums[1:], float(uncounted or self._uncounted))

    def _sums(self) -> tuple[tuple[float, ...], bool]:
        key = tuple(self.passes)
        found = self._rows.get(key)
        if found is None:
            total = _Sum()
            for number in key:
                entry = self.entries[number]
                total.add(entry.phase, entry.sums, uncounted=entry.uncounted)
            if len(self._rows) >= _MAX_ROWS:
                self._rows.clear()
            found = self._rows[key] = (total.row(), total.uncounted)
        more = self._more
        if more is None:
            return found
        products = [x for x in (found[0][0], more.products) if not math.isnan(x)]
        sums = tuple(a + b for a, b in zip(found[0], more.row(), strict=True))
        return (math.fsum(products) if products else math.nan, *sums[1:]), found[1] or more.uncounted
