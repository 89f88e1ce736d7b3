"""Gradients of single examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ergometry.landscape.point import LandscapeError, Point, dependent, differentiable, scalar

ExampleLoss = Callable[..., Tensor]
"""``loss(parameters, *example)``: the scalar loss of one example, given as tensors without the batch dimension."""


_CHUNK_BYTES = 256 << 20


def example_gradients(
    loss: ExampleLoss, parameters: Sequence[Tensor], batch: Sequence[Tensor], *, chunk: int = 256
) -> tuple[Tensor, str]:
    """Gradients of single examples, g_i = ∇ℓ_i(θ), as rows (n, N), and how they were taken.

    ``vmap`` where torch can vectorise the loss over examples (:mod:`torch.func`), else a ``loop``: models whose control
    flow depends on the data, or with operators that have no batching rule. Both are exact.

    Args:
        loss: closure, (list of parameters, tensors of one example) to a scalar.
        parameters: θ, tensors that require grad; they are left as they are.
        batch: tensors whose first dimension is the examples'.
        chunk: the most examples vectorised at a time: their activations are held together.

    Raises:
        LandscapeError: the batch is empty or of unequal lengths, or a loss is not a finite scalar.

    >>> w = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> rows, how = example_gradients(lambda p, x: (p[0] @ x) ** 2, [w], [x])
    >>> rows.tolist(), how
    ([[2.0, 0.0], [0.0, 8.0]], 'vmap')
    """
    point, lengths = Point.at(parameters), {len(t) for t in batch}
    if len(lengths) != 1 or 0 in lengths:
        raise LandscapeError(
            expected="tensors of one and the same number of examples",
            got=", ".join(map(str, sorted(lengths))) or "none",
            remedy="give each tensor the examples as its first dimension",
        )
    (n,) = lengths
    rows = torch.empty(n, point.size, dtype=point.dtype, device=point.device)
    step = max(min(chunk, _CHUNK_BYTES // (point.size * rows.element_size())), 1)
    try:
        with differentiable():
            one = torch.func.grad(lambda p, *example: loss(list(p), *example))
            many = torch.func.vmap(one, in_dims=(None, *(0 for _ in batch)))
            for i in range(0, n, step):
                parts = many(tuple(leaf.detach() for leaf in point.leaves), *(t[i : i + step] for t in batch))
                torch.cat([part.flatten(1).to(rows.dtype) for part in parts], 1, out=rows[i : i + step])
        how = "vmap"
    except (RuntimeError, ValueError):  # what functorch raises for what it cannot vectorise; the loop tells the rest
        for i in range(n):
            rows[i] = _one(loss, point, [t[i] for t in batch])
        how = "loop"
    largest = torch.linalg.vector_norm(rows, ord=math.inf, dim=1)
    if broken := int((~torch.isfinite(largest)).sum()):
        raise LandscapeError(
            expected="finite gradients", got=f"{broken} of {n} examples that are not", remedy="leave those examples out"
        )
    return rows, how


def _one(loss: ExampleLoss, point: Point, example: list[Tensor]) -> Tensor:
    with differentiable():
        value = dependent(scalar(loss(list(point.leaves), *example)))
        return point.flat(torch.autograd.grad(value, point.leaves, allow_unused=True))
