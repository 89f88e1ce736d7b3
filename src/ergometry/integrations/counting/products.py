"""FLOP of products: those that torch has no formula for, or a wrong one. Called with the operator's own arguments.

A multiply-add is two; the bias of a product is not counted, as torch's own formulas leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

Formula = Callable[..., float]


def _mm(a: Any, b: Any) -> int:
    """2mkn, for a sparse left or right side two for each stored element and column."""
    for sparse, dense, axis in ((a, b, -1), (b, a, -2)):
        if sparse.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
            return int(2 * sparse._nnz() * dense.shape[axis])
    return int(2 * a.numel() * b.shape[-1])


def _matrix(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _mm(a, b)


def _added(_bias: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _mm(a, b)


def _convolution_backward(
    grad: Any, x: Any, weight: Any, _b: Any, _s: Any, _p: Any, _d: Any, transposed: bool, _o: Any, _g: Any, mask: Any,
    **_: Any,
) -> int:  # fmt: skip
    """Each of the two gradients costs what the forward did, in groups or not; torch's formula forgets the groups."""
    spatial = math.prod((x if transposed else grad).shape[2:])
    return int(2 * x.shape[0] * spatial * weight.numel()) * (bool(mask[0]) + bool(mask[1]))


def _convolution(x: Any, weight: Any, *_: Any, out_val: Any, **__: Any) -> int:
    return int(2 * x.shape[0] * math.prod(out_val.shape[2:]) * weight.numel())


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def _trilinear(i1: Any, i2: Any, i3: Any, e1: Any, e2: Any, e3: Any, *_: Any, **__: Any) -> int:
    """Products of three factors summed: a product of the first two, then a multiply-add with the third."""
    shapes = [_expanded(i.shape, e) for i, e in ((i1, e1), (i2, e2), (i3, e3))]
    volume = math.prod(max(sizes) for sizes in zip(*shapes, strict=True))
    pairs = math.prod(max(sizes) for sizes in zip(*shapes[:1], *shapes[2:], strict=True))
    return int(2 * volume + min(volume, pairs))


def _expanded(shape: Any, at: Any) -> list[int]:
    sizes = list(shape)
    for dim in sorted(at):
        sizes.insert(dim, 1)
    return sizes


_GATES = {0: 1, 1: 1, 2: 4, 3: 3}  # ReLU, tanh, LSTM, GRU: torch's numbers of the modes
_POINTWISE = {0: 1, 1: 1, 2: 9, 3: 10}  # of a hidden unit: functions, products and sums beside the matrix products


def _recurrent(weights: Any, tokens: int, mode: int) -> int:
    """Two for each weight (of two dimensions) and token, and the gates' own arithmetic; biases are left out."""
    matrices = [w for w in weights if w.dim() == 2]
    hidden = sum(w.shape[0] // _GATES[mode] for w in matrices[::2])
    return int(2 * tokens * sum(w.numel() for w in matrices) + _POINTWISE[mode] * tokens * hidden)


def _tokens(x: Any) -> int:
    return math.prod(x.shape[:-1])  # a packed sequence has one dimension less


def _mkldnn_rnn(x: Any, w1: Any, w2: Any, w3: Any, w4: Any, *rest: Any, **_: Any) -> int:
    return _recurrent((w1, w2, w3, w4), _tokens(x), rest[4])


def _mkldnn_rnn_backward(x: Any, w1: Any, w2: Any, w3: Any, w4: Any, *rest: Any, **_: Any) -> int:
    return 2 * _recurrent((w1, w2, w3, w4), _tokens(x), rest[9])


def _cudnn_rnn(x: Any, weight: Any, _stride: Any, *rest: Any, **_: Any) -> int:
    return _recurrent(weight, _tokens(x), rest[3])


def _cudnn_rnn_backward(x: Any, weight: Any, _stride: Any, *rest: Any, **_: Any) -> int:
    mask = rest[-1]
    return _recurrent(weight, _tokens(x), rest[7]) * (1 + bool(mask[3]))


def _miopen_rnn(x: Any, weight: Any, _stride: Any, _hx: Any, _cx: Any, mode: int, *_: Any, **__: Any) -> int:
    return _recurrent(weight, _tokens(x), mode)


def _heads(tokens: int, keys: int, width: int) -> int:
    """QKᵀ and PV of all heads together, and the softmax: five for each score (of one head's width 64 or so, little)."""
    return 4 * tokens * keys * width


def _encoder(src: Any, width: int, _number: int, qkv: Any, _b: Any, projection: Any, *rest: Any, **_: Any) -> int:
    """The encoder's fused layer in evaluation: projections, attention and the two layers after it."""
    tokens, keys = _tokens(src), src.shape[-2]
    matrices = [qkv, projection, *(w for w in rest if isinstance(w, torch.Tensor) and w.dim() == 2 and w.numel() > 0)]
    weights = sum(w.numel() for w in matrices[:4])
    return int(2 * tokens * weights + _heads(tokens, keys, width))


def _attention(
    query: Any, key: Any, _value: Any, width: int, _n: int, qkv: Any, _b: Any, out: Any, *_: Any, **__: Any
) -> int:
    return int(2 * _tokens(query) * (qkv.numel() + out.numel()) + _heads(_tokens(query), key.shape[-2], width))


def _packed(x: Any, *_: Any, out_val: Any, **__: Any) -> int:
    """Of a quantised linear layer, whose weight is packed out of sight: the output's elements × the input's width."""
    return int(2 * out_val.numel() * x.shape[-1])


def _packed_convolution(x: Any, packed: Any, *_: Any, out_val: Any, **__: Any) -> int:
    weight = packed.unpack()[0]
    return int(2 * x.shape[0] * math.prod(out_val.shape[2:]) * weight.numel())


def _grouped(a: Any, b: Any, *_: Any, out_val: Any, **__: Any) -> int:
    """Rows of one side belong to one group each, so the groups together cost one product."""
    if a.dim() == 2 and b.dim() == 2:
        return int(2 * a.numel() * b.shape[-1])
    return int(2 * out_val.numel() * a.shape[-1])


def _distances(x: Any, y: Any, *_: Any, **__: Any) -> int:
    return int(3 * math.prod(x.shape[:-2]) * x.shape[-2] * y.shape[-2] * x.shape[-1])


PRODUCTS: dict[str, Formula] = {
    "mm": _matrix,
    "addmm": _added,
    "_addmm_activation": _added,
    "_sparse_mm": _matrix,
    "_sparse_addmm": _added,
    "_sparse_mm_reduce_impl": _matrix,
    "_int_mm": _matrix,
    "_weight_int8pack_mm": lambda a, b, *_, **__: 2 * a.numel() * b.shape[0],
    "_weight_int4pack_mm": lambda a, *_, out_val, **__: 2 * a.numel() * out_val.shape[-1],
    "addbmm": lambda _, a, b, **__: 2 * a.numel() * b.shape[-1],
    "mv": lambda a, *_, **__: 2 * (a._nnz() if a.layout != torch.strided else a.numel()),
    "addmv": lambda _, a, *__, **___: 2 * a.numel(),
    "addmv_": lambda _, a, *__, **___: 2 * a.numel(),
    "dot": lambda a, *_, **__: 2 * a.numel(),
    "vdot": lambda a, *_, **__: 2 * a.numel(),
    "addr": lambda _, a, b, **__: 2 * a.numel() * b.numel(),
    "linear": lambda x, weight, *_, **__: 2 * x.numel() * weight.shape[0],
    "_grouped_mm": _grouped,
    "_trilinear": _trilinear,
    "_cdist_forward": _distances,
    "convolution_backward": _convolution_backward,
    "_conv_depthwise2d": _convolution,
    "conv_depthwise3d": _convolution,
    "mkldnn_convolution": _convolution,
    "slow_conv3d_forward": _convolution,
    "miopen_convolution": _convolution,
    "mkldnn._convolution_pointwise": _convolution,
    "mkldnn._linear_pointwise": _packed,
    "mkl._mkl_linear": _packed,
    "_scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
    "_scaled_dot_product_fused_attention_overrideable": _cpu_attention,
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
    "_cudnn_rnn": _cudnn_rnn,
    "_cudnn_rnn_backward": _cudnn_rnn_backward,
    "miopen_rnn": _miopen_rnn,
    "_transformer_encoder_layer_fwd": _encoder,
    "_native_multi_head_attention": _attention,
    **{
        f"quantized.{name}": _packed
        for name in ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16")
    },
    **{
        f"quantized.{name}": _packed_convolution
        for name in ("conv1d", "conv2d", "conv3d", "conv1d_relu", "conv2d_relu", "conv3d_relu")
    },
    "onednn.qlinear_pointwise": _packed,
}
