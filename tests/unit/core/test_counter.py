"""Counters: wraps, resets, wrong readings and stuck counters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ergometry.core.counter import count, unwrap
from ergometry.core.ports import Signal
from ergometry.core.trace import Trace

NAN = float("nan")
GPU = Signal("node0/gpu0", "energy_j", "measured", "counter", max_power_w=1000.0)
T = np.arange(0.0, 100.0)
X = 1e6 + 100.0 * T


def test_wraps_are_carried_as_modular_differences() -> None:
    total = unwrap([10, 15, 45, 255, 0, 10, 3, 2, 2], 256)
    assert np.diff(total).tolist() == [5, 30, 210, 1, 10, 249, 255, 0]
    assert total[0] == 0


def test_failed_reads_carry_nothing_and_the_next_reading_carries_the_whole_difference() -> None:
    assert unwrap([NAN, 10, NAN, NAN, 40, 50, NAN], None).tolist() == [0, 0, 0, 0, 30, 40, 40]
    assert unwrap([200, NAN, 10], 256).tolist() == [0, 0, 66]


def test_a_gap_of_failed_reads_may_hold_the_limits_it_spans() -> None:
    assert unwrap([0, NAN, NAN, 25, 36], None, 10).tolist() == [0, 0, 0, 25, 25]
    assert unwrap([0, NAN, NAN, 31, 36], None, 10).tolist() == [0, 0, 0, 0, 5]
    assert unwrap([0, NAN, 8, 9], None, [1, 8, 1]).tolist() == [0, 0, 8, 9]


@pytest.mark.parametrize("failed", [0.0, 1.0, NAN])
def test_a_failed_read_is_never_taken_for_a_wrap(failed: float) -> None:
    """A counter near 53 kJ that once reads nothing gained 209 kJ in a tool that took the fall for a wrap."""
    wrap, limit = 262143.32885, 2000.0
    counter = np.array([53000.0, 53050.0, failed, 53150.0, 53200.0])
    total = unwrap(counter, wrap, limit)
    assert 100 <= total[-1] <= 200
    assert unwrap([53000, 53050, 0, 53150], wrap)[-1] > 200_000, "without a limit on power nothing tells them apart"


def test_a_stuck_counter_gains_nothing() -> None:
    assert unwrap([5, 7, 7, 7, 9], 256, 100).tolist() == [0, 2, 2, 2, 4]


def test_a_reset_contributes_zero() -> None:
    assert unwrap([100, 150, 20, 30], None).tolist() == [0, 50, 50, 60]
    assert unwrap([100, 150, 20, 30], 1e6, 500).tolist() == [0, 50, 50, 60]


@pytest.mark.parametrize("counter", [[], [5.0], [NAN, NAN], [NAN, 5.0]])
def test_fewer_than_two_readings_hold_no_energy(counter: list[float]) -> None:
    assert unwrap(counter, 256, 10).tolist() == [0.0] * len(counter)


@pytest.mark.parametrize(("jump_j", "left_out", "bridges"), [(390.0, 0, 0), (410.0, 0, 1)])
def test_a_jump_is_believed_up_to_the_largest_power_with_a_second_s_allowance(
    jump_j: float, left_out: int, bridges: int
) -> None:
    signal = replace(GPU, wrap_j=1e5, max_power_w=200.0)
    found = count(np.arange(4.0), np.array([0, 50, 50 + jump_j, 100 + jump_j]), signal)
    assert (found.left_out, len(found.bridges)) == (left_out, bridges)
    assert found.e_j[-1] == (150 if bridges else 100 + jump_j)


def changed(**at: float) -> np.ndarray:
    x = X.copy()
    for index, value in at.items():
        x[int(index[1:])] = value
    return x


@pytest.mark.parametrize(
    "readings",
    [
        changed(_50=0.0),
        changed(_50=0.0, _51=0.0, _52=1.0),
        changed(_50=X[50] - 170),
        changed(_50=X[50] + 900_000),
        changed(_50=X[50] + 500),
        changed(_50=X[50] + 500, _51=X[51] + 500, _52=X[52] + 500),
        changed(_1=0.0),
        changed(_98=0.0),
        changed(_50=0.0, _60=0.0, _62=2e6),
        changed(_50=NAN, _51=0.0),
    ],
)
def test_wrong_readings_among_good_ones_are_left_out(readings: np.ndarray) -> None:
    trace = Trace.from_samples(T, readings, GPU)
    assert trace.energy(0, 99).value == pytest.approx(9900)
    assert len(trace.bridges) == 0
    assert 1 <= trace.gaps <= 3


@pytest.mark.parametrize("fall_j", [1e6, 5000.0, 300.0, 150.0, 120.0])
def test_a_counter_that_falls_and_goes_on_from_there_was_reset_and_the_interval_is_bridged(fall_j: float) -> None:
    x = X.copy()
    x[50:] -= fall_j
    trace = Trace.from_samples(T, x, GPU)
    assert trace.energy(0, 99).value == pytest.approx(9900)
    assert trace.bridges.tolist() == [[49, 50, 100]]


def test_a_counter_that_comes_back_by_less_than_half_was_reset() -> None:
    x = X.copy()
    x[50:] -= 150
    x[51:] += 60
    trace = Trace.from_samples(T, x, GPU)
    assert (trace.gaps, trace.bridges.tolist()) == (0, [[49, 50, 100]])
    assert trace.energy(0, 99).value == pytest.approx(9960)


def test_resets_in_a_row_are_bridged_by_the_power_beside_them() -> None:
    x = X.copy()
    for at in range(50, 56):
        x[at:] -= x[at] - 10_000 + 1000 * (at - 50)
    trace = Trace.from_samples(T, x, GPU)
    assert trace.bridges[:, 2].tolist() == [100] * 6
    assert trace.energy(0, 99).value == pytest.approx(9900)


def test_a_driver_that_returns_with_a_counter_at_zero_leaves_no_hole() -> None:
    x = X.copy()
    x[50:] -= X[60]
    x[50:60] = NAN
    trace = Trace.from_samples(T, x, GPU)
    assert trace.energy(0, 99).value == pytest.approx(9900)
    assert trace.bridged_j(0, 99) == pytest.approx(11 * 100)


def test_a_bridge_has_the_median_power_of_the_intervals_around_it() -> None:
    rises = np.concatenate([np.full(49, 100.0), [0.0], np.full(50, 300.0)])
    x = 1e6 + np.concatenate(([0.0], np.cumsum(rises)))
    x[50:] -= 1e5
    rises[46:49] = 250.0
    trace = Trace.from_samples(np.arange(101.0), x, GPU)
    assert trace.bridges.tolist() == [[49, 50, 200]]


def test_a_counter_of_two_readings_that_falls_is_bridged_by_nothing() -> None:
    found = count(np.arange(2.0), np.array([100.0, 0.0]), GPU)
    assert found.e_j.tolist() == [0, 0]
    assert found.bridges.tolist() == [[0, 1, 0]]


def test_a_counter_that_stands_still_and_goes_on_from_there_is_bridged() -> None:
    x = X.copy()
    x[50:70] = x[50]
    x[70:] -= X[69] - X[50]
    trace = Trace.from_samples(T, x, GPU)
    assert trace.energy(0, 99).value == pytest.approx(9900)
    assert trace.bridges.tolist() == [[50, 69, 100]]


def test_a_counter_that_stands_still_and_catches_up_has_missed_nothing() -> None:
    x = X.copy()
    x[50:70] = x[50]
    trace = Trace.from_samples(T, x, GPU)
    assert trace.energy(0, 99).value == pytest.approx(9900)
    assert (len(trace.bridges), trace.gaps) == (0, 19)
    assert trace.energy(55, 60).value == pytest.approx(500)


def test_a_counter_that_stands_still_at_the_end_is_bridged() -> None:
    x = X.copy()
    x[80:] = x[80]
    trace = Trace.from_samples(T, x, GPU)
    assert trace.energy(0, 99).value == pytest.approx(9900)
    assert trace.bridged_j(0, 99) == pytest.approx(1900)


def test_a_counter_that_always_stands_still_shows_no_power() -> None:
    trace = Trace.from_samples(T, np.full(100, 7.0), GPU)
    assert trace.energy(0, 99).value == 0
    assert len(trace.bridges) == 0


def test_a_domain_that_can_rest_is_not_taken_for_a_stuck_counter() -> None:
    """An integrated GPU: off most of the time; or off a third of it, with half-worked seconds before and after."""
    rng = np.random.default_rng(0)
    mostly = np.where(rng.random(300) < 0.3, rng.uniform(0, 20, 300), 0.0)
    bursts = np.tile(np.concatenate([np.full(5, 20.0), [1.0], np.zeros(3)]), 33)
    for rises in (mostly, bursts):
        trace = Trace.from_samples(np.arange(len(rises)), np.cumsum(rises), GPU)
        assert len(trace.bridges) == 0
        assert trace.e_j[-1] == pytest.approx(np.sum(rises[1:]))


def test_readings_more_often_than_updates_are_not_a_stuck_counter() -> None:
    t = np.arange(0.0, 60.0, 0.02)
    x = 100.0 * np.floor(t / 0.1) * 0.1
    trace = Trace.from_samples(t, x, replace(GPU, update_period_s=0.1))
    assert (len(trace.bridges), trace.gaps) == (0, 0)
    assert trace.energy(10, 50).value == pytest.approx(4000, rel=2e-3)


def test_noise_that_is_no_counter_is_handled_in_time() -> None:
    rng = np.random.default_rng(0)
    found = count(np.arange(200_000.0), rng.uniform(0, 1e6, 200_000), GPU)
    assert np.all(np.diff(found.e_j) >= 0)
    assert len(found.bridges) > 10_000
