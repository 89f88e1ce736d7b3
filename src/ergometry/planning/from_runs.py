"""From stored runs to a plan: their operating points, what they say of B_c, and how far the goal is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.core.units import human
from ergometry.equations.priced import read_priced
from ergometry.equations.readings import Readings
from ergometry.planning.belief import Belief
from ergometry.planning.descent import descent
from ergometry.planning.history import History, loss_by_step, of_another_job, read_history, settled
from ergometry.planning.learning_rate import LearningRate, rescaled
from ergometry.planning.operating_points import OperatingPoint, Split, nonnegative
from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts

Array = npt.NDArray[np.float64]

LEAST_SHARE = 0.05
"""A batch size that fewer of the steps have is a remainder at the end of an epoch, not a setting."""

_BESIDES = 0.02
_PARTS = 10
_WATT = 1.0
"""Boards round their limits to whole watts."""


@dataclass(frozen=True)
class Known:
    """What runs of one job offer to a plan.

    Attributes:
        points: operating points.
        history: what their losses say.
        split: what a calibration says of the first run's step; None without one.
        limits_w: the least and the greatest power limit that the first run's boards can be set to; None if untold.
        remarks: what was left out, and what the plan does not count.
    """

    points: tuple[OperatingPoint, ...]
    history: History
    split: Split | None
    limits_w: tuple[float, float] | None
    remarks: tuple[str, ...]


def read(runs: Sequence[Run], target_loss: float | None = None, elsewhere: Sequence[Belief] = ()) -> Known:
    """Return what runs of one job offer to a plan. A run that offers nothing is left out, and a remark says so.

    ``elsewhere`` is what else is known of B_c (:mod:`~ergometry.planning.other_sizes`).
    """
    if not runs:
        raise UsageError(expected="one run or more", got="none", remedy="record one with erg run")
    books = [accounts(run) for run in runs]
    points: list[OperatingPoint] = []
    remarks: list[str] = []
    for run, one in zip(runs, books, strict=True):
        found = points_of(run, one)
        if of_another_job(run, runs[0]):
            continue  # what is known of steps says so
        if run.meta.get("devices") != runs[0].meta.get("devices"):
            remarks.append(f"{run.id} ran on other devices: its time and energy are left out")
        elif not found:
            remarks.append(f"{run.id} has no steps of known batch size and energy: its time and energy are left out")
        else:
            points += found
    if not points:
        raise UsageError(
            expected="training steps of known batch size and energy",
            got=f"none in {', '.join(run.id for run in runs)}",
            remedy="give the batch size with --examples, and a power source or its model (see erg doctor)",
        )
    history = read_history(runs, target_loss, elsewhere)
    remarks = [*remarks, *history.remarks, *_besides(runs[0])]
    return Known(tuple(points), history, _split(runs[0], books[0]), limits_of(books[0]), tuple(remarks))


def _besides(run: Run) -> list[str]:
    steps = run.table(series.STEPS)
    share = 1.0 - float(np.sum(steps["t1_s"] - steps["t0_s"])) / run.duration_s if run.duration_s > 0 else 0.0
    if share < _BESIDES:
        return []
    return [f"time and energy are those of training steps; set-up and evaluation took {share:.0%} of {run.id} besides"]


def largest_batch(runs: Sequence[Run], memory_bytes: float) -> float | None:
    """Return the largest batch size that is sure to fit in memory; None where no run tells its peak.

    With the peaks M of two batch sizes or more, M = M0 + m·B by least squares; with one, all of it is taken to grow
    with the batch, which no batch size above can exceed.

    Raises:
        UsageError: the memory is not positive, or less than the smallest batch size needs.
    """
    if not (math.isfinite(memory_bytes) and memory_bytes > 0):
        raise UsageError(expected="a positive memory", got=f"{memory_bytes:g} bytes", remedy="such as 80 GB")
    known = [(batch, peak) for run in runs if (found := _peak(run)) is not None for batch, peak in [found]]
    if not known:
        return None
    batch, peak = np.array(known, dtype=np.float64).T
    fixed, each = 0.0, float(np.max(peak / batch))
    if len(np.unique(batch)) > 1:
        (fixed, each), _ = nonnegative([np.ones_like(batch), batch], peak, peak)
    if fixed + each * float(batch.min()) > memory_bytes:
        raise UsageError(
            expected=f"a memory that holds batch size {batch.min():g}",
            got=f"{human(memory_bytes, 'B')}, where {human(fixed + each * float(batch.min()), 'B')} were used",
            remedy="state the memory of one device",
        )
    return (memory_bytes - fixed) / each if each > 0 else math.inf


def _peak(run: Run) -> tuple[float, float] | None:
    """Return the largest batch size of a run and its peak memory, of an accelerator if it used one."""
    table, sizes = run.table(series.MEMORY), settled(run)[:, 2]
    sizes = sizes[np.isfinite(sizes)]
    of = table["device"] >= 0 if np.any(table["device"] >= 0) else np.ones(len(table), dtype=bool)
    peak = table["peak_bytes"][of]
    return (float(sizes.max()), float(peak.max())) if len(peak) and len(sizes) and peak.max() > 0 else None


def points_of(run: Run, books: Accounts) -> tuple[OperatingPoint, ...]:
    """Return the operating points of a run: one for each batch size that many of its steps have.

    Energy is that of the cover over the steps' own time, evaluation and set-up left out; its error is that of the
    run's total, relative, since one gain lies behind all of it, and that of the mean over the steps.
    """
    steps, traces = settled(run), list(books.metered.cover().values())
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
        error_j = math.hypot(relative * step_j, _error_of_mean(joules[of]))
        found.append(
            OperatingPoint(float(size), step_s, step_j, _error_of_mean((t1 - t0)[of]), error_j, limit_w, run.id)
        )
    return tuple(found)


def _error_of_mean(x: Array) -> float:
    """Return the standard error of a mean of steps in order: by the steps, or by parts of the run where that is more.

    Other load comes and goes for many steps at a time, which the scatter from step to step does not show.
    """
    single = float(np.std(x, ddof=1)) / math.sqrt(len(x))
    if len(x) < 2 * _PARTS:
        return single
    parts = [float(np.mean(part)) for part in np.array_split(x, _PARTS)]
    return max(single, float(np.std(parts, ddof=1)) / math.sqrt(_PARTS))


def _limit_w(run: Run) -> float | None:
    """Return the power limit that the run's boards had together; None where none tells."""
    health = run.table(series.HEALTH)
    if not len(health):
        return None
    limits = [np.median(health["power_limit_w"][health["board"] == board]) for board in np.unique(health["board"])]
    return float(np.sum(limits)) if np.all(np.isfinite(limits)) else None


def limits_of(books: Accounts) -> tuple[float, float] | None:
    """Return the least and the greatest power limit that a run's boards can be set to together; None if untold."""
    names = {board.name for board in books.boards}
    signals = [trace.signal for domain, trace in books.metered.traces.items() if domain.path.split("/")[-1] in names]
    ranges = [(s.least_limit_w, s.greatest_limit_w) for s in signals]
    least, greatest = [low for low, _ in ranges if low is not None], [high for _, high in ranges if high is not None]
    return (math.fsum(least), math.fsum(greatest)) if len(least) == len(greatest) == len(ranges) > 0 else None


def check_limits(points: Sequence[OperatingPoint], limits_w: tuple[float, float] | None) -> None:
    """Refuse points at power limits that the boards planned for cannot be set to.

    Raises:
        UsageError: one lies outside of ``limits_w``, the least and the greatest.
    """
    for point in points:
        limit = point.power_limit_w
        if limits_w is not None and limit is not None and not limits_w[0] - _WATT <= limit <= limits_w[1] + _WATT:
            raise UsageError(
                expected=f"power limits of {limits_w[0]:g} to {limits_w[1]:g} W, which the run's boards can be set to",
                got=f"{limit:g} W" + (f" in {point.source}" if point.source else ""),
                remedy="leave out the points at it",
            )


def _split(run: Run, books: Accounts) -> Split | None:
    """Return what the calibration says of a step; None without one, or where the run's work was not counted."""
    priced, static = read_priced(run, books), books.by_component["static"]
    if priced is None or not static.value or not run.duration_s > 0:
        return None
    e0d, e1d = priced.e0d.value, priced.e1d.value
    return None if e0d is None or e1d is None else Split(e0d, e1d, static.value / run.duration_s)


def rate_of(
    run: Run, readings: Readings, batch: float, optimizer: str | None = None, others: Sequence[Run] = ()
) -> LearningRate | None:
    """Return the learning rate at another batch size, by the rule of the run's optimizer; None if its own is not known.

    Args:
        run: the run whose learning rate is gone on from.
        readings: of it.
        batch: B', example/step.
        optimizer: name of its class, where the run does not tell.
        others: further runs of the job. A rate at which one trained is stable, whatever the curvature of this one said:
            curvature falls where the rate is larger.
    """
    size = readings.batch.value
    own = _rate_set(run) if readings.gradient.learning_rate.value is None else readings.gradient.learning_rate.value
    if own is None or not own > 0 or not size:
        return None
    limit = readings.curvature.limit.value
    if limit is not None and limit > 0:
        limit = max([limit, *(1.01 * rate for other in others if (rate := _trained_at(other)) is not None)])
    found = rescaled(
        own,
        size,
        batch,
        optimizer=optimizer or optimizer_of(run) or "",
        b_noise=readings.noise.b_noise.value,
        limit=limit if limit is not None and limit > 0 else None,
    )
    return replace(found, several=_several_rates(run))


def _several_rates(run: Run) -> bool:
    """Say whether a run's optimizers or their groups began at rates of their own."""
    rates = run.table(series.LEARNING_RATES)
    _, first = np.unique(np.column_stack([rates["optimizer"], rates["group"]]), axis=0, return_index=True)
    return len(np.unique(rates["lr"][first])) > 1


def _trained_at(run: Run) -> float | None:
    """Return the learning rate of a run that trained; None if it diverged or its rate is not known."""
    found = descent(loss_by_step(run))
    return None if found is None or found.diverged else _rate_set(run)


def _rate_set(run: Run) -> float | None:
    """Return the median of the learning rates that a run set."""
    rates = run.table(series.LEARNING_RATES)["lr"]
    rates = rates[np.isfinite(rates) & (rates > 0)]
    return float(np.median(rates)) if len(rates) else None


def optimizer_of(run: Run) -> str | None:
    """Return the class of the run's optimizer, None where it was not seen."""
    profiles = run.meta.get("profiles") or ()
    return next((str(p["root"]) for p in profiles if p.get("phase") == "optimizer" and p.get("root")), None)
