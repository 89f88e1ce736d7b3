"""Moments: the merged equal the whole, and the delta method's error is the error made."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ergometry.estimators.moments import Moments

rows = arrays(np.float64, st.tuples(st.integers(0, 12), st.just(3)), elements=st.floats(-1e3, 1e3))


def same(a: Moments, b: Moments) -> None:
    assert a.n == b.n
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(a.products, b.products, rtol=1e-9, atol=1e-6)


@given(rows, rows, rows)
def test_merging_is_associative_and_commutative_and_has_a_neutral_element(x, y, z):
    a, b, c = map(Moments.of, (x, y, z))
    same(a.merge(b).merge(c), a.merge(b.merge(c)))
    same(a.merge(b), b.merge(a))
    same(a.merge(Moments.zero(3)), a)
    same(Moments.zero(3).merge(a), a)


@given(rows)
def test_one_by_one_equals_all_at_once_and_numpy(x):
    state = Moments.zero(3)
    for row in x:
        state = state.add(row)
    same(state, Moments.of(x))
    if len(x) > 1:
        np.testing.assert_allclose(state.covariance, np.cov(x.T), rtol=1e-9, atol=1e-6)


def test_none_has_no_mean_one_has_no_error_and_two_have_both():
    none, one = Moments.zero(2), Moments.of(np.array([[1.0, 2.0]]))
    two = one.add([3.0, 6.0])
    assert none.n == 0 and none.stderr_of([1.0, 0.0]) is None
    assert one.mean.tolist() == [1.0, 2.0] and one.stderr_of([1.0, 0.0]) is None
    assert np.isnan(one.covariance).all()
    assert two.stderr_of([1.0, 0.0]) == pytest.approx(1.0)
    assert two.stderr_of([2.0, -1.0]) == pytest.approx(0.0)  # the second is twice the first


def test_a_large_offset_does_not_cancel():
    x = 1e9 + np.array([[0.0], [1.0], [2.0], [3.0]])
    state = Moments.of(x[:1])
    for row in x[1:]:
        state = state.add(row)
    assert state.covariance[0, 0] == pytest.approx(5 / 3, rel=1e-6)


def test_ninety_per_cent_intervals_of_a_ratio_hold_it_as_often():
    """y/x of correlated means: the error needs their covariance, without which it would be 2.4 times too large."""
    rng = np.random.default_rng(1)
    covariance = np.array([[1.0, 1.5], [1.5, 3.0]])
    root = np.linalg.cholesky(covariance)
    hits = []
    for _ in range(400):
        state = Moments.of(np.array([4.0, 8.0]) + rng.standard_normal((60, 2)) @ root.T)
        value, stderr = state.function(lambda m: float(m[1] / m[0]), lambda m: np.array([-m[1] / m[0], 1.0]) / m[0])
        hits.append(abs(value - 2.0) < 1.645 * stderr)
    assert 0.85 <= np.mean(hits) <= 0.97


def test_a_value_that_is_not_finite_has_no_error():
    state = Moments.of(np.array([[0.0], [0.0]]))
    value, stderr = state.function(lambda m: math.nan if m[0] == 0 else 1.0 / m[0], lambda m: m)
    assert math.isnan(value) and stderr is None
