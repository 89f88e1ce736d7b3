"""Section 6, budgets: the batch size, throughput and power that an energy or time budget asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.equations import elementwise as ew
from ergometry.equations.power_speed import BATCH, E0D, E1D, STATIC, TAU0, TAU1, step_time
from ergometry.equations.priced import combined
from ergometry.equations.readings import Readings
from ergometry.equations.section import COUNTED, STAND_IN, TWO_SIZES, Array, Real, Section, Symbol, Values, Verdict
from ergometry.equations.thermodynamic_work import THERMAL_ENERGY, landauer_energy


def optimal_batch_as_written(energy_budget: Real, information_per_joule: Real, step_rate: Real, seconds: Real) -> Real:
    """Batch size by 6.1 as written, B_opt = √(E_budget·η_power/(ν₀·t)). Its unit is √(nat/step): it is no batch size.

    Source: 6.1.

    >>> float(optimal_batch_as_written(100.0, 4.0, 10.0, 10.0))
    2.0
    """
    return ew.sqrt(energy_budget * information_per_joule / (step_rate * seconds))


def steps_to_target(batch: Real, least_steps: Real, critical_batch: Real) -> Real:
    """Steps to a given loss, S(B) = S_min(1 + B_c/B).

    Source: McCandlish 2018.

    >>> steps_to_target(100.0, 1000.0, 50.0)
    1500.0
    """
    return least_steps * (1.0 + critical_batch / batch)


def optimal_batch(critical_batch: Real, e0: Real, e1: Real) -> Real:
    """Batch size of least energy to a given loss, in one regime: B* = √(B_c·e0/e1), example/step.

    Args:
        critical_batch: B_c, example/step.
        e0: energy per step, J/step, static share included.
        e1: energy per example, J/example, static share included.

    Source: 6.1, repaired: the least of S_min(1+B_c/B)(e0+e1·B).

    >>> float(optimal_batch(100.0, 4.0, 1.0))
    20.0
    """
    return ew.sqrt(critical_batch * e0 / e1)


def least_energy(least_steps: Real, critical_batch: Real, e0: Real, e1: Real) -> Real:
    """Energy at B*, E* = S_min(√e0 + √(e1·B_c))², in J. Arguments as in :func:`optimal_batch`.

    Source: 6.1, repaired.

    >>> float(least_energy(10.0, 100.0, 4.0, 1.0))
    1440.0
    """
    return least_steps * (ew.sqrt(e0) + ew.sqrt(e1 * critical_batch)) ** 2


def roofline_energy(
    batch: Real, critical_batch: Real, e0d: Real, e1d: Real, static_w: Real, tau0: Real, tau1: Real
) -> Real:
    """Energy to a given loss per least step, E(B)/S_min, in J/step: (1+B_c/B)[e0d + e1d·B + P_static·max(τ0, B·τ1)].

    A deadline enters as a price λ in J/s on time: pass ``static_w`` + λ. Arguments as in :func:`roofline_batch`.

    Source: 6.1, repaired.

    >>> float(roofline_energy(10.0, 10.0, 1.0, 0.1, 50.0, 0.01, 0.002))
    6.0
    """
    return (1.0 + critical_batch / batch) * (e0d + e1d * batch + static_w * step_time(batch, tau0, tau1))


def roofline_batch(critical_batch: Real, e0d: Real, e1d: Real, static_w: Real, tau0: Real, tau1: Real) -> Real:
    """Batch size of least energy to a given loss at the roofline, B*, in example/step.

    median{√(B_c·e0d/(e1d+P_static·τ1)), τ0/τ1, √(B_c(e0d+P_static·τ0)/e1d)}: the throughput-bound optimum, the
    roofline's corner, the latency-bound optimum. E(B) is the larger of the two regimes' convex functions, whose
    optima stand in this order, hence the median.

    Args:
        critical_batch: B_c, example/step.
        e0d: dynamic energy per step, J/step.
        e1d: dynamic energy per example, J/example.
        static_w: P_static, W; plus λ, the price of time in J/s, under a deadline.
        tau0: s per step when latency-bound.
        tau1: s per example when throughput-bound.

    Source: 6.1, repaired.

    >>> float(roofline_batch(100.0, 0.0, 1.0, 100.0, 0.01, 0.0001))
    10.0
    """
    throughput = ew.sqrt(ew.divided(critical_batch * e0d, e1d + static_w * tau1))
    latency = ew.sqrt(ew.divided(critical_batch * (e0d + static_w * tau0), e1d))
    return ew.maximum(throughput, ew.minimum(ew.divided(tau0, tau1), latency))


def max_throughput_as_written(max_power: Real, parameters: Real, e_flop: Real) -> Real:
    """Largest throughput ν₀·B by 6.2 as written: P_max/(N·E_FLOP), the same number as 5.1's step rate.

    Source: 6.2.

    >>> max_throughput_as_written(300.0, 1e9, 1e-12)
    300000.0
    """
    return max_power / (parameters * e_flop)


def max_throughput(headroom_w: Real, step_rate: Real, e0d: Real, e1d: Real) -> Real:
    """Largest throughput at a power, in example/s: (P_max−P_static)/e1d − ν₀·e0d/e1d.

    Args:
        headroom_w: P_max − P_static, W.
        step_rate: ν₀, step/s.
        e0d: dynamic energy per step, J/step.
        e1d: dynamic energy per example, J/example.

    Source: 6.2, repaired.

    >>> max_throughput(100.0, 10.0, 2.0, 0.5)
    160.0
    """
    return (headroom_w - step_rate * e0d) / e1d


def least_power_as_written(information_bit: Real, max_seconds: Real, temperature_k: Real = 300.0) -> Real:
    """Least power by 6.3 as written, P_min = ΔS·k_B·T·ln 2/t_max, in W, ΔS in bit.

    Source: 6.3.

    >>> print(f"{least_power_as_written(1e12, 3600.0):.1e}")
    8.0e-13
    """
    return information_bit * landauer_energy(temperature_k) / max_seconds


def least_mean_power(seconds: Array, joules: Array, max_seconds: Real) -> Real:
    """Least mean power among operating points that meet a deadline and that no other beats in time and energy, in W.

    A slow, wasteful point draws little power too: hence the front of (time, energy) first.

    Args:
        seconds: (n,), time of each operating point.
        joules: (n,), its energy.
        max_seconds: t_max.

    Returns:
        The power, or NaN if no point meets the deadline.

    Source: 6.3, repaired.

    >>> import numpy as np
    >>> float(least_mean_power(np.array([10.0, 20.0, 30.0]), np.array([100.0, 80.0, 90.0]), 40.0))
    4.0
    """
    later, dearer = seconds[:, None], joules[:, None]
    beaten = ((seconds <= later) & (joules < dearer)) | ((seconds < later) & (joules <= dearer))
    usable = ~beaten.any(-1) & (seconds <= max_seconds)
    return (joules / seconds)[usable].min() if usable.any() else math.nan


_SLACK = 1.01
"""Of a deadline that is itself a mean of measured times."""

_POINTS = "needs operating points: steps under two power limits or more"

SECTIONS = (
    Section(
        id="6.1",
        title="Energy budget",
        as_written="∫P dt ≤ E_budget;  B_opt = √(E_budget η_power/(ν₀ t))",
        symbols=(
            Symbol("P", "W", "power"),
            Symbol("E_budget", "J", "energy budget"),
            Symbol("η_power", "nat/J", "information per joule (3.2)"),
            Symbol("ν₀", "step/s", "steps per second"),
            Symbol("t", "s", "time"),
            Symbol("B_opt", "example/step", "batch size"),
            Symbol("S_min", "step", "steps to the loss at very large batch"),
            Symbol("B_c", "example/step", "critical batch size, where S(B) = 2 S_min"),
            Symbol("e0", "J/step", "energy per step, static share included"),
            Symbol("e1", "J/example", "energy per example, static share included"),
            *(STATIC, E0D, E1D, TAU0, TAU1),
        ),
        verdict=Verdict.INCONSISTENT,
        why="the constraint is exact; B_opt comes out in √(nat/step), and depends on the budget, which the true "
        "optimum does not",
        repair="E(B) = S_min(1+B_c/B)(e0+e1·B) ⇒ B* = √(B_c·e0/e1), E* = S_min(√e0+√(e1·B_c))²; at the roofline B* = "
        "median{√(B_c·e0d/(e1d+P_static·τ1)), τ0/τ1, √(B_c(e0d+P_static·τ0)/e1d)}; a deadline is a price λ on "
        "time: P_static → P_static+λ",
        as_written_names={"E_used": "J", "E_budget": "J", "B_opt": "nat^0.5/step^0.5"},
        repair_names={
            "B_star": "example/step",
            "B_star_roofline": "example/step",
            "E_star": "J",
            "E_modelled": "J",
            "B_actual": "example/step",
            "B_c": "example/step",
            "e0": "J/step",
            "e1": "J/example",
        },
        needs={
            "E_budget": "needs an energy budget: none was set",
            "B_star": STAND_IN,
            "B_star_roofline": STAND_IN,
            "E_star": STAND_IN,
            "E_modelled": COUNTED,
            "B_c": f"B_noise stands in for it: {TWO_SIZES}",
            "e0": COUNTED,
            "e1": COUNTED,
        },
        tells="the batch size that reaches the loss for the fewest joules, and what the batch size used costs above it "
        "(E_modelled against E_star, both of the same model)",
        estimator="E3 stands in for B_c",
        references=("McCandlish 2018 (1812.06162)", "Merrill 2025 (2505.23971)", "Zhang 2024 (2410.21676)"),
    ),
    Section(
        id="6.2",
        title="Largest throughput",
        as_written="ν₀ B ≤ P_max/(N E_FLOP)",
        symbols=(
            Symbol("ν₀", "step/s", "steps per second"),
            BATCH,
            Symbol("P_max", "W", "largest power"),
            Symbol("N", "parameter", "parameters"),
            Symbol("E_FLOP", "J/flop", "energy of one floating-point operation"),
            *(STATIC, E0D, E1D),
        ),
        verdict=Verdict.MODEL,
        why="short by the FLOP per parameter and example (6·n_tok) and by static power; with 5.1 it contradicts itself "
        "by the factor B",
        repair="examples/s ≤ (P_max−P_static)/e1d − ν₀·e0d/e1d",
        as_written_names={"throughput_max": "example/s"},
        repair_names={"throughput_allowed": "example/s", "throughput": "example/s"},
        needs={
            "throughput_max": COUNTED,
            "throughput_allowed": COUNTED,
        },
        tells="how many more examples a second the power would allow",
        estimator="E8; counted work at calibrated coefficients",
        references=("Zeus (2208.06102)",),
    ),
    Section(
        id="6.3",
        title="Least power",
        as_written="P_min = ΔS k_B T ln 2/t_max",
        symbols=(
            Symbol("P_min", "W", "least power"),
            Symbol("ΔS", "bit", "information gained"),
            Symbol("k_B·T·ln 2", "J/bit", "thermal price of a bit"),
            Symbol("t_max", "s", "time allowed; the run's own duration where none was set"),
        ),
        verdict={"physical": Verdict.VACUOUS, "algorithmic": Verdict.FALSE},
        why="as 5.2: physical, true and some 1e-21 of real powers; algorithmic, false like 9.3",
        repair="the least mean power on the Pareto front of (time, energy) that meets t_max",
        as_written_names={"P_min": "W"},
        repair_names={"P_pareto": "W", "P_mean": "W"},
        needs={"P_pareto": _POINTS},
        tells="the smallest power supply that still meets the deadline",
        estimator="E7, E8",
        references=("Zeus (2208.06102)", "Perseus (2312.06902)"),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    steps, examples = readings.accounts.work["steps"], readings.accounts.work["examples"]
    least = readings.information * THERMAL_ENERGY / readings.duration
    return {
        "6.1": {
            "E_used": readings.accounts.total,
            "B_opt": _batch_as_written(readings),
            "B_actual": examples / steps,
            "B_c": readings.critical_batch,
            **_optimum(readings),
        },
        "6.2": {"throughput": examples / readings.duration, **_priced(readings)},
        "6.3": {
            "P_min": readings.from_information(least, "ΔS·k_B·300 K·ln 2/t, t the run's duration"),
            "P_mean": readings.accounts.power,
            **_pareto(readings),
        },
    }


def _pareto(readings: Readings) -> dict[str, Estimate]:
    """Return the least mean power of the run's operating points that makes its steps in the time that they took."""
    points = [p for p in readings.points if p.power.known and p.speed.known]
    if len(points) < 2:
        return {}
    seconds = np.array([1.0 / (p.speed.value or math.nan) for p in points])
    joules = np.array([p.power.value or math.nan for p in points]) * seconds
    took = float(np.average(seconds, weights=[p.steps for p in points]))
    least = float(least_mean_power(seconds, joules, took * _SLACK))
    chosen = min(points, key=lambda p: abs((p.power.value or math.nan) - least))
    method = f"least of {len(points)} power limits: {chosen.limit_w:.0f} W"
    return {
        "P_pareto": replace(chosen.power, method=method, why="in the time that the run's own steps took, within 1 %")
    }


def _optimum(readings: Readings) -> dict[str, Estimate]:
    """Return the energy model E(B) = S_min(1+B_c/B)(e0+e1·B) of a run whose work has a price, and its optimum."""
    priced, steps, batch = readings.priced, readings.accounts.work["steps"], readings.batch
    if priced is None:
        if not readings.critical_batch.known:
            return {}
        units = {"B_star": "example/step", "B_star_roofline": "example/step", "E_star": "J"}
        return {name: Estimate.unknown(unit, COUNTED) for name, unit in units.items()}  # B_c is known
    static = readings.component_power("static")
    at_peaks = "dynamic energy and P_static for the time at the calibrated peaks"
    e0 = combined(lambda e, w, s: e + w * s, [priced.e0d, static, priced.tau0], "J/step", at_peaks)
    e1 = combined(lambda e, w, s: e + w * s, [priced.e1d, static, priced.tau1], "J/example", at_peaks)
    roofline = [priced.e0d, priced.e1d, static, priced.tau0, priced.tau1]

    def least(critical: Real, e0: Real, e1: Real, s: Real, b: Real) -> Real:
        return least_energy(s / (1.0 + critical / b), critical, e0, e1)

    found = {
        "e0": e0,
        "e1": e1,
        "B_star": readings.by_critical_batch(optimal_batch, [e0, e1], "example/step", "√(B_c e0/e1)"),
        "B_star_roofline": readings.by_critical_batch(
            roofline_batch, roofline, "example/step", "median form at the roofline"
        ),
        "E_star": readings.by_critical_batch(least, [e0, e1, steps, batch], "J", "S_min(√e0+√(e1 B_c))²"),
        "E_modelled": combined(
            lambda a, b, s, n: s * (a + b * n), [e0, e1, steps, batch], "J", "S (e0 + e1 B), as the run went"
        ),
    }
    if found["E_star"].known:
        why = f"to the loss that this run reached, S_min = S/(1+B_c/B); {found['E_star'].why}"
        found["E_star"] = replace(found["E_star"], why=why)
    return found


def _priced(readings: Readings) -> dict[str, Estimate]:
    """Return the throughput that its power allows a run whose work has a price; none without."""
    priced, peak = readings.priced, readings.peak_power
    if priced is None:
        return {}
    static = readings.component_power("static")
    found = {
        "throughput_max": combined(
            max_throughput_as_written,
            [peak, readings.accounts.work["parameters"], priced.e_flop],
            "example/s",
            "P_max/(N E_FLOP)",
        ),
        "throughput_allowed": combined(
            lambda most, idle, rate, e0d, e1d: max_throughput(most - idle, rate, e0d, e1d),
            [peak, static, readings.step_rate, priced.e0d, priced.e1d],
            "example/s",
            "(P_max − P_static)/e1d − ν₀ e0d/e1d",
        ),
    }
    return {name: q for name, q in found.items() if q.known}


def _batch_as_written(readings: Readings) -> Estimate:
    """Return B_opt with the budget taken as the energy used: √(E·(I/E)/(ν₀t)), where the energy drops out."""
    unit = SECTIONS[0].as_written_names["B_opt"]
    per_joule = readings.information / readings.accounts.total
    inputs = [readings.accounts.total, per_joule.to("nat/J"), readings.step_rate, readings.duration]
    numbers = [x.value for x in inputs if x.value is not None]
    if len(numbers) < len(inputs) or min(numbers) <= 0:
        why = next((x.why for x in inputs if x.value is None), "needs a positive information, energy and step rate")
        return Estimate.unknown(unit, why)
    value = float(optimal_batch_as_written(*numbers))
    method = "√(E η_power/(ν₀ t)), E the energy used, since no budget was set"
    return readings.from_information(Estimate(value, 0.0, unit, Provenance.DERIVED), method)
