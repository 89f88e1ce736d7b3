"""Hessian-vector products of a closure: exact, or by finite differences of gradients where it must be so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ergometry.landscape.differences import Step, choose_step, difference
from ergometry.landscape.point import LandscapeError, Loss, Point, finite, gradient, length, pull

EXACT, DIFFERENCES = "exact", "finite differences"


@dataclass(frozen=True)
class Operator:
    """A symmetric linear operator A, known by its products: ``operator(v)`` is Av.

    Attributes:
        apply: v (size,) to Av (size,).
        size: its dimension.
        dtype: of v and Av.
        device: of v and Av.
        how: how a product is taken.
        error: relative error of a product, beyond rounding of its dtype.
        why: why it is not taken exactly, or an empty string.
    """

    apply: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype
    device: torch.device
    how: str = EXACT
    error: float = 0.0
    why: str = ""

    def __call__(self, vector: Tensor) -> Tensor:
        """Return Av."""
        return self.apply(vector)

    @classmethod
    def of(cls, matrix: Tensor) -> Operator:
        """Return the operator of a symmetric matrix."""
        return cls(lambda v: matrix @ v, len(matrix), matrix.dtype, matrix.device)

    def dense(self) -> Tensor:
        """Return the matrix (size, size) float64, column by column."""
        columns = torch.empty(self.size, self.size, dtype=torch.float64, device=self.device)
        unit = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for j in range(self.size):
            unit[j] = 1.0
            columns[:, j] = self(unit)
            unit[j] = 0.0
        return columns


@dataclass(frozen=True)
class Hessian(Operator):
    """The Hessian H of a loss at θ, with what finding out how to take its products brought along.

    Attributes:
        loss: ℓ(θ).
        gradient: G = ∇ℓ(θ), (N,).
        gradient_product: HG, (N,): the product that showed whether double backward works.
        products: how many products, or what comes to as many, were spent so far.
    """

    loss: float = 0.0
    gradient: Tensor = None
    gradient_product: Tensor = None
    products: int = 1


def hessian(loss: Loss, parameters: Sequence[Tensor], *, how: str = "auto") -> Hessian:
    """Hessian H = ∂²ℓ/∂θ² of a loss, loss unit over parameter unit squared, by its products with vectors.

    Exact products differentiate the gradient's graph, which is built once and kept as long as the result: a product
    costs about two gradients, and memory that of the graph. Where some operator has no second derivative (fused
    attention, cuDNN's recurrent layers, compiled functions), products are central differences of gradients at θ ± hv:
    two gradients each, accurate to about ε^⅔, with h chosen along G (:func:`.differences.choose_step`). The closure is
    then called again and again, and must give the same each time (dropout masks replayed).

    What autograd does not know it cannot differentiate: a user's own ``autograd.Function`` whose backward leaves the
    graph in part makes an exact product wrong; ``how="differences"`` does not have that fault.

    Args:
        loss: closure, list of parameters to scalar.
        parameters: θ, tensors that require grad; they and their ``.grad`` are left as they are.
        how: ``auto``, ``exact`` (an error where there is no double backward) or ``differences``.

    Raises:
        LandscapeError: the loss is not a finite scalar that depends on the parameters, or is not the same twice.

    Source: Pearlmutter 1994 for the exact product.

    >>> w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    >>> H = hessian(lambda p: p[0][0] ** 2 * p[0][1], [w])
    >>> H(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist(), H.how
    ([4.0, 2.0], 'exact')
    """
    if how not in ("auto", "exact", "differences"):
        raise LandscapeError(expected="how: auto, exact or differences", got=repr(how), remedy="choose one of them")
    point = Point.at(parameters)
    if how == "differences":
        return _by_differences(loss, point, "asked for")
    try:
        return _exact(loss, point)
    except RuntimeError as error:  # torch has no class of its own for "not implemented twice"
        reason = " ".join(str(error).split())[:200]
        if how == "exact":
            raise LandscapeError(
                expected="a loss that can be differentiated twice",
                got=reason,
                remedy="use how='auto', or attention by torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
            ) from error
        return _by_differences(loss, point, f"no double backward: {reason}")


def _exact(loss: Loss, point: Point) -> Hessian:
    value, parts = gradient(loss, point.leaves, graph=True)
    kept = [(part, i) for i, part in enumerate(parts) if part is not None and part.requires_grad]

    def apply(vector: Tensor) -> Tensor:
        shaped = point.shaped(vector)
        weights = [shaped[i] for _, i in kept]
        return point.flat(pull([part for part, _ in kept], weights, point.leaves))

    g = point.flat(parts)
    if not kept:
        raise RuntimeError("the gradient has no graph: the loss is linear, or its backward cannot be differentiated")
    along = apply(g)
    finite(length(g), "gradient")
    finite(length(along), "Hessian-vector product")
    return Hessian(
        apply, point.size, point.dtype, point.device, loss=float(value.detach()), gradient=g, gradient_product=along
    )


def _by_differences(loss: Loss, point: Point, why: str) -> Hessian:
    value, parts = gradient(loss, point.leaves)
    g = point.flat(parts)
    norm = finite(length(g), "gradient")
    again = point.flat(gradient(loss, point.leaves)[1])
    apart = length(again - g)
    if apart > 1e-2 * norm:
        raise LandscapeError(
            expected="a loss that gives the same gradient each time",
            got=f"gradients that differ by {apart / norm:.1%}",
            remedy="replay it with its random state and buffers restored, or look at it without dropout",
        )

    def along(vector: Tensor) -> Callable[[float], Tensor]:
        return lambda t: point.flat(gradient(loss, point.moved(vector, t))[1])

    direction = g / norm if norm > 0 else torch.full_like(g, point.size**-0.5)
    step: Step = choose_step(along(direction), point.dtype, max(point.norm, 1.0))

    def apply(vector: Tensor) -> Tensor:
        size = length(vector)
        if size == 0.0:
            return torch.zeros_like(vector)
        return difference(along(vector / size), step.length) * size

    return Hessian(
        apply,
        point.size,
        point.dtype,
        point.device,
        how=DIFFERENCES,
        error=step.error,
        why=f"{why}; step {step.length:.2g}, relative error {step.error:.1g}",
        loss=float(value.detach()),
        gradient=g,
        gradient_product=apply(g),
        products=1 + step.evaluations // 2,
    )
