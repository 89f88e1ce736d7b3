"""Messages between processes: bytes of each collective, and what a ring would send of them.

n processes in a ring send, each, of a message of b bytes: all-reduce 2(n-1)/n·b, all-gather and reduce-scatter
(n-1)/n of the whole, a broadcast b, all-to-all (n-1)/n·b (Thakur, Rabenseifner and Gropp, 2005). What a library
really does may be a tree, and differ.
"""

from __future__ import annotations

import sys
from typing import Any

from ergometry.integrations.counting.arithmetic import tensors
from ergometry.integrations.counting.operators import Operator

_NAMESPACES = ("c10d.", "_c10d_functional.")
_WAITS = ("barrier", "wait_tensor", "monitored_barrier_")


def is_collective(op: Operator) -> bool:
    """Say whether an operator sends messages (or waits for them)."""
    return op.name.startswith(_NAMESPACES)


def message(op: Operator, args: Any, kwargs: Any, out: Any) -> tuple[str, float, float] | None:
    """Return (collective, bytes of its whole message, bytes that one process sends by the ring); None for a wait."""
    name = op.name.rpartition(".")[2]
    if name in _WAITS or name.startswith("_wrap"):
        return None
    kind = _kind(name)
    whole = max(_bytes(args[:1]), _bytes(args[1:2]), _bytes(out))
    n = _processes(op, args, kwargs)
    return kind, whole, whole * _sent(kind, n)


def _kind(name: str) -> str:
    plain = name.replace("_", "")
    for kind in (
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
        "broadcast",
        "gather",
        "scatter",
        "reduce",
    ):
        if kind.replace("_", "") in plain:
            return kind
    return "send" if plain.startswith(("send", "isend")) else "receive" if "recv" in plain else plain


def _sent(kind: str, n: int) -> float:
    if n <= 1:
        return 0.0
    share = (n - 1) / n
    return {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share, "all_to_all": share}.get(
        kind, 0.0 if kind == "receive" else 1.0
    )


def _bytes(values: Any) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors(values)))


def _processes(op: Operator, args: Any, kwargs: Any) -> int:
    """Return how many take part: of the group that is named, else all."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return 1
    group = op.argument("process_group", args, kwargs)
    try:
        if group is not None:
            return int(distributed.ProcessGroup.unbox(group).size())
        size = op.argument("group_size", args, kwargs)
        if size is not None:
            return int(size)
        name = op.argument("group_name", args, kwargs)
        return int(distributed.distributed_c10d._resolve_process_group(name).size())
    except Exception:  # a group of another torch: all processes are the best guess
        return int(distributed.get_world_size())
