"""What a counted pass is kept as: totals, and items by module, operator and dtype; and how often each was used."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ergometry.integrations.counting.mode import Call, CountingMode
from ergometry.integrations.counting.scopes import OUTSIDE

MAX_ITEMS = 200
MAX_IN_FULL = 32
MAX_PROFILES = 1024

Key = tuple[str, str, str]
Items = dict[Key, list[float]]
"""(module path, operator, dtype) → calls, FLOP, bytes read and written of parameters, then of examples, seconds."""


@dataclass
class Totals:
    """Sums of a pass. FLOP and bytes are NaN where they are not known."""

    product_flops: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    parameter_bytes: float = 0.0
    recomputed_flops: float = 0.0
    communication_bytes: float = 0.0

    def values(self) -> tuple[float, ...]:
        """Return them in order."""
        return (
            self.product_flops,
            self.flops,
            self.bytes,
            self.parameter_bytes,
            self.recomputed_flops,
            self.communication_bytes,
        )


@dataclass
class Part:
    """What one outermost module (or the script itself, whose name is empty) did in a pass."""

    root: str
    items: Items = field(default_factory=dict)
    product_flops: float = 0.0
    causal_flops: float = 0.0
    recomputed_flops: float = 0.0

    @property
    def flops(self) -> float:
        """FLOP of all items."""
        return math.fsum(values[1] for values in self.items.values())


@dataclass
class Count:
    """A pass that was counted."""

    totals: Totals
    parts: list[Part]
    uncounted: bool = False
    messages: dict[str, list[float]] = field(default_factory=dict)
    mapped: bool = True
    """Whether its operators were told by their modules."""
    numbers: dict[str, list[int]] = field(default_factory=dict)
    """Its profiles' numbers in the book, by phase."""
    entries: dict[str, int] = field(default_factory=dict)
    """Its numbers among a step's passes, by phase."""


def tally(mode: CountingMode, *, fused: bool = False) -> Count:
    """Sum up what a mode has seen; ``fused``: kernels that were not seen moved bytes besides."""
    parts: dict[str, Part] = {}
    totals = Totals()
    mapped = True
    for call in mode.calls:
        mapped &= call.scope is not None
        scope = call.scope or OUTSIDE
        part = parts.get(scope.root)
        if part is None:
            part = parts[scope.root] = Part(scope.root)
        _add(part, call, scope.path)
        totals.flops += call.flops
        totals.product_flops += call.flops if call.product else 0.0
        of_parameters = call.reads_parameters + call.writes_parameters
        totals.bytes += of_parameters + call.reads_examples + call.writes_examples
        totals.parameter_bytes += of_parameters
        if call.recomputed:
            totals.recomputed_flops += call.flops
            part.recomputed_flops += call.flops
    totals.communication_bytes = math.fsum(sent for _, _, sent in mode.messages.values())
    if fused:
        totals.bytes = totals.parameter_bytes = math.nan
    return Count(totals, list(parts.values()), bool(mode.unknown) or fused, mode.messages, mapped)


def _add(part: Part, call: Call, path: str) -> None:
    values = (
        1,
        call.flops,
        call.reads_parameters,
        call.writes_parameters,
        call.reads_examples,
        call.writes_examples,
        call.seconds,
    )
    if not any(values[1:6]):
        return
    key = (path, call.name, call.dtype)
    item = part.items.setdefault(key, [0.0] * 7)
    for i, value in enumerate(values):
        item[i] += value
    if call.product:
        part.product_flops += call.flops
    part.causal_flops += call.causal_flops


def compact(items: Items, most: int = MAX_ITEMS) -> Items:
    """Return at most so many items: the smallest join their module's parent, at last one another. Sums are kept."""
    items = {key: list(values) for key, values in items.items()}
    kept = set(sorted(items, key=lambda key: _size(items[key]))[len(items) - most // 2 :])
    while len(items) > most:
        ranked = sorted((key for key in items if key not in kept), key=lambda key: (_size(items[key]), key))
        nested = [key for key in ranked if key[0]]
        named = [key for key in ranked if key[1] != "*"]
        if not named:
            break  # a dtype each
        for key in (nested or named)[: len(items) - most]:
            path, name, dtype = key
            _merge(items, (path.rpartition(".")[0], name, dtype) if nested else ("", "*", dtype), items.pop(key))
    return items


def _size(values: list[float]) -> float:
    return values[1] + sum(values[2:6])


def summed(items: Items) -> Items:
    """Return items summed over modules and operators, by dtype."""
    found: Items = {}
    for (_, _, dtype), values in items.items():
        _merge(found, ("", "*", dtype), values)
    return found


def _merge(items: Items, key: Key, values: Iterable[float]) -> None:
    known = items.setdefault(key, [0.0] * 7)
    for i, value in enumerate(values):
        known[i] += value


class Book:
    """Numbers the profiles and counts their uses."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.uses: list[float] = []
        self._changed: set[int] = set()
        self._latest: dict[tuple[str, str], int] = {}

    def use(self, count: Count, phase: str, times: float = 1.0) -> None:
        """Count a use of all parts of a pass in a phase; of one like it but larger, more than one use."""
        numbers = count.numbers.get(phase)
        if numbers is None:
            numbers = count.numbers[phase] = [self._number(part, count, phase) for part in count.parts]
        for number, part in zip(numbers, count.parts, strict=True):
            # Where the book is full, another profile stands for this one, as much larger as it is.
            scale = times
            if self.entries[number]["of"] is not count and self.entries[number]["flops"]:
                scale *= part.flops / self.entries[number]["flops"]
            self.uses[number] += scale
            self._changed.add(number)

    def _number(self, part: Part, count: Count, phase: str) -> int:
        if len(self.entries) >= MAX_PROFILES:
            known = self._latest.get((phase, part.root))
            return known if known is not None else len(self.entries) - 1
        items = part.items
        if len(self.entries) >= MAX_IN_FULL:
            items = summed(items)
        self.entries.append(
            {
                "of": count,
                "phase": phase,
                "root": part.root,
                "flops": part.flops,
                "product_flops": part.product_flops,
                "causal_flops": part.causal_flops,
                "recomputed_flops": part.recomputed_flops,
                "collectives": count.messages,
                "items": [_row(key, values) for key, values in compact(items).items()],
            }
        )
        self.uses.append(0.0)
        self._latest[phase, part.root] = len(self.entries) - 1
        return len(self.entries) - 1

    def changed(self) -> list[tuple[int, float]]:
        """Return (profile, uses so far) of those used since this was asked last."""
        numbers, self._changed = sorted(self._changed), set()
        return [(number, self.uses[number]) for number in numbers]

    def told(self) -> list[dict[str, Any]]:
        """Return the profiles, by number, as a run's labels keep them."""
        return [{name: value for name, value in entry.items() if name != "of"} for entry in self.entries]


def _row(key: Key, values: list[float]) -> list[Any]:
    """Return an item as it is written: counts whole, seconds to a few digits."""
    *counts, seconds = values
    return [*key, *(int(value) if value == int(value) else value for value in counts), float(f"{seconds:.4g}")]
