"""Forks, children, pools, descriptors, folders and pickles work under ``erg run`` as in plain Python."""

from __future__ import annotations

import time

import pytest

from end_to_end.running import SCRIPTS, Done, Runner
from ergometry.store.liveness import identify, is_alive


def assert_same(plain: Done, measured: Done) -> None:
    assert plain.status == 0, plain.err
    assert (measured.text, measured.err, measured.status) == (plain.text, plain.err, 0)
    assert measured.run.status == "completed"
    assert len(list(measured.run.path.glob("process-*.sqlite"))) == 1
    assert measured.run.dropped == 0


@pytest.mark.parametrize("way", ["fork", "fork-pool", "children", "descriptors", "folders", "pickles", "probe"])
def test_of_processes(runner: Runner, way: str) -> None:
    words = (SCRIPTS / "processes.py", way)
    assert_same(runner.plain(*words), runner.erg(*words))


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
@pytest.mark.parametrize("module", [False, True], ids=["script", "module"])
def test_of_pools_that_import_main_again(runner: Runner, way: str, module: bool) -> None:
    if module:
        (runner.folder / "processes.py").symlink_to(SCRIPTS / "processes.py")
        assert_same(runner.plain("-m", "processes", way), runner.erg("processes", way, options=["-m"]))
    else:
        words = (SCRIPTS / "processes.py", way)
        assert_same(runner.plain(*words), runner.erg(*words))


def test_all_in_one_process(runner: Runner) -> None:
    words = (SCRIPTS / "processes.py", "descriptors", "fork", "children", "pickles", "fork-pool", "folders")
    assert_same(runner.plain(*words), runner.erg(*words))


def test_a_relative_store_stays_where_the_run_began(runner: Runner) -> None:
    command = [*runner.command([SCRIPTS / "processes.py", "folders"], flags=(), options=["--quiet"])]
    command[command.index("--store") + 1] = "erg-runs"
    assert runner.call(command).status == 0
    (folder,) = (runner.folder / "erg-runs").iterdir()
    assert [path.suffix for path in folder.iterdir()] == [".sqlite"]


def test_no_process_is_left(runner: Runner) -> None:
    done = runner.erg(SCRIPTS / "processes.py", "fork", "children")
    recorder = identify(done.run.meta["recorder_pid"])
    deadline = time.monotonic() + 60
    while is_alive(recorder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(recorder)
