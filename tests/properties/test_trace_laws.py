"""Laws of Trace that hold for any load."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ergometry.core.counter import unwrap
from ergometry.core.ports import Signal
from ergometry.core.trace import Trace

SIGNAL = Signal("n/p0", "energy_j", "measured", "counter", resolution_j=0.25, update_period_s=0.0037, rel_stderr=0.02)
PERFECT = replace(SIGNAL, resolution_j=0.0, update_period_s=0.0, rel_stderr=0.0)

steps_s = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=30)
watts = st.floats(0.0, 500.0).map(lambda x: 0.0 if x < 1e-6 else x)


@st.composite
def loads(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Return times (n,) and the energy used until then (n,), of random powers over random intervals."""
    widths = draw(steps_s)
    powers = draw(st.lists(watts, min_size=len(widths), max_size=len(widths)))
    t = draw(st.floats(0, 1000)) + np.concatenate(([0.0], np.cumsum(widths)))
    return t, np.concatenate(([0.0], np.cumsum(np.multiply(widths, powers))))


fractions = st.lists(st.floats(-0.2, 1.2), min_size=2, max_size=12).map(sorted)


def times(t: np.ndarray, at: list[float]) -> np.ndarray:
    """Return the fractions of a span as times, some of them outside it."""
    return t[0] + np.array(at) * (t[-1] - t[0])


@given(loads(), fractions)
def test_windows_that_tile_a_span_sum_to_its_energy(load: tuple[np.ndarray, np.ndarray], at: list[float]) -> None:
    trace = Trace.from_samples(*load, SIGNAL)
    edges = times(load[0], at)
    parts = [trace.energy(a, b).value or 0.0 for a, b in itertools.pairwise(edges)]
    whole = trace.energy(edges[0], edges[-1])
    assert math.fsum(parts) == pytest.approx(whole.value, rel=1e-9, abs=1e-9)
    assert all(part >= -1e-9 * (1 + whole.value) for part in parts), "energy only rises"


@given(loads())
def test_the_whole_window_holds_what_was_used(load: tuple[np.ndarray, np.ndarray]) -> None:
    t, used = load
    trace = Trace.from_samples(t, used + 17.0, PERFECT)
    assume(not len(trace.bridges))  # a rest among many working intervals is taken for a stuck counter
    assert trace.energy(t[0], t[-1]).value == pytest.approx(used[-1], rel=1e-9, abs=1e-9)


@given(loads(), fractions, st.floats(0.01, 100), st.floats(0.01, 100), st.sampled_from(["energy_j", "power_w"]))
def test_power_times_a_and_time_times_b_scale_energy_and_its_error_by_ab(
    load: tuple[np.ndarray, np.ndarray], at: list[float], a: float, b: float, quantity: str
) -> None:
    """The law that catches a watt taken for a joule, or an error that does not follow its unit."""
    t, x = load
    signal = replace(SIGNAL, quantity=quantity)
    scaled = replace(signal, resolution_j=a * b * signal.resolution_j, update_period_s=b * signal.update_period_s)
    factor = a * b if quantity == "energy_j" else a
    plain, other = Trace.from_samples(t, x, signal), Trace.from_samples(t * b, x * factor, scaled)
    t0, t1 = times(t, [at[0], at[-1]])
    before, after = plain.energy(t0, t1), other.energy(t0 * b, t1 * b)
    size = abs(float(plain.e_j[-1])) + 1.0
    assert after.value == pytest.approx(a * b * before.value, rel=1e-6, abs=1e-8 * a * b * size)
    assert after.stderr == pytest.approx(a * b * before.stderr, rel=1e-4, abs=1e-5 * a * b * size)


@given(loads(), fractions, st.floats(-1e4, 1e4))
def test_the_origin_of_time_does_not_matter(load: tuple[np.ndarray, np.ndarray], at: list[float], shift: float) -> None:
    t, used = load
    t0, t1 = times(t, [at[0], at[-1]])
    here, there = Trace.from_samples(t, used, SIGNAL), Trace.from_samples(t + shift, used, SIGNAL)
    assert there.energy(t0 + shift, t1 + shift).value == pytest.approx(here.energy(t0, t1).value, rel=1e-6, abs=1e-4)


@given(loads(), st.floats(0.0, 1.0), st.floats(0.0, 0.005), st.floats(0.0, 1.0))
def test_a_coarser_counter_never_has_a_smaller_error(
    load: tuple[np.ndarray, np.ndarray], resolution_j: float, update_period_s: float, rel_stderr: float
) -> None:
    t, used = load
    coarse = replace(PERFECT, resolution_j=resolution_j, rel_stderr=rel_stderr)
    late = replace(PERFECT, update_period_s=update_period_s)
    fine, rough, slow = (Trace.from_samples(t, used, signal) for signal in (PERFECT, coarse, late))
    a, b = fine.energy(t[0], t[-1]), rough.energy(t[0], t[-1])
    assert b.value == a.value
    assert b.stderr >= a.stderr
    # Of an update period, from knot to knot: in between the split is another one.
    assert slow.energy(slow.t_s[0], slow.t_s[-1]).stderr >= fine.energy(fine.t_s[0], fine.t_s[-1]).stderr


@given(loads())
def test_a_power_that_is_a_counter_s_slope_gives_the_counter_s_energy(load: tuple[np.ndarray, np.ndarray]) -> None:
    """A power read often enough inside intervals of constant load has their energy, but for the jumps."""
    t, used = load
    fine = np.unique(np.concatenate([np.linspace(a, b, 200) for a, b in itertools.pairwise(t)]))
    interval = np.clip(np.searchsorted(t, fine, side="right") - 1, 0, len(t) - 2)
    power = (np.diff(used) / np.diff(t))[interval]
    trace = Trace.from_samples(t, used, PERFECT)
    assume(not len(trace.bridges))
    counter = trace.energy(t[0], t[-1]).value or 0.0
    integrated = Trace.from_samples(fine, power, replace(PERFECT, quantity="power_w")).energy(t[0], t[-1]).value
    jumps = np.abs(np.diff(power)).sum() * np.diff(fine).max()
    assert integrated == pytest.approx(counter, rel=1e-9, abs=jumps + 1e-6)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=60), st.integers(0, 255))
def test_unwrapping_undoes_a_counter_modulo_its_range(increments: list[int], start: int) -> None:
    readings = [start]
    for increment in increments:
        readings.append((readings[-1] + increment) % 256)
    assert unwrap(readings, 256).tolist() == [0, *np.cumsum(increments)]


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=60), st.integers(0, 255), st.data())
def test_failed_reads_change_nothing_at_the_readings_that_came(
    steps: list[tuple[int, bool]], start: int, data: st.DataObject
) -> None:
    """Brute force: the sum of the modular differences between consecutive readings that came.

    No run of failures is long enough to hide a whole wrap of 256, as five steps of 40 are not.
    """
    readings: list[float] = [float(start)]
    for increment, _ in steps:
        readings.append((readings[-1] + increment) % 256)
    failed, streak = [False], 0
    for _, fails in steps:
        streak = streak + 1 if fails and streak < 5 else 0
        failed.append(streak > 0)
    seen = [math.nan if gone else x for x, gone in zip(readings, failed, strict=True)]
    with_all, with_some = unwrap(readings, 256, 40), unwrap(seen, 256, 40)
    for i, gone in enumerate(failed):
        if not gone:
            assert with_some[i] == with_all[i]


@given(st.lists(st.floats(0, 300), min_size=2, max_size=40), st.floats(0.1, 300))
def test_no_increment_exceeds_its_limit_and_none_is_negative(counter: list[float], limit: float) -> None:
    for wrap in (None, 300.0):
        rises = np.diff(unwrap(counter, wrap, limit))
        assert np.all(rises >= -1e-9)
        assert np.all(rises <= limit + 1e-9)


@given(loads(), st.lists(st.integers(0, 29), max_size=10), st.sampled_from(["nan", "backward", "equal"]))
def test_bad_samples_among_good_ones_change_nothing_where_the_good_ones_are(
    load: tuple[np.ndarray, np.ndarray], places: list[int], kind: str
) -> None:
    t, used = load
    bad_t, bad_x = list(t), list(used)
    inserted = sorted({min(place, len(t) - 1) for place in places}, reverse=True)
    for place in inserted:
        when = {"nan": math.nan, "backward": t[place] - 0.005, "equal": t[place]}[kind]
        bad_t.insert(place + 1, when)
        bad_x.insert(place + 1, 1e6)
    trace = Trace.from_samples(bad_t, bad_x, PERFECT)
    assume(not len(trace.bridges))
    assert trace.gaps == len(inserted)
    assert trace.t_s.tolist() == t.tolist()
    assert trace.e_j == pytest.approx(used)
