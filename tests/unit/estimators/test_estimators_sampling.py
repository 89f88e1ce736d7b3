"""Sums over all steps from some: which each row stands for, and the errors of sums and of ratios."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ergometry.estimators.sampling import Observations, Sampling, sample_steps, widening


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
