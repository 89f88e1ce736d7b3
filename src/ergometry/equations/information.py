"""Section 9, work and information: what a joule could teach at most, and what bounds learning instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ergometry.core.estimate import Estimate, total
from ergometry.equations import elementwise as ew
from ergometry.equations.priced import combined
from ergometry.equations.readings import Readings
from ergometry.equations.section import CERTIFIED, Array, Real, Section, Symbol, Values, Verdict
from ergometry.equations.thermodynamic_work import THERMAL_ENERGY, landauer_energy


def information_as_written(work_j: Real, temperature_k: Real = 300.0) -> Real:
    """Largest information by 9.1 as written, in bit: W_total/(k_B·T·ln 2). With a power for the work, 9.3 in bit/s.

    Source: 9.1, 9.3.

    >>> print(f"{information_as_written(1.0):.2e}")
    3.48e+20
    """
    return work_j / landauer_energy(temperature_k)


def largest_information(entropy_change: Real, heat_over_t: Real) -> Real:
    """Largest information in certified mode, I ≤ ΔS + Q/T, in nat; its rate form is İ ≤ Ṡ + Q̇/T.

    Args:
        entropy_change: ΔS of the weights' marginal distribution, nat.
        heat_over_t: heat given to the bath over its temperature, nat.

    Source: 9.1, repaired; Goldt & Seifert 2017.

    >>> print(f"{largest_information(0.4816, 0.17):.4f}")
    0.6516
    """
    return entropy_change + heat_over_t


def drag_information(x: Real, tau: Real, t: Real | None = None) -> Real:
    """Information about θ* at time t of a trap dragged there over τ, I, in nat: ½ln(1+x·m²), with k = γ = T = 1.

    m = (t − 1 + e^{−t})/τ is the mean's share of θ*, and the variance stays 1. The entropy change of the weights'
    marginal is the same number. ``t`` None: at the end, τ.

    Source: 9.1.

    >>> print(f"{drag_information(2.0, 10.0):.4f}")
    0.4816
    """
    return 0.5 * ew.log1p(x * _drag_mean(tau, t) ** 2)


def drag_information_rate(x: Real, tau: Real, t: Real) -> Real:
    """Rate of :func:`drag_information`, İ, in nat per unit time: x·m·ṁ/(1+x·m²), ṁ = (1−e^{−t})/τ.

    Source: 9.3.

    >>> import numpy as np
    >>> print(f"{np.max(drag_information_rate(2.0, 10.0, np.linspace(0.0, 10.0, 10001))):.4f}")
    0.0707
    """
    m = _drag_mean(tau, t)
    return x * m * (-ew.expm1(-t) / tau) / (1.0 + x * m**2)


def drag_power(x: Real, tau: Real, t: Real) -> Real:
    """Mean power of dragging the trap, Ẇ, with k = γ = T = 1: (x/τ²)(1−e^{−t}).

    Source: 9.3.

    >>> print(f"{drag_power(2.0, 10.0, 10.0):.4f}")
    0.0200
    """
    return -x / tau**2 * ew.expm1(-t)


def _drag_mean(tau: Real, t: Real | None) -> Real:
    at = tau if t is None else t
    return (at + ew.expm1(-at)) / tau


def quench_information_rate(x: Real, t: Real) -> Real:
    """Rate of information after the trap jumped, İ = Ṡ, with k = γ = T = 1: x(1−e^{−t})e^{−t}/[1+x(1−e^{−t})²].

    Source: 9.3.

    >>> import numpy as np
    >>> print(f"{quench_information_rate(1.0, np.log(2.0)):.2f}")
    0.20
    """
    risen = -ew.expm1(-t)
    return x * risen * ew.exp(-t) / (1.0 + x * risen**2)


def quench_heat_rate(x: Real, t: Real) -> Real:
    """Heat flow to the bath after the trap jumped, Q̇, with k = γ = T = 1: x·e^{−2t}.

    Source: 9.3.

    >>> float(quench_heat_rate(2.0, 0.0))
    2.0
    """
    return x * ew.exp(-2.0 * t)


def logarithmic_allocation(weights: Array, energy: Real) -> Array:
    """Energy that maximises Σ a_l·ln J_l at a given total, J_l ∝ a_l, in J: the case in which 9.2 is exact.

    There the marginal information a_l/J_l is the same everywhere, which is the general condition.

    Args:
        weights: (n,), a_l > 0, nat.
        energy: ΣJ_l, J.

    Source: 9.2, derived.

    >>> import numpy as np
    >>> logarithmic_allocation(np.array([1.0, 3.0]), 8.0)
    array([2., 6.])
    """
    return energy * weights / weights.sum()


def returns_inequality(information: Array, joules: Array) -> Real:
    """How unequal ΔI_l/ΔJ_l is between layers: its joule-weighted standard deviation over its mean; 0 if all are equal.

    Args:
        information: (n,), ΔI of each layer.
        joules: (n,), ΔJ of each layer, positive.

    Source: 9.2, repaired.

    >>> import numpy as np
    >>> float(returns_inequality(np.array([1.0, 2.0]), np.array([2.0, 4.0])))
    0.0
    """
    returns, share = information / joules, joules / joules.sum()
    mean = information.sum() / joules.sum()
    return ew.sqrt((share * (returns - mean) ** 2).sum()) / abs(mean)


_CERTIFIED = f"{CERTIFIED}, and the weights' entropy change"
_RETURNS = "needs ½logdet of two modules at least (--physics full, E7 i) and their joules (a calibrated device)"
_ALGORITHMIC = "needs ΣW (E1) and the noise temperature (E5), which is stated for plain SGD"

SECTIONS = (
    Section(
        id="9.1",
        title="Information bound",
        as_written="I ≤ W_total/(k_B T ln 2)",
        symbols=(
            Symbol("I", "bit", "information gained by the parameters"),
            Symbol("W_total", "J", "energy drawn"),
            Symbol("k_B·T·ln 2", "J/bit", "thermal price of a bit"),
        ),
        verdict={"physical": Verdict.VACUOUS, "algorithmic": Verdict.FALSE},
        why="physical: true on today's hardware by some twenty powers of ten; algorithmic, of the work done on the "
        "learner: a trap dragged to a random θ* (x=2, τ=10) costs W = 0.180 T and carries I = 0.482 nat",
        repair="certified mode: I ≤ ΔS + Q/T (there 0.652 nat)",
        as_written_names={"I_max": "bit", "I": "bit", "I_max_algorithmic": "bit"},
        repair_names={"I_certified": "nat", "margin": "", "margin_algorithmic": ""},
        needs={
            "I_certified": _CERTIFIED,
            **dict.fromkeys(("I_max_algorithmic", "margin_algorithmic"), _ALGORITHMIC),
        },
        tells="how far the bound is from mattering (margin): look at 3.2 instead, what a joule bought",
        estimator="E7, E8",
        references=("Goldt & Seifert 2017 (1611.09428)",),
    ),
    Section(
        id="9.2",
        title="Where to spend",
        as_written="dW/dt ∝ |∇I(θ,t)|",
        symbols=(
            Symbol("W", "J", "energy spent"),
            Symbol("t", "s", "time"),
            Symbol("I", "nat", "read as the scalar information gain; as written, the Fisher information, a matrix"),
        ),
        verdict=Verdict.MODEL,
        why="with the Fisher information, a matrix, |∇I| is undefined; with the scalar information gain the rule is "
        "exact for logarithmic returns only",
        repair="equal marginal information per joule: ΔI_l/ΔJ_l the same in every layer; report how unequal they are",
        as_written_names={"dW_dt": "W"},
        repair_names={
            "returns_inequality": "",
            "returns_most": "nat/J",
            "returns_least": "nat/J",
            "work_inequality": "",
        },
        needs={
            "dW_dt": "undefined as written: |∇I| of a matrix, and a proportion without its constant",
            **dict.fromkeys(("returns_inequality", "returns_most", "returns_least"), _RETURNS),
            "work_inequality": "needs displacement work and joules of two modules at least",
        },
        tells="which layers buy little for their joules: 0 where all buy alike, 1 where they differ by as much as "
        "their mean. work_inequality is of displacement work per joule, which needs no curvature",
        estimator="E7, E8; E2 by module",
        references=("Perseus (2312.06902), for joules by layer",),
    ),
    Section(
        id="9.3",
        title="Information rate",
        as_written="dI/dt ≤ P_max/(k_B T ln 2)",
        symbols=(
            Symbol("I", "bit", "information gained by the parameters"),
            Symbol("t", "s", "time"),
            Symbol("P_max", "W", "largest power"),
            Symbol("k_B·T·ln 2", "J/bit", "thermal price of a bit"),
        ),
        verdict={"physical": Verdict.VACUOUS, "algorithmic": Verdict.FALSE},
        why="physical: as 9.1; algorithmic: on the dragged trap İ = 0.0707 exceeds the largest power Ẇ = 0.0200 "
        "(T = 1, nat)",
        repair="certified mode: İ ≤ Ṡ + Q̇/T",
        as_written_names={"I_rate_max": "bit/s", "I_rate": "bit/s", "I_rate_max_algorithmic": "bit/s"},
        repair_names={"I_rate_certified": "nat/s"},
        needs={"I_rate_certified": _CERTIFIED, "I_rate_max_algorithmic": _ALGORITHMIC},
        tells="how fast the run learned on average; the bound says nothing at today's scale",
        estimator="E7, E8",
        references=("Goldt & Seifert 2017 (1611.09428)",),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    nats, joules = readings.information, readings.accounts.total
    most = replace(joules / THERMAL_ENERGY, method="W_total/(k_B·300 K·ln 2)")
    fastest = replace(readings.peak_power / THERMAL_ENERGY, method="P_max/(k_B·300 K·ln 2)")
    algorithmic = readings.first_law.work / readings.temperatures.noise
    if algorithmic.known:
        algorithmic = replace(algorithmic, method="ΣW/T_a, the noise temperature")
    return {
        "9.1": {
            "I_max": most,
            "I": nats,
            "I_max_algorithmic": algorithmic,
            "margin": readings.from_information(most / nats, "I_max/I"),
            "margin_algorithmic": readings.from_information(algorithmic / nats, "I_max_algorithmic/I"),
        },
        "9.2": _returns(readings),
        "9.3": {
            "I_rate_max": fastest,
            "I_rate": readings.from_information(nats / readings.duration, "I/t"),
            "I_rate_max_algorithmic": algorithmic / readings.duration,
        },
    }


def _returns(readings: Readings) -> dict[str, Estimate]:
    """Return what a joule bought in the modules, and how unequal that is; nothing where it is not known of two."""
    found: dict[str, Estimate] = {}
    nats = _with_joules(readings, readings.logdet.modules)
    if len(nats) > 1:
        found["returns_inequality"] = _inequality(nats, "spread of ½logdet per joule over modules")
        returns = {name: i / j for name, (i, j) in nats.items()}
        for name, module in (
            ("returns_most", max(returns, key=lambda m: returns[m].value or 0.0)),
            ("returns_least", min(returns, key=lambda m: returns[m].value or 0.0)),
        ):
            found[name] = replace(returns[module], method=f"½logdet of {module} over its joules")
    work = _with_joules(readings, readings.module_work)
    if len(work) > 1:
        found["work_inequality"] = _inequality(work, "spread of displacement work per joule over modules")
    return found


def _with_joules(readings: Readings, bought: Mapping[str, Estimate]) -> dict[str, tuple[Estimate, Estimate]]:
    """Return what each module bought beside its joules, those of the modules within it included."""
    found = {}
    for name, gain in bought.items():
        inside = [row.energy for row in readings.accounts.by_module if f"{row.name}.".startswith(f"{name}.")]
        joules = total(inside, correlated=True) if inside else None
        if gain.known and joules is not None and (joules.value or 0.0) > 0:
            found[name] = gain, joules
    return found


def _inequality(pairs: Mapping[str, tuple[Estimate, Estimate]], method: str) -> Estimate:
    gains, joules = zip(*pairs.values(), strict=True)
    n = len(pairs)
    found = combined(lambda *x: returns_inequality(np.array(x[:n]), np.array(x[n:])), [*gains, *joules], "", method)
    return replace(found, why=f"of {n} modules: {', '.join(pairs)}") if found.known else found
