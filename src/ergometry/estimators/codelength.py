"""Information by prequential codelength (E7 ii): what a run's own losses say that its parameters learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import LOSSES, NO_BACKWARD, STEPS
from ergometry.estimators.rows import values_at
from ergometry.estimators.sampling import Array

METHOD = "prequential codelength gain over the uniform code (E7 ii)"

#: How many of the first losses must look like a cross-entropy, and by what factor they may exceed ln C.
GUARD_STEPS, GUARD_FACTOR = 10, 1.5

REPEATS = (
    "an upper bound: whether a label came twice is not known, and one that did is counted as new (some steps had no "
    "data loader whose passes could be counted); exact where the data come from a torch DataLoader without replacement"
)
NEGATIVE = (
    "negative: on the whole these labels cost more than the uniform code's ln C each, so that nothing was saved yet; "
    "what the first steps cost, at a loss above ln C, is repaid by later ones that predict better, if there are any"
)


def prequential_gain(losses: Array, counts: Array, classes: int) -> float:
    """Prequential codelength gain, I, in nat: what predicting each label before learning from it saved.

    I = Σ_t n_t·(ln C − ℓ_t(θ_{t−1})), against the uniform code over C classes.

    The code is one that a receiver can decode, so the gain is a definition and not a sample: given the losses,
    it has no standard error. It is not the Bayes predictive: a learner that is slow, or that runs with dropout, codes
    worse and shows less gain than its final parameters hold.

    Args:
        losses: (S,) float64, mean cross-entropy in nat per label, each computed before the step's update.
        counts: (S,) float64, labels of each step.
        classes: C, at least 1.

    Source: E7 (ii); Blier & Ollivier 2018.

    >>> print(f"{prequential_gain(np.full(10, 0.5), np.full(10, 32.0), 10):.3f}")
    576.827
    """
    return float(np.sum(np.asarray(counts) * (math.log(classes) - np.asarray(losses))))


def read_information(run: Run) -> Estimate:
    """Information gained by the parameters, I, in nat, from the losses that a run recorded.

    Only steps of the first pass over the data count: later a label has been seen and its code is no longer
    prequential. Where no loader tells of passes, whether a label came before is not known: the value is an upper bound
    then, with ``stderr`` None, since a label that came again brings no news. A step without a finite loss or a count
    is sent by the uniform code: it gains nothing and is left out.

    Otherwise ``stderr`` is 0: the realised codelength is a definition (:func:`prequential_gain`). What may be wrong is
    what was inferred, which no standard error holds, so ``why`` names it: the classes, the labels per step (padding
    counts as labels), the loss being a mean cross-entropy, and that the examples of a pass are different ones.
    """
    coded = coded_steps(run)
    if not len(coded.step):
        return _unknown(coded.why)
    gain = prequential_gain(coded.losses, coded.counts, coded.classes)
    why = f"{NEGATIVE}; {coded.why}" if gain < 0 else coded.why
    stderr, provenance = (None, Provenance.ASSUMED) if coded.repeats else (0.0, Provenance.DERIVED)
    return Estimate(gain, stderr, "nat", provenance, METHOD, why)


@dataclass(frozen=True)
class CodedSteps:
    """The steps of a run whose labels can be coded before they are learned from.

    Attributes:
        step: (n,) which.
        losses: (n,) mean cross-entropy of each, nat per label.
        counts: (n,) its labels.
        classes: C of the uniform code.
        why: what was inferred for it; of no step, what is needed.
        repeats: labels may have come before.
    """

    step: Array
    losses: Array
    counts: Array
    classes: int
    why: str
    repeats: bool = False


def coded_steps(run: Run) -> CodedSteps:
    """Return the steps of a run that can be coded: of the first pass, with a loss that looks like a cross-entropy."""
    none = np.empty(0)
    classes = _classes(run.meta)
    if classes is None:
        why = "needs the number of classes (the last dimension of the model's output), which was not seen"
        return CodedSteps(none, none, none, 0, why)
    step, losses, counts, facts, repeats = _coded_steps(run)
    if not len(losses):
        return CodedSteps(none, none, none, classes, facts)
    first = float(np.mean(losses[:GUARD_STEPS]))
    if not 0.0 <= first <= GUARD_FACTOR * math.log(classes) or np.min(losses) < 0.0:
        why = f"the loss does not look like a cross-entropy over {classes} classes"
        return CodedSteps(none, none, none, classes, why)
    why = f"inferred: a loss that is the mean cross-entropy in nat over {classes} classes (the output's width); {facts}"
    return CodedSteps(step, losses, counts, classes, f"{REPEATS}; {why}" if repeats else why, repeats)


def _unknown(why: str) -> Estimate:
    return Estimate.unknown("nat", why)


def _classes(meta: Mapping[str, Any]) -> int | None:
    classes = meta.get("classes")
    if isinstance(classes, int | float) and math.isfinite(classes) and classes >= 2:
        return int(classes)
    return None


def _coded_steps(run: Run) -> tuple[Array, Array, Array, str, bool]:
    """Return steps, losses and label counts of what can be coded, what was taken as given, and if labels may repeat."""
    none = np.empty(0)
    if not len(run.table(STEPS)):
        return none, none, none, "needs training steps, of which none was seen", False
    if not len(run.table(LOSSES)):
        return none, none, none, "needs the loss of each step, which was not seen", False
    steps = run.table(STEPS)
    passes, flags = np.nan_to_num(steps["loader_pass"]), np.nan_to_num(steps["flags"]).astype(np.int64)
    steps = Table(steps.columns, steps.rows[(passes <= 1) & (flags & NO_BACKWARD == 0)])
    loss = values_at(steps["step"], run.table(LOSSES), "loss")
    has_tokens = len(steps) > 0 and bool(np.all(np.isfinite(steps["tokens"])))
    # A classifier of texts reads tokens and has one label an example: its output told.
    per_token = has_tokens and run.meta.get("label") != "example"
    counts = steps["tokens" if per_token else "examples"]
    coded = np.isfinite(loss) & np.isfinite(counts)
    if not np.any(coded):
        return (
            none,
            none,
            none,
            "needs steps of the first pass over the data with a finite loss and a known size",
            False,
        )
    repeats = bool(np.any(np.nan_to_num(steps["loader_pass"][coded]) < 1))
    facts = [f"one label per {'token' if per_token else 'example'}, as counted"]
    if not repeats:
        facts.append("the first pass over the data")
    if missing := len(coded) - int(np.count_nonzero(coded)):
        facts.append(f"{missing} of its {len(coded)} steps have no finite loss or size and add nothing")
    if np.any(steps["backwards"][coded] > 1):
        facts.append("a step's loss is the sum over its backward calls, read as already divided by their number")
    facts.append("losses as the training saw them, dropout included, each before its update")
    return steps["step"][coded], loss[coded], counts[coded], "; ".join(facts), repeats
