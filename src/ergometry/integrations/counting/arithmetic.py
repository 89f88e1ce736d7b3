"""FLOP of operators that are no products and no matter of counting elements: norms, pools, losses, optimizers.

Called with the operator's own arguments, and ``out_val``, its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

Formula = Callable[..., float]


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in arguments or results, lists entered."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors(value)
    elif isinstance(values, dict):
        yield from tensors(tuple(values.values()))


def floating(found: Any) -> int:
    """Return how many elements tensors have together, those of integers left out."""
    return sum(t.numel() for t in found if t.is_floating_point() or t.is_complex())


def _norm(affine: float) -> Formula:
    """Mean, variance (3), difference and product: six for each element, two more where it is scaled and shifted."""

    def formula(x: Any, *args: Any, **__: Any) -> float:
        return float(x.numel() * (6 + (affine if any(isinstance(a, torch.Tensor) for a in args[:3]) else 0)))

    return formula


def _batch_norm(x: Any, weight: Any = None, *args: Any, **kwargs: Any) -> float:
    """As other norms in training; in evaluation mean and variance are given, which leaves two."""
    flags = [value for value in (*args, *kwargs.values()) if isinstance(value, bool)]
    return float(x.numel() * ((6 if not flags or flags[0] else 2) + 2 * (weight is not None)))


def _normalised(x: Any, weight: Any = None, *_: Any, **__: Any) -> float:
    return float(x.numel() * (2 + 2 * (weight is not None)))


def _norm_backward(_grad: Any, x: Any, *args: Any, **kwargs: Any) -> float:
    """x̂ again (2), two sums (3), the input's gradient (5); of the scale two for each element, of the shift one."""
    mask = next((a for a in reversed(args) if isinstance(a, (list, tuple)) and a and isinstance(a[0], bool)), (True,))
    mask = kwargs.get("output_mask", mask)
    parts = (10, 2, 1)
    return float(x.numel() * sum(part for part, wanted in zip(parts, mask, strict=False) if wanted))


def _rms(x: Any, _shape: Any, weight: Any = None, *_: Any, **__: Any) -> float:
    return float(x.numel() * (3 + (weight is not None)))


def _rms_backward(_grad: Any, x: Any, *_: Any, **__: Any) -> float:
    return float(9 * x.numel())


def _pool(_x: Any, kernel: Any, *_: Any, out_val: Any, **__: Any) -> float:
    """One for each element under the window, at each output."""
    out = next(tensors(out_val))
    window = kernel if isinstance(kernel, (list, tuple)) else [kernel]
    spread = max(out.dim() - 2, 1) if len(window) == 1 else 1
    return float(out.numel() * math.prod(window) ** spread)


def _pool_backward(grad: Any, _x: Any, kernel: Any, *_: Any, **__: Any) -> float:
    return float(grad.numel() * math.prod(kernel))


def _per_target(_x: Any, target: Any, *_: Any, **__: Any) -> float:
    return float(2 * target.numel())


def _per_target_backward(_grad: Any, _x: Any, target: Any, *_: Any, **__: Any) -> float:
    return float(2 * target.numel())


def _thirteen(x: Any, *_: Any, **__: Any) -> float:
    return float(13 * x.numel())


def _per_input(_grad: Any, x: Any, **_: Any) -> float:
    return float(x.numel())


def _bag(weight: Any, indices: Any, *_: Any, **__: Any) -> float:
    return float(indices.numel() * weight.shape[-1])


def _batched(cost: Callable[[int, int], float]) -> Formula:
    """Cost of a decomposition of m × n matrices, times how many there are."""

    def formula(a: Any, *_: Any, **__: Any) -> float:
        return float(math.prod(a.shape[:-2]) * cost(int(a.shape[-2]), int(a.shape[-1])))

    return formula


def _solve(a: Any, b: Any, *_: Any, **__: Any) -> float:
    n = a.shape[-1]
    return float(math.prod(a.shape[:-2]) * 2 * n**3 / 3 + 2 * n * b.numel())


def _triangular(a: Any, b: Any, *_: Any, **__: Any) -> float:
    return float(a.shape[-1] * b.numel()) if a.shape[-1] == a.shape[-2] else float(b.shape[-1] * a.numel())


def _fft(each: float) -> Formula:
    """5 n log₂ n for a complex transform of n points, half of it where one side is real (the field's convention)."""

    def formula(x: Any, dim: Any, *_: Any, out_val: Any, **__: Any) -> float:
        shape = (out_val if x.is_complex() else x).shape  # the real side, where there is one, has all the points
        points = math.prod(shape[d] for d in dim)
        return float(each * math.prod(shape) * math.log2(max(points, 1)))

    return formula


def _fused_adam(extra: float) -> Formula:
    """As the foreach form: decay, m (3), v (1 + 3), its root, two scalings, and the step (3 + 1)."""

    def formula(params: Any, *_: Any, weight_decay: float, amsgrad: bool, **__: Any) -> float:
        each = 13 + (extra if weight_decay else 0) + bool(amsgrad)
        return float(each * floating(params))

    return formula


def _fused_sgd(params: Any, *_: Any, weight_decay: float, momentum: float, nesterov: bool, **rest: Any) -> float:
    buffer = (2 + bool(rest.get("dampening"))) if momentum and not rest.get("is_first_step") else 0
    return float((2 + 2 * bool(weight_decay) + buffer + 2 * bool(nesterov)) * floating(params))


def _fused_adagrad(params: Any, *_: Any, weight_decay: float, **__: Any) -> float:
    return float((8 + 2 * bool(weight_decay)) * floating(params))


ARITHMETIC: dict[str, Formula] = {
    "native_layer_norm": _norm(2),
    "native_group_norm": _norm(2),
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _normalised,
    "_batch_norm_with_update": _batch_norm,
    "_batch_norm_no_update": _normalised,
    "cudnn_batch_norm": _batch_norm,
    "miopen_batch_norm": _batch_norm,
    "native_layer_norm_backward": _norm_backward,
    "native_group_norm_backward": _norm_backward,
    "native_batch_norm_backward": _norm_backward,
    "batch_norm_backward": _norm_backward,
    "cudnn_batch_norm_backward": _thirteen,
    "miopen_batch_norm_backward": _thirteen,
    "_fused_rms_norm": _rms,
    "_fused_rms_norm_backward": _rms_backward,
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d"), _pool),
    **dict.fromkeys(("avg_pool3d", "fractional_max_pool2d", "fractional_max_pool3d"), _pool),
    "avg_pool2d_backward": _pool_backward,
    "avg_pool3d_backward": _pool_backward,
    "_adaptive_avg_pool2d_backward": _per_input,
    "_adaptive_avg_pool3d_backward": _per_input,
    "nll_loss_forward": _per_target,
    "nll_loss2d_forward": _per_target,
    "nll_loss_backward": _per_target_backward,
    "nll_loss2d_backward": _per_target_backward,
    "_embedding_bag": _bag,
    "linalg_cholesky_ex": _batched(lambda _, n: n**3 / 3),
    "linalg_lu_factor_ex": _batched(lambda m, n: m * n * min(m, n) - min(m, n) ** 3 / 3),
    "linalg_inv_ex": _batched(lambda _, n: 2.0 * n**3),
    "linalg_qr": _batched(lambda m, n: 4 * (m * min(m, n) ** 2 - min(m, n) ** 3 / 3)),
    "_linalg_solve_ex": _solve,
    "linalg_solve_triangular": _triangular,
    "triangular_solve": lambda b, a, *_, **__: float(a.shape[-1] * b.numel()),
    "cholesky_solve": lambda b, a, *_, **__: 2.0 * a.shape[-1] * b.numel(),
    "_fft_c2c": _fft(5.0),
    "_fft_r2c": _fft(2.5),
    "_fft_c2r": _fft(2.5),
    "_fused_adam": _fused_adam(2),
    "_fused_adamw": _fused_adam(1),
    "_fused_sgd": _fused_sgd,
    "_fused_adagrad": _fused_adagrad,
}
