"""Over time: schedules of power, batch size and learning rate for a measured job, and what they would gain.

A planner's advice, not an instruction: nothing here drives a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.core.series import LEARNING_RATES, STEPS
from ergometry.estimators.noise_scale import noise_series
from ergometry.planning.learning_rate import LearningRate
from ergometry.planning.operating_points import OperatingPoint, StepCosts
from ergometry.planning.schedules import (
    BatchSchedule,
    PowerSchedule,
    batch_schedule,
    power_schedules,
    speed_exponent,
)

Array = npt.NDArray[np.float64]

STRETCHES = 6
_LEAST_KNOWN = 0.5
"""A stretch whose noise scale is known less well than this, relative, would have its scatter followed, not itself."""


@dataclass(frozen=True)
class RateCourse:
    """The learning rate over a plan's steps: the run's own course, stretched to them and scaled to the batch size.

    Attributes:
        progress: (k,) shares of the steps from which each rate holds, the first 0.
        rate: (k,) learning rates, of the first parameter group.
    """

    progress: Array
    rate: Array

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return bool(np.all(self.rate == self.rate[0]))


@dataclass(frozen=True)
class OverTime:
    """Schedules, each None (or empty) with the reason in its ``why``.

    Attributes:
        power: P(t) of several kinds at one mean power, by the measured speed exponent.
        alpha: α of speed ∝ P^α, P the dynamic power; None where not measured.
        power_why: why there is none.
        batch: B*(s).
        batch_why: why there is none.
        rate: learning rate over the steps at the plan's batch size; None where the run's own was not seen.
    """

    power: tuple[PowerSchedule, ...]
    alpha: float | None
    power_why: str
    batch: BatchSchedule | None
    batch_why: str
    rate: RateCourse | None = None


def over_time(
    run: Run, points: Sequence[OperatingPoint], costs: StepCosts, batch: float, rate: LearningRate | None = None
) -> OverTime:
    """Return the schedules of a job.

    Args:
        run: the one to go on from: its noise scale tells how B_c moves.
        points: measured; two power limits at one batch size tell how speed goes with power.
        costs: fitted to them.
        batch: the batch size around which e0 and e1 are read.
        rate: the learning rate there.
    """
    power, alpha, power_why = _power(points, costs)
    found, batch_why = _batch(run, costs, batch)
    return OverTime(power, alpha, power_why, found, batch_why, None if rate is None else _course(run, rate.scale))


def _course(run: Run, scale: float) -> RateCourse | None:
    """Return the learning rates that a run set, over its steps, scaled."""
    table, steps = run.table(LEARNING_RATES), len(run.table(STEPS))
    first = table.rows[(table["optimizer"] == 0) & (table["group"] == 0) & np.isfinite(table["lr"])]
    if not len(first) or not steps:
        return None
    at, rate = (first[:, table.columns.index(name)] for name in ("step", "lr"))
    order = np.argsort(at, kind="stable")
    begins = np.clip(at[order] / steps, 0.0, 1.0)
    begins[0] = 0.0
    return RateCourse(begins, scale * rate[order])


def _power(points: Sequence[OperatingPoint], costs: StepCosts) -> tuple[tuple[PowerSchedule, ...], float | None, str]:
    by_batch: dict[float, list[OperatingPoint]] = {}
    for point in points:
        if point.power_limit_w is not None:
            by_batch.setdefault(point.batch, []).append(point)
    most = max(by_batch.values(), key=lambda group: len({p.power_limit_w for p in group}), default=[])
    if len({p.power_limit_w for p in most}) < 2:
        return (), None, "needs one batch size at two power limits or more"
    static_w = float(np.median(costs.static_w))
    if not static_w > 0:
        return (), None, "needs the static power: a calibration, or three batch sizes about the corner of t(B)"
    dynamic_w = [p.power_w - static_w for p in most]
    try:
        alpha = speed_exponent(dynamic_w, [1.0 / p.step_s for p in most])
        return power_schedules(float(np.mean(dynamic_w)), alpha), alpha, ""
    except UsageError as refused:
        return (), None, f"needs {refused.expected}, got {refused.got}"


def _batch(run: Run, costs: StepCosts, batch: float) -> tuple[BatchSchedule | None, str]:
    noise = noise_series(run, STRETCHES)
    with np.errstate(all="ignore"):
        good = (noise.b_noise > 0) & (noise.b_noise_stderr < _LEAST_KNOWN * noise.b_noise)
    if np.count_nonzero(good) < 2:
        return None, "needs the noise scale in two stretches of the run or more, each known within half of itself"
    half, at, twice = np.median(costs.energy_j(np.array([batch / 2, batch, 2 * batch])), axis=1)[0]
    e1 = (twice - half) / (1.5 * batch)
    e0 = at - e1 * batch
    if not (e0 > 0 and e1 > 0):
        return None, "needs joules that rise with the batch size from more than none"
    # A step at batch B makes 1/(1 + B_c/B) of a step's progress.
    sizes = run.table(STEPS)["examples"]
    own = float(np.nanmedian(sizes))
    middle, critical = noise.step[good], noise.b_noise[good]
    edges = np.concatenate([[0.0], 0.5 * (middle[1:] + middle[:-1]), [max(float(len(sizes)), middle[-1] + 1.0)]])
    progress = np.cumsum(np.diff(edges) / (1.0 + critical / own))
    begins = np.concatenate([[0.0], progress[:-1]]) / progress[-1]
    return batch_schedule(begins.tolist(), critical.tolist(), float(e0), float(e1)), ""
