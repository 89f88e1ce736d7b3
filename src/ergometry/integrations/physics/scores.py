"""Class scores: which tensor of a model's output holds them, and whether the loss is a cross-entropy over them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_NODES = 1000
"""Nodes of the graph between outputs and loss that are looked at: a loss has tens."""

_SOFTMAX = ("LogSoftmaxBackward", "SoftmaxBackward")
_CODE = "NllLoss"
_MOVES = ("TransposeBackward", "PermuteBackward", "TBackward")


def logits_of(out: Any) -> Tensor | None:
    """Return the scores (..., classes) that an output holds: its ``logits``, else its first tensor of floats."""
    named = None
    with contextlib.suppress(Exception):  # an output's attributes may be computed, and may raise anything
        named = out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None)
    return named if isinstance(named, Tensor) else _first(out)


def _first(value: Any, depth: int = 3) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.dim() >= 2 and value.is_floating_point() else None
    if depth and isinstance(value, (list, tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            if (found := _first(inner, depth - 1)) is not None:
                return found
    return None


class Scores:
    """Finds out, from the first backward whose outputs were seen, whether these are class scores."""

    def __init__(self) -> None:
        self.known: bool | None = None
        """Whether they are, None while that is not known."""
        self.why = "no training step was seen whose loss and outputs could be told"
        self._logits: Tensor | None = None

    def output(self, out: Any) -> None:
        """Take an outermost module's output, until the next backward."""
        if self.known is None:
            self._logits = logits_of(out)

    def loss(self, tensors: Any) -> None:
        """Take what a backward is called on, before it runs."""
        logits, self._logits = self._logits, None
        if self.known is not None or logits is None:
            return
        loss = tensors[0] if isinstance(tensors, (list, tuple)) and tensors else tensors
        self.why = why_not_scores(loss, logits) if isinstance(loss, Tensor) else "the loss is not a tensor"
        self.known = not self.why

    def forget(self) -> None:
        """Let go of an output that came to no backward."""
        self._logits = None


def why_not_scores(loss: Tensor, logits: Tensor) -> str:
    """Say why outputs are no class scores, or an empty string where they are.

    They are where the loss takes the logarithm of their softmax over the last dimension, or their negative
    log-likelihood: read off the graph of the backward, from the loss to the outputs, which is not run and not changed.
    """
    if loss.grad_fn is None or logits.grad_fn is None:
        return "outputs without a gradient"
    if logits.shape[-1] < 2:
        return "one output for each prediction: no classes to tell apart"
    queue, seen = deque([loss.grad_fn]), {loss.grad_fn}
    soft: list[Any] = []
    codes: list[Any] = []
    moved = reached = False
    while queue and len(seen) < _NODES:
        node = queue.popleft()
        if node is logits.grad_fn:
            reached = True
            continue
        name = node.name()
        if name.startswith(_SOFTMAX):
            soft.append(node)
        elif name.startswith(_CODE):
            codes.append(node)
        moved = moved or name.startswith(_MOVES)
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                queue.append(after)
    if not reached:
        return "the loss does not come from the model's output as it was seen"
    if not (soft or codes):
        return "the loss is no cross-entropy: it takes no softmax of the outputs"
    if not all(_over_last(node, logits.shape[-1], moved=moved) for node in soft or codes):
        return "the classes are not the last dimension of the outputs"
    return ""


def _over_last(node: Any, classes: int, *, moved: bool) -> bool:
    """Say whether a softmax or a negative log-likelihood is over what was the outputs' last dimension."""
    kept = getattr(node, "_saved_result", None)
    if kept is None:
        kept = getattr(node, "_saved_self", None)
    if not isinstance(kept, Tensor):
        return False
    dim = getattr(node, "_saved_dim", 1) % kept.dim()
    return kept.shape[dim] == classes and (moved or dim == kept.dim() - 1)
