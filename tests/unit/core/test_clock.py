"""Clocks: one that is the machine's, one that is told."""

from __future__ import annotations

import time

from ergometry.core.clock import FakeClock, SystemClock


def test_a_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(5.0)
    assert clock.now() == clock.now() == 5.0
    clock.advance(2.5)
    assert clock.now() == 7.5


def test_the_system_clock_is_the_monotonic_one() -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    now = SystemClock().now()
    assert before <= now <= time.clock_gettime(time.CLOCK_MONOTONIC)
