"""Replay: a stored trace is played as it was recorded."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ergometry.core.domain import Domain
from ergometry.core.ports import Availability, Machine
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.sensors.replay import VARIABLE, Recording, Replay, open_replay
from ergometry.store.export import export
from support.stored import store_run
from support.synthetic import MODELLED, PACKAGE, synthetic_run


def looked(path: Path | str) -> tuple[Replay | None, Availability]:
    return open_replay(Machine(Path("/nowhere"), Path("/nowhere"), {VARIABLE: str(path)}))


def opened(path: Path) -> Replay:
    sensor, availability = looked(path)
    assert sensor is not None, availability
    return sensor


@pytest.fixture
def run() -> Run:
    return synthetic_run(power_w=lambda t: 40.0 + 20.0 * np.sin(t))


def played(sensor: Replay, run: Run, *, begin_s: float = 1000.0) -> np.ndarray:
    """Read at the run's own times, by a clock that stands elsewhere."""
    return np.array([sensor.read(begin_s + t) for t in run.samples[0].table["t_s"]])


def test_a_stored_run_gives_its_own_readings_again(run, tmp_path):
    folder = store_run(run, tmp_path, commits=3)
    for path in (folder, next(folder.glob("*.sqlite"))):
        sensor = opened(path)
        assert np.array_equal(played(sensor, run), run.samples[0].table.rows[:, 1:])
        (signal,) = sensor.signals
        assert signal == replace(PACKAGE, method=signal.method, update_period_s=pytest.approx(0.1))
        assert signal.method.startswith("replay of ")
        assert signal.method.endswith(PACKAGE.method)


def test_the_energy_of_a_replay_is_that_of_the_run(run, tmp_path):
    sensor = opened(store_run(run, tmp_path))
    at = np.arange(0.0, run.duration_s, 0.05)
    again = Trace.from_samples(at, [sensor.read(7.0 + t)[0] for t in at], sensor.signals[0])
    truth = run.traces()[Domain("node0/package0")]
    for t0_s, t1_s in ((0.0, 5.0), (1.23, 17.7)):
        # A held reading is up to 0.1 s old at either edge, at no more than 60 W.
        assert again.energy(t0_s, t1_s).value == pytest.approx(truth.energy(t0_s, t1_s).value, abs=2 * 0.1 * 60.0)


def test_between_two_readings_it_is_the_older_one():
    sensor = Replay([Recording((PACKAGE,), [2.0, 3.0, 5.0], ([10.0, 20.0, math.nan],))], "x")
    expected = {100.0: 10.0, 100.999: 10.0, 101.0: 20.0, 102.9: 20.0, 103.0: math.nan, 103.1: math.nan}
    assert [sensor.read(now_s)[0] for now_s in expected] == pytest.approx(list(expected.values()), nan_ok=True)
    assert sensor.signals[0].update_period_s == 2.0


def test_it_plays_once_and_its_end_is_a_gap(run, tmp_path):
    sensor = opened(store_run(run, tmp_path))
    first = sensor.read(0.0)
    last_s = float(run.samples[0].table["t_s"][-1])
    assert math.isfinite(sensor.read(last_s)[0])
    for now_s in (last_s + 1e-3, 2 * last_s, 1e9):
        assert math.isnan(sensor.read(now_s)[0])
    assert math.isfinite(first[0])


def test_what_export_wrote_is_played_with_its_signals(run, tmp_path):
    export(run, "csv", tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out/samples-rapl.csv"):
        sensor = opened(path)
        assert np.array_equal(played(sensor, run), run.samples[0].table.rows[:, 1:])
        assert sensor.signals[0].wrap_j == PACKAGE.wrap_j
        assert sensor.signals[0].provenance == "measured"


def test_a_table_alone_is_played_as_what_nobody_vouches_for(tmp_path):
    file = tmp_path / "meter.csv"
    file.write_text("t_s,node0 power_w,node0/gpu0 energy_j\n0,300,1\n1,nan,2\n2,310,3\n")
    sensor = opened(file)
    assert [(s.domain, s.quantity, s.provenance) for s in sensor.signals] == [
        ("node0", "power_w", "assumed"),
        ("node0/gpu0", "energy_j", "assumed"),
    ]
    assert sensor.read(0.0) == (300.0, 1.0)
    assert sensor.read(1.0) == pytest.approx((math.nan, 2.0), nan_ok=True)


def test_a_trace_as_json_is_a_counter_that_has_no_wrap_left(run, tmp_path):
    trace = run.traces()[Domain("node0/package0")]
    file = tmp_path / "trace.json"
    for stored in (trace.to_json(), [trace.to_json()]):
        file.write_text(json.dumps(stored))
        sensor = opened(file)
        assert sensor.signals[0].wrap_j is None
        assert np.array_equal(played(sensor, run)[:, 0], trace.e_j)


def test_times_that_do_not_increase_are_left_out(tmp_path):
    file = tmp_path / "meter.csv"
    file.write_text("t_s,node0 power_w\n0,1\n2,2\n1,3\nnan,4\n2,5\n3,6\ninf,7\n")
    sensor = opened(file)
    assert [sensor.read(float(t))[0] for t in (0, 1, 2, 3)] == [1.0, 1.0, 2.0, 6.0]
    assert math.isnan(sensor.read(4.0)[0])


def test_sources_keep_their_own_times_and_a_domain_is_played_once():
    short = Recording((PACKAGE,), [0.0, 0.1], ([1.0, 2.0],))
    long = Recording((PACKAGE,), [0.0, 0.1, 0.2], ([10.0, 20.0, 30.0],))
    model = Recording((MODELLED,), [0.1, 0.3], ([0.0, 80.0],))
    sensor = Replay([short, model, long], "x")
    assert [s.domain for s in sensor.signals] == ["node0/package0", "node0/cpu"]
    expected = [(10.0, math.nan), (20.0, 0.0), (30.0, 0.0), (math.nan, 80.0)]
    for t, values in zip((0.0, 0.1, 0.2, 0.3), expected, strict=True):
        assert sensor.read(50.0 + t) == pytest.approx(values, nan_ok=True)


def test_a_damaged_chunk_is_a_gap_of_its_own(tmp_path, run):
    file = next(store_run(run, tmp_path, commits=1).glob("*.sqlite"))
    with sqlite3.connect(file) as connection:
        connection.execute(
            "UPDATE chunks SET data = zeroblob(length(data)) WHERE kind = (SELECT id FROM kinds LIMIT 1)"
        )
    sensor, availability = looked(file)
    assert sensor is None
    assert "none in" in availability.why


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{}"),
        ("a.json", "[1, 2]"),
        ("a.json", '{"t_s": [0, 1], "e_j": [0], "signal": {}}'),
        ("a.json", "\x00"),
        ("a.csv", ""),
        ("a.csv", "t_s\n1\n"),
        ("a.csv", "t_s,node0 volts\n0,1\n"),
        ("a.csv", "t_s,node0 power_w\n0,1,2\n"),
        ("a.csv", "t_s,node0 power_w\n0,many\n"),
        ("a.csv", "t_s,node0 power_w\n"),
        ("a.sqlite", "not a database at all"),
        ("a.sqlite", ""),
    ],
)
def test_what_holds_no_recording_is_said_with_the_remedy(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    sensor, availability = looked(tmp_path / name)
    assert sensor is None
    assert not availability.present
    assert availability.why
    assert availability.remedy


def test_nothing_named_and_nothing_there(tmp_path):
    assert VARIABLE in looked("")[1].why
    assert looked(tmp_path / "gone")[0] is None
    assert looked(tmp_path)[0] is None


def test_close_twice_and_then_nan(tmp_path, run):
    sensor = opened(store_run(run, tmp_path))
    sensor.close()
    sensor.close()
    assert math.isnan(sensor.read(0.0)[0])
