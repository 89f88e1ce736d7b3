"""One overload of an operator, as far as counting needs to know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ergometry.integrations.counting.tables import OVERWRITES, PER_INPUT, PER_OUTPUT


@dataclass(frozen=True)
class Operator:
    """One overload of an operator, as far as counting needs to know it."""

    name: str
    """As items call it: ``addmm``; with its namespace where that is not torch's own."""
    base: str
    """The name without its namespace and the underscore of an in-place form, a list's prefix kept."""
    ours: bool
    """Whether torch itself defines it."""
    written: tuple[int | str, ...]
    """Arguments that are written, by position, or by name where they are keywords."""
    reads_written: bool
    pointwise: bool
    reduction: bool
    names: dict[str, int] = field(hash=False, compare=False)
    """Positions of the arguments."""

    def argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return an argument by its name in the schema; None where it was not given."""
        at = self.names.get(name)
        return args[at] if at is not None and at < len(args) else kwargs.get(name)


_known: dict[Any, Operator] = {}


def describe(func: Any) -> Operator:
    """Return what is to be known of an overload."""
    found = _known.get(func)
    if found is None:
        found = _known[func] = _describe(func)
    return found


def _describe(func: Any) -> Operator:
    namespace, _, packet = func._schema.name.partition("::")
    base = packet.removesuffix("_") if not packet.endswith("__") else packet
    arguments = func._schema.arguments
    written = tuple(
        argument.name if argument.kwarg_only else i
        for i, argument in enumerate(arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and not (base.startswith("_fused_") and argument.name == "grads")  # declared so, and written by a scaler only
    )
    out = any(isinstance(i, str) for i in written)
    return Operator(
        name=packet if namespace == "aten" else f"{namespace}.{packet}",
        base=base,
        ours=namespace in ("aten", "prims", "prim", "profiler", "_c10d_functional", "c10d", "inductor", "debugprims"),
        written=written,
        reads_written=not out and base not in OVERWRITES,
        pointwise=torch.Tag.pointwise in func.tags,
        reduction=getattr(torch.Tag, "reduction", None) in func.tags,
        names={argument.name: i for i, argument in enumerate(arguments)},
    )


def per_element(base: str) -> tuple[float, bool] | None:
    """Return (FLOP an element, whether elements of the input count rather than of the output); None: not known here."""
    for name in (base, base.removeprefix("_foreach_")):
        if name in PER_OUTPUT:
            return PER_OUTPUT[name], False
        if name in PER_INPUT:
            return PER_INPUT[name], True
    return None
