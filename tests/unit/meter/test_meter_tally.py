"""The tally against sums by hand: wraps, gaps, resets, power, and domains that overlap."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from ergometry.core.ports import Signal
from ergometry.meter.tally import Tally

NAN = math.nan


def counter(domain: str, **more: float) -> Signal:
    return Signal(domain, "energy_j", "measured", "counter", **more)


def power(domain: str, **more: float) -> Signal:
    return Signal(domain, "power_w", "measured", "sensor", **more)


def run(signal: Signal, samples: list[tuple[float, float]]) -> Tally:
    tally = of(signal)
    for t_s, x in samples:
        tally.update("0", t_s, (x,))
    return tally


def of(*sources: Signal | list[Signal]) -> Tally:
    """Return a tally of sources that are called by their numbers."""
    tally = Tally()
    for i, signals in enumerate(sources):
        tally.declare(str(i), signals if isinstance(signals, list) else [signals])
    return tally


def update(tally: Tally, t_s: float, *readings: tuple[float, ...]) -> None:
    for i, values in enumerate(readings):
        tally.update(str(i), t_s, values)


def test_nothing_is_known_before_the_second_sample() -> None:
    tally = run(counter("n/p"), [(3.0, 1e6)])
    assert tally.energy_j == 0.0
    assert math.isnan(tally.power_w)
    tally.update("0", 5.0, (1e6 + 50.0,))
    assert (tally.energy_j, tally.power_w) == (50.0, 25.0)


def test_a_counter_that_wraps_goes_on() -> None:
    signal = counter("n/p", wrap_j=100.0, max_power_w=200.0)
    tally = run(signal, [(t, (37.0 * t) % 100.0) for t in range(12)])
    assert tally.energy_j == pytest.approx(37.0 * 11)
    assert tally.power_w == pytest.approx(37.0)


@pytest.mark.parametrize(
    "signal",
    [counter("n/p"), counter("n/p", wrap_j=262144.0, max_power_w=500.0)],
    ids=["no wrap known", "not a wrap: too many joules"],
)
def test_a_counter_that_goes_backward_is_left_out_and_counted_from_there(signal: Signal) -> None:
    tally = run(signal, [(0, 1000.0), (1, 1010.0), (2, 3.0)])
    assert (tally.energy_j, tally.power_w) == (10.0, 10.0)
    tally.update("0", 3, (23.0,))
    assert (tally.energy_j, tally.power_w) == (30.0, 20.0)


def test_a_jump_that_no_power_explains_is_left_out() -> None:
    tally = run(counter("n/p", max_power_w=100.0), [(0, 0.0), (1, 50.0), (2, 5000.0), (3, 5060.0)])
    assert (tally.energy_j, tally.power_w) == (110.0, 60.0)


def test_a_failed_reading_of_a_counter_loses_no_joules() -> None:
    tally = run(counter("n/p"), [(0, 0.0), (1, NAN), (2, math.inf), (3, 30.0)])
    assert (tally.energy_j, tally.power_w) == (30.0, 10.0)


def test_a_failed_reading_of_power_is_bridged() -> None:
    tally = run(power("n/gpu0"), [(0, NAN), (1, 10.0), (2, NAN), (4, 20.0)])
    assert (tally.energy_j, tally.power_w) == (45.0, 15.0)
    tally.update("0", 5, (NAN,))
    assert (tally.energy_j, tally.power_w) == (45.0, 15.0), "the last that is known"


def test_power_is_integrated_as_its_line_through_the_samples() -> None:
    random.seed(4)
    times = list(itertools.accumulate(random.uniform(0.01, 2.0) for _ in range(200)))
    watts = [random.uniform(0.0, 400.0) for _ in times]
    tally = run(power("n/gpu0", max_power_w=450.0), list(zip(times, watts, strict=True)))
    fine = 0.0  # midpoints of a thousand pieces of each interval
    for (a, x), (b, y) in itertools.pairwise(zip(times, watts, strict=True)):
        fine += sum(x + (y - x) * (i + 0.5) / 1000 for i in range(1000)) * (b - a) / 1000
    assert tally.energy_j == pytest.approx(fine, rel=1e-9)


def test_time_that_stands_still_or_runs_backward_adds_nothing() -> None:
    tally = run(counter("n/p"), [(1, 0.0), (1, 10.0), (0.5, 20.0), (2, 35.0)])
    assert tally.energy_j == 15.0
    assert tally.power_w == 10.0


def test_a_part_is_not_added_to_the_whole_that_holds_it() -> None:
    inner, dram, gpu = counter("n/p0/core"), counter("n/dram0"), power("n/gpu0")
    tally = of([inner, counter("n/p0")], dram, gpu)
    for t in range(4):
        update(tally, t, (7.0 * t, 10.0 * t), (2.0 * t,), (100.0,))
    assert tally.energy_j == pytest.approx(3 * (10 + 2 + 100))
    assert tally.power_w == pytest.approx(112)


def test_a_platform_meter_takes_the_place_of_all_it_holds() -> None:
    tally = of([counter("n/p0"), counter("n/p1")], counter("n"))
    for t in range(3):
        update(tally, t, (10.0 * t, 10.0 * t), (35.0 * t,))
    assert tally.energy_j == 70.0


@pytest.mark.parametrize("order", [0, 1])
def test_of_a_counter_and_a_power_of_one_place_the_counter_is_taken(order: int) -> None:
    signals = [counter("n/gpu0"), power("n/gpu0")]
    readings = [lambda t: 50.0 * t, lambda t: 999.0]
    if order:
        signals, readings = signals[::-1], readings[::-1]
    tally = of(signals)
    for t in range(3):
        tally.update("0", t, tuple(x(t) for x in readings))
    assert (tally.energy_j, tally.power_w) == (100.0, 50.0)


def test_a_machine_without_a_sensor_has_no_power() -> None:
    tally = of()
    assert tally.energy_j == 0.0
    assert math.isnan(tally.power_w)


def test_a_calibrated_gain_multiplies_joules_and_watts_and_not_the_bounds() -> None:
    signal = counter("n/gpu0", gain=1.1, wrap_j=1000.0, max_power_w=100.0)
    tally = run(signal, [(0, 950.0), (1, 40.0), (2, 140.0)])
    assert tally.energy_j == pytest.approx(1.1 * (90 + 100))
    assert tally.power_w == pytest.approx(110.0)
    assert run(power("n/gpu0", gain=0.5), [(0, 10.0), (2, 30.0)]).energy_j == 20.0


def test_sources_read_at_times_of_their_own_add_up() -> None:
    tally = of(counter("n/p0"), counter("n/gpu0"))
    for t in range(11):
        tally.update("0", t, (10.0 * t,))
        if t % 5 == 0:
            tally.update("1", t + 0.5, (100.0 * t,))
    assert tally.energy_j == 100.0 + 1000.0
    assert tally.power_w == 110.0, "each as it was last seen"


def test_a_source_that_has_other_signals_from_now_on_starts_anew_and_loses_nothing() -> None:
    tally = of([counter("n/psys")], [counter("n/psys/p0")])
    update(tally, 0, (0.0,), (0.0,))
    update(tally, 1, (50.0,), (20.0,))
    assert (tally.energy_j, tally.power_w) == (50.0, 50.0)
    tally.declare("0", [counter("n/dram0")])
    assert math.isnan(tally.power_w)
    update(tally, 2, (7000.0,), (40.0,))
    assert tally.energy_j == 50.0, "the package's counter was not followed before"
    update(tally, 3, (7005.0,), (60.0,))
    assert (tally.energy_j, tally.power_w) == (75.0, 25.0)
