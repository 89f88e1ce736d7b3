"""kill -9 of the script, of its recorder, of both: what was recorded stays, and training does not notice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.running import SCRIPTS, Runner, finished
from ergometry.core.run import Run
from ergometry.core.series import LOSSES, STEPS
from ergometry.store.reader import load

#: Adopts orphans and never asks how they ended, as the first process of many a container does.
CARELESS_PARENT = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
sys.exit(subprocess.call(sys.argv[1:]))
"""


#: The recorder writes once a second; a busy machine may hold it up for as long again and more.
LATE_S = 2.5


class Training:
    """A script that trains until it is told to stop or killed."""

    def __init__(self, runner: Runner, *under: str) -> None:
        self.runner = runner
        self.until = runner.folder / "stop"
        words = (SCRIPTS / "endless.py", "--until", self.until, "--rest", 0.005)
        self.process = runner.start(*words, bufsize=1, under=under)
        self.steps: list[tuple[int, float]] = []

    def read(self, seconds: float) -> None:
        """Follow the training for so long, from its first step if it has not made one."""
        assert self.process.stdout is not None
        deadline = None
        for line in self.process.stdout:
            if line.startswith("trained"):
                return
            step, t_s = line.split()
            self.steps.append((int(step), float(t_s)))
            deadline = deadline or float(t_s) + seconds
            if float(t_s) > deadline:
                return

    @property
    def run(self) -> Run:
        return load(next(self.runner.store.iterdir()))

    @property
    def recorder(self) -> int:
        return int(self.run.meta["recorder_pid"])

    def ends(self) -> str:
        """Read all that is left, and return what was said on standard error."""
        self.read(3600)
        return self.process.communicate(timeout=60)[1]


@pytest.fixture
def training(runner: Runner) -> Iterator[Training]:
    under_way = Training(runner)
    yield under_way
    with contextlib.suppress(ProcessLookupError):
        os.kill(under_way.process.pid, signal.SIGKILL)
    under_way.process.wait()


def assert_steps_until(run: Run, training: Training, t_s: float) -> None:
    """Check that every step that was over by then (monotonic clock) is stored, each with its loss."""
    stored = run.table(STEPS)["step"].astype(int).tolist()
    assert stored == list(range(len(stored)))
    assert len(stored) > max(step for step, over_s in training.steps if over_s <= t_s)
    assert len(run.table(LOSSES)) == len(stored)
    assert run.dropped == 0


def test_of_the_script_loses_nothing(training: Training) -> None:
    training.read(1.5)
    assert training.run.status == "running"
    os.kill(training.process.pid, signal.SIGKILL)
    assert training.ends() == ""
    assert training.process.returncode == -signal.SIGKILL
    run = finished(training.runner)
    assert (run.status, run.exit_status) == ("interrupted", None)
    assert "run.interrupted" in [notice.code for notice in run.notices]
    assert_steps_until(run, training, training.steps[-1][1])


@pytest.mark.parametrize("parent", ["ordinary", "careless"])
def test_of_the_recorder_does_not_stop_the_training(runner: Runner, parent: str) -> None:
    training = Training(runner, *([sys.executable, "-c", CARELESS_PARENT] if parent == "careless" else []))
    training.read(LATE_S + 0.5)
    os.kill(training.recorder, signal.SIGKILL)
    killed_s = time.perf_counter()
    training.read(0.5)
    training.until.touch()
    ending_s = time.perf_counter()
    said = training.ends()
    assert time.perf_counter() - ending_s < 8  # it is not waited for
    assert training.process.returncode == 0
    (line,) = said.splitlines()
    assert line.startswith("erg: the recorder ended before the script did")
    run = training.run
    assert run.status == "interrupted"
    assert_steps_until(run, training, killed_s - LATE_S)


def test_of_both_loses_the_last_seconds_at_most(training: Training) -> None:
    training.read(LATE_S + 1.5)
    recorder = training.recorder
    os.kill(training.process.pid, signal.SIGKILL)
    os.kill(recorder, signal.SIGKILL)
    killed_s = time.perf_counter()
    training.ends()
    run = training.run
    assert (run.status, run.exit_status) == ("interrupted", None)
    assert_steps_until(run, training, killed_s - LATE_S)
    # Each source was sampled until then.
    began_s = training.steps[0][1] - run.table(STEPS)["t1_s"][0]
    assert all(samples.table["t_s"][-1] > killed_s - began_s - LATE_S - 1.0 for samples in run.samples)


@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.5, 0.7])
def test_at_the_very_beginning_leaves_a_run_that_opens_or_none(runner: Runner, after_s: float) -> None:
    script = runner.start(SCRIPTS / "waits.py")
    with contextlib.suppress(subprocess.TimeoutExpired):
        script.wait(after_s)
    script.kill()
    script.communicate(timeout=60)
    files: list[Path] = list(runner.store.glob("*/process-*.sqlite"))
    if files:
        assert finished(runner).status == "interrupted"
    assert len(files) <= 1
