"""Plan: from operating points and what is known of B_c to the batch size, power limit, duration and energy of a run.

A candidate is a batch size at a power limit. Reaching the goal takes S(B) steps, S(B)·t(B) seconds and S(B)·E(B)
joules, each known as draws of a distribution. The plan is the best use of the candidates at the medians
(:mod:`~ergometry.planning.optimum`); its intervals, and the chance that each budget holds, are over the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.budget import Budget
from ergometry.core.errors import UsageError
from ergometry.core.units import human
from ergometry.planning.belief import Belief
from ergometry.planning.caveats import caveats, edge
from ergometry.planning.operating_points import OperatingPoint, Split, StepCosts, fit_costs, usable
from ergometry.planning.optimum import Infeasible, Mixture, best, lower_hull
from ergometry.planning.steps_to_target import ratio

Array = npt.NDArray[np.float64]

REACH = 16.0
"""Batch sizes are planned up to this factor beyond those measured, either way."""

_PER_OCTAVE, _FINE = 2, 16
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Range:
    """A quantity of the plan: its median and the 90 % interval. ``low``, ``value``, ``high`` in ``unit``."""

    low: float
    value: float
    high: float
    unit: str

    @classmethod
    def of(cls, draws: Array, unit: str) -> Range:
        """Return the median and the 90 % interval of draws; those that are infinite count as such."""
        low, value, high = np.quantile(draws, _QUANTILES, method="inverted_cdf")
        return cls(float(low), float(value), float(high), unit)

    def __str__(self) -> str:
        return f"{human(self.value, self.unit)} [{human(self.low, self.unit)}, {human(self.high, self.unit)}]"

    def to_json(self) -> dict[str, float | str | None]:
        """Return it as JSON; what is never reached is null."""
        found = {name: getattr(self, name) for name in ("low", "value", "high")}
        return {**{name: x if math.isfinite(x) else None for name, x in found.items()}, "unit": self.unit}


@dataclass(frozen=True)
class Goal:
    """How many steps the goal takes at one batch size, as draws (n,), infinite where it is never reached.

    ``words`` says what the goal is: the loss that the run reached, or a target. ``critical`` (n,) are draws of B_c that
    go with those of the steps, where the same runs told both; None: they are independent.
    """

    batch: float
    steps: Array
    words: str
    critical: Array | None = None


@dataclass(frozen=True)
class Setting:
    """One part of a plan: a batch size at a power limit (None: as the machine is set) for a share of the progress."""

    batch: int
    power_limit_w: float | None
    share: float
    steps: Range
    time: Range
    energy: Range


@dataclass(frozen=True)
class FrontPoint:
    """One corner of the time–energy front."""

    batch: int
    power_limit_w: float | None
    time_s: float
    energy_j: float


@dataclass(frozen=True)
class Plan:
    """What to set, what it should take, and how sure that is.

    Attributes:
        settings: one, or two that share the time.
        time: duration, s.
        energy: J.
        power: mean power, W.
        best_batch: the batch size of least cost, over all that is not known.
        saving: share of the energy saved against going on as measured; None where that never reaches the goal.
        binding: budgets that hold the plan back from a better one.
        holds: chance that each budget holds.
        front: the time–energy front at the medians, from the fastest to the cheapest.
        critical_batch: what was taken of B_c.
        goal: in words.
        remarks: what to know before it is trusted.
    """

    settings: tuple[Setting, ...]
    time: Range
    energy: Range
    power: Range
    best_batch: Range
    saving: Range | None
    binding: tuple[str, ...]
    holds: dict[str, float]
    front: tuple[FrontPoint, ...]
    critical_batch: Belief
    goal: str
    remarks: tuple[str, ...]


def plan(  # noqa: PLR0913 - what is known, what is wanted, what is allowed
    points: Sequence[OperatingPoint],
    critical_batch: Belief,
    goal: Goal,
    *,
    budget: Budget | None = None,
    energy_weight: float = 1.0,
    max_power_w: float | None = None,
    max_batch: float | None = None,
    batches: Sequence[int] | None = None,
    split: Split | None = None,
    remarks: Sequence[str] = (),
    seed: int = 0,
) -> Plan:
    """Return the plan that makes w·energy + (1 − w)·P_max·time least within a budget.

    Args:
        points: measured.
        critical_batch: what is known of B_c.
        goal: steps to the goal at one batch size.
        budget: limits; none by default.
        energy_weight: w; 1 for the least energy, 0 for the least time.
        max_power_w: P_max, the price of time where w < 1; the largest power seen by default.
        max_batch: no batch size above, as one that does not fit in memory.
        batches: the batch sizes to choose from; else half octaves around those measured.
        split: see :func:`~ergometry.planning.operating_points.fit_costs`.
        remarks: what else is to be told with the plan.
        seed: of the draws.

    Raises:
        UsageError: no use of the points meets the budget (the nearest that could is named); the goal is never
            reached; a weight outside of [0, 1]; no batch size is left.
    """
    budget = Budget() if budget is None else budget
    if not 0.0 <= energy_weight <= 1.0:
        raise UsageError(
            expected="a weight of energy from 0 to 1",
            got=f"{energy_weight:g}",
            remedy="1 is energy alone, 0 time alone",
        )
    given = len(points)
    points = usable(points)
    if len(points) < given:
        remarks = [*remarks, f"{given - len(points)} of {given} points are no measurements: they are left out"]
    costs = fit_costs(points, split=split, draws=len(goal.steps), seed=seed)
    grid = np.array(_grid(points, goal.batch, max_batch, batches), dtype=np.float64)
    critical = goal.critical
    if critical is None:
        critical = critical_batch.draws(np.random.default_rng(seed + 1), len(goal.steps))
    shape = ratio(grid, goal.batch, critical[:, None])  # (n, B)
    steps = goal.steps[:, None] * shape
    step_s, step_j = costs.time_s(grid), costs.energy_j(grid)  # (L, n, B)
    times, energies, powers = (_rows(x) for x in (steps * step_s, steps * step_j, step_j / step_s))
    if not np.any(np.isfinite(np.median(times, axis=1))):
        reached = float(np.mean(np.isfinite(goal.steps)))
        raise UsageError(
            expected=f"a goal that is reached: {goal.words}",
            got=f"an extrapolation in which {1 - reached:.0%} of the draws never do",
            remedy="aim at a higher loss, or record a longer run",
        )
    t, e, p = (_medians(rows) for rows in (times, energies, powers))
    price_w = max(point.power_w for point in points) if max_power_w is None else max_power_w
    weight, price = energy_weight, (1.0 - energy_weight) * price_w
    found = best(t, e, p, budget, energy_weight=weight, time_price_w=price)
    if isinstance(found, Infeasible):
        raise _infeasible(found, budget)

    def spared(use: Mixture, weight: float, price: float) -> Array:
        return _spared(costs, use, grid, points[0], goal.batch, critical, weight, price)

    stay = _as_run(costs, grid, points[0], goal.batch)
    if (
        stay is not None
        and tuple(found.shares) != (stay,)
        and _within(t[stay], e[stay], p[stay], budget, t)
        and Range.of(spared(found, weight, price), "").value <= 0
    ):
        found = Mixture({stay: 1.0}, float(t[stay]), float(e[stay]), found.binding)
        remarks = [*remarks, "no other setting is more likely than not to cost less than the one measured: it is kept"]
    # Which batch size is best does not hang on how far the goal is, reached or not.
    fine = (
        grid
        if batches is not None
        else np.geomspace(grid[0], grid[-1], 1 + _FINE * round(math.log2(grid[-1] / grid[0])))
    )
    per_step = weight * costs.energy_j(fine) + price * costs.time_s(fine)
    least = np.min(ratio(fine, goal.batch, critical[:, None]) * per_step, axis=0)  # over power limits
    best_batch = fine[np.argmin(least, axis=1)]
    return _plan(
        found,
        _Candidates(costs.limits_w, grid, t, e, times, energies, np.tile(steps.T, (len(costs.limits_w), 1))),
        best_batch,
        points=points,
        costs=costs,
        critical_batch=critical_batch,
        goal=goal,
        budget=budget,
        saving=Range.of(spared(found, 1.0, 0.0), "") if np.any(np.isfinite(goal.steps)) else None,
        calibrated=split is not None,
        remarks=remarks,
    )


def _rows(x: Array) -> Array:
    """Return (L·B, n) of (L, n, B): candidates as rows, batch sizes fastest."""
    return np.asarray(np.moveaxis(x, 1, 2).reshape(-1, x.shape[1]))


@dataclass(frozen=True)
class _Candidates:
    """(L·B,) medians and (L·B, n) draws of all candidates, batch sizes fastest."""

    limits_w: tuple[float | None, ...]
    grid: Array
    time_s: Array
    energy_j: Array
    times_s: Array
    energies_j: Array
    steps: Array

    def batch(self, i: int) -> int:
        return round(float(self.grid[i % len(self.grid)]))

    def limit_w(self, i: int) -> float | None:
        return self.limits_w[i // len(self.grid)]


def _medians(rows: Array) -> Array:
    """Return the median of each row, the lower of the two middle ones: one that was drawn, infinite or not."""
    middle = (rows.shape[1] - 1) // 2
    return np.asarray(np.partition(rows, middle, axis=1)[:, middle])


def _grid(
    points: Sequence[OperatingPoint], batch: float, max_batch: float | None, batches: Sequence[int] | None
) -> list[int]:
    measured = {round(point.batch) for point in points} | {round(batch)}
    if batches is not None:
        grid = sorted({int(b) for b in batches if b >= 1})
    else:
        low, high = min(measured) / REACH, max(measured) * REACH
        octaves = range(math.ceil(_PER_OCTAVE * math.log2(max(low, 1.0))), int(_PER_OCTAVE * math.log2(high)) + 1)
        grid = sorted({round(2.0 ** (k / _PER_OCTAVE)) for k in octaves} | {b for b in measured if b >= 1})
    kept = [b for b in grid if max_batch is None or b <= max_batch]
    if not kept:
        raise UsageError(
            expected="a batch size to choose from",
            got=f"none of {', '.join(map(str, grid)) or 'an empty list'} up to {max_batch:g}",
            remedy="allow a larger one, or name smaller ones",
        )
    return kept


def _infeasible(found: Infeasible, budget: Budget) -> UsageError:
    units = {"energy": "J", "power": "W", "time": "s"}
    limits = ", ".join(
        f"{name} {human(value, units[name]) if name in units else f'{value:.2%}'}"
        for name, value in budget.limits.items()
    )
    nearest = " or ".join(f"{name} {human(value, units[name])}" for name, value in found.nearest.items())
    return UsageError(
        expected="a budget that some setting meets",
        got=f"{limits}, where {' and '.join(found.binding)} bind" + ("s" if len(found.binding) == 1 else ""),
        remedy=f"the nearest that can be met is {nearest}",
    )


def _plan(  # noqa: PLR0913 - everything that the plan tells of
    found: Mixture,
    candidates: _Candidates,
    best_batch: Array,
    *,
    points: Sequence[OperatingPoint],
    costs: StepCosts,
    critical_batch: Belief,
    goal: Goal,
    budget: Budget,
    saving: Range | None,
    calibrated: bool,
    remarks: Sequence[str],
) -> Plan:
    shares = found.shares
    times = np.sum([share * candidates.times_s[i] for i, share in shares.items()], axis=0)
    energies = np.sum([share * candidates.energies_j[i] for i, share in shares.items()], axis=0)
    with np.errstate(invalid="ignore"):
        powers = np.where(np.isfinite(times), energies / times, np.nan)
    settings = tuple(
        Setting(
            candidates.batch(i),
            candidates.limit_w(i),
            share,
            Range.of(share * candidates.steps[i], "step"),
            Range.of(share * candidates.times_s[i], "s"),
            Range.of(share * candidates.energies_j[i], "J"),
        )
        for i, share in shares.items()
    )
    hull = lower_hull(candidates.time_s, candidates.energy_j)
    return Plan(
        settings=settings,
        time=Range.of(times, "s"),
        energy=Range.of(energies, "J"),
        power=Range.of(powers[np.isfinite(powers)], "W"),
        best_batch=Range.of(best_batch, "example/step"),
        saving=saving,
        binding=found.binding,
        holds=_holds(times, energies, powers, candidates, budget),
        front=tuple(
            FrontPoint(
                candidates.batch(i), candidates.limit_w(i), float(candidates.time_s[i]), float(candidates.energy_j[i])
            )
            for i in hull.tolist()
        ),
        critical_batch=critical_batch,
        goal=goal.words,
        remarks=(
            *remarks,
            *caveats(settings, points, costs, critical_batch, goal, calibrated=calibrated),
            *edge(candidates.grid, best_batch),
        ),
    )


def _spared(  # noqa: PLR0913 - two settings, and what they cost
    costs: StepCosts,
    found: Mixture,
    grid: Array,
    ran: OperatingPoint,
    batch: float,
    critical: Array,
    weight: float,
    price: float,
) -> Array:
    """Return draws of the share of weight·energy + price·time saved against the batch size and the limit that were run.

    By the same laws: how far the goal is and the meter's gain are in both, and cancel.
    """
    at = np.array([batch])
    before = weight * costs.energy_j(at) + price * costs.time_s(at)
    each = _rows(ratio(grid, batch, critical[:, None]) * (weight * costs.energy_j(grid) + price * costs.time_s(grid)))
    after = np.sum([share * each[i] for i, share in found.shares.items()], axis=0)
    return np.asarray(1.0 - after / before[costs.limits_w.index(ran.power_limit_w), :, 0])


def _as_run(costs: StepCosts, grid: Array, ran: OperatingPoint, batch: float) -> int | None:
    """Return which candidate is the batch size and the limit that were run; None where it is none."""
    here = np.flatnonzero(grid == batch)
    return int(costs.limits_w.index(ran.power_limit_w) * len(grid) + here[0]) if len(here) else None


def _within(time_s: float, energy_j: float, power_w: float, budget: Budget, times_s: Array) -> bool:
    """Say whether a candidate meets every budget at the medians."""
    limits = budget.limits
    if budget.slowdown is not None:
        limits["slowdown"] = (1.0 + budget.slowdown) * float(np.min(times_s[np.isfinite(times_s)]))
    found = {"energy": energy_j, "power": power_w, "time": time_s, "slowdown": time_s}
    return all(found[name] <= limit for name, limit in limits.items())


def _holds(times: Array, energies: Array, powers: Array, candidates: _Candidates, budget: Budget) -> dict[str, float]:
    found = {}
    for name, draws in (("energy", energies), ("power", powers), ("time", times)):
        limit = budget.limits.get(name)
        if limit is not None:
            found[name] = float(np.mean(draws <= limit * (1 + 1e-9)))
    if budget.slowdown is not None:
        fastest = np.min(candidates.times_s, axis=0)
        found["slowdown"] = float(np.mean(times <= (1.0 + budget.slowdown) * fastest * (1 + 1e-9)))
    return found
