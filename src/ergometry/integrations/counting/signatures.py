"""Keys that are equal for calls that run the same operators on the same shapes: made at every call, so cheaply.

What can change between two calls of a module is looked at in four ways. Its mode, the context, the arguments' shapes,
and of a small model which parameters are trained: at every call. Modules and parameters that are set: torch calls
back. A graph of another size than the one that was counted (layers frozen or left out): at the next call. What else
is done behind its back (a parameter's data replaced, a part put into evaluation): by looking at as many modules at
each call as a small share of a step's time allows, in turn, so that it is noticed some calls later.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch.nn.modules import module as torch_module

Key = tuple[Any, ...]

_LOOK_SHARE = 0.0001
_LOOK_S = 4e-6  # between two operators, when nothing of ours is in the processor's caches
_FEW = 16
_RARELY = 4  # of so many steps of an optimizer one is looked at more closely
_GRADIENTS = 8
_MAX_LOOKS = 64


_any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


class Structure:
    """A module as it is built now: its parts, and parameters with their shapes. Holds none of them alive."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Look at all of it."""
        parts = list(module.modules())
        self.ref: weakref.ref[Any] = weakref.ref(module)
        self.training = module.training
        self.number = 0
        self.parts = {id(part) for part in parts}
        self.parameters = [weakref.ref(p) for p in module.parameters()]
        self.few = self.parameters if len(self.parameters) <= _FEW else []
        self._looks = [(weakref.ref(part), _look(part)) for part in parts]
        self._next = 0

    @property
    def looks(self) -> Hashable:
        """Equal for two structures that are alike."""
        return tuple([look for _, look in self._looks])

    def holds(self, count: int) -> bool:
        """Look at so many parts, in turn; say whether they are as they were."""
        looks = self._looks
        for _ in range(min(count, len(looks))):
            self._next = at = (self._next + 1) % len(looks)
            part, seen = looks[at]
            module = part()
            if module is None or _look(module) != seen:
                return False
        return True


def _look(part: torch.nn.Module) -> Hashable:
    own = part.__dict__
    children, parameters = own.get("_modules"), own.get("_parameters")
    return (
        own.get("training"),
        tuple(map(id, children.values())) if children else None,
        tuple([None if p is None else _shape(p) for p in parameters.values()]) if parameters else None,
    )


def _shape(p: Any) -> Hashable:
    # A lazy parameter has no shape yet; asking whether one is lazy takes long.
    if type(p) is not torch.nn.Parameter and torch.nn.parameter.is_lazy(p):
        return None
    return (p.shape, p.dtype, p.requires_grad)


def _looks(step_s: float) -> int:
    """Return how many parts to look at in a step that takes so long."""
    return int(step_s * (_LOOK_SHARE / _LOOK_S)) or 1


class Signatures:
    """Makes the keys of modules' calls and of optimizers' steps."""

    def __init__(self) -> None:
        self._modules: dict[int, Structure] = {}
        self._seen: dict[int, tuple[weakref.ref[Any], dict[Hashable, int]]] = {}
        self._numbers = itertools.count()
        self._touched = False
        self._optimizers: weakref.WeakKeyDictionary[Any, _Optimizer] = weakref.WeakKeyDictionary()
        self._handles: list[Any] = []

    def install(self) -> None:
        """Have torch call back when a module or a parameter is set."""
        self._handles = [
            torch_module.register_module_module_registration_hook(self._set),
            torch_module.register_module_parameter_registration_hook(self._set),
        ]

    def remove(self) -> None:
        """Take the callbacks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _set(self, module: torch.nn.Module, _name: str, _value: Any) -> None:
        if not self._touched and any(id(module) in known.parts for known in self._modules.values()):
            self._touched = True

    def suspect(self) -> None:
        """Look at all of the modules when they are called next."""
        self._touched = True

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], step_s: float = 0.0) -> Key:
        """Return the key of a module's call; steps last ``step_s`` (0: not known, all of the module is looked at)."""
        if self._touched:
            self._modules.clear()
            self._touched = False
        known = self._modules.get(id(module))
        if (
            known is None
            or module.training is not known.training
            or known.ref() is not module  # the identity of a module that is gone comes again
            or (known.parameters and not known.holds(_looks(step_s) if step_s else len(known.parts)))
        ):
            known = self._look_at(module)
        trained = tuple([p is not None and p.requires_grad for p in [ref() for ref in known.few]])
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor):
            return (known.number, trained, context(), (args[0].shape, args[0].dtype))
        return (known.number, trained, context(), *shapes((*args, *kwargs.values())))

    def parameters(self) -> list[weakref.ref[Any]]:
        """Return the parameters of all modules met."""
        return [ref for structure in self._modules.values() for ref in structure.parameters]

    def _look_at(self, module: Any) -> Structure:
        structure = self._modules[id(module)] = Structure(module)
        seen = self._seen.get(id(module))
        if seen is None or seen[0]() is not module:
            seen = self._seen[id(module)] = (weakref.ref(module), {})
        if len(seen[1]) >= _MAX_LOOKS:
            seen[1].clear()
        # A model that is again as it was (training after an evaluation) has the number that it had.
        structure.number = seen[1].setdefault(structure.looks, next(self._numbers))
        return structure

    def optimizer(self, optimizer: Any) -> Key:
        """Return the key of a step: which optimizer, how it is set, its state's size, which gradients there are."""
        known = self._optimizers.get(optimizer)
        groups, size = optimizer.param_groups, len(optimizer.state)
        if known is None or not known.holds(groups, size):
            number = known.number if known is not None else next(self._numbers)
            known = self._optimizers[optimizer] = _Optimizer(number, groups, size)
        return known.key


class _Optimizer:
    """An optimizer as it is set now."""

    def __init__(self, number: int, groups: list[dict[str, Any]], size: int) -> None:
        self.number = number
        self._size = size
        self._counts = [len(group["params"]) for group in groups]
        self._options = [_options(group) for group in groups]
        self._parameters = [(weakref.ref(p), p.grad is not None) for group in groups for p in group["params"]]
        self._next = 0
        self.key: Key = (number, size, *self._options, tuple([given for _, given in self._parameters]))
        self.key = (hash(self.key), number, size)  # the gradients of a large model make a long one

    def holds(self, groups: list[dict[str, Any]], size: int) -> bool:
        """Look at the state's size, now and then at a group and some gradients; say whether all is as it was."""
        counts = self._counts
        if size != self._size or len(groups) != len(counts):
            return False
        self._next += 1
        if self._next % _RARELY:
            return True
        turn = self._next // _RARELY
        at = turn % len(groups)
        if len(groups[at]["params"]) != counts[at] or _options(groups[at]) != self._options[at]:
            return False
        begin = turn * _GRADIENTS % (len(self._parameters) or 1)
        for ref, given in self._parameters[begin : begin + _GRADIENTS]:
            p = ref()
            if p is None or (p.grad is not None) is not given:
                return False
        return True


_RATES = frozenset(("lr", "initial_lr", "max_lr", "min_lr", "step"))


def _options(group: dict[str, Any]) -> tuple[bool, ...]:
    """Return which options of a group are on: those that are zero or False do no work."""
    return tuple(
        [bool(v) for k, v in group.items() if (v is None or type(v) in (bool, int, float)) and k not in _RATES]
    )


def context() -> Hashable:
    """Return what of torch's state changes the operators that run."""
    autocast: Hashable = None
    if not _any_autocast():
        return bool(torch.is_grad_enabled())
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            autocast = (autocast, device, torch.get_autocast_dtype(device))
    return (torch.is_grad_enabled(), autocast)


def shapes(values: Iterable[Any], depth: int = 2) -> Iterable[Hashable]:
    """Yield shapes and types of the tensors among arguments, and what of the rest may choose what runs."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield (value.shape, value.dtype)
        elif depth and isinstance(value, (list, tuple)):
            yield len(value)
            yield from shapes(value, depth - 1)
        elif depth and isinstance(value, dict):
            yield from shapes(value.values(), depth - 1)
        elif isinstance(value, (int, bool, str)):
            yield value


def structure_of(key: Any, dims: list[int]) -> Any:
    """Return a key without its sizes, which are appended to ``dims``: equal for calls that differ in them alone."""
    if isinstance(key, torch.Size):
        dims.extend(key)
        return len(key)
    if isinstance(key, tuple):
        return tuple([structure_of(part, dims) for part in key])
    return key
