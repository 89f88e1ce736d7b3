"""What each patched entry point of torch does: time it, tell the step machine, and count, read or copy what is due.

None of it draws a random number, synchronises a device or changes a tensor. A fault of ours ends the watching, never
the training.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from ergometry.core import series
from ergometry.integrations.counting.ambient import Pass
from ergometry.integrations.counting.counter import WorkCounter
from ergometry.integrations.device_time import DeviceTimer, timer_of
from ergometry.integrations.examples import Examples
from ergometry.integrations.inspect_call import Inference
from ergometry.integrations.loaders import Loaders
from ergometry.integrations.losses import LossReader
from ergometry.integrations.models import Models
from ergometry.integrations.optimizers import OptimizerWatch
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.conductor import Conductor
from ergometry.integrations.step_clock import StepClock
from ergometry.integrations.steps import OTHER, StepMachine
from ergometry.integrations.teller import Teller
from ergometry.meter.client import RecorderClient

_HOUSEKEEPING_S = 1.0

Original = Callable[..., Any]


class Tracer:
    """What is known of the training so far. ``inside`` and ``dead`` are read by every patch before anything else."""

    def __init__(
        self, client: RecorderClient, inference: Inference, *, only: set[int] | None = None, follows: bool = True
    ) -> None:
        """Follow the optimizers whose identities are in ``only`` (None: all); ``follows``: their gradient work too."""
        self.client, self.inference, self.only = client, inference, only
        self.inside = self.dead = self._trains_in_eval = False
        self._thread = threading.get_ident()
        self.machine, self.pending = StepMachine(self._emit), Pending()
        self.optimizers = OptimizerWatch(self._emit, self.pending, follows=follows)
        self.losses = LossReader(
            self.machine, self.pending, lambda step, loss: self._emit(series.LOSSES, step, self.now(), loss)
        )
        self.work = WorkCounter(self.machine, self.now)
        self.physics = Conductor((), meta=client.meta, notice=client.notice, level="off")
        self.loaders = Loaders(self)
        self._clock, self._origin_s = time.perf_counter, client.origin_s
        self.models = Models(self._model_found)
        self._timer: DeviceTimer | None = None
        self._examples = Examples(self.machine, inference)
        self.steps = StepClock()
        self.hooks, self.hook_s = 0, 0.0
        """Calls of ours, and the seconds spent in them, less what counts as the ledger's."""
        self._told_s = 0.0  # in the taps, of the hook under way
        self._optimizer_steps, self._housekept_s = 0, 0.0
        self.teller = Teller(self)

    def now(self) -> float:
        """Return seconds since the run's origin."""
        return self._clock() - self._origin_s

    def _emit(self, kind: series.Series, *values: float) -> None:
        self.client.write(kind, *values)

    def die(self) -> None:
        """Watch nothing from here on: at the end, or in a forked child, whose training is not this run's."""
        self.dead = True
        self._stop()

    def _stop(self) -> None:
        self.physics.stop()
        self.work.stop()

    def fault(self, error: Exception) -> None:
        """End the watching: a fault of ours is said, and the training goes on."""
        if not self.dead:
            self.dead, self.inside = True, False
            self._stop()
            frames = [*traceback.walk_tb(error.__traceback__)][-1:]
            where = "".join(f" ({frame.f_code.co_name}:{line})" for frame, line in frames)
            self.client.notice("torch.unsupported", f"{type(error).__name__}: {error}{where}")

    def own(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do something of ours, unless the watching has ended; return None where it fails."""
        try:
            return None if self.dead else what(*args, **kwargs)
        except Exception as error:
            self.fault(error)

    def elsewhere(self, *, trains: bool = False) -> bool:
        """Say whether this is not the thread that is followed; another one that trains becomes it between two steps.

        What other threads run meanwhile (an evaluation, a loader's prefetching) is no phase of its time.
        """
        thread = threading.get_ident()
        if trains and thread != self._thread and self.machine.between_steps:
            self._thread = thread
        return thread != self._thread

    def _tell(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Pass an event on to the ledger's taps that hear it: their time is in no phase of the script's."""
        if event in self.physics.heard:
            self._apart(getattr(self.physics, event), *args, **kwargs)

    def _apart(self, call: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Have the taps do something: their time is in no phase of the script's, nor are their calls."""
        began, inside, self.inside = self._clock(), self.inside, True
        self.machine.enter(OTHER, began - self._origin_s)
        try:
            with apart():
                call(*args, **kwargs)
        finally:
            ended = self._clock()
            self.machine.leave(ended - self._origin_s)
            self.inside = inside
            self._told_s += ended - began
            self.physics.clocked_s += ended - began

    def _spent(self, began: float, called: float, returned: float) -> None:
        self.hooks += 1
        self.hook_s += (called - began) + (self._clock() - returned) - self._told_s
        self._told_s = 0.0  # it is the ledger's

    # Outermost module calls

    def call(self, original: Original, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """Run an outermost module call, timed, and once per signature counted."""
        if torch.jit.is_tracing():
            return original(module, *args, **kwargs)  # sizes are being recorded: looking at them would be too
        if self.work.passing:
            return self._within(original, module, args, kwargs)
        began = self._clock()
        grad = torch.is_grad_enabled()
        has_parameters = self.own(self.models.has_parameters, module, training=grad)
        starts = grad and has_parameters and (module.training or self._trains_in_eval)
        # Without gradients and parameters it is a loss or a metric of an evaluation.
        if self.dead or not (grad or has_parameters) or self.elsewhere(trains=starts):
            return original(module, *args, **kwargs)
        try:
            evaluation = self.machine.forward_begin(
                training=grad and (starts or not has_parameters), starts_step=starts, now_s=began - self._origin_s
            )
            depth = self.machine.depth
            halted, running = self._call_begin(module, args, kwargs, (has_parameters, starts, evaluation))
        except Exception as error:
            self.fault(error)
            return original(module, *args, **kwargs)
        called = self._clock()
        out = self._guarded(running, depth, original, module, args, kwargs)
        returned = self._clock()
        try:
            if not self.dead:
                if has_parameters:  # before an evaluation's end settles what it is
                    self.work.call_end(running, returned - called, self.steps.step_s)
                if starts and self.physics.heard:
                    self._tell("forward_end", module, out)
                elif starts and running is None:
                    self.physics.ran(module, returned - called)
                self._called(module, args, kwargs, out, evaluation=evaluation, starts=starts)
                if has_parameters:
                    self.work.go_on(halted=halted, watches=grad and not evaluation)
                self.physics.go_on(self.work.ambient.running)
        except Exception as error:
            self.fault(error)
        self._spent(began, called, returned)
        return out

    def _call_begin(self, module: Any, args: Any, kwargs: Any, call: tuple[bool, bool, bool]) -> tuple[bool, Any]:
        """Return (whether a counted optimizer's step was halted, the pass to count) of a call that begins."""
        has_parameters, starts, evaluation = call
        halted, running = False, None
        self.physics.pause()
        if starts:
            self._training_forward(self.now())
        if has_parameters:  # one without is part of what the script computes (or, before a forward, prepares)
            halted = self.work.ambient.pause()
            step_s = self.steps.step_s
            running = self.work.call_begin(module, args, kwargs, evaluation=evaluation, starts=starts, step_s=step_s)
        if starts:
            self._tell("forward_begin", self.machine.index, self.steps.step_s, module, args, kwargs)
        if evaluation or running is not None:
            self.physics.drop()
        return halted, running

    def _within(self, original: Original, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module within a counted pass, whatever thread it is in."""
        if threading.get_ident() != self._thread:
            return original(module, *args, **kwargs)
        return self.work.inner(original, module, args, kwargs)

    def _guarded(
        self, running: Pass | None, depth: int, original: Original, subject: Any, args: Any, kwargs: Any
    ) -> Any:
        """Run the script's own call; whatever it raises passes through, and the phases are set right."""
        self.inside = running is None  # in a counted pass the modules within tell where they are
        try:
            if running is None:
                return self.physics.run(original, subject, args, kwargs)
            return self.work.run(running, original, subject, args, kwargs)
        except BaseException:
            self.own(self._unwind, depth - 1)  # a fault of ours must not take the place of the script's own
            raise
        finally:
            self.inside = False

    def _unwind(self, depth: int) -> None:
        self.machine.unwind(depth, self.now())
        # No backward will come of it, nor of what was called before it: the script begins anew.
        self._examples.unwound()
        self._tell("unwound")
        self._told_s = 0.0
        self.work.unwound()

    def _model_found(self, device: torch.device | None) -> None:
        if device is not None:
            self._timer = timer = timer_of(device, self._emit)
            self.machine.on_switch = lambda phase: timer.mark(phase, self.machine.index)
        self.client.meta(parameters=self.models.parameters, devices=self.models.device_names())

    def _training_forward(self, now_s: float) -> None:
        index, own_s = self.machine.index, self.physics.spent_s + self.optimizers.ledger_s + self.work.spent_s
        lasted_s = self.steps.begins(index, now_s, own_s)
        if self.physics.begins(index, self.steps.step_s, lasted_s):
            self._apart(self.physics.step_begin)
        self.machine.loader_pass = self.loaders.last_pass

    def _called(self, module: Any, args: Any, kwargs: Any, out: Any, *, evaluation: bool, starts: bool) -> None:
        now = self.now()
        if evaluation:
            counts = (1.0, self._examples.evaluated(module, args, kwargs))
            self.machine.forward_end(now, evaluation=True, counts=counts)
            return
        self.machine.forward_end(now, evaluation=False)
        if starts:
            self._examples.trained(module, args, kwargs, out)

    # Backward

    def backward(self, original: Original, tensors: Any, args: Any, kwargs: Any) -> Any:
        """Run a backward, timed; the scalar it is called on is the step's loss."""
        if self.work.passing or self.elsewhere(trains=True):
            return original(tensors, *args, **kwargs)
        began = self._clock()
        machine = self.machine
        try:
            self.physics.pause()
            self.work.end_tail()
            if self._examples.evaluation_trains():
                # The last forward was taken for an evaluation, since the module is in eval mode; it trains so.
                self._trains_in_eval = True
                machine.evaluation_trains()
                self.work.evaluation_trains()
            machine.backward_begin(began - self._origin_s)
            depth = machine.depth
            if machine.backwards == 0:
                machine.loader_pass = self.loaders.last_pass
            halted = self.work.ambient.pause()
            double = bool(kwargs.get("create_graph", args[2] if len(args) > 2 else False))
            self._tell("backward_begin", tensors)
            running = self.work.backward_begin(double=double)
        except Exception as error:
            self.fault(error)
            return original(tensors, *args, **kwargs)
        called = self._clock()
        out = self._guarded(running, depth, original, tensors, args, kwargs)
        returned = self._clock()
        try:
            if not self.dead:
                retained = double or bool(kwargs.get("retain_graph", args[1] if len(args) > 1 else False))
                self._tell("backward_end", tensors, retained=retained)
                self._backward_done(tensors)
                self.work.backward_end(running, returned - called, self.steps.step_s)
                if running is not None:
                    machine.restate()  # optimizers may have stepped within it
                if halted:
                    self.work.ambient.resume()
                self.physics.go_on(self.work.ambient.running)
        except Exception as error:
            self.fault(error)
        self._spent(began, called, returned)
        return out

    def _backward_done(self, tensors: Any) -> None:
        machine, now = self.machine, self.now()
        self._examples.backward_done()
        if machine.counting:
            self.losses.read(tensors)
        if machine.in_optimizer:
            self.optimizers.closure_backward()
        else:
            self.optimizers.backward_end(step=machine.index, step_s=self.steps.step_s, scale=self.losses.scale)
        machine.backward_end(now)

    # Optimizers

    def _followed(self, optimizer: Any) -> bool:
        if torch.compiler.is_compiling() or self.dead or self.elsewhere():
            return False
        return self.only is None or id(optimizer) in self.only

    def optimizer_begin(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Global hook before every optimizer's step."""
        if not self._followed(optimizer):
            return
        began = self._clock()
        try:
            self.physics.pause()
            closure = any(argument is not None for argument in args[1:]) or kwargs.get("closure") is not None
            # A step that no forward opened is opened by this optimizer's end: its number is the next one.
            self.optimizers.begin(optimizer, step=self.machine.index, step_s=self.steps.step_s, closure=closure)
            within = self.machine.in_optimizer
            now = self._clock()
            self.machine.optimizer_begin(now - self._origin_s, who=id(optimizer), closure=closure)
            if "optimizer_begin" in self.physics.heard:
                self._tell("optimizer_begin", optimizer, closure=closure)
            else:
                self.physics.steppers.add(optimizer)
            self.work.optimizer_begin(optimizer, closure=closure, within=within)
            self._spent(began, now, now)
        except Exception as error:
            self.fault(error)

    def optimizer_end(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Global hook after every optimizer's step."""
        if not self._followed(optimizer):
            return
        began = self._clock()
        try:
            self.physics.pause()
            self._optimizer_steps += 1
            found_inf = getattr(optimizer, "found_inf", None)
            # On a device, whether a fused step was skipped is not known without waiting for it.
            skipped = found_inf is not None and found_inf.device.type == "cpu" and bool(found_inf.item())
            self.work.optimizer_end(optimizer, self.steps.step_s)
            self.machine.optimizer_end(began - self._origin_s, who=id(optimizer), skipped=skipped)
            if not skipped:
                self.optimizers.end(optimizer, self.machine.index)
            self._tell("optimizer_end", optimizer, self.machine.index, skipped=skipped)
            self.pending.poll()
            self.physics.poll()
            if self._timer is not None:
                self._timer.poll()
            self._housekeep(began - self._origin_s)
            self._spent(began, began, began)
        except Exception as error:
            self.fault(error)

    def scaler_step(self, original: Original, scaler: Any, args: Any, kwargs: Any) -> Any:
        """Run ``GradScaler.step``: where no optimizer stepped, the step was skipped."""
        before = self._optimizer_steps
        out = original(scaler, *args, **kwargs)
        if not self.dead and not self.elsewhere() and scaler.is_enabled() and self._optimizer_steps == before:
            self.own(self._skipped)
        return out

    def _skipped(self) -> None:
        now = self.now()
        self.machine.optimizer_begin(now)
        self.machine.optimizer_end(now, skipped=True)
        self._tell("optimizer_end", None, self.machine.index, skipped=True)

    # Once a second, and at the end

    def _housekeep(self, now_s: float) -> None:
        if now_s - self._housekept_s > _HOUSEKEEPING_S:
            self._housekept_s = now_s
            self.teller.tell(now_s)

    def finish(self) -> None:
        """Emit what is left when the run ends."""
        if self.dead:
            return
        try:
            self.pending.drain()
            if self._timer is not None:
                self._timer.poll()
                self._timer.flush()
            self.work.end_tail()
            self.machine.finish(self.now())
            if self.physics.level != "off":
                self._apart(self.physics.finish)
            self.teller.finish()
        except Exception as error:
            self.fault(error)
        self.die()
