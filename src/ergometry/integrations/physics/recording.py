"""Recording: the operators that a script runs between a forward and its backward, as references and no results.

What an operator made is a slot, a number; what came from outside is held: parameters weakly, inputs by reference,
and of buffers that the operators change a copy of what they were before. A tensor is recognised by its identity,
which autograd keeps.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.kinds import Kind, changed, kind_of

_MAX_OPERATORS = 50_000
_HONEST = ("CheckpointFunctionBackward", "BackwardHookFunctionBackward")
"""Autograd functions whose backward is the derivative of their forward."""


class Slot(int):
    """The number of a tensor within a recording, where it stands in an operator's arguments."""

    __slots__ = ()


@dataclass(slots=True)
class Operation:
    """One operator that ran: arguments with :class:`Slot` in the place of tensors, and the slots of its results."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    used: tuple[int, ...]
    written: tuple[int, ...]
    grad: bool
    made: tuple[int, ...] = ()
    """Of each result, lists entered: -1 for an argument that is returned, and for what is no tensor."""
    shapes: tuple[torch.Size | None, ...] | None = None
    """Of the results, where they depend on values that depend on parameters."""
    joined: bool = False
    """It ran without gradients in the forward of an autograd function, and its result is part of the graph."""


class Outside:
    """A tensor from outside of a recording."""

    __slots__ = ("_held", "before", "bytes", "parameter", "version")

    def __init__(self, tensor: Tensor, *, parameter: bool) -> None:
        self.parameter = parameter
        weakly = isinstance(tensor, torch.nn.Parameter)  # a module holds it; another leaf may have no other owner
        self._held: Any = weakref.ref(tensor) if weakly else tensor
        self.version = tensor._version
        self.bytes = 0 if weakly else tensor.numel() * tensor.element_size()
        self.before: Tensor | None = None
        """What it was before the recorded operators changed it."""

    def tensor(self) -> Tensor | None:
        """Return it, None if it is gone."""
        return self._held() if isinstance(self._held, weakref.ref) else self._held

    def keep(self, *, weakly: bool) -> None:
        """Hold it for long: weakly, or as a copy of its own."""
        tensor = self.tensor()
        if self.before is not None:
            self._held = None  # only what it was before counts
        elif isinstance(tensor, Tensor) and not self.parameter:
            self._held = weakref.ref(tensor) if weakly else tensor.detach().clone()
            self.version, self.bytes = (self.version, 0) if weakly else (self._held._version, self.bytes)


class Recording(TorchDispatchMode):  # type: ignore[misc]  # torch is not read by the type checker
    """Notes every operator that is dispatched under it, until one cannot be repeated: then ``why`` says so."""

    supports_higher_order_operators = True

    def __init__(self, device: torch.device, room: int) -> None:
        """Record what runs on the CPU and on ``device``; copies of what is changed hold ``room`` bytes at most."""
        super().__init__()
        self.active, self.why = True, ""
        self.device, self._room = device, room
        self.operations: list[Operation] = []
        self.outside: dict[int, Outside] = {}
        self.streams: dict[int, list[Tensor]] = {}
        """States of the random streams (CPU, device), by the number of the operation before which they were."""
        self.reads: list[int] = []
        """Operations before which a value that depends on parameters was handed to Python."""
        self.roots: list[int] = []
        """Of each slot, the one whose memory it is a view of."""
        self.functions: dict[int, str] = {}
        """Functions with a backward of the script's own, by the slot of what their forward returned."""
        self.own_s = 0.0
        """Seconds spent in taking notes."""
        self._depends: list[bool] = []  # on parameters, by root
        # By identity; last the operation that made it, if it ran without gradients (else -1).
        self._known: dict[int, tuple[weakref.ref[Tensor], Slot, int]] = {}
        self._storages: dict[int, int] = {}  # of what came from outside; -1: of several tensors

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave ``torch.compile`` on under this mode."""
        return True

    def fail(self, why: str) -> None:
        """End the recording: what was recorded cannot be repeated."""
        if not self.why:
            self.why, self.active = why, False
            self.operations, self.outside, self.streams = [], {}, {}
            self._known.clear()

    def begin(self) -> None:
        """Note the states of the random streams: others may have drawn from them since."""
        try:
            if self.active:
                self.streams[len(self.operations)] = stream_states(self.device)
        except Exception as error:  # it must not end a training step
            self.fail(f"the random streams could not be read: {type(error).__name__}: {error}")

    def slot(self, tensor: Any) -> int | None:
        """Return the slot of a tensor that was made or met here, None of another."""
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:
            return None
        if known[2] >= 0:
            self._join(known[1], known[2], tensor)
        return known[1]

    def _join(self, slot: int, made_by: int, tensor: Tensor) -> None:
        """See whether what was made without gradients is what an autograd function returned."""
        node = tensor.grad_fn
        if isinstance(node, BackwardCFunction):
            self.operations[made_by].joined = True
            if node.name() not in _HONEST:
                self.functions[slot] = node.name()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and note it."""
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        began = time.perf_counter()
        operation = None
        try:
            operation = self._before(func, types, args, kwargs)
        except Exception as error:  # it must not end a training step
            self.fail(f"{func} could not be recorded: {type(error).__name__}: {error}")
        called = time.perf_counter()
        out = func(*args, **kwargs)
        returned = time.perf_counter()
        if operation is not None and self.active:
            try:
                self._after(operation, out)
            except Exception as error:
                self.fail(f"{func} could not be recorded: {type(error).__name__}: {error}")
        self.own_s += (called - began) + (time.perf_counter() - returned)
        return out

    def _before(self, func: Any, types: Iterable[type], args: Any, kwargs: Any) -> Operation | None:
        if not isinstance(func, torch._ops.HigherOrderOperator) and func.namespace == "profiler":
            return None
        why = self._why_not(func, types)
        if why:
            self.fail(why)
            return None
        return self._noted(func, kind_of(func), args, kwargs)

    def _why_not(self, func: Any, types: Iterable[type]) -> str:
        if isinstance(func, torch._ops.HigherOrderOperator):
            return f"it runs the higher-order operator {func.name()}"
        if types and any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            return f"it computes on tensors made of others ({', '.join(sorted(k.__name__ for k in types))})"
        if kind_of(func).foreign:
            return f"it runs {func._schema.name}, an operator that is not torch's own"
        if len(self.operations) >= _MAX_OPERATORS:
            return f"it runs more than {_MAX_OPERATORS} operators"
        return "part of it ran in torch.inference_mode" if torch.is_inference_mode_enabled() else ""

    def _noted(self, func: Any, kind: Kind, args: Any, kwargs: Any) -> Operation | None:
        used: list[int] = []
        taken = tuple(self._taken(x, used) for x in args)
        named = {name: self._taken(x, used) for name, x in kwargs.items()} if kwargs else {}
        if self.why:
            return None
        written = [self._write(tensor) for tensor in changed(kind, args, kwargs)] if kind.written else []
        depends = any(self._depends[self.roots[slot]] for slot in used)
        if depends:
            for slot in written:
                self._depends[self.roots[slot]] = True
        if kind.reads and depends:
            self.reads.append(len(self.operations))
        operation = Operation(func, taken, named, tuple(used), tuple(written), torch.is_grad_enabled())
        if kind.reshapes and depends:
            operation.shapes = ()
        return operation

    def _taken(self, x: Any, used: list[int]) -> Any:
        if isinstance(x, Tensor):
            slot = self.slot(x)
            if slot is None:
                slot = self._met(x)
            used.append(slot)
            return slot
        if isinstance(x, (list, tuple)):
            return [self._taken(y, used) for y in x]
        if isinstance(x, torch.Generator):
            self.fail("it draws from a random generator of the script's own")
        return x

    def _met(self, tensor: Tensor) -> Slot:
        """Take note of a tensor from outside."""
        slot = self._new(tensor)
        if tensor.device.type == "meta" or tensor.device not in (self.device, torch.device("cpu")):
            self.fail("it computes on several devices" if tensor.device.type != "meta" else "it is on the meta device")
        elif tensor.is_inference():
            self.fail("it takes a tensor that was made in torch.inference_mode")
        elif tensor.grad_fn is not None:
            name = tensor.grad_fn.name()
            compiled = "Compiled" in name
            self.fail(
                "part of it runs compiled (torch.compile), where operators are not seen"
                if compiled
                else f"it takes the result of a computation that was not seen ({name}): before the outermost call, in "
                "another thread, or of an earlier backward"
            )
        else:
            parameter = isinstance(tensor, torch.nn.Parameter) or tensor.requires_grad
            self.outside[slot] = Outside(tensor, parameter=parameter)
            self._depends[slot] = tensor.requires_grad
            storage = storage_of(tensor)
            if storage in self._storages:
                other = self.outside.get(self._storages[storage])
                if other is not None and (other.parameter != parameter or other.before is not None):
                    self.fail("two of its inputs share memory, and one is a parameter, or is changed in place")
                self._storages[storage] = -1
            else:
                self._storages[storage] = slot
        return slot

    def _write(self, tensor: Tensor) -> int:
        """Take note that a tensor is about to be changed; what came from outside is copied before."""
        slot = self.slot(tensor)
        assert slot is not None
        from_outside = self._storages.get(storage_of(tensor))
        if from_outside is None:
            return slot
        outside = self.outside.get(from_outside)
        if outside is None:
            self.fail("it changes in place one of several inputs that share memory")
        elif outside.parameter:
            self.fail("its forward changes a parameter in place")
        elif outside.before is None:
            base = outside.tensor()
            assert base is not None
            self._room -= outside.bytes
            if self._room < 0:
                self.fail(f"it changes {outside.bytes} bytes of buffers or inputs in place, too many to copy")
                return slot
            with apart(), torch.no_grad():
                outside.before = base.detach().clone()
        return slot

    def _new(self, tensor: Tensor, made_by: int = -1) -> Slot:
        slot = Slot(len(self.roots))
        self.roots.append(slot)
        self._depends.append(False)
        self._known[id(tensor)] = (weakref.ref(tensor), slot, made_by)
        return slot

    def _after(self, operation: Operation, out: Any) -> None:
        results = flat(out)
        depends = any(self._depends[self.roots[slot]] for slot in operation.used)
        made_by = -1 if operation.grad else len(self.operations)
        viewed = self._viewed(operation)
        made = []
        for tensor in results:
            if tensor is None:
                made.append(-1)
                continue
            known = self._known.get(id(tensor))
            if known is not None and known[0]() is tensor and known[1] in operation.used:
                made.append(-1)
                continue
            slot = self._new(tensor, made_by)
            if viewed is not None:
                self.roots[slot] = self.roots[viewed]
            self._depends[self.roots[slot]] = self._depends[self.roots[slot]] or depends
            made.append(slot)
        operation.made = tuple(made)
        if operation.shapes is not None:
            operation.shapes = tuple(None if tensor is None else tensor.shape for tensor in results)
        self.operations.append(operation)

    @staticmethod
    def _viewed(operation: Operation) -> int | None:
        for at in kind_of(operation.func).aliases:
            if at < len(operation.args):
                given = operation.args[at]
                given = given[0] if isinstance(given, list) and given else given
                if isinstance(given, Slot):
                    return given
        return None


def flat(out: Any) -> list[Tensor | None]:
    """Return an operator's results, lists entered, with None for what is no tensor."""
    results = out if isinstance(out, (list, tuple)) else (out,)
    entered = [y for x in results for y in (x if isinstance(x, (list, tuple)) else (x,))]
    return [y if isinstance(y, Tensor) else None for y in entered]


def storage_of(tensor: Tensor) -> int:
    """Return which memory a tensor lies in; 0 where it has none of its own (a sparse one)."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0


def stream_states(device: torch.device) -> list[Tensor]:
    """Return the states of the CPU's random stream and, where there is another, the device's."""
    states = [torch.default_generator.get_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_stream_states(device: torch.device, states: list[Tensor]) -> None:
    """Set the random streams to what :func:`stream_states` returned."""
    torch.default_generator.set_state(states[0])
    if len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], device)
