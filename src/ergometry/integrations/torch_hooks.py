"""Patches a few entry points of torch, so that a tracer sees a training script; and takes them off again.

Patched, and restored by ``remove``: ``nn.Module.__call__`` (outermost calls only), ``Tensor.backward`` and
``autograd.backward``, ``GradScaler.scale`` and ``step``, the DataLoader's ``__iter__`` and its iterators'
``__next__``, and torch's global hooks around every optimizer's step.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from ergometry.integrations.inspect_call import Inference
from ergometry.integrations.physics.taps import conduct
from ergometry.integrations.tracer import Tracer
from ergometry.meter.client import RecorderClient

_patches: list[tuple[Any, str, Any]] = []
_handles: list[Any] = []
_active: Tracer | None = None


def _patch(owner: Any, name: str, replacement: Any) -> None:
    _patches.append((owner, name, owner.__dict__[name]))
    setattr(owner, name, replacement)


def instrument(torch_module: ModuleType, client: RecorderClient, **options: Any) -> Tracer | None:
    """Watch torch from here on; return what watches, or None where torch could not be patched.

    Options: ``examples``, ``tokens``, ``classes`` (stated by the user), ``only`` (identities of the optimizers to
    follow), ``models`` (whose parameters count from the start), and of the thermodynamic ledger ``physics`` (``off``,
    ``light``, ``full``), ``physics_every`` (steps from one sample to the next), ``loss`` (of a model and a batch) and
    ``probe`` (a batch).
    """
    global _active
    only, models = options.pop("only", None), options.pop("models", ())
    level, every = options.pop("physics", None) or "light", options.pop("physics_every", None)
    loss, probe = options.pop("loss", None), options.pop("probe", None)
    tracer = Tracer(client, Inference(**options), only=only, follows=level != "off")
    client.meta(torch=torch_module.__version__)
    try:
        for model in models:
            tracer.models.has_parameters(model, training=True)
        if level != "off":
            tracer.physics = conduct(tracer, level=level, every=every, loss=loss, probe=probe)
        install(tracer)
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
    for module in _recognisers():
        if module.unpatched_nn_module_call.__module__ == __name__:  # imported while torch was patched
            module.unpatched_nn_module_call = torch.nn.Module.__call__


def install(tracer: Tracer) -> None:
    """Patch torch to tell this tracer; ``remove`` takes it off again, and it can be put on once more."""
    _patch_modules(tracer)
    _patch_backward(tracer)
    _patch_scaler(tracer)
    _patch_data(tracer)
    _pass_over_in_dynamo()
    tracer.work.signatures.install()
    _handles.append(tracer.work.signatures)
    _handles.append(torch_optimizer.register_optimizer_step_pre_hook(tracer.optimizer_begin))
    _handles.append(torch_optimizer.register_optimizer_step_post_hook(tracer.optimizer_end))


def _patch_modules(tracer: Tracer) -> None:
    original = torch.nn.Module.__dict__["__call__"]

    def _wrapped_call_impl(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if tracer.inside or tracer.dead:
            return original(self, *args, **kwargs)
        return tracer.call(original, self, args, kwargs)

    _patch(torch.nn.Module, "__call__", _wrapped_call_impl)
    for module in _recognisers():
        _patch(module, "unpatched_nn_module_call", _wrapped_call_impl)


def _recognisers() -> list[Any]:
    """Return the modules of Dynamo, if it is there, that know an unpatched module call by its function."""
    modules = [sys.modules.get(name) for name in ("torch._dynamo.utils", "torch._dynamo.variables.nn_module")]
    return [module for module in modules if module is not None and "unpatched_nn_module_call" in vars(module)]


def _pass_over_in_dynamo() -> None:
    """Have Dynamo pass over our frames and compile those beneath, as it does with torch's own.

    It meets them between the parts of a training function that it compiles in parts.
    """
    from torch._C._dynamo import eval_frame

    for code in {code for name in sys.modules if name.startswith("ergometry.") for code in _codes(sys.modules[name])}:
        if hasattr(eval_frame, "set_code_exec_strategy"):
            action = eval_frame._FrameAction
            eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(action.SKIP, action.DEFAULT))
        else:  # before torch 2.6
            eval_frame.skip_code(code)  # type: ignore[attr-defined]


def _codes(owner: Any) -> Iterator[CodeType]:
    """Yield the code of the functions that a module or a class defines, and of those within them."""
    name = getattr(owner, "__module__", owner.__name__)
    for value in vars(owner).values():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            pending = [function.__code__]
            while pending:
                code = pending.pop()
                yield code
                pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        elif isinstance(value, type) and value.__module__ == name:
            yield from _codes(value)


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
        tracer.own(tracer.losses.scaled, outputs, out, self)
        tracer.own(tracer.physics.scaled, outputs, out, self)
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
        return begin(self) if tracer.dead else tracer.loaders.iterate(begin, self)

    @functools.wraps(following)
    def __next__(self: Any) -> Any:  # noqa: N807
        return following(self) if tracer.dead else tracer.loaders.next_batch(following, self)

    _patch(dataloader.DataLoader, "__iter__", __iter__)
    _patch(dataloader._BaseDataLoaderIter, "__next__", __next__)
