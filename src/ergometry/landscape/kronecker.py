"""Kronecker-factored information (EKFAC): a layer's Fisher information, diagonal in the basis of its two factors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ergometry.landscape.fisher import CATEGORICAL, Factor, Groups, roots
from ergometry.landscape.point import Outputs, Point, Reading, dependent, differentiable, generator, pull, signs
from ergometry.landscape.trace import few

PASSES = 32
"""Random backward passes; up to as many rows an example, every row is taken instead and nothing is sampled."""

PARTS = 4
"""Random passes are added up in so many parts, each of which corrects what the others say."""

UPPER = "an upper bound"

_CHUNK_BYTES = 64 << 20
_FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Embedding.forward)


@dataclass
class _Layer:
    """A layer under way: what went in and came out, and its Fisher information in the basis of its factors.

    Shapes: g groups of a convolution (else 1), n examples, t positions, i inputs (one more for the bias), o outputs.
    """

    module: Any
    has_bias: bool
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    entering: Tensor = None
    """(g, n, t, i) in the eigenbasis of Σ aaᵀ; of an embedding the tokens (n, t)."""
    leaving: Tensor = 0.0
    """Σ ggᵀ (g, o, o), then its eigenvectors."""
    parts: list[Tensor] = field(default_factory=lambda: [0.0] * PARTS)
    """Diagonal of F in the product of both bases, of every fourth pass."""

    def watch(self, _: Any, args: Any, output: Tensor) -> Tensor | None:
        """Keep what a call of the module takes and gives; what comes after is given a copy, lest it change ours."""
        if not args or not output.requires_grad:
            return None
        self.inputs.append(args[0].detach())
        self.outputs.append(output)
        return output.clone()

    def enter(self, n: int) -> bool:
        """Arrange the inputs by example, in the eigenbasis of their second moments; False where they are not so."""
        parts = [_inputs(self.module, a, n) for a in self.inputs]
        if not parts or any(part is None for part in parts):
            return False
        a = torch.cat([part for part in parts if part is not None], -1 if self.is_embedding else 2)
        if not self.is_embedding:
            a = a.to(torch.promote_types(a.dtype, torch.float32))
            if self.has_bias:
                a = torch.cat((a, torch.ones_like(a[..., :1])), -1)
            a = a @ torch.linalg.eigh(torch.einsum("gnti,gntj->gij", a, a))[1].unsqueeze(1)
        self.entering, self.inputs = a, []
        return True

    @property
    def is_embedding(self) -> bool:
        return isinstance(self.module, nn.Embedding)

    def gradients(self, parts: Sequence[Tensor | None], n: int) -> Tensor:
        """Return gradients by the outputs (g, n, t, o)."""
        pairs = zip(parts, self.outputs, strict=True)
        found = torch.cat([_outputs(self.module, torch.zeros_like(s) if d is None else d, n) for d, s in pairs], 2)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if self.is_embedding and self.module.padding_idx is not None:
            found = found * (self.entering != self.module.padding_idx)[None, :, :, None]
        return found

    def correct(self, gradients: Tensor, part: int) -> None:
        """Add the squares of the examples' gradients of the weights, in the basis of both factors."""
        d = gradients @ self.leaving.unsqueeze(1)
        a = self.entering
        if self.is_embedding:
            self.parts[part] += _token_squares(a, d[0], self.module.num_embeddings)
        elif a.shape[2] == 1:
            self.parts[part] += torch.einsum("gno,gni->goi", d[:, :, 0].square(), a[:, :, 0].square())
        else:
            each = a.shape[0] * a.shape[3] * d.shape[3] * a.element_size()
            step = max(_CHUNK_BYTES // each, 1)
            for i in range(0, a.shape[1], step):
                weights = torch.einsum("gnto,gnti->gnoi", d[:, i : i + step], a[:, i : i + step])
                self.parts[part] += weights.square_().sum(1)


def kronecker(
    factor: Factor,
    prior_precision: float,
    groups: Groups,
    layers: Mapping[str, Any],
    *,
    passes: int = PASSES,
    seed: int = 0,
) -> dict[str, Reading]:
    """Information ½·ln det(1 + F_b/λ) of each block of parameters, nat, by EKFAC, and by the diagonal for what is left.

    Of a layer with inputs a and gradients g by its outputs, the eigenvectors of Σ ggᵀ and Σ aaᵀ make a basis of its
    weights (bias included); the diagonal s of F_b there is exact, and the information is taken as ½ Σ ln(1 + s/λ). By
    Hadamard's inequality that is an *upper bound* of the block's own, whatever the basis, where K-FAC's product of
    eigenvalues may lie on either side. It holds where all rows of an example are taken (at most ``passes`` of them)
    and examples do not see each other (no BatchNorm in training). With more rows, random signs make each pass an
    unbiased sample of s, and :func:`upper_bound` of four parts of the passes is at least that value in expectation: the
    fewer passes, the looser, by the basis too. A bound has no error, so ``stderr`` is NaN.

    Linear, Conv1d, Conv2d and Embedding are factored, grouped ones by group, a module that is called more than
    once as one. Other parameters (norms, tied weights, recurrent layers) are read by their diagonal.

    Args:
        factor: J̃ of a model, from :func:`.fisher.fisher`; its parameters are the modules' own.
        prior_precision: λ.
        groups: blocks by module, :func:`.information.module_groups`.
        layers: modules by the same names; they must run when the factor's closure is called.
        passes: the most backward passes; random ones are a multiple of 4.
        seed: of the signs.

    Source: George, Laurent, Bouthillier, Ballas & Vincent 2018 (arXiv 1806.03884); Martens & Grosse 2015
    (arXiv 1503.05671); Grosse & Martens 2016 (arXiv 1602.01407) for convolutions.
    """
    assert factor.source is not None
    outputs, parameters, likelihood = factor.source
    point = Point.at(parameters)
    watched = {
        name: layer for name, layer in _factored(parameters, layers).items() if _covers(groups, name, layer, parameters)
    }
    out = _run(outputs, point, watched)
    n = 1 if out.ndim == 1 and likelihood == CATEGORICAL else out.shape[0]
    watched = {name: layer for name, layer in watched.items() if layer.enter(n)}
    found, rows = {}, out.numel() // n
    exact = rows <= passes
    passes = max(passes // PARTS, 1) * PARTS
    method, taken = (f"EKFAC, {rows} passes", rows) if exact else (f"EKFAC, {passes} random passes", passes)
    for layer, d, _ in _sweep(out, watched.values(), n, likelihood, taken, exact, seed):
        layer.leaving = layer.leaving + torch.einsum("gnto,gntp->gop", d, d)
    for layer in watched.values():
        layer.leaving = torch.linalg.eigh(layer.leaving)[1]
    # Other signs than those that the basis was made of: it would fit these, and s in it would not be unbiased.
    for layer, d, number in _sweep(out, watched.values(), n, likelihood, taken, exact, seed + 1):
        layer.correct(d, number % PARTS)
    for name, layer in watched.items():
        if exact:
            squares = sum(layer.parts[1:], start=layer.parts[0])
            found[name] = Reading(_nat(squares, prior_precision), math.nan, method, UPPER, 2 * taken)
        else:
            samples = [part * (PARTS / taken) for part in layer.parts]
            found[name] = upper_bound(samples, prior_precision, method, f"{rows} rows an example", 2 * taken)
    rest = {name: ranges for name, ranges in groups.items() if name not in found}
    if not rest:
        return found
    return found | sampled_diagonal(diagonal_samples(factor, passes, seed), prior_precision, rest, passes)


def upper_bound(samples: Sequence[Tensor], prior_precision: float, method: str, why: str, products: int) -> Reading:
    """Return an upper bound of ½ Σ ln(1 + s/λ), in expectation, from independent unbiased samples of s.

    The logarithm of a mean of samples is too small by an amount that adds up over the parameters, while its scatter
    averages out over them: no interval about it is honest where they are many. A concave function lies below its
    tangents, so with c the mean of all samples but one and s_j that one

        E[ln(1 + c/λ) + (s_j − c)/(λ + c)] ≥ ln(1 + s/λ),

    whatever the distributions. The mean over j is what is given; how far random signs move it is said in ``why``.
    """
    k = len(samples)
    total, found = sum(samples[1:], start=samples[0]), []
    for sample in samples:
        others = (total - sample).double() / (k - 1)
        slope = (sample.double() - others) / (prior_precision + others)
        found.append(_nat(others, prior_precision) + 0.5 * float(slope.sum()))
    mean = math.fsum(found) / k
    # To first order each tangent varies with its own sample alone.
    scatter = math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (k - 1) / k) * few(k)
    told = f"an upper bound in expectation, which random signs move by ± {scatter:.2g}"
    return Reading(mean, math.nan, method, "; ".join(filter(None, (why, told))), products)


def diagonal_samples(factor: Factor, passes: int, seed: int) -> list[Tensor]:
    """Return ``PARTS`` independent unbiased samples of diag F (N,) float64, each of as many passes, at least one.

    The square of a randomly signed sum of rows has the sum of their squares as its expectation.
    """
    stream, samples = generator(seed + 3), []
    for _ in range(PARTS):
        squares = torch.zeros(factor.columns, dtype=torch.float64, device=factor.device)
        for _ in range(max(passes // PARTS, 1)):
            squares += factor.adjoint(signs((factor.rows,), stream, factor.dtype, factor.device)).double().square()
        samples.append(squares / max(passes // PARTS, 1))
    return samples


def sampled_diagonal(
    samples: Sequence[Tensor], prior_precision: float, groups: Groups, passes: int, why: str = ""
) -> dict[str, Reading]:
    """Return the information of each block by its diagonal, from samples of it."""
    method = f"diagonal, {max(passes // PARTS, 1) * PARTS} random passes"
    return {
        name: upper_bound(
            [torch.cat([sample[i:j] for i, j in ranges]) for sample in samples], prior_precision, method, why, passes
        )
        for name, ranges in groups.items()
    }


def _nat(squares: Tensor, prior_precision: float) -> float:
    return 0.5 * float(torch.log1p(squares.double() / prior_precision).sum())


def _factored(parameters: Sequence[Tensor], layers: Mapping[str, Any]) -> dict[str, _Layer]:
    """Return the layers that have two factors, and a weight that is theirs alone."""
    known = {id(p) for p in parameters}
    uses: dict[int, int] = {}
    for module in layers.values():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return {
        name: _Layer(module, id(getattr(module, "bias", None)) in known)
        for name, module in layers.items()
        if type(module).forward in _FORWARDS
        and getattr(module, "max_norm", None) is None
        and not getattr(module, "scale_grad_by_freq", False)
        and id(module.weight) in known
        and all(uses[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
    }


def _covers(groups: Groups, name: str, layer: _Layer, parameters: Sequence[Tensor]) -> bool:
    """Say whether a layer's weight and bias are all that its block holds."""
    ends: dict[int, tuple[int, int]] = {}
    end = 0
    for parameter in parameters:
        first, end = end, end + parameter.numel()
        ends[id(parameter)] = (first, end)
    own = {ends[id(layer.module.weight)]} | ({ends[id(layer.module.bias)]} if layer.has_bias else set())
    return name in groups and set(groups[name]) == own


def _run(outputs: Outputs, point: Point, watched: Mapping[str, _Layer]) -> Tensor:
    with ExitStack() as hooks, differentiable():
        for layer in watched.values():
            hooks.callback(layer.module.register_forward_hook(layer.watch).remove)
        return dependent(outputs(list(point.leaves)))


def _sweep(
    out: Tensor, watched: Iterable[_Layer], n: int, likelihood: str, passes: int, exact: bool, seed: int
) -> Iterator[tuple[_Layer, Tensor, int]]:
    """Yield every layer's gradients (g, n, t, o) of each pass, and the pass's number."""
    layers, stream = list(watched), generator(seed + 4)
    root, _ = roots(out.detach(), likelihood)
    tensors = [s for layer in layers for s in layer.outputs]
    for number in range(passes if tensors else 0):
        if exact:
            u = torch.zeros(n, out.numel() // n, dtype=out.dtype, device=out.device)
            u[:, number] = 1.0
        else:
            u = signs(out.shape, stream, out.dtype, out.device)
        parts = pull([out], [root(u.view(out.shape))], tensors)
        for layer in layers:
            own, parts = parts[: len(layer.outputs)], parts[len(layer.outputs) :]
            yield layer, layer.gradients(own, n), number


def _by_example(x: Tensor, n: int) -> Tensor | None:
    """Return (…, d) as (1, n, t, d), where the first dimension is the examples' (or several rows of each)."""
    fits = x.ndim > 1 and (x.shape[0] == n or (x.ndim == 2 and x.shape[0] % n == 0) or x[..., 0].numel() == n)
    return x.reshape(1, n, -1, x.shape[-1]) if fits else None


def _inputs(module: Any, a: Tensor, n: int) -> Tensor | None:
    """Return inputs by example and position: (g, n, t, i), tokens (n, t), or None where they are not by example."""
    if isinstance(module, nn.Embedding):
        found = _by_example(a.unsqueeze(-1), n)
        return None if found is None else found[0, :, :, 0]
    if isinstance(module, nn.Linear):
        return _by_example(a, n)
    if a.shape[0] != n or a.ndim != module.weight.ndim:
        return None
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    a = functional.pad(a, module._reversed_padding_repeated_twice, mode=mode)
    one = (1,) * (4 - a.ndim)
    patches = functional.unfold(
        a if a.ndim == 4 else a.unsqueeze(2),
        (*one, *module.kernel_size),
        dilation=(*one, *module.dilation),
        stride=(*one, *module.stride),
    )
    return patches.view(n, module.groups, -1, patches.shape[-1]).permute(1, 0, 3, 2)


def _outputs(module: Any, d: Tensor, n: int) -> Tensor:
    """Return gradients by outputs as (g, n, t, o)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        return d.reshape(1, n, -1, d.shape[-1])
    return d.reshape(n, module.groups, d.shape[1] // module.groups, -1).permute(1, 0, 3, 2)


def _token_squares(tokens: Tensor, d: Tensor, vocabulary: int) -> Tensor:
    """Return Σ over examples of the squares of each token's summed gradients, (1, vocabulary, o)."""
    examples = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
    keys, place = torch.unique(examples * vocabulary + tokens, return_inverse=True)
    sums = torch.zeros(len(keys), d.shape[-1], dtype=d.dtype, device=d.device)
    sums.index_add_(0, place.reshape(-1), d.reshape(-1, d.shape[-1]))
    squares = torch.zeros(vocabulary, d.shape[-1], dtype=d.dtype, device=d.device)
    return squares.index_add_(0, keys % vocabulary, sums.square_()).unsqueeze(0)
