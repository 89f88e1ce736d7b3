"""Trace: what a counter's samples mean, and what an honest error around a window holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ergometry.core.errors import InvalidSeries
from ergometry.core.estimate import Provenance
from ergometry.core.ports import Signal
from ergometry.core.trace import Trace, unwrap

NAN = float("nan")
ENERGY = Signal("node0/package0", "energy_j", "measured", "rapl package-0")
POWER = replace(ENERGY, quantity="power_w", method="board power")


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


def test_a_counter_that_wraps_gives_the_energy_that_was_used() -> None:
    t = np.arange(0.0, 600.0)
    used = 250.0 * t
    signal = replace(ENERGY, wrap_j=65532.61, max_power_w=2000.0)
    trace = Trace.from_samples(t, (used + 65000.0) % 65532.61, signal)
    assert trace.energy(0, 599).value == pytest.approx(250 * 599)
    assert trace.mean_power_w == pytest.approx(250)


@pytest.mark.parametrize(("jump_j", "energy_j"), [(390.0, 490.0), (410.0, 100.0)])
def test_a_jump_is_believed_up_to_the_largest_power_with_a_second_s_allowance(jump_j: float, energy_j: float) -> None:
    signal = replace(ENERGY, wrap_j=1e5, max_power_w=200.0)
    trace = Trace.from_samples([0, 1, 2, 3], [0, 50, 50 + jump_j, 100 + jump_j], signal)
    assert trace.energy(0, 3).value == energy_j


def test_samples_that_failed_are_left_out_and_counted() -> None:
    trace = Trace.from_samples([0, 1, 2, NAN, 3, 4], [0, 10, NAN, 25, 30, 40], ENERGY)
    assert trace.t_s.tolist() == [0, 1, 3, 4]
    assert trace.e_j.tolist() == [0, 10, 30, 40]
    assert trace.gaps == 2


@pytest.mark.parametrize("when", [NAN, np.inf, -np.inf])
def test_a_time_that_is_not_finite_spoils_its_own_sample_only(when: float) -> None:
    trace = Trace.from_samples([0, when, 2, 3], [0, 10, 20, 30], ENERGY)
    assert (trace.t_s.tolist(), trace.gaps) == ([0, 2, 3], 1)


def test_samples_whose_clock_ran_backward_or_stood_still_are_dropped() -> None:
    trace = Trace.from_samples([0, 1, 2, 1.5, 1.9, 2, 3], [0, 10, 20, 999, 999, 999, 30], ENERGY)
    assert (trace.t_s.tolist(), trace.e_j.tolist(), trace.gaps) == ([0, 1, 2, 3], [0, 10, 20, 30], 3)


@pytest.mark.parametrize(
    ("t", "x"), [([], []), ([0], [1]), ([0, 1], [NAN, 1]), ([1, 1], [0, 1]), ([2, 1], [0, 1]), ([0, 1, 2], [0, 1])]
)
def test_too_few_usable_samples_are_no_trace(t: list[float], x: list[float]) -> None:
    with pytest.raises(InvalidSeries):
        Trace.from_samples(t, x, ENERGY)


def test_a_trace_refuses_times_that_do_not_increase() -> None:
    with pytest.raises(InvalidSeries):
        Trace(np.array([0.0, 0.0]), np.array([0.0, 1.0]), ENERGY)
    with pytest.raises(InvalidSeries):
        Trace(np.array([0.0, 1.0]), np.array([0.0, 1.0, 2.0]), ENERGY)


def test_power_is_integrated_by_the_trapezoid_rule() -> None:
    trace = Trace.from_samples([0, 1, 3], [0, 10, 30], POWER)
    assert trace.e_j.tolist() == [0, 5, 45]


def test_constant_power_is_not_integrated_to_zero() -> None:
    assert Trace.from_samples([0, 1, 2, 3], [40, 40, 40, 40], POWER).energy(0, 3).value == 120


def test_power_and_counter_agree() -> None:
    t = np.linspace(0, 60, 601)
    power = 100 + 50 * np.sin(t)
    counter = 100 * t - 50 * np.cos(t) + 7
    a, b = Trace.from_samples(t, power, POWER), Trace.from_samples(t, counter, ENERGY)
    for window in ((0, 60), (3.21, 3.22), (10, 45.5)):
        assert a.energy(*window).value == pytest.approx(b.energy(*window).value, rel=2e-3)


def test_between_samples_energy_is_linear_and_beyond_them_at_mean_power() -> None:
    trace = Trace.from_samples([10, 11, 12], [0, 30, 40], ENERGY)
    assert trace.cumulative_j([10, 10.5, 11, 11.5, 12]).tolist() == [0, 15, 30, 35, 40]
    assert trace.cumulative_j([9, 13]).tolist() == [-20, 60]
    assert trace.power_w([10, 10.5, 11, 12]).tolist() == [30, 30, 10]


def test_a_window_carries_the_signal_s_provenance_and_method() -> None:
    e = Trace.from_samples([0, 1], [0, 5], replace(ENERGY, provenance="modelled", method="cpu load model")).energy(0, 1)
    assert (e.value, e.unit, e.provenance, e.method) == (5, "J", Provenance.MODELLED, "cpu load model")


@pytest.mark.parametrize("window", [(2, 1), (NAN, 1), (1, NAN)])
def test_a_window_that_ends_before_it_begins_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(InvalidSeries):
        Trace.from_samples([0, 1, 2], [0, 5, 6], ENERGY).energy(*window)


def test_an_empty_window_holds_exactly_nothing() -> None:
    e = Trace.from_samples([0, 1], [0, 5], replace(ENERGY, resolution_j=1.0, rel_stderr=0.1)).energy(0.3, 0.3)
    assert (e.value, e.stderr) == (0, 0)


def test_a_perfect_counter_read_at_the_window_s_edges_has_no_error() -> None:
    assert Trace.from_samples([0, 1, 2], [0, 5, 6], ENERGY).energy(0, 2).stderr == 0


@pytest.mark.parametrize(
    ("signal", "window", "stderr"),
    [
        (replace(ENERGY, resolution_j=12.0), (0, 2), 12 / np.sqrt(12) * np.sqrt(2)),
        (replace(ENERGY, update_period_s=0.1), (0, 2), 0.1 / np.sqrt(12) * 50 * np.sqrt(2)),
        (replace(ENERGY, rel_stderr=0.05), (0, 2), 5.0),
        (ENERGY, (0, 0.5), 50 / np.sqrt(12)),  # uniform between none and all of the interval's 50 J
        (ENERGY, (0, 3), 50.0),  # a second beyond the end, at a power nobody saw
        (ENERGY, (-1, 2), 50.0),
    ],
)
def test_each_part_of_the_error(signal: Signal, window: tuple[float, float], stderr: float) -> None:
    trace = Trace.from_samples([0, 1, 2], [0, 50, 100], signal)
    assert trace.energy(*window).stderr == pytest.approx(stderr)


def test_intervals_cover_the_truth() -> None:
    """Square loads of random period, a counter that updates late and in steps, sampled at 1 Hz: random windows."""
    rng = np.random.default_rng(7)
    fine = np.arange(0.0, 120.0, 0.005)
    inside_one, inside_two, errors = [], [], []
    for _ in range(40):
        low, high, period = rng.uniform(20, 60), rng.uniform(100, 300), rng.uniform(0.3, 8.0)
        power = np.where((fine / period + rng.uniform()) % 1.0 < rng.uniform(0.2, 0.8), high, low)
        used = np.concatenate(([0.0], np.cumsum(power[:-1] * np.diff(fine))))
        update, resolution = 0.1, 0.5
        at = np.arange(0.0, 120.0, 1.0) + rng.uniform(0, 0.05, 120)
        updated = np.floor(at / update + rng.uniform()) * update  # the counter's last update before each reading
        counter = np.floor(np.interp(updated, fine, used) / resolution) * resolution
        signal = replace(ENERGY, update_period_s=update, resolution_j=resolution)
        trace = Trace.from_samples(at, counter, signal)
        for t0, length in zip(rng.uniform(2, 60, 25), rng.uniform(0.05, 50, 25), strict=True):
            estimate = trace.energy(t0, t0 + length)
            truth = float(np.interp(t0 + length, fine, used) - np.interp(t0, fine, used))
            z = abs(estimate.value - truth) / estimate.stderr
            inside_one.append(z <= 1)
            inside_two.append(z <= 2)
            errors.append(z)
    assert np.mean(inside_one) >= 0.68
    assert np.mean(inside_two) >= 0.95
    assert np.median(errors) > 0.1, "an error bar that is far too wide says nothing either"


def test_a_trace_is_plain_data() -> None:
    trace = Trace.from_samples([0, 1, NAN], [0, 5, 6], ENERGY)
    data = trace.to_json()
    assert (data["t_s"], data["e_j"], data["gaps"]) == ([0, 1], [0, 5], 1)
    assert Signal(**data["signal"]) == ENERGY
