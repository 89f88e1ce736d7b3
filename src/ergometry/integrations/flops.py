"""FLOP of forward and backward, by torch's own formulas, counted once per distinct signature of an outermost call.

A dispatch mode sees each operator. An ordinary one turns the user's ``torch.compile`` off for good; one that ignores
compile internals leaves compilation, and bits, as they were.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

MAX_SIGNATURES = 4096

#: Operators that compute much and that torch has no formula for: named in a warning, so that a total is not trusted.
UNCOUNTED = frozenset(
    (
        "mkldnn_rnn_layer",
        "_cudnn_rnn",
        "miopen_rnn",
        "_thnn_fused_lstm_cell",
        "_thnn_fused_gru_cell",
        "mv",
        "dot",
        "addmv",
        "vdot",
        "_trilinear",
        "_transformer_encoder_layer_fwd",
        "_native_multi_head_attention",
        "_sparse_addmm",
        "_sparse_mm",
        "fft_fft",
        "_fft_r2c",
        "_fft_c2c",
        "linalg_solve_ex",
        "_linalg_svd",
        "_linalg_eigh",
        "linalg_cholesky_ex",
    )
)


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return torch's formulas, with flash attention on the CPU, which they lack."""
    formulas = dict(flop_registry)
    aten = torch.ops.aten
    for name, formula in (
        ("_scaled_dot_product_flash_attention_for_cpu", _cpu_attention),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", _cpu_attention_backward),
    ):
        if hasattr(aten, name):
            formulas.setdefault(getattr(aten, name), formula)
    return formulas


class CountingMode(TorchDispatchMode):  # type: ignore[misc]  # torch is not read by the type checker
    """Counts the FLOP of what is dispatched under it."""

    supports_higher_order_operators = True

    def __init__(self, formulas: dict[Any, Callable[..., int]]) -> None:
        super().__init__()
        self.flops = 0
        self.uncounted: set[str] = set()
        self._formulas = formulas

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave ``torch.compile`` on under this mode."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and add its FLOP."""
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is None:
            name = func._overloadpacket.__name__
            if name in UNCOUNTED:
                self.uncounted.add(name)
        else:
            try:
                self.flops += formula(*args, **kwargs, out_val=out)
            except Exception:  # a formula that does not know these arguments must not end a training step
                return out
        return out


def signature(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Hashable, ...]:
    """Return a key that is equal for a module's calls that run the same operators on the same shapes, it seems."""
    return (
        module.training,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
        tuple(_shapes((*args, *kwargs.values()))),
    )


def _shapes(values: Iterable[Any], depth: int = 2) -> Iterable[Hashable]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value.shape, value.dtype
        elif depth and isinstance(value, (list, tuple)):
            yield from _shapes(value, depth - 1)
        elif depth and isinstance(value, dict):
            yield from _shapes(value.values(), depth - 1)
        elif isinstance(value, (int, bool, str)):
            yield value


class FlopCounts:
    """FLOP by signature: of the forward of one call, and of the backward of the calls since the last backward."""

    def __init__(self) -> None:
        self._formulas = _formulas()
        self._forward: dict[Hashable, int] = {}
        self._backward: dict[Hashable, int] = {}
        self._calls: list[Hashable] = []
        self._modules: dict[int, tuple[weakref.ref[Any], int, list[weakref.ref[Any]]]] = {}
        self._numbers = itertools.count()

    def key(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """Return the key of a call: which module, which of its parameters are trained, and the call's signature."""
        known = self._modules.get(id(module))
        if known is None or known[0]() is not module:  # the identity of a module that is gone comes again
            parameters = [weakref.ref(p) for p in module.parameters()]
            known = self._modules[id(module)] = (weakref.ref(module), next(self._numbers), parameters)
        _, number, parameters = known
        trained = tuple([p is not None and p.requires_grad for p in [parameter() for parameter in parameters]])
        return (number, trained, *signature(module, args, kwargs))

    def forward(self, key: Hashable) -> int | None:
        """Return the FLOP of a forward seen before; None if it is to be counted (or has never been)."""
        return self._forward.get(key)

    def called(self, key: Hashable) -> None:
        """Take note of a forward whose backward may come."""
        if len(self._calls) < 64:
            self._calls.append(key)

    def backward_key(self) -> Hashable:
        """Return the key of the backward of the calls since the last one, and begin anew."""
        key = tuple(self._calls)
        self._calls.clear()
        return key

    def backward(self, key: Hashable) -> int | None:
        """Return the FLOP of a backward seen before; None if it is to be counted."""
        return self._backward.get(key)

    def mode(self) -> CountingMode:
        """Return a mode to count one call under."""
        return CountingMode(self._formulas)

    def keep(self, key: Hashable, mode: CountingMode, *, backward: bool) -> int:
        """Keep and return what was counted."""
        counts = self._backward if backward else self._forward
        if len(counts) >= MAX_SIGNATURES:
            counts.pop(next(iter(counts)))
        counts[key] = mode.flops
        return mode.flops
