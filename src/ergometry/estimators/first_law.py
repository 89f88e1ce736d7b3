"""The stochastic first law (E1): the batch is the protocol, the step is the relaxation; and midpoint work (E2).

Heat Q_k = ℓ_Bk(θ_k) − ℓ_Bk(θ_k+1) is what a step took off the loss of its own batch, work W_k = ℓ_Bk+1(θ_k+1) −
ℓ_Bk(θ_k+1) what the change of batch then put on; ΔU = ΣW − ΣQ, whatever the optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.core.series import FIRST_LAW, LOSSES, STEPS
from ergometry.estimators.displacement import GradientWork
from ergometry.estimators.rows import beside, left_out, moving_steps, values_at
from ergometry.estimators.sampling import Array, Observations, sample_steps
from ergometry.estimators.tapped import why_none

NO_REPLAY = "needs the loss on the same batch after the step: one more forward on sampled steps (E1)"
NO_MIDPOINT = "needs the gradient at θ+Δθ on the same batch (midpoint, E2)"

METHOD_Q = "E1: Σ ℓ_B(θ) − ℓ_B(θ+Δθ) on the step's own batch"
METHOD_W = "E1: ΔU + ΣQ, the first law"
COLUMNS = ("step", "loss_before", "loss_after", "next_loss")
_MIDPOINT = ("midpoint", "midpoint_stderr", "path_midpoint", "path_midpoint_stderr")
_WIDTH = len(COLUMNS) + len(_MIDPOINT)

OTHERS = "the parameters that were followed did not move, and the loss changed: optimizers that take turns?"
UNLIKE = (
    "the sampled steps are unlike the rest (see first_law_closure): losses of different functions in turn, as a GAN's, "
    "or a cadence in step with the training"
)
_NO_FIRST = "from the second step on: in the first, operators are being counted, and none is replayed"
_UNLIKE, _ENOUGH = 8.0, 8
"""Closure over its standard error, of so many sampled steps, beyond which they cannot stand for the others."""


@dataclass(frozen=True)
class FirstLaw:
    """The first law of a run, over the steps that another batch follows; loss units.

    Attributes:
        heat: ΣQ, what the steps took off the loss of their own batches.
        work: ΣW = ΔU + ΣQ, what the changes of batch put on. Where every loss was seen ΔU has no error, and that of
            ΣW is ΣQ's.
        energy_change: ΔU, from the first batch's loss to the last's.
        closure: ΔU less the sampled steps' own Σ(W − Q), scaled up: 0 to rounding where every step was sampled, else
            0 within its error unless the steps sampled are unlike the rest.
        midpoint: Σ −½(g+g⁺)·Δθ.
        midpoint_path: Σ ½(|g|+|g⁺|)|Δθ|.
        alignment: their ratio A, in [−1, 1] but for sampling error; never clamped.
    """

    heat: Estimate
    work: Estimate
    energy_change: Estimate
    closure: Estimate
    midpoint: Estimate
    midpoint_path: Estimate
    alignment: Estimate


@dataclass(frozen=True)
class StochasticFirstLaw:
    """The first law (E1) and midpoint work (E2), one sampled step at a time.

    An observation is (step k, ℓ_Bk(θ_k), ℓ_Bk(θ_k+1), ℓ_Bk+1(θ_k+1)), NaN where there is none, and may go on with
    −½(g+g⁺)·Δθ, its sampling error, ½(|g|+|g⁺|)|Δθ| and its. A step with a loss that is not finite is left out, with a
    count; where there is no next batch, so is the step's W and with it the step.

    Attributes:
        population: (S,) the steps that moved the parameters, for which those observed stand; None: themselves.
        losses: (S,) ℓ_Bk(θ_k) of each, which tells of the steps that were not sampled; None: not known.
        rises: (S,) ℓ_Bk+1(θ_k+1) − ℓ_Bk(θ_k) of each, NaN where no next batch tells: with them ΔU is known, whatever
            was sampled.
        still: Σ of the same over steps that did not move the parameters, whose Q is 0.

    >>> law = StochasticFirstLaw()
    >>> state = law.update(law.init(), (0, 2.0, 1.5, 1.8))
    >>> found = law.result(law.update(state, (1, 1.8, 1.4, 1.6)))
    >>> print(*(f"{q.value:.1f}" for q in (found.heat, found.work, found.energy_change)))
    0.9 0.5 -0.4
    """

    population: Array | None = None
    rises: Array | None = None
    still: float = 0.0
    losses: Array | None = None

    def init(self) -> Observations:
        """Return the state of no step."""
        return Observations.zero(_WIDTH)

    def update(self, state: Observations, x: Sequence[float], /) -> Observations:
        """Return the state with one more step."""
        return state.add([*x, *(np.nan,) * (_WIDTH - len(x))])

    def merge(self, a: Observations, b: Observations, /) -> Observations:
        """Return the state of both sets of steps."""
        return a.merge(b)

    def result(self, state: Observations, /) -> FirstLaw:
        """Return the sums over all steps of the population."""
        heat, work, change, closure = self._law(state.rows)
        return FirstLaw(heat, work, change, closure, *self._midpoint(state.rows))

    def _law(self, rows: Array) -> tuple[Estimate, Estimate, Estimate, Estimate]:
        finite = np.all(np.isfinite(rows[:, 1:3]), axis=1)
        broken = rows[~finite, 0]
        followed = finite & np.isfinite(rows[:, 3])
        population, census, losses = rows[followed, 0], None, None
        if self.population is not None and self.rises is not None:
            among = np.isfinite(self.rises) & np.isin(self.population, broken, invert=True)
            population = self.population[among]
            losses = None if self.losses is None else self.losses[among]
            census = float(np.sum(self.rises[among])) if len(population) else None
            followed &= np.isin(rows[:, 0], population)
        step, before, after, following = rows[followed, :4].T
        if not len(step):
            why = "needs a sampled step with finite losses, and the next batch's" if len(rows) else NO_REPLAY
            unknown = Estimate.unknown("loss", why)
            change = unknown if census is None else self._change(census)
            return unknown, unknown, change, unknown
        sampling, plain = sample_steps(step, population, losses), sample_steps(step, population)
        facts = [
            sampling.said,
            _count(broken, "whose losses are not finite left out"),
            _count(rows[finite & ~followed, 0], "without a next batch left out"),
        ]

        def said(total: tuple[float, float | None], method: str) -> Estimate:
            return Estimate(*total, "loss", Provenance.DERIVED, method, "; ".join(fact for fact in facts if fact))

        none = np.zeros(len(step))
        heat = said(sampling.total(before - after, none), METHOD_Q)
        rise, error = plain.total(following - before, none)  # with no help from the losses, which it is to check
        change = self._change(rise if census is None else census)
        closure = said((0.0 if census is None else census - rise, error), "ΔU − Σ(W − Q) of the sampled steps")
        far = closure.stderr is not None and abs(closure.value or 0.0) > _UNLIKE * max(closure.stderr, 1e-9 * abs(rise))
        if far and len(step) >= _ENOUGH:
            unknown = Estimate.unknown("loss", UNLIKE)
            return unknown, unknown, change, closure
        return heat, replace(heat + change, method=METHOD_W, why=heat.why), change, closure

    def _change(self, census: float) -> Estimate:
        method = "minibatch losses, each batch's before its step"
        return Estimate(census + self.still, 0.0, "loss", Provenance.MEASURED, method)

    def _midpoint(self, rows: Array) -> tuple[Estimate, Estimate, Estimate]:
        taken = np.isfinite(rows[:, 4]) & np.isfinite(rows[:, 6])
        # Parameters that did not move cannot have changed the loss: then others did, as of optimizers that take turns.
        others = taken & (rows[:, 6] == 0) & (rows[:, 1] != rows[:, 2]) & np.isfinite(rows[:, 1] - rows[:, 2])
        taken &= ~others
        if np.any(others) and not np.any(taken):
            return Estimate.unknown("loss", OTHERS), Estimate.unknown("loss", OTHERS), _no_alignment(OTHERS)
        if not np.any(taken):
            return Estimate.unknown("loss", NO_MIDPOINT), Estimate.unknown("loss", NO_MIDPOINT), _no_alignment()
        step, (work, work_error, path, path_error) = rows[taken, 0], rows[taken, 4:].T
        sampling = sample_steps(step, step if self.population is None else self.population, self.losses)
        above, below = (work, work_error**2), (path, path_error**2)

        def said(total: tuple[float, float | None], unit: str, method: str) -> Estimate:
            return Estimate(*total, unit, Provenance.DERIVED, method, sampling.said)

        midpoint = said(sampling.total(*above), "loss", "E2, midpoint: Σ −½(g+g⁺)·Δθ")
        length = said(sampling.total(*below), "loss", "Σ ½(|g|+|g⁺|)|Δθ|")
        if not (length.value or 0.0) > 0:
            return midpoint, length, _no_alignment("the parameters did not move")
        return midpoint, length, said(sampling.ratio(above, below), "", "Σ −½(g+g⁺)·Δθ / Σ ½(|g|+|g⁺|)|Δθ|")


def _no_alignment(why: str = NO_MIDPOINT) -> Estimate:
    return Estimate.unknown("", why)


def _count(steps: Array, words: str) -> str:
    return f"{len(steps)} sampled step{'s' * (len(steps) > 1)} {words}" if len(steps) else ""


def read_first_law(run: Run) -> FirstLaw:
    """Return the first law of a run, scaled up from the steps on which the same batch was computed again.

    Q_k is of ``first_law``'s own pair of losses; the next batch's loss is that of ``losses``. A step that the gradient
    scaler skipped did not move the parameters: its Q is 0 and its W known. ``stderr`` holds the steps not sampled
    (:class:`~ergometry.estimators.sampling.Sampling`); the losses themselves are exact up to rounding. Where nothing
    was replayed, ``why`` says what the run's tap said of it.
    """
    estimator, observed = _observed(run)
    found = estimator.result(observed)
    if len(observed.rows):
        fact = "; ".join(filter(None, (_NO_FIRST if _without_first(run) else "", left_out(run))))
        return replace(
            found,
            heat=beside(found.heat, fact),
            work=beside(found.work, fact),
            energy_change=beside(found.energy_change, fact),
            midpoint=beside(found.midpoint, fact),
        )
    none, no_midpoint = (why_none(run, "first_law", needs) for needs in (NO_REPLAY, NO_MIDPOINT))
    return FirstLaw(
        heat=replace(found.heat, why=none),
        work=replace(found.work, why=none),
        energy_change=found.energy_change,
        closure=replace(found.closure, why=none),
        midpoint=replace(found.midpoint, why=no_midpoint),
        midpoint_path=replace(found.midpoint_path, why=no_midpoint),
        alignment=replace(found.alignment, why=no_midpoint),
    )


def _observed(run: Run) -> tuple[StochasticFirstLaw, Observations]:
    """Return the estimator that knows all of the run's steps, and what was seen of the sampled ones."""
    table, losses = run.table(FIRST_LAW), run.table(LOSSES)
    every = run.table(STEPS)["step"]
    each = values_at(every, losses, "loss")
    rises = np.append(np.diff(each), np.nan)[: len(every)]
    moving = np.isin(every, moving_steps(run))
    if _without_first(run):
        moving[0], rises[0] = False, np.nan
    population = StochasticFirstLaw(every[moving], rises[moving], float(np.nansum(rises[~moving])), each[moving])
    following = values_at(_next(table["step"], every), losses, "loss")
    columns = [table["step"], table["loss_before"], table["loss_after"], following]
    return population, Observations(np.column_stack([*columns, *(table[name] for name in _MIDPOINT)]))


def _without_first(run: Run) -> bool:
    """Say whether the run's first step was not looked at: it is like no other, so that none can stand for it."""
    table, every = run.table(FIRST_LAW), run.table(STEPS)["step"]
    return len(table) > 0 and len(every) > 1 and not np.any(table["step"] == every[0])


def _next(steps: Array, every: Array) -> Array:
    """Return the step after each of ``steps`` among ``every``, NaN after the last."""
    return np.append(every, np.nan)[np.searchsorted(every, steps, side="right")]


def standing_in(law: FirstLaw, work: GradientWork) -> FirstLaw:
    """Return the first law, with displacement work (E2) for ΣQ where nothing was replayed: named, its bias stated.

    Midpoint work differs from Q by the third order in Δθ on the same batch; Itô's exceeds it by ½Σ ΔθᵀHΔθ. The
    standard error is that of the sum, and does not hold the bias.
    """
    if law.heat.value is not None:
        return law
    midpoint = law.midpoint.value is not None
    found = law.midpoint if midpoint else work.ito
    if found.value is None:
        return law
    bias = (
        "differs from ΣQ by the third order in Δθ"
        if midpoint
        else "to second order above ΣQ by ½Σ ΔθᵀHΔθ, which no error here holds"
    )
    method = f"E2 stands in for E1: Σ {'−½(g+g⁺)·Δθ' if midpoint else '−g·Δθ'}"
    heat = replace(found, provenance=Provenance.MODELLED, method=method, why=f"{bias}; {law.heat.why}")
    change = law.energy_change
    if change.value is None:
        return replace(law, heat=heat)
    return replace(law, heat=heat, work=replace(heat + change, method=f"ΔU + ΣQ; {method}", why=heat.why))
