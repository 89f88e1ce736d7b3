"""Searching the power limit: where it starts, where it stops, what it finds, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.planning.power_limit import SMOOTH_SD, Reading, best_limit, next_limit, search

LIMITS = (100.0, 125.0, 150.0, 175.0, 200.0, 225.0, 250.0)


def valley(bottom: float, width: float = 0.5) -> dict[float, float]:
    """Log cost of a smooth valley over log limit."""
    return {p: (math.log(p / bottom) / width) ** 2 for p in LIMITS}


def exact(curve: dict[float, float]):
    return lambda limit: Reading(curve[limit], 0.0)


def test_it_starts_at_the_share_of_the_board_it_is_given() -> None:
    assert next_limit(LIMITS, {}, max_power_w=250.0) == 150.0
    assert next_limit(LIMITS, {}, max_power_w=250.0, start=0.9) == 225.0


@pytest.mark.parametrize("bottom", LIMITS)
def test_it_finds_the_bottom_of_any_valley_without_reading_every_limit(bottom: float) -> None:
    found = search(exact(valley(bottom)), LIMITS, max_power_w=250.0)
    assert found.limit_w == bottom
    assert found.probes < len(LIMITS)


def test_a_flat_curve_is_left_sooner_than_the_tolerance_allows() -> None:
    dear = search(exact(dict.fromkeys(LIMITS, 0.0)), LIMITS, max_power_w=250.0, tolerance=1.0)
    assert dear.probes == 1
    cheap = search(exact(dict.fromkeys(LIMITS, 0.0)), LIMITS, max_power_w=250.0, tolerance=0.0)
    assert cheap.probes >= len(LIMITS)


def test_one_limit_takes_one_reading() -> None:
    assert search(exact({200.0: 1.0}), (200.0,), max_power_w=250.0).probes == 1


@given(st.floats(-20, 20), st.sampled_from(LIMITS))
def test_the_unit_of_cost_changes_nothing(shift: float, bottom: float) -> None:
    curve = valley(bottom)
    readings = {p: Reading(curve[p], 0.01) for p in LIMITS[:3]}
    shifted = {p: Reading(r.log_cost + shift, r.se) for p, r in readings.items()}
    assert next_limit(LIMITS, readings, max_power_w=250.0) == next_limit(LIMITS, shifted, max_power_w=250.0)
    plain, moved = (best_limit(LIMITS, r, max_power_w=250.0) for r in (readings, shifted))
    assert plain.limit_w == moved.limit_w
    assert moved.log_cost - plain.log_cost == pytest.approx(shift, abs=1e-9)


def test_a_noisy_reading_is_drawn_to_its_neighbours_and_a_sure_one_is_not() -> None:
    readings = {150.0: Reading(0.0, 0.001), 175.0: Reading(-0.2, 0.3), 200.0: Reading(0.0, 0.001)}
    assert best_limit(LIMITS, readings, max_power_w=250.0).log_cost > -0.05
    readings[175.0] = Reading(-0.2, 0.001)
    assert best_limit(LIMITS, readings, max_power_w=250.0).log_cost == pytest.approx(-0.2, abs=0.01)


def test_a_rival_read_badly_is_read_again() -> None:
    readings = {p: Reading(v, 0.001) for p, v in valley(160.0, 2.0).items()}
    assert next_limit(LIMITS, readings, max_power_w=250.0) is None
    readings = {p: r if p in (125.0, 150.0, 200.0) else Reading(r.log_cost, 0.1) for p, r in readings.items()}
    assert next_limit(LIMITS, readings, max_power_w=250.0, tolerance=0.01) == 175.0


def test_the_interval_is_as_wide_as_the_truth_strays() -> None:
    """Curves drawn from the prior: the standardised error of the found cost has unit variance."""
    rng = np.random.default_rng(3)
    x = np.log(LIMITS)
    cov = SMOOTH_SD**2 * np.exp(-0.5 * ((x[:, None] - x) / 0.4) ** 2) + 0.0125**2 * np.eye(len(x))
    root = np.linalg.cholesky(cov)
    scores = []
    for _ in range(200):
        curve = root @ rng.standard_normal(len(x))
        readings = {p: Reading(float(curve[i] + 0.02 * rng.standard_normal()), 0.02) for i, p in enumerate(LIMITS)}
        found = best_limit(LIMITS, readings, max_power_w=250.0)
        scores.append((found.log_cost - curve[LIMITS.index(found.limit_w)]) / found.sd)
    # 200 squared normals: standard error 0.1; picking the lowest biases the score slightly.
    assert np.mean(np.square(scores)) == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize(
    ("limits", "readings", "words"),
    [
        ((), {}, "power limits above 0"),
        ((100.0, 300.0), {}, "up to the board's 250 W"),
        ((math.nan,), {}, "power limits"),
        (LIMITS, {90.0: Reading(0.0, 0.1)}, "got 90 W"),
        (LIMITS, {100.0: Reading(math.nan, 0.1)}, "readings that failed"),
    ],
)
def test_impossible_limits_and_failed_readings_are_refused(limits, readings, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        next_limit(limits, readings, max_power_w=250.0)


def test_there_is_no_best_of_nothing() -> None:
    with pytest.raises(UsageError, match="at least one reading"):
        best_limit(LIMITS, {}, max_power_w=250.0)
