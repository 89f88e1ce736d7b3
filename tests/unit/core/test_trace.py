"""Trace: what a counter's samples mean, and what an honest error around a window holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ergometry.core.errors import InvalidSeries
from ergometry.core.estimate import Provenance
from ergometry.core.ports import Signal
from ergometry.core.trace import Trace

NAN = float("nan")
ENERGY = Signal("node0/package0", "energy_j", "measured", "rapl package-0")
POWER = replace(ENERGY, quantity="power_w", method="board power")


def test_a_counter_that_wraps_gives_the_energy_that_was_used() -> None:
    t = np.arange(0.0, 600.0)
    used = 250.0 * t
    signal = replace(ENERGY, wrap_j=65532.61, max_power_w=2000.0)
    trace = Trace.from_samples(t, (used + 65000.0) % 65532.61, signal)
    assert trace.energy(0, 599).value == pytest.approx(250 * 599)
    assert trace.mean_power_w == pytest.approx(250)


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


def test_a_reading_of_power_holds_half_way_to_the_next() -> None:
    trace = Trace.from_samples([0, 1, 3], [0, 10, 30], POWER)
    assert (trace.t_s.tolist(), trace.e_j.tolist()) == ([0, 0.5, 2, 3], [0, 0, 15, 45])
    assert trace.energy(0, 3).value == 45, "as by the trapezoid rule"


def test_constant_power_is_not_integrated_to_zero() -> None:
    assert Trace.from_samples([0, 1, 2, 3], [40, 40, 40, 40], POWER).energy(0, 3).value == 120


def test_power_and_counter_agree() -> None:
    t = np.linspace(0, 60, 601)
    power = 100 + 50 * np.sin(t)
    counter = 100 * t - 50 * np.cos(t) + 7
    a, b = Trace.from_samples(t, power, POWER), Trace.from_samples(t, counter, ENERGY)
    for window, rel in (((0, 60), 2e-3), ((3.21, 3.22), 0.04), ((10, 45.5), 2e-3)):
        assert a.energy(*window).value == pytest.approx(b.energy(*window).value, rel=rel)


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


STEADY = (np.arange(0.0, 60.0), 50.0 * np.arange(0.0, 60.0))


@pytest.mark.parametrize(
    ("signal", "stderr"),
    [
        (replace(ENERGY, resolution_j=12.0), 12 / np.sqrt(12) * np.sqrt(2)),
        (replace(ENERGY, update_period_s=0.1), 0.1 / np.sqrt(12) * 50 * np.sqrt(2)),
        (replace(ENERGY, rel_stderr=0.05), 50.0),
        (replace(ENERGY, update_period_s=0.1, averaging_s=0.025), 50 * np.hypot(0.1 / np.sqrt(6), 0.1 * np.sqrt(1.5))),
        (ENERGY, 0.0),
    ],
)
def test_each_part_of_the_error_of_a_steady_load(signal: Signal, stderr: float) -> None:
    """Twenty seconds at 50 W, from the time of one knot to that of another."""
    t, x = STEADY
    trace = Trace.from_samples(t, x, signal)
    first = trace.t_s[20]
    estimate = trace.energy(first, first + 20)
    assert estimate.value == pytest.approx(1000)
    assert estimate.stderr == pytest.approx(stderr, rel=1e-3)


def test_rounding_of_power_is_the_same_mistake_all_along() -> None:
    t = np.arange(0.0, 60.0)
    coarse = Trace.from_samples(t, np.full(60, 50.0), replace(POWER, resolution_w=12.0, averaging_s=1.0))
    assert coarse.energy(20, 40).stderr == pytest.approx(20 * 12 / np.sqrt(12), rel=0.01)


def test_the_part_of_an_interval_is_least_certain_in_its_middle_and_no_wilder_than_the_load() -> None:
    t = np.arange(0.0, 64.0)
    rng = np.random.default_rng(3)
    wild = Trace.from_samples(t, np.cumsum(rng.uniform(0, 100, 64)), ENERGY)
    calm = Trace.from_samples(t, np.cumsum(rng.uniform(49, 51, 64)), ENERGY)
    at = np.array([30.0, 30.1, 30.5, 30.9, 31.0])
    for trace in (wild, calm):
        edges = trace.edge_stderr_j(at)
        assert edges[0] == edges[-1] == 0
        assert edges[2] > edges[1] > 0
        assert edges[2] > edges[3] > 0
    middles = np.arange(20.5, 40.0)
    assert np.mean(wild.edge_stderr_j(middles)) > 3 * np.mean(calm.edge_stderr_j(middles))


def test_a_window_shorter_than_an_update_has_its_power_and_an_error_as_large_as_itself_when_power_varies() -> None:
    rng = np.random.default_rng(5)
    t = np.arange(0.0, 100.0)
    used = np.cumsum(rng.choice([10.0, 300.0], 100))
    trace = Trace.from_samples(t, used, replace(ENERGY, update_period_s=0.1))
    windows = [trace.energy(at, at + 0.02) for at in rng.uniform(20, 80, 200)]
    assert all(w.value > 0 and w.stderr > 0.2 * w.value for w in windows)


def test_both_edges_in_one_interval_share_the_error_of_its_knots() -> None:
    t, x = STEADY
    trace = Trace.from_samples(t, x, replace(ENERGY, update_period_s=0.1))
    short = trace.energy(30.2, 30.3)
    knots = np.sqrt(2) * 0.1 * 50 * 0.1 / np.sqrt(12)
    swing = 0.35 * 5 * 0.9
    assert knots < short.stderr < np.hypot(knots, swing)
    assert short.stderr < 0.5 * np.hypot(*trace.edge_stderr_j([30.2, 30.3])), "not that of two edges"


def test_the_end_of_the_last_sample_is_read_and_what_is_beyond_is_bridged() -> None:
    t, x = STEADY
    trace = Trace.from_samples(t, x, replace(ENERGY, update_period_s=0.5))
    assert trace.t_s[-1] == 58.75
    assert trace.energy(30, 59).provenance is Provenance.MEASURED
    assert trace.energy(30, 59).value == pytest.approx(29 * 50)
    near, far = trace.energy(30, 60.5), trace.energy(30, 89)
    assert (near.provenance, trace.bridged_j(30, 60.5)) == (Provenance.MEASURED, 0), "a sample or two may be late"
    assert (far.provenance, far.method) == (Provenance.MODELLED, "rapl package-0, 51 % of it bridged")
    assert far.value == pytest.approx(59 * 50)
    assert far.stderr > 0.3 * 30 * 50
    assert trace.bridged_j(30, 89) == pytest.approx(30 * 50)
    assert trace.energy(-30, 0).stderr > 0.3 * 30 * 50
    assert trace.bridged_j(-30, 30) == pytest.approx(29.75 * 50, rel=0.02)


@pytest.mark.parametrize("window", [(0, 99), (10, 60), (45, 55), (41, 59), (0, 45), (55, 99), (0, 30), (70, 99)])
def test_a_bridge_counts_by_what_a_window_shares_with_it(window: tuple[float, float]) -> None:
    t = np.arange(0.0, 100.0)
    x = 1000 + 50.0 * t
    x[t >= 60] -= x[60]
    gone = (t > 40) & (t < 60)
    trace = Trace.from_samples(t[~gone], x[~gone], ENERGY)
    shared = max(min(window[1], 60) - max(window[0], 40), 0)
    estimate = trace.energy(*window)
    assert trace.bridged_j(*window) == pytest.approx(50 * shared)
    assert estimate.value == pytest.approx(50 * (window[1] - window[0]))
    assert (estimate.provenance is Provenance.MODELLED) == (shared > 0)
    assert estimate.stderr == pytest.approx(0.35 * 50 * shared, rel=0.01, abs=6.0)


def test_a_window_of_no_joules_within_a_bridge_is_bridged_whole() -> None:
    power = replace(ENERGY, quantity="power_w", resolution_j=0.25, update_period_s=0.0037, rel_stderr=0.02)
    trace = Trace.from_samples([0.0, 1.0, 1.125, 1.25], [0.0, 1.0, 1.0, 1.0], power)
    none = trace.energy(0.0, 0.3125)
    assert trace.bridged_j(0.0, 0.3125) > 0.0 == none.value
    assert (none.provenance, none.method) == (Provenance.MODELLED, "rapl package-0, 100 % of it bridged")


def test_bridges_add_as_independent_errors() -> None:
    t = np.arange(0.0, 300.0)
    resets = [50, 100, 101, 200]
    x = 1e6 + 50.0 * t
    for at in resets:
        x[at:] -= x[at] - 3.0
    trace = Trace.from_samples(t, x, ENERGY)
    assert trace.bridges.tolist() == [[at - 1, at, 50] for at in resets]
    assert trace.energy(0, 299).value == pytest.approx(50 * 299)
    for window, seconds in (
        ((0, 299), [1, 1, 1, 1]),
        ((49.5, 99.5), [0.5, 0.5]),
        ((49.2, 49.7), [0.5]),
        ((60, 90), []),
    ):
        bridged = np.sqrt(np.sum(np.square(seconds))) * 0.35 * 50
        assert trace.stderr_j(*window)[0] == pytest.approx(bridged, abs=6.0 if window[0] % 1 else 1e-6)
    assert trace.edge_stderr_j(49.5) > trace.edge_stderr_j(60.5)


def test_a_bridge_is_as_uncertain_as_the_trace_s_powers_are_spread() -> None:
    t = np.arange(0.0, 300.0)
    x = 1e6 + np.cumsum(np.where(t % 20 < 10, 20.0, 180.0))
    x[200:] = NAN
    trace = Trace.from_samples(t, x, ENERGY)
    assert trace.stderr_j(199, 299)[0] == pytest.approx(100 * np.hypot(80, 35), rel=0.03)


def test_power_that_was_not_read_for_long_is_bridged() -> None:
    t = np.arange(0.0, 100.0)
    power = np.where(t < 50, 60.0, 100.0)
    power[40:60] = NAN
    trace = Trace.from_samples(t, power, POWER)
    assert trace.bridges.tolist() == [[39, 60, 80]]
    assert trace.energy(0, 99).provenance is Provenance.MODELLED
    assert trace.energy(0, 30).provenance is Provenance.MEASURED
    assert trace.gaps == 20


def test_a_gain_multiplies_counter_power_and_bridge() -> None:
    t = np.arange(0.0, 60.0)
    x = 1e4 + 50.0 * t
    x[30:] -= x[30]
    for samples, signal in ((x, ENERGY), (np.full(60, 50.0), POWER)):
        plain = Trace.from_samples(t, samples, signal)
        gained = Trace.from_samples(t, samples, replace(signal, gain=1.1))
        assert gained.energy(3, 50).value == pytest.approx(1.1 * plain.energy(3, 50).value)
        assert gained.energy(3, 50).stderr == pytest.approx(1.1 * plain.energy(3, 50).stderr)
        assert gained.bridged_j(3, 50) == pytest.approx(1.1 * plain.bridged_j(3, 50))


@pytest.mark.parametrize("quantity", ["energy_j", "power_w"])
def test_blocks_leave_no_seam(quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    t = np.cumsum(rng.uniform(0.05, 1.0, 700))
    x = np.cumsum(rng.uniform(20, 90, 700)) % 5000 if quantity == "energy_j" else rng.uniform(20, 90, 700)
    x[rng.integers(0, 700, 20)] = NAN
    signal = replace(
        ENERGY, quantity=quantity, wrap_j=5000.0, max_power_w=2000.0, averaging_s=0.01, update_period_s=0.04
    )
    whole = Trace.from_samples(t, x, signal)
    expected = whole.stderr_j(t[10:-60:7], t[60:-10:7])
    for module in ("counter", "knots", "wander", "trace"):
        monkeypatch.setattr(f"ergometry.core.{module}.BLOCK", 32)
    parts = Trace.from_samples(t, x, signal)
    assert parts.t_s == pytest.approx(whole.t_s)
    assert parts.e_j == pytest.approx(whole.e_j)
    assert parts.stderr_j(t[10:-60:7], t[60:-10:7]) == pytest.approx(expected)


def test_a_trace_is_plain_data() -> None:
    trace = Trace.from_samples([0, 1, NAN], [0, 5, 6], ENERGY)
    data = trace.to_json()
    assert (data["t_s"], data["e_j"], data["gaps"], data["bridges"]) == ([0, 1], [0, 5], 1, [])
    assert Signal(**data["signal"]) == ENERGY
