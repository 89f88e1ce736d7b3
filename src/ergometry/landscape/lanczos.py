"""Lanczos: the ends of a spectrum, and traces of functions of an operator by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ergometry.landscape.point import LandscapeError, Reading, at_least_one, finite, generator, length, sphere
from ergometry.landscape.products import Operator

MEMORY_BYTES = 2 << 30
"""What bases of vectors may take, unless more is given."""

_LEAST_STEPS = 3
_WORKING_VECTORS = 4
_ALIKE = 0.1
"""Quadrature goes on until its truncation is below this share of the standard error between probes,"""
_TRUNCATION = 1e-3
"""or below this share of the trace."""


@dataclass
class Krylov:
    """A Lanczos process under way: AQ = QT + β q eᵀ, Q (steps, size) orthonormal, T tridiagonal.

    Every new vector is orthogonalised twice against all before it, without which Ritz values repeat. That takes the
    basis: ``capacity`` vectors of the operator's size.

    Attributes:
        operator: A.
        capacity: the most steps there is room for.
        basis: Q, (capacity, size); the first ``len(diagonal)`` rows count.
        diagonal: of T.
        beside: β of each step, the last one beyond T.
        exhausted: an invariant subspace was found, so T says all that the start vector can say.
    """

    operator: Operator
    capacity: int
    basis: Tensor
    diagonal: list[float]
    beside: list[float]
    exhausted: bool = False

    @classmethod
    def begin(cls, operator: Operator, start: Tensor, capacity: int) -> Krylov:
        """Return the process before its first step, from a vector that is not zero."""
        basis = torch.empty(min(capacity, operator.size), operator.size, dtype=operator.dtype, device=operator.device)
        basis[0] = start / finite(length(start), "start vector")
        return cls(operator, len(basis), basis, [], [])

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.diagonal)

    @property
    def full(self) -> bool:
        """Whether no step can follow."""
        return self.exhausted or self.steps >= self.capacity

    @property
    def scale(self) -> float:
        """A bound on |T|, by its rows."""
        return max(abs(a) for a in self.diagonal) + 2.0 * max(self.beside)

    def step(self) -> None:
        """Take one product with the operator.

        Raises:
            LandscapeError: the product is not finite.
        """
        j = self.steps
        q, before = self.basis[j], self.basis[: j + 1]
        w = self.operator(q)
        overlap = before @ w
        self.diagonal.append(finite(float(overlap[j]), f"product {j + 1} of the Lanczos process"))
        w = w - overlap @ before
        w -= (before @ w) @ before
        self.beside.append(length(w))
        limit = self.operator.size * torch.finfo(self.operator.dtype).eps ** 2
        noise = 4.0 * torch.finfo(self.operator.dtype).eps * self.scale
        self.exhausted = self.beside[-1] <= max(noise, limit)
        if not self.full:
            self.basis[j + 1] = w / self.beside[-1]

    def tridiagonal(self) -> Tensor:
        """Return T (steps, steps), float64 on the CPU."""
        t = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        if self.steps > 1:
            beside = torch.tensor(self.beside[:-1], dtype=torch.float64)
            t += torch.diag(beside, 1) + torch.diag(beside, -1)
        return t

    def vectors(self) -> Tensor:
        """Return Q, (steps, size)."""
        return self.basis[: self.steps]


def room(operator: Operator, steps: int, memory_bytes: int) -> tuple[int, str]:
    """Return how many Lanczos vectors fit, at most ``steps``, and what that limited, or an empty string.

    Raises:
        LandscapeError: not even three fit, the operator is of no numbers, or no step is asked for.
    """
    if operator.size < 1 or steps < 1:
        raise LandscapeError(
            expected="an operator of one number or more, and one step or more",
            got=f"{operator.size} numbers, {steps} steps",
            remedy="pass the parameters that are trained",
        )
    each = operator.size * torch.empty((), dtype=operator.dtype).element_size()
    fits = memory_bytes // each - _WORKING_VECTORS
    wanted = min(steps, operator.size)
    if fits < min(_LEAST_STEPS, wanted):
        raise LandscapeError(
            expected=f"room for {_LEAST_STEPS + _WORKING_VECTORS} vectors of {operator.size} numbers",
            got=f"{memory_bytes / 2**20:.4g} MiB, which holds {memory_bytes // each}",
            remedy="raise memory_bytes, or ask for a method without a basis",
        )
    if fits < wanted:
        return fits, f"{fits} of {wanted} Lanczos vectors fit into {memory_bytes / 2**20:.4g} MiB"
    return wanted, ""


def largest_eigenvalue(
    operator: Operator,
    *,
    steps: int = 60,
    tolerance: float = 1e-3,
    memory_bytes: int = MEMORY_BYTES,
    seed: int = 0,
    start: Tensor | None = None,
) -> tuple[Reading, Krylov]:
    """Largest eigenvalue λ_max of A (algebraically), in A's unit, and the basis that it was found in.

    A Ritz value never exceeds λ_max, and some eigenvalue lies within the residual |Ay − θy| = β|s| of it; that
    residual is the error stated. It holds for λ_max once the process has found its eigenvector, which from a random
    start it does with probability one; unconverged, it may state the error of a smaller eigenvalue.

    Args:
        operator: A.
        steps: the most products to take.
        tolerance: stop when the residual is below this share of the Ritz value.
        memory_bytes: for the basis, size · steps · bytes per number.
        seed: of the start vector.
        start: a direction known to lie among the large eigenvalues (the gradient); half the start, so nothing is
            missed that a random one would find.

    Raises:
        LandscapeError: a product is not finite, or three vectors do not fit into memory.

    Source: Parlett, The Symmetric Eigenvalue Problem (1980), chapters 11 to 13.

    >>> found, _ = largest_eigenvalue(Operator.of(torch.diag(torch.tensor([-9.0, 1.0, 4.0], dtype=torch.float64))))
    >>> round(found.value, 9)
    4.0
    """
    capacity, limited = room(operator, steps, memory_bytes)
    first = sphere(operator.size, generator(seed), operator.dtype, operator.device)
    if start is not None and length(start) > 0.0:
        first = first / length(first) + start / length(start)
    krylov = Krylov.begin(operator, first, capacity)
    value = residual = math.nan
    while not krylov.full:
        krylov.step()
        values, states = torch.linalg.eigh(krylov.tridiagonal())
        value, residual = float(values[-1]), krylov.beside[-1] * abs(float(states[-1, -1]))
        if residual <= tolerance * abs(value):
            break
    error = math.hypot(residual, operator.error * value)
    unconverged = (
        "" if residual <= tolerance * abs(value) else f"residual still {residual / max(abs(value), 1e-300):.1g}"
    )
    why = "; ".join(filter(None, (operator.why, unconverged and limited, unconverged)))
    method = f"Lanczos, {krylov.steps} {operator.how} products"
    return Reading(value, error, method, why, krylov.steps), krylov


def spectral_trace(
    operator: Operator,
    function: Callable[[Tensor], Tensor],
    *,
    floor: float | None = None,
    probes: int = 10,
    steps: int = 60,
    memory_bytes: int = MEMORY_BYTES,
    seed: int = 0,
) -> Reading:
    """Trace tr f(A) by stochastic Lanczos quadrature.

    A probe z, uniform on the sphere of radius √n, has E[zᵀf(A)z] = tr f(A), and a Lanczos process from z gives the
    Gauss quadrature of zᵀf(A)z = n Σ τ² f(θ), over its Ritz values θ with τ the first components of T's eigenvectors.

    Two errors are stated as one. *Between probes*: on the sphere the variance is exactly
    2n/(n+2)·[tr f² − (tr f)²/n], and the same quadrature gives tr f², so it is known from a single probe. *Truncation*:
    with ``floor`` a lower bound of the spectrum, and f whose odd derivatives are positive and even ones negative
    above it (ln(1 + x/λ), √x), Gauss quadrature is too large and Gauss–Radau with a node at the floor too small: the
    value is the middle, the error half the gap. Without ``floor`` it is what the last step changed, an estimate only.
    A probe's process ends when truncation is a tenth of the scatter of the mean, or a thousandth of the trace.

    Args:
        operator: A, (n, n).
        function: f of a float64 tensor, elementwise.
        floor: a lower bound of the spectrum, with f as said above; Ritz values below it, which only rounding makes,
            are read as the floor.
        probes: how many probes.
        steps: the most products per probe.
        memory_bytes: for the basis, n · steps · bytes per number.
        seed: of the probes.

    Raises:
        LandscapeError: there is no probe, a product is not finite, or three vectors do not fit into memory.

    Source: Golub & Meurant, Matrices, Moments and Quadrature (2010), chapter 6; Ubaru, Chen & Saad 2017.

    >>> A = Operator.of(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)))
    >>> found = spectral_trace(A, torch.log1p, floor=0.0, probes=200)
    >>> abs(found.value - math.log(24)) < 3 * found.stderr
    True
    """
    at_least_one(probes)
    capacity, limited = room(operator, steps, memory_bytes)
    n, stream = operator.size, generator(seed)
    firsts: list[float] = []
    seconds: list[float] = []
    truncations: list[float] = []
    products = cut = 0
    for _ in range(probes):
        krylov = Krylov.begin(operator, sphere(n, stream, operator.dtype, operator.device), capacity)
        before = first = second = truncation = math.nan
        while not krylov.full:
            krylov.step()
            first, second, truncation = _quadrature(krylov, function, floor, before)
            before = first
            scatter = _scatter([*firsts, first], [*seconds, second], n)
            if truncation <= max(_ALIKE * scatter * probes**-0.5, _TRUNCATION * abs(first)):
                break
        else:
            cut += not krylov.exhausted
        products += krylov.steps
        firsts.append(first)
        seconds.append(second)
        truncations.append(truncation)
    value, truncation = math.fsum(firsts) / probes, math.fsum(truncations) / probes
    stderr = math.hypot(_scatter(firsts, seconds, n) * probes**-0.5, truncation, operator.error * value)
    unconverged = f"{cut} of {probes} probes ended with truncation {truncation:.2g}" if cut else ""
    why = "; ".join(filter(None, (operator.why, unconverged and limited, unconverged)))
    method = f"stochastic Lanczos quadrature, {probes} probes, {products} {operator.how} products"
    return Reading(finite(value, "trace"), stderr, method, why, products)


def _scatter(firsts: list[float], seconds: list[float], n: int) -> float:
    """Return the standard deviation of one probe, √(2n/(n+2)·[tr f² − (tr f)²/n])."""
    first, second = math.fsum(firsts) / len(firsts), math.fsum(seconds) / len(seconds)
    return math.sqrt(max(2.0 * n / (n + 2.0) * (second - first * first / n), 0.0))


def _quadrature(
    krylov: Krylov, function: Callable[[Tensor], Tensor], floor: float | None, before: float
) -> tuple[float, float, float]:
    """Return zᵀfz, zᵀf²z, and the truncation of the first."""
    n, t = krylov.operator.size, krylov.tridiagonal()
    noise = torch.finfo(krylov.operator.dtype).eps * krylov.scale
    first, second, lowest = _gauss(t, function, floor, n)
    if floor is None:
        return first, second, 0.0 if krylov.exhausted else abs(first - before) if math.isfinite(before) else math.inf
    # Rounding moves nodes by up to the noise, which counts where f is steep and the weight may be large: at the floor.
    ends = function(torch.tensor([floor, floor + noise], dtype=torch.float64))
    jitter = lowest * float(ends[1] - ends[0])
    if krylov.exhausted:
        return first, second, jitter
    # Radau: the last diagonal entry of the next T is chosen so that a node falls on the floor.
    k, below = krylov.steps, floor - 2.0 * noise
    longer = torch.zeros(k + 1, k + 1, dtype=torch.float64)
    longer[:k, :k] = t
    longer[k, k - 1] = longer[k - 1, k] = krylov.beside[-1]
    right = longer[:k, k] * krylov.beside[-1]
    longer[k, k] = below + torch.linalg.solve(t - below * torch.eye(k, dtype=torch.float64), right)[-1]
    low, second_low, _ = _gauss(longer, function, floor, n)
    return 0.5 * (first + low), 0.5 * (second + second_low), 0.5 * abs(first - low) + jitter


def _gauss(t: Tensor, function: Callable[[Tensor], Tensor], floor: float | None, n: int) -> tuple[float, float, float]:
    """Return zᵀfz and zᵀf²z by the nodes of T, and the weight of the lowest."""
    values, states = torch.linalg.eigh(t)
    f = function(values if floor is None else values.clamp(min=floor))
    weights = n * states[0].square()
    return float(weights @ f), float(weights @ f.square()), float(weights[0])
