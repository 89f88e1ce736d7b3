"""The simulated sensor: what it shows of a truth that is known, and how it fails."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ergometry.core.ports import Machine, Signal
from ergometry.core.trace import Trace
from ergometry.sensors.accelerator import Load, Stretch
from ergometry.sensors.simulated import BOARDS, VARIABLE, Faults, Front, SimulatedSensor, describe, open_simulated

STEADY = Load([Stretch(1.0, 100.0)])
SQUARE = Load([Stretch(0.5, 100.0), Stretch(0.5, 300.0)], repeat=True)


def sensor(front: Front, faults: Faults | None = None, load: Load = STEADY) -> SimulatedSensor:
    return SimulatedSensor(load.energy_j, front, faults or Faults(), origin_s=0.0)


def readings(front: Front, at: np.ndarray, faults: Faults | None = None, load: Load = STEADY) -> np.ndarray:
    one = sensor(front, faults, load)
    return np.array([one.read(float(t))[0] for t in at])


def test_a_counter_shows_the_energy_until_its_last_update() -> None:
    at = np.array([0.0, 0.05, 0.149, 0.151, 0.25, 0.6])
    shown = readings(Front(period_s=0.1, phase_s=0.05), at, load=SQUARE)
    assert shown == pytest.approx([-5.0, 5.0, 5.0, 15.0, 25.0, 65.0])


def test_a_counter_without_a_period_is_always_up_to_date() -> None:
    at = np.array([0.0, 0.3, 0.75, 2.0])
    assert readings(Front(), at, load=SQUARE) == pytest.approx([0.0, 30.0, 125.0, 400.0])


def test_a_part_time_counter_takes_what_it_saw_for_the_whole_period() -> None:
    """Of every second it sees the last quarter, at 300 W: it counts 300 J where 200 were used."""
    front = Front(period_s=1.0, averaging_s=0.25)
    assert np.diff(readings(front, np.arange(1.0, 6.0), load=SQUARE)) == pytest.approx([300.0] * 4)
    other = Front(period_s=1.0, averaging_s=0.25, phase_s=0.4)
    assert np.diff(readings(other, np.arange(1.5, 6.0), load=SQUARE)) == pytest.approx([100.0] * 4)


def test_a_power_is_the_mean_of_the_window_before_the_last_update() -> None:
    front = Front("power_w", period_s=0.1, averaging_s=1.0)
    assert readings(front, np.array([2.05, 2.33, 2.99]), load=SQUARE) == pytest.approx([200.0] * 3)
    short = Front("power_w", period_s=0.1, averaging_s=0.2)
    assert readings(short, np.array([2.05, 2.43, 2.65]), load=SQUARE) == pytest.approx([300.0, 100.0, 200.0])
    instant = Front("power_w")
    assert readings(instant, np.array([2.25, 2.75]), load=SQUARE) == pytest.approx([100.0, 300.0])


def test_gain_steps_start_and_wrap() -> None:
    at = np.arange(0.0, 10.0)
    assert readings(Front(gain=1.1), at) == pytest.approx(110 * at)
    assert readings(Front(resolution=64.0), at).tolist() == [64 * (100 * t // 64) for t in at]
    assert readings(Front(start_j=950.0, wrap_j=1000.0), np.array([0.0, 1.0, 11.0])).tolist() == [950, 50, 50]
    assert readings(Front("power_w", gain=0.5, resolution=1.0), at).tolist() == pytest.approx([50] * 10, abs=1)


def test_updates_jitter_around_their_period_and_never_come_late_by_more_than_it() -> None:
    regular, jittered = (
        readings(Front(period_s=0.1, jitter=jitter, seed=3), np.arange(5.0, 9.0, 1e-3)) for jitter in (0.0, 0.2)
    )
    changes = [np.diff(np.flatnonzero(np.diff(x))) / 1e3 for x in (regular, jittered)]
    assert np.ptp(changes[0]) < 0.002
    assert 0.08 < changes[1].min() < 0.095 < 0.105 < changes[1].max() < 0.12
    assert changes[1].mean() == pytest.approx(0.1, abs=0.002)


def test_the_same_seed_reads_the_same_and_another_does_not() -> None:
    at = np.arange(0.0, 20.0, 0.37)
    front = {"period_s": 0.1, "averaging_s": 0.02, "jitter": 0.2}
    one, same, other = (readings(Front(**front, seed=s), at, Faults(dropouts=0.2), SQUARE) for s in (1, 1, 2))
    assert np.array_equal(one, same, equal_nan=True)
    assert not np.array_equal(one, other, equal_nan=True)


def test_asked_for_an_earlier_time_it_answers_as_it_did() -> None:
    one = sensor(Front(period_s=0.1, averaging_s=0.02), load=SQUARE)
    first = [one.read(t) for t in (1.0, 2.0, 3.0)]
    assert [one.read(t) for t in (1.0, 2.0, 3.0)] == first


def test_dropouts_are_as_many_as_was_said() -> None:
    shown = readings(Front(), np.arange(5000.0), Faults(dropouts=0.1))
    assert np.mean(np.isnan(shown)) == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("averaging_s", [0.0, 0.02])
def test_a_stuck_counter_misses_what_was_used_or_catches_up(averaging_s: float) -> None:
    at = np.array([5.0, 10.0, 15.0, 19.9, 20.0, 30.0])
    front = Front(period_s=0.1, averaging_s=averaging_s)
    lost = readings(front, at, Faults(stuck=((10.0, 20.0),)))
    caught = readings(front, at, Faults(stuck=((10.0, 20.0),), catches_up=True))
    assert lost - lost[1] == pytest.approx([-500, 0, 0, 0, 0, 1000], abs=11)
    assert caught - caught[1] == pytest.approx([-500, 0, 0, 0, 1000, 2000], abs=11)
    power = readings(Front("power_w"), np.array([0.4, 0.6, 0.9]), Faults(stuck=((0.3, 0.8),)), SQUARE)
    assert power == pytest.approx([100, 100, 300])


def test_a_counter_that_steps_backward() -> None:
    shown = readings(Front(start_j=1000.0), np.arange(5.0), Faults(backward=((1.5, 30.0), (3.5, 500.0))))
    assert shown.tolist() == [1000, 1100, 1170, 1270, 870]


def test_a_driver_that_goes_and_returns_begins_its_counter_at_zero() -> None:
    faults = Faults(lost=((3.0, 5.0),), backward=((1.5, 30.0), (6.5, 50.0)))
    shown = readings(Front(start_j=1000.0), np.array([2.0, 3.0, 4.9, 5.0, 6.0, 7.0]), faults)
    assert shown[0] == 1170
    assert np.isnan(shown[1:3]).all()
    assert shown[3:].tolist() == pytest.approx([0, 100, 150])


def test_many_reads_of_a_counter_with_faults_take_no_longer_each() -> None:
    """The updates are added up once, not at every read."""
    calls = 0

    def energy_j(t: float) -> float:
        nonlocal calls
        calls += 1
        return 100.0 * t

    faults = Faults(stuck=((5.0, 6.0), (7.0, 8.0)), lost=((20.0, 21.0),))
    one = SimulatedSensor(energy_j, Front(period_s=0.1, averaging_s=0.02), faults, origin_s=0.0)
    for t in np.arange(0.0, 60.0, 0.1).tolist():
        one.read(t)
    assert calls < 10_000


def test_a_trace_of_it_holds_the_truth() -> None:
    one = sensor(Front(period_s=0.1, resolution=1e-3, gain=1.02, wrap_j=5000.0, start_j=4000.0), load=SQUARE)
    at = np.arange(0.0, 60.0)
    trace = Trace.from_samples(at, [one.read(t)[0] for t in at], one.signals[0])
    assert trace.energy(10, 50).value == pytest.approx(1.02 * one.true_energy_j(10, 50), rel=0.003)


def test_the_origin_is_the_first_read() -> None:
    one = SimulatedSensor(SQUARE.energy_j, Front())
    assert [one.read(1e6 + t)[0] for t in (0.0, 0.5, 1.0)] == pytest.approx([0, 50, 200])
    assert one.true_energy_j(1e6 + 0.5, 1e6 + 1.0) == pytest.approx(150)


def opened(value: str | None) -> tuple[SimulatedSensor | None, str]:
    found, availability = open_simulated(Machine(environ={} if value is None else {VARIABLE: value}))
    assert availability.source == "simulated"
    assert availability.present == (found is not None)
    assert availability.why
    assert bool(availability.remedy) == (found is None)
    return found, availability.why


@pytest.mark.parametrize("name", [*BOARDS, None])
def test_every_board_draws_between_its_idle_and_its_bound_and_keeps_the_contract(name: str | None) -> None:
    one, _ = opened(name)
    (signal,) = one.signals
    board = BOARDS[name or "a100"]
    at = 7e4 + np.arange(0.0, 120.0)
    trace = Trace.from_samples(at, [one.read(t)[0] for t in at], signal)
    assert board.accelerator.static_w < trace.mean_power_w <= board.accelerator.cap_w < signal.max_power_w
    estimate = trace.energy(at[10], at[110])
    assert abs(estimate.value - one.true_energy_j(at[10], at[110])) < 3 * estimate.stderr + 0.05 * estimate.value
    assert str(estimate.provenance) == "modelled", "a simulation is no measurement"
    assert Signal.from_json(json.loads(json.dumps(signal.to_json()))) == signal
    assert one.health() == ()
    one.close()
    one.close()


def test_json_sets_the_front_and_the_faults() -> None:
    stated = {
        "board": "v100",
        "gain": 1.03,
        "seed": 4,
        "wrap_j": None,
        "stuck": [[5, 9]],
        "catches_up": True,
        "phase_s": -0.01,
    }
    one, _ = opened(json.dumps(stated))
    assert (one.front.gain, one.front.seed, one.front.phase_s, one.front.period_s) == (1.03, 4, -0.01, 0.02)
    assert (one.faults.stuck, one.faults.catches_up) == (((5.0, 9.0),), True)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("h900", "no board 'h900'"),
        ("{", "not JSON"),
        ('{"board": 3}', "no board 3"),
        ('{"board": ["a100"]}', "no board ['a100']"),
        ('{"gane": 1}', "no setting 'gane'"),
        ('{"gain": "much"}', "gain is a number"),
        ('{"gain": true}', "gain is a number"),
        ('{"gain": NaN}', "gain is a number"),
        ('{"period_s": -1}', "period_s is a number that is not negative"),
        ('{"quantity": "volts"}', "quantity is energy_j or power_w"),
        ('{"quantity": 1}', "quantity is str"),
        ('{"stuck": [5, 9]}', "stuck is a list of pairs"),
        ('{"stuck": [[5, "x"]]}', "stuck is a list of pairs"),
        ('{"catches_up": 1}', "catches_up is bool"),
    ],
)
def test_a_value_without_sense_is_absent_with_the_reason_and_the_remedy(value: str, why: str) -> None:
    found, said = opened(value)
    assert found is None
    assert why in said


def test_what_is_described_is_what_the_front_does() -> None:
    counter = describe(Front(period_s=0.1, averaging_s=0.02, resolution=1e-3, wrap_j=9.0), rel_stderr=0.05)
    assert (counter.resolution_j, counter.resolution_w, counter.wrap_j, counter.rel_stderr) == (1e-3, 0, 9.0, 0.05)
    power = describe(Front("power_w", resolution=1e-3))
    assert (power.quantity, power.resolution_j, power.resolution_w) == ("power_w", 0, 1e-3)
    assert math.isclose(counter.update_period_s, 0.1)
