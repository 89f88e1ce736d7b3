"""The noise scale against enumeration, Gaussian models and per-sample gradients; and what is read from a run."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.run import Table
from ergometry.core.series import CURVATURE, EQUILIBRIUM, LOSSES, NOISE
from ergometry.estimators.noise_scale import (
    NoiseScaleEstimator,
    Pair,
    grad_sq,
    noise_series,
    of_training_set,
    read_noise,
    trace_cov,
)
from support.told import table, told

Z90 = 1.6448536269514722


def square(x):
    return float(np.asarray(x) @ np.asarray(x))


# Formulas


def test_halves_without_replacement_fall_short_by_exactly_what_n_corrects():
    """R10, all of the 105 batches of 4 from 7 examples in two halves: −trΣ/(n−1), and trΣ·n/(n−1)."""
    n, batch = 7, 4
    x = np.random.default_rng(0).normal(size=(n, 3)) + 0.8
    g2, trace = square(x.mean(0)), float(x.var(0).sum())  # of the set itself, normalised by 1/n
    found = []
    for chosen in itertools.combinations(range(n), batch):
        for half in itertools.combinations(chosen, batch // 2):
            other = [i for i in chosen if i not in half]
            a, b = x[list(half)].mean(0), x[other].mean(0)
            small, big = (square(a) + square(b)) / 2, square((a + b) / 2)
            found.append((grad_sq(2.0, 4.0, small, big), trace_cov(2.0, 4.0, small, big)))
    g2_seen, trace_seen = np.mean(found, axis=0)
    assert g2_seen - g2 == pytest.approx(-trace / (n - 1), rel=1e-12)
    assert trace_seen == pytest.approx(trace * n / (n - 1), rel=1e-12)
    assert of_training_set(g2_seen, trace_seen, float(n)) == pytest.approx((g2, trace), rel=1e-12)


def test_with_replacement_both_are_unbiased_by_enumeration():
    """All 3⁴ ordered batches of 4 from 3 examples."""
    x = np.random.default_rng(1).normal(size=(3, 2)) + 0.5
    found = []
    for chosen in itertools.product(range(3), repeat=4):
        a, b = x[list(chosen[:2])].mean(0), x[list(chosen[2:])].mean(0)
        pair = (square(a) + square(b)) / 2, square((a + b) / 2)
        found.append((grad_sq(2.0, 4.0, *pair), trace_cov(2.0, 4.0, *pair)))
    assert np.mean(found, axis=0) == pytest.approx((square(x.mean(0)), float(x.var(0).sum())), rel=1e-12)
    assert of_training_set(*found[0], math.nan) == found[0]


# The estimator


def pairs(rng, n, *, g, sigma, small=2, parts=4, dataset=math.nan):
    """Return (n, 6) pairs of Gaussian gradients of covariance diag(sigma²) an example."""
    each = g + rng.standard_normal((n, parts, len(g))) * sigma / math.sqrt(small)
    s1 = (each**2).sum(2).mean(1)
    s2 = (each.mean(1) ** 2).sum(1)
    one = np.ones(n)
    return np.column_stack((np.arange(n), small * one, small * parts * one, s1, s2, dataset * one))


ESTIMATOR = NoiseScaleEstimator()


def test_ninety_per_cent_intervals_hold_the_truth_as_often():
    rng = np.random.default_rng(3)
    g, sigma = np.array([1.0, 0.5, 0.0, -0.3]), np.array([2.0, 1.0, 1.0, 0.5])
    truth = square(g), square(sigma), square(sigma) / square(g)
    hits = []
    for _ in range(300):
        found = ESTIMATOR.result(ESTIMATOR.of(pairs(rng, 200, g=g, sigma=sigma)))
        each = (found.grad_sq, found.trace_cov, found.b_noise)
        hits.append([abs(e.value - t) < Z90 * e.stderr for e, t in zip(each, truth, strict=True)])
    share = np.mean(hits, axis=0)
    assert np.all((share >= 0.85) & (share <= 0.97)), share


def test_the_intervals_hold_the_means_of_a_gradient_that_falls_by_a_factor_of_ten():
    rng = np.random.default_rng(4)
    fall = np.linspace(1.0, 0.1, 200)[:, None]
    g, sigma = np.array([1.5, 0.5, 0.0, -0.3]), np.array([2.0, 1.0, 1.0, 0.5])
    truth = float(np.mean((fall * g) ** 2) * len(g)), square(sigma)
    hits = []
    for _ in range(300):
        rows = pairs(rng, 200, g=np.zeros(4), sigma=sigma)
        each = (fall * g)[:, None, :] + rng.standard_normal((200, 4, 4)) * sigma / math.sqrt(2)
        rows[:, 3], rows[:, 4] = (each**2).sum(2).mean(1), (each.mean(1) ** 2).sum(1)
        found = ESTIMATOR.result(ESTIMATOR.of(rows))
        values = (found.grad_sq, found.trace_cov)
        hits.append([abs(e.value - t) < Z90 * e.stderr for e, t in zip(values, truth, strict=True)])
    share = np.mean(hits, axis=0)
    assert np.all((share >= 0.85) & (share <= 0.97)), share


def test_against_per_sample_gradients_of_a_network():
    """Batches with replacement from 40 examples: the truth is the mean and the covariance of their own gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randint(3, (40,))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p, a, b):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, p, (a[None],)), b[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    g = torch.cat([e.flatten(1) for e in each.values()], 1).numpy()
    truth = square(g.mean(0)), float(g.var(0).sum())
    rng, hits = np.random.default_rng(5), []
    for _ in range(200):
        drawn = g[rng.integers(40, size=(100, 2, 8))].mean(2)
        s1, s2 = (drawn**2).sum(2).mean(1), (drawn.mean(1) ** 2).sum(1)
        one = np.ones(100)
        found = ESTIMATOR.result(
            ESTIMATOR.of(np.column_stack((np.arange(100), 8 * one, 16 * one, s1, s2, math.nan * one)))
        )
        values = (*truth, truth[1] / truth[0])
        each_found = (found.grad_sq, found.trace_cov, found.b_noise)
        hits.append([abs(e.value - t) < Z90 * e.stderr for e, t in zip(each_found, values, strict=True)])
    share = np.mean(hits, axis=0)
    assert np.all((share >= 0.85) & (share <= 0.97)), share


def test_none_one_and_two_pairs():
    none = ESTIMATOR.result(ESTIMATOR.init())
    assert none.b_noise.value is None and "none" in none.b_noise.why and none.rows == 0
    one = ESTIMATOR.result(ESTIMATOR.update(ESTIMATOR.init(), Pair(0, 1.0, 2.0, 3.0, 2.0)))
    assert (one.grad_sq.value, one.trace_cov.value, one.b_noise.value) == (1.0, 2.0, 2.0)
    assert one.grad_sq.stderr is one.b_noise.stderr is None
    two = ESTIMATOR.result(ESTIMATOR.of(np.array([Pair(0, 1.0, 2.0, 3.0, 2.0), Pair(1, 1.0, 2.0, 5.0, 3.5)])))
    # numerator 2 and 3, denominator 1 and 2, averaged apart: 2.5/1.5, and not the mean of the ratios
    assert two.b_noise.value == pytest.approx(5 / 3) and two.rows == 2
    assert two.trace_cov.stderr == two.grad_sq.stderr > 0.5
    assert [e.unit for e in (two.grad_sq, two.trace_cov, two.b_noise)] == ["loss^2", "loss^2*example", "example"]


drawn = st.lists(st.tuples(st.integers(0, 300), st.floats(0, 10), st.floats(0, 10)), max_size=12)


@settings(max_examples=40)
@given(drawn, drawn, drawn)
def test_merging_is_associative_and_commutative(x, y, z):
    def of(rows):
        return ESTIMATOR.of(np.array([Pair(s, 1.0, 2.0, a + b, b) for s, a, b in rows]).reshape(-1, 6))

    def told_of(state):
        found = ESTIMATOR.result(state)
        return [found.rows, found.grad_sq.value or 0.0, found.trace_cov.value or 0.0, found.trace_cov.stderr or 0.0]

    a, b, c = map(of, (x, y, z))
    merge = ESTIMATOR.merge
    assert told_of(merge(merge(a, b), c)) == pytest.approx(told_of(merge(a, merge(b, c))), rel=1e-9, abs=1e-9)
    assert told_of(merge(a, b)) == pytest.approx(told_of(merge(b, a)), rel=1e-9, abs=1e-9)
    one_by_one = ESTIMATOR.init()
    for s, p, q in x + y + z:
        one_by_one = ESTIMATOR.update(one_by_one, Pair(s, 1.0, 2.0, p + q, q))
    assert told_of(one_by_one) == pytest.approx(told_of(of(x + y + z)), rel=1e-9, abs=1e-9)


def test_a_gradient_below_its_noise_is_not_clamped_and_has_no_ratio():
    rows = np.array([Pair(i, 1.0, 2.0, 2.0 + 0.1 * (i % 2), 0.9) for i in range(10)])
    found = ESTIMATOR.result(ESTIMATOR.of(rows))
    assert found.grad_sq.value < 0 and found.trace_cov.value > 0
    assert found.b_noise.value is None and "hides the gradient" in found.b_noise.why


def test_a_gradient_near_its_error_is_said_to_be():
    rng = np.random.default_rng(6)
    some = ESTIMATOR.result(ESTIMATOR.of(pairs(rng, 30, g=np.array([0.2, 0.0]), sigma=np.array([1.0, 1.0]))))
    assert Z90 * some.grad_sq.stderr < some.grad_sq.value < 3 * some.grad_sq.stderr
    low, high = some.b_noise_interval
    assert f"{low:.3g} to {high:.3g}" in some.b_noise.why and "wider upward" in some.b_noise.why
    assert low < some.b_noise.value < high and high - some.b_noise.value > some.b_noise.value - low
    weak = (ESTIMATOR.result(ESTIMATOR.of(pairs(rng, 30, g=np.zeros(2), sigma=np.ones(2)))) for _ in range(9))
    found = next(e for e in weak if 0 < e.grad_sq.value < Z90 * e.grad_sq.stderr)
    assert found.b_noise.value > 0 and found.b_noise.stderr is None and found.b_noise_interval[1] == math.inf
    assert "no upper end" in found.b_noise.why and f"at least {found.b_noise_interval[0]:.3g}" in found.b_noise.why


def test_the_interval_of_the_scale_holds_it_as_often_however_weak_the_gradient():
    rng, sigma = np.random.default_rng(13), np.array([1.0, 0.7, 0.4])
    for size in (0.0, 0.15, 0.3, 0.6):
        g, held, open_ended = np.array([size, 0.0, 0.0]), 0, 0
        truth = square(sigma) / square(g) if size else math.inf
        for _ in range(300):
            low, high = ESTIMATOR.result(ESTIMATOR.of(pairs(rng, 40, g=g, sigma=sigma))).b_noise_interval
            held += low <= truth <= high
            open_ended += high == math.inf
        assert 0.85 <= held / 300 <= 0.975, (size, held)
        assert open_ended > 250 if size == 0.0 else open_ended < 60 if size == 0.6 else open_ended > 0


# What is read from a run


def test_a_run_s_means_are_over_its_steps_guided_by_their_losses():
    """One step in ten of a steep start: the means of the looks alone know nothing of what lies between two of them."""
    rng, steps, held = np.random.default_rng(14), 300, {"guided": 0, "alone": 0}
    for _ in range(150):
        loss = (0.1 + 3.0 * np.exp(-np.arange(steps) / 12)) * np.exp(0.2 * rng.normal(size=steps))
        squares, trace = 2.0 * loss**2, 4.0 * loss
        at = np.arange(rng.integers(1, 10), steps, 10)
        scatter = 1 + 0.05 * rng.standard_normal((2, len(at)))
        seen = {"small_sq": (squares + trace / 2)[at] * scatter[0], "big_sq": (squares + trace / 8)[at] * scatter[1]}
        rows = noise(len(at), step=at, **seen)
        run = told((NOISE, rows), (LOSSES, table(LOSSES, steps, loss=loss)))
        for name, one in (("guided", read_noise(run)), ("alone", read_noise(told((NOISE, rows))))):
            held[name] += abs(one.grad_sq.value - squares.mean()) < Z90 * one.grad_sq.stderr
    found = read_noise(run)
    assert f"from {len(at)} of {steps} steps" in found.grad_sq.why
    assert held["guided"] / 150 > 0.85 and held["alone"] / 150 < 0.8, held


def noise(n=40, how=1, seed=0, *, small=2.0, big=8.0, step=None, **columns):
    """Return rows of |G|² = 1 and trΣ = 12 that scatter by 1 %."""
    scatter = 1 + 0.01 * np.random.default_rng(seed).standard_normal((2, n))
    values = {
        "small_sq": (1.0 + 12.0 / small) * scatter[0],
        "big_sq": (1.0 + 12.0 / big) * scatter[1],
        "small_preconditioned_sq": np.nan,
        "big_preconditioned_sq": np.nan,
        "lag2_sq": np.nan,
        "dataset": np.nan,
        "sampled": 100,
        "parameters": 100,
    }
    at = np.arange(n) if step is None else step
    return table(NOISE, n, **{**values, "step": at, "how": how, "small_batch": small, "big_batch": big, **columns})


def joined(*tables):
    return Table(NOISE.columns, np.vstack([t.rows for t in tables]))


def test_the_best_kind_of_pairs_is_read_and_named():
    kinds = {3: noise(how=3, seed=1), 4: noise(how=4, big=4.0, seed=2), 5: noise(how=5, parameters=7, seed=3)}
    found = read_noise(told((NOISE, joined(*kinds.values()))))
    assert (found.how, found.rows, found.batch) == (3, 40, 8.0)
    assert found.b_noise.value == pytest.approx(12.0, abs=4 * found.b_noise.stderr)
    assert "halves" in found.b_noise.method and found.bias.value == 0.0
    assert read_noise(told((NOISE, joined(kinds[4], kinds[5])))).how == 4
    norms = read_noise(told((NOISE, joined(*kinds.values()))), how=5)
    assert norms.parameters == 7 and "normalisation layers" in norms.b_noise.why
    part, whole = (read_noise(told((NOISE, kinds[3]), meta={"parameters": n})) for n in (400, 100))
    assert "of 25 % of the parameters" in part.b_noise.why and "parameters" not in whole.b_noise.why
    few = joined(noise(1, how=1), kinds[4])
    assert read_noise(told((NOISE, few))).how == 4  # one look at micro-batches has no error
    alone = read_noise(told((NOISE, noise(1, how=1))))
    assert alone.how == 1 and alone.grad_sq.stderr is None and "one look" in alone.grad_sq.why


def test_a_known_data_set_has_its_own_gradient():
    plain = read_noise(told((NOISE, noise())))
    known = read_noise(told((NOISE, noise(dataset=100))))
    assert known.grad_sq.value == pytest.approx(plain.grad_sq.value + plain.trace_cov.value / 100)
    assert known.trace_cov.value == pytest.approx(0.99 * plain.trace_cov.value)
    assert "training set" in known.b_noise.why and "training set" not in plain.b_noise.why


def test_consecutive_steps_state_their_bias_by_what_the_run_knows():
    rows = noise(how=4, small=4.0, big=8.0, lag2_sq=8.0)
    eligible = table(EQUILIBRIUM, 3, eligible=1, momentum=0.0)
    curvature = {"largest": 5.0, "noise_trace": np.nan, "trace": np.nan}
    none = read_noise(told((NOISE, rows)))
    assert none.bias.value is None and "−η·tr(HΣ)/B" in none.grad_sq.why
    bounded = read_noise(told((NOISE, rows), (EQUILIBRIUM, eligible), (CURVATURE, table(CURVATURE, 3, **curvature))))
    assert bounded.bias.value is None and "at most 1.5" in bounded.grad_sq.why  # 0.1·5·12/4
    curvature["noise_trace"] = [6.0, 8.0, 10.0]
    known = read_noise(told((NOISE, rows), (EQUILIBRIUM, eligible), (CURVATURE, table(CURVATURE, 3, **curvature))))
    assert known.bias.value == pytest.approx(-0.1 * 8.0 / 4.0)
    assert "drift" in known.grad_sq.why


def test_the_bias_of_consecutive_steps_is_what_is_stated():
    """SGD on a quadratic with Gaussian noise, many short runs from one point: g_k·g_k+1 against |G|²."""
    rng = np.random.default_rng(7)
    h, sigma, eta, batch, theta = np.array([3.0, 1.0]), np.array([2.0, 1.0]), 0.1, 4.0, np.array([1.0, -1.0])
    n = 200_000
    g0 = h * theta + rng.standard_normal((n, 2)) * sigma / math.sqrt(batch)
    g1 = h * (theta - eta * g0) + rng.standard_normal((n, 2)) * sigma / math.sqrt(batch)
    small, big = ((g0**2).sum(1) + (g1**2).sum(1)) / 2, (((g0 + g1) / 2) ** 2).sum(1)
    found = grad_sq(batch, 2 * batch, small, big)
    noise_trace = float(h @ sigma**2)
    middle = square(h * (theta - eta / 2 * h * theta))  # |G|² halfway, to first order in η
    stated = -eta * noise_trace / batch
    error = found.std() / math.sqrt(n)
    assert abs(found.mean() - (middle + stated)) < 4 * error + eta**2 * square(h * h * theta)
    assert abs(stated) > 20 * error  # so that leaving it out would be seen


def test_preconditioned_gradients_have_their_own_units():
    rows = noise(small_preconditioned_sq=7.0, big_preconditioned_sq=4.0)
    found = read_noise(told((NOISE, rows)), preconditioned=True)
    assert found.trace_cov.value == pytest.approx(3.0 / (1 / 2 - 1 / 8)) and found.trace_cov.unit == "loss*example"
    assert found.grad_sq.value == pytest.approx((8 * 4 - 2 * 7) / 6) and found.grad_sq.unit == "loss"
    assert "Adam" in read_noise(told((NOISE, noise())), preconditioned=True).b_noise.why


def test_rows_that_are_not_finite_are_counted_and_left_out():
    broken = np.where(np.arange(40) % 10 == 0, np.inf, 7.0)
    found = read_noise(told((NOISE, noise(small_sq=broken, big_sq=2.5))))
    assert found.rows == 36 and "4 looks" in found.b_noise.why
    assert found.trace_cov.value == pytest.approx(12.0)
    nothing = read_noise(told((NOISE, noise(small_sq=np.nan))))
    assert nothing.b_noise.value is None and "finite" in nothing.b_noise.why


def test_without_pairs_the_taps_own_reason_is_given():
    why = {"physics": {"level": "light", "taps": {"noise": {"why": "the number of examples is not known"}}}}
    assert "number of examples" in read_noise(told(meta=why)).grad_sq.why
    assert "physics off" in read_noise(told()).b_noise.why
    assert "in steps 90 to 99" in read_noise(told((NOISE, noise())), within=(90, 99)).b_noise.why


def test_the_series_follows_a_scale_that_grows():
    n = 400
    trace = np.linspace(10.0, 50.0, n)
    scatter = 1 + 0.02 * np.random.default_rng(8).standard_normal((2, n))
    rows = noise(n, small_sq=(1 + trace / 2) * scatter[0], big_sq=(1 + trace / 8) * scatter[1])
    found = noise_series(told((NOISE, rows)), bins=10)
    assert len(found.step) == 10 and np.all(np.diff(found.step) > 0) and found.how == 1
    expected = np.interp(found.step, np.arange(n), trace)
    assert np.all(np.abs(found.b_noise - expected) < 4 * found.b_noise_stderr)
    assert np.all(found.b_noise_stderr < 0.2 * expected)
    assert len(noise_series(told((NOISE, noise(20)))).step) == 2  # of eight looks at least
    assert len(noise_series(told()).step) == 0


@pytest.mark.parametrize("c", [1e-4, 30.0])
def test_rescaling_the_loss_leaves_the_noise_scale(c):
    one = read_noise(told((NOISE, noise())))
    other = read_noise(told((NOISE, noise(small_sq=c**2 * noise()["small_sq"], big_sq=c**2 * noise()["big_sq"]))))
    assert other.b_noise.value == pytest.approx(one.b_noise.value, rel=1e-9)
    assert other.b_noise.stderr == pytest.approx(one.b_noise.stderr, rel=1e-6)
    assert other.trace_cov.value == pytest.approx(c**2 * one.trace_cov.value, rel=1e-9)
