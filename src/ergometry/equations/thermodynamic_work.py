"""Section 1, thermodynamic work: what a run's work is, on the physical scale (J) and on the algorithmic one (loss)."""

from __future__ import annotations

import math
from dataclasses import replace

from ergometry.core.estimate import Estimate, Provenance
from ergometry.equations import elementwise as ew
from ergometry.equations.readings import Readings
from ergometry.equations.section import (
    CERTIFIED,
    LEDGER,
    MIDPOINT,
    REPLAYED,
    TWO_SIZES,
    Array,
    Real,
    Section,
    Symbol,
    Values,
    Verdict,
)

BOLTZMANN = 1.380649e-23
"""k_B in J/K (per nat), exact since the SI of 2019."""

ROOM_TEMPERATURE_K = 300.0
"""The bath of the physical scale, K: a reference temperature, assumed and not measured."""

THERMAL_ENERGY = Estimate(
    BOLTZMANN * ROOM_TEMPERATURE_K, 0.0, "J/nat", Provenance.ASSUMED, "k_B exact, T = 300 K by convention"
)
"""k_B·T of the room, J per nat."""


def landauer_energy(temperature_k: Real = ROOM_TEMPERATURE_K) -> Real:
    """Least work of erasing one symmetric bit, W_bit, in J/bit: k_B·T·ln 2.

    Source: 1.2; asymmetric memories erase for less (Gavrilov & Bechhoefer 2016).

    >>> print(f"{landauer_energy(300.0):.3g}")
    2.87e-21
    """
    return BOLTZMANN * temperature_k * math.log(2.0)


def useful_work(information_nat: Real, temperature_k: Real = ROOM_TEMPERATURE_K) -> Real:
    """Work that the information gained is worth, W_useful, in J: k_B·T·ΔS with ΔS in nat.

    Source: 1.2.

    >>> print(f"{useful_work(1.0):.3g}")
    4.14e-21
    """
    return BOLTZMANN * temperature_k * information_nat


def dissipated_work(total: Real, useful: Real) -> Real:
    """Dissipated work, W_dissipative = W_total − W_useful, on one scale (J, or loss with W_useful = ΔF).

    Source: 1.1; with W_useful = ΔF it is the repair of 7.2.

    >>> dissipated_work(5.0, 1.5)
    3.5
    """
    return total - useful


def gradient_flow_work(learning_rate: Real, grad_sq: Real) -> Real:
    """Work of one step of gradient flow, in loss units: η|∇L|².

    With a minibatch gradient |g|² in place of |∇L|² its mean is η(|G|² + trΣ/B): biased upward by η·trΣ/B.

    Source: 1.3; for flow dθ = −η∇L dt, −∇L·dθ = η|∇L|² dt.

    >>> gradient_flow_work(0.5, 4.0)
    2.0
    """
    return learning_rate * grad_sq


def displacement_work(gradient: Array, displacement: Array, next_gradient: Array | None = None) -> Array:
    """Displacement work of each step, in loss units: −g·Δθ (Itô), or −½(g+g⁺)·Δθ (midpoint) with ``next_gradient``.

    On one batch with a quadratic loss the midpoint is exactly ℓ(θ) − ℓ(θ+Δθ), and Itô exceeds it by ½ΔθᵀHΔθ.

    Args:
        gradient: (..., N), g at θ.
        displacement: (..., N), the actual Δθ, whatever the optimizer.
        next_gradient: (..., N), g⁺ at θ+Δθ on the same batch.

    Returns:
        (...).

    Source: estimator E2.

    >>> import numpy as np
    >>> float(displacement_work(np.array([1.0, 2.0]), np.array([-0.1, -0.2])))
    0.5
    """
    force = gradient if next_gradient is None else 0.5 * (gradient + next_gradient)
    return -(force * displacement).sum(-1)


def trap_drag_work(x: Real, tau: Real) -> Real:
    """Mean work of dragging a harmonic trap at constant speed, W, with k = γ = T = 1: (x/τ)[1 − (1−e^{−τ})/τ].

    The particle starts in equilibrium; the trap moves by θ* in time τ, with x = ⟨θ*²⟩. The lag λ−⟨θ⟩ obeys u̇ = λ̇ − u,
    and W = ∫λ̇u dt.

    Source: 1.1.

    >>> print(f"{trap_drag_work(2.0, 10.0):.4f}")
    0.1800
    """
    return x / tau * (1.0 + ew.expm1(-tau) / tau)


def trap_optimal_work(x: Real, tau: Real) -> Real:
    """Least mean work of moving a harmonic trap in time τ by any protocol, with k = γ = T = 1: x/(τ+2).

    Source: Schmiedl & Seifert 2007.

    >>> print(f"{trap_optimal_work(2.0, 10.0):.4f}")
    0.1667
    """
    return x / (tau + 2.0)


def trap_drag_heat(x: Real, tau: Real) -> Real:
    """Mean heat that the dragged trap gives to the bath, Q = W − ΔU, with k = γ = T = 1.

    ΔU = ½x[(1−e^{−τ})/τ]², the energy of the final lag; the variance stays that of equilibrium.

    Source: 1.1 and the first law.

    >>> print(f"{trap_drag_heat(2.0, 10.0):.4f}")
    0.1700
    """
    lag = -ew.expm1(-tau) / tau
    return trap_drag_work(x, tau) - 0.5 * x * lag**2


SECTIONS = (
    Section(
        id="1.1",
        title="Work of training",
        as_written="W_total = W_useful + W_dissipative",
        symbols=(
            Symbol("W_total", "J", "energy that the run drew"),
            Symbol("W_useful", "J", "k_B·T times the information in nat (1.2); on the algorithmic scale ΔF"),
            Symbol("W_dissipative", "J", "the rest"),
        ),
        verdict=Verdict.EXACT,
        why="a definition on one scale; joules and loss units are never added",
        repair="physical: print W_useful/W_total with its real exponent and its assumptions. "
        "algorithmic: the first law ΔU = ΣW − ΣQ by E1; W_useful = ΔF in certified mode only",
        as_written_names={"W_total": "J", "W_useful": "J", "W_dissipative": "J"},
        repair_names={
            "useful_fraction": "",
            "delta_U": "loss",
            "W_first_law": "loss",
            "Q_first_law": "loss",
            "first_law_closure": "loss",
            "delta_F": "loss",
        },
        needs={
            "W_first_law": "needs the loss of the next batch before its step and of this batch after it (E1)",
            "Q_first_law": REPLAYED,
            "first_law_closure": REPLAYED,
            "delta_F": CERTIFIED,
        },
        tells="how small a part of the energy the information gained is worth: training runs far above thermal limits",
        estimator="E8 for joules, E7 for information, E1 for the first law",
        references=("Sekimoto 1998", "Seifert 2012", "Schmiedl & Seifert 2007"),
    ),
    Section(
        id="1.2",
        title="Work worth of a bit",
        as_written="W_bit = k_B T ln 2;  W_useful = k_B T ΔS",
        symbols=(
            Symbol("k_B", "J/(K*nat)", "Boltzmann's constant, 1.380649e-23"),
            Symbol("T", "K", "temperature of the bath, 300 K assumed"),
            Symbol("ΔS", "nat", "information gained by the parameters"),
            Symbol("W_bit", "J/bit", "least work of erasing one symmetric bit"),
        ),
        verdict=Verdict.MODEL,
        why="the least cost of erasing a symmetric memory, not of learning; asymmetric memories erase for less",
        repair="name the unit (1 bit = ln 2 nat) and the estimator of ΔS, which moves the value 2–3 times",
        as_written_names={"W_bit": "J/bit", "W_useful": "J"},
        repair_names={"information_nat": "nat", "information_bit": "bit", "information_logdet": "nat"},
        needs={"information_logdet": "needs ½logdet(1 + F/λ), taken at the end of a run with --physics full (E7 i)"},
        tells="how much the run learned, and what it would be worth at the thermal price of erasing it",
        estimator="E7",
        references=("Gavrilov & Bechhoefer 2016 (1607.02458)", "Blier & Ollivier 2018 (1802.07044)"),
    ),
    Section(
        id="1.3",
        title="Dissipated work",
        as_written="W_diss = ∫ F·dθ = ∫ η|∇L|² dt",
        symbols=(
            Symbol("F", "loss", "force on the parameters, −∇L"),
            Symbol("θ", "", "parameters"),
            Symbol("η", "1/loss", "learning rate"),
            Symbol("∇L", "loss", "gradient of the loss"),
            Symbol("W_diss", "loss", "work, summed over steps"),
        ),
        verdict=Verdict.MODEL,
        why="its unit is loss, not joule; ∫F·dθ is heat in Sekimoto's sense, the second equality holds for gradient "
        "flow only, and with a minibatch gradient |g|² each step is too large by η·trΣ/B",
        repair="displacement work Σ −g·Δθ (Itô) or Σ −½(g+g⁺)·Δθ (midpoint) with the actual Δθ (E2); Σ η|G|² with the "
        "unbiased |G|² (E3); the exact first law (E1)",
        as_written_names={"W_diss": "loss"},
        repair_names={"W_ito": "loss", "W_midpoint": "loss", "W_unbiased": "loss", "Q_dissipated": "loss"},
        needs={
            "W_diss": LEDGER,
            "W_ito": LEDGER,
            "W_midpoint": MIDPOINT,
            "W_unbiased": TWO_SIZES,
            "Q_dissipated": REPLAYED,
        },
        tells="how much loss the steps would have taken off along their own gradients; the gap between the two "
        "readings is gradient noise, momentum and curvature",
        estimator="E2; E1, E3",
        references=("Sekimoto 1998",),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    joules, nats, law = readings.accounts.total, readings.information, readings.first_law
    useful = readings.from_information(nats * THERMAL_ENERGY, "k_B·300 K·I")
    rest = joules - useful
    if rest.value is not None:
        rest = replace(rest, method="W_total − W_useful", why="what is assumed in it is W_useful, which is negligible")
    return {
        "1.1": {
            "W_total": joules,
            "W_useful": useful,
            "W_dissipative": rest,
            "useful_fraction": readings.from_information(useful / joules, "W_useful/W_total"),
            "delta_U": readings.energy_change,
            "W_first_law": law.work,
            "Q_first_law": law.heat,
            "first_law_closure": law.closure,
        },
        "1.2": {
            "W_bit": THERMAL_ENERGY.to("J/bit"),
            "W_useful": useful,
            "information_nat": nats,
            "information_bit": nats.to("bit"),
            "information_logdet": readings.logdet.whole,
        },
        "1.3": {
            "W_diss": readings.gradient.flow,
            "W_ito": readings.gradient.ito,
            "W_midpoint": law.midpoint,
            "W_unbiased": readings.unbiased_work,
            "Q_dissipated": law.heat,
        },
    }
