"""Schedules against numerical integration and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from ergometry.core.errors import UsageError
from ergometry.equations import schedule_speed_factor
from ergometry.planning.schedules import (
    anytime_gain,
    batch_schedule,
    final_gain,
    power_schedules,
    speed_exponent,
)


@settings(max_examples=40, deadline=None)
@given(k=st.floats(0, 5), alpha=st.floats(0, 0.95))
def test_the_gains_are_the_integrals_that_they_stand_for(k: float, alpha: float) -> None:
    def power(u: float) -> float:
        return (k + 1) * (1 - u) ** k

    assert quad(power, 0, 1)[0] == pytest.approx(1.0)
    assert final_gain(k, alpha) == pytest.approx(quad(lambda u: power(u) ** alpha, 0, 1)[0], rel=1e-6)
    area = quad(lambda u: (1 - u) * power(u) ** alpha, 0, 1)[0]
    assert anytime_gain(k, alpha) == pytest.approx(area / 0.5, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(alpha=st.floats(0.0, 0.9), other=st.floats(0, 12))
def test_constant_power_ends_furthest_and_the_anytime_schedule_has_the_largest_area(alpha: float, other: float) -> None:
    constant, seed, anytime = power_schedules(100.0, alpha)
    assert constant.final == 1.0 >= final_gain(other, alpha) - 1e-12
    assert anytime.anytime >= anytime_gain(other, alpha) - 1e-12
    assert anytime.anytime >= max(constant.anytime, seed.anytime) - 1e-12
    assert seed.final == pytest.approx(schedule_speed_factor(alpha), rel=1e-12)


def test_every_schedule_has_the_mean_power_that_was_asked_for() -> None:
    for schedule in power_schedules(120.0, 0.4):
        t = (np.arange(200_000) + 0.5) / 200_000
        assert float(np.mean(schedule.power_w(t))) == pytest.approx(120.0, rel=1e-4)


def test_the_exponent_of_speed_is_found_and_one_power_is_too_few() -> None:
    p = np.array([80.0, 120.0, 200.0])
    assert speed_exponent(p.tolist(), (3 * p**0.37).tolist()) == pytest.approx(0.37)
    with pytest.raises(UsageError, match="two different powers"):
        speed_exponent([100.0, 100.0], [1.0, 1.0])
    with pytest.raises(UsageError, match="exponent"):
        power_schedules(100.0, 1.0)


def test_the_batch_schedule_is_the_cheapest_in_each_stretch_and_beats_the_best_constant() -> None:
    progress, critical = [0.0, 0.25, 0.5, 0.75], np.array([50.0, 200.0, 800.0, 3200.0])
    found = batch_schedule(progress, critical.tolist(), e0_j=20.0, e1_j=0.1)

    def energy(b: np.ndarray | float) -> float:
        return float(np.mean((1 + critical / b) * (20.0 + 0.1 * b)))

    sizes = 2.0 ** np.arange(0, 16)
    for b_c, chosen in zip(critical, found.batch, strict=True):
        costs = (1 + b_c / sizes) * (20.0 + 0.1 * sizes)
        assert costs[sizes == chosen][0] <= costs.min() * 1.01
    constants = np.geomspace(1, 1e5, 20_000)
    cheapest = min(energy(b) for b in constants)
    assert energy(found.constant) == pytest.approx(cheapest, rel=1e-6)
    assert found.gain == pytest.approx(cheapest / energy(found.batch.astype(float)) - 1, rel=1e-4)
    assert found.gain > 0.05


def test_a_noise_scale_that_does_not_move_gains_nothing_but_rounding() -> None:
    found = batch_schedule([0.0, 0.5], [160.0, 160.0], e0_j=16.0, e1_j=0.1)
    assert found.constant == pytest.approx(160.0)
    assert found.batch.tolist() == [128, 128]
    assert -0.02 < found.gain <= 0.0


@pytest.mark.parametrize(
    "words",
    [([0.5, 0.2], [1.0, 1.0], 1.0, 1.0), ([0.0], [math.nan], 1.0, 1.0), ([], [], 1.0, 1.0), ([0.0], [1.0], 0.0, 1.0)],
)
def test_what_is_no_schedule_is_refused(words) -> None:
    with pytest.raises(UsageError, match="increasing shares"):
        batch_schedule(*words)
