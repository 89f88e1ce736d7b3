"""Compulsory bytes of one operator: each distinct region of its inputs read once, each output written once.

What a cache could save beyond that, or a poor kernel moves again, is not counted: these are the bytes that must cross
at least. Views are free, a broadcast input counts as it is stored, of a table only the touched rows are read (as if
no row were touched twice, and never more than the table), and what is updated in place is read and written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ergometry.integrations.counting.arithmetic import tensors
from ergometry.integrations.counting.operators import Operator
from ergometry.integrations.counting.tables import ALLOCATES, GATHERS, SCATTERS, SHAPES_ONLY


class Region(NamedTuple):
    """Part of a storage: which, and how many bytes of it."""

    storage: int
    size: float


def pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the dense tensors that hold a tensor's values: itself, or a sparse one's indices and values."""
    if tensor.layout == torch.strided:
        yield tensor
    elif tensor.layout == torch.sparse_coo:
        yield tensor._indices()
        yield tensor._values()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())


def storage_of(tensor: torch.Tensor) -> int:
    """Return the identity of a dense tensor's storage, which lasts as long as that does; 0 for a tensor without one."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return 0


def stored_bytes(tensor: torch.Tensor) -> float:
    """Return the bytes of a dense tensor's distinct elements: those it repeats (stride 0) are stored once."""
    count = math.prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or n == 0)
    return float(count * tensor.element_size())


def regions(values: Any) -> list[Region]:
    """Return the distinct regions of the tensors in arguments or results; none for a tensor on no real device."""
    found: dict[tuple[Any, ...], Region] = {}
    for tensor in tensors(values):
        if tensor.device.type == "meta":
            continue
        for piece in pieces(tensor):
            storage = storage_of(piece)
            key = (storage or id(piece), piece.storage_offset(), piece.shape, piece.stride())
            found.setdefault(key, Region(storage, stored_bytes(piece)))
    return list(found.values())


class Traffic(NamedTuple):
    """What one call reads and writes. ``fresh`` are storages that hold its results and none of its inputs."""

    reads: list[Region]
    writes: list[Region]
    inputs: set[int]
    fresh: list[int]


_NOTHING = Traffic([], [], set(), [])


def traffic(op: Operator, args: Any, kwargs: Any, out: Any) -> Traffic:
    """Return the compulsory traffic of one call that has run."""
    if op.base in ALLOCATES:
        return Traffic([], [], set(), [region.storage for region in regions(out)])
    written = [
        kwargs.get(at) if isinstance(at, str) else args[at]
        for at in op.written
        if isinstance(at, str) or at < len(args)
    ]
    into = regions(written)
    targets = {region.storage for region in into}
    read = _read(op, args)
    keywords = [value for name, value in kwargs.items() if name not in op.written]
    sources = regions((read, keywords))
    inputs = {region.storage for region in (sources if read is args else regions((args, keywords)))} | targets
    results = regions(out)
    made = [region for region in results if region.storage not in inputs]
    if not made and not into:
        return _NOTHING if not sources else Traffic([], [], inputs, [])
    if not op.reads_written:
        sources = [region for region in sources if region not in into]
    if op.base in GATHERS:
        sources = _touched(op, args, sources, sum(region.size for region in made))
    elif op.base in SCATTERS and into:
        return _scattered(args, kwargs, inputs, into)
    return Traffic(sources, [*into, *made], inputs, [region.storage for region in made])


def _read(op: Operator, args: Any) -> Any:
    """Return the arguments whose values are needed."""
    skipped: tuple[int, ...] = SHAPES_ONLY.get(op.base, ())
    if op.base == "convolution_backward" and len(args) > 10:
        # The weight is needed for the input's gradient alone, the input for the weight's.
        skipped = tuple(at for at, wanted in ((2, args[10][0]), (1, args[10][1])) if not wanted)
    return tuple([arg for at, arg in enumerate(args) if at not in skipped]) if skipped else args


def _touched(op: Operator, args: Any, sources: list[Region], out_bytes: float) -> list[Region]:
    """Of the table that is looked up, no more is read than comes out (or than was asked for)."""
    table = next(tensors(args), None)
    if table is None or table.layout != torch.strided or table.device.type == "meta":
        return sources
    if op.base.startswith("nll_loss"):
        out_bytes = args[1].numel() * table.element_size()
    if op.base == "_embedding_bag":
        out_bytes = args[1].numel() * table.shape[-1] * table.element_size()
    storage = storage_of(table)
    return [Region(storage, min(region.size, out_bytes)) if region.storage == storage else region for region in sources]


def _scattered(args: Any, kwargs: Any, inputs: set[int], into: list[Region]) -> Traffic:
    """Of a tensor that values are put into, as much is read and written as there are values."""
    others = regions((args[1:], kwargs))
    floating = [t for t in tensors((args[1:], kwargs)) if t.dtype == next(tensors(args)).dtype]
    size = min(sum(region.size for region in into), max((stored_bytes(t) for t in floating), default=0.0))
    changed = [Region(into[0].storage, size)]
    return Traffic([*others, *changed], changed, inputs, [])
