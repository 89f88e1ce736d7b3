"""Blocks: the parameters of a model, all of them or a few blocks, on which taps take sums over all.

Drawn as :mod:`ergometry.integrations.ledger` draws them, so that what they say of the whole is unbiased. Tensors are
held weakly: a tap keeps no model alive.
"""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ergometry.integrations.ledger import SHARE, Block, Plan

WHOLE_BYTES = 4 << 20
"""Up to here a model is followed whole: a copy of it that no model notices."""
KEPT_BYTES, KEPT_SHARE = WHOLE_BYTES // 2, SHARE / 2
"""What one of the two taps may keep from one look to the next that keep anything: together 4 MiB, or 2 % of a model."""

Part = Callable[[int, torch.Tensor, slice], torch.Tensor]
"""What is wanted of a tensor's elements: (number of the tensor, the tensor, which elements) -> (elements,)."""


def plain(optimizers: Sequence[Any]) -> list[torch.Tensor]:
    """Return the parameters that can be looked into: dense, real, in one piece, on the device that holds most.

    Those sharded over ranks are left out: a look at a part of one is a collective operation.
    """
    devices: dict[torch.device, dict[int, torch.Tensor]] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                whole = type(p) in (torch.Tensor, torch.nn.Parameter) and p.layout == torch.strided
                if whole and p.requires_grad and p.is_leaf and not p.is_complex() and p.numel():
                    devices.setdefault(p.device, {})[id(p)] = p
    largest = max(devices.values(), key=lambda found: sum(p.numel() for p in found.values()), default={})
    return list(largest.values())


def squares(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return (tensors,) |g|² of each whole tensor: a pass over the gradients, no copy of them; None without any."""
    found = [(i, p.grad.detach()) for i, p in enumerate(tensors) if p.grad is not None]
    if not found or any(g.layout != torch.strided for _, g in found):
        return None
    # In float32 at least: the squares of half-precision numbers overflow.
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for _, g in found]
    out = torch.zeros(len(tensors), dtype=torch.float32, device=norms[0].device)
    out[[i for i, _ in found]] = torch.stack([norm.float() for norm in norms]) ** 2
    return out


class Blocks:
    """Some tensors, whole (up to ``whole_bytes``, else :data:`WHOLE_BYTES`) or by blocks drawn from a plan.

    Attributes:
        parameters: elements of all the tensors.
        sampled: elements that are looked at.
        devices: where they are.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], plan: Plan, stream: random.Random, whole_bytes: int | None = None
    ) -> None:
        self._tensors = [weakref.ref(p) for p in tensors]
        self._sizes = [p.numel() for p in tensors]
        self.devices = {p.device for p in tensors}
        self.parameters = plan.parameters
        whole_bytes = WHOLE_BYTES if whole_bytes is None else whole_bytes
        self.whole = plan.parameters * max(p.element_size() for p in tensors) <= whole_bytes
        self.blocks: list[Block] = (
            [(i, 0, size) for i, size in enumerate(self._sizes)] if self.whole else plan.draw(stream)
        )
        self._weights = [] if self.whole else [1.0 / plan.probability(block) for block in self.blocks]
        self.sampled = sum(b - a for _, a, b in self.blocks)

    def alive(self) -> bool:
        """Say whether the tensors are still there, as large as they were and where they were."""
        tensors = [ref() for ref in self._tensors]
        return all(p is not None and p.numel() == n for p, n in zip(tensors, self._sizes, strict=True)) and (
            {p.device for p in tensors if p is not None} == self.devices
        )

    def tensors(self) -> dict[int, torch.Tensor]:
        """Return the tensors that the blocks lie in, by number."""
        found = {i: self._tensors[i]() for i, _, _ in self.blocks}
        return {i: p for i, p in found.items() if p is not None}

    def gather(self, part: Part) -> torch.Tensor:
        """Return (sampled,) of all blocks, one after the other."""
        tensors = self.tensors()
        return torch.cat([part(i, tensors[i], slice(a, b)) for i, a, b in self.blocks])

    def sums(self, products: torch.Tensor) -> torch.Tensor:
        """Return the sums over each block, (k, blocks), of (k, sampled); over all of it, (k, 1), of a whole model."""
        if self.whole:
            return products.sum(1, keepdim=True)
        lengths = [b - a for _, a, b in self.blocks]
        if len(set(lengths)) == 1:
            return products.reshape(len(products), len(lengths), -1).sum(2)
        return torch.stack([piece.sum(1) for piece in products.split(lengths, 1)], 1)

    def total(self, sums: Sequence[float]) -> tuple[float, float]:
        """Return (value, standard error) of the sum over all parameters, from the blocks' sums (Hansen & Hurwitz)."""
        if self.whole:
            return math.fsum(sums), 0.0
        draws = [x * w for x, w in zip(sums, self._weights, strict=True)]
        n = len(draws)
        mean = math.fsum(draws) / n
        return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in draws) / (n - 1) / n)


class Drawer:
    """Draws the blocks of a model, time after time."""

    def __init__(self, seed: int, share: float = SHARE, whole_bytes: int | None = None) -> None:
        """Draw ``share`` of the parameters at most, but of models up to ``whole_bytes`` (None: the usual) all."""
        self._share, self._whole_bytes = share, whole_bytes
        self.stream = random.Random(seed)  # of our own: the script's streams are not touched
        self._sizes: tuple[int, ...] = ()
        self.plan = Plan(())

    def draw(self, tensors: Sequence[torch.Tensor]) -> Blocks | None:
        """Return blocks of these tensors, None where there is nothing to follow."""
        sizes = tuple(p.numel() for p in tensors)
        if not sizes:
            return None
        if sizes != self._sizes:
            self._sizes, self.plan = sizes, Plan(sizes, self._share)
        return Blocks(tensors, self.plan, self.stream, self._whole_bytes)


def theta(_: int, p: torch.Tensor, at: slice) -> torch.Tensor:
    """Return elements of a parameter."""
    return p.detach().reshape(-1)[at]


def gradient(_: int, p: torch.Tensor, at: slice) -> torch.Tensor:
    """Return elements of a parameter's gradient, zeros where it has none."""
    if p.grad is None:
        return torch.zeros_like(p.detach().reshape(-1)[at])
    return p.grad.detach().reshape(-1)[at]


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return it in float64 (float32 where a device has no other), for sums of squares."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)
