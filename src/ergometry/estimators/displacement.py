"""Displacement work (E2) and its kin: sums over a run of what the ledger recorded of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import LEARNING_RATES, LEDGER, LOSSES, MODULE_WORK, NOISE
from ergometry.estimators.noise_scale import NORM_LAYERS, grad_sq, of_training_set, read_noise, trace_cov
from ergometry.estimators.rows import beside, left_out, moving_steps, values_at
from ergometry.estimators.sampling import Array, Observations, Sampling, sample_steps

NO_LEDGER = "needs the ledger of gradient work: none was recorded (physics off, or no torch optimizer step was seen)"
NO_RATE = "needs the learning rate, which was not recorded before the first step of the ledger"
UNEQUAL = "needs one learning rate: the parameter groups have different ones, and the ledger adds over groups"

COLUMNS = ("step", "learning_rate", "grad_sq", "dtheta_sq", "work", "path")
_ERRORS = tuple(f"{name}_stderr" for name in COLUMNS[2:])
_WIDTH = len(COLUMNS) + len(_ERRORS) + 1

_OF_LOSS = "g as the loss's backward left it, before any clipping; decoupled weight decay, if any, is in Δθ"
_AS_STEPPED = "g as the optimizer had it, clipped if it was; decoupled weight decay, if any, is in Δθ"

_ALTERED, _PARALLEL = 1e-3, 0.99


@dataclass(frozen=True)
class GradientWork:
    """Sums over a run's optimizer steps, with the error of the parameters and the steps that were not sampled.

    Attributes:
        flow: Σ η|g|², loss; the work of 1.3 if θ followed gradient flow along the minibatch gradient. Of clipped
            gradients ĝ it is Σ ηg·ĝ: θ then flows along them.
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
class Displacement:
    """Displacement work and its kin (E2), one optimizer step at a time.

    An observation is (step, η, |g|², |Δθ|², −g·Δθ, |g||Δθ|), and may go on with the standard errors of the last four;
    NaN for η where it is not known. After those g·ĝ/|g|² may follow, with ĝ the gradient that the optimizer was given
    (1: the loss's own).

    Attributes:
        population: (S,) the steps that the observations stand for; None: themselves.
        why_no_rate: why η is not known of some step.
        note: what g is.
        losses: (S,) the loss of each of ``population``, which tells of those not looked at; None: not known.

    >>> work = Displacement()
    >>> state = work.update(work.init(), (0.0, 0.1, 4.0, 0.04, 0.4, 0.4))
    >>> print(work.result(work.update(state, (1.0, 0.1, 1.0, 0.01, 0.1, 0.1))).flow)
    0.5 ± 0 loss (derived: Σ η|g|², minibatch gradient)
    """

    population: Array | None = None
    why_no_rate: str = ""
    note: str = _AS_STEPPED
    losses: Array | None = None

    def init(self) -> Observations:
        """Return the state of no step."""
        return Observations.zero(_WIDTH)

    def update(self, state: Observations, x: Sequence[float], /) -> Observations:
        """Return the state with one more step."""
        return state.add([*x, *(*(0.0,) * len(_ERRORS), 1.0)[len(x) - len(COLUMNS) :]])

    def merge(self, a: Observations, b: Observations, /) -> Observations:
        """Return the state of both sets of steps."""
        return a.merge(b)

    def result(self, state: Observations, /) -> GradientWork:
        """Return the sums over all steps of the population."""
        if not len(state.rows):
            units = ("loss", "loss", "loss", "", "loss", "loss^2", "1/loss")
            return GradientWork(*(Estimate.unknown(unit, NO_LEDGER) for unit in units))
        step, eta, *rest = (np.ascontiguousarray(column) for column in state.rows.T)
        g2, d2, work, path = ((x, stderr**2) for x, stderr in zip(rest[:4], rest[4:8], strict=True))
        given = rest[8]
        sampling = sample_steps(step, step if self.population is None else self.population, self.losses)
        moving = eta > 0
        rate = np.where(moving, eta, 1.0)
        cost = np.where(moving, d2[0] / rate, 0.0), np.where(moving, d2[1] / rate**2, 0.0)
        ito = _total(sampling, work, "E2, Itô: Σ −g·Δθ", self.note)
        length = _total(sampling, path, "Σ |g||Δθ|", "")
        squares = _total(sampling, g2, "mean |g|², minibatch gradient", "biased upward by trΣ/B")
        why_not = self.why_no_rate or (NO_RATE if np.any(np.isnan(eta)) else "")
        if why_not:
            flow = path_cost = Estimate.unknown("loss", why_not)
        else:
            fed = eta * given
            method = "Σ η|g|², minibatch gradient"
            if np.any(np.abs(given - 1.0) > _ALTERED):
                method = "Σ ηg·ĝ, minibatch gradient, ĝ as it was clipped"
            flow = _total(sampling, (fed * g2[0], fed**2 * g2[1]), method, "too large by η·trΣ/B a step")
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
    among the steps that the ledger's rows stand for. Where the script clips its gradients, a row that has only what the
    optimizer was given (a run's first, or of a closure) is of another gradient than the others, and is left out.
    """
    ledger, clipping = run.table(LEDGER), read_clipping(run)
    eta, why_not = learning_rates_at(ledger["step"], run.table(LEARNING_RATES))
    columns = [ledger["step"], eta, *(ledger[name] for name in (*COLUMNS[2:], *_ERRORS)), clipping.given]
    moving = moving_steps(run)
    estimator = Displacement(moving, why_not, clipping.note, values_at(moving, run.table(LOSSES), "loss"))
    found = estimator.result(Observations(np.column_stack(columns)[clipping.usable]))
    fact = left_out(run) if len(ledger) else ""
    return GradientWork(
        flow=beside(found.flow, fact),
        ito=beside(found.ito, fact),
        path=beside(found.path, fact),
        alignment=beside(found.alignment, fact),
        path_cost=beside(found.path_cost, fact),
        mean_grad_sq=beside(found.mean_grad_sq, fact),
        learning_rate=found.learning_rate,
    )


@dataclass(frozen=True)
class Clipping:
    """What a script made of its gradients before it gave them to the optimizer, by row of the ledger.

    Attributes:
        altered: whether it made anything of them.
        given: (n,) g·ĝ/|g|²: what is left of the gradient along itself; 1 where that was not looked at.
        usable: (n,) bool, whether the row's g is the same kind of gradient as the others'.
        parallel: whether ĝ was always a multiple of g, as it is when the whole gradient's norm is clipped.
        note: what g is, in words.
    """

    altered: bool
    given: Array
    usable: npt.NDArray[np.bool_]
    parallel: bool
    note: str


def read_clipping(run: Run) -> Clipping:
    """Return what the ledger's rows say of the gradients that the optimizers were given."""
    ledger = run.table(LEDGER)
    none = np.full(len(ledger), np.nan)
    told = "given" in ledger.columns  # a run of an earlier version has no such columns
    given, cosine = (ledger["given"], ledger["given_cosine"]) if told else (none, none)
    seen = np.isfinite(given)
    altered = bool(np.any(np.abs(given[seen] - 1.0) > _ALTERED))
    usable = seen | ~np.isfinite(ledger["grad_sq"]) if altered else np.ones(len(ledger), dtype=bool)
    parallel = not np.any(cosine[np.isfinite(cosine)] < _PARALLEL)
    note = _OF_LOSS if np.any(seen) else _AS_STEPPED
    if out := int(np.count_nonzero(~usable)):
        seen_clipped = f"{out} step{'s' * (out > 1)} of which only the clipped gradient was seen"
        note += f"; for {seen_clipped} those nearest stand"
    return Clipping(altered, np.where(seen, given, 1.0), usable, parallel, note)


def read_unbiased_work(run: Run) -> Estimate:
    """Return Σ η|G|² with the unbiased |G|² of E3, loss: the work of gradient flow along the expected gradient.

    Each look at the gradient noise gives an unbiased |G|² of its step (it may be negative), which stands for the steps
    nearest to it; ``stderr`` holds its noise and the steps not looked at.
    """
    noise = read_noise(run)
    if noise.grad_sq.value is None:
        return Estimate.unknown("loss", noise.grad_sq.why)
    if noise.how == NORM_LAYERS:
        return Estimate.unknown("loss", f"needs |G|² of the whole model: {noise.grad_sq.why}")
    table = run.table(NOISE)
    pairs = [table[name] for name in ("small_batch", "big_batch", "small_sq", "big_sq")]
    seen, _ = of_training_set(grad_sq(*pairs), trace_cov(*pairs), table["dataset"])
    usable = (table["how"] == noise.how) & np.isfinite(seen)
    step, at = np.unique(table["step"][usable], return_inverse=True)
    mean = np.bincount(at, seen[usable]) / np.bincount(at)
    eta, why_not = learning_rates_at(step, run.table(LEARNING_RATES))
    clipping = read_clipping(run)
    if clipping.altered and not clipping.parallel:
        why_not = (
            "needs gradients that reach the optimizer as they are, or clipped by the norm of them all: these were "
            "given another direction, and what that leaves of |G|² is not known"
        )
    if why_not:
        return Estimate.unknown("loss", why_not)
    method, told = f"Σ η|G|², {noise.grad_sq.method}", noise.grad_sq.why
    if clipping.altered:
        looked, given = run.table(LEDGER)["step"][clipping.usable], clipping.given[clipping.usable]
        eta = eta * given[_nearest(step, looked)]
        method = f"Σ ηc|G|², {noise.grad_sq.method}"
        told = "; ".join(fact for fact in ("c is what clipping left, at the nearest step of the ledger", told) if fact)
    moving = moving_steps(run)
    sampling = sample_steps(step, moving, values_at(moving, run.table(LOSSES), "loss"))
    facts = "; ".join(fact for fact in (sampling.said, told) if fact)
    work = eta * mean
    if (found := sampling.noisy(work[:, None])) is not None:
        return Estimate(float(found[0][0]), math.sqrt(float(found[1][0, 0])), "loss", Provenance.DERIVED, method, facts)
    # Where every step was looked at nothing was left out, but what was seen of each is noisy still.
    value, _ = sampling.total(work, np.zeros(len(step)))
    rises = np.diff(work)
    noisy = float(sampling.weights @ sampling.weights) * float(rises @ rises) / (2 * max(len(rises), 1))
    stderr = math.sqrt(noisy) if len(rises) else None
    return Estimate(value, stderr, "loss", Provenance.DERIVED, method, facts)


def _nearest(steps: Array, among: Array) -> npt.NDArray[np.intp]:
    """Return which of ``among`` (increasing) is nearest to each of ``steps``."""
    return np.searchsorted(0.5 * (among[1:] + among[:-1]), steps)


def read_module_work(run: Run) -> dict[str, Estimate]:
    """Return Σ −g·Δθ of each module over the steps that were sampled, loss, by the module's name.

    Not scaled up to all steps: modules compare with each other, sampled alike.
    """
    table, names = run.table(MODULE_WORK), run.meta.get("physics_modules") or []
    found = {}
    for number, row in {int(row[1]): row for row in table.rows if np.isfinite(row[1])}.items():
        at = dict(zip(table.columns, map(float, row), strict=True))
        if not 0 <= number < len(names) or not math.isfinite(at["work"]):
            continue
        error = at["work_stderr"] if math.isfinite(at["work_stderr"]) else None
        facts = f"over {at['steps']:.0f} sampled steps"
        found[str(names[number])] = Estimate(at["work"], error, "loss", Provenance.DERIVED, "E2, Itô: Σ −g·Δθ", facts)
    return found


Column = tuple[Array, Array]
"""Values and variances."""


def _total(sampling: Sampling, column: Column, method: str, note: str) -> Estimate:
    """Return the sum of a column over the run, saying what it holds and what was sampled."""
    rows = len(sampling.weights)
    broken = int(np.count_nonzero(~np.isfinite(column[0])))
    if broken == rows:
        return Estimate.unknown("loss", "needs a step whose gradient and displacement are finite: there is none")
    facts = [words for words in (note, sampling.said) if words]
    if broken:
        facts.append(f"{broken} of the {rows} steps recorded are not finite and add nothing")
    value, stderr = sampling.total(*column)
    return Estimate(value, stderr, "loss", Provenance.DERIVED, method, "; ".join(facts))


def _alignment(sampling: Sampling, work: Column, path: Column, ito: Estimate, length: Estimate) -> Estimate:
    if ito.value is None or length.value is None or not length.value > 0:
        return Estimate.unknown("", ito.why if ito.value is None else "the parameters did not move")
    ratio, stderr = sampling.ratio(work, path)
    why = "Itô reading: above the midpoint's by the curvature term"
    return Estimate(ratio, stderr, "", Provenance.DERIVED, "Σ −g·Δθ / Σ |g||Δθ|", why)


def _last_rate(eta: Array, why_not: str) -> Estimate:
    known = eta[np.isfinite(eta)]
    if not len(known):
        return Estimate.unknown("1/loss", why_not)
    why = "1/loss for SGD; an adaptive optimizer's is a length in the parameters' unit"
    return Estimate(float(known[-1]), 0.0, "1/loss", Provenance.MEASURED, "the optimizer's own, at the last step", why)
