"""Examples: how many a step trains on, from the arguments of its outermost forwards."""

from __future__ import annotations

import math
from typing import Any

import torch

from ergometry.integrations.inspect_call import Inference, batch_size, labels_of
from ergometry.integrations.steps import StepMachine


class Examples:
    """Counts the examples and tokens of the calls since the last backward, and adds them to the step's."""

    def __init__(self, machine: StepMachine, inference: Inference) -> None:
        self._machine, self._inference = machine, inference
        self._trained: dict[int, list[float]] = {}  # (examples, tokens) by module
        self._evaluated: dict[int, list[float]] = {}  # of an evaluation that recorded gradients

    def evaluated(self, module: torch.nn.Module, args: Any, kwargs: Any) -> float:
        """Return the examples of an evaluation's call, 0 where they are not known."""
        examples, tokens = batch_size(args, kwargs, self._inference)
        self._evaluated = {id(module): [examples, tokens]} if torch.is_grad_enabled() else {}
        return 0.0 if math.isnan(examples) else examples

    def trained(self, module: torch.nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        """Count those of a training forward; see how large what it predicts is, once."""
        examples, tokens = batch_size(args, kwargs, self._inference)
        self._evaluated = {}
        if self._machine.counting:
            seen = self._trained.setdefault(id(module), [0.0, 0.0])
            seen[0] += examples
            seen[1] += tokens
        if self._machine.index == 0 and self._inference.label is None:
            classes, self._inference.label = labels_of(out, examples, tokens)
            self._inference.classes = self._inference.classes or classes

    def evaluation_trains(self) -> bool:
        """Say whether an evaluation recorded gradients, whose backward comes: it is then counted as training."""
        found = bool(self._evaluated)
        if found:
            self._trained, self._evaluated = self._evaluated, {}
        return found

    def backward_done(self) -> None:
        """Add what was counted to the step's, and begin anew."""
        if self._trained and self._machine.counting:
            # Modules called one on another's output see the same examples; one called twice sees more.
            sizes = self._trained.values()
            self._machine.add_examples(max(size[0] for size in sizes), max(size[1] for size in sizes))
        self._trained.clear()

    def unwound(self) -> None:
        """Forget what was counted: no backward will come of it."""
        self._trained.clear()
