"""Operating points: speed and power under each power limit, on a run whose limits, speeds and powers are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.run import Table
from ergometry.equations import entries, schedule_speed_factor
from ergometry.equations.points import read_points
from ergometry.work import accounts
from support.calibrations import FOUND
from support.synthetic import BOARD, WELL, language_model, synthetic_run, with_counts, with_health

CHANGE_S = 10.0
FAST_W, SLOW_W = 400.0, 220.0


def power(t):
    return np.where(t < CHANGE_S, FAST_W, SLOW_W)


def limited(*limits_w, slowdown=1.0, **meta):
    """Return a run of 0.1 s steps; after ``CHANGE_S`` they are longer, under the second power limit."""
    run = synthetic_run(200, power_w=power, signal=BOARD, sampling_hz=20.0, evaluate_every=10**6, devices=["A Board"])
    rows = run.table(series.STEPS).rows.copy()
    at = [series.STEPS.columns.index(name) for name in ("t0_s", "t1_s")]
    rows[:, at] = np.where(rows[:, at] > CHANGE_S, CHANGE_S + slowdown * (rows[:, at] - CHANGE_S), rows[:, at])
    run = replace(run, tables={**run.tables, "steps": Table(series.STEPS.columns, rows)})
    duration = float(rows[-1, at[1]]) + 0.2
    if duration > run.duration_s:
        # the counter goes on at the second power
        (samples,) = run.samples
        t = np.arange(samples.table.rows[-1, 0], duration + 0.05, 0.05)[1:]
        more = samples.table.rows[-1, 1] + SLOW_W * (t - samples.table.rows[-1, 0])
        table = Table(samples.table.columns, np.concatenate((samples.table.rows, np.column_stack((t, more)))))
        run = replace(run, duration_s=duration, samples=(replace(samples, table=table),))

    def limit(t):
        return np.where(t < CHANGE_S, limits_w[0], limits_w[-1])

    return with_health(run, {**WELL, "power_limit_w": limit}, each_s=0.05)


def test_each_limit_has_its_own_speed_and_power():
    run = limited(500.0, 250.0, slowdown=1.5)
    slow, fast = read_points(run, accounts(run))
    assert (slow.limit_w, fast.limit_w) == (250.0, 500.0)
    assert fast.speed.value == pytest.approx(10.0, rel=1e-6) and slow.speed.value == pytest.approx(10 / 1.5, rel=1e-6)
    assert fast.power.value == pytest.approx(FAST_W, rel=0.02) and slow.power.value == pytest.approx(SLOW_W, rel=0.02)
    assert fast.power.stderr > 0 and fast.steps + slow.steps > 180


def test_the_exponent_of_speed_in_dynamic_power():
    run = with_counts(limited(500.0, 250.0, slowdown=1.3), language_model(), FOUND)
    books = accounts(run)
    found = entries(run, books)
    static = found["2.1"]["repair"]["P_static"]["value"]
    expected = math.log(1.3) / math.log((FAST_W - static) / (SLOW_W - static))
    alpha = found["8.1"]["repair"]["alpha"]
    assert alpha["value"] == pytest.approx(expected, rel=0.05) and alpha["stderr"] > 0
    factor = found["8.1"]["repair"]["speed_factor"]["value"]
    assert factor == pytest.approx(float(schedule_speed_factor(alpha["value"])), rel=1e-9)


def test_an_exponent_above_one_has_no_speed_factor():
    run = with_counts(limited(500.0, 250.0, slowdown=6.0), language_model(), FOUND)
    found = entries(run, accounts(run))["8.1"]["repair"]
    assert found["alpha"]["value"] > 1 and found["speed_factor"]["value"] is None
    assert "in [0, 1]" in found["speed_factor"]["why"]


def test_the_least_power_that_keeps_the_time():
    # as fast under the lower limit: nothing speaks for the higher one
    run = limited(500.0, 250.0)
    q = entries(run, accounts(run))["6.3"]["repair"]["P_pareto"]
    assert q["value"] == pytest.approx(SLOW_W, rel=0.02) and "250 W" in q["method"]
    # slower than the run's own steps were in the mean: it does not keep their time
    run = limited(500.0, 250.0, slowdown=1.5)
    q = entries(run, accounts(run))["6.3"]["repair"]["P_pareto"]
    assert q["value"] == pytest.approx(FAST_W, rel=0.02) and "500 W" in q["method"]


def test_one_limit_is_one_point_and_no_exponent():
    run = limited(500.0)
    assert len(read_points(run, accounts(run))) == 1
    found = entries(run, accounts(run))
    assert "two power limits" in found["8.1"]["repair"]["alpha"]["why"]
    assert "two power limits" in found["6.3"]["repair"]["P_pareto"]["why"]


def test_steps_of_another_batch_size_do_not_compare():
    run = limited(500.0, 250.0)
    rows = run.table(series.STEPS).rows.copy()
    rows[:80, series.STEPS.columns.index("examples")] = 16.0  # the steps under the first limit, but for a few
    run = replace(run, tables={**run.tables, "steps": Table(series.STEPS.columns, rows)})
    points = read_points(run, accounts(run))
    assert sum(point.steps for point in points) <= 120


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_of_hardly_a_step_has_no_points(steps):
    run = synthetic_run(steps)
    assert read_points(run, accounts(run)) == ()
