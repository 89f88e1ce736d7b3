"""Increments: what each backward adds to the gradient, on blocks, before it is accumulated or averaged over ranks."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.blocks import Blocks, wide


class Increments:
    """Reads the gradients that backwards bring, by hooks on the parameters, which come before DDP's reducer.

    The hooks return nothing, so that autograd passes on what it had: the training's bits are its own.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.why = ""
        """Why what was read is not the gradient, if so."""
        self.spent_s = 0.0
        """Seconds spent within the script's backward."""
        self._parts: dict[int, torch.Tensor] = {}
        of: dict[int, list[int]] = {}
        for slot, (i, _, _) in enumerate(blocks.blocks):
            of.setdefault(i, []).append(slot)
        tensors = blocks.tensors()
        self._handles = [tensors[i].register_hook(self._hook(slots)) for i, slots in of.items()]

    def _hook(self, slots: list[int]) -> Any:
        def take(gradient: torch.Tensor) -> None:
            began = time.perf_counter()
            try:
                # What is read here is no operator of the script's to count.
                with torch.no_grad(), apart():
                    self._take(gradient.detach(), slots)
            except Exception as error:  # it must not reach the script's backward
                self.why = f"{type(error).__name__}: {error}"
            self.spent_s += time.perf_counter() - began

        return take

    def _take(self, gradient: torch.Tensor, slots: list[int]) -> None:
        if gradient.layout != torch.strided:
            self.why = "a gradient is sparse"
            return
        flat = gradient.reshape(-1)
        for slot in slots:
            _, a, b = self._blocks.blocks[slot]
            # A part that is recomputed under checkpointing may bring a gradient in several goes.
            seen = self._parts.get(slot)
            self._parts[slot] = flat[a:b].clone() if seen is None else seen + flat[a:b]

    def take(self) -> torch.Tensor:
        """Return (sampled,) of the backward that has ended, zeros where it brought nothing; and begin anew."""
        parts, self._parts = self._parts, {}

        def part(slot: int, like: torch.Tensor) -> torch.Tensor:
            return parts[slot] if slot in parts else torch.zeros_like(like)

        tensors = self._blocks.tensors()
        found = enumerate(self._blocks.blocks)
        return torch.cat([part(slot, tensors[i].detach().reshape(-1)[a:b]) for slot, (i, a, b) in found])

    def forget(self) -> None:
        """Drop what a backward brought that raised."""
        self._parts.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._parts.clear()


class Batches:
    """The gradients of a step's micro-batches, as sums over them.

    A backward that no new examples preceded (another term of the loss) belongs to the micro-batch before it.

    Attributes:
        sizes: examples of each micro-batch, NaN where not known.
        total: (sampled,) sum of the increments, the gradient of the step's own loss.
    """

    def __init__(self, blocks: Blocks, weights: torch.Tensor | None) -> None:
        self._blocks, self._weights = blocks, weights
        self.sizes: list[float] = []
        self.total: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None

    def add(self, increment: torch.Tensor, examples: float) -> None:
        """Add what one backward brought, of so many new examples."""
        self.total = increment if self.total is None else self.total + increment
        if examples == 0 and self._last is not None:
            self._last = self._last + increment
            return
        self._fold()
        self._last = increment
        self.sizes.append(examples)

    def _fold(self) -> None:
        if self._last is not None:
            squares = weighed_squares(self._blocks, self._last, self._weights)
            self._squares = squares if self._squares is None else self._squares + squares

    def mean_squares(self) -> torch.Tensor:
        """Return the mean over micro-batches of |d_i·A|², (1 or 2, blocks): each as the gradient of the whole loss.

        A·d_i estimates Σ d_i from one of the A micro-batches, whether or not the script divides its loss by A.
        """
        self._fold()
        self._last = None
        assert self._squares is not None
        return self._squares * len(self.sizes)

    @property
    def equal(self) -> bool:
        """Say whether there are several micro-batches, all of one known size."""
        return len(self.sizes) > 1 and len(set(self.sizes)) == 1 and math.isfinite(self.sizes[0])


def weighed_squares(blocks: Blocks, gradient: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the blocks' sums of g², and of weights·g² where there are weights: (1 or 2, blocks)."""
    g = wide(gradient)
    square = g * g
    return blocks.sums(torch.stack((square,) if weights is None else (square, square * wide(weights))))
