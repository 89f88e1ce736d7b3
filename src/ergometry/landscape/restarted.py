"""Restarted Lanczos: the largest eigenvalue where only a few vectors may be kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ergometry.landscape.lanczos import Krylov
from ergometry.landscape.point import LandscapeError, Reading, generator, length, sphere
from ergometry.landscape.products import Operator

LEAST = 3
"""Vectors that a restarted process needs: with two it is little better than the power method."""


def largest_by_restarts(
    operator: Operator,
    *,
    capacity: int,
    steps: int = 60,
    tolerance: float = 1e-3,
    seed: int = 0,
    start: Tensor | None = None,
) -> Reading:
    """Largest eigenvalue λ_max of A (algebraically), in A's unit, with a basis of ``capacity`` vectors at most.

    When the basis is full, the process begins anew from its Ritz vector: Ritz values only rise, and never exceed λ_max.
    The error is the last residual, as in :func:`.lanczos.largest_eigenvalue`, which takes fewer products where its
    basis may be as long as it likes.

    Args:
        operator: A.
        capacity: vectors kept, 3 at least.
        steps: the most products to take.
        tolerance: stop when the residual is below this share of the Ritz value.
        seed: of the start vector.
        start: a direction known to lie among the large eigenvalues; half the start.

    Raises:
        LandscapeError: a product is not finite, or the capacity is less than 3.

    Source: Saad, Numerical Methods for Large Eigenvalue Problems (2011), section 7.1 on explicit restarts.

    >>> operator = Operator.of(torch.diag(torch.arange(1.0, 10.0, dtype=torch.float64)))
    >>> round(largest_by_restarts(operator, capacity=3, tolerance=1e-6, steps=200).value, 6)
    9.0
    """
    if capacity < LEAST:
        raise LandscapeError(
            expected=f"room for {LEAST} vectors", got=f"{capacity}", remedy="give more memory, or take no λ_max"
        )
    first = sphere(operator.size, generator(seed), operator.dtype, operator.device)
    if start is not None and length(start) > 0.0:
        first = first / length(first) + start / length(start)
    value = residual = math.nan
    products = 0
    converged = False
    while not converged and products < steps:
        krylov = Krylov.begin(operator, first, capacity)
        while not (converged or krylov.full) and products < steps:
            krylov.step()
            products += 1
            values, states = torch.linalg.eigh(krylov.tridiagonal())
            value, residual = float(values[-1]), krylov.beside[-1] * abs(float(states[-1, -1]))
            converged = krylov.exhausted or residual <= tolerance * abs(value)
        if not converged:
            first = states[:, -1].to(operator.device, operator.dtype) @ krylov.vectors()
        del krylov  # its basis goes before the next one comes
    error = math.hypot(residual, operator.error * value)
    unconverged = "" if converged else f"residual still {residual / max(abs(value), 1e-300):.1g}"
    limited = unconverged and f"no more than {capacity} Lanczos vectors were kept"
    why = "; ".join(filter(None, (operator.why, limited, unconverged)))
    method = f"Lanczos restarted every {capacity} vectors, {products} {operator.how} products"
    return Reading(value, error, method, why, products)
