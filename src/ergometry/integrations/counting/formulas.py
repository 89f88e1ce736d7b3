"""FLOP of one operator from its arguments: torch's formulas for products, and those that torch lacks.

A formula is called as torch calls a raw one: with the operator's own arguments and ``out_val``, its result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from ergometry.core.errors import UsageError
from ergometry.integrations.counting.arithmetic import ARITHMETIC, floating, tensors
from ergometry.integrations.counting.operators import Operator, per_element
from ergometry.integrations.counting.products import PRODUCTS
from ergometry.integrations.counting.tables import FREE

Formula = Callable[..., float]

_REGISTERED: dict[Any, Formula] = {}

#: Sums whose second term may be scaled by ``alpha`` on the way.
_SCALED = ("add", "sub", "_foreach_add", "_foreach_sub")


def register_flop(op: Any, formula: Formula | None = None) -> Any:
    """Tell how many FLOP an operator of your own does, so that it is counted and not merely named.

    Used as a decorator or with a function. The formula is called with the operator's own arguments; if it takes
    ``out_val``, with the operator's result too. A fused multiply-add is two FLOP. The last registration counts.

        @erg.work.register_flop(torch.ops.mylib.product)
        def product_flop(a, b):
            return 2 * a.shape[0] * a.shape[1] * b.shape[1]

    Args:
        op: ``torch.ops.namespace.name``, or one of its overloads.
        formula: returns FLOP, a number that is not negative.

    Raises:
        UsageError: ``op`` is no operator, or the formula cannot be called.
    """
    packet = getattr(op, "overloadpacket", op)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        raise UsageError(
            expected="an operator such as torch.ops.mylib.op", got=repr(op), remedy="pass what torch.ops holds"
        )
    if formula is None:
        return lambda function: register_flop(op, function)
    if not callable(formula):
        raise UsageError(expected="a function that returns FLOP", got=repr(formula), remedy="pass a callable")
    _REGISTERED[packet] = formula if _takes_out(formula) else _without_out(formula)
    return formula


def _takes_out(formula: Formula) -> bool:
    try:
        parameters = inspect.signature(formula).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "out_val" or p.kind is p.VAR_KEYWORD for p in parameters)


def _without_out(formula: Formula) -> Formula:
    def call(*args: Any, **kwargs: Any) -> float:
        del kwargs["out_val"]
        return formula(*args, **kwargs)

    return call


def count(func: Any, op: Operator, args: Any, kwargs: Any, out: Any) -> tuple[float, bool] | None:
    """Return (FLOP, whether they are a product's) of one call; None where nothing is known of the operator.

    A product is what torch's own counter counts, and what stands in its place: attention, recurrent layers, sparse
    and quantised products. Whatever a formula raises passes through.
    """
    packet = func._overloadpacket
    formula = _REGISTERED.get(packet)
    if formula is not None:
        return float(formula(*args, **kwargs, out_val=out)), True
    formula = PRODUCTS.get(op.name) or flop_registry.get(packet)
    if formula is not None:
        return float(formula(*args, **kwargs, out_val=out)), True
    formula = ARITHMETIC.get(op.base)
    if formula is not None and op.ours:
        return float(formula(*args, **kwargs, out_val=out)), False
    if not op.ours:
        return None
    if op.base in FREE or op.base.removeprefix("_foreach_") in FREE:
        return 0.0, False
    each = per_element(op.base)
    if each is not None:
        source = (args[:1] or out) if each[1] else (out if out is not None else args[:1])
        first = next(tensors(source), None) if not op.base.startswith("_foreach_") else None
        size = floating(tensors(source)) if first is None else floating([first])
        return each[0] * size, False
    if op.reduction:
        return float(floating(tensors(args[:1]))), False
    if op.pointwise or op.base.startswith("_foreach_"):
        scaled = op.base in _SCALED and kwargs.get("alpha", 1) != 1
        return float((1 + scaled) * floating(tensors(out if out is not None else args[:1]))), False
    if not any(t.is_floating_point() or t.is_complex() for t in tensors(out)):
        return 0.0, False
    return None


def made_of_others(func: Any, args: Any, kwargs: Any) -> bool:
    """Say whether an operator has no kernel of its own for its arguments' devices, but runs others.

    Not one that a formula was registered for: that counts it whole.
    """
    name, has_kernel = func.name(), torch._C._dispatch_has_kernel_for_dispatch_key
    if func._overloadpacket in _REGISTERED or not has_kernel(name, "CompositeImplicitAutograd"):
        return False
    return not any(has_kernel(name, t.device.type.upper()) for t in tensors((args, kwargs)))


def causal_share(op: Operator, args: Any, kwargs: Any) -> float:
    """Return which part of attention's dense products a causal mask leaves; 1 without one (as FLOP are counted)."""
    causal = op.argument("is_causal", args, kwargs) or op.argument("custom_mask_type", args, kwargs)
    query, key = op.argument("query", args, kwargs), op.argument("key", args, kwargs)
    if not causal or query is None or key is None:
        return 1.0
    rows, columns = query.shape[-2], key.shape[-2]
    kept = min(rows, columns)
    return float((kept * (kept + 1) / 2 + max(rows - columns, 0) * columns) / (rows * columns))
