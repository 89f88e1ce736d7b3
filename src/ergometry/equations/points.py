"""Operating points: speed and power of a run's steps under each of its power limits, for what asks how they trade."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run, Table
from ergometry.core.series import HEALTH, STEPS
from ergometry.estimators.sampling import Array
from ergometry.work.accounts import Accounts

LEAST_STEPS = 5
"""Steps in a row under one limit, after the first, which the change disturbs."""


@dataclass(frozen=True)
class Point:
    """What the run's steps did under one power limit.

    Attributes:
        limit_w: the boards' limits together, W.
        steps: how many were looked at.
        speed: step/s.
        power: W.
    """

    limit_w: float
    steps: int
    speed: Estimate
    power: Estimate


def read_points(run: Run, accounts: Accounts) -> tuple[Point, ...]:
    """Return the operating points of a run by increasing limit; of its commonest batch size, the one that compares.

    A stretch of steps under one limit counts from its second step on, if it has so many (:data:`LEAST_STEPS`).
    """
    steps, traces = run.table(STEPS), list(accounts.metered.cover().values())
    rows = steps.rows[np.isfinite(steps["t0_s"]) & np.isfinite(steps["t1_s"])]
    if not len(rows) or not traces:
        return ()
    steps = Table(steps.columns, rows)
    begun, ended = (np.nan_to_num(_limits_at(steps[name], run.table(HEALTH))) for name in ("t0_s", "t1_s"))
    limits = np.where(begun == ended, begun, 0.0)
    examples = np.nan_to_num(steps["examples"])
    sizes, counts = np.unique(examples, return_counts=True)
    usual = examples == sizes[np.argmax(counts)]
    changes = np.flatnonzero((np.diff(limits) != 0) | (np.diff(usual) != 0)) + 1
    spans: dict[float, list[npt.NDArray[np.intp]]] = {}
    for stretch in np.split(np.arange(len(steps)), changes):
        if len(stretch) > LEAST_STEPS and usual[stretch[0]] and limits[stretch[0]] > 0:
            spans.setdefault(float(limits[stretch[0]]), []).append(stretch[1:])
    points = []
    for limit, stretches in sorted(spans.items()):
        ends = [(float(steps["t0_s"][s[0]]), float(steps["t1_s"][s[-1]])) for s in stretches]
        done, seconds = sum(map(len, stretches)), math.fsum(t1 - t0 for t0, t1 in ends)
        if not seconds > 0:
            continue
        joules = total((trace.energy(t0, t1) for t0, t1 in ends for trace in traces), correlated=True)
        took = Estimate(seconds, 0.0, "s", Provenance.MEASURED, "monotonic clock")
        points.append(Point(limit, done, Estimate(float(done), 0.0, "step") / took, joules / took))
    return tuple(points)


def _limits_at(times: Array, health: Table) -> Array:
    """Return the sum of the boards' power limits at each time, W; NaN before all are known."""
    wanted = [health.columns.index(name) for name in ("t_s", "board", "power_limit_w")]
    known = np.all(np.isfinite(health.rows[:, wanted]), axis=1)
    table, limits = Table(health.columns, health.rows[known]), np.zeros(len(times))
    if not len(table):
        return np.full(len(times), np.nan)
    for board in np.unique(table["board"]):
        rows = table.rows[table["board"] == board]
        at = np.searchsorted(rows[:, 0], times, side="right") - 1
        of_board = rows[np.maximum(at, 0), table.columns.index("power_limit_w")]
        limits += np.where(at >= 0, of_board, np.nan)
    return limits
