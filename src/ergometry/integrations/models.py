"""The models that are called: whether they have parameters, how many, and on which device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch


class Models:
    """Knows every module that was called outermost, by identity: a module need not be hashable."""

    def __init__(self, found: Callable[[torch.device | None], None]) -> None:
        """Call ``found`` when a model that is trained is first met, with its device if that is an accelerator."""
        self._found = found
        self._known: dict[int, tuple[weakref.ref[torch.nn.Module], bool]] = {}
        self._counted: set[int] = set()
        self.parameters = 0
        """Parameters of the models trained, shared ones once."""
        self.device: torch.device | None = None
        """The first accelerator that a model was met on."""

    def has_parameters(self, module: torch.nn.Module, *, training: bool) -> bool:
        """Say whether a module has parameters; those of one that is trained are counted."""
        known = self._known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        parameters = list(module.parameters())
        if training or not parameters:
            self._known[id(module)] = (weakref.ref(module), bool(parameters))
        if training and parameters:
            self._count(parameters)
        return bool(parameters)

    def _count(self, parameters: list[Any]) -> None:
        for p in parameters:
            # An uninitialised (lazy) parameter has no size yet.
            if id(p) not in self._counted and not torch.nn.parameter.is_lazy(p):
                self._counted.add(id(p))
                self.parameters += p.numel()
        device = parameters[0].device
        if self.device is None and device.type not in ("cpu", "meta"):
            self.device = device
            self._found(device)
        else:
            self._found(None)

    def device_names(self) -> list[str]:
        """Return the name of the accelerator in use, else ``cpu``."""
        if self.device is None:
            return ["cpu"]
        with contextlib.suppress(Exception):
            return [str(torch.get_device_module(self.device).get_device_name(self.device))]
        return [str(self.device)]

    def peak_memory_bytes(self) -> tuple[float, float] | None:
        """Return (index of the accelerator, most bytes allocated on it so far); None where that is not known."""
        if self.device is None:
            return None
        allocated = getattr(torch.get_device_module(self.device), "max_memory_allocated", None)
        return None if allocated is None else (float(self.device.index or 0), float(allocated(self.device)))
