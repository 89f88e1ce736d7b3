"""The formulas against what they were derived from: simulation, enumeration, brute force, and the reference numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry import equations as eq

positive = st.floats(1e-3, 1e3)


def near(expected, rel):
    return pytest.approx(expected, rel=rel, abs=0.0)  # thermal joules are far below pytest's own 1e-12


# R1, the dragged trap


def drag_moments(x: float, tau: float, steps: int = 20000):
    """Integrate the mean of the dragged particle given θ* = √x: (work, energy change, final mean)."""
    dt, m, work = tau / steps, 0.0, 0.0
    speed = math.sqrt(x) / tau
    for k in range(steps):
        trap, later = speed * k * dt, speed * (k + 0.5) * dt
        middle = m + 0.5 * dt * (trap - m)
        work += speed * (later - middle) * dt
        m += dt * (later - middle)
    return work, 0.5 * (math.sqrt(x) - m) ** 2, m


@pytest.mark.parametrize(("x", "tau"), [(2.0, 10.0), (0.5, 0.7), (3.0, 40.0)])
def test_drag_work_heat_and_information_follow_from_the_moments(x, tau):
    work, energy, mean = drag_moments(x, tau)
    assert eq.trap_drag_work(x, tau) == near(work, 1e-7)
    assert eq.trap_drag_heat(x, tau) == near(work - energy, 1e-7)
    # given θ* the variance is 1, over θ* it is 1 + mean²
    assert eq.drag_information(x, tau) == near(0.5 * math.log(1.0 + mean**2), 1e-7)


def test_drag_work_against_simulated_paths():
    """R1 within three standard errors: work along 100 000 stochastic paths, which no formula here made."""
    rng, paths, steps, x, tau = np.random.default_rng(1), 100_000, 200, 2.0, 10.0
    target, dt = rng.normal(0.0, math.sqrt(x), paths), tau / steps
    position, work = rng.normal(size=paths), np.zeros(paths)
    decay = math.exp(-dt)
    for k in range(steps):
        before, after = target * k / steps, target * (k + 1) / steps
        work += 0.5 * (position - after) ** 2 - 0.5 * (position - before) ** 2  # the trap jumps, then they relax
        position = after + decay * (position - after) + math.sqrt(1.0 - decay**2) * rng.normal(size=paths)
    assert abs(work.mean() - eq.trap_drag_work(x, tau)) < 3 * work.std() / math.sqrt(paths)
    assert work.std() == near(0.65, 0.02)


def test_reference_numbers_of_the_drag():
    assert eq.trap_drag_work(2.0, 10.0) == pytest.approx(0.1800, abs=5e-5)
    assert eq.trap_optimal_work(2.0, 10.0) == pytest.approx(0.1667, abs=5e-5)
    assert eq.drag_information(2.0, 10.0) == pytest.approx(0.4816, abs=5e-5)
    most = eq.largest_information(eq.drag_information(2.0, 10.0), eq.trap_drag_heat(2.0, 10.0))
    assert most == pytest.approx(0.6516, abs=5e-5)
    rates = eq.drag_information_rate(2.0, 10.0, np.linspace(0.0, 10.0, 100001))
    assert rates.max() == pytest.approx(0.0707, abs=5e-5)
    assert eq.drag_power(2.0, 10.0, 10.0) == pytest.approx(0.0200, abs=5e-5)
    # 9.1 as written is false here, its repair holds; so with 9.3 and the rates
    assert eq.drag_information(2.0, 10.0) > eq.trap_drag_work(2.0, 10.0)
    assert rates.max() > eq.drag_power(2.0, 10.0, 10.0)


@given(x=positive, tau=positive)
def test_the_optimal_protocol_costs_no_more_than_constant_speed(x, tau):
    assert eq.trap_optimal_work(x, tau) <= eq.trap_drag_work(x, tau) * (1 + 1e-9)


@given(x=st.floats(0.01, 100.0), tau=st.floats(0.01, 100.0), share=st.floats(0.05, 0.95))
def test_rates_are_the_derivatives_of_their_sums(x, tau, share):
    t, h = share * tau, 1e-4 * share * tau
    slope = (eq.drag_information(x, tau, t + h) - eq.drag_information(x, tau, t - h)) / (2 * h)
    assert eq.drag_information_rate(x, tau, t) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    slope = (eq.quench_information(x, t + h) - eq.quench_information(x, t - h)) / (2 * h)
    assert eq.quench_information_rate(x, t) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    slope = (eq.quench_heat(x, t + h) - eq.quench_heat(x, t - h)) / (2 * h)
    assert eq.quench_heat_rate(x, t) == pytest.approx(slope, rel=1e-5, abs=1e-9)


# R2, the quench


@given(x=st.floats(1e-6, 1e6), t=st.floats(1e-3, 50.0))
def test_the_quench_is_at_most_half_efficient(x, t):
    assert 0.0 < eq.quench_efficiency(x, t) <= 0.5 + 1e-12


def test_reference_numbers_of_the_quench():
    assert eq.quench_efficiency(1.0) == near(math.log(2) / (math.log(2) + 1), 1e-12)
    assert eq.quench_efficiency(1.0) == pytest.approx(0.4094, abs=5e-5)
    assert eq.quench_efficiency(1e-9) == pytest.approx(0.5, abs=1e-9)


@given(x=st.floats(1e-3, 1e3), tau=st.floats(0.01, 50.0))
def test_the_speed_limit_of_the_quench_in_closed_form(x, tau):
    bound = eq.least_entropy_production(x * np.expm1(-tau) ** 2, tau)
    assert bound / eq.quench_heat(x, tau) == near(eq.quench_speed_ratio(tau), 1e-12)
    assert eq.least_time(x * np.expm1(-tau) ** 2, eq.quench_heat(x, tau)) <= tau * (1 + 1e-12)


def test_the_dragged_trap_obeys_the_speed_limit_and_its_optimum_beats_the_length():
    x, tau = 2.0, 10.0
    mean_sq = np.expm1(2 * eq.drag_information(x, tau))  # x·m²
    assert eq.trap_drag_heat(x, tau) == pytest.approx(0.170, abs=5e-5)
    assert eq.least_entropy_production(mean_sq, tau) == pytest.approx(0.162, abs=5e-5)
    assert eq.trap_optimal_work(x, tau) < x / tau  # 𝓛²/τ bounds it only as τ → ∞


# R3, the Hebbian perceptron


def test_hebbian_accuracy_against_simulation():
    """p_C of R3, from perceptrons that learned random labels."""
    rng, size, hits, strength = np.random.default_rng(3), 400, [], 1.0
    for _ in range(60):
        inputs, labels = rng.choice([-1.0, 1.0], (size, size)), rng.choice([-1.0, 1.0], size)
        weights = strength * labels @ inputs / math.sqrt(size) + rng.normal(size=size)
        hits.append(np.mean(labels * (inputs @ weights) > 0))
    stderr = float(np.std(hits)) / math.sqrt(len(hits))
    assert abs(np.mean(hits) - eq.hebbian_accuracy(1.0, strength)) < 3 * stderr + 1e-3
    assert stderr < 0.004


def test_reference_numbers_of_the_perceptron():
    assert eq.hebbian_accuracy(1.0, 1.0) == pytest.approx(0.7602, abs=5e-5)
    assert eq.hebbian_efficiency(1.0, 1.0) == pytest.approx(0.1682, abs=5e-5)
    p = eq.hebbian_accuracy(0.3, 2.0)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    plain = 0.3 * (math.log(2) - entropy) / (0.5 * math.log(5.0) + 2.0)
    assert eq.hebbian_efficiency(0.3, 2.0) == near(plain, 1e-12)


@given(load=st.floats(1e-4, 1e6), strength=st.floats(1e-4, 1e3))
def test_the_perceptron_never_reaches_one_over_pi(load, strength):
    assert 0.0 <= eq.hebbian_efficiency(load, strength) < 1 / math.pi
    assert eq.hebbian_efficiency(1e6, 1e-4) == near(1 / math.pi, 1e-5)


# R4 and R5, stationary states


def stationary_moments(eta: float, a: float, c: float, mu: float):
    """Solve C = A·C·Aᵀ + noise for the stationary covariance of (θ, Δθ): (⟨θ²⟩, ⟨Δθ²⟩)."""
    step = np.array([[1 - eta * a, mu], [-eta * a, mu]])
    cov = np.linalg.solve(np.eye(4) - np.kron(step, step), np.full(4, eta**2 * c)).reshape(2, 2)
    return cov[0, 0], cov[1, 1]


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("eta", "a", "c"), [(0.1, 1.0, 1.0), (1.5, 1.0, 2.0), (0.02, 3.0, 0.5)])
def test_stationary_variance_against_the_covariance_equation(eta, a, c, mu):
    variance, _ = stationary_moments(eta, a, c, mu)
    assert eq.stationary_variance(eta, a, c, mu) == near(variance, 1e-9)


def test_reference_numbers_of_stationary_states():
    assert eq.stationary_variance(1.5, 1.0, 1.0) == near(3.0, 1e-12)  # R4; the continuous theory says 0.75
    variance, displacement_sq = stationary_moments(0.1, 1.0, 1.0, 0.9)
    assert variance == pytest.approx(0.5135, abs=5e-5)  # R5, both sides
    assert 1.9 / 0.2 * displacement_sq == near(variance, 1e-9)


@given(a=positive, c=positive, mu=st.floats(0.0, 0.99), momentum=st.booleans())
def test_the_loss_floor_is_the_variance_to_first_order(a, c, mu, momentum):
    mu = mu if momentum else 0.0
    eta = 1e-7 / a
    exact = 0.5 * a * eq.stationary_variance(eta, a, c, mu)
    assert eq.stationary_loss_floor(eta, c * 8.0, 8.0, mu) == near(exact, 1e-6)


@given(mu=st.floats(0.0, 0.95), a=positive)
def test_the_variance_grows_without_bound_at_the_stability_limit(mu, a):
    limit = eq.stability_limit(a, mu)
    assert eq.stationary_variance(limit * (1 - 1e-9), a, 1.0, mu) > 1e6 * eq.stationary_variance(limit / 2, a, 1.0, mu)
    step = np.array([[1 - limit * a, mu], [-limit * a, mu]])
    assert np.max(np.abs(np.linalg.eigvals(step))) == near(1.0, 1e-6)
    assert eq.stability_limit(a) == near(2.0 / a, 1e-12)


# 4.1, information and error


@given(x=st.floats(1e-3, 1e3), t=st.floats(0.01, 20.0))
def test_no_learner_is_closer_than_its_information_allows(x, t):
    error = x * math.exp(-2 * t) + 1.0
    assert error >= eq.least_squared_error(eq.quench_information(x, t), 1.0, x) * (1 - 1e-12)


def test_the_bound_on_a_quadratic_loss_is_reached_by_the_optimal_channel():
    curvatures, variance, distortion = np.array([0.5, 2.0, 7.0]), 3.0, 0.4
    information = float(np.sum(0.5 * np.log(curvatures * variance / distortion)))  # each h·σ² above the distortion
    loss = 0.5 * len(curvatures) * distortion
    assert eq.least_excess_loss(information, variance, curvatures) == near(loss, 1e-12)


@given(least=positive, more=st.floats(1.0, 1e3))
def test_4_1_as_written_says_nothing(least, more):
    assert eq.excess_loss_as_written(2.0, least, least * more) == pytest.approx(-math.log(more), rel=1e-9, abs=1e-12)


# 4.2 and 7.1, paths

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, steps=st.integers(1, 20), size=st.integers(1, 6))
def test_no_path_costs_less_than_the_straight_one(seed, steps, size):
    rng = np.random.default_rng(seed)
    eta = rng.exponential(size=(steps, size)) * (rng.random((steps, size)) > 0.2)
    moved = rng.normal(size=(steps, size)) * (eta > 0)
    cost, least = eq.path_cost(moved, eta), eq.least_path_cost(moved, eta)
    assert 0.0 <= least <= cost * (1 + 1e-12)
    direct = eta * rng.normal(size=size)
    assert eq.path_cost(direct, eta) == near(eq.least_path_cost(direct, eta), 1e-9)


def test_plain_sgd_pays_its_learning_rate_times_gradient_squared():
    rng = np.random.default_rng(1)
    g, eta = rng.normal(size=(5, 3)), 0.3
    flow = np.sum(eq.gradient_flow_work(eta, np.sum(g**2, axis=1)))
    assert eq.path_cost(-eta * g, eta) == near(flow, 1e-12)
    assert np.sum(eq.displacement_work(g, -eta * g)) == near(flow, 1e-12)


@given(seed=seeds)
def test_midpoint_work_is_the_loss_it_took_off_and_ito_exceeds_it_by_the_curvature(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4))
    hessian, theta, step = root @ root.T, rng.normal(size=(6, 4)), rng.normal(size=(6, 4))

    def loss(at):
        return 0.5 * np.einsum("ki,ij,kj->k", at, hessian, at)

    g, after = theta @ hessian, (theta + step) @ hessian
    np.testing.assert_allclose(eq.displacement_work(g, step, after), loss(theta) - loss(theta + step), atol=1e-10)
    np.testing.assert_allclose(
        eq.displacement_work(g, step) - eq.displacement_work(g, step, after), loss(step), atol=1e-10
    )
    assert eq.gradient_path(g, step, g) == near(eq.gradient_path(g, step), 1e-12)
    # |A| ≤ 1 in both readings
    for nexts in (None, after):
        path = eq.gradient_path(g, step, nexts)
        assert abs(eq.alignment(np.sum(eq.displacement_work(g, step, nexts)), path)) <= 1 + 1e-12


def test_heat_as_written_exceeds_heat_by_t_times_entropy():
    work, energy, entropy = 2.0, 0.3, 0.7
    free = energy - entropy
    assert eq.heat_as_written(work, free) - eq.heat(work, energy) == near(entropy, 1e-12)
    assert eq.heat_as_written(work, free) == eq.dissipated_work(work, free)


# 2, 5, 6: power, speed, budgets


def test_published_ledgers():
    assert eq.flop_energy(700.0, 989e12) * 1e12 == pytest.approx(0.71, abs=5e-3)
    hours, flop = 30.84e6, 3.8e25
    assert eq.flop_energy(700.0, flop / (hours * 3600)) * 1e12 == pytest.approx(2.05, abs=5e-3)
    assert 256_646 / eq.total_power(256_646, 433_196, 0.0, 0.0) == pytest.approx(0.37, abs=5e-3)


def test_2_2_as_written_is_short_by_flop_per_parameter():
    parameters, examples, tokens = 1e9, 32, 512
    full = eq.compute_power(2.0, 6 * parameters * examples * tokens, 1e-12)
    assert full / eq.compute_power_as_written(2.0, parameters, 1e-12) == near(6 * examples * tokens, 1e-12)


def test_accumulation_moves_the_weights_traffic_to_the_examples():
    batch, micro = 64.0, 16.0
    once = eq.memory_energy(100.0, 40.0, 3.0, 2.0)
    many = eq.memory_energy(100.0, 40.0, 3.0, 2.0, micro)
    assert many.per_step + batch * many.per_example == near(2.0 * (100.0 + 40.0 * batch / micro + 3.0 * batch), 1e-12)
    assert eq.memory_energy(100.0, 40.0, 3.0, 2.0, batch).per_example * batch + 200.0 == near(
        once.per_step + batch * once.per_example, 1e-12
    )
    power = eq.memory_power(5.0, 100.0 + 40.0 + 3.0 * batch, 2.0)
    assert power == near(5.0 * (once.per_step + batch * once.per_example), 1e-12)


def test_5_1_and_6_2_as_written_differ_by_the_batch():
    assert eq.max_throughput_as_written(300.0, 1e9, 1e-12) == eq.max_step_rate_as_written(300.0, 1e9, 1e-12)


@given(headroom=positive, batch=positive, e0d=positive, e1d=positive, tau0=positive, tau1=positive)
def test_the_largest_step_rate_keeps_both_limits_and_meets_one(headroom, batch, e0d, e1d, tau0, tau1):
    rate = eq.max_step_rate(headroom, batch, e0d, e1d, tau0, tau1)
    power, busy = rate * (e0d + e1d * batch) / headroom, rate * eq.step_time(batch, tau0, tau1)
    assert max(power, busy) == near(1.0, 1e-12)
    if power > 1 - 1e-12:
        assert eq.max_throughput(headroom, rate, e0d, e1d) == pytest.approx(
            rate * batch, rel=1e-6, abs=1e-6 * headroom / e1d
        )


@given(bc=positive, e0d=positive, e1d=positive, static=positive, tau0=positive, tau1=positive)
def test_no_batch_beats_the_median_form(bc, e0d, e1d, static, tau0, tau1):
    best = eq.roofline_batch(bc, e0d, e1d, static, tau0, tau1)
    at = (bc, e0d, e1d, static, tau0, tau1)
    tried = eq.roofline_energy(best * np.geomspace(1e-3, 1e3, 601), *at)
    assert eq.roofline_energy(best, *at) <= tried.min() * (1 + 1e-12)


@pytest.mark.parametrize(
    ("regime", "at"),
    [
        ("throughput", (100.0, 50.0, 0.1, 10.0, 1e-4, 0.01)),
        ("corner", (100.0, 0.5, 0.01, 100.0, 0.05, 0.001)),
        ("latency", (100.0, 0.5, 10.0, 100.0, 0.5, 1e-4)),
    ],
)
def test_r11_the_median_form_against_brute_force(regime, at):
    bc, e0d, e1d, static, tau0, tau1 = at
    batches = np.geomspace(0.1, 1e5, 2_000_001)
    found = batches[np.argmin(eq.roofline_energy(batches, *at))]
    best = eq.roofline_batch(*at)
    assert best == near(found, 1e-4)
    closed = {
        "throughput": eq.optimal_batch(bc, e0d, e1d + static * tau1),
        "corner": tau0 / tau1,
        "latency": eq.optimal_batch(bc, e0d + static * tau0, e1d),
    }
    assert best == near(closed[regime], 1e-12)


def test_the_median_form_at_its_edges():
    assert eq.roofline_batch(100.0, 1.0, 0.0, 0.0, 0.01, 0.001) == math.inf  # examples that cost nothing
    # no time per example: always latency-bound
    assert eq.roofline_batch(100.0, 1.0, 0.5, 10.0, 0.1, 0.0) == near(eq.optimal_batch(100.0, 2.0, 0.5), 1e-12)


@given(bc=positive, e0=positive, e1=positive, steps=positive)
def test_the_least_energy_is_the_energy_at_the_best_batch(bc, e0, e1, steps):
    best = eq.optimal_batch(bc, e0, e1)
    energy = eq.steps_to_target(best, steps, bc) * (e0 + e1 * best)
    assert eq.least_energy(steps, bc, e0, e1) == near(energy, 1e-12)


@given(static=positive, exponent=st.floats(1.2, 6.0), c=positive)
def test_the_power_cap_of_least_energy_against_brute_force(static, exponent, c):
    best = (eq.energy_optimal_power(static, exponent) - static) / c  # f^a
    speed = best ** (1 / exponent) * np.geomspace(0.5, 2.0, 20001)
    energy = (static + c * speed**exponent) / speed
    assert speed[np.argmin(energy)] ** exponent == near(best, 1e-3 * exponent)


@given(seed=seeds, size=st.integers(1, 12))
def test_the_least_power_is_on_the_front(seed, size):
    rng = np.random.default_rng(seed)
    t, e = rng.integers(1, 6, size).astype(float), rng.integers(1, 6, size).astype(float)
    dominated = [any((t <= a) & (e <= b) & ((t < a) | (e < b))) for a, b in zip(t, e, strict=True)]
    on_front = [b / a for a, b, beaten in zip(t, e, dominated, strict=True) if not beaten and a <= 3.0]
    found = eq.least_mean_power(t, e, 3.0)
    assert found == min(on_front) if on_front else math.isnan(found)
    assert math.isnan(eq.least_mean_power(np.empty(0), np.empty(0), 1.0))


def test_8_3_repaired_is_6_1_when_latency_bound():
    assert eq.latency_bound_batch(50.0, 300.0, 1 / 0.02, 0.1) == near(
        eq.roofline_batch(300.0, 0.0, 0.1, 50.0, 0.02, 1e-9), 1e-12
    )


# 8: practice


@given(alpha=st.floats(0.0, 1.0))
def test_the_schedules_steps_against_integration(alpha):
    s = (np.arange(200_000) + 0.5) / 200_000
    power = eq.power_schedule(s, 1.0)
    ratio = np.mean(power**alpha) / np.mean(power) ** alpha
    assert eq.schedule_speed_factor(alpha) == near(ratio, 1e-6)
    assert 0.9797 < eq.schedule_speed_factor(alpha) <= 1.0


def test_the_schedule_loses_two_percent_at_worst():
    alphas = np.linspace(0.0, 1.0, 100001)
    factors = eq.schedule_speed_factor(alphas)
    assert 1 - factors.min() == pytest.approx(0.0203, abs=5e-5)
    assert alphas[np.argmin(factors)] == pytest.approx(0.466, abs=5e-4)


@given(seed=seeds, alpha=st.floats(0.05, 0.7))
def test_no_schedule_beats_the_anytime_one_at_equal_energy(seed, alpha):
    """The area under a loss linear in steps falls by ∫(1−s)·P^α ds."""
    s = (np.arange(2000) + 0.5) / 2000
    best = eq.power_schedule(s, 1.0, 1 / (1 - alpha))
    other = np.interp(s, np.linspace(0, 1, 9), np.random.default_rng(seed).random(9))
    other *= best.mean() / other.mean()
    assert np.mean((1 - s) * other**alpha) <= np.mean((1 - s) * best**alpha) * (1 + 1e-12)


@given(seed=seeds, batch=st.integers(1, 3))
def test_the_optimal_learning_rate_against_enumerated_batches(seed, batch):
    """Expected loss after one step over every batch (drawn with replacement) is a parabola in η: its vertex."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    hessian, each = root @ root.T + 0.1 * np.eye(3), rng.normal(size=(4, 3)) + 1.0
    mean = each.mean(0)
    covariance = (each - mean).T @ (each - mean) / len(each)
    grids = np.meshgrid(*[np.arange(len(each))] * batch, indexing="ij")
    g = np.mean([each[index.ravel()] for index in grids], axis=0)

    def change(eta):
        return np.mean(-eta * g @ mean + 0.5 * eta**2 * np.einsum("ki,ij,kj->k", g, hessian, g))

    curve = change(1.0) + change(-1.0)
    vertex = (change(-1.0) - change(1.0)) / 2 / curve
    found = eq.optimal_learning_rate(mean @ mean, mean @ hessian @ mean, np.trace(hessian @ covariance), batch)
    assert found == near(vertex, 1e-9)


# 3, 9: information


@given(seed=seeds, size=st.integers(2, 8))
def test_no_allocation_beats_the_logarithmic_one(seed, size):
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=size) + 1e-3
    best = eq.logarithmic_allocation(weights, 10.0)
    other = rng.exponential(size=size) + 1e-9
    other *= 10.0 / other.sum()
    assert best.sum() == near(10.0, 1e-12)
    assert weights @ np.log(other) <= weights @ np.log(best) + 1e-9
    assert eq.returns_inequality(weights, best) < 1e-7  # marginal information a/J is the same everywhere
    assert eq.returns_inequality(3 * weights, 5 * other) == near(eq.returns_inequality(weights, other), 1e-9)


def test_inequality_of_returns_by_hand():
    # returns 1 and 3 nat/J with shares ½: mean 2, deviation 1
    assert eq.returns_inequality(np.array([1.0, 3.0]), np.array([1.0, 1.0])) == near(0.5, 1e-12)


def test_thermal_prices():
    assert eq.landauer_energy() == near(2.87e-21, 1e-3)
    assert eq.landauer_energy(600.0) == near(2 * eq.landauer_energy(300.0), 1e-12)
    assert eq.useful_work(math.log(2.0)) == near(eq.landauer_energy(), 1e-15)
    assert eq.information_as_written(eq.landauer_energy(400.0), 400.0) == near(1.0, 1e-15)
    assert eq.least_power_as_written(1e12, 5.0) * eq.least_time_as_written(1e12, 2.0) == near(
        eq.landauer_energy() ** 2 * 1e24 / 10.0, 1e-12
    )
    assert eq.power_efficiency(6.0, 2.0, 3.0) == 1.0 and eq.thermodynamic_efficiency(1.0, 8.0) == 0.125


def test_formulas_take_arrays():
    x, t = np.array([0.5, 1.0, 2.0]), 1.5
    np.testing.assert_allclose(eq.quench_efficiency(x, t), [eq.quench_efficiency(v, t) for v in x], rtol=1e-14)
    np.testing.assert_allclose(eq.trap_drag_heat(x, t), [eq.trap_drag_heat(v, t) for v in x], rtol=1e-14)
    b = eq.roofline_batch(100.0, 1.0, x, 10.0, 0.1, 0.01)
    np.testing.assert_allclose(b, [eq.roofline_batch(100.0, 1.0, v, 10.0, 0.1, 0.01) for v in x], rtol=1e-14)
