"""Layers: the gradients of half-batches and of single examples, told apart layer by layer in one ordinary backward.

The gradient of a layer's parameters is a sum over examples of what the layer's input and the gradient of its output
hold: δᵀa of a linear layer, Σ δ·x̂ and Σ δ of a normalisation layer. So the halves of a batch have gradients of their
own, at the price of one more such product, and neither another forward nor a step of the parameters lies between
them. Large layers are sampled by blocks of rows, which stand for the whole.

Of normalisation layers every example's own gradient is read. Their noise scale follows the whole model's (Gray 2024,
arXiv 2411.00999), but is not it.

What cannot be told apart is left out: layers used more than once in a forward or that share their parameters, calls
outside a layer of a known kind, recomputed (checkpointed) and compiled ones. Where examples meet, as in batch
normalisation, an example's part is what reaches the parameters through its own row.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.blocks import wide
from ergometry.integrations.physics.preconditioner import Preconditioner

MOST = 1 << 19
"""Elements of a layer's gradient that are looked at: those of two halves are 4 MiB."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = tuple(getattr(nn, name) for name in ("LayerNorm", "GroupNorm", "RMSNorm") if hasattr(nn, name))
_KINDS = {nn.Linear, nn.Embedding, *_CONVOLUTIONS, *_NORMS}


class Part(NamedTuple):
    """Some of a parameter's elements, by a function of it, that stand for ``weight`` times as many; and their gradient.

    ``gradient`` takes which examples (a slice) and returns what these add to it, as a sum over them; ``each`` is
    (examples, ...) what every one of them adds, where that is as small.
    """

    parameter: Tensor
    of: Callable[[Tensor], Tensor]
    weight: float
    gradient: Callable[[slice], Tensor]
    each: Tensor | None = None


def compiled() -> bool:
    """Say whether Dynamo has compiled anything: a hook on a module would have it compile that again."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters["frames"])


class Layers:
    """Watches the layers of models through their forwards, and the gradients of their outputs in the backward.

    Attributes:
        half: examples of half the batch.
        parameters: elements of the parameters that were read, after the backward.
        sampled: how many of them were looked at.
    """

    def __init__(self, examples: float, preconditioner: Preconditioner, stream: random.Random) -> None:
        self.half, self._examples = int(examples) // 2, int(examples)
        self._preconditioner, self._stream = preconditioner, stream
        self._uses: Counter[int] = Counter()
        self._halves: dict[int, Tensor] = {}
        self._each: dict[int, Tensor] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._handles: list[Any] = []
        self.spent_s = 0.0
        """Seconds spent within the script's backward."""

    def watch(self, model: nn.Module) -> None:
        """Watch the layers of a model, whose forward is about to run."""
        found = [] if compiled() else [m for m in model.modules() if type(m) in _KINDS and _trained(m)]
        owners = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
        alone = [m for m in found if all(owners[id(p)] == 1 for p in _trained(m))]
        self._handles = [m.register_forward_hook(self._called) for m in alone]

    def leave(self) -> None:
        """Take the hooks off the modules: the forward is over."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _called(self, layer: Any, args: Any, out: Any) -> None:
        self._uses[id(layer)] += 1
        if not (isinstance(out, Tensor) and out.requires_grad and len(args) == 1 and isinstance(args[0], Tensor)):
            return
        axis = _example_axis(layer, out.shape, self._examples)
        if axis is not None:
            x = args[0].detach()  # the layer's backward holds it anyway
            out.register_hook(lambda delta: self._delta(layer, x, delta.detach(), axis))

    def _delta(self, layer: Any, x: Tensor, delta: Tensor, axis: int) -> None:
        if self._uses[id(layer)] != 1 or id(layer) in self._sizes:
            # Its gradient is a sum over several uses, or several backwards, none of which is held here.
            self._halves.pop(id(layer), None)
            self._each.pop(id(layer), None)
            return
        began = time.perf_counter()
        try:
            with torch.no_grad(), apart():
                self._read(layer, x.transpose(0, axis), delta.transpose(0, axis))
        except Exception:  # a layer that cannot be read is left out; the script's backward goes on
            self._halves.pop(id(layer), None)
        self.spent_s += time.perf_counter() - began

    def _read(self, layer: Any, x: Tensor, delta: Tensor) -> None:
        wider = torch.promote_types(delta.dtype, torch.float32)
        x = x.to(wider) if x.is_floating_point() else x
        parts = list(_parts(layer, x, delta.to(wider), self._stream))
        self._sizes[id(layer)] = (
            sum(part.parameter.numel() for part in parts),
            sum(part.of(part.parameter).numel() for part in parts),
        )
        self._halves[id(layer)] = torch.stack([self._squares(part) for part in parts]).sum(0)
        if isinstance(layer, _NORMS):
            self._each[id(layer)] = _of_examples(parts, self._examples)

    def _squares(self, part: Part) -> Tensor:
        """Return (4,): the mean |g|² of the halves and the same preconditioned, and both of the two together."""
        h, n = self.half, self._examples
        one, other = (wide(part.gradient(at)) * (n / h) for at in (slice(0, h), slice(h, 2 * h)))
        moment = self._preconditioner.moment(part.parameter)
        weights = None if moment is None else wide(moment.inverse(part.of))
        small, big = _pair(one, other, None)
        unknown = [torch.full_like(small, math.nan)] * 2
        small_weighed, big_weighed = unknown if weights is None else _pair(one, other, weights)
        return torch.stack([small, small_weighed, big, big_weighed]) * part.weight

    @property
    def parameters(self) -> int:
        """Elements of the parameters that were read."""
        return sum(self._sizes[i][0] for i in self._halves)

    @property
    def sampled(self) -> int:
        """How many of them were looked at."""
        return sum(self._sizes[i][1] for i in self._halves)

    def halves(self) -> Tensor | None:
        """Return (4,) of |g|²: of halves, preconditioned, of both together, preconditioned; summed over the layers."""
        return _total(self._halves)

    def norms(self) -> tuple[Tensor, int] | None:
        """Return (2,), the mean |g|² of single examples and that of the batch, in normalisation layers; their size."""
        total = _total(self._each)
        return None if total is None else (total, sum(self._sizes[i][0] for i in self._each))


def _pair(one: Tensor, other: Tensor, weights: Tensor | None) -> list[Tensor]:
    """Return ½(|a|² + |b|²) and |½(a + b)|² of two gradients, weighed where there are weights."""
    a, b = one.flatten(), other.flatten()
    u, v = (a, b) if weights is None else (a * weights.flatten(), b * weights.flatten())
    apart, across = a @ u + b @ v, a @ v
    return [0.5 * apart, 0.25 * apart + 0.5 * across]


def _total(found: dict[int, Tensor]) -> Tensor | None:
    sums = list(found.values())
    return torch.stack([s.to(sums[0].device) for s in sums]).sum(0) if sums else None


def _trained(layer: Any) -> list[Tensor]:
    return [p for p in (layer.weight, getattr(layer, "bias", None)) if p is not None and p.requires_grad]


def _example_axis(layer: Any, shape: torch.Size, examples: int) -> int | None:
    """Return which dimension of a layer's output is the examples', None where that cannot be told."""
    if isinstance(layer, (*_CONVOLUTIONS, nn.GroupNorm)):
        batched = len(shape) > (len(layer.kernel_size) + 1 if isinstance(layer, _CONVOLUTIONS) else 1)
        return 0 if batched and shape[0] == examples else None
    of_features = len(layer.normalized_shape) if hasattr(layer, "normalized_shape") else 1
    axes = [axis for axis in range(min(len(shape) - of_features, 2)) if shape[axis] == examples]
    return axes[0] if len(axes) == 1 else None


def _parts(layer: Any, x: Tensor, delta: Tensor, stream: random.Random) -> Iterator[Part]:
    """Yield the trained parameters of a layer, whole or some rows of them; examples are the first dimension."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if bias is not None and bias.requires_grad:
        yield _by_element(layer, bias, delta)
    if not weight.requires_grad:
        return
    if isinstance(layer, nn.Linear):
        rows, times = _rows(weight.shape[0], weight.shape[1], stream)
        yield Part(
            weight, lambda p: p[rows], times, lambda at: delta[at][..., rows].flatten(0, -2).T @ x[at].flatten(0, -2)
        )
    elif isinstance(layer, nn.Embedding):
        yield _embedding(layer, x, delta, stream)
    elif isinstance(layer, _CONVOLUTIONS):
        yield _convolution(layer, x, delta, stream)
    else:
        yield _by_element(layer, weight, delta * _normalised(layer, x))


def _by_element(layer: Any, parameter: Tensor, product: Tensor) -> Part:
    """Return a parameter that acts element by element: the sum over the positions, (examples, *shape), is its own."""
    if isinstance(layer, (*_CONVOLUTIONS, nn.GroupNorm)):  # channels come before the positions
        each = product.reshape(len(product), product.shape[1], -1).sum(2)
    else:
        each = product.reshape(len(product), -1, *parameter.shape).sum(1)
    return Part(parameter, lambda p: p, 1.0, lambda at: each[at].sum(0), each)


def _rows(rows: int, width: int, stream: random.Random) -> tuple[slice, float]:
    """Return some of so many rows, and how many times as many they stand for."""
    each = max(MOST // width, 1)
    blocks = -(-rows // each)
    first = stream.randrange(blocks) * each
    return slice(first, min(first + each, rows)), float(blocks)


def _embedding(layer: Any, x: Tensor, delta: Tensor, stream: random.Random) -> Part:
    if layer.sparse or layer.max_norm is not None or layer.scale_grad_by_freq:
        raise NotImplementedError("an embedding whose gradient is not the plain sum")
    columns, times = _rows(layer.weight.shape[1], layer.weight.shape[0], stream)
    blank = delta.new_zeros(layer.weight[:, columns].shape)

    def gradient(at: slice) -> Tensor:
        found = blank.index_add(0, x[at].flatten(), delta[at][..., columns].flatten(0, -2))
        if layer.padding_idx is not None:
            found[layer.padding_idx] = 0
        return found

    return Part(layer.weight, lambda p: p[:, columns], times, gradient)


def _convolution(layer: Any, x: Tensor, delta: Tensor, stream: random.Random) -> Part:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise NotImplementedError("padding that is not of zeros")
    weight = layer.weight
    rows, times = _rows(weight.shape[0], weight[0].numel(), stream) if layer.groups == 1 else (slice(None), 1.0)
    kernel = weight.detach()[rows].to(delta.dtype)
    zeros = [0] * len(layer.kernel_size)
    settings = (layer.stride, layer.padding, layer.dilation, False, zeros, layer.groups, [False, True, False])

    def gradient(at: slice) -> Tensor:
        found = torch.ops.aten.convolution_backward(delta[at][:, rows], x[at], kernel, None, *settings)
        return found[1]

    return Part(weight, lambda p: p[rows], times, gradient)


def _normalised(layer: Any, x: Tensor) -> Tensor:
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(x, layer.num_groups, eps=layer.eps)
    kind = functional.layer_norm if isinstance(layer, nn.LayerNorm) else functional.rms_norm
    return kind(x, layer.normalized_shape, eps=layer.eps)


def _of_examples(parts: list[Part], n: int) -> Tensor:
    """Return (2,): mean over n examples of |g_i|², and |mean of g_i|², g_i being n times what example i adds."""
    found = [wide(part.each) for part in parts if part.each is not None]
    return torch.stack([torch.stack(((e * e).sum() * n, (e.sum(0) ** 2).sum())) for e in found]).sum(0)
