"""Stretches: they merge like sets, and their errors are right under trends and serial correlation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.estimators.sampling import widening
from ergometry.estimators.stretches import Stretches, function, ratio_interval

observed = st.lists(st.tuples(st.integers(0, 500), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), max_size=30)


def state(rows, most=8):
    x = np.array(rows, dtype=float).reshape(-1, 3)
    return Stretches.of(x[:, 0], x[:, 1:], most)


def same(a, b):
    assert (a.n, a.length, set(a.parts)) == (b.n, b.length, set(b.parts))
    for key in a.parts:
        assert a.parts[key].n == b.parts[key].n
        np.testing.assert_allclose(a.parts[key].mean, b.parts[key].mean, rtol=1e-12, atol=1e-9)


@settings(max_examples=60)
@given(observed, observed, observed)
def test_merging_is_associative_and_commutative_and_has_a_neutral_element(x, y, z):
    a, b, c = map(state, (x, y, z))
    same(a.merge(b).merge(c), a.merge(b.merge(c)))
    same(a.merge(b), b.merge(a))
    same(a.merge(Stretches.zero(2, 8)), a)
    same(state(x + y), a.merge(b))


@settings(max_examples=40)
@given(observed)
def test_one_by_one_equals_all_at_once(x):
    one = Stretches.zero(2, 8)
    for step, *values in x:
        one = one.add(step, values)
    same(one, state(x))
    assert len(one.parts) <= 8


def test_none_one_and_two():
    none = Stretches.zero(1)
    assert none.n == 0 and np.isnan(none.mean).all() and none.along() is None and none.stationary() is None
    one = none.add(3, [5.0])
    assert one.mean.tolist() == [5.0] and one.along() is None and one.stationary() is None
    two = one.add(4, [7.0])
    # of two numbers both are the usual error of a mean, ½(x−y)²/2, widened for one degree of freedom
    assert [two.stationary()[0, 0], two.along()[0, 0]] == pytest.approx([widening(1.0) ** 2] * 2)


def test_differences_by_hand():
    few = Stretches.of(np.arange(4.0), np.array([[1.0], [3.0], [2.0], [6.0]]))
    wide = widening((4 + 1 + 16) ** 2 / (16 + 1 + 256)) ** 2  # worth two at most, less where one is far larger
    assert few.along()[0, 0] == pytest.approx((4 + 1 + 16) / 2 / 3 / 4 * wide)
    x = np.array([0.0, 1, 4, 9, 16, 25, 36, 50])
    many = Stretches.of(np.arange(8.0), x[:, None])
    wide = widening(min(6 * 18 / 35, (5 * 4 + 9) ** 2 / (5 * 16 + 81))) ** 2
    assert many.along()[0, 0] == pytest.approx((5 * 4 + 9) / 6 / 6 / 8 * wide)


def coverage(make, truth, error, n=300, most=64, repeats=400):
    rng = np.random.default_rng(2)
    hits, at = [], np.arange(n, dtype=float)
    for _ in range(repeats):
        s = Stretches.of(at, make(rng, n)[:, None], most)
        hits.append(abs(s.mean[0] - truth(n)) < 1.645 * math.sqrt(getattr(s, error)()[0, 0]))
    return np.mean(hits)


def slope(rng, n):
    return 50.0 * np.linspace(1.0, 0.0, n) ** 2 + rng.standard_normal(n)


def bursts(rng, n):
    """Noise that two neighbours share: the variance of the mean is twice that of white noise."""
    return np.convolve(rng.standard_normal(n + 1), [1.0, 1.0], "valid")


def wandering(rng, n):
    """A stationary autoregression that forgets in 5 steps; it begins in its stationary state."""
    x, out = rng.standard_normal() / math.sqrt(1 - 0.8**2), np.empty(n)
    for i in range(n):
        out[i] = x
        x = 0.8 * x + rng.standard_normal()
    return out


def test_a_trend_is_no_noise_of_the_mean_along_the_path():
    def mean_of_trend(n):
        return float(np.mean(50.0 * np.linspace(1.0, 0.0, n) ** 2))

    assert 0.85 <= coverage(slope, mean_of_trend, "along") <= 0.97
    assert coverage(slope, mean_of_trend, "stationary") == 1.0  # which takes it for noise


@pytest.mark.parametrize("error", ["along", "stationary"])
def test_correlation_within_a_stretch_is_in_the_error(error):
    assert 0.85 <= coverage(bursts, lambda _: 0.0, error, n=1200) <= 0.97


def test_the_stationary_error_holds_a_mean_that_wanders():
    assert 0.85 <= coverage(wandering, lambda _: 0.0, "stationary", n=1600, most=32, repeats=400) <= 0.97


def test_stretches_of_unequal_numbers_are_weighed():
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(300):
        steps = np.sort(rng.choice(4096, size=250, replace=False) ** 2 // 4096).astype(float)  # denser at the start
        s = Stretches.of(steps, 1.0 + rng.standard_normal((250, 1)))
        hits.append(abs(s.mean[0] - 1.0) < 1.645 * math.sqrt(s.along()[0, 0]))
    assert 0.85 <= np.mean(hits) <= 0.97


def test_a_function_of_the_mean_has_the_delta_methods_error():
    value, stderr = function(np.array([3.0]), np.array([[0.04]]), lambda m: float(m[0] ** 2), lambda m: 2.0 * m)
    assert (value, stderr) == pytest.approx((9.0, 1.2))
    assert function(np.array([3.0]), None, lambda m: float(m[0]), lambda m: m)[1] is None


@settings(max_examples=60)
@given(st.floats(-3, 3), st.floats(0.01, 5), st.floats(0.1, 2), st.floats(0.01, 2), st.floats(-0.9, 0.9))
def test_the_interval_of_a_ratio_is_every_ratio_that_is_not_refuted(a, b, a_error, b_error, correlation):
    between = correlation * a_error * b_error
    covariance = np.array([[a_error**2, between], [between, b_error**2]])
    low, high = ratio_interval(np.array([a, b]), covariance)
    if a < -1.645 * a_error:
        assert np.isnan(low) and np.isnan(high)
        return
    assert (high == np.inf) == (abs(a) <= 1.6448536 * a_error)
    rho = np.geomspace(1e-4, 1e4, 400)
    rho = rho[(np.abs(rho / max(low, 1e-12) - 1) > 1e-6) & (np.abs(rho / high - 1) > 1e-6)]
    apart = np.abs(b - rho * a) / np.sqrt(b_error**2 - 2 * rho * between + rho**2 * a_error**2)
    inside = (rho > low) & (rho < high)
    if b > 1.6448536 * b_error:
        np.testing.assert_array_equal(inside, apart < 1.6448536)
    else:
        assert low == 0.0 and np.all(inside[apart < 1.6448536])  # of a hyperbola's two branches the rest is taken in
