"""Section 3, efficiency: information per entropy, bounded only in certified mode, and information per joule."""

from __future__ import annotations

import math
from dataclasses import replace

from ergometry.equations import elementwise as ew
from ergometry.equations.readings import Readings
from ergometry.equations.section import CERTIFIED, Real, Section, Symbol, Values, Verdict
from ergometry.equations.thermodynamic_work import THERMAL_ENERGY


def thermodynamic_efficiency(useful: Real, total: Real) -> Real:
    """Ratio of useful to total work, η_thermo, dimensionless: W_useful/W_total, or ΔS_info/(ΔS_info + ΔS_diss).

    A ratio: nothing bounds it by 1 outside certified mode (:func:`certified_efficiency`).

    Source: 3.1.

    >>> thermodynamic_efficiency(1.0, 4.0)
    0.25
    """
    return useful / total


def certified_efficiency(information: Real, entropy_change: Real, heat_over_t: Real) -> Real:
    """Thermodynamic efficiency of learning, η ≤ 1, in certified mode: I/(ΔS + Q/T), all in nat.

    Args:
        information: I(θ; θ*) gained, nat.
        entropy_change: ΔS of the weights' marginal distribution, nat.
        heat_over_t: heat given to the bath over its temperature, nat.

    Source: Goldt & Seifert 2017.

    >>> certified_efficiency(0.3, 0.3, 0.3)
    0.5
    """
    return information / (entropy_change + heat_over_t)


def power_efficiency(information: Real, power_w: Real, seconds: Real) -> Real:
    """Information per joule, η_power, in the information's unit per J: ΔI/(P·Δt).

    Source: 3.2.

    >>> power_efficiency(1e6, 50.0, 20.0)
    1000.0
    """
    return information / (power_w * seconds)


def quench_information(x: Real, t: Real) -> Real:
    """Information about θ* a time t after the trap jumped to it, I, in nat: ½ln(1 + x(1−e^{−t})²), with k = γ = T = 1.

    Given θ* the mean is θ*(1−e^{−t}) and the variance stays 1; x = ⟨θ*²⟩. ΔS of the weights is the same number.

    Source: 3.1.

    >>> print(f"{quench_information(1.0, math.inf):.4f}")
    0.3466
    """
    return 0.5 * ew.log1p(x * ew.expm1(-t) ** 2)


def quench_heat(x: Real, t: Real) -> Real:
    """Heat given to the bath a time t after the trap jumped, Q, with k = γ = T = 1: ½x(1−e^{−2t}).

    Source: 3.1.

    >>> float(quench_heat(1.0, math.inf))
    0.5
    """
    return -0.5 * x * ew.expm1(-2.0 * t)


def quench_efficiency(x: Real, t: Real = math.inf) -> Real:
    """Certified efficiency of the quench, η = I/(ΔS + Q/T) with ΔS = I; ½ at most, as x → 0.

    Source: 3.1.

    >>> print(f"{quench_efficiency(1.0):.4f}")
    0.4094
    """
    information = quench_information(x, t)
    return certified_efficiency(information, information, quench_heat(x, t))


def hebbian_accuracy(load: Real, strength: Real) -> Real:
    """Probability that a Hebbian perceptron classifies a learned example correctly, p_C: Φ(ν/√(α(1+ν²))).

    Random labels, αN examples, N weights; each weight is ν times its normalised Hebbian sum, plus unit noise. On a
    learned example the stability then has mean ν/√α and variance 1+ν².

    Args:
        load: α, examples per weight.
        strength: ν, learning strength.

    Source: Goldt & Seifert 2017.

    >>> print(f"{hebbian_accuracy(1.0, 1.0):.4f}")
    0.7602
    """
    return 0.5 * (1.0 + ew.erf(_stability(load, strength) / math.sqrt(2.0)))


def hebbian_efficiency(load: Real, strength: Real) -> Real:
    """Certified efficiency of a Hebbian perceptron, η: α[ln 2 − h(p_C)] / [½ln(1+ν²) + ν²/2], h in nat.

    Its supremum 1/π is approached as α → ∞ and ν → 0, and not attained. Arguments as in :func:`hebbian_accuracy`.

    Source: Goldt & Seifert 2017.

    >>> print(f"{hebbian_efficiency(1.0, 1.0):.4f}")
    0.1682
    """
    e = ew.erf(_stability(load, strength) / math.sqrt(2.0))
    # ln 2 − h(½(1+e)), written so that it does not cancel at small e
    short = ew.where(e < 1.0, e, 0.0)
    information = 0.5 * ((1.0 + short) * ew.log1p(short) + (1.0 - short) * ew.log1p(-short))
    information = ew.where(e < 1.0, information, math.log(2.0))
    return load * information / (0.5 * ew.log1p(strength**2) + 0.5 * strength**2)


def _stability(load: Real, strength: Real) -> Real:
    return strength / ew.sqrt(load * (1.0 + strength**2))


SECTIONS = (
    Section(
        id="3.1",
        title="Thermal efficiency",
        as_written="η_thermo = W_useful/W_total = ΔS_info/(ΔS_info + ΔS_diss)",
        symbols=(
            Symbol("W_useful", "J", "work worth of the information gained (1.2)"),
            Symbol("W_total", "J", "energy drawn"),
            Symbol("ΔS_info", "nat", "information gained"),
            Symbol("ΔS_diss", "nat", "entropy given to the bath"),
        ),
        verdict=Verdict.EXACT,
        why="exact as a ratio, the second form at one temperature T for both terms; an efficiency bounded by 1 only "
        "in certified mode",
        repair="η = I/(ΔS + Q/T) ≤ 1 in certified mode, ΔS the entropy change of the weights",
        as_written_names={"eta_thermo": ""},
        repair_names={"eta_certified": "", "eta_algorithmic": ""},
        needs={
            "eta_certified": CERTIFIED,
            "eta_algorithmic": "needs ΣW (E1) and the noise temperature (E5), which is stated for plain SGD",
        },
        tells="how many powers of ten lie between this hardware and the thermal price of what was learned",
        estimator="E7, E8",
        references=("Goldt & Seifert 2017 (1611.09428, 1706.09713)",),
    ),
    Section(
        id="3.2",
        title="Information per joule",
        as_written="η_power = ΔI/(P Δt)",
        symbols=(
            Symbol("ΔI", "nat", "information gained over the window"),
            Symbol("P", "W", "mean power over the window"),
            Symbol("Δt", "s", "length of the window"),
        ),
        verdict=Verdict.EXACT,
        why="a definition; its unit is information per joule",
        repair="say whether nat or bit, and by which estimator; the price of a bit is its inverse",
        as_written_names={"eta_power": "nat/J"},
        repair_names={"eta_power_bit": "bit/J", "joules_per_bit": "J/bit"},
        tells="what a joule bought: compare runs on the same data by it",
        estimator="E7, E8",
        references=("Blier & Ollivier 2018 (1802.07044)",),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    nats, joules = readings.information, readings.accounts.total
    ratio = readings.from_information(nats * THERMAL_ENERGY / joules, "W_useful/W_total")
    if ratio.value is not None:
        ratio = replace(ratio, why=f"ratio, not certified; {ratio.why}")
    per_joule = readings.from_information(nats / joules, "I/W_total")
    algorithmic = nats * readings.temperatures.noise / readings.first_law.work
    if algorithmic.known:
        algorithmic = replace(algorithmic, method="T_a I/ΣW", why="ratio, not certified: nothing bounds it by 1")
    return {
        "3.1": {"eta_thermo": ratio, "eta_algorithmic": algorithmic},
        "3.2": {
            "eta_power": per_joule,
            "eta_power_bit": per_joule.to("bit/J"),
            "joules_per_bit": readings.from_information(joules / nats, "W_total/I").to("J/bit"),
        },
    }
