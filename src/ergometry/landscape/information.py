"""Information that parameters hold, ½·ln det(1 + F/λ) in nat, by the best method that is affordable, always named.

With a Gaussian prior of precision λ on each parameter and a likelihood whose Fisher information over the data is F,
½·ln det(1 + F/λ) is the information gain of the Laplace approximation: exact in linear regression, where it does not
depend on the labels. Three exact numbers are ordered, by Hadamard and Fischer's inequality:

    diagonal ≥ blocks ≥ full

and how far they lie apart says how much the parameters' directions share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ergometry.landscape.fisher import Factor, Groups
from ergometry.landscape.kronecker import PASSES, UPPER, diagonal_samples, kronecker, sampled_diagonal
from ergometry.landscape.lanczos import MEMORY_BYTES, room, spectral_trace
from ergometry.landscape.point import LandscapeError, Reading, at_least_one

METHODS = ("exact", "lanczos", "kronecker", "blocks", "diagonal")
"""In the order of the codes ``how`` of the table INFORMATION, from 1."""

_NEXT = {"exact": "lanczos", "lanczos": "kronecker", "blocks": "kronecker", "kronecker": "diagonal"}
_LEAST_STEPS = 8


@dataclass(frozen=True)
class Effort:
    """What may be spent.

    Attributes:
        products: the most products, each a forward and a backward of the batch or as much.
        memory_bytes: the most memory, beyond the closure's own.
        probes: of the stochastic quadrature.
        seed: of all random numbers.
    """

    products: int = 2048
    memory_bytes: int = MEMORY_BYTES
    probes: int = 10
    seed: int = 0


EFFORT = Effort()


def module_groups(names: Sequence[str], parameters: Sequence[Tensor]) -> Groups:
    """Return the blocks of parameters by module, from ``named_parameters``: the path without its last part.

    >>> sorted(module_groups(["0.weight", "0.bias"], [torch.zeros(2, 3), torch.zeros(2)]).items())
    [('0', [(0, 6), (6, 8)])]
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    end = 0
    for name, parameter in zip(names, parameters, strict=True):
        first, end = end, end + parameter.numel()
        groups.setdefault(name.rpartition(".")[0], []).append((first, end))
    return groups


def information(
    factor: Factor,
    prior_precision: float,
    *,
    method: str = "auto",
    groups: Groups | None = None,
    layers: Mapping[str, Any] | None = None,
    effort: Effort = EFFORT,
) -> Reading:
    """Information I = ½·ln det(1 + F/λ), nat, of all parameters.

    ``exact`` works on the smaller side of J̃: N by N, or the Gram matrix of the rows where these are fewer. ``lanczos``
    is stochastic quadrature there, with its error. ``kronecker`` (EKFAC, :mod:`.kronecker`) and ``blocks`` neglect what
    modules share, ``diagonal`` what parameters share: all three are upper bounds, of which ``stderr`` is NaN. Where
    their passes are sampled they are so in expectation (:func:`.kronecker.upper_bound`).
    ``auto`` takes the first of exact, lanczos, kronecker, diagonal that is affordable; a method that is too dear gives
    way to the next cheaper one. ``method`` of the result says which it was, ``why`` what stood in the way.

    Args:
        factor: J̃ of all data, F = J̃ᵀJ̃; for a sample of n of n_tot examples, read the sample and say so, as
            the logarithm does not scale.
        prior_precision: λ, in F's unit.
        method: ``auto`` or one of ``METHODS``.
        groups: blocks (:func:`module_groups`); needed for ``blocks`` and ``kronecker``.
        layers: the model's modules by the names of the groups (``dict(model.named_modules())``); needed for
            ``kronecker``, and they must run when the factor's closure is called.
        effort: what may be spent on it.

    Raises:
        LandscapeError: λ is not positive, the method is not known, or a product is not finite.

    Source: MacKay 1992 for the Laplace evidence; Golub & Meurant 2010 for the quadrature; George et al. 2018 for EKFAC.

    >>> x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)  # one example of linear regression: F = xxᵀ
    >>> found = information(Factor.of(x), 5.0)
    >>> print(f"{found.value:.6f} {found.method}")  # ½·ln(1 + 25/5)
    0.895880 exact, Gram matrix of 1 rows
    """
    _check(prior_precision, method)
    chosen, refusals = "exact" if method == "auto" else method, []
    while why := _too_dear(chosen, factor, groups, layers, effort):
        refusals.append(f"{chosen} is too dear: {why}")
        chosen = _NEXT[chosen]
    if chosen == "exact":
        found = _exact(factor, prior_precision, effort)
    elif chosen == "lanczos":
        found = _lanczos(factor, prior_precision, effort)
    else:
        whole = groups or {"": [(0, factor.columns)]}
        found = _sum(_apart(chosen, factor, prior_precision, whole, layers, effort))
    return replace(found, why="; ".join(filter(None, (*refusals, found.why))))


def information_by_group(
    factor: Factor,
    prior_precision: float,
    groups: Groups,
    *,
    layers: Mapping[str, Any] | None = None,
    effort: Effort = EFFORT,
) -> dict[str, Reading]:
    """Information of each block of parameters alone, ½·ln det(1 + F_b/λ), nat: exact, else EKFAC, else its diagonal.

    What blocks share counts in each of them, so the sum is at least the information of all.

    Args:
        factor: as in :func:`information`, like the rest.
        prior_precision: λ.
        groups: blocks, by name.
        layers: modules by the names of the groups, for EKFAC.
        effort: what may be spent on it.

    Raises:
        LandscapeError: λ is not positive, or a product is not finite.
    """
    _check(prior_precision, "auto")
    chosen, refusals = "blocks", []
    while why := _too_dear(chosen, factor, groups, layers, effort):
        refusals.append(f"{chosen} is too dear: {why}")
        chosen = _NEXT[chosen]
    found = _apart(chosen, factor, prior_precision, groups, layers, effort)
    return {name: replace(r, why="; ".join(filter(None, (*refusals, r.why)))) for name, r in found.items()}


def _check(prior_precision: float, method: str) -> None:
    if not 0.0 < prior_precision < math.inf:
        raise LandscapeError(
            expected="a prior precision λ > 0",
            got=f"{prior_precision}",
            remedy="without a prior the information of an undetermined direction is infinite",
        )
    if method not in ("auto", *METHODS):
        raise LandscapeError(
            expected=f"method auto, {', '.join(METHODS)}", got=repr(method), remedy="choose one of them"
        )


def _too_dear(
    method: str,
    factor: Factor,
    groups: Groups | None,
    layers: Mapping[str, Any] | None,
    effort: Effort,
) -> str:
    """Say why a method cannot be afforded, or return an empty string."""
    products, memory_bytes = effort.products, effort.memory_bytes
    if method == "diagonal":
        return ""
    if method == "kronecker":
        if groups and layers and factor.source:
            return ""
        return "it needs the modules of the model (layers and groups)"
    if method == "lanczos":
        if products < _LEAST_STEPS * effort.probes:
            return f"{effort.probes} probes of {_LEAST_STEPS} products each, of {products} allowed"
        try:
            room(factor.smaller(), _LEAST_STEPS, memory_bytes)
        except LandscapeError as error:
            return f"{error}"
        return ""
    if method == "exact":
        return _unaffordable(factor.side, factor.side, products, memory_bytes)
    if not groups:
        return "it needs the blocks (groups)"
    if not _held(factor, memory_bytes) and max(map(_size, groups.values())) > factor.rows:
        return f"{factor.rows} rows of {factor.columns} numbers do not fit into {memory_bytes / 2**20:.4g} MiB"
    sides = [min(_size(ranges), factor.rows) for ranges in groups.values()]
    return _unaffordable(max(sides), math.isqrt(sum(s * s for s in sides)), products, memory_bytes, factor.rows)


def _unaffordable(side: int, root: int, products: int, memory_bytes: int, rows: int = 0) -> str:
    if max(side, rows) > products:
        return f"a matrix of {side} by {side} from {max(side, rows)} products, of {products} allowed"
    if 4 * 8 * root * root > memory_bytes:
        return f"{4 * 8 * root * root / 2**20:.4g} MiB of matrices, of {memory_bytes / 2**20:.4g} allowed"
    return ""


def _size(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(end - first for first, end in ranges)


def _held(factor: Factor, memory_bytes: int) -> bool:
    """Say whether all rows fit into half of the memory."""
    return factor.rows * factor.columns * factor.itemsize <= memory_bytes // 2


def _rows(factor: Factor, memory_bytes: int) -> Tensor:
    return torch.cat(list(factor.chunks(memory_bytes // 8)))


class _Root:
    """The triangular T with TᵀT = Σ rᵀr over rows r (k, side) folded in, and ½·ln det(1 + TᵀT/λ) from it.

    A QR of the rows themselves loses √(|F|/λ)·ε where the eigenvalues of F would lose |F|/λ·ε, so that the
    inequalities between exact numbers hold to rounding.
    """

    def __init__(self, side: int, device: torch.device) -> None:
        self._triangle = torch.empty(0, side, dtype=torch.float64, device=device)

    def fold(self, rows: Tensor) -> None:
        step = 4 * self._triangle.shape[1]
        for first in range(0, len(rows), step):
            part = torch.cat((self._triangle, rows[first : first + step].double()))
            self._triangle = torch.linalg.qr(part, mode="r")[1]

    def nat(self, prior_precision: float) -> float:
        return 0.5 * float(torch.log1p(torch.linalg.svdvals(self._triangle).square() / prior_precision).sum())


def _exact(factor: Factor, prior_precision: float, effort: Effort) -> Reading:
    """Return the exact value, by the rows where they can be had, else from products, with what rounding may add."""
    narrow = factor.columns <= factor.rows
    method = f"exact, {factor.columns} parameters" if narrow else f"exact, Gram matrix of {factor.rows} rows"
    cheap = factor.source is None or factor.rows <= 2 * effort.products
    if cheap and (narrow or _held(factor, effort.memory_bytes)):
        root = _Root(factor.side, factor.device)
        for rows in factor.chunks(effort.memory_bytes // 8) if narrow else [_rows(factor, effort.memory_bytes).T]:
            root.fold(rows)
        return Reading(root.nat(prior_precision), 0.0, method, "", factor.rows)
    matrix = factor.smaller().dense()
    values = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T))
    # Rounding of the products makes eigenvalues that are zero in truth: what that may add is the error.
    noise = float(values[-1]) * (torch.finfo(factor.dtype).eps + factor.error)
    held = values.clamp(min=0.0)
    error = 0.5 * float(torch.log1p(noise / (prior_precision + held)).sum())
    nats = 0.5 * float(torch.log1p(held / prior_precision).sum())
    return Reading(nats, error, method, factor.why, factor.side)


def _lanczos(factor: Factor, prior_precision: float, effort: Effort) -> Reading:
    at_least_one(effort.probes)
    found = spectral_trace(
        factor.smaller(),
        lambda x: torch.log1p(x / prior_precision),
        floor=0.0,
        probes=effort.probes,
        steps=effort.products // effort.probes,
        memory_bytes=effort.memory_bytes,
        seed=effort.seed,
    )
    return replace(found, value=0.5 * found.value, stderr=0.5 * found.stderr)


def _apart(
    method: str,
    factor: Factor,
    prior_precision: float,
    groups: Groups,
    layers: Mapping[str, Any] | None,
    effort: Effort,
) -> dict[str, Reading]:
    if method == "kronecker" and layers:
        return kronecker(factor, prior_precision, groups, layers, seed=effort.seed)
    if method == "diagonal":
        return _diagonal(factor, prior_precision, groups, effort)
    return _blocks(factor, prior_precision, groups, effort.memory_bytes)


def _blocks(factor: Factor, prior_precision: float, groups: Groups, memory_bytes: int) -> dict[str, Reading]:
    def pick(rows: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
        return torch.cat([rows[:, first:end] for first, end in ranges], 1)

    roots = {name: _Root(min(_size(ranges), factor.rows), factor.device) for name, ranges in groups.items()}
    held = _held(factor, memory_bytes)
    for rows in [_rows(factor, memory_bytes)] if held else factor.chunks(memory_bytes // 8):
        for name, ranges in groups.items():
            part = pick(rows, ranges)
            roots[name].fold(part if _size(ranges) <= factor.rows else part.T)
    return {
        name: Reading(root.nat(prior_precision), 0.0, "exact block", "", factor.rows) for name, root in roots.items()
    }


def _diagonal(factor: Factor, prior_precision: float, groups: Groups, effort: Effort) -> dict[str, Reading]:
    if factor.rows > effort.products:
        passes = min(effort.products, PASSES)
        why = f"{factor.rows} rows, of {effort.products} products allowed"
        return sampled_diagonal(diagonal_samples(factor, passes, effort.seed), prior_precision, groups, passes, why)
    squares = torch.zeros(factor.columns, dtype=torch.float64, device=factor.device)
    for rows in factor.chunks(effort.memory_bytes // 8):
        squares += rows.double().square().sum(0)
    nats = 0.5 * torch.log1p(squares / prior_precision)
    return {
        name: Reading(
            math.fsum(float(nats[i:j].sum()) for i, j in ranges), math.nan, "exact diagonal", UPPER, factor.rows
        )
        for name, ranges in groups.items()
    }


def _sum(found: Mapping[str, Reading]) -> Reading:
    """Return the sum over blocks: an upper bound of the whole, unless it is one exact block."""
    if len(found) == 1:
        return next(iter(found.values()))
    methods = sorted({r.method for r in found.values()})
    method = methods[0] + ("s" if methods[0] == "exact block" else "") if len(methods) == 1 else ", ".join(methods)
    why = "; ".join(dict.fromkeys([UPPER, *(r.why for r in found.values() if r.why)]))
    products = max(r.products for r in found.values())
    return Reading(math.fsum(r.value for r in found.values()), math.nan, method, why, products)
