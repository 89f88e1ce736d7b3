"""Section 5, power and speed: how fast a power allows, and how long at least."""

from __future__ import annotations

from dataclasses import replace

from ergometry.core.estimate import Estimate
from ergometry.equations import elementwise as ew
from ergometry.equations.priced import combined
from ergometry.equations.readings import Readings
from ergometry.equations.section import CERTIFIED, COUNTED, Real, Section, Symbol, Values, Verdict
from ergometry.equations.thermodynamic_work import THERMAL_ENERGY, landauer_energy


def max_step_rate_as_written(max_power: Real, parameters: Real, e_flop: Real) -> Real:
    """Largest step rate by 5.1 as written, ν_max = P_max/(N·E_FLOP).

    Too large by the FLOP per parameter and step, and by ignoring static power.

    Source: 5.1.

    >>> max_step_rate_as_written(300.0, 1e9, 1e-12)
    300000.0
    """
    return max_power / (parameters * e_flop)


def step_time(batch: Real, tau0: Real, tau1: Real) -> Real:
    """Time of a step at the roofline, in s: max(τ0, B·τ1).

    Args:
        batch: B, example/step.
        tau0: s per step when latency-bound.
        tau1: s per example when throughput-bound.

    Source: 5.1.

    >>> float(step_time(64.0, 0.01, 0.001))
    0.064
    """
    return ew.maximum(tau0, batch * tau1)


def max_step_rate(headroom_w: Real, batch: Real, e0d: Real, e1d: Real, tau0: Real, tau1: Real) -> Real:
    """Largest step rate, ν, in step/s: min[(P_max−P_static)/(e0d+e1d·B), 1/max(τ0, B·τ1)].

    Args:
        headroom_w: P_max − P_static, W.
        batch: B, example/step.
        e0d: dynamic energy per step, J/step.
        e1d: dynamic energy per example, J/example.
        tau0: s per step when latency-bound.
        tau1: s per example when throughput-bound.

    Source: 5.1, repaired.

    >>> float(max_step_rate(100.0, 10.0, 1.0, 0.4, 0.01, 0.001))
    20.0
    """
    return ew.minimum(headroom_w / (e0d + e1d * batch), 1.0 / step_time(batch, tau0, tau1))


def least_time_as_written(information_bit: Real, max_power: Real, temperature_k: Real = 300.0) -> Real:
    """Least time by 5.2 as written, in s: ΔS·k_B·T·ln 2/P_max, ΔS in bit.

    Source: 5.2.

    >>> print(f"{least_time_as_written(6.6e11, 1e6):.1g}")
    2e-15
    """
    return information_bit * landauer_energy(temperature_k) / max_power


def least_time(wasserstein_sq: Real, entropy_production: Real, friction: Real = 1.0) -> Real:
    """Least time of an overdamped Langevin path, τ ≥ γ·W₂²/(T·ΔS_tot); certified mode only.

    Args:
        wasserstein_sq: W₂² between the first and the last distribution.
        entropy_production: T·ΔS_tot.
        friction: γ.

    Source: 5.2, repaired; Aurell 2012.

    >>> print(f"{least_time(1.62, 0.17):.2f}")
    9.53
    """
    return friction * wasserstein_sq / entropy_production


def quench_speed_ratio(tau: Real) -> Real:
    """Ratio of the bound on T·ΔS_tot to its actual value for a trap that jumps: (2/τ)·tanh(τ/2) ≤ 1.

    Given θ*, the variance never changes, so T·ΔS_tot = Q = ½x(1−e^{−2τ}) and W₂² = x(1−e^{−τ})².

    Source: 5.2, derived from 4.2(i).

    >>> print(f"{quench_speed_ratio(2.0):.4f}")
    0.7616
    """
    return 2.0 / tau * ew.tanh(0.5 * tau)


def energy_optimal_power(static_w: Real, exponent: Real) -> Real:
    """Power cap of least energy per step under frequency scaling, P*, in W: P_s·a/(a−1), for P = P_s + c·f^a, a > 1.

    Speed ∝ f; the least of P/f lies where (a−1)·c·f^a = P_s.

    Source: 5.1, derived.

    >>> energy_optimal_power(100.0, 3.0)
    150.0
    """
    return static_w * exponent / (exponent - 1.0)


E0D = Symbol("e0d", "J/step", "dynamic energy per step")
E1D = Symbol("e1d", "J/example", "dynamic energy per example")
TAU0 = Symbol("τ0", "s/step", "time of a step when latency-bound")
TAU1 = Symbol("τ1", "s/example", "time of an example when throughput-bound")
BATCH = Symbol("B", "example/step", "examples per step")
STATIC = Symbol("P_static", "W", "power drawn whether or not a step runs")

SECTIONS = (
    Section(
        id="5.1",
        title="Largest step rate",
        as_written="ν_max = P_max/(N E_FLOP)",
        symbols=(
            Symbol("ν_max", "step/s", "largest steps per second"),
            Symbol("P_max", "W", "largest power"),
            Symbol("N", "parameter", "parameters"),
            Symbol("E_FLOP", "J/flop", "energy of one floating-point operation"),
            *(BATCH, STATIC, E0D, E1D, TAU0, TAU1),
        ),
        verdict=Verdict.MODEL,
        why="short by the FLOP per parameter and step (6·B·n_tok), and static power buys no step",
        repair="ν ≤ min[(P_max−P_static)/(e0d+e1d·B), 1/max(τ0, B·τ1)]",
        as_written_names={"nu_max": "step/s"},
        repair_names={
            "nu_roofline": "step/s",
            "nu_0": "step/s",
            "P_max": "W",
            "e0d": "J/step",
            "e1d": "J/example",
            "tau0": "s/step",
            "tau1": "s/example",
        },
        needs=dict.fromkeys(("nu_max", "nu_roofline", "e0d", "e1d", "tau0", "tau1"), COUNTED),
        tells="whether power or time limits the speed, and how far below the limit the run went",
        estimator="E8; counted work at calibrated coefficients",
        references=("Zeus (2208.06102)",),
    ),
    Section(
        id="5.2",
        title="Least time",
        as_written="t ≥ ΔS k_B T ln 2/P_max",
        symbols=(
            Symbol("t", "s", "time"),
            Symbol("ΔS", "bit", "information gained"),
            Symbol("k_B·T·ln 2", "J/bit", "thermal price of a bit"),
            Symbol("P_max", "W", "largest power"),
        ),
        verdict={"physical": Verdict.VACUOUS, "algorithmic": Verdict.FALSE},
        why="physical: true and about 1e-15 s for GPT-3 at 1 MW; algorithmic: false like 9.3, whose rate it integrates",
        repair="certified mode: τ ≥ γW₂²/(TΔS_tot); any run: the path inequality 4.2(ii); in practice: time at the "
        "roofline (5.1)",
        as_written_names={"t_min": "s", "P_max": "W"},
        repair_names={"t_certified": "s", "t_roofline": "s", "t_actual": "s"},
        needs={
            "t_certified": CERTIFIED,
            "t_roofline": COUNTED,
        },
        tells="that heat does not set the time of training: the roofline does",
        estimator="E7, E8",
        references=("Aurell 2012",),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    peak = readings.peak_power
    least = readings.from_information(readings.information * THERMAL_ENERGY / peak, "ΔS·k_B·300 K·ln 2/P_max")
    return {
        "5.1": {"nu_0": readings.step_rate, "P_max": peak, **_priced(readings)},
        "5.2": {"t_min": least, "P_max": peak, "t_actual": readings.duration, **_least_time(readings)},
    }


def _least_time(readings: Readings) -> dict[str, Estimate]:
    if readings.priced is None:
        return {}
    least = readings.priced.roofline * readings.accounts.work["steps"]
    return {"t_roofline": replace(least, method="calibrated peaks, all steps of the run")} if least.known else {}


def _priced(readings: Readings) -> dict[str, Estimate]:
    """Return the step rates that power and roofline allow a run whose work has a price; none without."""
    priced, work = readings.priced, readings.accounts.work
    if priced is None:
        return {}
    static, batch = readings.component_power("static"), work["examples"] / work["steps"]
    # The batch is the run's own: the roofline's time of its step is max(τ0, B·τ1) as it stands.
    found = {
        "nu_max": combined(
            max_step_rate_as_written,
            [readings.peak_power, work["parameters"], priced.e_flop],
            "step/s",
            "P_max/(N E_FLOP)",
        ),
        "nu_roofline": combined(
            lambda peak, idle, b, e0d, e1d, least_s: max_step_rate(peak - idle, b, e0d, e1d, least_s, 0.0),
            [readings.peak_power, static, batch, priced.e0d, priced.e1d, priced.roofline],
            "step/s",
            "the less of (P_max − P_static)/(e0d + e1d B) and 1/(s of a step at the roofline)",
        ),
    }
    parts = {"e0d": priced.e0d, "e1d": priced.e1d, "tau0": priced.tau0, "tau1": priced.tau1}
    return {name: q for name, q in {**found, **parts}.items() if q.known}
