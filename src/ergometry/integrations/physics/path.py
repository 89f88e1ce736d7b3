"""The tap of path cost (4.2(ii)): what an optimizer's path has cost, and the least of any path between the same ends.

Of each parameter, by Cauchy–Schwarz, (Σ_k Δθ_k)²/Σ_k η_k ≤ Σ_k Δθ_k²/η_k. The left side asks for θ_0 and the sum of the
learning rates, which is kept at every step; the right side asks for every step. Where the share of the step time does
not pay for all, steps are looked at on both sides, and what lies between two looks is taken as one step. The same
inequality over the steps of each such gap puts the cost of this coarser path between the two: least ≤ coarse ≤ cost. So
least/coarse bounds the optimality from above, whatever happened between the looks; and the cost itself is estimated
from the steps looked at.

The blocks, and θ_0 on them, stay the same along a path. A path ends where parameters move without their optimizer (a
checkpoint, a clamp) or change their group, and another begins.
"""

from __future__ import annotations

import math
import random
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from ergometry.core.series import PATH
from ergometry.integrations.ledger import SHARE, Plan
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.blocks import WHOLE_BYTES, Blocks, plain, squares, theta, wide
from ergometry.integrations.physics.tap import Cadence, Site, Tap

_SHARE, _FULL_SHARE = 0.003, 0.02
_COPIES = 2  # θ_0 and θ at the last look
_MARKED = 2
_OUTSIDE = "the parameters changed outside of the optimizer's step"
_AT_REST = "the parameters moved at a learning rate of 0"


class Stretch:
    """A path from where it began: blocks of parameters, θ at its beginning and at the last look, and sums along it.

    Sums are kept by *cell*, which is a block, or of a model that is followed whole the parameters of one group: all of
    a cell moves at one learning rate.
    """

    def __init__(self, blocks: Blocks, group_of: dict[int, int], shape: tuple[int, ...], since: int) -> None:
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
        self._marks: list[tuple[int, int]] = []
        self.mark()
        self.steps = self.gap_steps = 0
        self.rates, self.gap = [0.0] * len(shape), [0.0] * len(shape)
        self.gaps: list[tuple[torch.Tensor, list[float], int]] = []  # ended, and not in the sums yet
        zero = [0.0] * len(cells)
        self.cost, self.coarse = zero, zero
        self._pace: list[float] = []

    @property
    def kept_bytes(self) -> int:
        """Bytes of the copies of a model that is followed whole."""
        return _COPIES * self.first.numel() * self.first.element_size() if self.blocks.whole else 0

    def mark(self) -> None:
        """Remember which state the parameters are in, by torch's own count of changes in place."""
        self._marks = self._now()

    def changed(self) -> bool:
        """Say whether the parameters were changed since the mark, or replaced."""
        return self._now() != self._marks

    def _now(self) -> list[tuple[int, int]]:
        tensors = [ref() for ref in self._marked]
        return [(-1, -1) if p is None else (p._version, p.data_ptr()) for p in tensors]

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

    def end_gap(self, now: torch.Tensor) -> None:
        """Take what was not looked at since the last look as one step, which ended in (sampled,) θ ``now``."""
        if self.gap_steps:
            self.gaps.append((self.squares(now, self.last), self.by_cell(self.gap), self.gap_steps))
            self.last, self.gap_steps, self.gap = now, 0, [0.0] * len(self.gap)

    def stepped(self, rates: Sequence[float]) -> None:
        """Take note of a step at the groups' learning rates."""
        self.steps += 1
        self.rates = [x + eta for x, eta in zip(self.rates, rates, strict=True)]

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
        step_cost = _over(fine, rates)
        pace = [x / eta**2 if eta > 0 else math.nan for x, eta in zip(fine, rates, strict=True)]
        for moved, between, steps in gaps:
            coarse = _over(moved, between)
            # Between two looks θ moves at the mean of their paces: |Δθ|²/η = η·(|Δθ|/η)², at its own η.
            means = [_mean(x, y) for x, y in zip(self._pace or pace, pace, strict=True)]
            paced = [x if math.isnan(y) else y * eta for x, y, eta in zip(coarse, means, between, strict=True)]
            self.coarse = _added(self.coarse, coarse)
            self.cost = _added(self.cost, coarse if steps == 1 else paced)
        self.coarse, self.cost, self._pace = _added(self.coarse, step_cost), _added(self.cost, step_cost), pace
        return step_cost


def _over(moved: Sequence[float], rates: Sequence[float]) -> list[float]:
    """Return |Δθ|²/η of each cell, 0 of one that rested at η = 0.

    Raises:
        ValueError: one moved at η = 0.
    """
    if any(x > 0 and not eta > 0 for x, eta in zip(moved, rates, strict=True)):
        raise ValueError(_AT_REST)
    return [x / eta if eta > 0 else 0.0 for x, eta in zip(moved, rates, strict=True)]


def _added(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(one, other, strict=True)]


def _mean(x: float, y: float) -> float:
    """Return the mean of two, of which one may not be known."""
    return y if math.isnan(x) else x if math.isnan(y) else 0.5 * (x + y)


class _Followed:
    """One optimizer: which it is, the path it is on, and how far it has been looked at."""

    def __init__(self, who: int, number: int) -> None:
        self.who, self.number = who, number
        self.stretch: Stretch | None = None
        self.round = 0
        self.plan = Plan(())
        self.sizes: tuple[int, ...] = ()
        self.asked = self.weighed = False
        self.looking = False
        self.rates: list[float] = []

    def weigh(self, energies: list[float]) -> None:
        """Have blocks drawn where the gradient is, too."""
        self.plan.weigh(energies)
        self.weighed = True


class Path(Tap):
    """Writes rows of ``PATH``, of every optimizer that is stepped for itself (not within another's step)."""

    name = "path"

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cadence: Cadence = Cadence(_FULL_SHARE if site.full else _SHARE, site.every)
        self._stream = random.Random(0x0402)  # of our own: the script's streams are not touched
        self._optimizers: weakref.WeakKeyDictionary[Any, _Followed] = weakref.WeakKeyDictionary()
        self._numbered = 0
        # Looks are owed by rounds: an optimizer that is not stepped when one is due gives its look at its next step.
        self._round = 0
        self._under: _Followed | None = None
        self._cost_s = 0.0
        self._rows = 0
        self.lost: Counter[str] = Counter()
        """Why there is no path, or why one ended, and how often."""

    def step_begin(self, step: int, step_s: float) -> None:
        """Settle whether the optimizers are to be looked at."""
        self._under = None
        if self.cadence.due(step_s):
            self._round += 1

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """See that the path goes on; look at θ before the step where that is due."""
        if self._under is not None and self._under.who != id(optimizer):
            return  # one that steps within another: its path is the outer one's
        followed = self._optimizers.get(optimizer)
        if followed is None:
            followed = self._optimizers[optimizer] = _Followed(id(optimizer), self._numbered)
            self._numbered += 1
        self._under = followed
        followed.looking = False
        rates = _rates(optimizer)
        if rates is None:
            self._end(followed, "a learning rate cannot be read on the host")
            return
        followed.rates = rates
        stretch = followed.stretch
        if stretch is not None:
            if stretch.changed():
                self._end(followed, _OUTSIDE)
            elif stretch.shape != _shape(optimizer):
                self._end(followed, "the parameter groups changed")
        due = followed.round != self._round
        if due or (followed.stretch is not None and not followed.stretch.gap_steps):
            began = time.perf_counter()
            with torch.no_grad(), apart():
                self._before(optimizer, followed, due=due, closure=closure)
            self._cost_s += time.perf_counter() - began

    def _before(self, optimizer: Any, followed: _Followed, *, due: bool, closure: bool) -> None:
        if followed.stretch is not None:
            self._go_on(optimizer, followed, due=due)
        if due and followed.stretch is None:
            followed.stretch = self._start(optimizer, followed, closure=closure)
        if due and followed.stretch is not None:
            followed.looking, followed.round = True, self._round

    def _go_on(self, optimizer: Any, followed: _Followed, *, due: bool) -> None:
        stretch = followed.stretch
        assert stretch is not None
        if not stretch.blocks.alive() or (due and not _same_groups(optimizer, stretch)):
            self._end(followed, "the parameter groups changed")
            return
        now = stretch.blocks.gather(theta)
        if stretch.gap_steps:
            stretch.end_gap(now)
            return

        # Nothing has stepped since the last look. This sees what leaves no mark, such as p.data.clamp_().
        def read(changed: bool) -> None:
            if changed and not stretch.over:
                self._end(followed, _OUTSIDE)

        self._site.pending.read((now != stretch.last).any(), read)

    def _start(self, optimizer: Any, followed: _Followed, *, closure: bool) -> Stretch | None:
        """Return a path that begins here, None where that must wait or cannot be."""
        tensors = plain([optimizer])
        sizes = tuple(p.numel() for p in tensors)
        if not sizes:
            self.lost["no parameters that can be looked into (dense, real, not sharded over ranks)"] += 1
            return None
        if sizes != followed.sizes:
            followed.sizes, followed.plan = sizes, Plan(sizes, SHARE / _COPIES)
            followed.asked = followed.weighed = False
        kept = sum(f.stretch.kept_bytes for f in self._optimizers.values() if f.stretch is not None)
        room = (WHOLE_BYTES - kept) // _COPIES
        if sum(sizes) * max(p.element_size() for p in tensors) > room and not closure:
            if not followed.asked:
                followed.asked, energies = True, squares(tensors)
                if energies is None:
                    followed.weighed = True
                else:
                    self._site.pending.read(energies, followed.weigh)
            if not followed.weighed:
                return None  # a device has not told yet where the gradient is: the path begins a step later
        blocks = Blocks(tensors, followed.plan, self._stream, room)
        return Stretch(blocks, _group_of(optimizer), _shape(optimizer), self._site.machine.index)

    def optimizer_end(self, optimizer: Any, step: int) -> None:
        """Add the step to the path; look at θ after it where that is due."""
        followed = self._under
        if followed is None or followed.who != id(optimizer):
            return
        self._under, stretch = None, followed.stretch
        if stretch is None:
            return
        stretch.stepped(followed.rates)
        if followed.looking:
            began = time.perf_counter()
            with torch.no_grad(), apart():
                self._after(followed, stretch, step, began)
            followed.looking = False
        else:
            stretch.gap_steps += 1
            stretch.gap = _added(stretch.gap, followed.rates)
        stretch.mark()

    def _after(self, followed: _Followed, stretch: Stretch, step: int, began: float) -> None:
        now = stretch.blocks.gather(theta)
        looks = [stretch.squares(now, then) for then in (stretch.last, stretch.first)]
        gaps, stretch.gaps, stretch.last = stretch.gaps, [], now
        sums = torch.stack([*looks, *(moved for moved, _, _ in gaps)])
        rates, whole, steps = stretch.by_cell(followed.rates), stretch.by_cell(stretch.rates), stretch.steps
        cost_s = self._cost_s + time.perf_counter() - began
        self._cost_s = 0.0
        self.cadence.spent(cost_s)

        def read(rows: list[list[float]]) -> None:
            if stretch.over:
                return
            if not all(math.isfinite(x) for row in rows for x in row):
                self._end(followed, "a parameter is not finite")
                return
            try:
                between = [(row, *gap[1:]) for row, gap in zip(rows[2:], gaps, strict=True)]
                step_cost = stretch.add(rows[0], rates, between)
                least = _over(rows[1], whole)
            except ValueError as why:
                self._end(followed, str(why))
                return
            self._emit(stretch, (step, followed.number, stretch.since, steps), step_cost, least, cost_s)

        self._site.pending.read(sums, read)

    def _emit(
        self, stretch: Stretch, at: tuple[float, ...], step_cost: list[float], least: list[float], cost_s: float
    ) -> None:
        blocks = stretch.blocks
        cost, least_cost = blocks.total(stretch.cost), blocks.total(least)
        error = 0.0
        if cost[0] > 0:
            ratio = least_cost[0] / cost[0]
            apart_by = [x - ratio * y for x, y in zip(least, stretch.cost, strict=True)]
            error = blocks.total(apart_by)[1] / cost[0]
        self._rows += 1
        sums = (blocks.total(step_cost)[0], *cost, blocks.total(stretch.coarse)[0], *least_cost, error)
        self._site.emit(PATH, *at, *sums, blocks.sampled, blocks.parameters, cost_s)

    def _end(self, followed: _Followed, why: str) -> None:
        """End the path that an optimizer is on: another begins at its next look."""
        self.lost[why] += 1
        if followed.stretch is not None:
            followed.stretch.over = True
        followed.stretch, followed.looking = None, False

    def skipped(self) -> None:
        """Take note that a step was skipped: θ has not moved, though a fused step may have written it."""
        if self._under is not None and self._under.stretch is not None:
            self._under.stretch.mark()
        self._under = None

    def unwound(self) -> None:
        """Forget the step under way: the script's own code raised. If θ has moved, that is seen."""
        self._under = None

    def why(self) -> str:
        """Say why there is no path, or why paths ended."""
        reasons = [f"{why} ({n} times)" for why, n in self.lost.most_common()]
        return "; ".join(reasons) or ("" if self._rows else "no optimizer step was seen")

    def stop(self) -> None:
        """Let go of the copies."""
        self._optimizers.clear()


def _rates(optimizer: Any) -> list[float] | None:
    """Return η of each parameter group; None where one is not a number ≥ 0, or reading it would wait for a device."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    for i, eta in enumerate(rates):
        if type(eta) is not float:
            if isinstance(eta, torch.Tensor) and eta.device.type != "cpu":
                return None
            try:
                rates[i] = float(eta)
            except (TypeError, ValueError, RuntimeError):
                return None
        if not 0.0 <= rates[i] < math.inf:
            return None
    return rates


def _shape(optimizer: Any) -> tuple[int, ...]:
    return tuple([len(group["params"]) for group in optimizer.param_groups])


def _group_of(optimizer: Any) -> dict[int, int]:
    return {id(p): g for g, group in enumerate(optimizer.param_groups) for p in group["params"]}


def _same_groups(optimizer: Any, stretch: Stretch) -> bool:
    group_of = _group_of(optimizer)
    return all(group_of.get(id(ref())) == stretch.group_of[i] for i, ref in stretch.tensors.items())
