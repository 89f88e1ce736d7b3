"""Curvature from the rows of a run: against closed forms of heavy-ball SGD on quadratics, and what is missing."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Estimate
from ergometry.core.run import Table
from ergometry.estimators.curvature import descent_rate, read_curvature, stability_limit
from support.synthetic import synthetic_run


def table(kind, rows):
    columns = kind.columns
    return Table(
        columns, np.array([[row.get(c, 0.0) for c in columns] for row in rows], dtype=float).reshape(-1, len(columns))
    )


FULL = {
    "step": 2,
    "t_s": 1.0,
    "largest": 4.0,
    "largest_stderr": 0.2,
    "along_gradient": 6.0,
    "along_gradient_stderr": 0.6,
    "trace": 9.0,
    "trace_stderr": 0.5,
    "noise_trace": 48.0,
    "noise_trace_stderr": 4.8,
    "grad_sq": 3.0,
    "how": 1,
    "products": 20,
}
LIGHT = FULL | dict.fromkeys(("trace", "trace_stderr", "noise_trace", "noise_trace_stderr"), math.nan)


def run_with(rows, *, rates=((0, 0, 0, 0.1),), momentum=None, eligible=1, examples=8.0, meta=()):
    run = synthetic_run(4)
    steps = run.tables["steps"].rows.copy()
    steps[:, series.STEPS.columns.index("examples")] = examples
    tables = {
        "steps": Table(series.STEPS.columns, steps),
        "learning_rates": Table(series.LEARNING_RATES.columns, np.array(rates, dtype=float).reshape(-1, 4)),
        "curvature": table(series.CURVATURE, rows),
    }
    if momentum is not None:
        tables["equilibrium"] = table(series.EQUILIBRIUM, [{"step": 1, "momentum": momentum, "eligible": eligible}])
    return replace(run, tables=tables, meta={**run.meta, **dict(meta)})


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("curvature", [0.3, 7.0])
def test_the_stability_limit_is_where_heavy_ball_diverges(momentum, curvature):
    def grows(rate):
        x, v = 1.0, 0.0
        for _ in range(3000):
            v = momentum * v + curvature * x
            x -= rate * v
            if abs(x) > 1e6:
                return True
        return False

    limit = stability_limit(curvature, momentum)
    assert not grows(0.99 * limit)
    assert grows(1.01 * limit)


def test_the_rate_of_descent_is_the_best_of_all_rates():
    """On a quadratic with Gaussian gradient noise the expected loss after a step is exact: no rate does better."""
    stream = np.random.default_rng(2)
    a = stream.standard_normal((4, 4))
    h, b = a @ a.T, 8.0
    s = stream.standard_normal((4, 4))
    sigma, g = s @ s.T, stream.standard_normal(4)

    def expected_change(rate):
        return -rate * g @ g + 0.5 * rate**2 * (g @ h @ g + np.trace(h @ sigma) / b)

    best = descent_rate(g @ g, g @ h @ g, np.trace(h @ sigma), b)
    rates = best * np.linspace(0.5, 1.5, 101)
    assert np.argmin([expected_change(rate) for rate in rates]) == 50
    b_h = np.trace(h @ sigma) / (g @ h @ g)
    assert best == pytest.approx(g @ g / (g @ h @ g) / (1 + b_h / b))


def test_a_full_look():
    found = read_curvature(run_with([FULL], momentum=0.5), Estimate(3.0, 0.3, "loss^2"))
    assert (found.largest.value, found.largest.stderr, found.largest.unit) == (4.0, 0.2, "loss")
    assert (found.limit.value, found.limit.stderr) == (0.75, pytest.approx(0.0375))
    assert found.sharpness.value == pytest.approx(0.1 / 0.75)
    assert found.trace.value == 9.0
    assert (found.b_h.value, found.b_h.unit) == (8.0, "example")
    assert found.b_h.stderr == pytest.approx(8.0 * math.hypot(0.1, 0.1))
    assert found.descent.value == pytest.approx(3.0 / (6.0 + 48.0 / 8.0))
    bottom = math.hypot(0.6, 4.8 / 8)
    assert found.descent.stderr == pytest.approx(math.hypot(0.3 / 12, 0.25 * bottom / 12))
    assert "exact" in found.largest.method
    assert "at step 2" in found.limit.why
    assert "not converged: from below" in found.largest.why
    assert read_curvature(run_with([FULL | {"largest_stderr": 0.01}])).largest.why == "at step 2"


def test_a_light_look_names_the_noise_in_it():
    found = read_curvature(run_with([LIGHT]), Estimate(3.0, None, "loss^2"))
    assert found.noise_trace.value is None
    assert "accumulation" in found.noise_trace.why
    assert (found.b_h.value, found.trace.value) == (None, None)
    assert "tr(HΣ)/B" in found.along_gradient.why
    assert found.descent.value == pytest.approx(0.5)  # the minibatch's gᵀHg has the noise of its batch in it
    assert read_curvature(run_with([LIGHT])).descent.value is None  # |g|² alone is biased


def test_the_momentum_is_that_of_plain_sgd_only():
    assert "taken as 0" in read_curvature(run_with([LIGHT])).limit.why
    adam = read_curvature(run_with([LIGHT], momentum=0.9, eligible=0))
    assert adam.limit.value is None and adam.sharpness.value is None
    assert "plain SGD" in adam.limit.why
    assert np.isnan(adam.limit_path).all()
    assert adam.largest.value == 4.0  # is known all the same


def test_the_course_of_it():
    rows = [LIGHT | {"step": 1}, LIGHT | {"step": 2, "largest": math.nan}, LIGHT | {"step": 3, "largest": 8.0}]
    found = read_curvature(run_with(rows, rates=((0, 0, 0, 0.1), (3, 0, 0, 0.5)), momentum=0.0))
    assert found.step.tolist() == [1, 2, 3]
    np.testing.assert_allclose(found.limit_path, [0.5, math.nan, 0.25])
    assert found.rate_path.tolist() == [0.1, 0.1, 0.5]
    assert found.sharpness.value == pytest.approx(2.0)  # beyond stability


def test_what_has_no_limit():
    concave = read_curvature(
        run_with([LIGHT | {"largest": -1.0, "along_gradient": -2.0}]), Estimate(1.0, 0.1, "loss^2")
    )
    assert "positive curvature" in concave.limit.why
    assert "not positive" in concave.descent.why
    assert np.isnan(concave.limit_path).all()
    groups = read_curvature(run_with([LIGHT], rates=((0, 0, 0, 0.1), (0, 0, 1, 0.2))))
    assert "one learning rate" in groups.sharpness.why


def test_a_run_without_curvature_says_what_the_tap_said():
    assert read_curvature(run_with([])).largest.why.startswith("needs the Hessian's products")
    told = {"physics": {"taps": {"curvature": {"why": "the run was too short"}}}}
    found = read_curvature(run_with([], meta=told))
    assert found.limit.why == "needs Hessian-vector products: the run was too short"
    assert len(found.step) == 0
