"""The gradient noise scale (E3): unbiased |G|², trΣ and B_noise = trΣ/|G|² from |g|² at two batch sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import CURVATURE, EQUILIBRIUM, LOSSES, NOISE
from ergometry.estimators.rows import beside, moving_steps, values_at
from ergometry.estimators.sampling import Observations, sample_steps
from ergometry.estimators.stretches import Array, Stretches, function, ratio_interval
from ergometry.estimators.tapped import last_rate, why_none

HOW = {
    1: "micro-batches of one step",
    2: "local and averaged gradients of ranks",
    3: "halves of one batch",
    4: "consecutive steps",
    5: "examples, in the normalisation layers",
}
"""What the column ``how`` of :data:`~ergometry.core.series.NOISE` means, the best first."""

CONSECUTIVE, NORM_LAYERS = 4, 5
TOO_FEW = "needs two looks at the gradient noise at least: there is {}"
NEEDS = "needs |g|² at two batch sizes, from a second training step on"


def grad_sq(small_batch: Array, big_batch: Array, small_sq: Array, big_sq: Array) -> Array:
    """Unbiased |G|² from minibatch |g|² at two batch sizes, in loss²: (B₂|g₂|² − B₁|g₁|²)/(B₂ − B₁).

    E|g_B|² = |G|² + trΣ/B for B independent examples; of n examples drawn without replacement
    E|g_B|² = |G|² + (n/(n−1))·trΣ·(1/B − 1/n), so that this has the mean |G|² − trΣ/(n−1). It may be negative.

    Args:
        small_batch: B₁, examples.
        big_batch: B₂ > B₁, examples.
        small_sq: |g|² at B₁.
        big_sq: |g|² at B₂.

    Source: E3; McCandlish 2018 (1812.06162), appendix A.

    >>> grad_sq(2.0, 4.0, 1.0 + 6.0 / 2, 1.0 + 6.0 / 4)
    1.0
    """
    return (big_batch * big_sq - small_batch * small_sq) / (big_batch - small_batch)


def trace_cov(small_batch: Array, big_batch: Array, small_sq: Array, big_sq: Array) -> Array:
    """Unbiased trΣ from minibatch |g|² at two batch sizes, in loss²·example: (|g₁|² − |g₂|²)/(1/B₁ − 1/B₂).

    Of n examples drawn without replacement it has the mean trΣ·n/(n−1), Σ normalised by 1/n. Arguments as in
    :func:`grad_sq`.

    Source: E3; McCandlish 2018 (1812.06162), appendix A.

    >>> trace_cov(2.0, 4.0, 1.0 + 6.0 / 2, 1.0 + 6.0 / 4)
    6.0
    """
    return (small_sq - big_sq) / (1.0 / small_batch - 1.0 / big_batch)


def of_training_set(grad_sq: Array, trace_cov: Array, dataset: Array) -> tuple[Array, Array]:
    """Return |G|² and trΣ of the n examples themselves, from those seen in batches drawn without replacement.

    |G|² + trΣ_seen/n and trΣ_seen·(n−1)/n, both exact in the mean. Where n is NaN (the data stream, and |G|² is the
    population's own) they are returned as they are.

    Source: E3, derived: Cov(x_i, x_j) = −Σ/(n−1) between two draws.

    >>> print("%.3f %.3f" % of_training_set(1.0 - 6.0 / 9, 6.0 * 10 / 9, 10.0))
    1.000 6.000
    """
    part = np.where(np.isfinite(dataset), 1.0 / np.where(np.isfinite(dataset), dataset, 1.0), 0.0)
    return grad_sq + trace_cov * part, trace_cov * (1.0 - part)


class Pair(NamedTuple):
    """|g|² at two batch sizes (examples), seen at a step; ``dataset`` is n, NaN where the data stream."""

    step: float
    small_batch: float
    big_batch: float
    small_sq: float
    big_sq: float
    dataset: float = math.nan


@dataclass(frozen=True)
class NoiseScale:
    """The gradient and its noise, over a run or a stretch of it.

    Attributes:
        grad_sq: |G|², loss².
        trace_cov: trΣ, loss²·example.
        b_noise: trΣ/|G|², example. Its ``stderr`` is None where |G|² is not told from zero: no number is then above it.
        b_noise_interval: (low, high), example: 90 % of it by
            :func:`~ergometry.estimators.stretches.ratio_interval`; NaN where no error is known.
        bias: what ``grad_sq`` is too large by, loss²: 0 but for consecutive steps, where it is −η·tr(HΣ)/B to first
            order (and ``trace_cov`` is too large by B times as much, with the other sign).
        how: how the pairs were made, a key of :data:`HOW`; 0 of none.
        rows: pairs.
        batch: mean of the larger batch of the pairs, examples; of consecutive steps, that of one step.
        parameters: how many the pairs are of.
    """

    grad_sq: Estimate
    trace_cov: Estimate
    b_noise: Estimate
    bias: Estimate
    how: int = 0
    rows: int = 0
    batch: float = math.nan
    parameters: float = math.nan
    b_noise_interval: tuple[float, float] = (math.nan, math.nan)


class NoiseScaleEstimator:
    """|G|², trΣ and their ratio from pairs. Numerator and denominator are averaged apart, then divided, never clamped.

    The means are over the steps of the population, guided by their losses
    (:meth:`Sampling.noisy <ergometry.estimators.sampling.Sampling.noisy>`). Where there are none, or all steps or
    fewer than eight were looked at, they are those over the pairs, with an error along this run's path that is robust
    to its trend and to correlation between neighbouring pairs
    (:meth:`Stretches.along <ergometry.estimators.stretches.Stretches.along>`). The ratio's error is by the delta method
    where |G|² is told from zero, its interval is Fieller's.

    >>> e = NoiseScaleEstimator()
    >>> state = e.init()
    >>> for step, noise in enumerate((0.9, 1.1, 1.0, 1.0)):
    ...     state = e.update(state, Pair(step, 1.0, 2.0, 0.5 + noise, 0.5 + noise / 2))
    >>> print(e.result(state).b_noise)
    2 ± 0.21 example (derived: E3)
    """

    def __init__(
        self,
        method: str = "E3",
        unit: str = "loss^2",
        population: Array | None = None,
        losses: Array | None = None,
    ) -> None:
        """Set what the pairs are of.

        Args:
            method: how they were made.
            unit: that of |g|²: of preconditioned gradients it is not loss².
            population: (S,) the steps that they stand for; None: themselves.
            losses: (S,) the loss of each, which tells of those not looked at; None: not known.
        """
        self._method, self._unit, self._population, self._losses = method, unit, population, losses

    def init(self) -> Observations:
        """Return the state of no pair."""
        return Observations.zero(3)

    def update(self, state: Observations, x: Pair, /) -> Observations:
        """Return the state with one more pair."""
        return state.merge(self.of(np.array([x])))

    def merge(self, a: Observations, b: Observations, /) -> Observations:
        """Return the state of both sets of pairs."""
        return a.merge(b)

    def of(self, pairs: Array) -> Observations:
        """Return the state of (n, 6) pairs."""
        step, b1, b2, s1, s2, dataset = np.asarray(pairs, dtype=np.float64).reshape(-1, 6).T
        found = of_training_set(grad_sq(b1, b2, s1, s2), trace_cov(b1, b2, s1, s2), dataset)
        return Observations.of(np.column_stack((step, *found)))

    def result(self, state: Observations, /) -> NoiseScale:
        """Return what the pairs say."""
        units = (self._unit, f"{self._unit}*example", "example")
        none = Estimate(0.0, 0.0, self._unit, Provenance.DERIVED, self._method)
        if not len(state.rows):
            g2, trace, ratio = (Estimate.unknown(unit, TOO_FEW.format("none")) for unit in units)
            return NoiseScale(g2, trace, ratio, none)
        mean, covariance, said = self._means(state.rows)
        errors = [None, None] if covariance is None else [math.sqrt(max(covariance[i, i], 0.0)) for i in range(2)]
        g2, trace = (
            Estimate(float(x), error, unit, Provenance.DERIVED, self._method, said)
            for x, error, unit in zip(mean, errors, units, strict=False)
        )
        interval = (math.nan, math.nan) if covariance is None else ratio_interval(mean, covariance)
        ratio = beside(self._ratio(mean, covariance, interval), said)
        return NoiseScale(g2, trace, ratio, none, rows=len(state.rows), b_noise_interval=interval)

    def _means(self, rows: Array) -> tuple[Array, Array | None, str]:
        """Return the means of |G|² and trΣ, their covariance, and which steps they are from."""
        if self._population is not None:
            step, at, pairs = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
            each = np.column_stack([np.bincount(at, column) / pairs for column in rows[:, 1:].T])
            sampling = sample_steps(step, self._population, self._losses)
            if (found := sampling.noisy(each)) is not None:
                return found[0] / sampling.steps, found[1] / sampling.steps**2, sampling.said
        along = Stretches.of(rows[:, 0], rows[:, 1:])
        return along.mean, along.along(), ""

    def _ratio(self, mean: Array, covariance: Array | None, interval: tuple[float, float]) -> Estimate:
        """Return trΣ/|G|²; unknown where |G|² is not positive, since no batch is then too large."""
        stderr = None if covariance is None else math.sqrt(max(covariance[0, 0], 0.0))
        said = f"|G|² is {mean[0]:.3g}" + (f" ± {stderr:.2g}" if stderr is not None else "")
        low, high = interval
        least = f"; at least {low:.3g} (95 %)" if low > 0 else ""
        if not mean[0] > 0:
            why = (
                f"needs an |G|² above its own error: {said}, and the noise hides the gradient at every batch size seen"
            )
            return Estimate.unknown("example", why + least)
        value, error = function(
            mean, covariance, lambda m: float(m[1] / m[0]), lambda m: np.array([-m[1] / m[0], 1.0]) / m[0]
        )
        why = ""
        if math.isinf(high):
            error, why = None, f"{said}, not told from zero: B_noise has no upper end{least}"
        elif stderr is not None and mean[0] <= 3 * stderr:
            why = f"{said}: B_noise is {low:.3g} to {high:.3g} (90 %), wider upward than its error says"
        return Estimate(value, error, "example", Provenance.DERIVED, self._method, why)


def read_noise(
    run: Run, *, how: int | None = None, within: tuple[float, float] | None = None, preconditioned: bool = False
) -> NoiseScale:
    """Return the noise scale of a run, from the best kind of pairs that it has at least two of.

    Args:
        run: the run.
        how: a key of :data:`HOW`, to have that kind alone.
        within: (first step, last step), to have that stretch alone.
        preconditioned: of g/√(√v+ε), with Adam's own v: then |G|² and trΣ are in loss and loss·example.
    """
    table, dropped = _rows(run, within, preconditioned)
    kinds = [how] if how is not None else list(HOW)
    counts = {kind: int(np.count_nonzero(table["how"] == kind)) for kind in kinds}
    kind = next((k for k in kinds if counts[k] >= 2), next((k for k in kinds if counts[k]), None))
    estimator = NoiseScaleEstimator(unit="loss" if preconditioned else "loss^2")
    if kind is None:
        return _unknown(estimator, _why(run, within, preconditioned, dropped))
    rows = table.rows[table["how"] == kind]
    moving = moving_steps(run)
    if within is not None:
        moving = moving[(moving >= within[0]) & (moving <= within[1])]
    return _explained(run, Table(table.columns, rows), kind, dropped, preconditioned, moving)


def _why(run: Run, within: tuple[float, float] | None, preconditioned: bool, dropped: int) -> str:
    if not len(run.table(NOISE)):
        return why_none(run, "noise", NEEDS)
    if dropped:
        return "needs a finite gradient: none was"
    if preconditioned:
        return "needs Adam, AdamW or RMSprop, whose own v preconditions the gradient"
    return f"{NEEDS}; there are none " + (f"in steps {within[0]:g} to {within[1]:g}" if within else "of this kind")


def _unknown(estimator: NoiseScaleEstimator, why: str) -> NoiseScale:
    none = estimator.result(estimator.init())
    g2, trace, ratio = (Estimate.unknown(e.unit, why) for e in (none.grad_sq, none.trace_cov, none.b_noise))
    return NoiseScale(g2, trace, ratio, Estimate.unknown(none.bias.unit, why))


def _rows(run: Run, within: tuple[float, float] | None, preconditioned: bool) -> tuple[Table, int]:
    """Return the finite rows with the |g|² that is asked for in ``small_sq`` and ``big_sq``, and how many were not."""
    table = run.table(NOISE)
    rows = table.rows.copy()
    if within is not None:
        rows = rows[(rows[:, 0] >= within[0]) & (rows[:, 0] <= within[1])]
    columns = [NOISE.columns.index(name) for name in ("small_sq", "big_sq")]
    broken = ~np.all(np.isfinite(rows[:, columns]), axis=1)
    if preconditioned:
        rows[:, columns] = rows[:, [c + 2 for c in columns]]
    finite = np.all(np.isfinite(rows[:, columns]), axis=1)
    return Table(NOISE.columns, rows[finite]), int(np.count_nonzero(broken))


def _pairs(table: Table) -> Array:
    return np.column_stack(
        [table[name] for name in ("step", "small_batch", "big_batch", "small_sq", "big_sq", "dataset")]
    )


def _explained(run: Run, table: Table, kind: int, dropped: int, preconditioned: bool, population: Array) -> NoiseScale:
    """Return the result of rows of one kind, saying what they are of and by what they are biased."""
    method = f"E3, {HOW[kind]}" + (", preconditioned by the optimizer's own v" if preconditioned else "")
    losses = values_at(population, run.table(LOSSES), "loss")
    estimator = NoiseScaleEstimator(method, "loss" if preconditioned else "loss^2", population, losses)
    found = estimator.result(estimator.of(_pairs(table)))
    batch = float(np.mean(table["big_batch"])) / (2.0 if kind == CONSECUTIVE else 1.0)
    bias, facts = found.bias, []
    if kind == CONSECUTIVE:
        bias = _bias(run, found, batch, preconditioned)
        facts.append(bias.why if bias.value is None else f"|G|² is biased by {bias.value:.2g}, {bias.method}")
        facts.append(_drift(table, found))
    parameters, of_all = float(np.median(table["parameters"])), float(run.meta.get("parameters") or math.nan)
    if kind == NORM_LAYERS:
        facts.append("of the normalisation layers' own parameters alone, whose noise scale follows the whole model's")
    elif parameters < of_all:
        facts.append(f"of {100 * parameters / of_all:.3g} % of the parameters, which can be looked into")
    if np.all(np.isfinite(table["dataset"])):
        facts.append("of the training set's own gradient (batches drawn without replacement)")
    if dropped:
        facts.append(f"{dropped} looks with a gradient that is not finite add nothing")
    if len(table) < 2:
        facts.append("one look: its error is not known")

    def said(e: Estimate) -> Estimate:
        return e if e.value is None else beside(e, "; ".join(fact for fact in facts if fact))

    return replace(
        found,
        grad_sq=said(found.grad_sq),
        trace_cov=said(found.trace_cov),
        b_noise=said(found.b_noise),
        bias=bias,
        how=kind,
        rows=len(table),
        batch=batch,
        parameters=parameters,
    )


def _bias(run: Run, found: NoiseScale, batch: float, preconditioned: bool) -> Estimate:
    """Return the bias of |G|² from consecutive steps, or why it is not known, with its bound where there is one.

    θ_k+1 moved by −η·g_k, noise included: E[g_k·g_k+1] is short by η·GᵀHG, which makes it |G|² halfway between
    the two, and by η·tr(HΣ)/B, which is the bias. Momentum adds nothing to it within one step, and Σ being
    positive tr(HΣ) ≤ λ_max·trΣ. A stable step has ηλ_max < 2(1+μ).
    """
    unit = found.grad_sq.unit
    said = "|G|² from consecutive steps is biased by about −η·tr(HΣ)/B"
    plain = run.table(EQUILIBRIUM)
    rate = last_rate(run)
    if preconditioned or not len(plain) or not np.all(plain["eligible"] == 1):
        return Estimate.unknown(unit, f"{said}, η being the optimizer's own step along the gradient")
    curvature = run.table(CURVATURE)
    if rate.why or not len(curvature):
        return Estimate.unknown(unit, f"{said}; how large needs the curvature" + (f"; {rate.why}" if rate.why else ""))
    noise_trace = curvature["noise_trace"][np.isfinite(curvature["noise_trace"])]
    if len(noise_trace):
        value = -rate.eta * float(np.mean(noise_trace)) / batch
        error = (
            rate.eta * float(np.std(noise_trace, ddof=1)) / batch / math.sqrt(len(noise_trace))
            if len(noise_trace) > 1
            else None
        )
        return Estimate(value, error, unit, Provenance.DERIVED, "−η·tr(HΣ)/B")
    largest = curvature["largest"][np.isfinite(curvature["largest"])]
    if not len(largest) or found.trace_cov.value is None:
        return Estimate.unknown(unit, f"{said}; how large needs the curvature")
    bound = rate.eta * float(np.max(largest)) * found.trace_cov.value / batch
    return Estimate.unknown(unit, f"{said}: at most {bound:.2g} by η·λ_max·trΣ/B")


def _drift(table: Table, found: NoiseScale) -> str:
    """Say how much further apart gradients two steps apart are than those of one: their drift, in trΣ."""
    lag2 = table["lag2_sq"]
    # |g_k+1 − g_k|² = 4(small − big), and it has the mean 2trΣ/B.
    excess = (lag2 - 4.0 * (table["small_sq"] - table["big_sq"])) * 0.25 * table["big_batch"]
    excess = excess[np.isfinite(excess)]
    trace = found.trace_cov.value
    if len(excess) < 2 or not trace:
        return ""
    share, error = np.mean(excess) / trace, np.std(excess, ddof=1) / math.sqrt(len(excess)) / abs(trace)
    return f"the drift of a second step adds {100 * share:.2g} ± {100 * error:.1g} % to trΣ"


@dataclass(frozen=True)
class NoiseSeries:
    """The noise scale along a run: per stretch of as many looks, its middle step and what it says, NaN where unknown.

    All (k,) float64: ``step``; ``b_noise`` (example), ``grad_sq`` (loss²), ``trace_cov`` (loss²·example), and the
    standard error of each.
    """

    step: Array
    b_noise: Array
    b_noise_stderr: Array
    grad_sq: Array
    grad_sq_stderr: Array
    trace_cov: Array
    trace_cov_stderr: Array
    how: int


def noise_series(run: Run, bins: int = 32, *, how: int | None = None) -> NoiseSeries:
    """Return the noise scale along a run, in at most ``bins`` stretches of at least eight looks."""
    kind = read_noise(run, how=how).how
    table, _ = _rows(run, None, False)
    pairs = _pairs(Table(table.columns, table.rows[table["how"] == kind]))
    estimator, rows = NoiseScaleEstimator(), []
    for part in np.array_split(pairs, max(min(bins, len(pairs) // 8), 1)) if len(pairs) else []:
        found = estimator.result(estimator.of(part))
        numbers = [(e.value, e.stderr) for e in (found.b_noise, found.grad_sq, found.trace_cov)]
        rows.append([float(np.median(part[:, 0])), *(math.nan if x is None else x for pair in numbers for x in pair)])
    step, b, b_error, g2, g2_error, trace, trace_error = np.array(rows, dtype=np.float64).reshape(-1, 7).T
    return NoiseSeries(step, b, b_error, g2, g2_error, trace, trace_error, kind)
