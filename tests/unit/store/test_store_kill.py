"""A recorder killed at any moment: at most what was not committed is lost, and the run says how it ended."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ergometry.core.errors import ForeignFile
from ergometry.store.catalog import list_runs
from ergometry.store.liveness import identify, is_alive
from ergometry.store.reader import load
from ergometry.store.writer import create_run_folder, process_file
from support.stored import ordinary_user, set_meta, store_run
from support.synthetic import synthetic_run

RECORDER = """
import sys
from pathlib import Path
from ergometry.store.writer import Writer

writer, k = Writer(Path(sys.argv[1])), 0
while True:
    for _ in range(10):
        writer.add_row("losses", ("step", "t_s", "loss"), (k, k / 10, 1.0))
        k += 1
    writer.commit(k / 10)
    print(k, flush=True)
"""


@contextlib.contextmanager
def recorder(file: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", RECORDER, str(file)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("commits", [1, 2, 7, 60, 400])
def test_a_kill_loses_only_what_was_not_committed(tmp_path, commits):
    file = process_file(create_run_folder(tmp_path, "a"), 7)
    with recorder(file) as process:
        assert process.stdout is not None
        said = [int(line) for line in itertools.islice(process.stdout, commits)]
        during = load(file.parent)
        process.kill()
        said += [int(line) for line in process.stdout]
        process.wait()
    assert during.status == "running"
    assert len(during.tables["losses"]) >= 10 * commits
    run = load(file.parent)
    n = len(run.tables["losses"])
    assert n in (said[-1], said[-1] + 10)  # one commit may have ended before it was said
    assert run.tables["losses"]["step"].tolist() == [float(k) for k in range(n)]
    assert (run.status, run.exit_status, run.duration_s) == ("interrupted", None, n / 10)
    assert [notice.code for notice in run.notices] == ["run.interrupted"]
    assert [info.status for info in list_runs(tmp_path)] == ["interrupted"]


def test_a_recorder_that_is_dead_but_not_yet_reaped_does_not_count_as_alive(tmp_path):
    file = process_file(create_run_folder(tmp_path, "a"), 7)
    with recorder(file) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert load(file.parent).status == "interrupted"


def test_a_stopped_recorder_is_alive(tmp_path):
    file = process_file(create_run_folder(tmp_path, "a"), 7)
    with recorder(file) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert load(file.parent).status == "running"


def unfinished(tmp_path: Path) -> Path:
    return store_run(synthetic_run(5), tmp_path, finished=False) / "process-1.sqlite"


def test_a_new_process_with_the_recorders_number_is_not_the_recorder(tmp_path):
    file = unfinished(tmp_path)
    assert load(file).status == "running"
    other = identify(os.getpid())
    set_meta(file, recorder={**other, "start_ticks": other["start_ticks"] - 1})
    assert load(file).status == "interrupted"
    set_meta(file, recorder={**other, "boot": "before the restart"})
    assert load(file).status == "interrupted"


@pytest.mark.parametrize("recorder", [None, {}, {"pid": "x"}, {"pid": 0}, {"pid": -1}, "1"])
def test_a_recorder_that_is_not_named_is_not_alive(tmp_path, recorder):
    file = unfinished(tmp_path)
    set_meta(file, recorder=recorder)
    assert load(file).status == "interrupted"


def test_a_recorder_of_another_host_is_judged_by_the_files_age(tmp_path):
    file = unfinished(tmp_path)
    elsewhere = {**identify(os.getpid()), "host": "another"}
    assert is_alive(elsewhere) is None
    set_meta(file, recorder=elsewhere)
    assert load(file).status == "running"
    os.utime(file, (1e9, 1e9))
    assert load(file).status == "interrupted"


@pytest.fixture
def killed() -> Iterator[Path]:
    """A killed run, its log beside it, in a folder that everyone can reach."""
    top = Path(tempfile.mkdtemp(prefix="ergometry-test-"))
    top.chmod(0o755)
    file = process_file(create_run_folder(top, "a"), 7)
    with recorder(file) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.stdout.read()
    assert file.with_name(file.name + "-wal").stat().st_size > 0
    yield file
    file.parent.chmod(0o755)
    shutil.rmtree(top)


@pytest.mark.parametrize("index", ["kept", "gone"])
def test_a_log_left_in_a_read_only_folder_is_read_from_a_copy(killed, index):
    whole = len(load(killed).tables["losses"])
    if index == "gone":
        killed.with_name(killed.name + "-shm").unlink()
    for file in killed.parent.iterdir():
        file.chmod(0o444)
    killed.parent.chmod(0o555)
    before = {p.name: p.read_bytes() for p in killed.parent.iterdir() if not p.name.endswith("-shm")}
    with ordinary_user():
        run = load(killed.parent)
    assert (run.status, len(run.tables["losses"])) == ("interrupted", whole)
    assert {p.name: p.read_bytes() for p in killed.parent.iterdir() if not p.name.endswith("-shm")} == before


def test_a_log_cut_anywhere_gives_the_transactions_before_the_cut(killed):
    log = killed.with_name(killed.name + "-wal")
    content, whole = log.read_bytes(), len(load(killed).tables["losses"])
    lengths = []
    for length in [0, 1, 31, 32, *range(33, len(content), max(1, len(content) // 40)), len(content)]:
        log.write_bytes(content[:length])
        killed.with_name(killed.name + "-shm").unlink(missing_ok=True)
        try:
            run = load(killed)
        except ForeignFile:
            lengths.append(0)
            continue
        steps = run.tables["losses"]["step"].tolist() if "losses" in run.tables else []
        assert steps == [float(k) for k in range(len(steps))]
        lengths.append(len(steps))
    assert lengths == sorted(lengths)
    assert lengths[-1] == whole
