"""Equilibration (E4): whether a run hovers in a stationary state, by the fluctuation–dissipation relation of SGD."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import EQUILIBRIUM
from ergometry.estimators.stretches import Array, Stretches, function
from ergometry.estimators.tapped import last_rate, why_none

METHOD = "E4, ⟨θ·g⟩ = (1+μ)/(2η)·⟨|Δθ|²⟩"
NEEDS = "needs θ·g and |Δθ|² of several optimizer steps"
TOO_FEW = "needs two looks at steps of one learning rate at least: there is {}"

STRETCHES = 32
"""Stretches that the error is told from: each is then long enough for the correlation of neighbouring steps."""


@dataclass(frozen=True)
class Equilibration:
    """The two sides of ⟨θ·g⟩ = (1+μ)/(2η)·⟨|Δθ|²⟩ (Yaida 2018, 1810.00004), which a stationary state makes equal.

    A necessary condition: they are equal in every stationary state of SGD with heavy-ball momentum, coupled decay in
    g, and cross by chance on the way there too. Without momentum 2η(θ·g) − |Δθ|² is −Δ|θ|², step by step: over steps
    that are all sampled the difference is what |θ|² has changed by, and its standard error is too large.

    Attributes:
        theta_g: left side, loss.
        dissipation: right side, loss.
        ratio: left over right; 1 in a stationary state.
        z: their difference over its standard error; within ±2 nothing speaks against a stationary state.
        rows: steps looked at.
        since: first step of the stretch.
    """

    theta_g: Estimate
    dissipation: Estimate
    ratio: Estimate
    z: Estimate
    rows: int = 0
    since: float = math.nan

    @property
    def eligible(self) -> bool:
        """Whether both sides are known: the optimizer is one of which the relation is stated."""
        return self.dissipation.known


class EquilibrationEstimator:
    """The two sides from (step, θ·g, (1+μ)/(2η)·|Δθ|²) of many steps, all at one learning rate.

    Standard errors are those of means of a stationary process, from at most 32 stretches of its path: steps that are
    correlated over less than such a stretch do not spoil them.
    """

    def init(self) -> Stretches:
        """Return the state of no step."""
        return Stretches.zero(2, STRETCHES)

    def update(self, state: Stretches, x: tuple[float, float, float], /) -> Stretches:
        """Return the state with one more step."""
        return state.add(x[0], x[1:])

    def merge(self, a: Stretches, b: Stretches, /) -> Stretches:
        """Return the state of both sets of steps."""
        return a.merge(b)

    def of(self, rows: Array) -> Stretches:
        """Return the state of (n, 3) steps."""
        return Stretches.of(rows[:, 0], rows[:, 1:], STRETCHES)

    def result(self, state: Stretches, /) -> Equilibration:
        """Return the two sides, their ratio and how far apart they are."""
        if not state.n:
            return _unknown(TOO_FEW.format("none"))
        (left, right), covariance = state.mean, state.stationary()
        errors = [None, None] if covariance is None else [math.sqrt(max(covariance[i, i], 0.0)) for i in range(2)]
        ratio = Estimate.unknown("", "the parameters did not move")
        if right > 0:
            value, error = function(
                state.mean, covariance, lambda m: float(m[0] / m[1]), lambda m: np.array([1.0, -m[0] / m[1]]) / m[1]
            )
            ratio = Estimate(value, error, "", Provenance.DERIVED, METHOD)
        apart, spread = function(state.mean, covariance, lambda m: float(m[0] - m[1]), lambda _: np.array([1.0, -1.0]))
        z = Estimate.unknown("", TOO_FEW.format("one"))
        if spread:
            z = Estimate(apart / spread, 1.0, "", Provenance.DERIVED, f"{METHOD}, difference over its standard error")
        return Equilibration(
            Estimate(float(left), errors[0], "loss", Provenance.DERIVED, METHOD),
            Estimate(float(right), errors[1], "loss", Provenance.DERIVED, METHOD),
            ratio,
            z,
            state.n,
        )


def _unknown(why: str) -> Equilibration:
    loss, number = Estimate.unknown("loss", why), Estimate.unknown("", why)
    return Equilibration(loss, loss, number, number)


def last_stretch(run: Run) -> tuple[Table, str]:
    """Return the rows of ``EQUILIBRIUM`` since the learning rate last changed, and how many were not finite."""
    table, since = run.table(EQUILIBRIUM), last_rate(run).since
    rows = table.rows[table["step"] >= (since if math.isfinite(since) else 0.0)]
    finite = np.all(np.isfinite(rows[:, [1, 3]]), axis=1)
    broken = len(rows) - int(np.count_nonzero(finite))
    return Table(table.columns, rows[finite]), f"{broken} steps are not finite and add nothing" if broken else ""


def read_equilibration(run: Run) -> Equilibration:
    """Return both sides over the last stretch of constant learning rate, or why there are none.

    The sums over sampled parameters were scaled up to all of them. Since the blocks are the same at every step, their
    sampling error is in the standard error of each side, and not in their ratio or difference: the relation holds
    for every parameter by itself.
    """
    if not len(run.table(EQUILIBRIUM)):
        return _unknown(why_none(run, "equilibrium", NEEDS))
    rate, (table, broken) = last_rate(run), last_stretch(run)
    if not len(table):
        return _unknown(f"{NEEDS}, at the learning rate that the run ended with; {broken or 'there is none'}")
    why_not = rate.why
    if not np.all(table["eligible"] == 1):
        why_not = why_none(run, "equilibrium", "needs plain SGD, of which the relation is stated").split(": none were")[
            0
        ]
    momentum = float(table["momentum"][-1])
    factor = (1.0 + momentum) / (2.0 * rate.eta) if not why_not else 1.0
    estimator = EquilibrationEstimator()
    sides = np.column_stack((table["step"], table["theta_g"], factor * table["dtheta_sq"]))
    found = estimator.result(estimator.of(sides))
    facts = [
        f"{len(table)} steps from step {table['step'][0]:g} on, all at the last learning rate",
        broken,
        "" if table["sampled"][-1] >= table["parameters"][-1] else "scaled up from blocks of parameters",
    ]
    said = "; ".join(fact for fact in facts if fact)
    theta_g = _with_blocks(found.theta_g, table["theta_g_stderr"], said)
    if why_not:
        other = _unknown(why_not)
        return replace(other, theta_g=theta_g, rows=len(table), since=float(table["step"][0]))
    return replace(
        found,
        theta_g=theta_g,
        dissipation=_with_blocks(found.dissipation, factor * table["dtheta_sq_stderr"], said),
        ratio=replace(found.ratio, why=found.ratio.why or said),
        z=replace(found.z, why=found.z.why or said),
        since=float(table["step"][0]),
    )


def _with_blocks(e: Estimate, block_errors: Array, said: str) -> Estimate:
    """Return a side with the sampling error of the blocks, which every step shares."""
    stderr = None if e.stderr is None else math.hypot(e.stderr, float(np.mean(block_errors)))
    return replace(e, stderr=stderr, why=said)
