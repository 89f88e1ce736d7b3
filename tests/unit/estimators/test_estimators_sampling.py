"""Sums over all steps from some: which each row stands for, and the errors of sums and of ratios."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.estimators.sampling import Observations, Sampling, sample_steps


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 200))
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
    assert stderr == pytest.approx(math.sqrt(20 * 5 * 4 * 0.5 * 0.5**2))


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
