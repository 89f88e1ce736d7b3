"""Forecasts of series whose rest is known."""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from ergometry.core.errors import UsageError
from ergometry.planning.forecast import LEAST, forecast, steady_from

TRACES = Path(__file__).parents[4] / "shared" / "data" / "mlperf_v40_smc" / "total_power_2s.csv.gz"


def test_a_constant_series_is_continued_exactly() -> None:
    found = forecast(np.full(50, 3.0), 200)
    assert found.spent == 150.0
    assert found.left == pytest.approx(np.full(400, 600.0))
    assert found.total == pytest.approx(np.full(400, 750.0))


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_interval_covers_the_rest_about_as_often_as_it_says(correlation: float) -> None:
    held = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        x = np.zeros(400)
        for i in range(1, 400):
            x[i] = correlation * x[i - 1] + rng.normal()
        series = 100.0 + 5.0 * x
        low, high = np.quantile(forecast(series[:80], 320, seed=seed).left, [0.05, 0.95])
        held += low <= series[80:].sum() <= high
    assert 0.78 <= held / 120 <= 0.99


def test_only_the_present_level_counts() -> None:
    rng = np.random.default_rng(0)
    series = np.concatenate([rng.normal(300, 5, 60), rng.normal(100, 5, 80)])
    found = forecast(series, 1000)
    assert 58 <= found.steady_from <= 62
    assert np.median(found.left) == pytest.approx(100_000, rel=0.02)


def test_noise_alone_is_mostly_no_change_of_level_and_an_odd_first_one_is_left_out() -> None:
    rng = np.random.default_rng(1)
    assert sum(steady_from(rng.normal(10, 1, 150)) > 0 for _ in range(100)) <= 15
    series = np.full(60, 1.0)
    series[0] = 90.0  # the first step compiled
    assert steady_from(series) in (1, 2)
    assert np.median(forecast(series, 100).left) == pytest.approx(100.0)


def test_a_regime_that_has_just_begun_gives_no_forecast_and_says_so() -> None:
    short = forecast(np.full(LEAST - 1, 1.0), 100)
    assert "no forecast yet" in short.why
    assert len(short.left) == 0
    changed = forecast(np.r_[np.full(40, 1.0), np.full(4, 9.0)] + 0.01 * np.tile([1.0, -1.0], 22), 100)
    assert "no forecast yet" in changed.why


def test_nothing_left_takes_nothing_and_less_than_nothing_is_refused() -> None:
    assert forecast(np.full(20, 2.0), 0).left == pytest.approx(np.zeros(400))
    for remaining in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="0 or more"):
            forecast(np.full(20, 2.0), remaining)


def test_values_that_are_not_finite_are_left_out() -> None:
    series = np.full(40, 2.0)
    series[5] = np.nan
    assert np.median(forecast(series, 10).left) == pytest.approx(20.0)


@pytest.mark.skipif(not TRACES.is_file(), reason="needs the public power traces of MLPerf v4.0")
def test_the_energy_of_a_large_run_is_known_after_a_hundredth_of_it() -> None:
    power = defaultdict(list)
    with gzip.open(TRACES, "rt") as lines:
        for row in csv.DictReader(lines):
            if row["bench"] == "gpt3":
                power[row["run"]].append(float(row["total_power_w"]))
    (watts,) = power.values()
    joules = 2.0 * np.array(watts)
    early = len(joules) // 100
    found = forecast(joules[:early], len(joules) - early)
    assert abs(float(np.median(found.total)) / joules.sum() - 1) < 0.025
    low, high = np.quantile(found.total, [0.05, 0.95])
    assert low <= joules.sum() <= high


def test_few_values_give_an_interval_that_still_covers() -> None:
    held = 0
    for seed in range(300):
        series = np.exp(0.15 * np.random.default_rng(seed).normal(size=2008))
        left = forecast(series[:12], 1996, seed=seed).left
        low, high = np.quantile(left, [0.05, 0.95]) if len(left) else (0.0, math.inf)
        held += low <= series[12:].sum() <= high
    assert held / 300 > 0.89  # 0.84 without Student's tails
