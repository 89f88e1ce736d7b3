"""Watches a torch training script: patches of a few entry points in, events of the step machine out.

Patched, and restored by ``remove``: ``nn.Module.__call__`` (outermost calls only), ``Tensor.backward`` and
``autograd.backward``, ``GradScaler.scale`` and ``step``, the DataLoader's ``__iter__`` and its iterators'
``__next__``, and torch's global hooks around every optimizer's step. None draws a random number, synchronises a
device or changes a tensor. A fault of ours ends the watching, never the training.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import sys
import time
import weakref
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from ergometry.core import series
from ergometry.integrations import steps
from ergometry.integrations.device_time import DeviceTimer
from ergometry.integrations.flops import FlopCounts, signature
from ergometry.integrations.inspect_call import Inference, batch_size, classes_of
from ergometry.integrations.ledger import Ledger, Sample, SparseSample, estimates
from ergometry.integrations.pending import Pending
from ergometry.integrations.steps import StepMachine
from ergometry.meter.client import RecorderClient

_HOUSEKEEPING_S = 1.0
_COUNTING_SHARE = 0.005


class Tracer:
    """What is known of the training so far, and what each patched entry point does."""

    def __init__(self, client: RecorderClient, inference: Inference, *, only: set[int] | None = None) -> None:
        self.client = client
        self.inference = inference
        self.only = only
        """Identities of the optimizers to follow; None for all."""
        self.machine = StepMachine(self._emit, None)
        self.inside = False
        self.dead = False
        self.counts = FlopCounts()
        self.ledger = Ledger()
        self.pending = Pending()
        self.timer: DeviceTimer | None = None
        self.device: torch.device | None = None
        self.optimizer_steps = 0
        self._clock = time.perf_counter
        self._origin_s = client.origin_s
        self._roots: weakref.WeakKeyDictionary[torch.nn.Module, bool] = weakref.WeakKeyDictionary()
        self._parameter_ids: set[int] = set()
        self._parameters = 0
        self._trains_in_eval = False
        self._eval_root: tuple[int, float] | None = None
        self._batch: dict[int, list[float]] = {}
        self._scaled: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None
        self._passes: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._pass_of: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._last_pass = 0
        self._lrs: dict[tuple[int, int], float] = {}
        self._optimizer_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._following: tuple[Sample | None, list[SparseSample], float] | None = None
        self._ledger_row: list[float] | None = None
        self._step_s = 0.0
        self._step_began_s = 0.0
        self._step_seen = -1
        self._device_loss: tuple[int, torch.Tensor] | None = None
        self._ledger_s = self._flops_s = self._hook_s = 0.0
        self._hooks = 0
        self._housekept_s = 0.0
        self._uncounted: set[str] = set()
        self._bad_losses = 0
        self._noticed: set[str] = set()

    def now(self) -> float:
        """Return seconds since the run's origin."""
        return self._clock() - self._origin_s

    def _emit(self, kind: series.Series, *values: float) -> None:
        self.client.write(kind, *values)

    def notice_once(self, code: str, detail: str) -> None:
        """Keep a warning of this kind, the first time."""
        if code not in self._noticed:
            self._noticed.add(code)
            self.client.notice(code, detail)

    def fault(self, error: Exception) -> None:
        """End the watching: a fault of ours is said, and the training goes on."""
        if not self.dead:
            self.dead = True
            self.inside = False
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f" ({trace.tb_frame.f_code.co_name}:{trace.tb_lineno})" if trace else ""
            self.client.notice("torch.unsupported", f"{type(error).__name__}: {error}{where}")

    def die(self) -> None:
        """Watch nothing from here on: in a forked child, whose training is not this run's."""
        self.dead = True

    # Outermost module calls

    def call(self, original: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """Run an outermost module call, timed, and once per signature counted."""
        began = self._clock()
        try:
            now = began - self._origin_s
            grad = torch.is_grad_enabled()
            has_parameters = self._has_parameters(module, training=grad)
            if not (grad or has_parameters):
                return original(module, *args, **kwargs)  # a loss or a metric of an evaluation
            starts = grad and has_parameters and (module.training or self._trains_in_eval)
            evaluation = self.machine.forward_begin(
                training=grad and (starts or not has_parameters), starts_step=starts, now_s=now
            )
            depth = self.machine.depth
            if starts:
                self._step_opened(now)
            mode, key = self._count_forward(module, args, kwargs) if starts else (None, None)
        except Exception as error:
            self.fault(error)
            return original(module, *args, **kwargs)
        self.inside = True
        called = self._clock()
        try:
            with mode or contextlib.nullcontext():
                out = original(module, *args, **kwargs)
        except BaseException:
            self.inside = False
            if not self.dead:
                self.machine.unwind(depth - 1, self.now())
            raise
        self.inside = False
        returned = self._clock()
        try:
            if not self.dead:
                self._called(module, args, kwargs, out, evaluation=evaluation, starts=starts)
                if mode is not None:
                    self.machine.add_flops(self.counts.keep(key, mode, backward=False))
                    self._uncounted |= mode.uncounted
                    self._flops_s += 0.3 * (returned - called)  # about what dispatching through Python adds
        except Exception as error:
            self.fault(error)
        self._hooks += 1
        self._hook_s += (called - began) + (self._clock() - returned)
        return out

    def expect(self, model: torch.nn.Module) -> None:
        """Count a model's parameters before its first call."""
        self._has_parameters(model, training=True)

    def _has_parameters(self, module: torch.nn.Module, *, training: bool) -> bool:
        known = self._roots.get(module)
        if known is not None:
            return known
        parameters = list(module.parameters())
        if training and parameters:
            self._roots[module] = True
            for p in parameters:
                # An uninitialised (lazy) parameter has no size yet: counted when it is met again.
                if id(p) not in self._parameter_ids and not torch.nn.parameter.is_lazy(p):
                    self._parameter_ids.add(id(p))
                    self._parameters += p.numel()
            self._found_device(parameters[0].device)
            self.client.meta(parameters=self._parameters, devices=self._device_names())
        elif not parameters:
            self._roots[module] = False
        return bool(parameters)

    def _found_device(self, device: torch.device) -> None:
        if self.device is not None or device.type in ("cpu", "meta"):
            return
        self.device = device
        module = torch.get_device_module(device)
        index = float(device.index if device.index is not None else 0)

        def emit(step: int, sums: list[float]) -> None:
            self._emit(series.DEVICE_STEPS, step, index, *sums)

        self.timer = DeviceTimer(functools.partial(module.Event, enable_timing=True), emit)
        timer = self.timer
        self.machine._on_switch = lambda phase: timer.mark(phase, self.machine.index)

    def _device_names(self) -> list[str]:
        if self.device is None:
            return ["cpu"]
        with contextlib.suppress(Exception):
            return [str(torch.get_device_module(self.device).get_device_name(self.device))]
        return [str(self.device)]

    def _count_forward(self, module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        key = signature(module, args, kwargs)
        self.counts.called(key)
        known = self.counts.forward(key)
        if known is not None:
            self.machine.add_flops(known)
            return None, None
        # Shapes that never repeat must not make every step a counted one.
        if self._flops_s > 1.0 + _COUNTING_SHARE * self.now():
            return None, None
        return self.counts.mode(), key

    def _called(self, module: Any, args: Any, kwargs: Any, out: Any, *, evaluation: bool, starts: bool) -> None:
        now = self.now()
        size = batch_size(args, kwargs, self.inference) if evaluation or starts else (0.0, 0.0)
        if evaluation:
            self._eval_root = (id(module), now) if torch.is_grad_enabled() else None
            self.machine.forward_end(now, evaluation=True, counts=(1.0, 0.0 if math.isnan(size[0]) else size[0]))
            return
        self.machine.forward_end(now, evaluation=False)
        if starts:
            if self.machine.counting:
                seen = self._batch.setdefault(id(module), [0.0, 0.0])
                seen[0] += size[0]
                seen[1] += size[1]
            if self.machine.index == 0 and self.inference.classes is None:
                self.inference.classes = classes_of(out)

    def _step_opened(self, now: float) -> None:
        if self.machine.index != self._step_seen:
            took = now - self._step_began_s
            if self._step_seen >= 0:
                self._step_s = took if not self._step_s else 0.9 * self._step_s + 0.1 * took
            self._step_seen, self._step_began_s = self.machine.index, now
        self.machine.loader_pass = self._last_pass

    # Backward

    def backward(self, original: Callable[..., Any], tensors: Any, args: Any, kwargs: Any) -> Any:
        """Run a backward, timed; the scalar it is called on is the step's loss."""
        began = self._clock()
        try:
            machine = self.machine
            if self._eval_root is not None:
                # The last forward was taken for an evaluation, since the module is in eval mode; it trains so.
                self._trains_in_eval = True
                self._eval_root = None
            machine.backward_begin(began - self._origin_s)
            depth = machine.depth
            if machine.backwards == 0:
                machine.loader_pass = self._last_pass
            mode, key, counted = None, self.counts.backward_key(), False
            known = self.counts.backward(key)
            if known is not None:
                machine.add_flops(known)
            elif key and self._flops_s <= 1.0 + _COUNTING_SHARE * self.now():
                mode, counted = self.counts.mode(), True
        except Exception as error:
            self.fault(error)
            return original(tensors, *args, **kwargs)
        self.inside = True
        called = self._clock()
        try:
            with mode or contextlib.nullcontext():
                out = original(tensors, *args, **kwargs)
        except BaseException:
            self.inside = False
            if not self.dead:
                machine.unwind(depth - 1, self.now())
            raise
        self.inside = False
        returned = self._clock()
        try:
            if not self.dead:
                self._backward_done(tensors)
                if counted and mode is not None:
                    machine.add_flops(self.counts.keep(key, mode, backward=True))
                    self._uncounted |= mode.uncounted
                    self._flops_s += 0.3 * (returned - called)
        except Exception as error:
            self.fault(error)
        self._hooks += 1
        self._hook_s += (called - began) + (self._clock() - returned)
        return out

    def _backward_done(self, tensors: Any) -> None:
        machine = self.machine
        counting = machine.counting
        now = self.now()
        if counting:
            if self._batch:
                machine.add_examples(
                    max(size[0] for size in self._batch.values()), max(size[1] for size in self._batch.values())
                )
            for loss in tensors if isinstance(tensors, (tuple, list)) else (tensors,):
                self._read_loss(loss)
        self._batch.clear()
        following = self._following
        if following is not None and following[0] is not None and machine.in_optimizer:
            sample = following[0]
            if sample.gradient is None:
                with torch.no_grad():
                    sample.take_gradient()
        machine.backward_end(now)

    def _read_loss(self, loss: Any) -> None:
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            self._bad_losses += 1
            return
        value = loss.detach().reshape(())
        if self._scaled is not None and self._scaled[0]() is loss:
            value = value / self._scaled[1].to(value.device, non_blocking=True)
        self._scaled = None
        if value.device.type != "cpu":
            self._late_loss(value, self.machine.index)
            return
        x = float(value)
        if math.isfinite(x):
            self.machine.add_loss(x)
        else:
            self._bad_losses += 1

    def _late_loss(self, value: torch.Tensor, step: int) -> None:
        """Sum a step's losses on the device, and read the sum when the step's rows are already written."""

        def read(x: float) -> None:
            if math.isfinite(x):
                self._emit(series.LOSSES, step, self.now(), x)
            else:
                self._bad_losses += 1

        held = self._device_loss
        if held is not None and held[0] == step:
            value = held[1] + value
        self._device_loss = (step, value)
        self.pending.read(value, read)

    # Optimizers

    def optimizer_begin(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Global hook before every optimizer's step."""
        if self.dead or torch.compiler.is_compiling() or (self.only is not None and id(optimizer) not in self.only):
            return
        began = self._clock()
        try:
            closure = bool(args[1:]) or kwargs.get("closure") is not None
            self._learning_rates(optimizer)
            self._following = None
            if self.ledger.due(self._step_s):
                with torch.no_grad():
                    sample, sparse = self.ledger.begin(optimizer.param_groups, self._step_s)
                    if sample is not None and not closure:
                        sample.take_gradient()
                self._following = (sample, sparse, self._clock() - began)
            now = self._clock()
            self._hook_s += now - began
            self._hooks += 1
            self.machine.optimizer_begin(now - self._origin_s)
        except Exception as error:
            self.fault(error)

    def optimizer_end(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Global hook after every optimizer's step."""
        if self.dead or torch.compiler.is_compiling() or (self.only is not None and id(optimizer) not in self.only):
            return
        began = self._clock()
        try:
            self.optimizer_steps += 1
            skipped = False
            found_inf = getattr(optimizer, "found_inf", None)
            if isinstance(found_inf, torch.Tensor) and found_inf.device.type == "cpu":
                skipped = bool(found_inf.item())
            first_of_step = not self.machine._stepped
            self.machine.optimizer_end(began - self._origin_s, skipped=skipped)
            following, self._following = self._following, None
            if first_of_step:
                self._ledger_row = None
            if following is not None:
                self._follow(optimizer, *following)
            self.pending.poll()
            if self.timer is not None:
                self.timer.poll()
            if began - self._origin_s - self._housekept_s > _HOUSEKEEPING_S:
                self._housekeep(began - self._origin_s)
        except Exception as error:
            self.fault(error)
        self._hook_s += self._clock() - began

    def _follow(self, optimizer: Any, sample: Sample | None, sparse: list[SparseSample], before_s: float) -> None:
        began = self._clock()
        step = self.machine.index
        scale = getattr(optimizer, "grad_scale", None)
        if sample is not None and sample.gradient is None:
            sample = None  # the closure never ran a backward
        if sample is None and not sparse:
            return
        with torch.no_grad():
            parts = ([sample.sums()] if sample is not None else []) + [s.sums() for s in sparse]
            together = torch.cat([part.to(parts[0].device) for part in parts], 1)
            if isinstance(scale, torch.Tensor):
                unscale = (1.0 / scale.to(together.device, together.dtype)).reshape(())
                together = together * torch.stack((unscale**2, torch.ones_like(unscale), unscale)).reshape(3, 1)
        width = parts[0].shape[1] if sample is not None else 0

        def read(rows: list[list[float]]) -> None:
            self._write_ledger(step, rows, sample, width, cost_s)

        cost_s = before_s + self._clock() - began
        self.pending.read(together, read)
        cost_s = before_s + self._clock() - began
        self.ledger.spent(cost_s, exact=sample is not None and sample.exact)
        self._ledger_s += cost_s

    def _write_ledger(
        self, step: int, rows: list[list[float]], sample: Sample | None, width: int, cost_s: float
    ) -> None:
        sparse = [math.fsum(row[width:]) for row in rows]
        sampled = total = 0.0
        found = [(0.0, 0.0)] * 4
        if sample is not None:
            found = list(
                estimates([row[:width] for row in rows], sample.blocks, sample.total, exact=sample.exact)
            )
            sampled = float(sum(b - a for _, a, b in sample.blocks))
            total = float(sample.total)
        (g2, g2e), (d2, d2e), (work, worke), (path, pathe) = found
        if any(sparse):
            g2, d2, work = g2 + sparse[0], d2 + sparse[1], work + sparse[2]
            path = math.sqrt(max(g2 * d2, 0.0))
        if not all(map(math.isfinite, (g2, d2, work))):
            return
        row = [g2, g2e, d2, d2e, work, worke, sampled, total, cost_s, path, pathe]
        before = self._ledger_row
        if before is not None:
            # Another optimizer of the same step: sums add, their independent errors in quadrature.
            errors = (1, 3, 5, 10)
            row = [math.hypot(x, y) if i in errors else x + y for i, (x, y) in enumerate(zip(before, row, strict=True))]
            row[9] = math.sqrt(max(row[0] * row[2], 0.0))
        self._ledger_row = row
        self._emit(series.LEDGER, step, *row)

    def _learning_rates(self, optimizer: Any) -> None:
        number = self._optimizer_numbers.setdefault(optimizer, len(self._optimizer_numbers))
        for group, options in enumerate(optimizer.param_groups):
            lr = options.get("lr")
            if isinstance(lr, torch.Tensor):
                if lr.device.type != "cpu":
                    continue  # reading it would wait for the device
                lr = float(lr)
            if lr is not None and self._lrs.get((number, group)) != lr:
                self._lrs[number, group] = lr
                self._emit(series.LEARNING_RATES, self.machine.index, number, group, lr)

    def scaler_step(self, original: Callable[..., Any], scaler: Any, args: Any, kwargs: Any) -> Any:
        """Run ``GradScaler.step``: where no optimizer stepped, the step was skipped."""
        before = self.optimizer_steps
        out = original(scaler, *args, **kwargs)
        if not self.dead and scaler.is_enabled() and self.optimizer_steps == before:
            try:
                now = self.now()
                self.machine.optimizer_begin(now)
                self.machine.optimizer_end(now, skipped=True)
            except Exception as error:
                self.fault(error)
        return out

    def scaled(self, loss: Any, out: Any, scaler: Any) -> None:
        """Remember which scaled tensor stands for which loss."""
        if isinstance(out, torch.Tensor) and out is not loss and getattr(scaler, "_scale", None) is not None:
            self._scaled = (weakref.ref(out), scaler._scale.detach().clone())

    # Data

    def iterated(self, loader: Any, iterator: Any) -> None:
        """Note that a loader begins a pass over its data."""
        number = self._passes.get(loader, 0) + 1
        self._passes[loader] = number
        self._pass_of[iterator] = number

    def next_batch(self, original: Callable[..., Any], iterator: Any) -> Any:
        """Wait for a batch, timed."""
        if self.inside or self.machine.in_data:
            return original(iterator)
        self.machine.data_begin(self.now())
        depth = self.machine.depth
        try:
            batch = original(iterator)
            self._last_pass = self._pass_of.get(iterator, 1)
            return batch
        finally:
            if not self.dead and self.machine.depth == depth:
                self.machine.data_end(self.now())

    # Once a second

    def _housekeep(self, now: float) -> None:
        self._housekept_s = now
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self._emit(series.MEMORY, now, -1.0, float(peak))
        if self.device is not None and hasattr(torch.get_device_module(self.device), "max_memory_allocated"):
            index = self.device.index if self.device.index is not None else 0
            peak = torch.get_device_module(self.device).max_memory_allocated(self.device)
            self._emit(series.MEMORY, now, float(index), float(peak))
        self._emit(series.OVERHEAD, now, self._ledger_s, self._flops_s, self._hooks, self._hook_s)

    def finish(self) -> None:
        """Emit what is left when the run ends."""
        if self.dead:
            return
        try:
            self.pending.drain()
            if self.timer is not None:
                self.timer.poll()
                self.timer.flush()
            self.machine.finish(self.now())
            self._housekeep(self.now())
            self.client.meta(
                inferred=self.inference.reasons, classes=self.inference.classes, parameters=self._parameters or None
            )
            if self._uncounted:
                self.notice_once("flops.uncounted", ", ".join(sorted(self._uncounted)))
            if self._bad_losses:
                self.notice_once("loss.unreadable", str(self._bad_losses))
        except Exception as error:
            self.fault(error)
        self.dead = True


_patches: list[tuple[Any, str, Any]] = []
_handles: list[Any] = []
_active: Tracer | None = None


def _patch(owner: Any, name: str, replacement: Any) -> None:
    _patches.append((owner, name, owner.__dict__[name]))
    setattr(owner, name, replacement)


def instrument(torch_module: ModuleType, client: RecorderClient, **options: Any) -> Tracer | None:
    """Watch torch from here on; return what watches, or None where torch could not be patched.

    Options: ``examples``, ``tokens``, ``classes`` (stated by the user), ``only`` (identities of the optimizers to
    follow), ``models`` (whose parameters count from the start).
    """
    global _active
    only, models = options.pop("only", None), options.pop("models", ())
    tracer = Tracer(client, Inference(**options), only=only)
    client.meta(torch=torch_module.__version__)
    try:
        for model in models:
            tracer.expect(model)
        _install(tracer)
    except Exception as error:
        remove()
        tracer.fault(error)
        return None
    _active = tracer
    os.register_at_fork(after_in_child=tracer.die)
    return tracer


def finish() -> None:
    """End the watching and emit what is left."""
    global _active
    tracer, _active = _active, None
    if tracer is not None:
        tracer.finish()
    remove()


def remove() -> None:
    """Restore everything that was patched."""
    for handle in _handles:
        handle.remove()
    _handles.clear()
    for owner, name, original in reversed(_patches):
        setattr(owner, name, original)
    _patches.clear()


def _install(tracer: Tracer) -> None:
    _patch_modules(tracer)
    _patch_backward(tracer)
    _patch_scaler(tracer)
    _patch_data(tracer)
    _handles.append(torch_optimizer.register_optimizer_step_pre_hook(tracer.optimizer_begin))
    _handles.append(torch_optimizer.register_optimizer_step_post_hook(tracer.optimizer_end))


def _patch_modules(tracer: Tracer) -> None:
    original = torch.nn.Module.__dict__["__call__"]

    def _wrapped_call_impl(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if tracer.inside or tracer.dead:
            return original(self, *args, **kwargs)
        return tracer.call(original, self, args, kwargs)

    # Dynamo must pass over this frame and compile the one beneath, as it does with torch's own wrapper; and
    # where it recognises an unpatched module call, it must recognise this one.
    _passed_over_by_dynamo(_wrapped_call_impl.__code__)
    _patch(torch.nn.Module, "__call__", _wrapped_call_impl)
    for name in ("torch._dynamo.utils", "torch._dynamo.variables.nn_module"):
        module = sys.modules.get(name)
        if module is not None and "unpatched_nn_module_call" in module.__dict__:
            _patch(module, "unpatched_nn_module_call", _wrapped_call_impl)


def _passed_over_by_dynamo(code: CodeType) -> None:
    from torch._C._dynamo import eval_frame

    if hasattr(eval_frame, "set_code_exec_strategy"):
        action = eval_frame._FrameAction
        strategy = eval_frame._FrameExecStrategy(action.SKIP, action.DEFAULT)
        eval_frame.set_code_exec_strategy(code, strategy)
    else:  # before torch 2.6
        eval_frame.skip_code(code)


def _patch_backward(tracer: Tracer) -> None:
    for owner in (torch.Tensor, torch.autograd):
        original = owner.__dict__["backward"]

        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            if tracer.inside or tracer.dead:
                return _original(tensors, *args, **kwargs)
            return tracer.backward(_original, tensors, args, kwargs)

        _patch(owner, "backward", backward)


def _patch_scaler(tracer: Tracer) -> None:
    scaler = torch.amp.GradScaler
    scale, step = scaler.__dict__["scale"], scaler.__dict__["step"]

    @functools.wraps(scale)
    def scaled(self: Any, outputs: Any) -> Any:
        out = scale(self, outputs)
        if not tracer.dead:
            tracer.scaled(outputs, out, self)
        return out

    @functools.wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer.dead:
            return step(self, *args, **kwargs)
        return tracer.scaler_step(step, self, args, kwargs)

    _patch(scaler, "scale", scaled)
    _patch(scaler, "step", stepped)


def _patch_data(tracer: Tracer) -> None:
    from torch.utils.data import dataloader

    begin = dataloader.DataLoader.__dict__["__iter__"]
    following = dataloader._BaseDataLoaderIter.__dict__["__next__"]

    @functools.wraps(begin)
    def __iter__(self: Any) -> Any:  # noqa: N807
        if tracer.inside or tracer.dead or tracer.machine.in_data:
            return begin(self)
        tracer.machine.data_begin(tracer.now())
        try:
            iterator = begin(self)
        finally:
            tracer.machine.data_end(tracer.now())
        tracer.iterated(self, iterator)
        return iterator

    @functools.wraps(following)
    def __next__(self: Any) -> Any:  # noqa: N807
        return following(self) if tracer.dead else tracer.next_batch(following, self)

    _patch(dataloader.DataLoader, "__iter__", __iter__)
    _patch(dataloader._BaseDataLoaderIter, "__next__", __next__)
