"""The simulated accelerator: power from work, clock and cap, with exact energy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.sensors.accelerator import Accelerator, Load, Stretch, Work

BOARD = Accelerator(50.0, 1e-12, 40e-12, 300e12, 2e12)

stretches = st.lists(st.builds(Stretch, st.floats(1e-3, 50.0), st.floats(0.0, 500.0)), min_size=1, max_size=20)


@given(stretches, st.floats(-10.0, 500.0), st.floats(0.0, 300.0), st.booleans())
def test_energy_is_the_integral_of_power(parts: list[Stretch], begin: float, length: float, repeat: bool) -> None:
    load = Load(parts, repeat=repeat)
    edges = np.array(load.edges_s)
    if repeat:
        rounds = np.arange(math.ceil((begin + length) / load.duration_s) + 1)
        edges = np.unique((edges + load.duration_s * rounds[:, None]).ravel()) if len(rounds) < 500 else edges[:0]
    if not len(edges):
        return
    cuts = np.unique(np.concatenate(([begin, begin + length], edges[(edges > begin) & (edges < begin + length)])))
    brute = sum((b - a) * load.power_w(0.5 * (a + b)) for a, b in itertools.pairwise(cuts))
    found = load.energy_j(begin + length) - load.energy_j(begin)
    assert found == pytest.approx(brute, rel=1e-6, abs=1e-3)


def test_before_its_beginning_the_first_power_holds_and_after_the_end_the_last() -> None:
    load = Load([Stretch(1, 10), Stretch(0, 99), Stretch(1, 30)])
    assert [load.energy_j(t) for t in (-2, 0, 1, 1.5, 2, 4)] == [-20, 0, 10, 25, 40, 100]
    assert [load.power_w(t) for t in (-2, 0, 1, 9)] == [10, 10, 30, 30]


@pytest.mark.parametrize("parts", [[], [Stretch(0, 5)], [Stretch(-1, 5)], [Stretch(1, -5)], [Stretch(math.inf, 5)]])
def test_a_schedule_without_sense_is_refused(parts: list[Stretch]) -> None:
    with pytest.raises(UsageError):
        Load(parts)


def test_power_is_static_plus_the_energy_of_operations_and_bytes() -> None:
    done = BOARD.do(Work(flop=150e12, bytes=1e12))
    assert done.seconds == pytest.approx(0.5)
    assert done.power_w == pytest.approx(50 + (150e12 * 1e-12 + 1e12 * 40e-12) / 0.5)


def test_work_lasts_as_long_as_its_slower_half() -> None:
    assert BOARD.do(Work(flop=3e12, bytes=2e12)).seconds == pytest.approx(1.0)
    assert BOARD.do(Work(flop=300e12, bytes=2e9)).seconds == pytest.approx(1.0)
    assert BOARD.do(Work(seconds=2.0)) == Stretch(2.0, 50.0, 1.0)
    assert BOARD.do(Work()) == Stretch(0.0, 50.0, 1.0)


def test_a_lower_clock_takes_longer_and_fewer_joules_for_arithmetic_but_not_for_traffic() -> None:
    arithmetic, traffic = Work(flop=300e12), Work(bytes=2e12)
    slow = BOARD.clocked(0.5)
    fast_j, slow_j = (b.do(arithmetic).power_w * b.do(arithmetic).seconds for b in (BOARD, slow))
    assert slow.do(arithmetic).seconds == pytest.approx(2.0)
    assert slow_j - 50 * 2 == pytest.approx((fast_j - 50) * 0.5**1.5)
    assert slow.do(traffic)[:2] == BOARD.do(traffic)[:2]


@given(st.floats(60, 400), st.floats(1e9, 1e15), st.floats(0, 1e12))
def test_a_cap_is_held_by_the_highest_clock_that_holds_it(cap_w: float, flop: float, moved: float) -> None:
    work = Work(flop, moved)
    free, capped = BOARD.do(work), BOARD.capped(cap_w).do(work)
    if free.power_w <= cap_w:
        assert capped == free
        return
    least = BOARD.clocked(BOARD.least_clock).do(work)
    if least.power_w > cap_w:
        assert capped.power_w == pytest.approx(least.power_w), "a cap that cannot be held"
        return
    assert capped.power_w <= cap_w * (1 + 1e-9)
    assert capped.seconds >= free.seconds
    assert capped.power_w == pytest.approx(cap_w, rel=1e-6)
    assert BOARD.least_clock <= capped.clock < 1


def test_a_cap_saves_joules_of_arithmetic_until_static_power_eats_them() -> None:
    work = Work(flop=300e12)
    joules = [math.prod(BOARD.capped(cap).do(work)[:2]) for cap in (350, 250, 150)]
    assert joules[0] > joules[1] > joules[2]
    assert math.prod(BOARD.capped(60).do(work)[:2]) > joules[2]
