"""Displacement work by module: which module owns each parameter, and what the sampled steps did there."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ergometry.core.series import MODULE_WORK
from ergometry.integrations.physics.blocks import Blocks
from ergometry.integrations.physics.tap import Site

_TOLD_S = 5.0

Part = tuple[float, float, float, float, float]
"""Of a module in a step: −g·Δθ, the variance of its error, midpoint work, |g|², |Δθ|²."""


class ModuleWork:
    """Adds up each module's work over the sampled steps: rows of ``MODULE_WORK``, label ``physics_modules``.

    The label holds the paths of the modules that own parameters, from the outermost module, in the order of its
    ``named_parameters``; those of another outermost module have its class before them.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.names: list[str] = []
        self._learnt: list[weakref.ref[nn.Module]] = []
        self._owner: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._of: list[int] = []  # the module of each tensor that blocks are drawn from; -1: not known
        self._latest: tuple[int, dict[int, Part]] | None = None  # a step may be stated again
        self._sums: dict[int, list[float]] = {}
        self._steps = 0
        self._told_s = -math.inf

    def learn(self, module: nn.Module) -> None:
        """Take note of an outermost module."""
        if any(ref() is module for ref in self._learnt):
            return
        prefix = f"{type(module).__name__}." if self._learnt else ""
        self._learnt.append(weakref.ref(module))
        numbers = {name: i for i, name in enumerate(self.names)}
        for name, p in module.named_parameters():
            if self._number(p) < 0:
                path = (prefix + name.rpartition(".")[0]).rstrip(".")
                self._owner[id(p)] = weakref.ref(p), numbers.setdefault(path, len(numbers))
        if len(numbers) > len(self.names):
            self.names = list(numbers)
            self._site.meta(physics_modules=self.names)

    def _number(self, parameter: Any) -> int:
        known = self._owner.get(id(parameter))
        return known[1] if known is not None and known[0]() is parameter else -1

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Take note of the tensors that the next step's blocks are drawn from."""
        self._of = [self._number(p) for p in tensors]

    def add(self, step: int, blocks: Blocks, rows: Sequence[Sequence[float]], *, midpoint: bool) -> None:
        """Add a step, in the place of what was stated of it before.

        Args:
            step: its number.
            blocks: what was looked at.
            rows: sums over each block of |g|², |g⁺|², |Δθ|², −g·Δθ and −½(g+g⁺)·Δθ.
            midpoint: whether the last is known.
        """
        if self._latest is not None and self._latest[0] != step:
            self._fold()
        owners = [self._of[i] for i, _, _ in blocks.blocks]
        parts: dict[int, Part] = {}
        for number in set(owners) - {-1}:
            of_it = [[x if owner == number else 0.0 for x, owner in zip(row, owners, strict=True)] for row in rows]
            (g2, _), _, (d2, _), (work, error), (middle, _) = (blocks.total(row) for row in of_it)
            parts[number] = work, error**2, middle if midpoint else math.nan, g2, d2
        self._latest = step, parts

    def _fold(self) -> None:
        if self._latest is None:
            return
        for number, part in self._latest[1].items():
            sums = self._sums.setdefault(number, [0.0] * len(part))
            for i, x in enumerate(part):
                sums[i] += x
        self._steps += 1
        self._latest = None
        now = time.perf_counter()
        if now - self._told_s > _TOLD_S:
            self._told_s = now
            self._tell()

    def _tell(self) -> None:
        for number, (work, variance, midpoint, g2, d2) in sorted(self._sums.items()):
            row = (number, self._steps, work, math.sqrt(variance), midpoint, g2, d2)
            self._site.emit(MODULE_WORK, self._site.now(), *row)

    def finish(self) -> None:
        """Tell of every step."""
        if self._latest is not None:
            self._told_s = math.inf  # once, at the end
            self._fold()
        self._tell()
