"""``erg.measure`` and ``erg.record``, in plain Python and under ``erg run``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from end_to_end.running import SCRIPTS, Done, Runner, difference, finished
from end_to_end.warm import Warm
from ergometry import record
from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.core.series import CURVATURE, LEARNING_RATES, LENGTH, STEPS, WINDOWS
from ergometry.estimators.curvature import read_curvature
from ergometry.estimators.information import read_logdet
from ergometry.estimators.path_length import read_length
from ergometry.store.reader import load


@pytest.fixture
def temporary(runner: Runner) -> dict[str, str]:
    """A folder for temporary files, as an environment."""
    folder = runner.folder / "temporary"
    folder.mkdir()
    return {"TMPDIR": str(folder)}


def last_line(done: Done) -> Any:
    assert done.status == 0, done.err
    return json.loads(done.text.splitlines()[-1])


def windows(done: Done) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    for window in last_line(done):
        found.setdefault(window["name"], []).append(window)
    return found


def assert_metered(window: dict[str, float]) -> None:
    assert window["energy_j"] > 0
    assert window["stderr_j"] >= 0
    assert window["power_w"] == pytest.approx(window["energy_j"] / window["duration_s"])


def assert_removed(temporary: dict[str, str]) -> None:
    """Wait until the recorders have taken their folders away, which they do when the process has ended."""
    deadline = time.monotonic() + 60
    while (left := list(Path(temporary["TMPDIR"]).iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def test_windows_in_plain_python(runner: Runner, temporary: dict[str, str]) -> None:
    done = runner.plain(SCRIPTS / "windows.py", "nested", env=temporary)
    found = windows(done)
    (outer,), (first, second) = found["outer"], found["inner"]
    assert outer["t0_s"] < first["t0_s"] < first["t1_s"] < second["t0_s"] < second["t1_s"] < outer["t1_s"]
    assert first["duration_s"] == pytest.approx(first["t1_s"] - first["t0_s"])
    assert first["duration_s"] >= 0.5
    for window in (outer, first, second):
        assert_metered(window)
    # The outer window has the energy of what lies in it, and more.
    assert outer["energy_j"] > first["energy_j"] + second["energy_j"]
    assert done.err == ""
    assert not runner.store.exists()
    assert [path.name for path in runner.folder.iterdir()] == ["temporary"]
    assert_removed(temporary)


def test_windows_under_erg_run_are_kept_with_it(runner: Runner, temporary: dict[str, str]) -> None:
    done = runner.erg(SCRIPTS / "windows.py", "nested", env=temporary)
    found = windows(done)
    run = done.run
    names = {int(number): name for name, number in run.meta["windows"].items()}
    assert sorted(names.values()) == ["inner", "outer"]
    stored = run.table(WINDOWS)
    kept = sorted((names[int(row[0])], *row[1:]) for row in stored.rows)
    told = sorted((name, w["t0_s"], w["t1_s"]) for name, listed in found.items() for w in listed)
    assert kept == told
    assert_removed(temporary)


def test_a_window_that_raises(runner: Runner, temporary: dict[str, str]) -> None:
    done = runner.plain(SCRIPTS / "windows.py", "raising", env=temporary)
    lines = done.text.splitlines()
    assert lines[0] == "of the work"
    assert lines[1].startswith("expected a window that has ended, got one that has not")
    (window,) = windows(done)["raising"]
    assert_metered(window)


@pytest.mark.parametrize("measured", [False, True], ids=["plain", "erg run"])
def test_a_fork_inside_a_window(runner: Runner, temporary: dict[str, str], measured: bool) -> None:
    done = (runner.erg if measured else runner.plain)(SCRIPTS / "windows.py", "forked", env=temporary)
    (child,) = (json.loads(line)["child"] for line in done.text.splitlines() if line.startswith('{"child"'))
    (window,) = windows(done)["around"]
    assert_metered(child)
    assert_metered(window)
    assert done.err == ""
    if measured:
        assert len(done.run.table(WINDOWS)) == 1
        assert done.run.status == "completed"
    assert_removed(temporary)


def test_windows_cost_little(runner: Runner, temporary: dict[str, str]) -> None:
    done = runner.erg(SCRIPTS / "windows.py", "many", env=temporary)
    assert len(done.run.table(WINDOWS)) == 2000
    assert done.run.dropped == 0
    (line,) = (line for line in done.text.splitlines() if line.startswith("microseconds"))
    assert float(line.split()[1]) < 1000  # a bound that holds on any machine; the benchmark has the figure


def test_turned_off_windows_know_only_their_time(runner: Runner, temporary: dict[str, str]) -> None:
    done = runner.plain(SCRIPTS / "windows.py", "nested", env=temporary | {"ERGOMETRY_DISABLE": "1"})
    found = windows(done)
    assert found["inner"][0]["duration_s"] >= 0.5
    assert all(window["energy_j"] is None for listed in found.values() for window in listed)
    assert list(Path(temporary["TMPDIR"]).iterdir()) == []


# Recordings


def recorded(runner: Runner, way: str, *, measured: bool = False) -> tuple[Done, list[Run]]:
    call = runner.erg if measured else runner.plain
    done = call(SCRIPTS / "recording.py", way, env={"ERGOMETRY_STORE": str(runner.store)})
    assert done.status == 0, done.err
    (paths,) = (json.loads(line) for line in done.text.splitlines() if line.startswith("["))
    return done, [load(Path(path)) for path in paths]


#: What a way said, and the runs that it made.
Recorded = tuple[list[str], list[Run]]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> dict[str, Recorded]:
    """Recordings of several kinds in one process, one after the other."""
    runner = Runner(tmp_path_factory.mktemp("recordings"), warm)
    store = {"ERGOMETRY_STORE": str(runner.store)}
    done = runner.plain(SCRIPTS / "recording.py", "whole", "one_of_two", "several", "raising", env=store)
    assert (done.status, done.err) == (0, "")
    found = {}
    for part in done.text.split("way ")[1:]:
        way, *said, paths = part.splitlines()
        found[way] = said, [load(Path(path)) for path in json.loads(paths)]
    return found


def test_a_part_of_the_training(in_turn: dict[str, Recorded], runner: Runner) -> None:
    said, (run,) = in_turn["whole"]
    assert said == ["steps so far 6"]
    assert (run.status, run.meta["name"], run.meta["tags"]) == ("completed", "part", ["a"])
    assert len(run.table(STEPS)) == 6
    assert set(run.table(STEPS)["examples"]) == {6}
    assert run.meta["parameters"] == 82
    assert list(run.meta["windows"]) == ["within"]
    assert runner.forked(SCRIPTS / "recording.py", "plainly").status == 0
    import torch

    recordings = run.path.parents[1]
    first, second = (torch.load(folder / "state.pt", weights_only=False) for folder in (recordings, runner.folder))
    assert difference(first, second) is None


def test_one_optimizer_of_two(in_turn: dict[str, Recorded]) -> None:
    _, (run,) = in_turn["one_of_two"]
    assert len(run.table(STEPS)) == 4
    assert len(run.table(LEARNING_RATES)) == 1


def test_recordings_after_and_within_each_other(in_turn: dict[str, Recorded]) -> None:
    _, (first, within, second) = in_turn["several"]
    assert within.path == first.path != second.path
    assert (len(first.table(STEPS)), len(second.table(STEPS))) == (5, 3)
    runs = {run.path for _, runs in in_turn.values() for run in runs}
    assert {*first.path.parent.iterdir()} == runs
    np.testing.assert_array_equal(second.table(STEPS)["step"], [0, 1, 2])


def test_a_recording_under_erg_run_is_part_of_it(runner: Runner) -> None:
    done, runs = recorded(runner, "several", measured=True)
    assert {run.path for run in runs} == {done.run.path}
    assert len(done.run.table(STEPS)) == 8
    assert done.run.status == "completed"


def test_recordings_that_raise(in_turn: dict[str, Recorded]) -> None:
    said, runs = in_turn["raising"]
    assert [run.status for run in runs] == ["failed", "interrupted", "failed"]
    assert [len(run.table(STEPS)) for run in runs] == [2, 2, 2]
    assert said[:2] == ["ValueError of the training", "KeyboardInterrupt of the training"]


@pytest.mark.parametrize("measured", [False, True], ids=["plain", "erg run"])
def test_a_fork_inside_a_recording(runner: Runner, measured: bool) -> None:
    _, (run,) = recorded(runner, "forked", measured=measured)
    assert run.status == ("completed" if not measured else run.status)
    assert len(run.table(STEPS)) == 5


def test_a_recording_that_cannot_be_written(runner: Runner) -> None:
    done, _ = recorded(runner, "refused")
    assert done.err.startswith("erg: training goes on without being recorded: expected ")
    assert done.err.count("\n") == 1
    assert "StoreError" in done.text


def test_the_compiler_finds_torch_as_it_was(runner: Runner) -> None:
    _, (run,) = recorded(runner, "compiler_comes_late")
    assert len(run.table(STEPS)) == 2


def test_a_process_that_ends_inside_a_recording(runner: Runner) -> None:
    recorded(runner, "left_open")
    run = finished(runner)
    assert run.status == "interrupted"
    assert len(run.table(STEPS)) == 2


def test_a_recording_that_calls_the_loss(runner: Runner) -> None:
    """The API owns the loss: the same training to the bit, and all that its batches can say."""
    done, (run,) = recorded(runner, "owned")
    assert done.err == ""
    assert run.meta["options"]["physics"] == "full"
    assert run.meta["options"]["physics_every"] == 1
    assert len(run.table(STEPS)) == len(run.table(LENGTH)) == len(run.table(CURVATURE)) == 4
    length = read_length(run)
    assert length.probes == 5  # before the first step, and after each
    assert length.angle.value is not None
    assert length.angle.value > 0
    assert min(length.slacks().values()) >= -1e-12 * length.angle.value
    curvature = read_curvature(run)
    assert curvature.noise_trace.known
    assert curvature.trace.known
    information = read_logdet(run)
    assert information.whole.known
    assert set(information.modules) == {"0", "1", "4"}
    assert information.examples == 24
    state = runner.folder / "state.pt"
    state.rename(runner.folder / "recorded.pt")
    assert runner.forked(SCRIPTS / "recording.py", "owned_plainly").status == 0
    import torch

    first, second = (torch.load(runner.folder / name, weights_only=False) for name in ("recorded.pt", "state.pt"))
    assert difference(first, second) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"physics": "lots"}, "expected physics to be off, light or full, got 'lots'"),
        ({"physics": None}, "got None"),
        ({"physics_every": 0}, "at least 1, got 0"),
        ({"physics_every": 2.5}, "got 2.5"),
        ({"physics_every": True}, "got True"),
        ({"loss": "mse"}, "expected loss to be a function loss(model, batch), got str"),
        ({"loss": len}, "expected one model with loss, got 0"),
        ({"model": ["a", "b"], "loss": len}, "expected one model with loss, got 2"),
        ({"probe": [1]}, "expected loss with probe"),
    ],
)
def test_what_record_refuses_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        record(**wrong)
    assert said in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_a_recording_without_a_loss_function_says_how_to_give_one() -> None:
    with pytest.raises(UsageError, match=r"pass it: erg\.record\(model, optimizer, loss=loss\)"):
        record().loss("batch")
