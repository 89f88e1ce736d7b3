"""Section 8, practice: how to spend power over time, and which learning rate and batch size to take."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.equations import elementwise as ew
from ergometry.equations.power_speed import E1D, STATIC
from ergometry.equations.priced import combined
from ergometry.equations.readings import Readings
from ergometry.equations.section import COUNTED, LEDGER, STAND_IN, Real, Section, Symbol, Values, Verdict


def power_schedule(fraction: Real, max_power: Real, exponent: Real = 0.5) -> Real:
    """Power at a fraction of the training time, P_max·(1−t/t_train)^exponent, in W; 8.1 as written has exponent ½.

    For the area under a loss curve linear in steps, with speed ∝ P^α, the optimum's exponent is 1/(1−α).
    Its mean is P_max/(1+exponent): 2/3 of P_max as written.

    Source: 8.1.

    >>> float(power_schedule(0.75, 100.0))
    50.0
    """
    return max_power * (1.0 - fraction) ** exponent


def schedule_speed_factor(alpha: Real) -> Real:
    """Steps that 8.1's schedule makes relative to constant power at equal energy and time: 1.5^α/(1+α/2) ≤ 1.

    For speed ∝ P_dyn^α, 0 ≤ α ≤ 1: ∫(1−s)^{α/2}ds = 1/(1+α/2) against (2/3)^α. Least, 0.9797, at α = 1/ln 1.5 − 2.

    Source: 8.1, derived.

    >>> print(f"{schedule_speed_factor(0.466):.4f}")
    0.9797
    """
    return 1.5**alpha / (1.0 + 0.5 * alpha)


def anytime_exponent(alpha: Real) -> Real:
    """Exponent of the power schedule P ∝ (1−t/T)^x of least area under the loss curve: x = 1/(1−α).

    For speed ∝ P^α with 0 ≤ α < 1 and a loss linear in the steps: ∫(T−t)·P^α dt is greatest at a given ∫P dt where
    α(T−t)P^{α−1} is constant. 8.1 as written, x = ½, is reached by no α.

    Source: 8.1, derived.

    >>> anytime_exponent(0.5)
    2.0
    """
    return 1.0 / (1.0 - alpha)


WORST_ALPHA = 1.0 / math.log(1.5) - 2.0
"""α at which 8.1's schedule loses the most steps, 0.4663."""


def learning_rate_power_as_written(max_power: Real, step_rate: Real, parameters: Real, grad_sq: Real) -> Real:
    """Second term of 8.2 as written, P_max/(ν₀·N·|∇L|²).

    With P_max in joules per second its unit is J/(step·parameter·loss²); with P_max in loss per second it closes to a
    learning rate but for the counts of steps and parameters.

    Source: 8.2.

    >>> learning_rate_power_as_written(100.0, 10.0, 5.0, 4.0)
    0.5
    """
    return max_power / (step_rate * parameters * grad_sq)


def curvature_batch(noise_curvature: Real, curvature_along_gradient: Real) -> Real:
    """Batch size at which noise and gradient curve the loss alike, B_H = tr(HΣ)/GᵀHG, in example/step.

    The simple noise scale B_noise = trΣ/|G|² is the same where H is a multiple of the identity.

    Source: 8.2; McCandlish 2018.

    >>> curvature_batch(16.0, 8.0)
    2.0
    """
    return noise_curvature / curvature_along_gradient


def optimal_learning_rate(grad_sq: Real, curvature_along_gradient: Real, noise_curvature: Real, batch: Real) -> Real:
    """Learning rate of greatest expected descent in one SGD step, η, in 1/loss: [|G|²/GᵀHG]/(1+B_H/B).

    B_H = tr(HΣ)/GᵀHG. It maximises η|G|² − ½η²(GᵀHG + tr(HΣ)/B), the expansion to second order.

    Args:
        grad_sq: |G|², of the expected gradient.
        curvature_along_gradient: GᵀHG.
        noise_curvature: tr(HΣ).
        batch: B, example/step.

    Source: 8.2, repaired; McCandlish 2018.

    >>> optimal_learning_rate(4.0, 8.0, 16.0, 2.0)
    0.25
    """
    return grad_sq / curvature_along_gradient / (1.0 + noise_curvature / curvature_along_gradient / batch)


def efficient_batch_as_written(max_power: Real, information_per_joule: Real, step_rate: Real, e_flop: Real) -> Real:
    """Batch size by 8.3 as written, √(P_max·η_power/(ν₀·E_FLOP)). Its unit is √(nat·flop/(J·step)): no batch size.

    Source: 8.3.

    >>> float(efficient_batch_as_written(100.0, 4.0, 1.0, 1.0))
    20.0
    """
    return ew.sqrt(max_power * information_per_joule / (step_rate * e_flop))


def latency_bound_batch(static_w: Real, critical_batch: Real, step_rate: Real, e1d: Real) -> Real:
    """Batch size of least energy when latency-bound with e0d = 0, B_E, in example/step: √(P_static·B_c/(ν₀·e1d)).

    The latency-bound optimum of 6.1 with ν₀ = 1/τ0.

    Args:
        static_w: P_static, W.
        critical_batch: B_c, example/step.
        step_rate: ν₀, step/s.
        e1d: dynamic energy per example, J/example.

    Source: 8.3, repaired.

    >>> float(latency_bound_batch(100.0, 64.0, 10.0, 0.1))
    80.0
    """
    return ew.sqrt(static_w * critical_batch / (step_rate * e1d))


SECTIONS = (
    Section(
        id="8.1",
        title="Power schedule",
        as_written="P(t) = P_max √(1 − t/t_train)",
        symbols=(
            Symbol("P_max", "W", "largest power"),
            Symbol("t", "s", "time since the start"),
            Symbol("t_train", "s", "duration of training"),
        ),
        verdict=Verdict.FALSE,
        why="as an optimum for the final loss: with speed ∝ P_dyn^α, 0 ≤ α ≤ 1, constant power makes more steps. A "
        "model for the anytime objective: with P ∝ B at fixed ν₀ it is optimal to leading order in B_noise/B",
        repair="constant power for the final loss; the schedule reaches 1.5^α/(1+α/2) of its steps at equal energy and "
        "time, 0.9797 at worst. For the area under the loss curve with speed ∝ P^α: P ∝ (1−t/T)^{1/(1−α)}",
        as_written_names={"P_mean_scheduled": "W", "E_scheduled": "J"},
        repair_names={"P_constant": "W", "alpha": "", "speed_factor": "", "speed_factor_worst": ""},
        needs=dict.fromkeys(("alpha", "speed_factor"), "needs steps under two power limits or more (the exponent α)"),
        tells="that tapering power costs at most 2 % of the steps, and saves nothing that constant power would not",
        estimator="E8",
        references=("McCandlish 2018 (1812.06162)",),
    ),
    Section(
        id="8.2",
        title="Learning rate",
        as_written="η_opt = min(1/L, P_max/(ν₀ N |∇L|²))",
        symbols=(
            Symbol("L", "loss", "smoothness, λ_max of the Hessian (not the loss)"),
            Symbol("P_max", "W", "largest power"),
            Symbol("ν₀", "step/s", "steps per second"),
            Symbol("N", "parameter", "parameters"),
            Symbol("∇L", "loss", "gradient of the loss"),
            Symbol("η_opt", "1/loss", "learning rate"),
            Symbol("G", "loss", "expected gradient"),
            Symbol("H", "loss", "Hessian"),
            Symbol("Σ", "loss^2*example/step", "covariance of the per-example gradient"),
            Symbol("B_H", "example/step", "batch size at which noise and gradient curve the loss alike"),
            Symbol("μ", "", "momentum"),
        ),
        verdict=Verdict.INCONSISTENT,
        why="in joules its second term is no learning rate; with P_max in loss per second it closes, up to N",
        repair="η = [|G|²/GᵀHG]/(1+B_H/B), B_H = tr(HΣ)/GᵀHG, for which B_noise is a cheap stand-in; stable only below "
        "2(1+μ)/λ_max",
        as_written_names={
            "eta_opt": "1/loss",
            "smoothness_term": "1/loss",
            "power_term": "J/(loss^2*parameter*step)",
        },
        repair_names={
            "eta_descent": "1/loss",
            "eta_stable": "1/loss",
            "eta_used": "1/loss",
            "stability": "",
            "lambda_max": "loss",
            "B_H": "example/step",
        },
        needs={
            "eta_opt": "undefined as written: its two terms have unlike units; see smoothness_term and power_term",
            "power_term": LEDGER,
            "eta_used": LEDGER,
            "eta_descent": "needs |G|² (E3) and the curvature along the gradient",
            **dict.fromkeys(
                ("smoothness_term", "eta_stable", "stability", "lambda_max"), "needs the Hessian's largest eigenvalue"
            ),
            "B_H": "needs GᵀHG and tr(HΣ) (--physics full)",
        },
        tells="whether the learning rate is near the best for this batch size, or near the edge of stability "
        "(stability, eta_used over eta_stable, is 1 there)",
        estimator="E3; Hessian-vector products",
        references=("McCandlish 2018 (1812.06162)",),
    ),
    Section(
        id="8.3",
        title="Efficient batch",
        as_written="B_efficient = √(P_max η_power/(ν₀ E_FLOP))",
        symbols=(
            Symbol("P_max", "W", "largest power"),
            Symbol("η_power", "nat/J", "information per joule (3.2)"),
            Symbol("ν₀", "step/s", "steps per second"),
            Symbol("E_FLOP", "J/flop", "energy of one floating-point operation"),
            Symbol("B_efficient", "example/step", "batch size"),
            Symbol("B_c", "example/step", "critical batch size (6.1)"),
            *(STATIC, E1D),
        ),
        verdict=Verdict.INCONSISTENT,
        why="its unit is √(nat·flop/(J·step)); read P_static, B_c and joules per example for P_max, η_power and E_FLOP "
        "and it is 6.1's latency-bound optimum with e0d = 0",
        repair="B_E = √(P_static·B_c/(ν₀·e1d)), with ν₀ = 1/τ0",
        as_written_names={"B_efficient": "flop^0.5*nat^0.5/(J^0.5*step^0.5)"},
        repair_names={"B_latency": "example/step", "B_actual": "example/step"},
        needs={
            "B_efficient": COUNTED,
            "B_latency": STAND_IN,
        },
        tells="the batch size at which idle power and extra examples cost the same, where steps take a fixed time",
        estimator="E3 stands in for B_c",
        references=("McCandlish 2018 (1812.06162)",),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    peak = readings.peak_power
    scheduled = replace(peak * (2.0 / 3.0), method="⅔ P_max, the schedule's mean")
    worst = float(schedule_speed_factor(WORST_ALPHA))
    parameters = readings.accounts.work["parameters"]
    term = peak / readings.step_rate / parameters / readings.gradient.mean_grad_sq
    curvature = readings.curvature
    largest = curvature.largest
    smoothness = (
        curvature.limit if curvature.limit.value is None else combined(_inverse, [largest], "1/loss", "1/λ_max")
    )
    return {
        "8.1": {
            "P_mean_scheduled": scheduled,
            "E_scheduled": scheduled * readings.duration,
            "P_constant": readings.accounts.power,
            **_exponent(readings),
            "speed_factor_worst": Estimate(worst, 0.0, "", Provenance.DERIVED, "least of 1.5^α/(1+α/2), α = 0.466"),
        },
        "8.2": {
            "smoothness_term": smoothness,
            "power_term": replace(term, method="P_max/(ν₀ N |g|²), minibatch gradient") if term.known else term,
            "eta_used": readings.gradient.learning_rate,
            "eta_descent": curvature.descent,
            "eta_stable": curvature.limit,
            "stability": curvature.sharpness,
            "lambda_max": curvature.largest,
            "B_H": replace(curvature.b_h, unit="example/step"),
        },
        "8.3": {"B_actual": readings.batch, **_priced(readings)},
    }


def _inverse(x: Real) -> Real:
    return 1.0 / x


def _exponent(readings: Readings) -> dict[str, Estimate]:
    """Return α of speed ∝ P_dyn^α over the run's power limits, and what the schedule would reach; none of one limit."""
    points, n = readings.points, len(readings.points)
    if n < 2:
        return {}

    def slope(static: Real, *values: Real) -> Real:
        x, y = np.log(np.array(values[:n]) - static), np.log(np.array(values[n:]))
        return (x - x.mean()) @ y / ((x - x.mean()) @ (x - x.mean()))

    inputs = [readings.component_power("static"), *(p.power for p in points), *(p.speed for p in points)]
    alpha = combined(slope, inputs, "", f"ln speed on ln(P − P_static) at {n} power limits")
    factor = combined(schedule_speed_factor, [alpha], "", "1.5^α/(1+α/2)")
    if alpha.value is not None and not 0.0 <= alpha.value <= 1.0:
        factor = Estimate.unknown("", f"needs an exponent α in [0, 1]: it is {alpha.value:.3g}")
    return {"alpha": alpha, "speed_factor": factor}


def _priced(readings: Readings) -> dict[str, Estimate]:
    """Return the batch sizes of a run whose work has a price; none without."""
    priced, rate = readings.priced, readings.step_rate
    if priced is None:
        known = readings.critical_batch.known
        return {"B_latency": Estimate.unknown("example/step", COUNTED)} if known else {}
    per_joule = readings.information / readings.accounts.total
    unit = SECTIONS[2].as_written_names["B_efficient"]
    if (per_joule.value or 0.0) < 0:
        written = Estimate.unknown(unit, "needs a positive information: see information_nat in 1.2")
    else:
        inputs = [readings.peak_power, per_joule, rate, priced.e_flop]
        written = combined(efficient_batch_as_written, inputs, unit, "√(P_max η_power/(ν₀ E_FLOP))")
    latency = readings.by_critical_batch(
        lambda critical, static, nu, e1d: latency_bound_batch(static, critical, nu, e1d),
        [readings.component_power("static"), rate, priced.e1d],
        "example/step",
        "√(P_static B_c/(ν₀ e1d))",
    )
    return {"B_efficient": readings.from_information(written, written.method), "B_latency": latency}
