"""Section 4, the trade-off between work and loss: what a low loss costs, and the floor that noise sets."""

from __future__ import annotations

import numpy as np

from ergometry.equations.readings import Readings
from ergometry.equations.section import Array, Real, Section, Symbol, Values, Verdict


def excess_loss_as_written(temperature: Real, least_work: Real, actual_work: Real) -> Real:
    """Lower bound on the excess loss by 4.1 as written, in loss units: (T/2)·log(W_min/W_actual).

    Vacuous: never positive, since no work is less than the least.

    Source: 4.1.

    >>> print(f"{excess_loss_as_written(2.0, 1.0, np.e):.1f}")
    -1.0
    """
    return 0.5 * temperature * np.log(least_work / actual_work)


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
    return parameters * variance * np.exp(-2.0 * information / parameters)


def least_excess_loss(information: Real, variance: Real, hessian_eigenvalues: Array) -> Real:
    """Least excess of a quadratic loss, E[L−L*] ≥ (N/2)σ²·det(H)^{1/N}·e^{−2I/N}, in loss units.

    Args:
        information: I, nat; in certified mode ΔS + Q/T may stand for it.
        variance: σ² of each component of the Gaussian target.
        hessian_eigenvalues: (N,) float64, positive.

    Source: 4.1, repaired: the bound of :func:`least_squared_error` on H^{1/2}(θ−θ*).

    >>> print(f"{least_excess_loss(0.0, 1.0, np.array([1.0, 4.0])):.1f}")
    2.0
    """
    n = len(hessian_eigenvalues)
    geometric_mean = float(np.exp(np.mean(np.log(hessian_eigenvalues))))
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
        displacements: (K, N) float64, Δθ of each step.
        learning_rates: (K, N), (K, 1) or scalar float64, η ≥ 0.

    Source: 4.2(ii).

    >>> path_cost(np.array([[1.0], [1.0]]), np.array([[1.0], [0.5]]))
    3.0
    """
    eta = np.broadcast_to(np.asarray(learning_rates, dtype=np.float64), displacements.shape)
    moving = eta > 0
    return float(np.sum(displacements[moving] ** 2 / eta[moving]))


def least_path_cost(displacements: Array, learning_rates: Array) -> Real:
    """Least cost of any path between the same ends, Σ_i (θ_T−θ_0)_i²/Σ_k η_ik ≤ :func:`path_cost`.

    Cauchy–Schwarz for each parameter; equal for motion in proportion to η along a straight line. Arguments as in
    :func:`path_cost`.

    Source: 4.2(ii).

    >>> print(f"{least_path_cost(np.array([[1.0], [1.0]]), np.array([[1.0], [0.5]])):.4f}")
    2.6667
    """
    eta = np.broadcast_to(np.asarray(learning_rates, dtype=np.float64), displacements.shape)
    moving = eta > 0
    whole, budget = np.sum(np.where(moving, displacements, 0.0), axis=0), np.sum(np.where(moving, eta, 0.0), axis=0)
    moved = budget > 0
    return float(np.sum(whole[moved] ** 2 / budget[moved]))


def least_entropy_production(wasserstein_sq: Real, seconds: Real, friction: Real = 1.0) -> Real:
    """Least T·ΔS_tot of an overdamped Langevin path, γ·W₂²/τ, at any speed.

    W₂ is the Wasserstein distance between the first and the last distribution; certified mode only.

    Source: 4.2(i); Aurell 2012.

    >>> print(f"{least_entropy_production(2.0 * 0.9**2, 10.0):.3f}")
    0.162
    """
    return friction * wasserstein_sq / seconds


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
        repair_names={"excess_loss_certified": "loss", "loss_floor": "loss"},
        needs={
            "excess_loss_bound": "needs T (trΣ from gradients at two batch sizes, E3) and W_min, which is defined in "
            "certified mode only",
            "excess_loss_certified": "certified mode only: needs Langevin dynamics of known temperature and det H",
            "loss_floor": "needs trΣ: gradients at two batch sizes, as from accumulation or several ranks (E3)",
        },
        tells="the loss below which more steps at this learning rate and batch size cannot go",
        estimator="E3, E5",
        references=("Goldt & Seifert 2017 (1611.09428)", "Mandt, Hoffman & Blei 2017 (1704.04289)"),
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
        repair_names={"path_cost": "loss", "path_cost_least": "loss", "optimality": "", "dissipation_least": "loss"},
        needs={
            "W_opt": "needs the algorithmic temperature (trΣ, E3) and the gradient of the weights' entropy, which is "
            "defined in certified mode only",
            "path_cost_least": "needs the parameters' initial snapshot, θ_T − θ_0",
            "optimality": "needs the parameters' initial snapshot, θ_T − θ_0",
            "dissipation_least": "certified mode only: needs the Wasserstein distance between the first and last "
            "distributions of the weights",
        },
        tells="how straight the run went: at 1 the same end could not be reached for less at these learning rates",
        estimator="E2",
        references=("Aurell 2012", "Sivak & Crooks 2012 (1201.4166)", "Crooks 2007 (0706.0559)"),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    return {"4.2": {"path_cost": readings.gradient.path_cost}}
