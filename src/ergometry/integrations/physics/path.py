"""The tap of path cost (4.2(ii)): what an optimizer's path has cost, and the least of any path between the same ends.

Of each parameter, by Cauchy–Schwarz, (Σ_k Δθ_k)²/Σ_k η_k ≤ Σ_k Δθ_k²/η_k. The left side asks for θ_0 and the sum of the
learning rates, which :mod:`ergometry.integrations.schedules` keeps at every step; the right side asks for every step.
Where the share of the step time does not pay for all, steps are looked at on both sides, nothing is done at the others,
and what lies between two looks is taken as one step. The same inequality over the steps of each such gap puts the cost
of this coarser path between the two: least ≤ coarse ≤ cost. So least/coarse bounds the optimality from above, whatever
happened between the looks; and the cost itself is estimated from the steps looked at.

The blocks, and θ_0 on them, stay the same along a path. A path ends where parameters move without their optimizer (a
checkpoint, a clamp) or change their group, and another begins. In the step after a look that is seen exactly; in a gap
by torch's count of changes in place, which goes up by no more in a step than it did in those looked at.
"""

from __future__ import annotations

import math
import random
import time
import weakref
from collections import Counter
from typing import Any

import torch

from ergometry.core.series import PATH
from ergometry.integrations.ledger import Plan
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.blocks import KEPT_BYTES, KEPT_SHARE, Blocks, plain, squares, theta
from ergometry.integrations.physics.stretch import COPIES, Stretch, over
from ergometry.integrations.physics.tap import Cadence, Site, Tap, cadence_of
from ergometry.integrations.schedules import Told

_SHARE, _FULL_SHARE = 0.003, 0.02
_TURNS = 8  # steps in which an optimizer that owes a look is waited for
_OUTSIDE = "the parameters changed outside of the optimizer's step"
_UNREAD = "a learning rate cannot be read on the host"


class _Followed:
    """One optimizer: which it is, the path it is on, and how far it has been looked at."""

    def __init__(self, who: int, number: int) -> None:
        self.who, self.number = who, number
        self.stretch: Stretch | None = None
        self.round = 0
        self.plan = Plan(())
        self.sizes: tuple[int, ...] = ()
        self.asked = self.weighed = False
        self.looking = self.seen = False
        self.rates: list[float] = []
        self.marks: list[tuple[int, int]] = []
        self.bumps, self.stays = math.inf, True
        """What the steps looked at do to the marks of the parameters: see :meth:`.stretch.Stretch.changed`."""

    def weigh(self, energies: list[float]) -> None:
        """Have blocks drawn where the gradient is, too."""
        self.plan.weigh(energies)
        self.weighed = True

    def learn(self, marks: list[tuple[int, int]], *, closure: bool) -> None:
        """Learn from a step that has ended what a step does to the marks; with a closure each may do something else."""
        pairs = list(zip(self.marks, marks, strict=True))
        bumps = max((float(now - then) for (then, _), (now, _) in pairs), default=0.0)
        self.stays &= all(lay == lies for (_, lay), (_, lies) in pairs)
        self.bumps = math.inf if closure else bumps if math.isinf(self.bumps) else max(self.bumps, bumps)


class Path(Tap):
    """Writes rows of ``PATH``, of every optimizer that is stepped for itself (not within another's step)."""

    name = "path"

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cadence: Cadence = cadence_of(site, _SHARE, _FULL_SHARE, guess_steps=0.5, ready_s=0.001)
        self._stream = random.Random(0x0402)  # of our own: the script's streams are not touched
        self._optimizers: weakref.WeakKeyDictionary[Any, _Followed] = weakref.WeakKeyDictionary()
        self._numbered = 0
        # Looks are owed by rounds: an optimizer that is not stepped when one is due gives its look at its next step.
        self._round = self._waited = 0
        self._under: _Followed | None = None
        self._closure = False
        self._cost_s = 0.0
        self._rows = 0
        self.lost: Counter[str] = Counter()
        """Why there is no path, or why one ended, and how often."""

    @property
    def again(self) -> bool:
        """Whether an optimizer owes a look, or was looked at in the last step: whether nothing moved since is seen."""
        return self._waited < _TURNS and any(
            f.round != self._round or (f.stretch is not None and (f.seen or f.looking))
            for f in self._optimizers.values()
        )

    def step_begin(self, step: int, step_s: float) -> None:
        """Look at every optimizer in this step, if that is what it is for."""
        if not self._site.machine.in_optimizer:  # a closure's forward begins a step within its optimizer's
            self._under = None
        self._round += self.use
        self._waited = 0 if self.use else self._waited + 1

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """See that the path goes on; look at θ before the step where that is due."""
        if self._under is not None and self._under.who != id(optimizer):
            return  # one that steps within another: its path is the outer one's
        followed = self._optimizers.get(optimizer)
        if followed is None:
            followed = self._optimizers[optimizer] = _Followed(id(optimizer), self._numbered)
            self._numbered += 1
        self._under, self._closure = followed, closure
        followed.looking = False
        schedule = self._site.schedule(optimizer)
        at, rates = schedule.told(), schedule.rates
        stretch = followed.stretch
        if stretch is not None:
            if stretch.unread(at):
                self._end(followed, _UNREAD)
            elif stretch.changed(at, followed.bumps, stays=followed.stays):
                self._end(followed, _OUTSIDE)
            elif stretch.shape != _shape(optimizer):
                self._end(followed, "the parameter groups changed")
        due = followed.round != self._round
        if rates is None:
            if due and stretch is None:
                self.lost[_UNREAD] += 1
            followed.round = self._round
            return
        followed.rates = rates
        if due or (followed.stretch is not None and followed.seen):
            began = time.perf_counter()
            with torch.no_grad(), apart():
                self._before(optimizer, followed, at, due=due)
            self._cost_s += time.perf_counter() - began

    def _before(self, optimizer: Any, followed: _Followed, at: Told, *, due: bool) -> None:
        if followed.stretch is not None:
            self._go_on(optimizer, followed, at, due=due)
        if due and followed.stretch is None:
            followed.stretch = self._start(optimizer, followed, at)
        if due and followed.stretch is not None:
            followed.looking, followed.round, followed.marks = True, self._round, followed.stretch.marks()

    def _go_on(self, optimizer: Any, followed: _Followed, at: Told, *, due: bool) -> None:
        stretch, seen = followed.stretch, followed.seen
        assert stretch is not None
        followed.seen = False
        if not stretch.blocks.alive() or (due and not _same_groups(optimizer, stretch)):
            self._end(followed, "the parameter groups changed")
            return
        gap = stretch.since_look(at)
        if not due and gap:
            return
        now = stretch.blocks.gather(theta)
        if gap:
            stretch.end_gap(now, at)
            return
        if not seen:
            return

        # Nothing has stepped since the last look. This sees what leaves no mark, such as p.data.clamp_().
        def read(changed: bool) -> None:
            if changed and not stretch.over:
                self._end(followed, _OUTSIDE)

        self._site.pending.read((now != stretch.last).any(), read)

    def _start(self, optimizer: Any, followed: _Followed, at: Told) -> Stretch | None:
        """Return a path that begins here, None where that must wait or cannot be."""
        tensors = plain([optimizer])
        sizes = tuple(p.numel() for p in tensors)
        if not sizes:
            self.lost["no parameters that can be looked into (dense, real, not sharded over ranks)"] += 1
            return None
        if sizes != followed.sizes:
            followed.sizes, followed.plan = sizes, Plan(sizes, KEPT_SHARE / COPIES)
            followed.asked = followed.weighed = False
        kept = sum(f.stretch.kept_bytes for f in self._optimizers.values() if f.stretch is not None)
        room = (KEPT_BYTES - kept) // COPIES
        if sum(sizes) * max(p.element_size() for p in tensors) > room and not self._closure:
            if not followed.asked:
                followed.asked, energies = True, squares(tensors)
                if energies is None:
                    followed.weighed = True
                else:
                    self._site.pending.read(energies, followed.weigh)
            if not followed.weighed:
                return None  # a device has not told yet where the gradient is: the path begins a step later
        blocks = Blocks(tensors, followed.plan, self._stream, room)
        machine = self._site.machine
        since = machine.steps if self._closure else machine.index  # a closure's forward is yet to begin the step
        return Stretch(blocks, _group_of(optimizer), _shape(optimizer), since, at)

    def optimizer_end(self, optimizer: Any, step: int) -> None:
        """Look at θ after the step where that is due."""
        followed = self._under
        if followed is None or followed.who != id(optimizer):
            return
        self._under, stretch = None, followed.stretch
        if stretch is None or not followed.looking:
            return
        began = time.perf_counter()
        at = self._site.schedule(optimizer).told()
        with torch.no_grad(), apart():
            self._after(followed, stretch, at, step, began)
        followed.looking, followed.seen = False, True

    def _after(self, followed: _Followed, stretch: Stretch, at: Told, step: int, began: float) -> None:
        sums, gaps, whole, steps = stretch.look(stretch.blocks.gather(theta), at)
        followed.learn(stretch.marks(), closure=self._closure)
        rates = stretch.by_cell(followed.rates)
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
                least = over(rows[1], whole)
            except ValueError as why:
                self._end(followed, str(why))
                return
            self._rows += 1
            blocks, of = stretch.blocks, (step, followed.number, stretch.since, steps)
            totals = stretch.totals(step_cost, least)
            self._site.emit(PATH, *of, *totals, blocks.sampled, blocks.parameters, cost_s)

        self._site.pending.read(sums, read)

    def _end(self, followed: _Followed, why: str) -> None:
        """End the path that an optimizer is on: another begins at its next look."""
        self.lost[why] += 1
        if followed.stretch is not None:
            followed.stretch.over = True
        followed.stretch, followed.looking = None, False

    def unwound(self) -> None:
        """Forget the step under way: the script's own code raised. If θ has moved, that is seen."""
        self._under = None

    def skipped(self) -> None:
        """Take note that a step was skipped: θ has not moved."""
        self._under = None

    def why(self) -> str:
        """Say why there is no path, or why paths ended."""
        reasons = [f"{why} ({n} times)" for why, n in self.lost.most_common()]
        return "; ".join(reasons) or ("" if self._rows else "no optimizer step was seen")

    def stop(self) -> None:
        """Let go of the copies."""
        self._optimizers.clear()


def _shape(optimizer: Any) -> tuple[int, ...]:
    return tuple([len(group["params"]) for group in optimizer.param_groups])


def _group_of(optimizer: Any) -> dict[int, int]:
    return {id(p): g for g, group in enumerate(optimizer.param_groups) for p in group["params"]}


def _same_groups(optimizer: Any, stretch: Stretch) -> bool:
    group_of = _group_of(optimizer)
    return all(group_of.get(id(ref())) == stretch.group_of[i] for i, ref in stretch.tensors.items())
