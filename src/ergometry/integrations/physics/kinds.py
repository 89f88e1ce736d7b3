"""Kinds of operators: what is to be known of an overload to repeat it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NAMESPACES = ("aten", "prims", "prim", "torchvision", "torchaudio")
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is to be known of an overload to repeat it."""

    written: tuple[int | str, ...]
    """Arguments that it changes, by position, or by name where they are keywords."""
    aliases: tuple[int, ...]
    """Positions of the arguments that its results may be views of."""
    random: bool
    reads: bool
    """Whether it hands a value to Python (``.item()``), which may then do with it what is not seen."""
    reshapes: bool
    """Whether the shape of its result depends on values."""
    training: int
    """Position of the flag that says whether ``written`` are (batch norm's statistics); -1: they always are."""
    foreign: bool
    """Whether it is neither torch's own nor of a library whose operators are functions of their arguments."""


_kinds: dict[Any, Kind] = {}


def kind_of(func: Any) -> Kind:
    """Return what is to be known of an overload."""
    found = _kinds.get(func)
    if found is None:
        found = _kinds[func] = _kind(func)
    return found


def _kind(func: Any) -> Kind:
    arguments, names = func._schema.arguments, [a.name for a in func._schema.arguments]
    declared = [a for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    statistics = [name for name in _STATISTICS if name in names and name not in [a.name for a in declared]]
    training = next((names.index(n) for n in ("training", "train", "use_input_stats") if n in names), -1)
    written: list[int | str] = [a.name if a.kwarg_only else names.index(a.name) for a in declared]
    if statistics and training >= 0:  # the schema of batch norm does not say that it changes them
        written += [names.index(name) for name in statistics]
    return Kind(
        written=tuple(written),
        aliases=tuple(i for i, a in enumerate(arguments) if a.alias_info is not None),
        random=torch.Tag.nondeterministic_seeded in func.tags,
        reads=torch.Tag.data_dependent_output in func.tags,
        reshapes=torch.Tag.dynamic_output_shape in func.tags,
        training=training if statistics and not declared else -1,
        foreign=func.namespace not in _NAMESPACES,
    )


def changed(kind: Kind, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Yield the tensors that an operator is about to change."""
    if kind.training >= 0 and not args[kind.training]:
        return
    for at in kind.written:
        given = kwargs.get(at) if isinstance(at, str) else args[at] if at < len(args) else None
        for tensor in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(tensor, Tensor):
                yield tensor
