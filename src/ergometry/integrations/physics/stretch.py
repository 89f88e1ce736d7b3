"""Stretch: a path of the parameters from where it began, as it is seen at looks; its cost and the least cost."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from itertools import groupby

import torch

from ergometry.integrations.physics.blocks import Blocks, theta, wide
from ergometry.integrations.schedules import Told

COPIES = 2
"""Of what is followed: θ_0, and θ at the last look."""
_MARKED = 2

Gap = tuple[torch.Tensor, list[float], int]
"""What lies between two looks, by cell: the squares of what θ moved by, Ση; and of how many steps it is."""


class Stretch:
    """A path: blocks of parameters, θ at its beginning and at the last look, and sums along it.

    Sums are kept by *cell*, which is a block, or of a model that is followed whole the parameters of one group: all of
    a cell moves at one learning rate.

    Attributes:
        since: the training step that it began in.
        over: whether it has ended.
    """

    def __init__(self, blocks: Blocks, group_of: dict[int, int], shape: tuple[int, ...], since: int, at: Told) -> None:
        """Begin where an optimizer's step is about to run, of which its schedule tells ``at``."""
        self.blocks, self.shape, self.since = blocks, shape, since
        self.over = False
        self.first = self.last = blocks.gather(theta)
        self.tensors = {i: weakref.ref(p) for i, p in blocks.tensors().items()}
        cells = [(group_of[id(p)], b - a) for i, a, b in blocks.blocks if (p := self.tensors[i]()) is not None]
        if blocks.whole:
            cells = [(g, sum(n for _, n in cell)) for g, cell in groupby(cells, lambda cell: cell[0])]
        self.groups, self.lengths = [g for g, _ in cells], [n for _, n in cells]
        self.group_of = {i: group_of[id(p)] for i, ref in self.tensors.items() if (p := ref()) is not None}
        refs = list(self.tensors.values())
        self._marked = refs[:: -(-len(refs) // _MARKED)]
        self._began = self._looked = at._replace(begun=at.begun - 1)
        self._marks = self.marks()
        self.gaps: list[Gap] = []
        """Ended, and not in the sums yet."""
        self._cost = self._coarse = [0.0] * len(cells)
        self._pace: list[float] = []

    @property
    def kept_bytes(self) -> int:
        """Bytes of the copies of a model that is followed whole."""
        return COPIES * self.first.numel() * self.first.element_size() if self.blocks.whole else 0

    def marks(self) -> list[tuple[int, int]]:
        """Return which state some parameters are in: torch's own count of changes in place, and where they lie."""
        tensors = [ref() for ref in self._marked]
        return [(-1, -1) if p is None else (p._version, p.data_ptr()) for p in tensors]

    def changed(self, at: Told, bumps: float, *, stays: bool) -> bool:
        """Say whether more has changed the parameters since the last look than the steps that began since.

        Args:
            at: what the schedule tells, the step that is about to run among those begun.
            bumps: the most that torch's count goes up by in a step; infinite where that is not known.
            stays: whether the parameters stay where they lie in a step.
        """
        between = at.begun - 1 - self._looked.begun
        most = bumps * between if between else 0
        for (then, lay), (now, lies) in zip(self._marks, self.marks(), strict=True):
            if not 0 <= now - then <= most or (lies != lay and (stays or not between)):
                return True
        return False

    def unread(self, at: Told) -> bool:
        """Say whether a learning rate could not be read since it began."""
        return at.unread > self._began.unread

    def since_look(self, at: Told) -> int:
        """Return how many steps have ended since the last look."""
        return at.steps - self._looked.steps

    def by_cell(self, rates: Sequence[float]) -> list[float]:
        """Return of each cell what its group has."""
        return [rates[g] for g in self.groups]

    def squares(self, now: torch.Tensor, then: torch.Tensor) -> torch.Tensor:
        """Return (cells,) the sums of squares of what θ has moved by, float64 (float32 where a device has no other)."""
        # In float32 at least: of two half-precision numbers the difference is rarely one. Squares of single precision
        # are not widened: that would be most of a look, for a seventh digit.
        kind = torch.promote_types(now.dtype, torch.float32)
        moved = now.to(kind) - then.to(kind)
        return wide(torch.stack([torch.dot(x, x) for x in moved.split(self.lengths)]))

    def end_gap(self, now: torch.Tensor, at: Told) -> None:
        """Take what was not looked at since the last look as one step, which ended in (sampled,) θ ``now``."""
        rates = [x - y for x, y in zip(at.sums, self._looked.sums, strict=True)]
        self.gaps.append((self.squares(now, self.last), self.by_cell(rates), self.since_look(at)))
        self.last, self._looked, self._marks = now, at._replace(begun=at.begun - 1), self.marks()

    def look(self, now: torch.Tensor, at: Told) -> tuple[torch.Tensor, list[Gap], list[float], int]:
        """Return of a step that ended in (sampled,) θ ``now`` the squares, and what goes with them.

        The squares are (2 + gaps, cells): of the step, of the whole path, of the gaps before it. With them go
        those gaps, Ση of the whole path by cell, and its steps.
        """
        gaps, self.gaps = self.gaps, []
        looks = [self.squares(now, then) for then in (self.last, self.first)]
        self.last, self._looked, self._marks = now, at, self.marks()
        rates = self.by_cell([x - y for x, y in zip(at.sums, self._began.sums, strict=True)])
        return torch.stack([*looks, *(moved for moved, _, _ in gaps)]), gaps, rates, at.steps - self._began.steps

    def add(
        self,
        fine: list[float],
        rates: list[float],
        gaps: Sequence[tuple[list[float], list[float], int]],
    ) -> list[float]:
        """Add a look's squares and rates by cell, and those of the gaps before it, each of so many steps.

        Return the cost of its step by cell.

        Raises:
            ValueError: parameters moved at η = 0.
        """
        step_cost = over(fine, rates)
        pace = [x / eta**2 if eta > 0 else math.nan for x, eta in zip(fine, rates, strict=True)]
        for moved, between, steps in gaps:
            coarse = over(moved, between)
            # Between two looks θ moves at the mean of their paces: |Δθ|²/η = η·(|Δθ|/η)², at its own η.
            means = [_mean(x, y) for x, y in zip(self._pace or pace, pace, strict=True)]
            paced = [x if math.isnan(y) else y * eta for x, y, eta in zip(coarse, means, between, strict=True)]
            self._coarse = _added(self._coarse, coarse)
            self._cost = _added(self._cost, coarse if steps == 1 else paced)
        self._coarse, self._cost, self._pace = _added(self._coarse, step_cost), _added(self._cost, step_cost), pace
        return step_cost

    def totals(self, step_cost: Sequence[float], least: Sequence[float]) -> tuple[float, ...]:
        """Return the columns of ``PATH`` from ``step_cost`` to ``optimality_stderr``, of a look by cell."""
        total = self.blocks.total
        cost, least_cost = total(self._cost), total(least)
        error = 0.0
        if cost[0] > 0:
            ratio = least_cost[0] / cost[0]
            error = total([x - ratio * y for x, y in zip(least, self._cost, strict=True)])[1] / cost[0]
        return (total(step_cost)[0], *cost, total(self._coarse)[0], *least_cost, error)


def over(moved: Sequence[float], rates: Sequence[float]) -> list[float]:
    """Return |Δθ|²/η of each cell, 0 of one that rested at η = 0.

    Raises:
        ValueError: one moved at η = 0.
    """
    if any(x > 0 and not eta > 0 for x, eta in zip(moved, rates, strict=True)):
        raise ValueError("the parameters moved at a learning rate of 0")
    return [x / eta if eta > 0 else 0.0 for x, eta in zip(moved, rates, strict=True)]


def _added(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(one, other, strict=True)]


def _mean(x: float, y: float) -> float:
    """Return the mean of two, of which one may not be known."""
    return y if math.isnan(x) else x if math.isnan(y) else 0.5 * (x + y)
