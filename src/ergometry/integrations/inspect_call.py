"""What can be inferred from an outermost call: how many examples and tokens, how many classes; and saying so."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch


class Inference:
    """What the user stated, and how the rest was inferred."""

    def __init__(self, examples: float | None = None, tokens: float | None = None, classes: int | None = None) -> None:
        self.examples, self.tokens = examples, tokens
        self.classes = classes
        self.label: str | None = None
        """What carries a label, as the first output told: a token or an example."""
        self.reasons: dict[str, str] = {}
        if classes is None:
            self.reasons["classes"] = "inferred: the last dimension of the first outermost call's output"


def batch_size(args: tuple[Any, ...], kwargs: dict[str, Any], stated: Inference) -> tuple[float, float]:
    """Return (examples, tokens) of a call: stated, else of its first tensor (NaN where it does not tell).

    Examples are the first dimension; tokens the first two of an integer tensor, such as token ids.
    """
    examples, tokens = stated.examples, stated.tokens
    if examples is not None and tokens is not None:
        return examples, tokens
    tensor = _first((*args, *kwargs.values()))
    if examples is None:
        examples = float(tensor.shape[0]) if tensor is not None and tensor.dim() else math.nan
        stated.reasons.setdefault("examples", "inferred: the first dimension of the outermost call's first tensor")
    if tokens is None:
        tokens = math.nan
        if tensor is not None and tensor.dim() == 2 and not tensor.is_floating_point() and not tensor.is_complex():
            tokens = float(tensor.shape[0] * tensor.shape[1])
            stated.reasons.setdefault("tokens", "inferred: the first two dimensions of an integer tensor")
    return examples, tokens


def labels_of(out: Any, examples: float, tokens: float) -> tuple[int | None, str | None]:
    """Return (classes, what carries a label: ``token`` or ``example``) as an output tells; None where it does not.

    Classes are the last dimension of an output of two or three (its ``logits``, where it names them); what comes
    before it is one prediction a token or one an example.
    """
    logits = None
    with contextlib.suppress(Exception):  # an output's attributes may be computed, and may raise anything
        logits = out.get("logits") if isinstance(out, dict) else getattr(out, "logits", None)
    tensor = logits if isinstance(logits, torch.Tensor) else _first((out,), floating=True, least=2)
    if tensor is None or tensor.dim() not in (2, 3):
        return None, None  # of an image of predictions the classes are not the last dimension
    classes = int(tensor.shape[-1])
    predictions = tensor.numel() // classes if classes else 0
    return classes, "token" if predictions == tokens else "example" if predictions == examples else None


def _first(values: Iterable[Any], depth: int = 3, *, floating: bool = False, least: int = 0) -> torch.Tensor | None:
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.dim() >= least and (value.is_floating_point() or not floating):
                return value
        elif depth and isinstance(value, (list, tuple, dict)):
            inner = value.values() if isinstance(value, dict) else value
            found = _first(inner, depth - 1, floating=floating, least=least)
            if found is not None:
                return found
    return None
