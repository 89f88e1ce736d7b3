"""One power budget for several jobs: the cap of each that makes the sum of their relative speeds largest.

Each job has measured points (cap, draw, speed). A job is charged what it draws, not its cap. On the upper concave hull
of (draw, speed) each further watt buys less than the one before, so taking the steepest step of any job first is
optimal as far as whole steps fit; what remains is improved by exchanges. The linear relaxation gives an upper bound.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ergometry.core.errors import UsageError


@dataclass(frozen=True)
class CapPoint:
    """A job under one cap: what it draws (W) and how fast it is (any unit)."""

    cap_w: float
    draw_w: float
    speed: float


@dataclass(frozen=True)
class Sharing:
    """The cap of each job, and what they add up to.

    Attributes:
        caps_w: cap by job.
        draw_w: what they draw together.
        relative_speed: mean over jobs of the speed over that job's fastest.
        upper_bound: no choice of caps reaches more.
    """

    caps_w: Mapping[str, float]
    draw_w: float
    relative_speed: float
    upper_bound: float


def share_power(jobs: Mapping[str, Sequence[CapPoint]], budget_w: float) -> Sharing:
    """Return the cap of each job under one power budget.

    Raises:
        UsageError: no jobs, a job without a finite point, or a budget below what the lowest caps draw.
    """
    hulls = {name: _hull(name, points) for name, points in jobs.items()}
    if not hulls:
        raise UsageError(expected="one job or more", got="none", remedy="name the jobs that share the budget")
    least_w = math.fsum(hull[0].draw_w for hull in hulls.values())
    if not budget_w >= least_w:
        raise UsageError(
            expected=f"a budget of {least_w:.4g} W or more, what the lowest caps draw",
            got=f"{budget_w:g} W",
            remedy="allow more, or run fewer jobs at a time",
        )
    taken = dict.fromkeys(hulls, 0)
    left_w, bound = budget_w - least_w, math.fsum(hull[0].speed for hull in hulls.values())
    steps = [(-_slope(hull, 0), name) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    relaxed_w = left_w  # of the linear relaxation, which may take a part of a step
    while steps:
        slope, name = heapq.heappop(steps)
        hull, at = hulls[name], taken[name]
        more_w = hull[at + 1].draw_w - hull[at].draw_w
        if relaxed_w > 0:
            bound += -slope * min(more_w, relaxed_w)
            relaxed_w -= more_w
        if more_w <= left_w:
            taken[name], left_w = at + 1, left_w - more_w
            if at + 2 < len(hull):
                heapq.heappush(steps, (-_slope(hull, at + 1), name))
    _exchange(hulls, taken, left_w)
    chosen = {name: hulls[name][at] for name, at in taken.items()}
    return Sharing(
        {name: point.cap_w for name, point in chosen.items()},
        math.fsum(point.draw_w for point in chosen.values()),
        math.fsum(point.speed for point in chosen.values()) / len(chosen),
        min(bound / len(chosen), 1.0),
    )


def _hull(name: str, points: Sequence[CapPoint]) -> list[CapPoint]:
    """Return the corners of the upper concave hull, by rising draw, with speeds relative to the fastest."""
    good = [p for p in points if all(math.isfinite(x) and x > 0 for x in (p.cap_w, p.draw_w, p.speed))]
    if not good:
        raise UsageError(
            expected=f"a cap at which {name} was measured", got="none", remedy="measure its speed and draw at two caps"
        )
    top = max(p.speed for p in good)
    kept: list[CapPoint] = []
    for p in sorted(good, key=lambda p: (p.draw_w, -p.speed)):
        point = CapPoint(p.cap_w, p.draw_w, p.speed / top)
        if kept and point.speed <= kept[-1].speed:
            continue  # draws more and is no faster
        while len(kept) > 1 and _between(kept[-2], kept[-1]) <= _between(kept[-2], point):
            kept.pop()
        kept.append(point)
    return kept


def _between(a: CapPoint, b: CapPoint) -> float:
    return (b.speed - a.speed) / (b.draw_w - a.draw_w)


def _slope(hull: Sequence[CapPoint], at: int) -> float:
    return _between(hull[at], hull[at + 1])


def _exchange(hulls: Mapping[str, Sequence[CapPoint]], taken: dict[str, int], left_w: float) -> None:
    """Lower one job a step where that pays another's step, while the sum of speeds rises."""
    improved = True
    while improved:
        improved = False
        for up, hull in hulls.items():
            if taken[up] + 1 >= len(hull):
                continue
            at, to = hull[taken[up]], hull[taken[up] + 1]
            if to.draw_w - at.draw_w <= left_w:
                taken[up], left_w, improved = taken[up] + 1, left_w - (to.draw_w - at.draw_w), True
                break
            for down, other in hulls.items():
                if down == up or taken[down] == 0:
                    continue
                high, low = other[taken[down]], other[taken[down] - 1]
                gain = to.speed - at.speed - (high.speed - low.speed)
                after_w = left_w - (to.draw_w - at.draw_w) + (high.draw_w - low.draw_w)
                if gain > 1e-12 and after_w >= 0:
                    taken[up], taken[down], left_w, improved = taken[up] + 1, taken[down] - 1, after_w, True
                    break
            if improved:
                break
