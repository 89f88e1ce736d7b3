"""From stored runs to a plan: their operating points, what they say of B_c, and how far the goal is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.budget import Budget
from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.equations.priced import read_priced
from ergometry.equations.readings import Readings
from ergometry.estimators.rows import values_at
from ergometry.planning.belief import Belief, combined
from ergometry.planning.learning_curve import first_step_at, fit_curve
from ergometry.planning.learning_rate import LearningRate, rescaled
from ergometry.planning.operating_points import OperatingPoint, Split
from ergometry.planning.plan import Goal, Plan, plan
from ergometry.planning.steps_to_target import fit_steps, from_noise_scale
from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts

Array = npt.NDArray[np.float64]

WARM_UP_STEPS = 10
"""The first steps compile, fill caches and load data: no measure of those that follow. At most a tenth is left out."""

LEAST_SHARE = 0.05
"""A batch size that fewer of the steps have is a remainder at the end of an epoch, not a setting."""

UNKNOWN_FACTOR = 10.0
DRAWS = 256


@dataclass(frozen=True)
class Known:
    """What runs of one job offer to a plan.

    Attributes:
        points: operating points.
        critical_batch: what is known of B_c.
        goal: steps to the goal at the first run's batch size.
        split: what a calibration says of the first run's step; None without one.
    """

    points: tuple[OperatingPoint, ...]
    critical_batch: Belief
    goal: Goal
    split: Split | None


def plan_runs(
    runs: Sequence[Run],
    *,
    target_loss: float | None = None,
    budget: Budget | None = None,
    points: Sequence[OperatingPoint] = (),
    **options: Any,
) -> Plan:
    """Return a plan from runs of one job; the first is the one to go on from.

    Args:
        runs: one or more. Several batch sizes tell how steps and their costs depend on it.
        target_loss: loss to reach; without one, the loss that the first run reached.
        budget: limits.
        points: operating points besides those of the runs.
        options: as of :func:`~ergometry.planning.plan.plan`.

    Raises:
        UsageError: the runs have no steps of known size or energy; or as :func:`~ergometry.planning.plan.plan`.
    """
    known = read(runs, target_loss)
    return plan(
        [*known.points, *points],
        known.critical_batch,
        known.goal,
        budget=budget,
        split=known.split,
        **options,
    )


def read(runs: Sequence[Run], target_loss: float | None = None) -> Known:
    """Return what runs of one job offer to a plan."""
    if not runs:
        raise UsageError(expected="one run or more", got="none", remedy="record one with erg run")
    books = [accounts(run) for run in runs]
    points = [point for run, one in zip(runs, books, strict=True) for point in points_of(run, one)]
    if not points:
        raise UsageError(
            expected="training steps of known batch size and energy",
            got=f"none in {', '.join(run.id for run in runs)}",
            remedy="give the batch size with --examples, and a power source or its model (see erg doctor)",
        )
    goal = goal_of(runs[0], points_of(runs[0], books[0]), target_loss)
    return Known(tuple(points), critical_batch_of(runs, target_loss), goal, _split(runs[0], books[0]))


def points_of(run: Run, books: Accounts) -> tuple[OperatingPoint, ...]:
    """Return the operating points of a run: one for each batch size that many of its steps have.

    Energy is that of the cover over the steps' own time, evaluation and set-up left out; its error is that of the
    run's total, relative, since one gain lies behind all of it.
    """
    steps, traces = _settled(run), list(books.metered.cover().values())
    total = books.total
    if not len(steps) or not traces or not total.value:
        return ()
    t0, t1, sizes = steps[:, 0], steps[:, 1], steps[:, 2]
    joules = np.sum([trace.cumulative_j(t1) - trace.cumulative_j(t0) for trace in traces], axis=0)
    relative = (total.stderr or 0.0) / total.value
    limit_w = _limit_w(run)
    found = []
    for size in np.unique(sizes[np.isfinite(sizes)]):
        of = sizes == size
        if np.count_nonzero(of) < max(2, LEAST_SHARE * len(sizes)):
            continue
        step_s, step_j = float(np.mean((t1 - t0)[of])), float(np.mean(joules[of]))
        spread_s = float(np.std((t1 - t0)[of], ddof=1)) / math.sqrt(int(of.sum()))
        found.append(OperatingPoint(float(size), step_s, step_j, spread_s, relative * step_j, limit_w, run.id))
    return tuple(found)


def _settled(run: Run) -> Array:
    """Return (n, 3) begin, end and examples of the steps after the first ones that trained."""
    table = run.table(series.STEPS)
    flags = np.nan_to_num(table["flags"]).astype(np.int64)
    usual = flags & (series.NO_BACKWARD | series.EXCEPTION) == 0
    rows = table.rows[usual][:, [table.columns.index(name) for name in ("t0_s", "t1_s", "examples")]]
    return np.asarray(rows[min(WARM_UP_STEPS, len(rows) // 10) :])


def _limit_w(run: Run) -> float | None:
    """Return the power limit that the run's boards had together; None where none tells."""
    health = run.table(series.HEALTH)
    if not len(health):
        return None
    limits = [np.median(health["power_limit_w"][health["board"] == board]) for board in np.unique(health["board"])]
    return float(np.sum(limits)) if np.all(np.isfinite(limits)) else None


def _split(run: Run, books: Accounts) -> Split | None:
    """Return what the calibration says of a step; None without one, or where the run's work was not counted."""
    priced, static = read_priced(run, books), books.by_component["static"]
    if priced is None or not static.value or not run.duration_s > 0:
        return None
    e0d, e1d = priced.e0d.value, priced.e1d.value
    return None if e0d is None or e1d is None else Split(e0d, e1d, static.value / run.duration_s)


def rate_of(run: Run, readings: Readings, batch: float, optimizer: str | None = None) -> LearningRate | None:
    """Return the learning rate at another batch size, by the rule of the run's optimizer; None if its own is not known.

    Args:
        run: the run whose learning rate is gone on from.
        readings: of it.
        batch: B', example/step.
        optimizer: name of its class, where the run does not tell.
    """
    own, size = readings.gradient.learning_rate.value, readings.batch.value
    if own is None or not own > 0 or not size:
        return None
    limit = readings.curvature.limit.value
    return rescaled(
        own,
        size,
        batch,
        optimizer=optimizer or optimizer_of(run) or "sgd",
        b_noise=readings.noise.b_noise.value,
        limit=limit if limit is not None and limit > 0 else None,
    )


def optimizer_of(run: Run) -> str | None:
    """Return the class of the run's optimizer, None where it was not seen."""
    profiles = run.meta.get("profiles") or ()
    return next((str(p["root"]) for p in profiles if p.get("phase") == "optimizer" and p.get("root")), None)


def loss_by_step(run: Run) -> Array:
    """Return the loss of every training step in order, NaN where it is not known."""
    steps = run.table(series.STEPS)["step"]
    return values_at(steps, run.table(series.LOSSES), "loss")


def goal_of(run: Run, points: Sequence[OperatingPoint], target_loss: float | None) -> Goal:
    """Return the steps to the goal, at the batch size that most steps of a run have.

    Without a target it is the loss that the run reached, in as many steps as it made. A target that the run has
    reached took the steps that it took; one beyond is extrapolated (:mod:`~ergometry.planning.learning_curve`).

    Raises:
        UsageError: the target is no finite number; no steps of known batch size; too few losses to extrapolate.
    """
    if not points:
        raise UsageError(
            expected=f"steps of known batch size in {run.id}", got="none", remedy="state it with --examples"
        )
    sizes = _settled(run)[:, 2]
    batch = max((p.batch for p in points), key=lambda b: int(np.count_nonzero(sizes == b)))
    loss = loss_by_step(run)
    if target_loss is None:
        words = f"what {run.id} reached in its {len(loss)} steps"
        return Goal(batch, np.full(DRAWS, float(len(loss))), words)
    if not math.isfinite(target_loss):
        raise UsageError(expected="a finite target loss", got=f"{target_loss:g}", remedy="name a loss")
    words = f"a loss of {target_loss:g}"
    reached = first_step_at(loss, target_loss)
    if reached is not None:
        return Goal(batch, np.full(DRAWS, float(reached)), f"{words}, which {run.id} reached at step {reached}")
    draws = fit_curve(loss).steps_to(target_loss)
    return Goal(batch, np.resize(draws, DRAWS), f"{words}, extrapolated from {len(loss)} steps")


def critical_batch_of(runs: Sequence[Run], target_loss: float | None = None) -> Belief:
    """Return what runs say of B_c: steps to a common loss at two batch sizes or more, with the noise scale as a prior.

    Where nothing is known, B_c is the batch size used within a factor 10, and the belief's source says so.
    """
    from ergometry.estimators.noise_scale import read_noise

    beliefs = [belief for run in runs if (belief := from_noise_scale(read_noise(run).b_noise)) is not None]
    prior = combined(beliefs) if beliefs else None
    sizes, curves = [], []
    for run in runs:
        examples = _settled(run)[:, 2]
        finite = examples[np.isfinite(examples)]
        loss = loss_by_step(run)
        if len(finite) and np.any(np.isfinite(loss)):
            sizes.append(float(np.median(finite)))
            curves.append(loss)
    if len(set(sizes)) > 1:
        common = max(_reached(loss) for loss in curves) if target_loss is None else target_loss
        steps = [first_step_at(loss, common) or math.inf for loss in curves]
        if len({size for size, s in zip(sizes, steps, strict=True) if math.isfinite(s)}) > 1:
            return fit_steps(sizes, steps, prior).critical_batch
    if prior is not None:
        return prior
    if not sizes:
        raise UsageError(
            expected="a run with losses and a known batch size", got="none", remedy="state it with --examples"
        )
    return Belief.of(sizes[0], factor=UNKNOWN_FACTOR, source="nothing is known of B_c but the batch size used")


def _reached(loss: Array) -> float:
    """Return the loss that a run ended at, smoothed over its last twentieth."""
    finite = loss[np.isfinite(loss)]
    return float(np.mean(finite[-max(len(finite) // 20, 1) :]))
