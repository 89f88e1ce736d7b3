"""Polling on sensors with known truth, by a clock that moves only when told to."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.clock import FakeClock
from ergometry.core.ports import OpenSource, Signal
from ergometry.meter.polling import SHORTEST_S, mean_power_w, poll, poll_all, updates

COUNTER = Signal("node0/package0", "energy_j", "measured", "fake", wrap_j=1000.0, max_power_w=500.0)
POWER = Signal("node0/gpu0", "power_w", "measured", "fake")


class Fake:
    """A sensor whose reading is a function of time; each takes ``cost_s`` of the clock."""

    source = "fake"
    may_block = False

    def __init__(
        self, clock: FakeClock, value: Callable[[float], float], *, min_period_s: float = 0.0, cost_s: float = 0.0
    ) -> None:
        self.clock, self.value, self.min_period_s, self.cost_s = clock, value, min_period_s, cost_s
        self.signals = (COUNTER,)
        self.asked_s: list[float] = []

    def read(self, now_s: float) -> tuple[float, ...]:
        self.asked_s.append(now_s)
        self.clock.advance(self.cost_s)
        return (self.value(now_s),)

    def health(self) -> tuple[tuple[float, ...], ...]:
        return ()

    def close(self) -> None:
        pass


def looked(fake: Fake, seconds: float = 2.0):
    return poll(fake, seconds, fake.clock.now, fake.clock.advance)


def stepping(period_s: float, watts: float = 100.0) -> Callable[[float], float]:
    """A counter that is brought up to date once a period."""
    return lambda t: watts * period_s * math.floor(t / period_s + 1e-9) % 1000.0


@given(st.floats(0.003, 0.5), st.floats(1.0, 400.0), st.floats(0.0, 1.0))
def test_update_period_and_power_of_a_counter_come_out(period_s, watts, start_s):
    times, values = looked(Fake(FakeClock(start_s), stepping(period_s, watts)), 20 * period_s).of(0)
    seen = updates(times, values)
    assert seen.period_s == pytest.approx(period_s, abs=2 * SHORTEST_S / 15)
    assert not seen.at_most
    # Between two changes the counter has no error but when the changes were seen.
    assert mean_power_w(times, values, COUNTER) == pytest.approx(watts, rel=3 * SHORTEST_S / (15 * period_s) + 1e-9)


def test_a_source_as_slow_as_it_may_be_asked_is_only_bounded():
    clock = FakeClock()
    seen = updates(*looked(Fake(clock, lambda t: 100.0 * t, min_period_s=0.1)).of(0))
    assert seen.period_s == pytest.approx(0.1)
    assert seen.at_most


@pytest.mark.parametrize(("min_period_s", "cost_s"), [(1.0, 0.0), (0.1, 0.02), (0.09, 0.2), (0.0, 1e-5)])
def test_no_source_is_asked_sooner_than_it_allows(min_period_s, cost_s):
    fake = Fake(FakeClock(), stepping(0.1), min_period_s=min_period_s, cost_s=cost_s)
    found = looked(fake)
    gaps = [b - a for a, b in itertools.pairwise(fake.asked_s)]
    assert min(gaps) >= max(min_period_s, SHORTEST_S) - 1e-9
    assert found.took_s == pytest.approx([cost_s] * (len(gaps) + 1))
    assert fake.clock.now() <= 2.0 + cost_s


def test_a_slow_source_is_read_twice_whatever_the_time():
    fake = Fake(FakeClock(), lambda t: 7.0, min_period_s=5.0)
    assert len(looked(fake, 0.1).t_s) == 2


def test_what_does_not_change_has_no_period_and_a_counter_no_power():
    times, values = looked(Fake(FakeClock(), lambda t: 7.0)).of(0)
    assert updates(times, values) == (None, False)
    assert mean_power_w(times, values, COUNTER) is None
    assert mean_power_w(times, values, POWER) == 7.0


def test_failed_readings_are_left_out():
    found = looked(Fake(FakeClock(), lambda t: math.nan if 0.5 < t < 1.0 else 100.0 * t))
    times, values = found.of(0)
    assert 0.7 < len(times) / len(found.t_s) < 0.8
    assert mean_power_w(times, values, COUNTER) == pytest.approx(100.0)
    assert mean_power_w([], [], POWER) is None


def test_wraps_are_carried_and_falls_and_jumps_are_not_counted():
    assert mean_power_w([0, 1, 2, 3], [900.0, 950.0, 0.0, 50.0], COUNTER) == pytest.approx(50.0)
    unwrapped = replace(COUNTER, wrap_j=None)
    assert mean_power_w([0, 1, 2, 3, 4], [900.0, 950.0, 0.0, 50.0, 100.0], unwrapped) == pytest.approx(50.0)
    far = replace(COUNTER, wrap_j=262_143.0)
    assert mean_power_w([0, 1, 2, 3, 4], [900.0, 950.0, 250_000.0, 250_050.0, 250_100.0], far) == pytest.approx(50.0)


def test_the_gain_is_in_the_power():
    assert mean_power_w([0, 1], [7.0, 9.0], replace(POWER, gain=1.25)) == 10.0
    assert mean_power_w([0, 1, 2], [0.0, 10.0, 20.0], replace(COUNTER, gain=1.1)) == pytest.approx(11.0)


def test_a_source_that_raises_is_a_finding():
    def broken(t: float) -> float:
        if t > 0.5:
            raise RuntimeError("gone")
        return t

    found = looked(Fake(FakeClock(), broken))
    assert "RuntimeError('gone')" in found.why
    assert found.t_s


def test_a_source_that_hangs_holds_up_no_other():
    release = threading.Event()
    clock = FakeClock()

    def hang(_t: float) -> float:
        release.wait(30.0)
        return 0.0

    fakes = [Fake(clock, hang), Fake(clock, lambda t: 7.0)]
    sources = [OpenSource(fake, fake.signals, lambda machine: (None, None)) for fake in fakes]
    try:
        stuck, fine = poll_all(sources, 0.01, grace_s=0.2)
    finally:
        release.set()
    assert "did not answer within 0.2 s" in stuck.why
    assert fine.why == ""
    assert fine.of(0)[1][0] == 7.0


def test_nothing_to_read_is_nothing_read():
    assert poll_all([], 5.0) == []
