"""Equilibration on SGD whose stationary state is known exactly, in it and on the way there; and as read from runs."""

import math

import numpy as np
import pytest

from ergometry.core.series import EQUILIBRIUM
from ergometry.equations.work_loss import stationary_variance
from ergometry.estimators.equilibration import EquilibrationEstimator, read_equilibration
from support.linear_sgd import simulate
from support.told import table, told

ESTIMATOR = EquilibrationEstimator()


def run_of(path, *, eta, momentum=0.0, eligible=1.0, first=0, rates=None, **columns):
    n = len(path.theta_g)
    rows = table(
        EQUILIBRIUM,
        n,
        step=first + np.arange(n),
        theta_g=path.theta_g,
        dtheta_sq=path.dtheta_sq,
        virial=path.virial,
        momentum=momentum,
        eligible=eligible,
        **{"sampled": 10, "parameters": 10, **columns},
    )
    return told((EQUILIBRIUM, rows), rates=((0, 0, 0, eta),) if rates is None else rates)


def test_in_the_stationary_state_both_sides_are_the_exact_number():
    """R5: η = 0.1, μ = 0.9, a = c = 1; 400 parameters stand for 400 chains."""
    exact = float(stationary_variance(0.1, 1.0, 1.0, 0.9))
    rng = np.random.default_rng(0)
    path = simulate(rng, curvature=np.ones(400), noise=np.ones(400), eta=0.1, momentum=0.9, steps=1500, burn_in=400)
    found = read_equilibration(run_of(path, eta=0.1, momentum=0.9))
    for side in (found.theta_g, found.dissipation):
        assert side.value / 400 == pytest.approx(exact, abs=4 * side.stderr / 400)
        assert side.stderr < 0.01 * side.value and side.unit == "loss"
    assert found.ratio.value == pytest.approx(1.0, abs=4 * found.ratio.stderr)
    assert found.ratio.stderr < 0.003 and abs(found.z.value) < 4  # their errors are in common
    assert found.eligible and found.rows == 1500


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_minimum_away_from_the_origin_changes_nothing(momentum):
    """⟨θ·g⟩ does not ask where the origin is, since ⟨g⟩ = 0: but its error does."""
    a, rng = np.linspace(0.5, 2.0, 60), np.random.default_rng(1)
    still = {"burn_in": 400, "start": 3.0, "minimum": 3.0}
    path = simulate(rng, curvature=a, noise=a**2, eta=0.1, momentum=momentum, steps=3000, **still)
    found = read_equilibration(run_of(path, eta=0.1, momentum=momentum))
    assert abs(found.z.value) < 4
    assert found.theta_g.value == pytest.approx(
        float(np.sum(a * stationary_variance(0.1, a, a**2, momentum))), abs=4 * found.theta_g.stderr
    )


def test_on_the_way_down_the_two_sides_are_far_apart():
    rng = np.random.default_rng(2)
    path = simulate(rng, curvature=np.full(50, 0.02), noise=np.full(50, 0.01), eta=0.1, steps=400, start=2.0)
    found = read_equilibration(run_of(path, eta=0.1))
    assert found.ratio.value > 2 and found.z.value > 4


def sampled_chains(chains, rows, every, *, eta, momentum):
    """Return (rows, 3, chains): step, θ·g and (1+μ)/(2η)·|Δθ|² of every so many steps, of one parameter each."""
    rng = np.random.default_rng(3)
    theta, moved, found = np.zeros(chains), np.zeros(chains), []
    for k in range(-100, rows * every):
        g = theta + rng.standard_normal(chains)
        moved = momentum * moved - eta * g
        if k >= 0 and k % every == 0:
            found.append((np.full(chains, k), theta * g, (1 + momentum) / (2 * eta) * moved**2))
        theta = theta + moved
    return np.array(found)


@pytest.mark.parametrize("every", [1, 10])
def test_ninety_per_cent_intervals_of_the_sides_hold_the_exact_number_as_often(every):
    exact = float(stationary_variance(0.2, 1.0, 1.0, 0.5))
    hits = []
    for rows in sampled_chains(250, 700, every, eta=0.2, momentum=0.5).transpose(2, 0, 1):
        found = ESTIMATOR.result(ESTIMATOR.of(rows))
        hits.append([abs(e.value - exact) < 1.645 * e.stderr for e in (found.theta_g, found.dissipation)])
    share = np.mean(hits, axis=0)
    assert np.all((share >= 0.85) & (share <= 0.97)), share


def test_ninety_per_cent_intervals_of_the_ratio_hold_one_as_often_where_steps_are_sampled():
    hits, z = [], []
    for rows in sampled_chains(300, 300, 20, eta=0.2, momentum=0.5).transpose(2, 0, 1):
        found = ESTIMATOR.result(ESTIMATOR.of(rows))
        hits.append(abs(found.ratio.value - 1) < 1.645 * found.ratio.stderr)
        z.append(found.z.value)
    assert 0.85 <= np.mean(hits) <= 0.97
    assert 0.85 < np.std(z) < 1.15 and abs(np.mean(z)) < 0.25


def test_of_every_step_without_momentum_the_difference_is_what_theta_squared_has_changed_by():
    rows = sampled_chains(1, 500, 1, eta=0.2, momentum=0.0)[:, :, 0]
    found = ESTIMATOR.result(ESTIMATOR.of(rows))
    assert abs(found.theta_g.value - found.dissipation.value) < 0.5 * found.ratio.stderr * found.dissipation.value


def test_none_one_and_two_steps():
    none = ESTIMATOR.result(ESTIMATOR.init())
    assert none.theta_g.value is None and not none.eligible
    one = ESTIMATOR.result(ESTIMATOR.update(ESTIMATOR.init(), (0.0, 2.0, 1.0)))
    assert (one.theta_g.value, one.dissipation.value, one.ratio.value) == (2.0, 1.0, 2.0)
    assert one.ratio.stderr is None and one.z.value is None
    two = ESTIMATOR.merge(ESTIMATOR.of(np.array([[0.0, 2.0, 1.0]])), ESTIMATOR.of(np.array([[1.0, 4.0, 1.0]])))
    found = ESTIMATOR.result(two)
    assert found.ratio.value == 3.0 and found.dissipation.stderr == 0.0 and found.ratio.stderr > 0
    still = ESTIMATOR.result(ESTIMATOR.of(np.zeros((3, 3))))
    assert still.ratio.value is None and "did not move" in still.ratio.why


# What is read from a run


def a_path(steps=60):
    one = np.ones(10)
    return simulate(np.random.default_rng(4), curvature=one, noise=one, eta=0.1, steps=steps, burn_in=50)


def test_only_the_last_stretch_of_constant_learning_rate_is_read():
    path = a_path()
    found = read_equilibration(run_of(path, eta=0.1, rates=((0, 0, 0, 0.5), (20, 0, 0, 0.1))))
    assert (found.rows, found.since) == (40, 20.0)
    assert found.theta_g.value == pytest.approx(path.theta_g[20:].mean())
    assert found.dissipation.value == pytest.approx(path.dtheta_sq[20:].mean() / 0.2)
    assert "from step 20 on" in found.ratio.why


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"eligible": 0.0}, "plain SGD"),
        ({"rates": ((0, 0, 0, 0.1), (0, 0, 1, 0.2))}, "different ones"),
        ({"rates": ()}, "not recorded"),
        ({"rates": ((0, 0, 0, 0.0),)}, "positive"),
    ],
    ids=["Adam", "two rates", "no rate", "rate 0"],
)
def test_where_the_relation_is_not_stated_one_side_is_known_and_the_other_says_why(options, why):
    found = read_equilibration(run_of(a_path(), eta=0.1, **options))
    assert found.theta_g.known and not found.eligible
    assert why in found.dissipation.why and why in found.z.why


def test_the_error_of_the_blocks_is_in_the_sides_and_not_in_their_ratio():
    path = a_path()
    exact = read_equilibration(run_of(path, eta=0.1))
    blocks = read_equilibration(run_of(path, eta=0.1, theta_g_stderr=30.0, dtheta_sq_stderr=1.0, sampled=5))
    assert blocks.theta_g.stderr == pytest.approx(math.hypot(exact.theta_g.stderr, 30.0))
    assert blocks.dissipation.stderr == pytest.approx(math.hypot(exact.dissipation.stderr, 5.0))
    assert blocks.ratio.stderr == exact.ratio.stderr and "blocks" in blocks.theta_g.why


def test_steps_that_are_not_finite_are_counted_and_left_out():
    path = a_path()
    path.theta_g[::10] = math.nan
    found = read_equilibration(run_of(path, eta=0.1))
    assert found.rows == 54 and "6 steps" in found.theta_g.why


def test_without_rows_the_taps_own_reason_is_given():
    meta = {"physics": {"level": "light", "taps": {"equilibrium": {"why": "a gradient is sparse (3 times)"}}}}
    assert "sparse" in read_equilibration(told(meta=meta)).theta_g.why
    assert "physics off" in read_equilibration(told()).z.why


@pytest.mark.parametrize("c", [1e-3, 20.0])
def test_rescaling_the_loss_scales_both_sides_and_leaves_the_ratio(c):
    path = a_path()
    one = read_equilibration(run_of(path, eta=0.1))
    other = read_equilibration(run_of(path._replace(theta_g=c * path.theta_g), eta=0.1 / c))
    assert other.theta_g.value == pytest.approx(c * one.theta_g.value)
    assert other.dissipation.value == pytest.approx(c * one.dissipation.value)
    assert (other.ratio.value, other.z.value) == pytest.approx((one.ratio.value, one.z.value))
