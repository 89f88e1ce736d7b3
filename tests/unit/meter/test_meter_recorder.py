"""The recorder's schedule and endings, in this process and by a clock that moves only when told."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ergometry.core.clock import FakeClock
from ergometry.core.errors import StoreError
from ergometry.core.ports import Availability, OpenSource, Signal
from ergometry.core.run import Run
from ergometry.core.series import LOSSES, PROCESS, STEPS
from ergometry.meter import recorder as recorder_module
from ergometry.meter import sampler as sampler_module
from ergometry.meter import shared
from ergometry.meter.recorder import COMMIT_S, DITHER, Recorder
from ergometry.meter.ring import RING_BYTES, SLOTS, RingWriter
from ergometry.meter.shared import SharedMemory
from ergometry.store.reader import load

ORIGIN_S = 1000.0


class Counter:
    """A counter of 10 W that knows when it was read."""

    source = "fake"
    signals = (Signal("node0/package0", "energy_j", "measured", "counter"),)
    min_period_s = 0.0
    may_block = False

    def __init__(self) -> None:
        self.read_at: list[float] = []
        self.closed = False

    def read(self, now_s: float) -> tuple[float, ...]:
        self.read_at.append(now_s - ORIGIN_S)
        return (10.0 * now_s,)

    def health(self) -> tuple[tuple[float, ...], ...]:
        return ()

    def close(self) -> None:
        self.closed = True


class World:
    """A recorder, the memory it shares with a training process, and things that happen there at given times."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
        self.clock = FakeClock(ORIGIN_S)
        self.sensor = Counter()
        self.found = [Availability("fake", True)]
        fake_time = SimpleNamespace(perf_counter=self.clock.now, process_time=time.process_time, sleep=None)
        monkeypatch.setattr(recorder_module, "time", fake_time)
        self.slept_s = 0.0
        monkeypatch.setattr(recorder_module, "suspended_s", lambda: self.slept_s)
        monkeypatch.setattr(sampler_module, "open_sensors", self._open)
        self.memory, descriptor = SharedMemory.create(RING_BYTES)
        os.close(descriptor)
        self.memory.wait = self._wait  # type: ignore[method-assign]
        self.writer = RingWriter(self.memory)
        self.file = folder / "process-1.sqlite"
        options = {"file": str(self.file), "origin_s": ORIGIN_S, "sampling_hz": 1.0, "pid": os.getpid()}
        options |= {"dither": 0.0, **config}
        self.recorder = Recorder(options, self.memory)
        self.commits: list[float] = []
        commit = self.recorder.writer.commit

        def committed(t_s: float | None = None) -> None:
            self.commits.append(self.now())
            commit(t_s)

        monkeypatch.setattr(self.recorder.writer, "commit", committed)
        self._events: list[tuple[float, Callable[[], object]]] = []
        self._waits = 0

    def _open(self) -> tuple[list[OpenSource], list[Availability]]:
        sensors = [self.sensor] if self.sensor else []
        return [
            OpenSource(sensor, sensor.signals, lambda machine: (None, self.found[0])) for sensor in sensors
        ], self.found

    def now(self) -> float:
        return self.clock.now() - ORIGIN_S

    def at(self, t_s: float, what: Callable[[], object]) -> None:
        """Let something happen while the recorder waits."""
        self._events.append((t_s, what))
        self._events.sort(key=lambda event: event[0])

    def ask_sample(self) -> None:
        self.memory.bump(shared.SAMPLE_REQUEST)
        self.memory.wake()

    def ask_flush(self) -> None:
        self.memory.bump(shared.FLUSH_REQUEST)
        self.memory.wake()

    def end(self, **end: Any) -> None:
        self.writer.text({"end": {"status": "completed", "exit_status": 0, "t_s": self.now(), **end}})
        self.ask_flush()

    def _wait(self, seen: int, timeout_s: float) -> None:
        self._waits += 1
        assert self._waits < 100_000, "the recorder spins"
        due_s = self.now() + max(timeout_s, 0.0)
        if self._events and self._events[0][0] <= due_s:
            t_s, what = self._events.pop(0)
            self.clock.advance(max(t_s - self.now(), 0.0))
            what()
        else:
            self.clock.advance(max(timeout_s, 0.0) + 1e-7)  # waiting takes a little longer, always

    def run_until(self, t_s: float) -> None:
        """Record until the training process dies at a time."""
        self.at(t_s, lambda: (self.recorder.gone.set(), self.memory.wake()))
        self.recorder.open()
        self.recorder.loop()

    def whole(self) -> Run:
        self.recorder.finish()
        return load(self.file)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def about(times: Any) -> Any:
    return pytest.approx(times, abs=1e-4)


def codes(run: Run) -> list[str]:
    return [notice.code for notice in run.notices]


# Sampling


@pytest.mark.parametrize(("hz", "n"), [(1.0, 6), (10.0, 56), (0.5, 3)])
def test_samples_are_a_period_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hz: float, n: int) -> None:
    world = World(tmp_path, monkeypatch, sampling_hz=hz)
    world.run_until(5.55)
    assert world.sensor.read_at == about([i / hz for i in range(n)])
    run = world.whole()
    (samples,) = run.samples
    assert len(samples.table) == n + 1, "and one at the end"
    assert world.sensor.closed


def test_sensors_are_not_sampled_faster_than_their_counters_bear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, sampling_hz=1000.0)
    world.run_until(1.05)
    assert world.sensor.read_at == about([i / 10 for i in range(11)])


@pytest.mark.parametrize("hz", [1.0, 10.0])
def test_the_processes_are_looked_at_every_two_seconds_at_edges_and_at_the_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hz: float
) -> None:
    world = World(tmp_path, monkeypatch, sampling_hz=hz)
    world.at(2.51, world.ask_sample)
    world.run_until(5.55)
    table = world.whole().table(PROCESS)
    assert table["t_s"].tolist() == pytest.approx([0, 2, 2.51, 4.5, 5.55], abs=0.51)
    assert 1.8 - 1e-9 <= table["t_s"][3] - table["t_s"][2] <= 2.5
    assert (np.diff(table["machine_busy_s"]) >= 0).all()
    assert table["machine_busy_s"][-1] >= table["cpu_s"][-1] > 0


def test_after_a_suspension_there_is_one_sample_and_then_the_old_rhythm(world: World) -> None:
    world.at(2.3, lambda: world.clock.advance(100.4))
    world.run_until(106.5)
    assert world.sensor.read_at == about([0, 1, 2, 102.7, 103, 104, 105, 106])


def test_a_suspension_has_no_part_in_the_run_and_is_said(world: World) -> None:
    """The run's clock stands still meanwhile; the counter does not."""
    read = world.sensor.read
    world.sensor.read = lambda now_s: (read(now_s)[0] + world.slept_s,)  # type: ignore[method-assign]
    world.at(2.3, lambda: setattr(world, "slept_s", 3600.0))
    world.run_until(5.5)
    assert world.sensor.read_at == about([0, 1, 2, 3, 4, 5])
    assert world.memory.live[1] == pytest.approx(40.0, abs=1e-3)
    run = world.whole()
    assert next((n.code, n.detail, n.t_s) for n in run.notices) == ("machine.suspended", "for 3600 s", about(3.0))


def test_a_sensor_that_hangs_delays_neither_rows_nor_commits_nor_the_end(world: World) -> None:
    gate = threading.Event()
    read = world.sensor.read
    world.sensor.may_block = True
    world.sensor.read = lambda now_s: read(now_s) if world.now() < 1.5 else gate.wait(60) and (0.0,)  # type: ignore
    for i in range(12):
        world.at(i + 0.4, lambda i=i: world.writer.write(LOSSES, i, 0.0, 1.0))
    began = time.monotonic()
    world.run_until(12.5)
    assert max(b - a for a, b in itertools.pairwise(world.commits)) <= COMMIT_S + 1e-6
    assert world.recorder.finish() is False
    assert time.monotonic() - began < 5.0
    gate.set()
    run = load(world.file)
    assert len(run.table(LOSSES)) == 12
    assert codes(run) == ["sensor.hung", "run.interrupted"]
    assert world.memory.word(shared.STATE) == shared.FINISHED


def test_a_reading_that_comes_late_is_in_the_file_with_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, sampling_hz=0.1)
    gate = threading.Event()
    read = world.sensor.read
    world.sensor.may_block = True
    world.sensor.read = lambda now_s: (gate.wait(60), read(now_s))[1]  # type: ignore[method-assign]
    stored: list[int] = []

    def answered() -> None:
        gate.set()
        while world.recorder.sampler._sources[0]._worker._answers.empty():  # type: ignore[attr-defined]
            os.sched_yield()

    world.at(1.5, answered)
    world.at(2.5, lambda: stored.extend(len(samples.table) for samples in load(world.file).samples))
    world.run_until(3.0)
    assert stored == [1]
    world.whole()


def test_a_slow_sensor_delays_samples_and_never_makes_a_burst(world: World) -> None:
    read = world.sensor.read

    def slow(now_s: float) -> tuple[float, ...]:
        values = read(now_s)
        world.clock.advance(2.7)
        return values

    world.sensor.read = slow  # type: ignore[method-assign]
    world.run_until(20.0)
    between = [b - a for a, b in itertools.pairwise(world.sensor.read_at)]
    assert min(between) >= 2.7
    assert max(between) <= 4.0


def test_intervals_are_shortened_at_random_so_that_no_load_is_in_step_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, dither=DITHER)
    world.run_until(300.0)
    between = np.diff(world.sensor.read_at[:-1])
    assert 0.9 - 1e-6 <= between.min() < 0.92
    assert 0.98 < between.max() <= 1.0 + 1e-6
    phases = np.array(world.sensor.read_at) % 1.0
    assert abs(np.exp(2j * np.pi * phases).mean()) < 0.2, "every part of a step of a second is seen as often"


def test_a_sample_asked_for_is_taken_at_once_and_moves_none_of_the_others(world: World) -> None:
    for t_s in (0.25, 1.5, 2.75):
        world.at(t_s, world.ask_sample)
    world.run_until(4.5)
    assert world.sensor.read_at == about([0, 0.25, 1, 1.5, 2, 2.75, 3, 4])


def test_samples_asked_for_are_at_least_ten_milliseconds_apart_and_none_is_forgotten(world: World) -> None:
    for t_s in (1.2, 1.203, 1.206, 1.215, 1.25, 1.9995):
        world.at(t_s, world.ask_sample)
    world.run_until(2.5)
    # Those at 1.203 and 1.206 share the sample at 1.21, the one at 1.215 waits for 1.22.
    assert world.sensor.read_at == about([0, 1, 1.2, 1.21, 1.22, 1.25, 1.9995, 2])


def test_requests_in_a_storm_are_sampled_at_their_most_frequent(world: World) -> None:
    for i in range(1000):
        world.at(0.1 + i / 1000, world.ask_sample)
    world.run_until(1.5)
    asked = [t for t in world.sensor.read_at if t not in (0.0, world.sensor.read_at[-1])]
    assert sorted(b - a for a, b in itertools.pairwise(asked))[1] >= 0.01 - 1e-9, "but for the regular one at 1 s"
    assert 98 <= len(world.sensor.read_at) <= 104


def test_live_readings_follow_the_samples(world: World) -> None:
    seen: list[tuple[float, float, float]] = []
    for t_s in (0.5, 1.5, 3.5):
        world.at(t_s, lambda: seen.append(world.memory.live))
    world.run_until(4.0)
    assert [t for t, _, _ in seen] == about([0, 1, 3])
    assert [joules for _, joules, _ in seen] == pytest.approx([0, 10, 30], abs=1e-3)
    assert math.isnan(seen[0][2])
    assert [watts for _, _, watts in seen[1:]] == pytest.approx([10, 10], abs=1e-3)


def test_the_recorder_is_ready_when_its_first_sample_is_in_the_file(world: World) -> None:
    assert world.memory.word(shared.STATE) == shared.STARTING
    world.recorder.open()
    assert world.memory.word(shared.STATE) == shared.READY
    run = load(world.file)
    assert len(run.table(PROCESS)) == len(run.samples[0].table) == 1
    assert run.meta["machine"]["logical_cpus"] >= 1


# Commits


def test_rows_wait_half_a_second_at_most_and_commits_are_as_seldom(world: World) -> None:
    for i in range(100):
        world.at(i / 20 + 0.001, lambda i=i: world.writer.write(LOSSES, i, i / 20, 1.0))
    world.run_until(5.2)
    between = [b - a for a, b in itertools.pairwise(world.commits)]
    assert max(between) <= COMMIT_S + 1e-6
    assert len(world.commits) <= 2 + 5.2 / COMMIT_S
    # Nothing more has been told, as after a kill of the recorder: what came before the last commit is there.
    stored = load(world.file).table(LOSSES)["step"].tolist()
    assert stored == [float(i) for i in range(100) if i / 20 + 0.001 <= world.commits[-1]]


def test_a_flush_commits_at_once_and_answers_when_all_is_in_the_file(world: World) -> None:
    def ask() -> None:
        world.writer.write(LOSSES, 7, 0.1, 3.0)
        world.ask_flush()

    answered: list[tuple[int, list[float]]] = []
    done = SharedMemory.set_word

    def set_word(offset: int, value: int) -> None:
        if offset == shared.FLUSH_DONE:
            answered.append((value, load(world.file).table(LOSSES)["step"].tolist()))
        done(world.memory, offset, value)

    world.memory.set_word = set_word  # type: ignore[method-assign]
    world.at(0.1, ask)
    world.at(0.2, lambda: None)
    world.run_until(0.3)
    assert answered[0] == (1, [7.0])
    assert world.commits[-1] == about(0.1)
    assert len(answered) == 1


def test_who_asks_for_a_sample_and_a_flush_finds_the_sample_in_the_file(world: World) -> None:
    times: list[list[float]] = []

    def ask() -> None:
        world.ask_sample()
        world.ask_flush()

    def look() -> None:
        if world.memory.word(shared.FLUSH_DONE) == 1:
            times.append(load(world.file).samples[0].table["t_s"].tolist())

    world.at(1.004, ask)
    world.at(1.005, look)
    world.at(1.012, look)
    world.run_until(1.2)
    assert len(times) == 1, "not before the sample, which is due ten milliseconds after the last"
    assert times[0] == about([0, 1, 1.01])


# Messages


def test_labels_and_warnings_are_kept_and_the_first_of_each_warning_counts(world: World) -> None:
    world.writer.text({"meta": {"name": "é", "tags": ["a"], "parameters": 5}})
    world.writer.text({"meta": {"parameters": 6}})
    world.at(0.7, lambda: world.writer.text({"notice": ["torch.unsupported", "why"]}))
    world.at(1.7, lambda: world.writer.text({"notice": ["torch.unsupported", "why"]}))
    world.run_until(3.0)
    run = world.whole()
    assert (run.meta["name"], run.meta["tags"], run.meta["parameters"]) == ("é", ["a"], 6)
    (notice,) = [notice for notice in run.notices if notice.code == "torch.unsupported"]
    assert notice.detail == "why"
    assert notice.t_s is not None
    assert 0.7 <= notice.t_s <= 1.3


def test_a_message_of_a_later_version_is_passed_over(world: World) -> None:
    world.writer.text({"unheard of": [1, 2]})
    world.writer.write(LOSSES, 1, 0.0, 1.0)
    world.run_until(1.0)
    assert len(world.whole().table(LOSSES)) == 1


# The end


def test_the_end_that_the_script_tells_is_the_end_of_the_run(world: World) -> None:
    world.at(2.25, lambda: world.end(status="failed", exit_status=3))
    world.writer.write(LOSSES, 0, 0.0, 1.0)
    world.recorder.open()
    world.recorder.loop()
    assert world.now() == about(2.25), "it does not wait for the next sample"
    world.writer.write(LOSSES, 1, 2.25, 1.0)  # from a thread of the script's, a moment later
    run = world.whole()
    assert (run.status, run.exit_status, run.duration_s) == ("failed", 3, 2.25)
    assert codes(run) == []
    assert run.table(LOSSES)["step"].tolist() == [0.0, 1.0]
    assert run.table(PROCESS)["t_s"].tolist()[-1] == about(2.25)
    assert world.memory.word(shared.STATE) == shared.FINISHED
    assert not list(world.file.parent.glob("*-wal"))


def test_a_process_that_dies_leaves_an_interrupted_run_with_all_its_rows(world: World) -> None:
    world.at(1.9, lambda: world.writer.write(STEPS, *[float(i) for i in range(14)]))
    world.run_until(2.0)
    world.writer.write(LOSSES, 5, 2.0, 1.0)
    run = world.whole()
    assert (run.status, run.exit_status) == ("interrupted", None)
    assert run.duration_s == about(2.0)
    assert codes(run) == ["run.interrupted"]
    assert len(run.table(STEPS)) == len(run.table(LOSSES)) == 1


def test_rows_behind_one_that_a_kill_left_half_written_are_kept(world: World) -> None:
    world.run_until(1.0)
    with pytest.raises(Exception, match="pack"):
        world.writer.write(LOSSES, 0)
    world.writer.write(LOSSES, 1, 1.0, 1.0)
    assert world.whole().table(LOSSES)["step"].tolist() == [1.0]


def test_a_process_that_says_its_end_and_dies_at_once_has_ended_as_it_said(world: World) -> None:
    world.at(1.1, lambda: (world.end(), world.recorder.gone.set()))
    world.recorder.open()
    world.recorder.loop()
    assert world.whole().status == "completed"


def test_rows_that_were_lost_are_counted_and_said(world: World) -> None:
    def burst() -> None:
        for i in range(SLOTS + 123):
            world.writer.write(LOSSES, i, 0.1, 1.0)

    world.at(0.1, burst)
    world.run_until(1.0)
    run = world.whole()
    assert run.dropped == 123
    assert [(n.code, n.detail) for n in run.notices if n.code == "records.dropped"] == [("records.dropped", "123")]
    assert len(run.table(LOSSES)) == SLOTS


# What can go wrong


def test_a_store_that_fails_is_said_once_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commit, failing = world.recorder.writer.commit, False
    errors: list[str] = []

    def sometimes(t_s: float | None = None) -> None:
        if failing:
            raise StoreError(expected="a file that can be written to", got="x (disk full)", remedy="free some space")
        commit(t_s)

    def fail(now: bool) -> None:
        nonlocal failing
        failing = now

    monkeypatch.setattr(world.recorder.writer, "commit", sometimes)
    world.at(0.9, lambda: fail(True))
    world.at(1.9, lambda: world.writer.write(LOSSES, 1, 1.9, 1.0))
    for t_s in (0.8, 2.8, 4.8):
        world.at(t_s, lambda: errors.append(world.memory.error))
    world.at(2.9, lambda: fail(False))
    world.at(3.9, lambda: fail(True))
    world.run_until(5.0)
    fail(False)
    run = world.whole()
    assert [bool(error) for error in errors] == [False, True, True]
    assert "disk full" in errors[1]
    assert capfd.readouterr().err.count("cannot be stored") == 1
    assert [n.detail for n in run.notices if n.code == "store.unwritable"] == ["x (disk full)"]
    assert run.table(LOSSES)["step"].tolist() == [1.0], "nothing was lost"


def test_an_error_that_has_passed_is_no_error_any_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.recorder.open()
    world.memory.error = "of an earlier commit"
    world.recorder.commit()
    assert world.memory.error == ""


def test_a_store_that_cannot_even_take_the_end_is_told_to_the_script(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise StoreError(expected="a file", got="nothing", remedy="free some space")

    world.at(0.5, world.end)
    world.recorder.open()
    world.recorder.loop()
    monkeypatch.setattr(world.recorder.writer, "finish", never)
    world.recorder.finish()
    assert "free some space" in world.memory.error
    assert world.memory.word(shared.STATE) == shared.FINISHED
    assert world.sensor.closed


def test_a_machine_without_a_sensor_is_recorded_all_the_same(world: World) -> None:
    world.sensor = None  # type: ignore[assignment]
    world.found = [Availability("rapl", False, "no powercap", "")]
    world.run_until(2.5)
    run = world.whole()
    assert sorted(codes(run)) == ["run.interrupted", "sensor.absent"]
    assert "rapl: no powercap" in next(n.detail for n in run.notices if n.code == "sensor.absent")
    assert len(run.table(PROCESS)) == 3


def test_a_sensor_that_may_not_be_read_is_said_with_the_remedy(world: World) -> None:
    world.found.append(Availability("rapl", False, "energy_uj: Permission denied", "grant read access"))
    world.found.append(Availability("nvml", False, "no driver", "install one"))
    world.run_until(0.5)
    details = [notice.detail for notice in world.whole().notices if notice.code == "sensor.unreadable"]
    assert details == ["energy_uj: Permission denied; grant read access"]


def test_a_reading_that_failed_is_stored_as_not_known_and_bridged_in_the_tally(world: World) -> None:
    read = world.sensor.read
    world.sensor.read = lambda now_s: (math.nan,) if 1.9 < world.now() < 2.1 else read(now_s)  # type: ignore[method-assign]
    world.run_until(3.5)
    assert world.memory.live[1] == pytest.approx(30.0, abs=1e-3)
    (samples,) = world.whole().samples
    assert [math.isnan(x) for x in samples.table["c0"]] == [False, False, True, False, False]


def test_the_live_line_is_shown_once_a_second_or_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, monkeypatch, live=True)
    values = dict.fromkeys(STEPS.columns, 0.0)
    world.at(8.0, lambda: world.writer.write(STEPS, *values.values()))
    world.run_until(25.0)
    world.whole()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("erg: ")]
    assert [line.split(" · ")[1] for line in lines] == ["step 0", "step 1", "step 1"]
