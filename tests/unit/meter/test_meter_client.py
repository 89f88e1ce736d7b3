"""A real recorder beside this process: how it is started, what it leaves alone, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ergometry.core.errors import RecorderError
from ergometry.core.run import Run
from ergometry.core.series import LOSSES, PROCESS
from ergometry.meter import client as client_module
from ergometry.meter import shared
from ergometry.meter.client import RecorderClient, current
from ergometry.store.liveness import identify, is_alive
from ergometry.store.reader import load

LONG_S = 60.0  # far above what anything here takes, far below a hang

START = """
import os, signal, sys, time
from pathlib import Path
from ergometry.core.series import LOSSES
from ergometry.meter import shared
from ergometry.meter.client import RecorderClient

client = RecorderClient.start(Path(sys.argv[1]))
for i in range(100):
    client.write(LOSSES, i, client.now(), 1.0)
client.meta(name="é")
"""
SAY = "print(client.memory.word(shared.RECORDER_PID), flush=True)\n"


@pytest.fixture(autouse=True)
def no_other_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the recorders that other tests of this process have left running."""
    monkeypatch.setattr(client_module, "_started", [])


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + LONG_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Watched:
    """A recorder, known by more than its number, which may come again."""

    def __init__(self, pid: int) -> None:
        self.pid, self._identity = pid, identify(pid)
        assert is_alive(self._identity)

    @property
    def ended(self) -> bool:
        return not is_alive(self._identity)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RecorderClient]:
    client = RecorderClient.start(tmp_path, sampling_hz=100.0)
    yield client
    client.finish("completed", 0)


def recorder_of(client: RecorderClient) -> Watched:
    return Watched(client.memory.word(shared.RECORDER_PID))


def script(folder: Path, code: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START + code, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def recorded(folder: Path) -> Run:
    (file,) = folder.glob("process-*.sqlite")
    return load(file)


def descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def children(pid: int) -> set[int]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.add(int(entry))
    return found


# Beside the script, and not in its way


def test_the_recorder_is_no_child_of_ours_and_of_another_session(tmp_path: Path) -> None:
    before, open_before = children(os.getpid()), descriptors()
    client = RecorderClient.start(tmp_path)
    pid = client.memory.word(shared.RECORDER_PID)
    assert pid != os.getpid()
    assert children(os.getpid()) == before, "not even one that has ended and waits to be reaped"
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    assert descriptors() == open_before
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/"), "it holds no folder of the user's"
    recorder = Watched(pid)
    assert client.finish("completed", 0)
    assert eventually(lambda: recorder.ended)
    assert children(os.getpid()) == before


def test_the_recorder_holds_nothing_of_the_scripts(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    client = RecorderClient.start(tmp_path)
    os.close(writing)
    assert os.read(reading, 1) == b"", "a pipe of the script's ends when the script closes it"
    os.close(reading)
    client.finish("completed", 0)


def test_what_is_written_is_in_the_file_after_a_flush(client: RecorderClient) -> None:
    for i in range(1000):
        client.write(LOSSES, i, client.now(), 0.5)
    client.notice("torch.unsupported", "é")
    assert client.flush(LONG_S)
    run = load(client.file)
    assert run.status == "running"
    assert run.table(LOSSES)["step"].tolist() == [float(i) for i in range(1000)]
    assert [n.detail for n in run.notices if n.code == "torch.unsupported"] == ["é"]


def test_a_sample_that_was_asked_for_is_in_the_file_after_a_flush(tmp_path: Path) -> None:
    client = RecorderClient.start(tmp_path, sampling_hz=0.001)
    for _ in range(3):
        asked = client.now()
        client.sample()
        assert client.flush(LONG_S)
        assert load(client.file).table(PROCESS)["t_s"][-1] >= asked
    client.finish("completed", 0)


def test_samples_are_taken_without_being_asked_for(client: RecorderClient) -> None:
    def sampled() -> int:
        assert client.flush(LONG_S)
        return len(load(client.file).table(PROCESS))

    before = sampled()
    assert eventually(lambda: sampled() > before + 1)
    t_s, _, _ = client.memory.live
    assert 0 < t_s <= client.now()


def test_threads_that_flush_at_once_all_hear_that_it_is_done(client: RecorderClient) -> None:
    done: list[bool] = []
    at_once = threading.Barrier(8)

    def flush() -> None:
        for _ in range(10):
            at_once.wait(LONG_S)
            done.append(client.flush(5.0))

    threads = [threading.Thread(target=flush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert done == [True] * 80


def test_a_flush_counts_past_32_bits(client: RecorderClient) -> None:
    client.memory.set_word(shared.FLUSH_REQUEST, 0xFFFFFFFE)
    assert all(client.flush(LONG_S) for _ in range(4))


def test_names_of_windows_have_numbers_that_are_kept(client: RecorderClient) -> None:
    assert [client.window_number(name) for name in ("a", "b", "a")] == [0, 1, 0]
    assert client.flush(LONG_S)
    assert load(client.file).meta["windows"] == {"a": 0, "b": 1}


def test_the_run_under_way_comes_before_mere_windows(tmp_path: Path) -> None:
    assert current() is None
    (tmp_path / "w").mkdir()
    windows = RecorderClient.start(tmp_path / "w", ephemeral=True)
    assert current() is windows
    run = RecorderClient.start(tmp_path)
    assert current() is run
    run.finish("completed", 0)
    assert current() is windows
    windows.finish("completed", 0)
    assert current() is None


# Ends


def test_the_end_that_is_told_is_kept(tmp_path: Path) -> None:
    client = RecorderClient.start(tmp_path)
    recorder = recorder_of(client)
    client.write(LOSSES, 1, 0.0, 1.0)
    assert client.finish("failed", 3)
    assert client.finish("completed", 0), "only the first end counts"
    client.write(LOSSES, 2, 0.0, 1.0)
    client.meta(name="late")
    client.notice("run.interrupted", "late")
    client.sample()
    assert client.flush()
    run = load(client.file)
    assert (run.status, run.exit_status, len(run.table(LOSSES))) == ("failed", 3, 1)
    assert run.notices == () or {n.code for n in run.notices} <= {"sensor.absent", "sensor.unreadable"}
    assert eventually(lambda: recorder.ended)
    assert [file.name for file in tmp_path.iterdir()] == [client.file.name], "no log beside it"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os._exit(7)", 7),
        ("sys.exit(1)", 1),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_a_script_that_ends_without_a_word_leaves_all_its_rows(tmp_path: Path, end: str, status: int) -> None:
    with script(tmp_path, f"{SAY}sys.stdin.readline()\n{end}") as process:
        assert process.stdout is not None
        recorder = Watched(int(process.stdout.readline()))
        process.communicate("\n", timeout=LONG_S)
    assert process.returncode == status
    assert eventually(lambda: recorder.ended)
    run = recorded(tmp_path)
    assert (run.status, run.exit_status, run.meta["name"]) == ("interrupted", None, "é")
    assert len(run.table(LOSSES)) == 100
    assert "run.interrupted" in [notice.code for notice in run.notices]


def test_a_child_that_outlives_the_script_does_not_delay_the_end(tmp_path: Path) -> None:
    code = f"""{SAY}
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.readline()  # holds whatever the script held, for as long as it likes
    os._exit(0)
os._exit(0)
"""
    with script(tmp_path, code) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        recorder = Watched(int(process.stdout.readline()))
        assert process.stdout.readline() == "forked\n"
        process.wait(LONG_S)
        assert eventually(lambda: recorder.ended)
        assert recorded(tmp_path).status == "interrupted"
        process.stdin.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_does_not_end_the_recorder_before_the_training(client: RecorderClient, number: int) -> None:
    recorder = recorder_of(client)
    for i in range(5):
        os.kill(recorder.pid, number)
        client.write(LOSSES, i, 0.0, 1.0)
        assert client.flush(LONG_S)
    assert not recorder.ended
    assert client.finish("completed", 0)
    assert len(load(client.file).table(LOSSES)) == 5


def test_a_ctrl_c_at_the_terminal_does_not_reach_the_recorder(tmp_path: Path) -> None:
    code = f"""{SAY}
try:
    print("ready", flush=True)
    while True:
        time.sleep(1)
except KeyboardInterrupt:
    client.write(LOSSES, 100, client.now(), 1.0)
    print(client.finish("interrupted", 130), flush=True)
"""
    with script(tmp_path, code, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "True\n"
    run = recorded(tmp_path)
    assert (run.status, run.exit_status, len(run.table(LOSSES))) == ("interrupted", 130, 101)
    assert "run.interrupted" not in [notice.code for notice in run.notices]


def test_a_recorder_that_was_killed_is_noticed_and_never_raises(tmp_path: Path) -> None:
    client = RecorderClient.start(tmp_path)
    recorder = recorder_of(client)
    client.write(LOSSES, 1, 0.0, 1.0)
    assert client.flush(LONG_S)
    os.kill(recorder.pid, signal.SIGKILL)
    assert eventually(lambda: recorder.ended)
    client.write(LOSSES, 2, 0.0, 1.0)
    client.sample()
    client.notice("torch.unsupported", "x")
    assert not client.flush(0.01)
    assert not client.finish("completed", 0)
    run = load(client.file)
    assert run.status == "interrupted"
    assert run.table(LOSSES)["step"].tolist() == [1.0]


def test_after_closerange_a_file_of_the_users_is_not_taken_for_ours(tmp_path: Path) -> None:
    code = """
os.closerange(3, 4096)
files = [open(Path(sys.argv[1]) / f"user{i}", "w+") for i in range(20)]
for i in range(100, 200):
    client.write(LOSSES, i, client.now(), 1.0)
client.sample()
whole = client.flush() and client.finish("completed", 0)
print(whole, [os.fstat(file.fileno()).st_size for file in files] == [0] * 20, flush=True)
"""
    with script(tmp_path, code) as process:
        out, _ = process.communicate(timeout=LONG_S)
    assert out == "True True\n"
    assert len(recorded(tmp_path).table(LOSSES)) == 200


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_stream_that_the_script_was_started_without_stays_closed(tmp_path: Path, closed: str) -> None:
    code = """
import errno
def state(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return "closed"

before = [state(number) for number in range(3)]
client = RecorderClient.start(Path(sys.argv[1]))
client.write(LOSSES, 0, client.now(), 1.0)
whole = client.finish("completed", 0)
after = [state(number) for number in range(3)]
(Path(sys.argv[1]) / "said").write_text(f"{whole} {before == after} {before.count('closed')}")
"""
    head = START.partition("client =")[0]
    command = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, head + code, str(tmp_path)]
    subprocess.run(command, check=True, timeout=LONG_S)
    assert (tmp_path / "said").read_text() == f"True True {closed.count('&')}"
    assert recorded(tmp_path).status == "completed"


def test_a_forked_child_is_silent_and_may_have_a_recorder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()
    (tmp_path / "child").mkdir()
    client = RecorderClient.start(tmp_path / "parent")
    client.write(LOSSES, 0, 0.0, 1.0)
    pid = os.fork()
    if pid == 0:
        failed = 1
        try:
            client.write(LOSSES, 1, 0.0, 1.0)
            client.meta(name="child")
            client.notice("torch.unsupported", "child")
            client.finish("failed", 1)
            if current() is None:
                own = RecorderClient.start(tmp_path / "child")
                own.write(LOSSES, 2, 0.0, 1.0)
                failed = 0 if own.finish("completed", 0) else 2
        finally:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    client.write(LOSSES, 3, 0.0, 1.0)
    assert client.finish("completed", 0)
    run = load(client.file)
    assert (run.status, run.meta.get("name")) == ("completed", None)
    assert run.table(LOSSES)["step"].tolist() == [0.0, 3.0]
    assert recorded(tmp_path / "child").table(LOSSES)["step"].tolist() == [2.0]


def test_mere_windows_leave_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    code = f"""
client = RecorderClient.start(Path(sys.argv[1]) / "w", ephemeral=True)
client.write(LOSSES, 0, 0.0, 1.0)
print(client.flush(), client.file.exists(), flush=True)
{SAY}
sys.stdin.readline()
"""
    with script(tmp_path, code) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "True True\n"
        recorder = Watched(int(process.stdout.readline()))
        process.stdin.close()
        process.wait(LONG_S)
    assert eventually(lambda: recorder.ended)
    assert not folder.exists()


# What can go wrong


def test_a_recorder_that_cannot_store_says_why_and_ends(tmp_path: Path) -> None:
    (tmp_path / f"process-{os.getpid()}.sqlite").write_text("already here")
    before = children(os.getpid())
    with pytest.raises(RecorderError, match=r"exists.*see that the store can be written"):
        RecorderClient.start(tmp_path)
    assert current() is None
    assert children(os.getpid()) == before


def test_an_interpreter_that_cannot_be_started_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.sys, "executable", str(tmp_path / "no python"))
    before = descriptors()
    with pytest.raises(RecorderError, match="a recorder process"):
        RecorderClient.start(tmp_path)
    assert descriptors() == before


def test_a_recorder_that_fails_before_it_is_ready_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "import ergometry.meter.recorder as r; r.machine_facts = lambda: {}['nothing']; r.main(sys.argv[2])"
    monkeypatch.setattr(client_module, "_BOOT", client_module._BOOT.partition("from ")[0] + broken)
    with pytest.raises(RecorderError, match=r"KeyError\('nothing'\)"):
        RecorderClient.start(tmp_path)
    assert current() is None


def test_the_scripts_environment_does_not_reach_the_recorder(tmp_path: Path) -> None:
    """A PYTHONPATH or a folder with a json.py of its own must not change what the recorder imports."""
    (tmp_path / "json.py").write_text("raise SystemExit('not the real one')")
    (tmp_path / "run").mkdir()
    code = (
        START.replace("sys.argv[1]", "'run'") + "print(client.finish('completed', 0))"
    )  # and a folder told relatively
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    assert done.stdout == "True\n", done.stderr
    assert recorded(tmp_path / "run").status == "completed"
