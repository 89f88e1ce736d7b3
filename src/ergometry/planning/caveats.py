"""Caveats: what to know before a plan is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ergometry.planning.belief import Belief
from ergometry.planning.operating_points import OperatingPoint, StepCosts, contradictions

if TYPE_CHECKING:
    from ergometry.planning.plan import Goal, Setting

Array = npt.NDArray[np.float64]

MIN_DWELL_S = 5.0
"""Two settings share time in stretches of this or longer, or the change itself costs more than it gains."""

EDGE_CHANCE = 0.05


def caveats(
    settings: Sequence[Setting],
    points: Sequence[OperatingPoint],
    costs: StepCosts,
    critical_batch: Belief,
    goal: Goal,
    *,
    calibrated: bool,
) -> tuple[str, ...]:
    """Return what the points, B_c and the goal leave open, in words."""
    remarks = list(contradictions(points))
    if not costs.split_known:
        of = "time" if calibrated else "time and energy"
        remarks.append(
            f"one batch size was measured: what of a step's {of} goes with the step and what with the example is not "
            "known, and drawn over all that is possible; measure a second one"
        )
    if costs.scatter > 0.05:
        remarks.append(f"the points scatter {costs.scatter:.0%} about the laws of a step: they are not of one kind")
    low, high = min(p.batch for p in points), max(p.batch for p in points)
    if any(setting.batch < low or setting.batch > high for setting in settings):
        seen = f"those measured, {low:g} to {high:g}" if high > low else f"what was measured, {low:g} alone"
        remarks.append(f"the batch size lies outside of {seen}: try it before trusting it")
    if critical_batch.factor > 2.0:
        remarks.append(
            f"B_c is known within a factor {critical_batch.factor:.2g} only ({critical_batch.source}): "
            + (
                "longer runs, or further apart in batch size, would tell it"
                if "batch sizes" in critical_batch.source
                else "a run at a second batch size would tell it"
            )
        )
    never = float(np.mean(~np.isfinite(goal.steps)))
    if never > 0:
        remarks.append(f"in {never:.0%} of the extrapolations the goal is never reached")
    if len(settings) > 1 and min(s.time.value for s in settings) < MIN_DWELL_S:
        remarks.append(f"one of the two settings would be held for less than {MIN_DWELL_S:g} s: use the other alone")
    return tuple(remarks)


def edge(grid: Array, best_batch: Array) -> tuple[str, ...]:
    """Say where the best batch size may lie beyond those that there are to choose from."""
    found = []
    for end, than, least in ((grid[0], "smaller", 1.0), (grid[-1], "larger", 0.0)):
        chance = float(np.mean(best_batch == end))
        if chance > EDGE_CHANCE and end > least and len(grid) > 1:
            found.append(f"the best batch size may be {than} than {end:g}, where the choice ends (chance {chance:.0%})")
    return tuple(found)
