"""Other sizes: what is known of B_c at another size of a model, or of its data, carried to this one: B_c ∝ size^κ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.planning.belief import Belief
from ergometry.planning.history import critical_of
from ergometry.planning.steps_to_target import from_sizes

STATED_FACTOR = 1.5
"""A critical batch size that a person states is taken to hold within this factor, one sigma."""

_SAME = 0.01


def from_runs(runs: Sequence[Run], parameters: float | None) -> tuple[Belief | None, tuple[str, ...]]:
    """Return what runs of a job at other sizes of its model say of B_c at this size, and what was left out.

    Runs of one size tell its B_c by their losses at two batch sizes, else by their noise scale.

    Args:
        runs: of other sizes.
        parameters: of the model that is planned for.

    Raises:
        UsageError: the size of a model is not known, or a run is of this very size.
    """
    groups: dict[float, list[Run]] = {}
    for run in runs:
        size = _parameters(run.meta.get("parameters"), run.id)
        groups.setdefault(next((s for s in groups if abs(size / s - 1) <= _SAME), size), []).append(run)
    if not groups:
        return None, ()
    own = _parameters(parameters, "the run to go on from")
    known: dict[float, Belief] = {}
    remarks = []
    for size, group in groups.items():
        names = ", ".join(run.id for run in group)
        if abs(size / own - 1) <= _SAME:
            raise UsageError(
                expected="runs of other sizes of the model",
                got=f"{names} with the same {size:,.0f} parameters",
                remedy="name them beside the first run",
            )
        belief = critical_of(group)
        if belief is None:
            remarks.append(
                f"{names}: neither losses at two batch sizes nor a noise scale tell B_c at {size:,.0f} parameters"
            )
        else:
            known[size] = belief
    if not known:
        return None, tuple(remarks)
    found = from_sizes(list(known), list(known.values()), own)
    sizes = ", ".join(f"{size:.3g}" for size in known)
    return replace(found, source=f"size law from {sizes} parameters"), tuple(remarks)


def stated(critical_batch: float, grown: float = 1.0) -> Belief:
    """Return B_c at this size from one that is known at another, ``grown`` times smaller.

    Args:
        critical_batch: B_c there, example/step.
        grown: size here over size there, of the model and its data together.

    Raises:
        UsageError: one of them is not positive.
    """
    for name, value in (("critical batch size", critical_batch), ("growth in size", grown)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(expected=f"a positive {name}", got=f"{value:g}", remedy="leave it out if it is not known")
    words = f"B_c {critical_batch:g} as stated, within a factor {STATED_FACTOR:g}"
    belief = Belief.of(critical_batch, factor=STATED_FACTOR, source=words)
    if grown == 1.0:
        return belief
    return replace(from_sizes([1.0], [belief], grown), source=f"{words}, at a size {grown:g} times smaller")


def _parameters(value: object, of: str) -> float:
    if isinstance(value, int | float) and value > 0:
        return float(value)
    raise UsageError(
        expected=f"the number of parameters of {of}", got="none", remedy="record it with erg run, calling the model"
    )
