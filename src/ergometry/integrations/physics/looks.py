"""A look at the gradient noise: what the tap holds while one is under way."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ergometry.integrations.physics.blocks import Blocks
from ergometry.integrations.physics.increments import Batches, Increments, weighed_squares
from ergometry.integrations.physics.layers import Layers

MICRO_BATCHES, RANKS, HALVES, CONSECUTIVE, NORM_LAYERS = 1, 2, 3, 4, 5
"""The column ``how``."""


@dataclass
class Window:
    """A look at the noise: one step, or three where consecutive ones are compared.

    Attributes:
        blocks: what is looked at.
        weights: (sampled,) 1/(√v + ε) before the first of its steps, None without such an optimizer.
        first: (sampled,) gradient of the first of consecutive steps.
        step: its number.
        examples: its batch.
        sums: (2 or 4, blocks) of both as :meth:`pair` has them, once there are two.
    """

    blocks: Blocks
    weights: torch.Tensor | None = None
    first: torch.Tensor | None = None
    step: int = -1
    examples: float = math.nan
    sums: torch.Tensor | None = None

    def pair(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return (2 or 4, blocks) of two gradients of one batch size: their mean |g|², and that of their mean."""
        each = [weighed_squares(self.blocks, g, self.weights) for g in (one, other)]
        middle = weighed_squares(self.blocks, 0.5 * (one + other), self.weights)
        return torch.cat((0.5 * (each[0] + each[1]), middle))

    def gradient(self, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return (sampled,) of the gradient of a loss, which is evaluated here."""
        tensors = self.blocks.tensors()
        with torch.enable_grad():
            found = torch.autograd.grad(loss(), list(tensors.values()), allow_unused=True)
        by_number = dict(zip(tensors, found, strict=True))

        def part(i: int, p: torch.Tensor, at: slice) -> torch.Tensor:
            g = by_number[i]
            return torch.zeros_like(p).reshape(-1)[at] if g is None else g.reshape(-1)[at]

        return self.blocks.gather(part)


@dataclass
class Step:
    """A step of a window that is under way: what its backwards have brought."""

    increments: Increments
    batches: Batches
    model: Any = None
    seen: float = 0.0
    """Examples counted before the backward that was read last."""
    unread: torch.Tensor | None = None
    """(sampled,) of a backward whose examples are not counted yet."""
    scale: Any = None
    """What the gradient under way is to be divided by."""
    before: torch.Tensor | None = None
    """(sampled,) the averaged gradient as it stood before the backward."""
    layers: Layers | None = None
    inputs: list[weakref.ref[Any]] = field(default_factory=list)


def unscaled(x: torch.Tensor, scale: Any, power: int = 1) -> torch.Tensor:
    """Return a gradient (or its square) less what a gradient scaler has multiplied the loss by."""
    if scale is None:
        return x
    x = x if x.element_size() > 2 else x.float()
    return x / scale.to(x.device, x.dtype) ** power


def ranks_of(model: Any) -> int:
    """Return over how many ranks a model's gradients are averaged by DDP."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return int(torch.distributed.get_world_size(model.process_group))
    return 1
