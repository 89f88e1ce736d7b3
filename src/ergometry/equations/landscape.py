"""Section 7, the landscape: work along the gradient, and heat against dissipation."""

from __future__ import annotations

from ergometry.equations import elementwise as ew
from ergometry.equations.readings import Readings
from ergometry.equations.section import (
    CERTIFIED,
    LEDGER,
    MIDPOINT,
    REPLAYED,
    Array,
    Real,
    Section,
    Symbol,
    Values,
    Verdict,
)


def gradient_path(gradient: Array, displacement: Array, next_gradient: Array | None = None) -> Real:
    """Length of the path weighted by the gradient, W_gradient = Σ|g||Δθ|, in loss units.

    An upper bound on |Σ g·Δθ|. With ``next_gradient`` it is Σ½(|g|+|g⁺|)|Δθ|, which bounds the midpoint sum.

    Args:
        gradient: (K, N), g at the start of each step.
        displacement: (K, N), Δθ.
        next_gradient: (K, N), g⁺ at the end of each step, on the same batch.

    Source: 7.1.

    >>> import numpy as np
    >>> float(gradient_path(np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])))
    10.0
    """
    norm = ew.norm(gradient)
    if next_gradient is not None:
        norm = 0.5 * (norm + ew.norm(next_gradient))
    return (norm * ew.norm(displacement)).sum()


def alignment(work: Real, path: Real) -> Real:
    """Alignment of the motion with the force, A ∈ [−1, 1]: displacement work over :func:`gradient_path`.

    The same rule, Itô or midpoint, must have made both. It does not change when the loss is rescaled.

    Source: 7.1.

    >>> alignment(8.0, 10.0)
    0.8
    """
    return work / path


def heat_as_written(work: Real, free_energy_change: Real) -> Real:
    """Heat by 7.2 as written, W − ΔF. That is the dissipated work: it exceeds the heat by T·ΔS.

    Source: 7.2.

    >>> heat_as_written(3.0, 1.0)
    2.0
    """
    return work - free_energy_change


def heat(work: Real, energy_change: Real) -> Real:
    """Heat given to the bath, Q = W − ΔU, the first law.

    Source: 7.2, repaired; Sekimoto 1998.

    >>> heat(3.0, 2.5)
    0.5
    """
    return work - energy_change


SECTIONS = (
    Section(
        id="7.1",
        title="Gradient work",
        as_written="W_gradient = ∫ |∇L| |dθ|",
        symbols=(
            Symbol("∇L", "loss", "gradient of the loss"),
            Symbol("dθ", "", "displacement of the parameters"),
            Symbol("W_gradient", "loss", "path length weighted by the gradient"),
        ),
        verdict=Verdict.EXACT,
        why="an exact upper bound on |ΔL| for the continuous integral; the discrete sum bounds the midpoint sum of its "
        "own steps. Descent goes along −∇L: nothing is done 'against the gradient'",
        repair="the alignment A = ΣQ_mid / Σ½(|g|+|g⁺|)|Δθ| ∈ [−1, 1]; its Itô reading Σ −g·Δθ / Σ|g||Δθ| needs no "
        "further gradient",
        as_written_names={"W_gradient": "loss", "delta_L": "loss"},
        repair_names={
            "alignment_ito": "",
            "alignment": "",
            "W_ito": "loss",
            "W_midpoint": "loss",
            "path_midpoint": "loss",
        },
        needs={
            "W_gradient": LEDGER,
            "alignment_ito": LEDGER,
            "W_ito": LEDGER,
            **dict.fromkeys(("alignment", "W_midpoint", "path_midpoint"), MIDPOINT),
        },
        tells="how much of the motion went along the gradient: near 0 the steps cancel or wander, at 1 all is descent",
        estimator="E2",
        references=("Sekimoto 1998",),
    ),
    Section(
        id="7.2",
        title="Heat",
        as_written="Q = W_total − ΔF",
        symbols=(
            Symbol("Q", "loss", "heat given to the bath"),
            Symbol("W_total", "loss", "work done on the learner"),
            Symbol("ΔF", "loss", "free-energy change, ΔU − TΔS"),
        ),
        verdict=Verdict.FALSE,
        why="the first law is Q = W − ΔU; W − ΔF is the dissipated work, larger by TΔS",
        repair="Q = W − ΔU by E1 on any run; W_diss = W − ΔF in certified mode; both are given",
        as_written_names={"Q_as_written": "loss"},
        repair_names={
            "Q_first_law": "loss",
            "W_first_law": "loss",
            "delta_U": "loss",
            "first_law_closure": "loss",
            "W_dissipated": "loss",
        },
        needs={
            "Q_as_written": f"{CERTIFIED}, for the free-energy change",
            "Q_first_law": REPLAYED,
            "W_first_law": "needs the loss of the next batch before its step and of this batch after it (E1)",
            "first_law_closure": REPLAYED,
            "W_dissipated": f"{CERTIFIED}, for the free-energy change",
        },
        tells="what the steps took off the loss of their own batches, and what the change of batch put back",
        estimator="E1",
        references=("Sekimoto 1998", "Seifert 2012"),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    work, law = readings.gradient, readings.first_law
    return {
        "7.1": {
            "W_gradient": work.path,
            "delta_L": readings.loss_change,
            "alignment_ito": work.alignment,
            "W_ito": work.ito,
            "alignment": law.alignment,
            "W_midpoint": law.midpoint,
            "path_midpoint": law.midpoint_path,
        },
        "7.2": {
            "Q_first_law": law.heat,
            "W_first_law": law.work,
            "delta_U": readings.energy_change,
            "first_law_closure": law.closure,
        },
    }
