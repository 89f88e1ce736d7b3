"""Tapes: records the steps that taps ask for, on and off around the script's own code, and keeps one for the run.

Dispatch modes are taken off by their place in a stack: a recording is put on where the script has none of its own on,
and only around what belongs to the way from a forward to its backward. While the counter counts a pass nothing is
recorded: the step asked for is then another one.
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ergometry.integrations.counting.mode import CountingMode
from ergometry.integrations.inspect_call import Inference, batch_size
from ergometry.integrations.physics.recording import Recording, storage_of
from ergometry.integrations.physics.scores import logits_of
from ergometry.integrations.physics.tap import Site, Tap
from ergometry.integrations.physics.tape import Tape, Unreplayable

_SHARE = 0.02
_HELD_BYTES = 64 << 20
_COPY_BYTES = 4 << 20
_ATTEMPTS = 3
_STRUCTURES = 64
_MODULES = 16
_DEVICE_TOLERANCE = 1e-3
"""Of the loss: on accelerators the order of sums may differ from one run to the next."""
_REMEDY = "give erg.record a loss function and a probe batch"


class Tapes(Tap):
    """The tapes of the step under way (``current``, one per backward), and one kept for the run (``probe``).

    The first tape that is made is kept, whoever asked for it.
    """

    name = "tapes"

    def __init__(self, site: Site) -> None:
        """Record nothing until a tap asks, but for the tape that is kept."""
        self._site = site
        self.current: list[Tape] = []
        self.probe: Tape | None = None
        self.probe_why = "no training step could be recorded yet"
        """Why there is no ``probe``, with the remedy; an empty string where there is one."""
        self.why_not = ""
        """Why a backward of this step has no tape that can be replayed; empty where it has, or a pass was counted."""
        self.cost_s = 0.0
        """Seconds that recording this step's tapes has cost so far."""
        self.recorded_s = 0.0
        """Seconds that recording has added to the script's own calls so far."""
        self._wanted = False
        self._attempts = 0
        self._recording: Recording | None = None
        self._armed = False  # what the script runs belongs to the recording
        self._on = False  # the recording's mode is on the stack, put there between calls
        self._begun: tuple[Any, float, float, Recording | None] | None = None
        self._forward_s: dict[int, float] = {}
        self._module: weakref.ref[torch.nn.Module] | None = None
        self._examples = 0.0
        self._out: int | None = None
        self._scaled: list[tuple[weakref.ref[Tensor], weakref.ref[Tensor]]] = []
        self._verified: dict[int, str] = {}  # why tapes of a structure are not what ran, empty where they are

    def want(self, step: int) -> None:
        """Ask for the tapes of a step, before its first forward: in ``step_begin``."""
        self._wanted = True

    def want_probe(self) -> bool:
        """Ask for a tape to keep, if there is none and one may still be made; say whether it is recorded."""
        asked = self.probe is None and self._attempts < _ATTEMPTS
        self._wanted = self._wanted or asked
        return asked

    # Around the script's own code

    @property
    def engaged(self) -> bool:
        """Whether there may be anything to put on the stack of modes, or to take off."""
        return self._armed or self._on or torch._C._len_torch_dispatch_stack() > 0

    @property
    def recording(self) -> bool:
        """Whether what the script runs next belongs to a tape."""
        return self._armed

    def run(self, original: Callable[..., Any], subject: Any, args: Any, kwargs: Any) -> Any:
        """Run a call of the script's and record it."""
        recording = self._recording
        if recording is None or not recording.active or self._refused(recording):
            return original(subject, *args, **kwargs)
        recording.begin()
        with recording:
            return original(subject, *args, **kwargs)

    def go_on(self) -> None:
        """Record what the script runs between its calls."""
        recording = self._recording
        if not self._armed or self._on or recording is None or not recording.active or self._refused(recording):
            return
        recording.begin()
        recording.__enter__()
        self._on = True

    def pause(self) -> None:
        """Record nothing for now."""
        stack = _get_current_dispatch_mode_stack()
        if self._on and (not stack or stack[-1] is not self._recording):
            assert self._recording is not None
            self._recording.fail("the script put a dispatch mode of its own on, or took one off")
        self._on = False
        # One that another mode was on top of comes off later; one that autograd has put back, since it was taken off
        # within a backward, does too.
        while stack and isinstance(stack[-1], Recording):
            stack.pop().__exit__(None, None, None)

    def drop(self) -> None:
        """Give up what is being recorded."""
        self.pause()
        self._recording, self._armed = None, False

    @staticmethod
    def _refused(recording: Recording) -> bool:
        if all(isinstance(mode, CountingMode) for mode in _get_current_dispatch_mode_stack()):
            return False
        recording.fail("a dispatch mode of the script's own is on")
        return True

    # Events

    def step_begin(self, step: int, step_s: float) -> None:
        """Begin a step that a tap may want the tapes of."""
        self.step_end()
        self.cost_s, self.why_not = 0.0, ""

    def step_end(self) -> None:
        """Let go of the step's tapes."""
        self.drop()
        self.current, self._wanted = [], False

    def forward_begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """Begin a recording, or go on with the one that this forward belongs to."""
        if self._wanted and not self._armed and self._site.machine.counting:
            self._begin(module)
        if self._armed:
            self._examples = max(self._examples, batch_size(args, kwargs, Inference())[0])
        recording = self._recording if self._armed else None
        own_s = recording.own_s if recording is not None else 0.0
        self._begun = (weakref.ref(module), time.perf_counter(), own_s, recording)

    def _begin(self, module: torch.nn.Module) -> None:
        device = next(module.parameters()).device
        self._recording = None
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            self.why_not = "the step is captured as a CUDA graph"
        else:
            self._recording, self._armed = Recording(device, sys.maxsize if self._site.full else _COPY_BYTES), True
            self._module, self._examples, self._out, self._scaled = weakref.ref(module), 0.0, None, []

    def forward_end(self, module: Any, out: Any) -> None:
        """Take note of the output, and of what recording the forward has cost."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0]() is not module:
            return
        took_s = time.perf_counter() - begun[1]
        usual_s = self._forward_s.get(id(module), took_s)
        recording = begun[3]
        if recording is None:
            self.usual(module, took_s)
        elif recording is self._recording:
            # Dispatching through Python costs more than taking notes: the forward takes longer than it does otherwise.
            self._spent(max(took_s - usual_s - (recording.own_s - begun[2]), 0.0))
            logits = logits_of(out)
            self._out = None if logits is None else recording.slot(logits)

    def usual(self, module: Any, took_s: float) -> None:
        """Take note of what a forward takes that is not recorded."""
        if len(self._forward_s) >= _MODULES and id(module) not in self._forward_s:
            self._forward_s.clear()
        self._forward_s[id(module)] = min(took_s, 1.05 * self._forward_s.get(id(module), took_s))

    def _spent(self, seconds: float) -> None:
        self.recorded_s += seconds
        self.cost_s += seconds

    def scaled(self, outputs: Any, out: Any) -> None:
        """Remember which loss a gradient scaler has scaled."""
        if self._armed and isinstance(outputs, Tensor) and isinstance(out, Tensor) and out is not outputs:
            self._scaled.append((weakref.ref(out), weakref.ref(outputs)))

    def backward_begin(self, tensors: Any) -> None:
        """Make the tape of the backward that is about to run."""
        recording = self._recording
        if recording is None or not self._armed:
            return
        self._armed = False
        began = time.perf_counter()
        losses = [self._loss(recording, t) for t in (tensors if isinstance(tensors, (list, tuple)) else (tensors,))]
        slots = [-1 if loss is None else recording.slot(loss) for loss in losses]
        if None in slots:
            recording.fail(_unseen(next(loss for loss, slot in zip(losses, slots, strict=True) if slot is None)))
        known = [loss.detach().reshape(()) for loss in losses if loss is not None]
        value = torch.stack(known).sum() if known else None
        ends = [slot for slot in slots if slot is not None]
        tape = Tape(recording, ends, self._out, examples=self._examples, value=value)
        if not tape.why and not tape.parameters:
            tape.why = "the loss depends on no parameter that is trained"
        if not tape.why:
            self._verify(tape)
        self.current.append(tape)
        self.why_not = self.why_not or tape.why
        if self.probe is None:
            self._settle_probe(tape)
        self._hold()
        self._spent(recording.own_s)
        recording.own_s = 0.0
        self.cost_s += time.perf_counter() - began

    def _loss(self, recording: Recording, tensor: Any) -> Tensor | None:
        """Return the unscaled scalar that a backward is called on."""
        if not isinstance(tensor, Tensor) or tensor.numel() != 1 or tensor.is_complex():
            recording.fail("backward is called on a tensor that is no scalar")
            return None
        for out, unscaled in self._scaled:
            if out() is tensor:
                found = unscaled()
                return tensor if found is None else found
        return tensor

    def _hold(self) -> None:
        """See that the tapes of a step's micro-batches do not hold much that the script would let go of."""
        if len(self.current) > 1 and sum(tape.bytes for tape in self.current) > self._room():
            self.why_not = "the step's micro-batches hold more than may be kept"
            self.current, self._wanted = [], False

    def _room(self) -> float:
        module = self._module() if self._module is not None else None
        size = sum(p.numel() * p.element_size() for p in module.parameters()) if module is not None else 0
        return max(_SHARE * size, _HELD_BYTES)

    def _verify(self, tape: Tape) -> None:
        """See that a tape of a structure that is new gives the script's own loss, at the parameters of the time."""
        structure = tape.structure
        if structure not in self._verified:
            if len(self._verified) >= _STRUCTURES:
                self._verified.clear()
            self._verified[structure] = ""
            module = self._module() if self._module is not None else None
            memory = {storage_of(p) for p in (module.parameters() if module is not None else ())}
            if tape.shares_memory(memory):
                self._verified[structure] = "one of its inputs lies in the memory of a parameter (.data)"
            else:
                self._compare(structure, tape)
        tape.why = self._verified[structure]

    def _compare(self, structure: int, tape: Tape) -> None:
        try:
            with torch.no_grad():
                again = tape.loss()
        except Unreplayable as error:
            self._verified[structure] = str(error)
            return
        own = tape.value
        assert own is not None
        accelerated = own.device.type != "cpu"
        tolerance = _DEVICE_TOLERANCE if accelerated else 16 * torch.finfo(own.dtype).eps

        def compare(values: list[float]) -> None:
            first, second = values
            if math.isfinite(first) and not abs(first - second) <= tolerance * abs(first):
                why = f"replayed, it gives {second:.6g} and not the script's {first:.6g}: part of it was not seen"
                self._verified[structure] = tape.why = why

        wide = torch.float32 if own.device.type == "mps" else torch.float64
        self._site.pending.read(torch.stack((own.to(wide), again.to(wide))), compare)

    def _settle_probe(self, tape: Tape) -> None:
        """Keep the tape for the run, if it can be replayed and holds little."""
        module = self._module() if self._module is not None else None
        if self._attempts >= _ATTEMPTS or module is None:
            return
        self._attempts += 1
        if tape.why:
            self.probe_why = f"a training step cannot be replayed: {tape.why}; or {_REMEDY}"
            return
        room = self._room()
        if tape.bytes > room:
            self.probe_why = f"a batch holds {tape.bytes} bytes, more than the {room:.0f} that may be kept; {_REMEDY}"
            self._attempts = _ATTEMPTS
            return
        tape.keep({id(b) for b in module.buffers()})
        self.probe, self.probe_why = tape, ""

    def retain(self) -> None:
        """Go on recording after a backward: another one of the same forward may come."""
        self._armed = self._recording is not None and self._recording.active

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Record no further: what led to no backward leads to none now."""
        self.drop()

    def unwound(self) -> None:
        """Forget the step under way."""
        self.drop()
        self.current, self._begun, self._wanted = [], None, False

    def stop(self) -> None:
        """Let go of everything."""
        self.drop()
        self.current, self.probe, self._scaled, self._begun = [], None, [], None


def _unseen(loss: Tensor | None) -> str:
    name = loss.grad_fn.name() if loss is not None and loss.grad_fn is not None else ""
    if "Compiled" in name:
        return "part of it runs compiled (torch.compile), where operators are not seen"
    return "the loss was computed where it was not seen: before the outermost call, or in another thread"
