"""Schedules of a measured job: shown where what they rest on was measured, and worth what they would gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.run import Run, Table
from ergometry.planning.learning_rate import rescaled
from ergometry.planning.operating_points import OperatingPoint, fit_costs
from ergometry.planning.over_time import over_time
from support.planned import job

STATIC_W, ALPHA = 60.0, 0.4


def points(limits: tuple[float, ...] = (150.0, 300.0)) -> list[OperatingPoint]:
    found = []
    for limit in limits:
        for b in (8, 32, 64, 128, 512):
            t = max(0.05, 0.05 * b / 64) * (300.0 / limit) ** ALPHA
            dynamic_w = 0.8 * limit
            found.append(OperatingPoint(b, t, (STATIC_W + dynamic_w) * t, 1e-3 * t, 0.0, limit))
    return found


def with_noise(run: Run, b_noise: np.ndarray) -> Run:
    """Return a run whose looks at the noise scale see |G|² = 1 and trΣ = ``b_noise``."""
    n = len(b_noise)
    rows = np.full((n, len(series.NOISE.columns)), np.nan)
    random = 1 + 0.02 * np.random.default_rng(0).normal(size=(2, n))
    columns = {
        "step": np.linspace(0, 399, n),
        "how": 1.0,
        "small_batch": 2.0,
        "big_batch": 8.0,
        "small_sq": (1 + b_noise / 2) * random[0],
        "big_sq": (1 + b_noise / 8) * random[1],
        "sampled": 1.0,
        "parameters": 100.0,
    }
    for name, values in columns.items():
        rows[:, series.NOISE.columns.index(name)] = values
    return replace(run, tables={**run.tables, "noise": Table(series.NOISE.columns, rows)})


def test_power_over_time_needs_two_limits_and_the_static_power() -> None:
    run = job(64)
    one = points((300.0,))
    found = over_time(run, one, fit_costs(one), 64)
    assert found.power == ()
    assert "two power limits" in found.power_why
    flat = [replace(p, batch=64) for p in (points((150.0,))[2], points((300.0,))[2])]
    assert "static power" in over_time(run, flat, fit_costs(flat), 64).power_why or fit_costs(flat).split_known


def test_constant_power_is_told_to_be_best_for_the_final_loss() -> None:
    rows = points((150.0, 200.0, 300.0))
    costs = fit_costs(rows)
    costs = replace(costs, static_w=np.full_like(costs.static_w, STATIC_W))
    found = over_time(job(64), rows, costs, 64)
    assert found.alpha == pytest.approx(ALPHA, rel=0.02)
    constant, square_root, anytime = found.power
    assert constant.final == 1.0 > square_root.final > anytime.final
    assert anytime.anytime > square_root.anytime > 1.0


def test_batch_over_time_follows_the_noise_scale_and_gains_over_the_best_constant() -> None:
    rows = points((300.0,))
    costs = fit_costs([OperatingPoint(p.batch, 0.05 + 5e-4 * p.batch, 5.0 + 0.05 * p.batch) for p in rows])
    growing = over_time(with_noise(job(64), np.geomspace(4, 64, 96)), rows, costs, 64)
    assert growing.batch is not None
    assert np.all(np.diff(growing.batch.batch) >= 0)
    assert growing.batch.batch[-1] > 2 * growing.batch.batch[0]
    assert growing.batch.gain > 0.02
    steady = over_time(with_noise(job(64), np.full(96, 200.0)), rows, costs, 64)
    assert steady.batch is not None
    assert abs(steady.batch.gain) < 0.02
    # e0/e1 = 100 example: B* = √(200·100)
    assert steady.batch.constant == pytest.approx(np.sqrt(200 * 100.0), rel=0.15)


def test_without_looks_at_the_noise_scale_there_is_no_batch_over_time() -> None:
    rows = points((300.0,))
    found = over_time(job(64), rows, fit_costs(rows), 64)
    assert found.batch is None
    assert "noise scale" in found.batch_why


def with_rates(run, *rows: tuple[float, float, float, float]):
    return replace(run, tables={**run.tables, "learning_rates": Table(series.LEARNING_RATES.columns, np.array(rows))})


def test_the_learning_rate_over_time_is_the_runs_own_course_scaled_to_the_batch_size() -> None:
    rows = points((300.0,))
    run = with_rates(job(64, 400), (0, 0, 0, 0.1), (0, 0, 1, 7.0), (100, 0, 0, 0.4), (0, 1, 0, 9.0), (200, 0, 0, 0.0))
    course = over_time(run, rows, fit_costs(rows), 128, rescaled(0.4, 64, 128)).rate
    assert course is not None
    assert course.progress.tolist() == [0.0, 0.25, 0.5]
    assert course.rate.tolist() == pytest.approx([0.2, 0.8, 0.0])  # of the first group of the first optimizer
    assert not course.constant
    assert over_time(run, rows, fit_costs(rows), 128).rate is None
    assert over_time(job(64, 400), rows, fit_costs(rows), 64, rescaled(0.4, 64, 64)).rate is not None
