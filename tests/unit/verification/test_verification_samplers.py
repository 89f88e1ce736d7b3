"""The samplers of the reference cases against what they were derived from: each is exact, whatever its step."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ergometry.verification import noise, regression, rotation, trap
from ergometry.verification.batches import least


def moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and covariances of (k, n) samples, and fail to be equal only beyond four standard errors."""
    return samples.mean(1), np.cov(samples)


def test_dragging_in_one_stride_or_in_many_gives_the_same_distribution():
    """Chapman–Kolmogorov: end and work of eight eighths are those of the whole, in mean and covariance."""
    rng, n, speed, seconds = np.random.default_rng(5), 200_000, 0.7, 2.0
    start, trap_at, pace = np.full(n, 0.4), np.full(n, -0.2), np.full(n, speed)
    once = np.array(trap.dragged(start, trap_at, pace, seconds, rng))
    end, work = start, np.zeros(n)
    for k in range(8):
        end, more = trap.dragged(end, trap_at + speed * seconds * k / 8, pace, seconds / 8, rng)
        work = work + more
    often = np.array([end, work])
    (mean, cov), (mean_often, cov_often) = moments(once), moments(often)
    error = np.sqrt(2.0 * np.diag(cov) / n)
    assert np.all(np.abs(mean - mean_often) < 4.0 * error)
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert np.all(np.abs(cov - cov_often) < 4.0 * 2.0 * scale / math.sqrt(n))


def test_dragging_against_the_integrated_equation_of_motion():
    """Without noise the mean obeys du/dt = v − u, by a fine Euler integration; the work is v·∫u dt."""
    rng, n = np.random.default_rng(6), 400_000
    end, work = trap.dragged(np.full(n, 1.0), np.full(n, 0.3), np.full(n, 0.5), 1.5, rng)
    u, total, dt = 0.3 - 1.0, 0.0, 1e-5
    for _ in range(round(1.5 / dt)):
        total += 0.5 * u * dt
        u += (0.5 - u) * dt
    assert abs(end.mean() - (0.3 + 0.75 - u)) < 4.0 * end.std() / math.sqrt(n) + 1e-4
    assert abs(work.mean() - total) < 4.0 * work.std() / math.sqrt(n) + 1e-4


def test_work_on_one_target_is_gaussian_with_twice_its_mean_as_variance():
    """From equilibrium, ΔF = 0: Jarzynski's equality of a Gaussian work."""
    rng, n = np.random.default_rng(7), 400_000
    _, work = trap.dragged(rng.normal(size=n), np.zeros(n), np.full(n, 0.14), 10.0, rng)
    assert work.var() == pytest.approx(2.0 * work.mean(), rel=0.02)
    assert np.mean(np.exp(-work)) == pytest.approx(1.0, abs=4.0 * np.std(np.exp(-work)) / math.sqrt(n))


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.8])
def test_the_errors_of_information_and_entropy_cover_what_repetition_scatters(rho):
    rng, found = np.random.default_rng(8), []
    for _ in range(300):
        b = rng.normal(size=500)
        a = rho * b + math.sqrt(1 - rho**2) * rng.normal(size=500)
        (i, i_each), (s, s_each) = trap.gaussian_information(a, b), trap.gaussian_entropy_change(2.0 * a)
        found.append((i, i_each.std() / math.sqrt(500), s, s_each.std() / math.sqrt(500)))
    information, claimed, entropy, claimed_entropy = np.array(found).T
    assert entropy.std() == pytest.approx(claimed_entropy.mean(), rel=0.15)
    assert entropy.mean() == pytest.approx(math.log(2.0), abs=0.01)
    if rho:
        assert information.mean() == pytest.approx(-0.5 * math.log1p(-(rho**2)), abs=0.01)
        assert information.std() == pytest.approx(claimed.mean(), rel=0.15)


@pytest.mark.parametrize("pair", [rotation.TURNING, rotation.BALANCED, rotation.SYMMETRIC])
def test_entropy_production_is_the_mean_square_of_the_current_velocity(pair):
    drift, diffusion = pair
    covariance = rotation.stationary_covariance(drift, diffusion)
    np.testing.assert_allclose(drift @ covariance + covariance @ drift.T, 2.0 * diffusion, atol=1e-14)
    velocity = diffusion @ np.linalg.inv(covariance) - drift
    mean_square = np.trace(velocity.T @ np.linalg.solve(diffusion, velocity @ covariance))
    assert rotation.entropy_production(drift, diffusion) == pytest.approx(mean_square, abs=1e-14)


def test_entropy_production_vanishes_if_and_only_if_ad_is_symmetric():
    rng = np.random.default_rng(9)
    for _ in range(50):
        root = rng.normal(size=(3, 3))
        diffusion, symmetric = root @ root.T + np.eye(3), rng.normal(size=(3, 3))
        symmetric = symmetric @ symmetric.T + np.eye(3)
        balanced = symmetric @ np.linalg.inv(diffusion)  # A·D is symmetric, A is not
        assert abs(rotation.entropy_production(balanced, diffusion)) < 1e-9
        turned = balanced + 0.3 * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]) @ np.linalg.inv(diffusion)
        assert rotation.entropy_production(turned, diffusion) > 1e-6


def test_halving_the_step_leaves_the_entropy_production_where_it_is(monkeypatch):
    """What remains of the step's bias after extrapolation is far below the tolerance, at four times the step."""
    monkeypatch.setattr(rotation, "PATHS", 4000)
    monkeypatch.setattr(rotation, "STEPS", 400)
    monkeypatch.setattr(rotation, "DT", 0.04)
    found = rotation.simulate(*rotation.TURNING, np.random.default_rng(10)).entropy
    assert abs(found.mean() - 3.2) < 4.0 * found.std() / math.sqrt(4000) + 0.01 * 3.2


def test_the_predictive_is_the_conditional_of_the_joint_gaussian():
    problem = regression.Problem.drawn(5, 3, 0.4, np.random.default_rng(11))
    length, mean = regression.predictive_codelength(problem)
    parts = [regression.Problem(problem.inputs[:k], problem.targets[:k], 0.4).negative_log_evidence() for k in range(6)]
    assert length == pytest.approx(sum(b - a for a, b in itertools.pairwise(parts)), rel=1e-12)
    ridge = np.linalg.solve(problem.inputs.T @ problem.inputs + 0.4 * np.eye(3), problem.inputs.T @ problem.targets)
    np.testing.assert_allclose(mean, ridge, rtol=1e-10)


def test_the_evidence_against_quadrature():
    problem = regression.Problem.drawn(4, 1, 0.8, np.random.default_rng(12))
    grid = np.linspace(-12.0, 12.0, 48_001)
    prior = np.sqrt(0.8 / (2.0 * np.pi)) * np.exp(-0.4 * grid**2)
    likelihood = np.exp(-problem.negative_log_likelihood(grid[:, None]))
    evidence = float(np.sum(prior * likelihood) * (grid[1] - grid[0]))
    assert problem.negative_log_evidence() == pytest.approx(-math.log(evidence), rel=1e-9)


def test_annealing_ends_in_the_posterior(monkeypatch):
    monkeypatch.setattr(regression, "PATHS", 3000)
    rng = np.random.default_rng(13)
    problem = regression.Problem.drawn(12, 3, 1.0, rng)
    work, heat, change = regression.annealed(problem, rng)
    np.testing.assert_allclose(work - heat, change, atol=1e-10)
    # a Boltzmann distribution of three quadratic modes holds 3/2 above its least energy
    precision = problem.inputs.T @ problem.inputs + np.eye(3)
    best = np.linalg.solve(precision, problem.inputs.T @ problem.targets)
    least_energy = 0.5 * best @ best + float(problem.negative_log_likelihood(best))
    expected = least_energy + 1.5 - 1.5
    assert change.mean() == pytest.approx(expected, abs=4.0 * change.std() / math.sqrt(3000) + 0.02)


def test_noise_of_whole_batches_and_halves_is_that_of_their_gradients():
    gradients = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [-1.0, 1.0]])
    found = noise.estimated(gradients, np.array([[0, 1, 2, 3]]), math.nan)
    big = float(np.sum(gradients.mean(0) ** 2))
    small = 0.5 * float(np.sum(gradients[:2].mean(0) ** 2) + np.sum(gradients[2:].mean(0) ** 2))
    assert found.grad_sq.value == pytest.approx((4 * big - 2 * small) / 2, rel=1e-12)
    assert found.trace_cov.value == pytest.approx((small - big) * 4, rel=1e-12)
    assert noise.moments(gradients) == pytest.approx((big, float(np.trace(np.cov(gradients.T, bias=True)))), rel=1e-12)


@pytest.mark.parametrize("at", [0.03, 1.0, 777.0])
def test_the_search_finds_a_dip(at):
    found, value = least(lambda x: np.log(x / at) ** 2 + 2.0, 1e-3, 1e5)
    assert found == pytest.approx(at, rel=1e-6) and value == pytest.approx(2.0, abs=1e-12)
    found, _ = least(lambda x: np.abs(x - at), 1e-3, 1e5)  # a corner
    assert found == pytest.approx(at, rel=1e-6)
