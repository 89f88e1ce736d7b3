"""Series along a run: few points, each the mean of its stretch, with an error, a unit and a sentence to read it by."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core import series as tables
from ergometry.core import units
from ergometry.core.run import Table
from ergometry.estimators.series import LEAST_ROWS, MOST_POINTS, TITLES, means, series
from support.odd_runs import ODD_RUNS
from support.physics import with_physics
from support.synthetic import synthetic_run

STEPS = 60
RUN, TRUTH = with_physics(synthetic_run(STEPS, power_w=50.0))
FOUND = series(RUN)


def stretches(x):
    return np.array_split(x, len(x) // LEAST_ROWS)


def averaged(x):
    return np.array(
        [part.mean() for part in np.split(x, np.linspace(0, len(x), len(x) // LEAST_ROWS + 1).astype(int)[1:-1])]
    )


def test_every_series_is_there_with_unit_and_a_sentence():
    assert list(FOUND) == list(TITLES)
    for one in FOUND.values():
        assert units.factor(one.unit, one.unit) == 1.0
        assert one.how_to_read.endswith(".") and one.how_to_read.count(". ") == 0
        assert len(one.step) == len(one.t_s) == len(one.value) == len(one.stderr) == len(one) > 0
        assert np.all(np.isfinite(one.value)) and np.all(np.diff(one.step) > 0) and np.all(np.diff(one.t_s) > 0)


def test_heat_work_and_the_change_of_the_loss_are_means_over_stretches():
    np.testing.assert_allclose(FOUND["heat"].value, averaged(TRUTH.heat), rtol=1e-12)
    np.testing.assert_allclose(FOUND["work"].value, averaged(TRUTH.work[:-1]), rtol=1e-12)
    np.testing.assert_allclose(FOUND["loss_change"].value, averaged(TRUTH.before - TRUTH.before[0]), rtol=1e-12)
    first = TRUTH.heat[:LEAST_ROWS]
    assert FOUND["heat"].stderr[0] == pytest.approx(first.std(ddof=1) / math.sqrt(LEAST_ROWS))


def test_the_alignment_is_the_ratio_of_each_stretchs_sums():
    expected = averaged(TRUTH.midpoint) / averaged(TRUTH.midpoint_path)
    np.testing.assert_allclose(FOUND["alignment"].value, expected, rtol=1e-12)
    assert np.all(np.abs(FOUND["alignment"].value) <= 1 + 1e-12)


def test_the_noise_scale_and_its_temperature():
    temperature = TRUTH.learning_rate * TRUTH.trace_cov / (2 * TRUTH.batch * TRUTH.theta.shape[1])
    whole = np.average(FOUND["noise_temperature"].value)
    assert whole == pytest.approx(temperature.mean(), rel=0.05)  # its stretches are not all of one length
    assert FOUND["noise_temperature"].value[0] > FOUND["noise_temperature"].value[-1]
    ratio = FOUND["b_noise"].value[-1]
    late = slice(-8, None)
    assert ratio == pytest.approx(TRUTH.trace_cov[late].mean() / np.sum(TRUTH.expected[late] ** 2, 1).mean(), rel=0.2)


def test_lengths_add_up_along_the_run():
    turned = np.cumsum(np.abs(np.diff(TRUTH.angles[:-1])))
    np.testing.assert_allclose(FOUND["length_fisher"].value, turned, rtol=1e-9)
    assert np.all(np.diff(FOUND["length_js"].value) > 0)
    assert np.all(FOUND["length_js"].value <= FOUND["length_fisher"].value * (1 + 1e-12))


def test_information_per_joule_is_what_a_stretch_gained_over_what_it_drew():
    found = FOUND["information_per_joule"]
    nats = TRUTH.batch * (math.log(256) - TRUTH.before)
    # steps of 0.1 s at 50 W, but for the evaluation between two of them
    np.testing.assert_allclose(found.value[:6], averaged(nats)[:6] / (0.1 * 50.0), rtol=1e-6)
    assert np.all(found.stderr > 0) and "inferred" in found.why


def test_without_a_replay_displacement_work_stands_in_for_heat_and_work_has_none():
    run, truth = with_physics(synthetic_run(STEPS), drop=["first_law"])
    found = series(run)
    np.testing.assert_allclose(found["heat"].value, averaged(-np.sum(truth.gradient * truth.moves, 1)), rtol=1e-12)
    assert "stands in" in found["heat"].why
    assert len(found["work"]) == 0 and "one more forward" in found["work"].why
    assert "Itô" in found["alignment"].why and len(found["alignment"]) > 0


@pytest.mark.parametrize("make", ODD_RUNS.values(), ids=ODD_RUNS)
def test_odd_runs_have_series_that_say_why_they_are_empty(make):
    found = series(make())
    for one in found.values():
        assert len(one) > 0 or one.why
        json.dumps(one.to_json(), allow_nan=False)


def test_no_noise_temperature_but_for_plain_sgd():
    rows = RUN.table(tables.EQUILIBRIUM).rows.copy()
    rows[:, tables.EQUILIBRIUM.columns.index("eligible")] = 0.0
    found = series(replace(RUN, tables={**RUN.tables, "equilibrium": Table(tables.EQUILIBRIUM.columns, rows)}))
    assert len(found["noise_temperature"]) == 0 and "plain SGD" in found["noise_temperature"].why
    assert len(found["b_noise"]) > 0


def test_a_long_run_has_few_points():
    run, _ = with_physics(synthetic_run(3000))
    found = series(run)
    assert all(0 < len(one) <= MOST_POINTS for one in found.values())
    page = json.dumps({name: one.to_json() for name, one in found.items()})
    assert len(page) < 150_000


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31))
def test_the_means_of_all_stretches_make_the_mean_of_all_rows(n, seed):
    x = np.random.default_rng(seed).normal(size=n)
    step, mean, stderr = means(np.arange(float(n)), x)
    assert len(step) == len(mean) == len(stderr) <= MOST_POINTS
    borders = np.linspace(0, n, len(mean) + 1).astype(int)
    assert np.average(mean, weights=np.diff(borders)) == pytest.approx(x.mean(), abs=1e-12)


def test_the_error_of_a_mean_is_that_of_repetition():
    random = np.random.default_rng(5)
    rows = random.normal(size=(400, 8))
    inside = [abs(mean[0]) < 1.895 * stderr[0] for _, mean, stderr in (means(np.arange(8.0), r, None) for r in rows)]
    assert len(means(np.arange(8.0), rows[0])[0]) == 2
    assert 0.7 < np.mean(inside) < 0.97  # four rows: Student's t with three degrees of freedom
