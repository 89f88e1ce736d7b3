"""Path cost (4.2(ii)): what the parameters' path cost, the least that any path between its ends costs, their ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.core.series import PATH, STEPS
from ergometry.estimators.sampling import Array, Observations, sample_steps
from ergometry.estimators.tapped import why_none

COST, LEAST = "4.2(ii), Σ_i Σ_k Δθ_ik²/η_ik", "4.2(ii), Σ_i (θ_T−θ_0)_i²/Σ_k η_ik"
NEEDS = "needs the parameters' initial snapshot θ_0 and two optimizer steps"
_GEOMETRIC = "a loss for plain SGD, otherwise a geometric length"

_COLUMNS = (
    "steps",
    "step_cost",
    "cost",
    "cost_stderr",
    "coarse_cost",
    "least_cost",
    "least_cost_stderr",
    "optimality_stderr",
)


@dataclass(frozen=True)
class PathCost:
    """A path's cost and the least of any path between the same ends at the same learning rates (Cauchy–Schwarz).

    Attributes:
        cost: Σ_i Σ_k Δθ_ik²/η_ik, loss for plain SGD.
        least: Σ_i (θ_T−θ_0)_i²/Σ_k η_ik ≤ ``cost``, same unit.
        optimality: least over cost, in [0, 1].
        steps: K.
        looks: steps that were looked at; where they are all, the inequality is exact for the parameters followed.
    """

    cost: Estimate
    least: Estimate
    optimality: Estimate
    steps: int = 0
    looks: int = 0


@dataclass(frozen=True)
class _Sums:
    """Of one path or several: cost, least cost, cost through the looks; variances of the first two and covariance."""

    cost: float
    least: float
    coarse: float
    cost_var: float
    least_var: float
    covariance: float

    def __add__(self, other: _Sums) -> _Sums:
        pairs = zip(self._all, other._all, strict=True)
        return _Sums(*(x + y for x, y in pairs))

    @property
    def _all(self) -> tuple[float, ...]:
        return self.cost, self.least, self.coarse, self.cost_var, self.least_var, self.covariance


class PathCostEstimator:
    """The cost of one path, from looks at it.

    A look is (steps so far, cost of its step; of the path so far its cost and standard error, cost through the looks,
    least cost and standard error, standard error of the ratio).

    The last look tells of the whole path; how the cost of single steps varies from look to look tells the error
    of the steps between them, which is in that of ``cost`` and ``optimality``. ``least`` has none of it: it
    asks for the ends and the learning rates alone. The path through the looks costs at most what the path does, so
    that no estimate of the cost below it is given: then ``optimality`` is the bound from above, and says so.

    >>> path = PathCostEstimator()
    >>> first = path.update(path.init(), (1, 1.0, 1.0, 0, 1.0, 1.0, 0, 0))
    >>> print(path.result(path.update(first, (2, 2.0, 3.0, 0, 3.0, 2.4, 0, 0))).optimality)
    0.8 ± 0 (derived: least over cost of the path)
    """

    def init(self) -> Observations:
        """Return the state of no look."""
        return Observations.zero(len(_COLUMNS))

    def update(self, state: Observations, x: Sequence[float], /) -> Observations:
        """Return the state with one more look."""
        return state.add(x)

    def merge(self, a: Observations, b: Observations, /) -> Observations:
        """Return the state of both sets of looks at one path."""
        return a.merge(b)

    def result(self, state: Observations, /) -> PathCost:
        """Return cost, least cost and optimality of the path up to the last look."""
        return self.together([state])

    def together(self, states: Sequence[Observations]) -> PathCost:
        """Return the same of several optimizers' paths: their costs add, their errors are independent."""
        paths = [state.rows for state in states if len(state.rows) and state.rows[-1, 0] >= 2]  # one step is direct
        if not paths:
            return _unknown(NEEDS)
        sums = [_sums(rows) for rows in paths]
        whole, known = sum(sums[1:], sums[0]), all(math.isfinite(x.cost_var) for x in sums)
        steps, looks = (int(sum(column)) for column in zip(*((rows[-1, 0], len(rows)) for rows in paths), strict=True))
        sampled = f"from {looks} of {steps} steps" if looks < steps else ""
        ratio_why, cost = sampled, whole.cost
        if whole.coarse > cost * (1.0 + 1e-12):
            cost = whole.coarse
            sampled += ", which told less than the path through the looks costs: that is given, the true cost is more"
            ratio_why = f"from above: {sampled}"
        elif sampled and whole.coarse > 0:
            ratio_why += (
                f"; at most {whole.least / whole.coarse:.3g} by the path through the looks, whatever was between"
            )
        facts = "; ".join(fact for fact in (_GEOMETRIC, sampled) if fact)
        optimality = Estimate.unknown("", "the parameters did not move")
        if cost > 0:
            ratio = whole.least / cost
            variance = whole.least_var + ratio * (ratio * whole.cost_var - 2.0 * whole.covariance)
            error = math.sqrt(max(variance, 0.0)) / cost if known else None
            optimality = Estimate(ratio, error, "", Provenance.DERIVED, "least over cost of the path", ratio_why)
        return PathCost(
            Estimate(cost, math.sqrt(whole.cost_var) if known else None, "loss", Provenance.DERIVED, COST, facts),
            Estimate(whole.least, math.sqrt(whole.least_var), "loss", Provenance.DERIVED, LEAST, _GEOMETRIC),
            optimality,
            steps,
            looks,
        )


def _sums(rows: Array) -> _Sums:
    """Return the sums of one path; ``cost_var`` is NaN where one look stands for several steps."""
    at = dict(zip(_COLUMNS, map(float, rows[-1]), strict=True))
    _, between = sample_steps(rows[:, 0], np.arange(1.0, at["steps"] + 1.0)).total(rows[:, 1], np.zeros(len(rows)))
    cost, least = at["cost"], at["least_cost"]
    cost_var, least_var = at["cost_stderr"] ** 2, at["least_cost_stderr"] ** 2
    # The errors of the two and of least − ratio·cost, over the same blocks, tell what they share.
    ratio = least / cost if cost > 0 else 0.0
    apart = (at["optimality_stderr"] * cost) ** 2
    covariance = (least_var + ratio**2 * cost_var - apart) / (2.0 * ratio) if ratio > 0 else 0.0
    return _Sums(
        cost, least, at["coarse_cost"], cost_var + (math.nan if between is None else between**2), least_var, covariance
    )


def _unknown(why: str) -> PathCost:
    loss = Estimate.unknown("loss", why)
    return PathCost(loss, loss, Estimate.unknown("", why))


def read_path(run: Run) -> PathCost:
    """Return cost, least cost and optimality of a run's path, of each optimizer from where its last path began.

    A path begins with the optimizer's first step, and anew where the parameters changed without it.
    """
    table, estimator = run.table(PATH), PathCostEstimator()
    if not len(table):
        return _unknown(why_none(run, "path", NEEDS))
    states, since = [], []
    for number in np.unique(table["optimizer"]):
        rows = table.rows[table["optimizer"] == number]
        rows = rows[rows[:, 2] == rows[-1, 2]]
        if rows[-1, 3] >= 2:
            states.append(Observations(rows[:, [table.columns.index(name) for name in _COLUMNS]]))
            since.append(float(rows[0, 2]))
    found = estimator.together(states)
    if not found.steps:
        return _unknown(why_none(run, "path", NEEDS).removesuffix(": none were recorded (physics off?)"))
    facts = []
    if max(since) > 0:
        told = ((run.meta.get("physics") or {}).get("taps") or {}).get("path") or {}
        facts.append(f"since step {max(since):g}" + (f": {told['why']}" if told.get("why") else ""))
    last, every = float(table["step"].max()), run.table(STEPS)["step"]
    if len(every) and last < every.max():
        facts.append(f"up to step {last:g}, the last that was looked at")
    if len(states) > 1:
        facts.append(f"of {len(states)} optimizers, each its own path")
    if np.any(table["sampled"] < table["parameters"]):
        facts.append("scaled up from blocks of parameters")

    def said(e: Estimate) -> Estimate:
        return replace(e, why="; ".join(fact for fact in (e.why, *facts) if fact)) if e.known else e

    return replace(found, cost=said(found.cost), least=said(found.least), optimality=said(found.optimality))
