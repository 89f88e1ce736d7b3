"""Thermodynamic length (E6): its theorems on any outputs, its numbers against high precision, and what a run says."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.errors import UsageError
from ergometry.core.run import Table
from ergometry.estimators.path_length import LARGEST_JS, PathLength, fisher_angle, js_distance, read_length
from support.synthetic import synthetic_run

CLOSE = 1.0 + 1e-12  # the relative tolerance of the theorems


@st.composite
def paths(draw):
    """Draw (probes, predictions, classes) probabilities: steps from 1e-9 to wild, sharp ones and zeros among them."""
    k, n, c = draw(st.integers(2, 6)), draw(st.integers(1, 3)), draw(st.integers(2, 5))
    stream = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = 10.0 ** draw(st.floats(-2, 2.5))
    step = 10.0 ** draw(st.floats(-9, 1))
    logits = sharpness * stream.standard_normal((n, c))
    path = []
    for _ in range(k):
        p = np.exp(logits - logits.max(-1, keepdims=True))
        path.append(p / p.sum(-1, keepdims=True))
        logits = logits + sharpness * step * stream.standard_normal((n, c))
    if draw(st.booleans()):
        i = draw(st.integers(0, k - 1))
        path[i] = np.eye(c)[stream.integers(c, size=n)]
    return np.stack(path)


@given(paths())
def test_the_theorems_hold_for_every_prediction(path):
    js = js_distance(path[:-1], path[1:])
    angle = fisher_angle(path[:-1], path[1:])
    assert np.all(js <= angle * CLOSE)  # each step
    assert np.all(js_distance(path[0], path[-1]) <= js.sum(0) * CLOSE + 1e-15)
    assert np.all(fisher_angle(path[0], path[-1]) <= angle.sum(0) * CLOSE + 1e-15)
    assert np.all(js.sum(0) ** 2 <= len(js) * (js**2).sum(0) * CLOSE)
    assert np.all(js <= LARGEST_JS * CLOSE)
    assert np.all(angle <= math.pi * CLOSE)


@given(paths())
def test_the_estimator_says_the_same_theorems_of_the_means(path):
    length = PathLength()
    state = length.init()
    for p in path:
        state = length.update(state, p)
    found = length.result(state)
    slacks = found.slacks()
    assert len(slacks) == 4
    assert min(slacks.values()) >= -1e-12 * max(found.angle.value, found.energy.value)
    assert found.probes == len(path)


@given(paths(), st.integers(0, 6), st.integers(0, 6))
def test_stretches_of_a_path_merge_to_the_whole(path, a, b):
    length = PathLength()

    def of(probes):
        state = length.init()
        for p in probes:
            state = length.update(state, p)
        return state

    a, b = sorted((min(a, len(path)), min(b, len(path))))
    whole = length.result(of(path))
    left = length.merge(length.merge(of(path[:a]), of(path[a:b])), of(path[b:]))
    right = length.merge(of(path[:a]), length.merge(of(path[a:b]), of(path[b:])))
    for merged in map(length.result, (left, right)):
        for name in ("js", "angle", "js_ends", "angle_ends", "energy"):
            assert getattr(merged, name).value == pytest.approx(getattr(whole, name).value, rel=1e-12, abs=1e-300)
        assert merged.probes == whole.probes


def js_exactly(p, q):
    """√(8·JS) of two distributions of rationals, by the definition, with logarithms of 60 digits."""
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 60

        def ln_ratio(x, y):
            return (
                Decimal(x.numerator) * Decimal(y.denominator) / (Decimal(x.denominator) * Decimal(y.numerator))
            ).ln()

        def times(x, ln):
            return Decimal(x.numerator) / Decimal(x.denominator) * ln

        total = Decimal(0)
        for a, b in zip(p, q, strict=True):
            m = (a + b) / 2
            total += sum(times(x, ln_ratio(x, m)) for x in (a, b) if x) / 2
        return float((8 * total).sqrt())


@pytest.mark.parametrize("apart", [1e-12, 1e-9, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("p0", [1e-13, 1e-6, 0.01, 0.25])
def test_small_steps_keep_their_digits(p0, apart):
    """Against the definition in 60 digits: no cancellation, however close the two, however small a probability."""
    p = np.array([p0, 0.5, 0.5 - p0])
    q = p + np.array([p0 * apart, -p0 * apart, 0.0])
    exact_p, exact_q = ([Fraction(x) for x in v] for v in (p, q))
    assert js_distance(p, q) == pytest.approx(js_exactly(exact_p, exact_q), rel=1e-14)
    # To second order both are |d|·(1 + O(d)²): the angle against the sum of its own exact terms.
    terms = [(a - b) ** 2 / (math.sqrt(a) + math.sqrt(b)) ** 2 for a, b in zip(exact_p, exact_q, strict=True)]
    assert fisher_angle(p, q) == pytest.approx(4 * math.asin(0.5 * math.sqrt(math.fsum(map(float, terms)))), rel=1e-14)


@pytest.mark.parametrize("q0", [1e-16, 1e-11, 1e-8, 1e-4, 0.2])
def test_nearly_disjoint_outputs_keep_their_digits(q0):
    """Where d = (p−q)/s nears 1 the form 2d·atanh d + ln(1−d²) loses eight digits; ours does not."""
    p, q = np.array([1.0 - q0, q0]), np.array([q0, 1.0 - q0])
    assert js_distance(p, q) == pytest.approx(js_exactly(*([Fraction(x) for x in v] for v in (p, q))), rel=2e-15)


def test_disjoint_outputs():
    p, q = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.0, 0.0, 0.25, 0.75])
    assert js_distance(p, q) == pytest.approx(2.3548200450309493, rel=1e-15) == LARGEST_JS
    assert fisher_angle(p, q) == pytest.approx(math.pi, rel=1e-15)


def test_the_angle_is_the_arc_and_twice_as_long_by_two_halves():
    """Two classes: √p = (cos φ, sin φ), so the Fisher angle is 2|Δφ| and adds along the arc."""
    p, m, q = (np.array([math.cos(f) ** 2, math.sin(f) ** 2]) for f in (0.2, 0.5, 0.8))
    assert fisher_angle(p, q) == pytest.approx(1.2, rel=1e-14)
    assert fisher_angle(p, m) + fisher_angle(m, q) == pytest.approx(1.2, rel=1e-14)


def test_a_coarse_js_length_may_lie_below_the_angle_of_the_ends():
    length = PathLength()
    state = length.update(length.update(length.init(), np.array([[1.0, 0.0]])), np.array([[0.0, 1.0]]))
    found = length.result(state)
    assert found.js.value == pytest.approx(LARGEST_JS)
    assert found.js.value < found.angle_ends.value


def test_the_stderr_is_that_of_the_mean_over_predictions():
    """90 % intervals cover the mean over many predictions in 85 to 97 % of repetitions."""
    stream = np.random.default_rng(3)

    def walk(n):
        logits = stream.standard_normal((n, 4))
        length, state = PathLength(), PathLength().init()
        for _ in range(5):
            p = np.exp(logits)
            state = length.update(state, p / p.sum(-1, keepdims=True))
            logits = logits + 0.3 * stream.standard_normal((n, 4))
        return length.result(state)

    truth = walk(100_000)
    covered = dict.fromkeys(("js", "angle", "js_ends", "energy"), 0)
    for _ in range(300):
        found = walk(40)
        for name in covered:
            e = getattr(found, name)
            covered[name] += abs(e.value - getattr(truth, name).value) <= 1.645 * e.stderr
    assert all(0.85 <= count / 300 <= 0.97 for count in covered.values()), covered


def test_none_and_one_probe_are_unknown_with_the_reason():
    length = PathLength()
    nothing = length.result(length.init())
    assert nothing.js.value is None
    assert nothing.slacks() == {}
    one = length.result(length.update(length.init(), np.array([[0.5, 0.5]])))
    assert (one.probes, one.angle.value) == (1, None)
    assert "two moments" in one.angle.why
    two = length.update(length.update(length.init(), np.array([[0.5, 0.5]])), np.array([[0.4, 0.6]]))
    assert length.result(two).js.stderr is None  # of one prediction


@pytest.mark.parametrize(
    "wrong", [np.array([0.5, 0.5]), np.array([[0.7, 0.7]]), np.array([[1.5, -0.5]]), np.zeros((0, 3))]
)
def test_what_is_no_probabilities_is_refused(wrong):
    with pytest.raises(UsageError, match="softmax"):
        PathLength().update(PathLength().init(), wrong)


def test_another_probe_batch_is_refused():
    length = PathLength()
    state = length.update(length.init(), np.full((2, 2), 0.5))
    with pytest.raises(UsageError, match="one and the same batch"):
        length.update(state, np.full((3, 2), 0.5))


# Of a stored run


def run_with(rows, meta=()):
    run = synthetic_run(4)
    table = Table(series.LENGTH.columns, np.array(rows, dtype=float).reshape(-1, len(series.LENGTH.columns)))
    return replace(run, tables={**run.tables, "length": table}, meta={**run.meta, **dict(meta)})


ROWS = [
    # step t js js_sq angle angle_sq js_ends angle_ends examples classes js_err angle_err cost
    (10, 1.0, 0.3, 0.10, 0.31, 0.11, 0.3, 0.31, 64, 5, 0.01, 0.02, 1e-3),
    (20, 2.0, 0.4, 0.20, 0.42, 0.21, 0.5, 0.52, 64, 5, 0.03, 0.04, 1e-3),
    (40, 3.0, 0.1, 0.02, 0.11, 0.03, 0.6, 0.65, 64, 5, 0.05, 0.06, 1e-3),
]


def test_the_rows_of_a_run_add_up():
    found = read_length(run_with(ROWS))
    assert (found.js.value, found.js.stderr) == (pytest.approx(0.8), 0.05)
    assert (found.angle.value, found.angle.stderr) == (pytest.approx(0.84), 0.06)
    assert (found.js_ends.value, found.angle_ends.value) == (0.6, 0.65)
    assert found.energy.value == pytest.approx(3 * 0.32)
    assert found.probes == 4
    assert found.step.tolist() == [10, 20, 40]
    assert found.js_path.tolist() == pytest.approx([0.3, 0.7, 0.8])
    assert "64 predictions" in found.js.why
    assert "lower bound" in found.js.why
    assert min(found.slacks().values()) > 0


def test_a_row_that_is_not_finite_is_left_out():
    bad = (30, 2.5, *[math.nan] * 6, 64, 5, math.nan, math.nan, 1e-3)
    assert read_length(run_with([*ROWS[:2], bad, ROWS[2]])).js.value == pytest.approx(0.8)


def test_a_run_without_probes_says_what_the_tap_said():
    assert read_length(run_with([])).js.why.startswith("needs a probe batch's outputs")
    told = {"physics": {"level": "light", "taps": {"length": {"why": "the loss is no cross-entropy"}}}}
    assert read_length(run_with([], told)).angle.why == "needs a probe batch's outputs: the loss is no cross-entropy"
