"""Sums over all steps from some: which each row stands for, and the errors of sums and of ratios."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ergometry.estimators.sampling import (
    Observations,
    Sampling,
    _mean_power,
    effective_freedom,
    sample_steps,
    widening,
)


@given(st.sets(st.integers(1, 200), min_size=1), st.integers(1, 200))
def test_every_step_is_stood_for_once_by_a_nearest_row(sampled, last):
    rows, every = np.array(sorted(sampled), dtype=float), np.arange(float(last))
    found = sample_steps(rows, every)
    population = np.union1d(rows, every)
    assert found.weights.sum() == found.steps == len(population)
    nearest = np.abs(population[:, None] - rows).min(1)
    owner = np.repeat(np.arange(len(rows)), found.weights.astype(int))
    np.testing.assert_array_equal(np.abs(population - rows[owner]), nearest)


def test_a_linear_trend_is_summed_exactly_by_an_even_cadence():
    step = np.arange(2.0, 100.0, 5.0)
    value, stderr = sample_steps(step, np.arange(100.0)).total(3.0 + 0.1 * step, np.zeros(20))
    assert value == pytest.approx(np.sum(3.0 + 0.1 * np.arange(100.0)))
    assert stderr == pytest.approx(math.sqrt(20 * 5 * 4 * 0.5 * 0.5**2) * widening(19.0))


def test_what_rises_and_falls_together_has_a_ratio_without_error():
    x = np.random.default_rng(0).exponential(size=30)
    sampling = Sampling(np.full(30, 4.0), 120)
    ratio, stderr = sampling.ratio((0.3 * x, np.zeros(30)), (x, np.zeros(30)))
    assert ratio == pytest.approx(0.3) and stderr == pytest.approx(0.0, abs=1e-12)
    assert sampling.total(x, np.zeros(30))[1] > 1.0


def test_the_error_of_a_ratio_holds_both_sums_own_errors():
    one = Sampling(np.ones(4), 4)
    ratio, stderr = one.ratio((np.full(4, 2.0), np.full(4, 0.09)), (np.full(4, 4.0), np.full(4, 0.16)))
    assert ratio == 0.5 and stderr == pytest.approx(math.sqrt(4 * 0.09 + 0.25 * 4 * 0.16) / 16.0)


def test_how_many_were_sampled_is_said_and_that_few_tell_little_of_the_error():
    assert Sampling(np.ones(3), 3).said == ""
    assert "from 20 of 100 steps" in Sampling(np.full(20, 5.0), 100).said
    assert "uncertain" not in Sampling(np.full(20, 5.0), 100).said
    assert "uncertain" in Sampling(np.full(2, 50.0), 100).said


def test_rows_come_in_order_whatever_order_they_were_seen_in():
    rows = np.array([[3.0, 1.0], [1.0, 2.0], [2.0, 0.5]])
    assert Observations.of(rows).rows[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert Observations.zero(2).add((2.0, 1.0)).add((1.0, 5.0)).rows.tolist() == [[1.0, 5.0], [2.0, 1.0]]


def steep(rng, steps=200):
    """Return a loss that falls from 3 to near 0.1 within a tenth of the steps, and scatters by a factor."""
    return (0.1 + 3.0 * np.exp(-np.arange(steps) / (steps / 20))) * np.exp(0.3 * rng.normal(size=steps))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_what_is_a_power_of_the_loss_is_summed_exactly_from_any_eight_steps_and_more(power):
    loss, steps = steep(np.random.default_rng(1)), np.arange(200.0)
    at = np.array([3, 20, 50, 80, 110, 140, 170, 199])
    value, stderr = sample_steps(steps[at], steps, loss).total(7.0 * loss[at] ** power, np.zeros(8))
    assert value == pytest.approx(7.0 * np.sum(loss**power)) and stderr < 1e-9 * value
    few = sample_steps(steps[at[:7]], steps, loss).total(loss[at[:7]], np.zeros(7))[0]
    assert few == sample_steps(steps[at[:7]], steps).total(loss[at[:7]], np.zeros(7))[0]  # too few to fit a model to


@pytest.mark.parametrize("wrong", [np.nan, 0.0, -1.0])
def test_a_loss_that_is_no_positive_number_is_no_guide(wrong):
    loss, steps = steep(np.random.default_rng(1)), np.arange(200.0)
    loss[5] = wrong
    at = np.arange(3, 200, 10)
    guided, plain = sample_steps(steps[at], steps, loss), sample_steps(steps[at], steps)
    assert guided.total(loss[at], np.zeros(20)) == plain.total(loss[at], np.zeros(20))


def test_of_every_step_the_sum_is_the_sum_with_a_guide_too():
    loss, steps, none = steep(np.random.default_rng(1)), np.arange(200.0), np.zeros(200)
    x = np.random.default_rng(2).normal(size=200)
    sampling = sample_steps(steps, steps, loss)
    assert sampling.total(x, none) == (pytest.approx(x.sum()), 0.0)
    assert sampling.ratio((x, none), (loss, none)) == (pytest.approx(x.sum() / loss.sum()), 0.0)


@pytest.mark.parametrize("zero", [False, True])
def test_a_steep_start_is_in_the_intervals_nine_times_of_ten(zero):
    """Heat that goes with the loss to the power 1.5, one step in eight seen."""
    rng, steps, none = np.random.default_rng(3), np.arange(200.0), np.zeros(25)
    held = {"sum": 0, "ratio": 0}
    for _ in range(400):
        loss = steep(rng)
        heat = 0.2 * loss**1.5 * np.exp(0.4 * rng.normal(size=200))
        path = heat * (1.0 + rng.exponential(size=200))
        at = np.arange(0 if zero else rng.integers(8), 200, 8)[:25]
        sampling = sample_steps(steps[at], steps, loss)
        for name, (value, stderr), truth in (
            ("sum", sampling.total(heat[at], none), heat.sum()),
            ("ratio", sampling.ratio((heat[at], none), (path[at], none)), heat.sum() / path.sum()),
        ):
            held[name] += abs(value - truth) < 1.645 * stderr
    assert 0.85 < held["sum"] / 400 < 0.97 and 0.85 < held["ratio"] / 400 < 0.985


def test_what_few_rows_make_is_widened_and_what_all_make_is_not():
    even, odd = np.tile([1.0, -1.0], 20), np.zeros(40)
    odd[20] = 1.0
    sampling = Sampling(np.full(40, 4.0), 160)
    plain = math.sqrt(40 * 4 * 3 / 2)
    assert sampling.total(even, np.zeros(40))[1] == pytest.approx(plain * 2 * widening(39.0))
    assert sampling.total(odd, np.zeros(40))[1] == pytest.approx(plain * math.sqrt(2 / 39) * widening(2.0))


def test_the_widening_is_student_s_quantile_over_the_normal_one():
    for freedom in (2.0, 3.0, 5.5, 12.0, 100.0):
        assert widening(freedom) == pytest.approx(stats.t.ppf(0.95, freedom) / stats.norm.ppf(0.95), rel=4e-3)
    assert widening(1.0) == widening(0.0) == pytest.approx(stats.t.ppf(0.95, 1) / stats.norm.ppf(0.95), rel=0.06)


def noisy_steps(rng, steps=200):
    """Return a steep loss, ℓ² and its noisy, half the time negative reading, and ℓ with a reading of 10 %."""
    loss = steep(rng, steps)
    squares = 0.05 * loss**2
    seen = squares + 0.05 * loss * rng.normal(size=steps)
    return loss, squares, seen, loss * (1.0 + 0.1 * rng.normal(size=steps))


def test_sums_of_noisy_numbers_and_their_ratio_hold_the_truth_nine_times_of_ten():
    rng, steps, held = np.random.default_rng(5), np.arange(200.0), {"squares": 0, "other": 0, "difference": 0}
    for _ in range(400):
        loss, squares, seen, other = noisy_steps(rng)
        at = np.arange(rng.integers(8), 200, 8)
        sums, covariance = sample_steps(steps[at], steps, loss).noisy(np.column_stack((seen, seen + other))[at])
        truth = np.array([squares.sum(), squares.sum() + loss.sum()])
        for name, a in (("squares", (1, 0)), ("other", (0, 1)), ("difference", (-1, 1))):
            a = np.array(a)
            held[name] += abs(a @ (sums - truth)) < 1.645 * math.sqrt(a @ covariance @ a)
    assert all(0.85 < count / 400 < 0.985 for count in held.values()), held


def test_a_noisy_number_errs_at_the_rows_too():
    """Σ w² is what its noise counts with, where Σ w(w−1) is that of the steps left out alone."""
    rng, steps = np.random.default_rng(6), np.arange(200.0)
    loss, _, seen, _ = noisy_steps(rng)
    at = np.arange(1, 200, 2)
    sampling = sample_steps(steps[at], steps, loss)
    sums, covariance = sampling.noisy(seen[at][:, None])
    value, stderr = sampling.total(seen[at], np.zeros(100))
    assert sums[0] == value
    assert math.sqrt(covariance[0, 0]) == pytest.approx(math.sqrt(2.0) * stderr, rel=0.1)


def test_without_a_guide_or_with_a_number_that_is_not_finite_noisy_numbers_have_no_sum():
    loss, _, seen, _ = noisy_steps(np.random.default_rng(7))
    steps, at = np.arange(200.0), np.arange(3, 200, 10)
    guided = sample_steps(steps[at], steps, loss)
    assert sample_steps(steps[at], steps).noisy(seen[at][:, None]) is None
    assert sample_steps(steps, steps, loss).noisy(seen[:, None]) is None  # every step: nothing to add to
    assert sample_steps(steps[at[:7]], steps, loss).noisy(seen[at[:7]][:, None]) is None
    broken = seen[at].copy()
    broken[3] = np.nan
    assert guided.noisy(np.column_stack((seen[at], broken))) is None
    assert guided.noisy(seen[at][:, None]) is not None


def test_what_the_rows_missed_of_the_loss_widens_the_error():
    """Scatter goes with the loss; the same rows beside one more step of a far larger loss know less."""
    rng, steps = np.random.default_rng(8), np.arange(200.0)
    loss = np.exp(0.5 * rng.normal(size=200))
    x = loss * rng.exponential(size=200)
    at = np.arange(5, 200, 10)
    spiked = loss.copy()
    spiked[51] = 10.0 * loss.max()  # not one of those looked at
    plain, more = (sample_steps(steps[at], steps, guide).total(x[at], np.zeros(20)) for guide in (loss, spiked))
    assert more[1] > 1.5 * plain[1]


def test_what_is_not_known_of_a_variance_is_what_the_losses_say_of_it():
    """Residuals that are the loss itself: its squares over all steps are to those of the rows as the variances are."""
    rng, steps, at = np.random.default_rng(11), np.arange(200.0), np.arange(5, 200, 10)
    loss = np.exp(0.5 * rng.normal(size=200))
    loss[51] = 8.0 * loss.max()
    sampling, squares = sample_steps(steps[at], steps, loss), loss**2
    missed, freedom = sampling._known(loss[at], squares[at])
    own, drawn = (effective_freedom(x) for x in (squares[at], squares))
    assert missed == pytest.approx(squares.sum() / (sampling.weights @ squares[at])) and missed > 2
    assert freedom == pytest.approx(math.sqrt(own * drawn * 20 / 200)) and freedom < own
    even = sample_steps(steps[at], steps, np.where(np.isin(steps, at), loss, loss.min()))
    assert even._known(loss[at], squares[at])[0] == 1.0  # the rows have seen the largest: no less than they say
    assert sampling._known(np.ones(20), np.ones(20)) == (1.0, 20.0)  # what does not go with the loss


def test_a_ratio_near_one_is_held_where_few_steps_make_its_shortfall():
    rng, held, steps, none = np.random.default_rng(10), 0, np.arange(400.0), np.zeros(40)
    for _ in range(200):
        loss = (0.1 + 3.0 * np.exp(-steps / 20)) * np.exp(0.8 * rng.normal(size=400))
        short = 0.01 * loss**2.8 * np.exp(1.2 * rng.normal(size=400))
        at = np.arange(rng.integers(1, 10), 400, 10)
        work, path = (loss[at], none), ((loss + short)[at], none)
        value, stderr = sample_steps(steps[at], steps, loss).ratio(work, path)
        held += abs(value - loss.sum() / (loss + short).sum()) < 1.645 * stderr
    assert 0.85 < held / 200 < 0.99


def test_a_trend_that_the_loss_does_not_know_is_no_noise():
    """Neighbouring residuals are alike: they tell what is between them better than their size does."""
    rng, steps, none = np.random.default_rng(9), np.arange(400.0), np.zeros(40)
    loss, x = np.exp(0.3 * rng.normal(size=400)), 2.0 + np.sin(steps / 60.0)
    at = np.arange(5, 400, 10)
    value, stderr = sample_steps(steps[at], steps, loss).total(x[at], none)
    assert abs(value - x.sum()) < 1.645 * stderr < 0.05 * x.sum()
    shuffled = rng.permutation(x)
    assert sample_steps(steps[at], steps, loss).total(shuffled[at], none)[1] > 2 * stderr


@given(st.integers(0, 10**6), st.floats(0.0, 3.0))
def test_the_power_of_noisy_numbers_is_that_at_which_their_mean_is_the_models(seed, power):
    rng = np.random.default_rng(seed)
    guide, w = np.exp(rng.normal(size=60)), rng.integers(1, 9, 60).astype(float)
    assert _mean_power(guide, 3.0 * guide**power, w) == pytest.approx(power, abs=1e-9)
    x = guide**power + rng.normal(size=60)
    found, tilted = _mean_power(guide, x, w), lambda c: float((w * guide**c) @ np.log(guide) / (w @ guide**c))
    if w @ x > 0 and 0.0 < found < 3.0:
        assert tilted(found) == pytest.approx(float((w * x) @ np.log(guide) / (w @ x)), abs=1e-9)
    assert _mean_power(guide, -x, w) == 0.0 or w @ x < 0
