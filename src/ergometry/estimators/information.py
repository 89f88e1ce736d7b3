"""Information in the parameters (E7 i): ½logdet(1 + F_tot/λ), of the whole model and of each module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.core.series import INFORMATION

HOW = {
    1: "exact ½logdet",
    2: "½logdet by stochastic Lanczos",
    3: "Kronecker-factored ½logdet",
    4: "½logdet of exact blocks",
    5: "½logdet of the exact diagonal",
}
_BLOCKS = 4
BOUND = {
    3: "an upper bound, and no error is stated of a bound",
    4: "an upper bound of the whole's, and no error is stated of a bound",
    5: "an upper bound, by far where parameters act together; no error is stated of a bound",
}
"""Of a module alone an exact block is exact; all else is an upper bound."""
NEGATIVE = "negative by the estimate's own error: ½logdet(1 + F/λ) is at least 0, and this is to be read as none"
NO_INFORMATION = "needs ½logdet(1 + F/λ), taken at the end of a run with --physics full"


@dataclass(frozen=True)
class Information:
    """What the parameters hold, in nat, under a Gaussian prior and the curvature of their outputs.

    Attributes:
        whole: of all parameters together.
        modules: of each module alone, by name. They sum to more than the whole where modules act together.
        prior_precision: λ.
        examples: n, the training examples that F was scaled up to.
    """

    whole: Estimate
    modules: Mapping[str, Estimate]
    prior_precision: float | None
    examples: float | None


def read_logdet(run: Run) -> Information:
    """Return ½logdet(1 + F_tot/λ) of a run, as last taken, with its method named and what it assumes in ``why``.

    F_tot is the Fisher information of n examples, n times its mean over one batch, at the parameters of the end: how
    well those examples fix the parameters beside a Gaussian prior of precision λ. It is the information about the
    parameters in Laplace's approximation, exactly so in a linear Gaussian model.

    Source: E7; MacKay 1992 (evidence and the number of well-determined parameters).
    """
    table = run.table(INFORMATION)
    usable = table.rows[np.isfinite(table["nat"])] if len(table) else table.rows
    if not len(usable):
        taps = (run.meta.get("physics") or {}).get("taps") or {}
        why = (taps.get("information") or {}).get("why")
        return Information(Estimate.unknown("nat", why or NO_INFORMATION), {}, None, None)
    told = run.meta.get("information") or {}
    names, assumed = told.get("modules") or [], str(told.get("prior", ""))
    whole = Estimate.unknown("nat", "of the modules alone: the whole was too dear")
    modules: dict[str, Estimate] = {}
    precision = examples = None
    for row in usable:
        values = dict(zip(table.columns, map(float, row), strict=True))
        precision, examples = values["prior_precision"], values["examples"]
        estimate = _estimate(values, assumed)
        part = int(values["part"])
        if part < 0:
            whole = estimate
        else:
            modules[str(names[part]) if part < len(names) else f"module {part}"] = estimate
    return Information(whole, modules, precision, examples)


def _estimate(values: Mapping[str, float], assumed: str) -> Estimate:
    how = int(values["how"])
    bound = "" if how == _BLOCKS and values["part"] >= 0 else BOUND.get(how, "")
    stderr = values["stderr"] if math.isfinite(values["stderr"]) and not bound else None
    facts = (
        NEGATIVE if values["nat"] < 0 else "",
        f"{values['examples']:.0f} examples, prior precision {values['prior_precision']:.3g}",
        assumed,
        bound,
    )
    return Estimate(
        values["nat"],
        stderr,
        "nat",
        Provenance.DERIVED,
        f"{HOW.get(how, 'unknown')} (E7 i)",
        "; ".join(filter(None, facts)),
    )
