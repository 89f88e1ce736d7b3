"""Displacement: Δθ of a step and the gradients on both sides of it, exactly or on blocks of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ergometry.integrations.physics.blocks import Blocks, theta, wide
from ergometry.integrations.physics.increments import Increments

SUMS = 5
"""Sums over each block: |g|², |g⁺|², |Δθ|², −g·Δθ and −½(g+g⁺)·Δθ."""


class Displacement:
    """Follows the parameters of some blocks over one step, from before its first backward.

    Attributes:
        blocks: what is followed.
        gradient: (sampled,) float64, what the step's backwards have brought, unscaled; None before the first.
        why: why what they brought is not the gradient, or an empty string.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.gradient: Tensor | None = None
        self._before = blocks.gather(theta)
        self._increments = Increments(blocks)

    @property
    def why(self) -> str:
        """Say why what the backwards brought is not the gradient."""
        return self._increments.why

    @property
    def spent_s(self) -> float:
        """Return the seconds spent within the script's backwards."""
        return self._increments.spent_s

    def brought(self, scale: Any) -> Tensor:
        """Return (sampled,) what the backward that has ended brought, divided by ``scale`` (None: one)."""
        increment = wide(self._increments.take())
        if isinstance(scale, Tensor):
            increment = increment / scale.to(increment.device, increment.dtype)
        self.gradient = increment if self.gradient is None else self.gradient + increment
        return increment

    def sums(self, after: Tensor | None) -> Tensor:
        """Return (:data:`SUMS`, blocks), float64, with (sampled,) g⁺ ``after`` the step (None: zeros in its place)."""
        g, d = self.gradient, wide(self.blocks.gather(theta)).sub_(self._before)
        assert g is not None
        lengths = [b - a for _, a, b in self.blocks.blocks]

        def dots(x: Tensor, y: Tensor) -> Tensor:
            return torch.stack([torch.dot(a, b) for a, b in zip(x.split(lengths), y.split(lengths), strict=True)])

        gd, h = dots(g, d), g if after is None else after
        hd = torch.zeros_like(gd) if after is None else dots(h, d)
        hh = torch.zeros_like(gd) if after is None else dots(h, h)
        return torch.stack((dots(g, g), hh, dots(d, d), -gd, -0.5 * (gd + hd)))

    def release(self) -> None:
        """Take no more gradients."""
        self._increments.remove()


def differentiated(tapes: Sequence[Any], blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return the sum of the tapes' losses, 0-dim, and (sampled,) its gradient, float64, at the parameters as they are.

    Raises:
        Unreplayable: a tape cannot be run again; the message says why.
    """
    followed = blocks.tensors()
    losses: list[Tensor] = []
    gradients: list[Tensor] = []
    for tape in tapes:
        # Detached: hooks that the script has put on its parameters are not run.
        inputs = {p: p.detach() for p in tape.parameters}
        found = {i: inputs[p].requires_grad_() for i, p in followed.items() if p in inputs}
        with torch.enable_grad():
            loss = tape.loss(inputs)
        wanted = list(found.values()) if loss.requires_grad else []
        grads = dict(zip(found, torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else (), strict=False))

        def part(i: int, p: Tensor, at: slice, grads: dict[int, Tensor | None] = grads) -> Tensor:
            g = grads.get(i)
            return torch.zeros_like(p.detach().reshape(-1)[at]) if g is None else g.reshape(-1)[at]

        losses.append(wide(loss.detach()))
        gradients.append(wide(blocks.gather(part)))
    return torch.stack(losses).sum(), torch.stack(gradients).sum(0)


def midpoint_work(blocks: Blocks, rows: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Return −½(g+g⁺)·Δθ and ½(|g|+|g⁺|)|Δθ|, each with its standard error, from :data:`SUMS` rows of block sums.

    Exact sums have no error. The path's follows from its three factors' by the delta method, over the draws of blocks.
    """
    (g2, _), (h2, _), (d2, _), _, (work, error) = (blocks.total(row) for row in rows)
    g, h, d = (math.sqrt(max(x, 0.0)) for x in (g2, h2, d2))
    slopes = [d / (4 * g) if g else 0.0, d / (4 * h) if h else 0.0, (g + h) / (4 * d) if d else 0.0]
    linear = [sum(slope * x for slope, x in zip(slopes, column, strict=True)) for column in zip(*rows[:3], strict=True)]
    return work, error, 0.5 * (g + h) * d, blocks.total(linear)[1]
