"""The Fisher information of a model's outputs, as JᵀΛJ = J̃ᵀJ̃: products, rows and the Gram matrix of either side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ergometry.landscape.differences import choose_step, difference
from ergometry.landscape.point import (
    LandscapeError,
    Outputs,
    Point,
    dependent,
    differentiable,
    finite,
    generator,
    length,
    pull,
    sphere,
)
from ergometry.landscape.products import DIFFERENCES, EXACT, Operator

CATEGORICAL, GAUSSIAN = "categorical", "gaussian"

Groups = Mapping[str, Sequence[tuple[int, int]]]
"""Name of a block of parameters to its ranges of the flat vector."""


@dataclass(frozen=True)
class Factor:
    """A factor J̃ (m, N) of a positive semidefinite F = J̃ᵀJ̃, known by its products from either side.

    F (N, N) and the Gram matrix J̃J̃ᵀ (m, m) have the same non-zero eigenvalues, so whatever depends on those alone is
    found on the smaller side.

    Attributes:
        forward: v (N,) to J̃v (m,).
        adjoint: u (m,) to J̃ᵀu (N,).
        chunk: first and end row to these rows of J̃, (end − first, N).
        rows: m.
        columns: N.
        dtype: of both sides.
        device: of both sides.
        how: how ``forward`` is taken; ``adjoint`` is always exact.
        error: relative error of ``forward``.
        why: why it is not taken exactly.
        source: the closure, its parameters and likelihood, where the factor is of a model.
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    chunk: Callable[[int, int], Tensor]
    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device
    how: str = EXACT
    error: float = 0.0
    why: str = ""
    source: tuple[Outputs, Sequence[Tensor], str] | None = None

    @classmethod
    def of(cls, rows: Tensor) -> Factor:
        """Return the factor of given rows (m, N): gradients of examples make the empirical Fisher Σ g gᵀ.

        Raises:
            LandscapeError: they are no matrix, or not finite.
        """
        if rows.ndim != 2 or 0 in rows.shape or not math.isfinite(float(torch.linalg.vector_norm(rows, ord=math.inf))):
            raise LandscapeError(
                expected="finite rows (m, N)", got=f"shape {tuple(rows.shape)}", remedy="leave out rows with NaN"
            )
        m, n = rows.shape
        return cls(lambda v: rows @ v, lambda u: u @ rows, lambda i, j: rows[i:j], m, n, rows.dtype, rows.device)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return int(torch.empty((), dtype=self.dtype).element_size())

    @property
    def side(self) -> int:
        """The smaller of m and N: the most that F's rank can be."""
        return min(self.rows, self.columns)

    def fisher(self) -> Operator:
        """Return F = J̃ᵀJ̃, (N, N)."""
        return self._operator(lambda v: self.adjoint(self.forward(v)), self.columns)

    def smaller(self) -> Operator:
        """Return F or the Gram matrix J̃J̃ᵀ, whichever is smaller."""
        if self.columns <= self.rows:
            return self.fisher()
        return self._operator(lambda u: self.forward(self.adjoint(u)), self.rows)

    def _operator(self, apply: Callable[[Tensor], Tensor], size: int) -> Operator:
        return Operator(apply, size, self.dtype, self.device, how=self.how, error=self.error, why=self.why)

    def chunks(self, memory_bytes: int) -> Iterator[Tensor]:
        """Yield all rows in order, in chunks (k, N) of at most this memory but no fewer than one row."""
        step = max(memory_bytes // ((self.columns + self.rows) * self.itemsize), 1)
        for first in range(0, self.rows, step):
            yield self.chunk(first, min(first + step, self.rows))


def fisher(outputs: Outputs, parameters: Sequence[Tensor], likelihood: str = CATEGORICAL) -> Factor:
    """Fisher information F = Σ JᵀΛJ of a model's outputs, summed over predictions, in nat over parameter unit squared.

    It equals the generalised Gauss–Newton matrix of the summed negative log likelihood. Λ = SSᵀ is the Fisher
    information of one prediction, and J̃ = SᵀJ. ``categorical``: outputs (…, C) are logits, p their softmax,
    Λ = diag(p) − ppᵀ, S = diag(√p) − p√pᵀ. ``gaussian``: Λ = 1, that is outputs with independent unit noise, or
    any outputs whose JᵀJ is wanted: the examples' own losses (n,) make the empirical Fisher Σ g gᵀ.

    Products are exact (the graph of the outputs is kept as long as the result), save that Jv needs a second derivative
    of the backward; where there is none, Jv is a central difference of outputs, and Jᵀu stays exact.

    Args:
        outputs: closure, list of parameters to outputs; for ``categorical`` at least (C,).
        parameters: θ, tensors that require grad; they are left as they are.
        likelihood: ``categorical`` or ``gaussian``.

    Raises:
        LandscapeError: the outputs are not finite, or do not depend on the parameters, or the likelihood is neither.

    Source: Martens 2020 (arXiv 1412.1193) for F as Gauss–Newton; Schraudolph 2002 for the products.

    >>> w = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    >>> x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    >>> F = fisher(lambda p: x @ p[0], [w]).fisher()
    >>> round(float(F.dense().trace()), 9)  # |x|²·tr(diag(p) − ppᵀ) = 5·(1 − 1/3)
    3.333333333
    """
    if likelihood not in (CATEGORICAL, GAUSSIAN):
        raise LandscapeError(
            expected=f"likelihood {CATEGORICAL} or {GAUSSIAN}",
            got=repr(likelihood),
            remedy=f"use {CATEGORICAL} for a softmax cross-entropy, {GAUSSIAN} for a squared error",
        )
    point = Point.at(parameters)
    with differentiable():
        out = dependent(outputs(list(point.leaves)))
    finite(float(out.detach().double().sum()), "outputs")
    root, transposed = roots(out.detach(), likelihood)

    def adjoint(vector: Tensor) -> Tensor:
        return point.flat(pull([out], [root(vector.view(out.shape).to(out.dtype))], point.leaves))

    def chunk(first: int, end: int) -> Tensor:
        units = torch.zeros(end - first, out.numel(), dtype=out.dtype, device=out.device)
        units[torch.arange(end - first), torch.arange(first, end)] = 1.0
        return _rows(out, point, root(units.view(-1, *out.shape)))

    jacobian, how, error, why = _jacobian(outputs, out, point)
    return Factor(
        forward=lambda v: transposed(jacobian(v)).reshape(-1).to(point.dtype),
        adjoint=adjoint,
        chunk=chunk,
        rows=out.numel(),
        columns=point.size,
        dtype=point.dtype,
        device=point.device,
        how=how,
        error=error,
        why=why,
        source=(outputs, parameters, likelihood),
    )


def roots(out: Tensor, likelihood: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return u → Su and x → Sᵀx, of tensors that end in the shape of the outputs."""
    if likelihood == GAUSSIAN:
        return (lambda u: u), (lambda x: x)
    p = torch.softmax(out, -1)
    r = p.sqrt()
    return (lambda u: r * u - p * (r * u).sum(-1, keepdim=True)), (lambda x: r * (x - (p * x).sum(-1, keepdim=True)))


def _rows(out: Tensor, point: Point, cotangents: Tensor) -> Tensor:
    """Return Jᵀ of several cotangents (k, …), as rows (k, N): batched where the backward can be, else one by one."""
    with differentiable():
        try:
            parts = torch.autograd.grad(
                out, point.leaves, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        except RuntimeError:  # an operator without a batching rule, or too little memory for all at once
            return torch.stack([point.flat(pull([out], [c], point.leaves)) for c in cotangents])
    k = len(cotangents)
    filled = (
        torch.zeros(k, leaf.numel(), dtype=leaf.dtype, device=leaf.device) if part is None else part.reshape(k, -1)
        for part, leaf in zip(parts, point.leaves, strict=True)
    )
    return torch.cat([part.detach().to(point.dtype) for part in filled], 1)


def _jacobian(outputs: Outputs, out: Tensor, point: Point) -> tuple[Callable[[Tensor], Tensor], str, float, str]:
    """Return v → Jv, how it is taken, its relative error and why it is not exact."""
    probe = sphere(point.size, generator(0), point.dtype, point.device)
    try:
        exact = _exact_jacobian(out, point)
        finite(float(exact(probe).double().sum()), "Jacobian-vector product")
        return exact, EXACT, 0.0, ""
    except RuntimeError as raised:  # torch has no class of its own for "not implemented twice"
        reason = " ".join(str(raised).split())[:200]

    def along(vector: Tensor) -> Callable[[float], Tensor]:
        def at(t: float) -> Tensor:
            with torch.inference_mode(False), torch.no_grad():
                return outputs(point.moved(vector, t)).detach()

        return at

    step = choose_step(along(probe / length(probe)), point.dtype, max(point.norm, 1.0))

    def by_differences(vector: Tensor) -> Tensor:
        size = length(vector)
        return difference(along(vector / size), step.length) * size if size else torch.zeros_like(out)

    why = f"no double backward: {reason}; step {step.length:.2g}, relative error {step.error:.1g}"
    return by_differences, DIFFERENCES, step.error, why


def _exact_jacobian(out: Tensor, point: Point) -> Callable[[Tensor], Tensor]:
    """Return v → Jv, as the derivative by u of vᵀ(Jᵀu), which is linear in u."""
    with differentiable():
        dual = torch.zeros_like(out, requires_grad=True)
    back = pull([out], [dual], point.leaves, graph=True)
    kept = [(part, i) for i, part in enumerate(back) if part is not None and part.requires_grad]

    def product(vector: Tensor) -> Tensor:
        shaped = point.shaped(vector)
        (found,) = pull([part for part, _ in kept], [shaped[i] for _, i in kept], [dual])
        return torch.zeros_like(dual) if found is None else found.detach()

    return product
