"""Displacement work (E2) and its kin: sums over a run of what the ledger recorded of each optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import LEARNING_RATES, LEDGER, LOSSES, SKIPPED, STEPS
from ergometry.equations.rows import values_at
from ergometry.equations.section import Array

NO_LEDGER = "needs the ledger of gradient work: none was recorded (physics off, or no torch optimizer step was seen)"
NO_RATE = "needs the learning rate, which was not recorded before the first step of the ledger"
UNEQUAL = "needs one learning rate: the parameter groups have different ones, and the ledger adds over groups"


@dataclass(frozen=True)
class GradientWork:
    """Sums over a run's optimizer steps, with the error of the parameters and the steps that were not sampled.

    Attributes:
        flow: Σ η|g|², loss; the work of 1.3 if θ followed gradient flow along the minibatch gradient.
        ito: Σ −g·Δθ, loss; displacement work with the actual Δθ.
        path: Σ |g||Δθ|, loss.
        alignment: Σ −g·Δθ / Σ |g||Δθ|, in [−1, 1] but for sampling error; never clamped.
        path_cost: Σ |Δθ|²/η over steps with η > 0, loss; the left side of 4.2(ii).
        mean_grad_sq: mean of |g|² over steps, loss².
        learning_rate: η of the last step, 1/loss.
    """

    flow: Estimate
    ito: Estimate
    path: Estimate
    alignment: Estimate
    path_cost: Estimate
    mean_grad_sq: Estimate
    learning_rate: Estimate


@dataclass(frozen=True)
class Sampling:
    """Which steps the ledger's rows stand for: ``weights`` (n,), the number of steps nearest to each row."""

    weights: Array
    steps: int

    def total(self, values: Array, variances: Array) -> tuple[float, float | None]:
        """Return the sum over all steps and its standard error.

        Each row is a sample of one from the stratum of steps nearest to it, so an uneven cadence does not bias the
        sum. The error has two stages: unsampled steps, Σ w(w−1)·s², with s² half the mean square of successive
        differences (a trend is not noise); unsampled parameters, Σ w·variance, taken as independent between
        steps. It is None where one sampled step stands for several, or a variance is not known.
        """
        finite = np.isfinite(values)
        x = np.where(finite, values, 0.0)
        v = np.where(finite, variances, 0.0)
        value, spread, pairs = float(self.weights @ x), float(self.weights @ (self.weights - 1.0)), len(x) - 1
        if not np.all(np.isfinite(v)) or (spread > 0 and pairs < 1):
            return value, None
        rises = np.diff(x) if spread > 0 else np.zeros(0)
        between = spread * float(rises @ rises) / (2 * max(pairs, 1))
        return value, math.sqrt(between + float(self.weights @ v))


def sample_steps(ledger_steps: Array, all_steps: Array) -> Sampling:
    """Return which of ``all_steps`` each of ``ledger_steps`` (increasing) stands for: those nearest to it.

    >>> sample_steps(np.array([0.0, 4.0]), np.arange(8.0)).weights
    array([3., 5.])
    """
    population = np.union1d(all_steps, ledger_steps)
    middles = 0.5 * (ledger_steps[1:] + ledger_steps[:-1])
    owner = np.searchsorted(middles, population, side="left")
    return Sampling(np.bincount(owner, minlength=len(ledger_steps)).astype(np.float64), len(population))


def learning_rates_at(steps: Array, table: Table) -> tuple[Array, str]:
    """Return η at each of ``steps`` (n,), and why it is not known (NaN) at some, or an empty string.

    Args:
        steps: (n,) float64, step numbers.
        table: rows of :data:`~ergometry.core.series.LEARNING_RATES`, each valid from its step on.
    """
    low, high = np.full(len(steps), np.inf), np.full(len(steps), -np.inf)
    key = table["optimizer"] * 2.0**20 + table["group"]
    order = np.lexsort((table["step"], key))
    for rows in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        if not len(rows):
            continue
        at = np.searchsorted(table["step"][rows], steps, side="right") - 1
        rate = np.where(at >= 0, table["lr"][rows][np.maximum(at, 0)], np.nan)
        low, high = np.fmin(low, rate), np.fmax(high, rate)
    none, unequal = ~np.isfinite(low), high - low > 1e-12 * np.abs(high)
    eta = np.where(none | unequal, np.nan, low)
    return eta, NO_RATE if np.any(none) else UNEQUAL if np.any(unequal) else ""


def read_gradient_work(run: Run) -> GradientWork:
    """Return the sums over a run's optimizer steps; unknown, with the reason, where there is no ledger or η.

    Steps that the gradient scaler skipped, or whose loss is not finite, moved along no finite gradient: they are not
    among the steps that the ledger's rows stand for.
    """
    ledger = run.table(LEDGER)
    if not len(ledger):
        units = ("loss", "loss", "loss", "", "loss", "loss^2", "1/loss")
        return GradientWork(*(Estimate.unknown(unit, NO_LEDGER) for unit in units))
    sampling = sample_steps(ledger["step"], _moving_steps(run))
    eta, why_not = learning_rates_at(ledger["step"], run.table(LEARNING_RATES))
    moving = eta > 0
    rate = np.where(moving, eta, 1.0)
    g2, d2, work, path = (_column(ledger, name) for name in ("grad_sq", "dtheta_sq", "work", "path"))
    cost = np.where(moving, d2[0] / rate, 0.0), np.where(moving, d2[1] / rate**2, 0.0)
    ito = _total(sampling, work, "E2, Itô: Σ −g·Δθ", "decoupled weight decay, if any, is in Δθ")
    length = _total(sampling, path, "Σ |g||Δθ|", "")
    squares = _total(sampling, g2, "mean |g|², minibatch gradient", "biased upward by trΣ/B")
    if why_not:
        flow = path_cost = Estimate.unknown("loss", why_not)
    else:
        flow = _total(
            sampling, (eta * g2[0], eta**2 * g2[1]), "Σ η|g|², minibatch gradient", "too large by η·trΣ/B a step"
        )
        path_cost = _total(sampling, cost, "Σ |Δθ|²/η", "a loss for plain SGD, otherwise a geometric length")
    return GradientWork(
        flow=flow,
        ito=ito,
        path=length,
        alignment=_alignment(sampling, work, path, ito, length),
        path_cost=path_cost,
        mean_grad_sq=replace(squares / sampling.steps, unit="loss^2"),
        learning_rate=_last_rate(eta, why_not),
    )


Column = tuple[Array, Array]
"""Values and variances."""


def _column(ledger: Table, name: str) -> Column:
    return np.ascontiguousarray(ledger[name]), ledger[f"{name}_stderr"] ** 2


def _moving_steps(run: Run) -> Array:
    steps = run.table(STEPS)
    moved = np.nan_to_num(steps["flags"]).astype(np.int64) & SKIPPED == 0
    losses = run.table(LOSSES)
    if len(losses):
        moved &= np.isfinite(values_at(steps["step"], losses, "loss"))
    return np.asarray(steps["step"][moved])


def _total(sampling: Sampling, column: Column, method: str, note: str) -> Estimate:
    """Return the sum of a column over the run, saying what it holds and what was sampled."""
    rows = len(sampling.weights)
    broken = int(np.count_nonzero(~np.isfinite(column[0])))
    if broken == rows:
        return Estimate.unknown("loss", "needs a step whose gradient and displacement are finite: there is none")
    facts = [note] if note else []
    if rows < sampling.steps:
        facts.append(f"from {rows} of {sampling.steps} steps, each standing for those nearest to it")
    if broken:
        facts.append(f"{broken} of the {rows} steps recorded are not finite and add nothing")
    value, stderr = sampling.total(*column)
    return Estimate(value, stderr, "loss", Provenance.DERIVED, method, "; ".join(facts))


def _alignment(sampling: Sampling, work: Column, path: Column, ito: Estimate, length: Estimate) -> Estimate:
    """Return the ratio of the two sums; its error is that of work − A·path, since the two rise and fall together."""
    if ito.value is None or length.value is None or not length.value > 0:
        return Estimate.unknown("", ito.why if ito.value is None else "the parameters did not move")
    ratio = ito.value / length.value
    _, stderr = sampling.total(work[0] - ratio * path[0], work[1] + ratio**2 * path[1])
    stderr = None if stderr is None else stderr / length.value
    why = "Itô reading: above the midpoint's by the curvature term"
    return Estimate(ratio, stderr, "", Provenance.DERIVED, "Σ −g·Δθ / Σ |g||Δθ|", why)


def _last_rate(eta: Array, why_not: str) -> Estimate:
    known = eta[np.isfinite(eta)]
    if not len(known):
        return Estimate.unknown("1/loss", why_not)
    why = "1/loss for SGD; an adaptive optimizer's is a length in the parameters' unit"
    return Estimate(float(known[-1]), 0.0, "1/loss", Provenance.MEASURED, "the optimizer's own, at the last step", why)
