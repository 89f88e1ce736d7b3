"""Traces: trH by random probes, less noisy where a Krylov basis has taken the large eigenvalues out; and tr(HΣ)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ergometry.landscape.lanczos import Krylov
from ergometry.landscape.point import (
    LandscapeError,
    Outputs,
    Point,
    Reading,
    at_least_one,
    dependent,
    differentiable,
    finite,
    generator,
    length,
    pull,
    signs,
    sphere,
)
from ergometry.landscape.products import Operator


def trace(operator: Operator, *, probes: int = 10, krylov: Krylov | None = None, seed: int = 0) -> Reading:
    """Trace trA, in A's unit, unbiased.

    A probe z uniform on the sphere of radius √n has E[zᵀAz] = trA, with variance 2n/(n+2)·[|A|²_F − (trA)²/n]
    exactly; E|Az|² = |A|²_F gives it from the same products, so one probe already has an error. Of a matrix of two
    numbers that error is uncertain itself: 90 % intervals of 1, 2 and 10 probes cover 57, 70 and 87 %; of 20 numbers
    they cover 87 to 90 %.

    With ``krylov`` (what :func:`.lanczos.largest_eigenvalue` returns besides λ_max) the subspace Q that it holds is
    taken out: trA = trT + tr(PAP), P = 1 − QQᵀ, and only the second term is sampled. Q costs nothing more and has
    the outlying eigenvalues that make much of |A|_F: the idea of Hutch++, with a Krylov space that is there already in
    place of a random one that must be paid for.

    Args:
        operator: A, symmetric.
        probes: how many, at least 1.
        krylov: a Lanczos process of the same A.
        seed: of the probes; another than the Krylov process's.

    Raises:
        LandscapeError: there is no probe, or a product is not finite.

    Source: Hutchinson 1990; Girard 1989; Meyer, Musco, Musco & Woodruff 2021 for taking a subspace out.

    >>> A = Operator.of(torch.diag(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)))
    >>> found = trace(A, probes=50)
    >>> abs(found.value - 9.0) < 3 * found.stderr
    True
    """
    at_least_one(probes)
    basis = krylov.vectors() if krylov is not None else None
    known = math.fsum(krylov.diagonal) if krylov is not None else 0.0
    n = operator.size - (0 if basis is None else len(basis))
    method = f"{probes} probes" + ("" if basis is None else f" beside a Krylov space of {len(basis)}")
    if n == 0:
        return Reading(known, abs(operator.error * known), "Krylov space of all", operator.why)
    stream, firsts, seconds = generator(seed + 1), [], []
    for _ in range(probes):
        z = sphere(operator.size, stream, operator.dtype, operator.device)
        if basis is not None:
            z = _project(z, basis)
            z = z * (n**0.5 / length(z))
        product = operator(z)
        firsts.append(finite(float(torch.dot(z, product)), "probe of the trace"))
        seconds.append(length(product if basis is None else _project(product, basis)) ** 2)
    first, second = math.fsum(firsts) / probes, math.fsum(seconds) / probes
    variance = max(2.0 * n / (n + 2.0) * (second - first * first / n), 0.0) / probes
    value = known + first
    return Reading(value, math.hypot(variance**0.5, operator.error * value), method, operator.why, probes)


def _project(z: Tensor, basis: Tensor) -> Tensor:
    z = z - (basis @ z) @ basis
    return z - (basis @ z) @ basis


def quadratic_form(operator: Operator, vector: Tensor, product: Tensor | None = None) -> Reading:
    """Curvature along a vector, vᵀAv: GᵀHG with v = G.

    Exact for the A and v given. With a minibatch's own g in place of G it is too large by tr(HΣ)/B, which
    :func:`noise_trace` gives.

    Args:
        operator: A.
        vector: v, (n,).
        product: Av, where it is known already (``Hessian.gradient_product``).
    """
    taken = operator(vector) if product is None else product
    value = finite(float(torch.sum(vector * taken, dtype=torch.float64)), "curvature along a vector")
    error = operator.error * length(vector) * length(taken)
    return Reading(value, error, f"{operator.how} product", operator.why, int(product is None))


def noise_trace(
    operator: Operator, losses: Outputs, parameters: Sequence[Tensor], *, probes: int = 10, seed: int = 0
) -> Reading:
    """Curvature seen by the gradient noise, tr(HΣ), loss³ over parameter unit⁴: how much noise raises the loss.

    Σ is the covariance of the examples' gradients g_i, normalised by 1/n. With independent signs s_i, mean s̄, the
    vector z = n^{−½} Σ (s_i − s̄)·g_i has E[zzᵀ] = Σ, so E[zᵀHz] = tr(HΣ): a probe is one gradient of a weighted sum
    of losses and one product, and no example's own gradient is taken. Unbiased; the error is the probes' scatter,
    widened to what Student's t has at 90 % with so few. For the covariance of the population that the n examples were
    drawn from, multiply by n/(n−1).

    Args:
        operator: H.
        losses: closure, list of parameters to the examples' own losses (n,).
        parameters: θ.
        probes: how many, at least 2.
        seed: of the signs.

    Raises:
        LandscapeError: the losses are not (n,), with n at least 2, and finite; or a product is not.
    """
    if probes < 2:
        raise LandscapeError(expected="at least 2 probes", got=f"{probes}", remedy="their scatter is the error")
    point, stream, found = Point.at(parameters), generator(seed + 2), []
    with differentiable():
        each = losses(list(point.leaves))
    n = each.numel()
    if each.ndim != 1 or n < 2:
        raise LandscapeError(
            expected="losses of at least 2 examples, (n,)",
            got=f"shape {tuple(each.shape)}",
            remedy="reduce over everything but the examples, with reduction='none'",
        )
    finite(float(each.detach().double().sum()), "losses")
    for _ in range(probes):
        s = signs((n,), stream, each.dtype, each.device)
        parts = pull([dependent(each)], [(s - s.mean()) / n**0.5], point.leaves)
        z = point.flat(parts)
        found.append(finite(float(torch.dot(z, operator(z))), "probe of tr(HΣ)"))
    value = math.fsum(found) / probes
    scatter = math.sqrt(math.fsum((x - value) ** 2 for x in found) / (probes - 1) / probes) * few(probes)
    error = math.hypot(scatter, operator.error * value)
    return Reading(value, error, f"{probes} signed sums of gradients", operator.why, probes)


def few(n: int) -> float:
    """Return the quantile of Student's t with n − 1 degrees of freedom over the normal one, at two-sided 90 %.

    >>> print(f"{few(2):.2f} {few(5):.2f} {few(30):.2f}")
    3.84 1.29 1.03
    """
    f = n - 1
    if f == 1:
        return 6.3138 / 1.6449
    if f == 2:
        return 2.9200 / 1.6449
    # Cornish and Fisher's expansion in 1/f, good to 0.4 % from f = 3.
    z = 1.6449
    a = (z**3 + z) / 4
    b = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    c = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return (z + a / f + b / f**2 + c / f**3) / z
