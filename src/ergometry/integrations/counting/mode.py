"""The dispatch mode under which a call is counted: each operator's FLOP, bytes, module and time, as it runs.

An ordinary mode turns the user's ``torch.compile`` off for good; one that ignores compile internals leaves
compilation, and bits, as they were.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils.flop_counter import flop_registry

from ergometry.integrations.counting import collectives, formulas
from ergometry.integrations.counting.arithmetic import tensors
from ergometry.integrations.counting.operators import Operator, describe
from ergometry.integrations.counting.scopes import OUTSIDE, Scope, Scopes
from ergometry.integrations.counting.tables import DTYPES
from ergometry.integrations.counting.traffic import Region, storage_of, traffic

_COPIES = ("clone", "_to_copy", "contiguous", "copy", "cat")
_PROFILER = ("profiler.", "prim.")


class Call:
    """One operator that ran. What it wrote is of the parameters where it is as large as they are, not as the batch."""

    __slots__ = (
        "_of_parameters",
        "_outputs",
        "causal_flops",
        "dtype",
        "flops",
        "name",
        "product",
        "reads_examples",
        "reads_parameters",
        "recomputed",
        "scope",
        "seconds",
        "sources",
        "writes_examples",
        "writes_parameters",
    )  # fmt: skip

    def __init__(self, scope: Scope | None, name: str, seconds: float) -> None:
        self.scope, self.name, self.seconds = scope, name, seconds
        self.dtype = ""
        self.flops = self.causal_flops = 0.0
        self.reads_parameters = self.reads_examples = self.writes_parameters = self.writes_examples = 0.0
        self.product = self.recomputed = False
        self.sources: list[tuple[float, int, Call]] = []
        """Where results of the size of these came from: (bytes, storage, the call that made them)."""
        self._outputs: dict[int, float] = {}
        self._of_parameters: set[int] = set()

    def wrote(self, storage: int, size: float, *, of_parameters: bool) -> None:
        """Note a result."""
        if of_parameters:
            self.writes_parameters += size
            self._of_parameters.add(storage)
        else:
            self.writes_examples += size
            self._outputs[storage] = self._outputs.get(storage, 0.0) + size

    def of_parameters(self, storage: int) -> bool:
        """Say whether a result is of the parameters."""
        return storage in self._of_parameters

    def claim(self, storage: int) -> None:
        """Take note that a result is a parameter's gradient, and so is what it was cast, copied or summed from."""
        pending = [(storage, self)]
        while pending:
            at, call = pending.pop()
            size = call._outputs.pop(at, None)
            if size is None:
                continue
            call._of_parameters.add(at)
            call.writes_examples -= size
            call.writes_parameters += size
            for read, source, maker in call.sources:
                call.reads_examples -= read
                call.reads_parameters += read
                pending.append((source, maker))
            call.sources = []


class CountingMode(TorchDispatchMode):  # type: ignore[misc]  # torch is not read by the type checker
    """Notes each operator that is dispatched under it."""

    supports_higher_order_operators = True

    def __init__(
        self,
        scopes: Scopes | None = None,
        parameters: Iterable[torch.Tensor] = (),
        *,
        backward: bool = False,
        double: bool = False,
        optimizer: bool = False,
    ) -> None:
        """Count a pass.

        Args:
            scopes: the modules that run.
            parameters: tensors whose traffic is proportional to the parameters (buffers among them).
            backward: the pass is one; what runs in it with gradients on is recomputed, unless ``double``.
            double: the backward itself records gradients.
            optimizer: everything in the pass is proportional to the parameters.
        """
        super().__init__()
        self.calls: list[Call] = []
        self.unknown: dict[str, float] = {}
        """Operators of which FLOP are not known, and the seconds that they took."""
        self.failed: dict[str, str] = {}
        """Operators whose formula raised, and what."""
        self.messages: dict[str, list[float]] = {}
        """Collectives: calls, bytes of messages, bytes sent by a ring."""
        self.compiled = False
        """Whether a compiled region's backward ran, whose fused kernels are not seen."""
        self.active = True
        self._scopes = scopes
        self._backward, self._double, self._optimizer = backward, double, optimizer
        self._parameters = {storage_of(t) for t in parameters if t.layout == torch.strided} - {0}
        self._makers: dict[int, Call] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave ``torch.compile`` on under this mode."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and note it."""
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        if isinstance(func, torch._ops.HigherOrderOperator):
            began = time.perf_counter()
            out = func(*args, **kwargs)
            self._note_higher(func, args, kwargs, out, time.perf_counter() - began)
            return out
        if any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            return NotImplemented  # a tensor made of others: what it runs of them comes here again
        if torch.is_inference_mode_enabled() and formulas.made_of_others(func, args, kwargs):
            # Elsewhere torch takes such an operator apart before a mode sees it, into what its formulas are of.
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        began = time.perf_counter()
        out = func(*args, **kwargs)
        seconds = time.perf_counter() - began
        try:
            self._note(func, args, kwargs, out, seconds)
        except Exception as error:  # arguments of a kind never seen: they must not end a training step
            self._fail(func._schema.name, seconds, error)
        return out

    def _fail(self, name: str, seconds: float, error: Exception) -> None:
        name = name.removeprefix("aten::").replace("::", ".")
        self.unknown[name] = self.unknown.get(name, 0.0) + seconds
        self.failed.setdefault(name, f"{type(error).__name__}: {error}")

    def _note_higher(self, func: Any, args: Any, kwargs: Any, out: Any, seconds: float) -> None:
        formula = flop_registry.get(func)
        call = Call(self._scopes.current if self._scopes else OUTSIDE, func.name(), seconds)
        self.calls.append(call)
        if formula is None:
            self.unknown[call.name] = self.unknown.get(call.name, 0.0) + seconds
            return
        try:
            call.flops, call.product = float(formula(*args, **kwargs, out_val=out)), True
            call.dtype = _dtype(args)
        except Exception as error:
            self._fail(call.name, seconds, error)

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any, seconds: float) -> None:
        op = describe(func)
        if op.name.startswith(_PROFILER):
            return
        node = torch._C._current_autograd_node() if self._backward else None
        accumulates = node is not None and getattr(node, "variable", None) is not None
        scope, recomputed = self._where(node)
        call = Call(scope, op.name, seconds)
        call.recomputed = recomputed
        self._move(op, call, args, kwargs, out, accumulates=accumulates)
        self.calls.append(call)
        if node is not None and not self.compiled:
            self.compiled = "CompiledFunction" in node.name()
        if collectives.is_collective(op):
            sent = collectives.message(op, args, kwargs, out)
            if sent is not None:
                totals = self.messages.setdefault(sent[0], [0, 0.0, 0.0])
                for i, value in enumerate((1, *sent[1:])):
                    totals[i] += value
            return
        if all(t.device.type == "meta" for t in tensors((args, kwargs, out))):
            return  # nothing is computed on it
        call.dtype = _dtype((args, kwargs))
        try:
            found = formulas.count(func, op, args, kwargs, out)
        except Exception as error:
            self._fail(func._schema.name, seconds, error)
            return
        if found is None:
            if call.writes_parameters or call.writes_examples:  # a view costs nothing
                self.unknown[op.name] = self.unknown.get(op.name, 0.0) + seconds
            return
        call.flops, call.product = found
        if call.product:
            call.causal_flops = call.flops * formulas.causal_share(op, args, kwargs)
            if call.dtype == "fp32":
                call.dtype = _single(op, args)
        else:
            call.causal_flops = call.flops

    def _where(self, node: Any) -> tuple[Scope | None, bool]:
        scopes = self._scopes
        if scopes is None:
            return OUTSIDE, False
        if not self._backward:
            return scopes.current or OUTSIDE, False
        if node is None:
            return scopes.current or OUTSIDE, False
        recomputed = scopes.depth > 0 or (torch.is_grad_enabled() and not self._double)
        return scopes.current or scopes.of_node(node), recomputed

    def _move(self, op: Operator, call: Call, args: Any, kwargs: Any, out: Any, *, accumulates: bool) -> None:
        """Note the bytes, told apart by what they are proportional to."""
        moved = traffic(op, args, kwargs, out)
        makers = self._makers
        everything = self._optimizer or accumulates
        if accumulates:
            for storage in moved.inputs:
                if storage in makers:
                    makers[storage].claim(storage)
        of_parameters = 0
        sources: list[tuple[float, int, Call]] = []
        for region in moved.reads:
            if everything or self._is_parameter(region):
                call.reads_parameters += region.size
                of_parameters += 1
            else:
                call.reads_examples += region.size
                if region.storage in makers:
                    sources.append((region.size, region.storage, makers[region.storage]))
        # What is made of parameters alone (a cast, a norm of weights) is as large as they are.
        derived = bool(of_parameters) and of_parameters == len(moved.reads) and not self._backward
        fresh = set(moved.fresh)
        for region in moved.writes:
            of_them = everything or (derived if region.storage in fresh else self._is_parameter(region))
            call.wrote(region.storage, region.size, of_parameters=of_them)
        if sources and (op.pointwise or op.base in _COPIES) and _same_sizes(args, out):
            call.sources = sources
        for storage in fresh:
            makers[storage] = call
            self._parameters.discard(storage)  # the storage of one that is gone

    def _is_parameter(self, region: Region) -> bool:
        maker = self._makers.get(region.storage)
        return region.storage in self._parameters or (maker is not None and maker.of_parameters(region.storage))


def _same_sizes(args: Any, out: Any) -> bool:
    sizes = {t.numel() for t in tensors((args, out)) if t.numel() > 1}
    return len(sizes) == 1


def _dtype(values: Any) -> str:
    """Return the type of the factors: of the first tensor that is not of integers (or is quantised)."""
    first = None
    for tensor in tensors(values):
        if tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
            return DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
        first = tensor if first is None else first
    return "" if first is None else DTYPES.get(first.dtype, str(first.dtype).removeprefix("torch."))


def _single(op: Operator, args: Any) -> str:
    """Return how an accelerator multiplies float32: in TF32 where that is allowed."""
    if next(tensors(args)).device.type != "cuda":
        return "fp32"
    allowed = torch.backends.cudnn.allow_tf32 if "conv" in op.name or "rnn" in op.name else None
    if allowed is None:
        allowed = torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allowed and torch.cuda.get_device_capability() >= (8, 0) else "fp32"
