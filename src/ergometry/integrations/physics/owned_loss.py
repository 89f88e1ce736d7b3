"""The loss that the user gave, ``loss(model, batch)``: each call can be evaluated again as it was, without a trace.

A call taken is a tape, with what every tap asks of one: ``loss()``, ``outputs()``, ``parameters``, ``examples``,
``bytes``, ``why``. It runs the user's function on the live parameters (or replacements of them), with the training
flags, autocast and random streams of the call, and with copies of the buffers as they were.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from ergometry.integrations.inspect_call import Inference, batch_size
from ergometry.integrations.physics.scores import logits_of

_SHARE, _FLOOR_BYTES = 0.02, 4 << 20

Streams = dict[str, Any]


def streams(devices: Sequence[torch.device] = ()) -> Streams:
    """Return the state of every random stream that a script may draw from: torch's, Python's and NumPy's (if loaded).

    Reading an accelerator's stream does not wait for it.
    """
    numpy = sys.modules.get("numpy.random")
    return {
        "torch": torch.get_rng_state(),
        "devices": {d: torch.get_device_module(d).get_rng_state(d) for d in devices},
        "python": random.getstate(),
        "numpy": numpy.get_state() if numpy is not None else None,
    }


def set_streams(state: Streams) -> None:
    """Set the random streams to what :func:`streams` returned."""
    torch.set_rng_state(state["torch"])
    for device, one in state["devices"].items():
        torch.get_device_module(device).set_rng_state(one, device)
    random.setstate(state["python"])
    if state["numpy"] is not None:
        sys.modules["numpy.random"].set_state(state["numpy"])


@dataclass(frozen=True)
class Entry:
    """What a call of the user's loss began with: its batch, and what surrounded it."""

    batch: Any
    streams: Streams
    autocast: tuple[tuple[str, torch.dtype, bool], ...]

    @classmethod
    def now(cls, batch: Any, devices: Sequence[torch.device]) -> Entry:
        """Return what a call that begins now begins with. Containers are copied: the function may empty them."""
        kinds = {"cpu", *(d.type for d in devices)}
        autocast = tuple((k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k)) for k in sorted(kinds))
        return cls(_each(batch, lambda t: t), streams(devices), autocast)


class _Call(nn.Module):  # type: ignore[misc]  # torch is not read by the type checker
    """The user's function as a module, so that ``functional_call`` can replace what the model holds."""

    def __init__(self, function: Callable[..., Any], model: nn.Module) -> None:
        super().__init__()
        self.function, self.model = function, model

    def forward(self, batch: Any) -> Any:
        return self.function(self.model, batch)


class BatchTape:
    """One call of the user's loss, as it was; or a batch to be evaluated in evaluation mode (``training=False``)."""

    def __init__(
        self, function: Callable[..., Any], model: nn.Module, entry: Entry, *, training: bool, room: int
    ) -> None:
        """Take what a call needs to be repeated, before its forward; copies hold ``room`` bytes at most."""
        model = _plain(model)
        self._call, self.model, self._entry, self.batch = _Call(function, model), model, entry, entry.batch
        self._versions = [(t, t._version) for t in _tensors(entry.batch) if not t.is_inference()]
        self._flags = [(m, m.training and training) for m in model.modules()]
        named = dict(self._call.named_parameters())
        self._names = {id(p): name for name, p in named.items()}
        self.parameters = tuple(p for p in named.values() if p.requires_grad)
        self.why = ""
        buffers = dict(self._call.named_buffers())
        self.bytes = sum(b.numel() * b.element_size() for b in buffers.values())
        if self.bytes > room:
            self.why = f"the model's buffers hold {self.bytes} bytes, more than the {room} that may be copied"
            buffers = {}
        elif type(model).__name__ == "FullyShardedDataParallel":
            self.why = "a sharded model's parameters cannot be replaced"
        self._buffers = {name: b.detach().clone() for name, b in buffers.items()}
        self.examples = batch_size((entry.batch,), {}, Inference())[0]

    def loss(self, parameters: Mapping[Tensor, Tensor] | None = None) -> Tensor:
        """Return the loss again, 0-dim, differentiable where gradients are on; with other values of some parameters."""
        with self._as_it_was():
            found = self._run(parameters, self.batch)
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise TypeError(f"the loss is not a scalar tensor: {getattr(found, 'shape', type(found).__name__)}")
        return found.reshape(())

    def outputs(self, parameters: Mapping[Tensor, Tensor] | None = None) -> Tensor:
        """Return what the model last gave out on the way to the loss: logits (..., classes)."""
        seen: list[Any] = []
        with self._as_it_was():
            handle = self.model.register_forward_hook(lambda _module, _args, out: seen.append(out))
            try:
                self._run(parameters, self.batch)
            finally:
                handle.remove()
        found = logits_of(seen[-1]) if seen else None
        if found is None:
            raise TypeError("the model's output holds no tensor of scores (predictions, classes)")
        return found

    def parts(self, n: int) -> list[BatchTape]:
        """Return tapes of n equal parts of the batch, without its last examples if they do not divide; else none.

        Their losses average to the whole's where the loss is a mean over examples that do not see each other.
        """
        size = _common_size(self.batch)
        if size is None or size < n:
            return []
        found = []
        for i in range(n):
            part = BatchTape.__new__(BatchTape)
            part.__dict__.update(self.__dict__)
            a = i * (size // n)
            part.batch = _each(self.batch, lambda t, a=a: t[a : a + size // n])  # type: ignore[misc]
            part.examples = float(size // n)
            found.append(part)
        return found

    def _run(self, parameters: Mapping[Tensor, Tensor] | None, batch: Any) -> Any:
        held: dict[str, Tensor] = {name: b.clone() for name, b in self._buffers.items()}
        for parameter, value in (parameters or {}).items():
            held[self._names[id(parameter)]] = value
        return torch.func.functional_call(self._call, held, (_each(batch, lambda t: t),))

    @contextlib.contextmanager
    def _as_it_was(self) -> Iterator[None]:
        if any(t._version != version for t, version in self._versions):
            self.why = "the batch has been changed in place since; leave it as it is until the step"
        if self.why:
            raise RuntimeError(self.why)
        entry = self._entry
        now, flags = streams(list(entry.streams["devices"])), [(m, m.training) for m, _ in self._flags]
        try:
            _set_flags(self._flags)
            set_streams(entry.streams)
            with contextlib.ExitStack() as stack:
                if _get_current_dispatch_mode_stack():  # what counts or records the script's operators sees none of it
                    stack.enter_context(_disable_current_modes())
                for kind, dtype, enabled in entry.autocast:
                    stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
                yield
        finally:
            _set_flags(flags)
            set_streams(now)


def _set_flags(flags: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, flag in flags:
        if module.training is not flag:
            module.training = flag


def _plain(model: Any) -> nn.Module:
    """Return the module within what compiles it or averages its gradients: a replay must do neither."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from _tensors(value)


def _common_size(batch: Any) -> int | None:
    """Return the first dimension that all tensors of a batch share; None where they have none in common."""
    sizes = {t.shape[0] if t.dim() else -1 for t in _tensors(batch)}
    return sizes.pop() if len(sizes) == 1 and -1 not in sizes else None


def _each(batch: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch of the same shape with ``f`` of every tensor; containers are new, what else it holds is shared."""
    if isinstance(batch, Tensor):
        return f(batch)
    if isinstance(batch, Mapping):
        return type(batch)({key: _each(value, f) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_each(value, f) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_each(value, f) for value in batch)
    return batch


class OwnedLoss:
    """The user's ``loss(model, batch)`` and its model: called by the training loop, and again by the taps.

    Several taps may want the calls of a step: each takes and releases for itself, and the calls are let go of with the
    last. A call that is under way, but has not come to its forward, is kept too: there a step begins.
    """

    def __init__(self, function: Callable[..., Any], model: nn.Module, *, full: bool = False) -> None:
        self.function, self.model = function, model
        self._room: int | None = sys.maxsize if full else None
        self._takers: set[str] = set()
        self._entry: Entry | None = None  # of the call under way, until it is kept
        self._probe: BatchTape | None = None
        self.batch: Any = None
        """The batch of the last call."""
        self.tapes: list[BatchTape] = []
        self.why = ""
        """Why a call could not be kept."""

    def __call__(self, batch: Any) -> Any:
        """Return the user's loss of a batch, exactly as their function gives it."""
        try:
            self.batch = batch
            self._entry = Entry.now(batch, self._devices())
            if self.taking:
                self._keep()
        except Exception as error:  # the training goes on
            self.why = f"a call of the loss function could not be kept: {error}"
        try:
            return self.function(self.model, batch)
        finally:
            self._entry = None

    def _keep(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self.tapes.append(self._tape(entry, training=True))

    def _devices(self) -> list[torch.device]:
        return sorted({p.device for p in self.model.parameters() if p.device.type not in ("cpu", "meta")}, key=str)

    def _tape(self, entry: Entry, *, training: bool) -> BatchTape:
        if self._room is None:
            size = sum(p.numel() * p.element_size() for p in self.model.parameters())
            self._room = max(int(_SHARE * size), _FLOOR_BYTES)
        return BatchTape(self.function, self.model, entry, training=training, room=self._room)

    def tape(self, batch: Any, *, training: bool = True) -> BatchTape:
        """Return a batch's call, as it would be now; ``training=False``: in evaluation mode."""
        return self._tape(Entry.now(batch, self._devices()), training=training)

    def kept(self, batch: Any, *, training: bool) -> BatchTape:
        """Return the one tape that is kept for the run: of this batch, unless there is one already."""
        if self._probe is None:
            self._probe = self.tape(batch, training=training)
        return self._probe

    @property
    def taking(self) -> bool:
        """Whether calls are kept."""
        return bool(self._takers)

    @taking.setter
    def taking(self, value: bool) -> None:
        (self.take if value else self.release)("")

    def take(self, who: str) -> None:
        """Keep the calls from here on, the one under way among them, in ``tapes``."""
        self._takers.add(who)
        self._keep()

    def release(self, who: str) -> None:
        """Keep them no more, as far as ``who`` is concerned."""
        self._takers.discard(who)
        self.clear()

    def clear(self) -> None:
        """Let go of the calls kept, unless some tap still wants them."""
        if not self._takers:
            self.tapes = []
