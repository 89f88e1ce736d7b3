"""Tape: the operators from a forward to its backward, run again at other parameters, exactly as they ran.

The instrument sees the forward's call and not the script's loss function, so ℓ_Bk(θ_k+1) cannot be had by calling
the module again. A tape gives it: the same operators on the same batch, with the random numbers and buffers of then. A
replay leaves random streams, buffers and every tensor of the script's as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.kinds import kind_of
from ergometry.integrations.physics.recording import (
    Operation,
    Outside,
    Recording,
    Slot,
    flat,
    set_stream_states,
    storage_of,
    stream_states,
)


class Unreplayable(RuntimeError):
    """A tape cannot be run again; the message says why, and completes "the step cannot be replayed: …"."""


class _Line(NamedTuple):
    """One operator of a tape, and the slots that no later one needs."""

    operation: Operation
    made: tuple[int, ...]
    freed: tuple[int, ...]


class Tape:
    """What one ``backward`` was called on, as a function of the parameters.

    Attributes:
        why: why it cannot be replayed, or an empty string.
        examples: examples in the outermost call, NaN where its first tensor does not tell.
        bytes: what it holds by itself, which would else be freed: inputs, copies of buffers, states of random streams.
        value: 0-dim, the loss that the script had: the unscaled scalars that ``backward`` was called on, added up.
        gradient_why: why its derivative may not be the gradient that the script's backward brings, or an empty string.
        structure: a number that is the same for tapes of the same operators.
    """

    def __init__(
        self, recording: Recording, losses: list[int], out: int | None, *, examples: float, value: Tensor | None
    ) -> None:
        """Keep of a recording what leads to its ``losses`` and to the module's output ``out`` (slots)."""
        self.why, self.examples, self.value = recording.why, examples, value
        self._device, self._losses, self._out = recording.device, losses, out
        self.gradient_why = ""
        self._lines: list[_Line] = []
        self._streams: dict[int, list[Tensor]] = {}
        self._outside: dict[int, Outside] = {}
        if not self.why:
            self._prune(recording)
        self.structure = hash(tuple((id(line.operation.func), line.made, line.operation.used) for line in self._lines))

    # What leads to the loss

    def _prune(self, recording: Recording) -> None:
        operations, roots = recording.operations, recording.roots
        ends = {*self._losses, *([] if self._out is None else [self._out])}
        needed, memory = set(ends), {roots[slot] for slot in ends}
        live: list[int] = []
        drawn = False  # whether a later operator draws from the stream
        for i in range(len(operations) - 1, -1, -1):
            operation = operations[i]
            random = kind_of(operation.func).random
            if (
                any(slot in needed for slot in operation.made)
                or any(roots[slot] in memory for slot in operation.written)
                or (random and drawn)
            ):
                live.append(i)
                needed.update(operation.used)
                memory.update(roots[slot] for slot in operation.used)
                drawn = drawn or random
            if i in recording.streams:
                drawn = False
        live.reverse()
        self._join(operations, live)
        functions = sorted({name for slot, name in recording.functions.items() if slot in needed})
        if functions:
            self.gradient_why = f"functions with a backward of their own: {', '.join(functions)}"
        if recording.reads and live and live[-1] > recording.reads[0]:
            self.why = (
                "a value that depends on parameters is read (.item(), float(), if) on the way to the loss; read it "
                "after backward, or read nothing but the loss"
            )
            return
        last = {slot: n for n, i in enumerate(live) for slot in (*operations[i].used, *operations[i].made)}
        freed: dict[int, list[int]] = {}
        for slot, n in last.items():
            if slot >= 0 and slot not in ends:
                freed.setdefault(n, []).append(slot)
        starts = sorted(recording.streams)
        for n, i in enumerate(live):
            while starts and starts[0] <= i:
                self._streams[n] = recording.streams[starts.pop(0)]
            self._lines.append(_Line(operations[i], operations[i].made, tuple(freed.get(n, ()))))
        self._outside = {slot: outside for slot, outside in recording.outside.items() if slot in needed}

    @staticmethod
    def _join(operations: list[Operation], live: list[int]) -> None:
        """Have the forwards of autograd functions differentiated: what led to their results ran without gradients."""
        joined: set[int] = set()
        for i in reversed(live):
            operation = operations[i]
            operation.joined = operation.joined or (
                not operation.grad and any(slot in joined for slot in operation.made)
            )
            if operation.joined:
                joined.update(operation.used)

    @property
    def bytes(self) -> int:
        """Bytes that it holds: inputs, copies of buffers and of inputs, states of random streams."""
        copies: list[Tensor] = [o.before for o in self._outside.values() if o.before is not None]
        states = [state for states in self._streams.values() for state in states]
        inputs = sum(outside.bytes for outside in self._outside.values())
        return inputs + int(sum(t.numel() * t.element_size() for t in (*copies, *states)))

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that it depends on and that are trained."""
        found = [outside.tensor() for outside in self._outside.values() if outside.parameter]
        return [p for p in found if p is not None and p.requires_grad]

    def keep(self, buffers: set[int]) -> None:
        """Hold it for long: buffers (identities) weakly, copies of the inputs."""
        for outside in self._outside.values():
            outside.keep(weakly=id(outside.tensor()) in buffers)

    def shares_memory(self, parameters: set[int]) -> bool:
        """Say whether an input lies in the memory (see :func:`storage_of`) of a parameter: no constant, then."""
        inputs = (o.tensor() for o in self._outside.values() if not o.parameter)
        return any(t is not None and storage_of(t) in parameters for t in inputs)

    # Again

    def loss(self, parameters: Mapping[Tensor, Tensor] | None = None) -> Tensor:
        """Return the sum of the unscaled scalars that ``backward`` was called on, 0-dim, in loss units.

        Args:
            parameters: tensors in the place of some parameters; None is the parameters as they are now. Where gradients
                are on, the result is differentiable with respect to either.

        Raises:
            Unreplayable: it cannot be run again; the message says why.
        """
        return self.loss_and_outputs(parameters)[0]

    def outputs(self, parameters: Mapping[Tensor, Tensor] | None = None) -> Tensor:
        """Return what the outermost module gave out (its logits, or first tensor of floats), in the same way.

        Raises:
            Unreplayable: likewise, or the module gave out no tensor of floats.
        """
        out = self.loss_and_outputs(parameters)[1]
        if out is None:
            raise Unreplayable("the outermost module gave out no tensor of floats")
        return out

    def loss_and_outputs(self, parameters: Mapping[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """Return both of one replay.

        Raises:
            Unreplayable: it cannot be run again; the message says why.
        """
        if self.why:
            raise Unreplayable(self.why)
        made = self._inputs(parameters or {})
        grad = torch.is_grad_enabled()
        streams = stream_states(self._device)
        try:
            with apart(), torch.set_grad_enabled(grad):
                # Kernels see whether gradients are on: below autograd they see it as it was, and no graph is made.
                with contextlib.nullcontext() if grad else torch._C._AutoDispatchBelowAutograd():
                    self._run(made, grad=grad)
                torch._C._set_grad_enabled(grad)
                losses = [made[slot].reshape(()) for slot in self._losses]
                loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        except Unreplayable:
            raise
        except RuntimeError as error:
            raise Unreplayable(f"an operator failed in the replay: {error}") from error
        finally:
            set_stream_states(self._device, streams)
        return loss, None if self._out is None else made[self._out]

    def _inputs(self, replacements: Mapping[Tensor, Tensor]) -> dict[int, Tensor]:
        made: dict[int, Tensor] = {}
        for slot, outside in self._outside.items():
            tensor = outside.tensor()
            if outside.before is not None:
                made[slot] = outside.before.clone()
            elif tensor is None:
                raise Unreplayable("a parameter or buffer that it needs is gone")
            elif outside.parameter:
                made[slot] = replacements.get(tensor, tensor)
            elif tensor._version != outside.version:
                self.why = "an input or a buffer was changed in place since; leave the batch as it is until the step"
                raise Unreplayable(self.why)
            else:
                made[slot] = tensor
        return made

    def _run(self, made: dict[int, Tensor], *, grad: bool) -> None:
        def given(x: Any) -> Any:
            if type(x) is Slot:
                return made[x]
            return [given(y) for y in x] if type(x) is list else x

        enabled: bool | None = None
        for n, (operation, slots, freed) in enumerate(self._lines):
            if n in self._streams:
                set_stream_states(self._device, self._streams[n])
            wanted = operation.grad or (grad and operation.joined)
            if wanted is not enabled:
                enabled = wanted
                torch._C._set_grad_enabled(enabled)
            kwargs = {name: given(x) for name, x in operation.kwargs.items()} if operation.kwargs else {}
            out = operation.func(*[given(x) for x in operation.args], **kwargs)
            if operation.shapes is not None or len(slots) != 1 or not isinstance(out, Tensor):
                self._keep(operation, slots, out, made)
            elif slots[0] >= 0:
                made[slots[0]] = out
            for slot in freed:
                made.pop(slot, None)

    @staticmethod
    def _keep(operation: Operation, slots: tuple[int, ...], out: Any, made: dict[int, Tensor]) -> None:
        found = flat(out)
        if operation.shapes is not None and operation.shapes != tuple(None if t is None else t.shape for t in found):
            raise Unreplayable("the shape of a result depends on the parameters' values, and has changed")
        made.update((slot, t) for slot, t in zip(slots, found, strict=True) if slot >= 0 and t is not None)
