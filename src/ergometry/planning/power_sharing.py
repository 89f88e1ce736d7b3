"""One power budget for several jobs: the cap of each that makes the sum of their relative speeds largest.

Each job has measured points (cap, draw, speed). A job is charged what it draws, not its cap. One point of each job,
with draws that fit the budget together: a multiple-choice knapsack, which an integer program solves with its own
certificate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ergometry.core.errors import UsageError

LIMIT_S = 10.0
"""Seconds after which the best choice found so far is taken; ``upper_bound`` then says how much it may be short."""

_ROUNDING = 2e-6
"""The solver holds the budget to about half of this share; a choice beyond it by that is sought again below."""


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
    """Return the cap of each job under one power budget: max Σ_j s_j(c_j) over caps c with Σ_j d_j(c_j) ≤ budget.

    s is a job's speed over its fastest and d its draw. Exact, to a relative gap of 1e-9 in the speed.

    Raises:
        UsageError: no jobs, a job without a finite point, or a budget below what the lowest caps draw.
    """
    useful = {name: _useful(name, points) for name, points in jobs.items()}
    if not useful:
        raise UsageError(expected="one job or more", got="none", remedy="name the jobs that share the budget")
    least_w = math.fsum(points[0].draw_w for points in useful.values())
    if not budget_w >= least_w:
        raise UsageError(
            expected=f"a budget of {least_w:.4g} W or more, what the lowest caps draw",
            got=f"{budget_w:g} W",
            remedy="allow more, or run fewer jobs at a time",
        )
    chosen, bound = _choose(list(useful.values()), budget_w)
    if math.fsum(point.draw_w for point in chosen) > budget_w:
        chosen, _ = _choose(list(useful.values()), max(budget_w * (1.0 - _ROUNDING), least_w))
    return Sharing(
        {name: point.cap_w for name, point in zip(useful, chosen, strict=True)},
        math.fsum(point.draw_w for point in chosen),
        math.fsum(point.speed for point in chosen) / len(chosen),
        min(bound / len(chosen), 1.0),
    )


def _choose(jobs: Sequence[Sequence[CapPoint]], budget_w: float) -> tuple[list[CapPoint], float]:
    """Return the best point of each job, and a bound that no sum of speeds is above."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    points = [point for job in jobs for point in job]
    owner = np.repeat(np.arange(len(jobs)), [len(job) for job in jobs])
    one_each = csr_array((np.ones(len(points)), (owner, np.arange(len(points)))), shape=(len(jobs), len(points)))
    draws = np.array([[point.draw_w / budget_w for point in points]])
    found = milp(
        [-point.speed for point in points],
        integrality=np.ones(len(points)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(draws, ub=1.0)],
        options={"mip_rel_gap": 1e-9, "time_limit": LIMIT_S},
    )
    if found.x is None:  # out of time before any choice: the lowest caps fit
        return [job[0] for job in jobs], float(len(jobs))
    taken = [points[k] for k in np.flatnonzero(found.x > 0.5)]
    return taken, -found.mip_dual_bound


def _useful(name: str, points: Sequence[CapPoint]) -> list[CapPoint]:
    """Return the points that are faster than all that draw no more, by rising draw, with speeds over the fastest."""
    good = [p for p in points if all(math.isfinite(x) and x > 0 for x in (p.cap_w, p.draw_w, p.speed))]
    if not good:
        raise UsageError(
            expected=f"a cap at which {name} was measured", got="none", remedy="measure its speed and draw at two caps"
        )
    top = max(p.speed for p in good)
    kept: list[CapPoint] = []
    for p in sorted(good, key=lambda p: (p.draw_w, -p.speed)):
        if not kept or p.speed / top > kept[-1].speed:
            kept.append(CapPoint(p.cap_w, p.draw_w, p.speed / top))
    return kept
