"""History: what the losses of stored runs say of the steps to a goal and of B_c.

Each run's losses are read as a descent (:mod:`~ergometry.planning.descent`); the steps of all between two losses that
they have in common give S(B). Runs may start anew or branch off one checkpoint, also mixed. A run that diverged, that
changed its batch size, or that trained another model is left out, and a remark says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.estimators.noise_scale import read_noise
from ergometry.estimators.rows import values_at
from ergometry.planning.belief import Belief, combined
from ergometry.planning.descent import Descent, descent
from ergometry.planning.learning_curve import fit_curve
from ergometry.planning.plan import Goal
from ergometry.planning.steps_to_target import STEPS_RMS, StepsLaw, fit_steps, from_noise_scale

Array = npt.NDArray[np.float64]

WARM_UP_STEPS = 10
"""The first steps compile, fill caches and load data: no measure of those that follow. At most a tenth is left out."""

UNKNOWN_FACTOR = 10.0
FAR = 4.0
"""Beyond so many times the steps seen an extrapolated loss is said to be one."""

DRAWS = 256

_COMMON = 0.6
"""The loss to which runs are compared is one that each had come down to by this share of its steps: a crossing near the
end is read low, as those that scatter to later are not seen."""
_BRANCHED = 0.25
_ONE_SIZE = 0.9
_TURN_STEPS = 50
"""An optimizer that comes later than this takes no turns: it trains what was frozen before."""


@dataclass(frozen=True)
class History:
    """What the losses of runs say.

    Attributes:
        critical_batch: of B_c.
        goal: steps to the goal at the first run's batch size.
        remarks: what was left out.
    """

    critical_batch: Belief
    goal: Goal
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Trained:
    """A run at one batch size, and its descent."""

    run: Run
    batch: float
    descent: Descent


def read_history(runs: Sequence[Run], target_loss: float | None = None, elsewhere: Sequence[Belief] = ()) -> History:
    """Return what the losses of runs say of the goal of the first one, and of B_c.

    Without a target the goal is the loss that the first run ended at, in as many steps as it made. A target that it has
    reached took the steps that it took; one beyond is extrapolated (:mod:`~ergometry.planning.learning_curve`). A new
    run's own luck, the scatter of steps about their law, is in the draws; that of the first run is taken out as far as
    others tell it. ``elsewhere`` is what other sizes of the model say of B_c, or a person.

    Raises:
        UsageError: the first run diverged, or began below the target; its optimizers take turns; the target is no
            finite number; no steps of known batch size; too few losses to extrapolate.
    """
    if (turns := taking_turns(runs[0])) > 1:
        raise UsageError(
            expected="a run that brings one loss down",
            got=f"{runs[0].id}, whose {turns} optimizers take turns, each at a loss of its own",
            remedy="a plan needs one loss; erg predict tells what the rest of such a run takes",
        )
    trained, remarks = _trained(runs)
    prior = _prior(runs, elsewhere)
    law, members = _law(trained, target_loss, prior)
    batch = _commonest(runs[0])[0]
    base, words = _base(runs[0], target_loss)
    remarks += _doubts(runs[0], target_loss)
    generator = np.random.default_rng(0)
    if law is None:
        critical_batch = prior or Belief.of(
            batch, factor=UNKNOWN_FACTOR, source="nothing is known of B_c but the batch size used"
        )
        critical, scatter = critical_batch.draws(generator, DRAWS), STEPS_RMS
        off = scatter * generator.normal(size=DRAWS)
    else:
        critical_batch, scatter = law.critical_batch, law.scatter
        critical = critical_batch.draws(generator, DRAWS)
        first = next((i for i, one in enumerate(members) if one.run is runs[0]), None)
        off = scatter * generator.normal(size=DRAWS) if first is None else law.off(first, critical, generator)
    further = float(np.median(base)) / max(len(loss_by_step(runs[0])), 1)
    if FAR < further < math.inf:
        remarks.append(
            f"the goal is {further:.0f} times as many steps away as were seen: no curve is known to keep its form "
            "so far, and the intervals do not tell that; record a longer run"
        )
    steps = base * np.exp(scatter * generator.normal(size=DRAWS) - off)
    return History(critical_batch, Goal(batch, steps, words, critical), tuple(remarks))


def _doubts(run: Run, target_loss: float | None) -> list[str]:
    """Say where the first run's loss is no goal, or may be none."""
    found, remarks = descent(loss_by_step(run)), []
    if target_loss is None and (found is None or not _came_down(found, loss_by_step(run))):
        remarks.append(
            f"the loss of {run.id} has not come down by more than it scatters: what it reached tells nothing; name a "
            "--target-loss, or record a longer run"
        )
    optimizers, backwards = joint_losses(run)
    if optimizers > 1:
        remarks.append(
            f"{optimizers} optimizers and {backwards} backward passes a step: the loss is the sum of what these began "
            "at, which is a goal for parts of one loss, as under accumulation, and none where they are of different "
            "models or pull against each other, as a GAN's"
        )
    return remarks


def _came_down(found: Descent, loss: Array) -> bool:
    """Say whether the last third is below the first by more than chance, or the end far below the beginning."""
    values = loss[np.isfinite(loss)]
    third = max(len(values) // 3, 1)
    fell = float(values[:third].mean() - values[-third:].mean())
    by_chance = math.sqrt(float(np.mean(np.diff(values) ** 2)) / third)
    ends = math.hypot(float(found.error[0]), float(found.error[-1]))
    return fell > 2.0 * by_chance or found.first - float(found.level[-1]) > 6.0 * ends


def joint_losses(run: Run) -> tuple[int, int]:
    """Return how many optimizers step together, and how many backward passes a step has; (1, 1) where either is one."""
    optimizers = len(np.unique(run.table(series.LEARNING_RATES)["optimizer"]))
    backwards = run.table(series.STEPS)["backwards"]
    backwards = backwards[np.isfinite(backwards)]
    each = round(float(np.median(backwards))) if len(backwards) else 1
    return (optimizers, each) if optimizers > 1 and each > 1 else (1, 1)


def critical_of(runs: Sequence[Run]) -> Belief | None:
    """Return what runs of one model say of B_c: their losses at two batch sizes, else their noise scale; else None."""
    prior = _prior(runs)
    law, _ = _law(_trained(runs)[0], None, prior)
    return prior if law is None else law.critical_batch


def taking_turns(run: Run) -> int:
    """Return how many optimizers of a run take turns, as those of adversarial networks do; 1 where none do.

    Optimizers of one loss all step within the first step; those that take turns begin one step after another.
    """
    rates = run.table(series.LEARNING_RATES)
    first: dict[float, float] = {}
    for who, step in zip(rates["optimizer"].tolist(), rates["step"].tolist(), strict=True):
        first[who] = min(step, first.get(who, math.inf))
    began = min(first.values(), default=0.0)
    return max(len({step for step in first.values() if step < began + _TURN_STEPS}), 1)


def of_another_job(run: Run, first: Run) -> str:
    """Return why a run is not of the job that the first one is of; '' where nothing says so."""
    parameters, model = run.meta.get("parameters"), first.meta.get("parameters")
    if taking_turns(run) > 1:
        return "has optimizers that take turns, each at a loss of its own"
    if model and parameters and abs(parameters / model - 1) > 0.01:
        return f"trained another model ({parameters:,} parameters, not {model:,})"
    return ""


def settled(run: Run) -> Array:
    """Return (n, 3) begin, end and examples of the steps after the first ones that trained."""
    table = run.table(series.STEPS)
    flags = np.nan_to_num(table["flags"]).astype(np.int64)
    usual = flags & (series.NO_BACKWARD | series.EXCEPTION) == 0
    rows = table.rows[usual][:, [table.columns.index(name) for name in ("t0_s", "t1_s", "examples")]]
    return np.asarray(rows[min(WARM_UP_STEPS, len(rows) // 10) :])


def loss_by_step(run: Run) -> Array:
    """Return the loss of every training step in order: NaN where it is not known, infinite where it was no number."""
    steps, losses = run.table(series.STEPS)["step"], run.table(series.LOSSES)
    found = values_at(steps, losses, "loss")
    told = np.isin(steps, losses["step"])
    return np.where(told & np.isnan(found), np.inf, found)


def _commonest(run: Run) -> tuple[float, float]:
    """Return the batch size that most steps of a run have, and their share.

    Raises:
        UsageError: no step's is known.
    """
    sizes = settled(run)[:, 2]
    known, counts = np.unique(sizes[np.isfinite(sizes)], return_counts=True)
    if not len(known):
        raise UsageError(
            expected=f"steps of known batch size in {run.id}", got="none", remedy="state it with --examples"
        )
    most = int(np.argmax(counts))
    return float(known[most]), float(counts[most] / counts.sum())


def _trained(runs: Sequence[Run]) -> tuple[list[_Trained], list[str]]:
    kept, remarks = [], []
    for run in runs:
        found = descent(loss_by_step(run))
        sizes = settled(run)[:, 2]
        if why := of_another_job(run, runs[0]):
            pass
        elif found is None or not np.any(np.isfinite(sizes)):
            why = "" if len(runs) == 1 else "has no losses at a known batch size"
        elif found.diverged:
            why = "diverged"
        else:
            batch, share = _commonest(run)
            why = "" if share >= _ONE_SIZE else "changed its batch size"
            if not why:
                kept.append(_Trained(run, batch, found))
        if why:
            remarks.append(f"{run.id} {why}: it is left out of what is known of steps")
    return kept, remarks


def _prior(runs: Sequence[Run], elsewhere: Sequence[Belief] = ()) -> Belief | None:
    beliefs = [belief for run in runs if (belief := from_noise_scale(read_noise(run).b_noise)) is not None]
    if beliefs:
        # Every run's noise scale stands in for B_c with the same unknown error: a second one does not halve it.
        beliefs = [replace(combined(beliefs), log_sd=min(belief.log_sd for belief in beliefs))]
    return combined([*beliefs, *elsewhere]) if beliefs or elsewhere else None


def _law(
    trained: Sequence[_Trained], target: float | None, prior: Belief | None
) -> tuple[StepsLaw | None, list[_Trained]]:
    """Return S(B) from the steps that runs took between two losses they have in common, and the runs it is from."""
    if len({one.batch for one in trained}) < 2:
        return None, []
    firsts = [one.descent.first for one in trained]
    start, deep = min(firsts), min(float(one.descent.level[-1]) for one in trained)
    branched = max(firsts) - start > _BRANCHED * (max(firsts) - deep)
    begins = [one.descent.steps_to(start) if branched else 0.0 for one in trained]
    deepest = max(
        one.descent.level_at(max(begin + _COMMON * (one.descent.at[-1] - begin), 1.0))
        for one, begin in zip(trained, begins, strict=True)
        if math.isfinite(begin)
    )
    # B_c grows as the loss falls: a target that all have passed is better than the deepest loss.
    common = deepest if target is None else max(target, deepest)
    members, steps, errors = [], [], []
    for one, begin in zip(trained, begins, strict=True):
        end = one.descent.steps_to(common)
        if not (math.isfinite(end) and end > begin):
            continue
        before = begin * one.descent.log_error(start) if begin > 1.0 else 0.0
        error = math.hypot(end * one.descent.log_error(common), before) / (end - begin)
        if math.isfinite(error):
            members.append(one)
            steps.append(end - begin)
            errors.append(error)
    if len({one.batch for one in members}) < 2:
        return None, []
    return fit_steps([one.batch for one in members], steps, prior, log_error=errors), members


def _base(run: Run, target: float | None) -> tuple[Array, str]:
    """Return draws of the steps that the first run took, or would take, to the goal, and the goal in words."""
    loss = loss_by_step(run)
    found = descent(loss)
    if target is None:
        if found is not None and found.diverged:
            raise UsageError(
                expected="a first run that trained",
                got=f"{run.id}, whose loss diverged" + _of_several(run),
                remedy="name another first, or --target-loss",
            )
        return np.full(DRAWS, float(len(loss))), f"what {run.id} reached in its {len(loss)} steps"
    if not math.isfinite(target):
        raise UsageError(expected="a finite target loss", got=f"{target:g}", remedy="name a loss")
    words = f"a loss of {target:g}"
    if found is not None and target >= found.first:
        raise UsageError(
            expected=f"a target below {found.first:.4g}, the loss that {run.id} began at",
            got=f"{target:g}",
            remedy="name a lower loss; what rises, as accuracy, is no loss",
        )
    if found is not None and math.isfinite(found.steps_to(target)):
        steps, error = found.steps_to(target), found.log_error(target)
        spread = min(error, 1.0) * np.random.default_rng(2).normal(size=DRAWS)
        return steps * np.exp(spread), f"{words}, which {run.id} reached at step {round(steps)}"
    if found is not None and found.diverged:
        raise UsageError(
            expected=f"{words} within reach",
            got=f"{run.id}, whose loss diverged" + _of_several(run),
            remedy="name another run first",
        )
    return np.resize(fit_curve(loss).steps_to(target), DRAWS), f"{words}, extrapolated from {len(loss)} steps"


def _of_several(run: Run) -> str:
    optimizers, backwards = joint_losses(run)
    return f" (a sum over {backwards} backward passes of {optimizers} optimizers a step)" if optimizers > 1 else ""
