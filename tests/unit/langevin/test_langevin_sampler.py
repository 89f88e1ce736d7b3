"""The sampler: heat by definition, fluctuation theorems at steps that are not small, reference cases R1, R2, R7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ergometry import equations as eq
from ergometry.langevin.gaussian import Quadratic, State, step
from ergometry.langevin.sampler import Diverged, Paths, drive, linear_force, moving_trap
from ergometry.langevin.statistics import Blocks, jarzynski, uncertainty_bound

torch.set_num_threads(1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(shape, seed):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def wells(theta):
    """A rippled valley, tilted by λ: U = ½θ² + 1.5·cos(1.5θ) + λθ of each coordinate; curvature from −2.4 to 4.4."""

    def local(control):
        energy = (0.5 * theta**2 + 1.5 * torch.cos(1.5 * theta) + control * theta).sum(1)
        return energy, theta - 2.25 * torch.sin(1.5 * theta) + control

    return local


def boltzmann(control, temperature, count, seed):
    """Return exact draws (count, 1) from the wells' Boltzmann state, by its cumulative distribution, and F."""
    grid = np.linspace(-12, 12, 400_001)
    weight = np.exp(-(0.5 * grid**2 + 1.5 * np.cos(1.5 * grid) + control * grid) / temperature)
    total = np.cumsum(weight)
    draws = np.interp(np.random.default_rng(seed).random(count), total / total[-1], grid)
    return torch.from_numpy(draws[:, None]), -temperature * math.log(float(np.trapezoid(weight, grid)))


def mean_and_error(values):
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def within(values, expected, errors=3.0):
    mean, stderr = mean_and_error(values)
    return abs(mean - expected) < errors * stderr


# definitions


def test_the_path_heat_is_the_log_ratio_of_each_step_and_its_reversal():
    eta, temperature, controls = 0.1, 0.7, [0.0, 0.5, -0.3]
    visited = []

    def watched(theta):
        visited.append(theta)
        return wells(theta)

    paths = drive(
        watched,
        normal((5, 2), 1),
        controls,
        ends=(0.0, 1.0),
        learning_rate=eta,
        temperature=temperature,
        generator=generator(),
    )
    expected = torch.zeros(5, dtype=torch.float64)
    for control, before, after in zip(controls, visited, visited[1:], strict=False):
        width = math.sqrt(2 * temperature * eta)
        there = torch.distributions.Normal(before - eta * wells(before)(control)[1], width).log_prob(after).sum(1)
        back = torch.distributions.Normal(after - eta * wells(after)(control)[1], width).log_prob(before).sum(1)
        expected += temperature * (there - back)
    torch.testing.assert_close(paths.heat, expected, rtol=1e-10, atol=1e-12)
    drift = sum(
        -0.5 * eta * (wells(a)(c)[1] + wells(b)(c)[1]) for c, a, b in zip(controls, visited, visited[1:], strict=False)
    )
    torch.testing.assert_close(paths.drift, drift, rtol=1e-12, atol=1e-12)
    assert paths.time == pytest.approx(0.3)


def test_work_is_done_at_the_switches_and_energy_closes():
    controls, ends, visited = [0.2, 0.2, 1.0], (0.0, 2.0), []

    def watched(theta):
        visited.append(theta)
        return wells(theta)

    options = {"learning_rate": 0.05, "temperature": 0.5, "generator": generator(3)}
    paths = drive(watched, normal((4, 1), 2), controls, ends=ends, **options)
    switches = zip(visited, (ends[0], *controls), (*controls, ends[1]), strict=True)
    expected = sum(wells(theta)(after)[0] - wells(theta)(before)[0] for theta, before, after in switches)
    torch.testing.assert_close(paths.work, expected)
    torch.testing.assert_close(paths.delta_u, wells(paths.end)(2.0)[0] - wells(paths.start)(0.0)[0])
    torch.testing.assert_close(paths.path_work, paths.delta_u + paths.heat)
    torch.testing.assert_close(paths.shadow_work, paths.path_work - paths.work)


def test_on_a_parabola_the_midpoint_heat_is_the_drop_of_the_energy():
    targets = normal((50, 3), 4)
    paths = drive(
        moving_trap(targets, 2.0),
        normal((50, 3), 5),
        [0.3, 0.8, 1.0, 1.0],
        ends=(0.0, 1.0),
        learning_rate=0.3,
        temperature=0.4,
        generator=generator(6),
    )
    torch.testing.assert_close(paths.midpoint_heat, paths.work - paths.delta_u, rtol=1e-12, atol=1e-12)
    assert float(paths.shadow_work.abs().max()) > 1e-3  # the step is coarse, and the shadow work says so


def test_the_shadow_work_goes_with_the_step():
    shadows = []
    for steps in (50, 200):
        paths = drive(
            wells,
            torch.zeros(20_000, 1, dtype=torch.float64),
            [1.0] * steps,
            ends=(1.0, 1.0),
            learning_rate=2.0 / steps,
            temperature=0.5,
            generator=generator(7),
        )
        shadows.append(abs(float(paths.shadow_work.mean())))
    assert shadows[1] < 0.4 * shadows[0]


def test_its_moments_are_those_of_the_exact_chain():
    x, eta, temperature, controls = 1.5, 0.4, 0.8, [0.5, 1.0, 1.0, 0.7, 1.0]
    count = 40_000
    targets = math.sqrt(x) * normal((count, 1), 8)
    paths = drive(
        moving_trap(targets, 1.3),
        0.9 * normal((count, 1), 9),
        controls,
        ends=(0.0, 1.0),
        learning_rate=eta,
        temperature=temperature,
        generator=generator(10),
    )
    state, heat = State.prior(1, 0.9, 1), 0.0
    for control in controls:
        end = step(
            state, Quadratic.trap(np.array([[1.3]]), spread=np.array([[math.sqrt(x) * control]])), eta, temperature
        )
        state, heat = end.state, heat + end.heat
    assert within(paths.heat, heat)
    assert within(paths.end[:, 0] ** 2, state.marginal[0, 0])
    assert within(paths.end[:, 0] * targets[:, 0] / math.sqrt(x), state.response[0, 0])


# fluctuation theorems, exact at any step


@pytest.fixture(scope="module")
def both_ways():
    """Forward and reversed paths of the wells at η·λ_max = 1.3, from exact Boltzmann draws."""
    temperature, eta, controls, count = 0.8, 0.3, [0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.0, 0.5], 150_000
    start, first = boltzmann(0.0, temperature, count, 1)
    back, last = boltzmann(1.5, temperature, count, 2)
    options = {"learning_rate": eta, "temperature": temperature}
    forward = drive(wells, start, controls, ends=(0.0, 1.5), generator=generator(11), **options)
    reverse = drive(wells, back, controls[::-1], ends=(1.5, 0.0), generator=generator(12), **options)
    return forward, reverse, last - first, temperature


def test_jarzynski_holds_at_a_coarse_step_for_the_path_work(both_ways):
    forward, reverse, free, temperature = both_ways
    assert within(torch.exp(-(forward.path_work - free) / temperature), 1.0)
    assert within(torch.exp(-(reverse.path_work + free) / temperature), 1.0)


def test_without_the_shadow_work_jarzynski_fails_at_a_coarse_step(both_ways):
    forward, _, free, temperature = both_ways
    assert not within(torch.exp(-(forward.work - free) / temperature), 1.0, errors=6.0)


def test_crooks_relates_the_two_distributions_of_work(both_ways):
    """For any f, ⟨f(W)·e^{−(W−ΔF)/T}⟩ forward is ⟨f(−W)⟩ reversed: here f picks out a window of work."""
    forward, reverse, free, temperature = both_ways
    weight = torch.exp(-(forward.path_work - free) / temperature)
    for low, high in ((-1.5, -0.5), (-0.5, 0.0), (0.0, 0.5), (0.5, 1.5)):
        there = weight * ((forward.path_work > low) & (forward.path_work < high))
        back = ((-reverse.path_work > low) & (-reverse.path_work < high)).double()
        (a, da), (b, db) = mean_and_error(there), mean_and_error(back)
        assert abs(a - b) < 3.5 * math.hypot(da, db)
        assert a > 20 * da


# R1 and R2: to a random target


def gaussian_information(a, b):
    rho = float(np.corrcoef(a, b)[0, 1])
    return -0.5 * math.log1p(-(rho**2))


@pytest.fixture(scope="module")
def dragged():
    count, steps, tau = 10_000, 1000, 10.0
    targets = math.sqrt(2.0) * normal((count, 1), 13)
    controls = [(k + 1) / steps for k in range(steps)]
    paths = drive(
        moving_trap(targets),
        normal((count, 1), 14),
        controls,
        ends=(0.0, 1.0),
        learning_rate=tau / steps,
        temperature=1.0,
        generator=generator(15),
    )
    return paths, targets


def test_r1_the_dragged_trap(dragged):
    paths, targets = dragged
    assert within(paths.work, 0.1800)
    end, count = paths.end[:, 0].numpy(), len(targets)
    rho_sq = 1.0 - math.exp(-2 * 0.4816)
    information = gaussian_information(end, targets[:, 0].numpy())
    assert abs(information - 0.4816) < 3 * math.sqrt(rho_sq / count)  # influence ρ/(1−ρ²)·…, of variance ρ²
    spread = 0.5 * np.log(end.var())
    each = paths.heat.numpy() + 0.5 * ((end - end.mean()) ** 2 / end.var() - 1.0)
    total = spread + float(paths.heat.mean())
    assert abs(total - 0.6516) < 3 * each.std() / math.sqrt(count)
    assert information < total
    assert information > float(paths.work.mean())


def test_r2_the_quench():
    x, t, steps, count = 1.0, 2.0, 400, 20_000
    targets = math.sqrt(x) * normal((count, 1), 16)
    paths = drive(
        moving_trap(targets),
        normal((count, 1), 17),
        [1.0] * steps,
        ends=(0.0, 1.0),
        learning_rate=t / steps,
        temperature=1.0,
        generator=generator(18),
    )
    end, target, heat = paths.end[:, 0].numpy(), targets[:, 0].numpy(), paths.heat.numpy()
    blocks = Blocks.of(count, 1)

    def efficiency(kept):
        information, spread = gaussian_information(end[kept], target[kept]), 0.5 * math.log(end[kept].var())
        return float(eq.certified_efficiency(information, spread, heat[kept].mean()))

    def bound_over_actual(kept):
        moved_sq = np.cov(end[kept], target[kept])[0, 1] ** 2 / target[kept].var()
        return float(eq.least_entropy_production(moved_sq, t)) / heat[kept].mean()

    for found, expected in (
        (blocks.mean(heat), eq.quench_heat(x, t)),
        (blocks.left_out(efficiency), eq.quench_efficiency(x, t)),
        (blocks.left_out(bound_over_actual), eq.quench_speed_ratio(t)),
    ):
        assert abs(found.value - float(expected)) < 3 * found.stderr
        assert found.stderr < 0.03 * found.value


# R9: Bayesian regression by annealing


def test_r9_annealing_finds_the_log_evidence_within_a_twentieth_of_a_nat():
    n, count, steps = 8, 6000, 800
    x, y = normal((n, 2), 40), normal((n, 2), 40) @ normal((2, 1), 41) + normal((n, 1), 42)
    covariance = np.eye(n) + (x @ x.T).numpy()
    evidence = stats.multivariate_normal(np.zeros(n), covariance).logpdf(y[:, 0].numpy())

    def posterior(theta):
        errors = theta @ x.T - y.T
        surprise = 0.5 * (errors**2).sum(1) + 0.5 * n * math.log(2 * math.pi)
        pull, prior = errors @ x, 0.5 * (theta**2).sum(1)
        return lambda control: (control * surprise + prior, control * pull + theta)

    steepest = 1.0 + float(torch.linalg.eigvalsh(x.T @ x)[-1])
    paths = drive(
        posterior,
        normal((count, 2), 43),
        [((k + 1) / steps) ** 2 for k in range(steps)],
        ends=(0.0, 1.0),
        learning_rate=0.1 / steepest,
        temperature=1.0,
        generator=generator(44),
    )
    free = jarzynski(paths.path_work.numpy(), 1.0, Blocks.of(count, 1))
    assert free.value == pytest.approx(-evidence, abs=0.05)
    assert free.stderr < 0.03
    assert float(paths.work.mean()) > -evidence + 0.3
    # 7.2: with a start and an end in equilibrium, W − ΔF exceeds the heat by TΔS
    entropy = -0.5 * float(torch.logdet(torch.eye(2) + x.T @ x))
    heat_as_written = float(paths.path_work.mean()) + evidence
    assert heat_as_written - float(paths.heat.mean()) == pytest.approx(entropy, abs=0.1)


# R7: a force that rotates


def entropy_production(drift, diffusion):
    """tr(AᵀD⁻¹AC) − trA with AC + CAᵀ = 2D, by vectorisation; and C."""
    n = len(drift)
    both = np.kron(drift, np.eye(n)) + np.kron(np.eye(n), drift)
    c = np.linalg.solve(both, 2.0 * diffusion.ravel()).reshape(n, n)
    return float(np.trace(drift.T @ np.linalg.solve(diffusion, drift @ c)) - np.trace(drift)), c


TURNING = np.array([[1.0, 2.0], [-1.0, 1.5]]), np.diag([1.0, 0.5])
BALANCED = np.array([[1.0, 1.0], [0.5, 2.0]]), np.diag([1.0, 0.5])  # A is not symmetric, and yet AD = DAᵀ


def stationary(drift, diffusion, seed):
    """Stationary paths in coordinates where the noise is isotropic and T = 1."""
    root = np.sqrt(diffusion)
    white = np.linalg.solve(root, drift) @ root
    _, c = entropy_production(white, np.eye(2))
    start = normal((6000, 2), seed) @ torch.from_numpy(np.linalg.cholesky(c)).T
    steps, time = 1200, 6.0
    swept = torch.zeros(6000, dtype=torch.float64)
    field, last = linear_force(torch.from_numpy(white)), [start]

    def watched(theta):
        before, last[0] = last[0], theta
        swept.add_(0.5 * (before[:, 0] * theta[:, 1] - before[:, 1] * theta[:, 0]))
        return field(theta)

    paths = drive(
        watched,
        start,
        [0.0] * steps,
        ends=(0.0, 0.0),
        learning_rate=time / steps,
        temperature=1.0,
        generator=generator(seed + 1),
    )
    return paths, swept.numpy(), time


def test_r7_entropy_production_of_a_rotating_force_and_the_uncertainty_relation_below_it():
    rate, _ = entropy_production(*TURNING)
    assert rate > 3.0
    paths, swept, time = stationary(*TURNING, 20)
    produced = paths.heat / time
    assert float(produced.mean()) == pytest.approx(rate, rel=0.02)
    bound = uncertainty_bound(swept, Blocks.of(len(swept), 1))
    assert 0.3 * rate < bound.value / time < rate - 3 * bound.stderr / time


def test_r7_detailed_balance_without_symmetry_produces_nothing():
    assert entropy_production(*BALANCED)[0] == pytest.approx(0.0, abs=1e-12)
    paths, _, time = stationary(*BALANCED, 30)
    mean, stderr = mean_and_error(paths.heat / time)
    assert abs(mean) < 3 * stderr + 5e-3  # and the step's own


# trouble


def test_motion_that_leaves_every_bound_is_refused():
    with pytest.raises(
        Diverged, match="expected finite losses, got NaN or infinity in 3 of 3 replicas by step 65; take"
    ):
        drive(
            moving_trap(torch.ones(3, 1)),
            torch.zeros(3, 1),
            [1.0] * 500,
            ends=(0.0, 1.0),
            learning_rate=9.0,
            temperature=1.0,
            generator=generator(),
        )


def test_the_same_seed_gives_the_same_paths():
    def once():
        return drive(
            wells,
            normal((4, 2), 1),
            [1.0] * 10,
            ends=(0.0, 1.0),
            learning_rate=0.01,
            temperature=1.0,
            generator=generator(5),
        )

    a, b = once(), once()
    assert isinstance(a, Paths)
    assert torch.equal(a.end, b.end)
    assert torch.equal(a.heat, b.heat)
