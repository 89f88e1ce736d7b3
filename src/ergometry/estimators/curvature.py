"""Curvature along a run: the Hessian's largest eigenvalue, stability, and the learning rate of steepest descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import CURVATURE, EQUILIBRIUM, LEARNING_RATES, STEPS

Array = npt.NDArray[np.float64]

HOW = {1: "exact Hessian-vector products", 2: "finite differences of gradients"}
_CONVERGED = 0.011
"""Error of a converged λ_max, relative: what the tap of curvature goes for."""
NO_CURVATURE = (
    "needs the Hessian's products with vectors: none were taken (physics off, or a run too short to pay them)"
)


def stability_limit(largest: float, momentum: float = 0.0) -> float:
    """Largest learning rate at which (heavy-ball) SGD is stable on a quadratic, η < 2(1+μ)/λ_max, in 1/loss.

    The characteristic polynomial z² − (1+μ−ηλ)z + μ of an eigenvalue λ leaves the unit circle at z = −1.

    Args:
        largest: λ_max > 0, loss (parameters count as pure numbers).
        momentum: μ of the heavy ball, 0 ≤ μ < 1.

    Source: 8.2.

    >>> stability_limit(4.0, 0.9)
    0.95
    """
    return 2.0 * (1.0 + momentum) / largest


def descent_rate(grad_sq: float, along_gradient: float, noise_trace: float = 0.0, batch: float = math.inf) -> float:
    """Learning rate that lowers the expected loss most in one SGD step, η, in 1/loss.

    η = |G|²/(GᵀHG + tr(HΣ)/B), the minimum over η of E[L(θ−ηg)] = L − η|G|² + ½η²E[gᵀHg] to second order. Equal
    to [|G|²/GᵀHG]/(1+B_H/B) with B_H = tr(HΣ)/GᵀHG.

    Args:
        grad_sq: |G|² of the expected gradient, loss².
        along_gradient: GᵀHG, loss³.
        noise_trace: tr(HΣ), loss³; 0 with the GᵀHG of a minibatch's own gradient, which has tr(HΣ)/B in it.
        batch: B, examples per step.

    Source: 8.2; McCandlish 2018, derived.

    >>> descent_rate(2.0, 4.0, 32.0, 8.0)
    0.25
    """
    return grad_sq / (along_gradient + noise_trace / batch)


@dataclass(frozen=True)
class Curvature:
    """What the Hessian of a run says, at the last moment that it was looked at, and its course.

    Attributes:
        largest: λ_max, loss.
        limit: 2(1+μ)/λ_max, 1/loss: where (heavy-ball) SGD becomes unstable.
        sharpness: η/limit, for SGD; above 1 the step is too long for the sharpest direction.
        along_gradient: GᵀHG, loss³.
        noise_trace: tr(HΣ), loss³.
        trace: trH, loss.
        b_h: B_H = tr(HΣ)/GᵀHG, examples: the batch at which noise costs as much descent as curvature.
        descent: the learning rate of steepest descent, 1/loss, at the run's batch.
        step: (n,) step of each look.
        largest_path: (n,) λ_max at each look, NaN where not taken.
        limit_path: (n,) its stability limit.
        rate_path: (n,) η at each look.
    """

    largest: Estimate
    limit: Estimate
    sharpness: Estimate
    along_gradient: Estimate
    noise_trace: Estimate
    trace: Estimate
    b_h: Estimate
    descent: Estimate
    step: Array
    largest_path: Array
    limit_path: Array
    rate_path: Array


def read_curvature(run: Run, grad_sq: Estimate | None = None) -> Curvature:
    """Return the curvature of a run, as last looked at.

    Args:
        run: the stored run.
        grad_sq: unbiased |G|² (E3), loss², for the learning rate of descent; the batch's own |g|² has trΣ/B in it,
            and stands in for it only where tr(HΣ) was taken, with which the rows are already freed of it.
    """
    table = run.table(CURVATURE)
    if not len(table):
        return _unknown(_why_none(run))
    how = HOW.get(int(table["how"][-1]), "unknown products")
    momentum, facts = _momentum(run)
    largest = _last(table, "largest", "loss", f"Lanczos, {how}")
    if largest.value is not None and (largest.stderr or 0.0) > _CONVERGED * abs(largest.value):
        largest = replace(largest, why=f"{largest.why}; not converged: from below, by its error or more")
    along = _last(table, "along_gradient", "loss^3", how)
    trace = _last(table, "trace", "loss", f"Hutchinson's trace, {how}")
    noise = _last(table, "noise_trace", "loss^3", f"gradients of parts of the batch, {how}")
    if noise.value is None:
        noise = replace(
            noise, why="needs gradients of parts of a batch: accumulation, or record(loss=…), at level full"
        )
        if along.value is not None:
            along = replace(along, why="of a minibatch's own gradient: tr(HΣ)/B is in it")
    if trace.value is None:
        trace = replace(trace, why="needs level full")
    rate_path = _rates(run, table["step"])
    reach = math.nan if momentum is None else 2.0 * (1.0 + momentum)
    limit_path = np.where(table["largest"] > 0, reach / table["largest"], np.nan)
    limit = _limit(largest, momentum, facts)
    return Curvature(
        largest=largest,
        limit=limit,
        sharpness=_sharpness(limit, rate_path),
        along_gradient=along,
        noise_trace=noise,
        trace=trace,
        b_h=replace(noise / along, unit="example", method="tr(HΣ)/GᵀHG"),
        descent=_descent(run, table, along, noise, grad_sq),
        step=table["step"].copy(),
        largest_path=table["largest"].copy(),
        limit_path=limit_path,
        rate_path=rate_path,
    )


def _unknown(why: str) -> Curvature:
    names = {"largest": "loss", "limit": "1/loss", "sharpness": "", "along_gradient": "loss^3", "noise_trace": "loss^3"}
    units = names | {"trace": "loss", "b_h": "example", "descent": "1/loss"}
    none = np.zeros(0)
    return Curvature(
        **{name: Estimate.unknown(unit, why) for name, unit in units.items()},
        step=none,
        largest_path=none,
        limit_path=none,
        rate_path=none,
    )


def _last(table: Table, column: str, unit: str, method: str) -> Estimate:
    values = table[column]
    found = np.flatnonzero(np.isfinite(values))
    if not len(found):
        return Estimate.unknown(unit, "was not taken")
    at = found[-1]
    stderr = float(table[f"{column}_stderr"][at])
    why = f"at step {int(table['step'][at])}"
    return Estimate(float(values[at]), stderr if math.isfinite(stderr) else None, unit, Provenance.DERIVED, method, why)


def _momentum(run: Run) -> tuple[float | None, str]:
    """Return μ of the heavy ball, and what was taken as given for it; None, and why, where there is no such limit."""
    table = run.table(EQUILIBRIUM)
    if len(table) and table["eligible"][-1] != 1:
        return None, "the limit is of plain SGD with heavy-ball momentum, and the run's optimizer is another"
    if not len(table):
        told = ((run.meta.get("physics") or {}).get("taps") or {}).get("equilibrium") or {}
        if told.get("why"):
            return None, f"needs plain SGD with heavy-ball momentum: {told['why']}"
    if not len(table) or not math.isfinite(float(table["momentum"][-1])):
        return 0.0, "the momentum was not recorded and is taken as 0"
    return float(table["momentum"][-1]), ""


def _limit(largest: Estimate, momentum: float | None, facts: str) -> Estimate:
    if momentum is None:
        return Estimate.unknown("1/loss", facts)
    if largest.value is None:
        return Estimate.unknown("1/loss", largest.why)
    if largest.value <= 0:
        return Estimate.unknown("1/loss", "no direction of positive curvature: λ_max ≤ 0 bounds no step")
    value = stability_limit(largest.value, momentum)
    stderr = None if largest.stderr is None else value * largest.stderr / largest.value
    why = "; ".join(filter(None, (largest.why, facts)))
    return Estimate(value, stderr, "1/loss", Provenance.DERIVED, "2(1+μ)/λ_max", why)


def _sharpness(limit: Estimate, rates: Array) -> Estimate:
    if limit.value is None:
        return Estimate.unknown("", limit.why)
    if not math.isfinite(rates[-1]):
        return Estimate.unknown("", "needs one learning rate, and when the curvature was looked at there was none")
    ratio = float(rates[-1]) / limit.value
    stderr = None if limit.stderr is None else ratio * limit.stderr / limit.value
    return Estimate(ratio, stderr, "", Provenance.DERIVED, "η/(2(1+μ)/λ_max)", limit.why)


def _rates(run: Run, steps: Array) -> Array:
    """Return η at each step; NaN where none was recorded, or groups have different ones."""
    table = run.table(LEARNING_RATES)
    rates = np.full(len(steps), np.nan)
    for i, step in enumerate(steps):
        rows = table.rows[table["step"] <= step] if len(table) else table.rows
        latest = {(row[1], row[2]): row[3] for row in rows}
        if len(set(latest.values())) == 1:
            rates[i] = next(iter(latest.values()))
    return rates


def _descent(run: Run, table: Table, along: Estimate, noise: Estimate, grad_sq: Estimate | None) -> Estimate:
    unit = "1/loss"
    if along.value is None:
        return Estimate.unknown(unit, along.why)
    examples = run.table(STEPS)["examples"] if len(run.table(STEPS)) else np.zeros(0)
    examples = examples[np.isfinite(examples) & (examples > 0)]
    method = "|G|²/(GᵀHG + tr(HΣ)/B)"
    if noise.value is None:
        bottom, error = along.value, along.stderr  # the minibatch's own: the noise of its batch is in it
    elif not len(examples):
        return Estimate.unknown(unit, "needs the examples of a step")
    else:
        batch = float(np.median(examples))
        bottom = along.value + noise.value / batch
        both = along.stderr is not None and noise.stderr is not None
        error = math.hypot(along.stderr or 0.0, (noise.stderr or 0.0) / batch) if both else None
    if grad_sq is None or grad_sq.value is None:
        own = float(table["grad_sq"][-1])
        if noise.value is None or not math.isfinite(own):
            return Estimate.unknown(unit, "needs |G|² free of the batch's noise (E3); the batch's own has trΣ/B in it")
        grad_sq = Estimate(own, None, "loss^2")
    assert grad_sq.value is not None
    if not bottom > 0:
        return Estimate.unknown(unit, "the curvature along the gradient is not positive: no step is too long there")
    value = grad_sq.value / bottom
    stderr = None
    if error is not None and grad_sq.stderr is not None:
        stderr = math.hypot(grad_sq.stderr / bottom, value * error / bottom)
    return Estimate(value, stderr, unit, Provenance.DERIVED, method, along.why)


def _why_none(run: Run) -> str:
    taps = (run.meta.get("physics") or {}).get("taps") or {}
    told = (taps.get("curvature") or {}).get("why")
    return f"needs Hessian-vector products: {told}" if told else NO_CURVATURE
