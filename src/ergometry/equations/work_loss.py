"""Section 4, the trade-off between work and loss: what a low loss costs, and the floor that noise sets."""

from __future__ import annotations

from dataclasses import replace

from ergometry.equations import elementwise as ew
from ergometry.equations.readings import Readings
from ergometry.equations.section import (
    CERTIFIED,
    LEDGER,
    PROBE,
    TWO_SIZES,
    Array,
    Real,
    Section,
    Symbol,
    Values,
    Verdict,
)


def excess_loss_as_written(temperature: Real, least_work: Real, actual_work: Real) -> Real:
    """Lower bound on the excess loss by 4.1 as written, in loss units: (T/2)·log(W_min/W_actual).

    Vacuous: never positive, since no work is less than the least.

    Source: 4.1.

    >>> import math
    >>> print(f"{excess_loss_as_written(2.0, 1.0, math.e):.1f}")
    -1.0
    """
    return 0.5 * temperature * ew.log(least_work / actual_work)


def least_squared_error(information: Real, parameters: Real, variance: Real) -> Real:
    """Least mean squared distance to the target, E|θ−θ*|² ≥ Nσ²e^{−2I/N}, for θ* ~ 𝒩(0, σ²·1).

    From I ≥ (N/2)·ln[Nσ²/E|θ−θ*|²]; in certified mode I ≤ ΔS + Q/T may stand for I.

    Args:
        information: I(θ; θ*), nat.
        parameters: N.
        variance: σ² of each component of the target.

    Source: 4.1, repaired; the Gaussian rate–distortion bound.

    >>> print(f"{least_squared_error(0.0, 3.0, 2.0):.1f}")
    6.0
    """
    return parameters * variance * ew.exp(-2.0 * information / parameters)


def least_excess_loss(information: Real, variance: Real, hessian_eigenvalues: Array) -> Real:
    """Least excess of a quadratic loss, E[L−L*] ≥ (N/2)σ²·det(H)^{1/N}·e^{−2I/N}, in loss units.

    Args:
        information: I, nat; in certified mode ΔS + Q/T may stand for it.
        variance: σ² of each component of the Gaussian target.
        hessian_eigenvalues: (..., N), positive.

    Source: 4.1, repaired: the bound of :func:`least_squared_error` on H^{1/2}(θ−θ*).

    >>> import numpy as np
    >>> print(f"{least_excess_loss(0.0, 1.0, np.array([1.0, 4.0])):.1f}")
    2.0
    """
    n = hessian_eigenvalues.shape[-1]
    geometric_mean = ew.exp(ew.log(hessian_eigenvalues).mean(-1))
    return 0.5 * geometric_mean * least_squared_error(information, n, variance)


def stationary_loss_floor(learning_rate: Real, trace_cov: Real, batch: Real, momentum: Real = 0.0) -> Real:
    """Excess loss at which SGD hovers, L − L*, in loss units: η·trΣ/(4B), ×1/(1−μ) with momentum.

    First order in η, for any H and Σ: of a quadratic, ½·tr(H·Cov) with HC + CH = ηΣ/B has no H left in it.

    Args:
        learning_rate: η.
        trace_cov: trΣ, of the per-example gradient.
        batch: B, examples per step.
        momentum: μ.

    Source: 4.1, repaired; Mandt, Hoffman & Blei 2017.

    >>> stationary_loss_floor(0.1, 8.0, 2.0)
    0.1
    """
    return learning_rate * trace_cov / (4.0 * batch * (1.0 - momentum))


def stationary_variance(learning_rate: Real, curvature: Real, noise: Real, momentum: Real = 0.0) -> Real:
    """Exact stationary variance of SGD with heavy-ball momentum in one dimension.

    ηc(1+μ)/{a(1−μ)[2(1+μ)−ηa]}, for θ ← θ − η(aθ+ξ) + μΔθ, ⟨ξ²⟩ = c: the variance of an autoregression of order two.
    It exists for 0 < ηa < 2(1+μ) and 0 ≤ μ < 1.

    Args:
        learning_rate: η.
        curvature: a.
        noise: c, variance of the gradient noise (Σ/B).
        momentum: μ.

    Source: 4.1, derived; for small ηa and μ = 0 the continuous ηc/(2a) of Mandt, Hoffman & Blei 2017.

    >>> print(f"{stationary_variance(1.5, 1.0, 1.0):.3f}")
    3.000
    """
    stiffness = curvature * (1.0 - momentum) * (2.0 * (1.0 + momentum) - learning_rate * curvature)
    return learning_rate * noise * (1.0 + momentum) / stiffness


def optimal_work_as_written(temperature: Real, entropy_gradient: Real, displacement: Real) -> Real:
    """Work of a displacement by 4.2 as written, in loss units: T·|∇S|·|dθ|; by Cauchy–Schwarz at least T·|dS|.

    Source: 4.2.

    >>> optimal_work_as_written(2.0, 3.0, 0.5)
    3.0
    """
    return temperature * entropy_gradient * displacement


def path_cost(displacements: Array, learning_rates: Array) -> Real:
    """Cost of the path taken, Σ_i Σ_k Δθ_ik²/η_ik, in loss units for plain SGD (where it is Σ η|g|²).

    Steps with η = 0 are skipped.

    Args:
        displacements: (K, N), Δθ of each step.
        learning_rates: (K, N), (K, 1) or scalar, η ≥ 0.

    Source: 4.2(ii).

    >>> import numpy as np
    >>> float(path_cost(np.array([[1.0], [1.0]]), np.array([[1.0], [0.5]])))
    3.0
    """
    eta, moving = _rates(displacements, learning_rates)
    return ew.where(moving, displacements**2 / ew.where(moving, eta, 1.0), 0.0).sum()


def least_path_cost(displacements: Array, learning_rates: Array) -> Real:
    """Least cost of any path between the same ends, Σ_i (θ_T−θ_0)_i²/Σ_k η_ik ≤ :func:`path_cost`.

    Cauchy–Schwarz for each parameter; equal for motion in proportion to η along a straight line. Arguments as in
    :func:`path_cost`.

    Source: 4.2(ii).

    >>> import numpy as np
    >>> print(f"{least_path_cost(np.array([[1.0], [1.0]]), np.array([[1.0], [0.5]])):.4f}")
    2.6667
    """
    eta, moving = _rates(displacements, learning_rates)
    whole, budget = ew.where(moving, displacements, 0.0).sum(0), ew.where(moving, eta, 0.0).sum(0)
    return ew.where(budget > 0, whole**2 / ew.where(budget > 0, budget, 1.0), 0.0).sum()


def _rates(displacements: Array, learning_rates: Real) -> tuple[Array, Array]:
    """Return η of every step and parameter, and where it is positive."""
    eta = learning_rates * ew.ones_like(displacements)
    return eta, eta > 0


def path_optimality(least_cost: Real, cost: Real) -> Real:
    """How direct a path was, in [0, 1]: :func:`least_path_cost` over :func:`path_cost`.

    1 for motion in proportion to η along a straight line; K steps of a random walk at one η have about 1/K.

    Source: 4.2(ii).

    >>> print(f"{path_optimality(2.6667, 3.0):.4f}")
    0.8889
    """
    return least_cost / cost


def friction_work(length_sq: Real, seconds: Real) -> Real:
    """Dissipated work of a slow protocol by the friction-tensor length, W_diss ≈ 𝓛_ζ²/τ, in units of 𝓛_ζ²/τ.

    Holds as τ → ∞ only and bounds nothing at finite speed: for the trap 𝓛_ζ² = x, and at x = 2, τ = 10 the optimum
    0.1667 lies below x/τ = 0.2.

    Source: 4.2; Sivak & Crooks 2012 (1201.4166).

    >>> friction_work(2.0, 10.0)
    0.2
    """
    return length_sq / seconds


def least_entropy_production(wasserstein_sq: Real, seconds: Real, friction: Real = 1.0) -> Real:
    """Least T·ΔS_tot of an overdamped Langevin path, γ·W₂²/τ, at any speed.

    W₂ is the Wasserstein distance between the first and the last distribution; certified mode only.

    Source: 4.2(i); Aurell 2012.

    >>> print(f"{least_entropy_production(2.0 * 0.9**2, 10.0):.3f}")
    0.162
    """
    return friction * wasserstein_sq / seconds


_SNAPSHOT = "needs the parameters' initial snapshot, θ_T − θ_0: a torch optimizer, and --physics light or full"

SECTIONS = (
    Section(
        id="4.1",
        title="Loss against work",
        as_written="L − L* ≥ (T/2) log(W_min/W_actual)",
        symbols=(
            Symbol("L", "loss", "loss reached"),
            Symbol("L*", "loss", "least loss"),
            Symbol("T", "loss/nat", "algorithmic temperature, η·trΣ/(2BN) for SGD"),
            Symbol("W_min", "loss", "least work of any protocol"),
            Symbol("W_actual", "loss", "work done"),
            Symbol("σ²", "", "variance of each component of the target"),
            Symbol("N", "parameter", "parameters"),
            Symbol("H", "loss", "Hessian"),
            Symbol("ΔS + Q/T", "nat", "entropy change of the weights and heat over temperature"),
            Symbol("η", "1/loss", "learning rate"),
            Symbol("Σ", "loss^2*example/step", "covariance of the per-example gradient"),
            Symbol("B", "example/step", "examples per step"),
            Symbol("μ", "", "momentum"),
        ),
        verdict=Verdict.VACUOUS,
        why="the right side is never positive, since W_actual ≥ W_min",
        repair="certified mode, target θ* ~ 𝒩(0, σ²·1): E[L−L*] ≥ (N/2)σ² det(H)^{1/N} e^{−2(ΔS+Q/T)/N}; any SGD run: "
        "the stationary floor L − L* = η·trΣ/(4B), ×1/(1−μ) with momentum, to first order in η",
        as_written_names={"excess_loss_bound": "loss"},
        repair_names={
            "excess_loss_certified": "loss",
            "loss_floor": "loss",
            "T_noise": "loss/nat",
            "T_virial": "loss/nat",
            "T_configurational": "loss/nat",
            "equilibrium_ratio": "",
        },
        needs={
            "excess_loss_bound": "needs T (trΣ from gradients at two batch sizes, E3) and W_min, which is defined in "
            "certified mode only",
            "excess_loss_certified": f"{CERTIFIED}, and det H",
            "loss_floor": f"{TWO_SIZES}, for trΣ, and plain SGD",
            "T_noise": f"{TWO_SIZES}, for trΣ, and plain SGD",
            "T_virial": "needs θ·g about the mean of θ, at one learning rate (E5)",
            "T_configurational": "needs |G|² (E3) and the Hessian's trace (--physics full)",
            "equilibrium_ratio": "needs θ·g and |Δθ|² of plain SGD at one learning rate (E4)",
        },
        tells="the loss below which more steps at this learning rate and batch size cannot go; and whether the run has "
        "come to rest there: then the fluctuation–dissipation ratio is 1 and the temperatures agree",
        estimator="E3, E4, E5",
        references=(
            "Goldt & Seifert 2017 (1611.09428)",
            "Mandt, Hoffman & Blei 2017 (1704.04289)",
            "Yaida 2018 (1810.00004)",
        ),
    ),
    Section(
        id="4.2",
        title="Work of a path",
        as_written="dW_opt = T |∇S| |dθ|",
        symbols=(
            Symbol("T", "loss/nat", "algorithmic temperature"),
            Symbol("∇S", "nat", "gradient of the entropy in the parameters"),
            Symbol("dθ", "", "displacement of the parameters"),
            Symbol("dW_opt", "loss", "work of the displacement"),
        ),
        verdict=Verdict.MODEL,
        why="by Cauchy–Schwarz an upper bound on T|dS|, not the optimum's work",
        repair="(i) certified mode: T·ΔS_tot ≥ γ·W₂²/τ at any speed; (ii) any run: Σ_i Σ_k Δθ_ik²/η_ik ≥ "
        "Σ_i (θ_T−θ_0)_i²/Σ_k η_ik, and optimality = right/left ∈ [0, 1]",
        as_written_names={"W_opt": "loss"},
        repair_names={
            "path_cost": "loss",
            "path_cost_least": "loss",
            "optimality": "",
            "dissipation_least": "loss",
            "length_js": "",
            "length_fisher": "",
            "length_straightness": "",
        },
        needs={
            "W_opt": "needs the algorithmic temperature (trΣ, E3) and the gradient of the weights' entropy, which is "
            "defined in certified mode only",
            "path_cost": LEDGER,
            "path_cost_least": _SNAPSHOT,
            "optimality": _SNAPSHOT,
            "dissipation_least": "certified mode only: needs the Wasserstein distance between the first and last "
            "distributions of the weights",
            "length_js": PROBE,
            "length_fisher": PROBE,
            "length_straightness": PROBE,
        },
        tells="how straight the run went: at 1 the same end could not be reached for less at these learning rates. The "
        "length of the outputs' path (E6) says how far the predictions travelled; it bounds no work",
        estimator="E2, E6",
        references=("Aurell 2012", "Sivak & Crooks 2012 (1201.4166)", "Crooks 2007 (0706.0559)"),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    temperatures, length = readings.temperatures, readings.length
    floor = 0.5 * temperatures.noise * readings.accounts.work["parameters"]
    straightness = length.angle_ends / length.angle
    if straightness.known:
        straightness = replace(straightness, method="angle of the ends over the Fisher length")
    return {
        "4.1": {
            "loss_floor": replace(floor, unit="loss", method="η·trΣ/(4B(1−μ))" if floor.known else ""),
            "T_noise": temperatures.noise,
            "T_virial": temperatures.virial,
            "T_configurational": temperatures.configurational,
            "equilibrium_ratio": readings.equilibration.ratio,
        },
        "4.2": {
            "path_cost": readings.path.cost if readings.path.cost.known else readings.gradient.path_cost,
            "path_cost_least": readings.path.least,
            "optimality": readings.path.optimality,
            "length_js": length.js,
            "length_fisher": length.angle,
            "length_straightness": straightness,
        },
    }
