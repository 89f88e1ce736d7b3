"""What is wrong with a call is said in one line; what is wrong with the store never costs the training."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.running import SCRIPTS, Done, Runner
from ergometry.core.series import STEPS
from ergometry.store.reader import load

ONE_LINE = re.compile(r"erg: expected [^\n]+, got [^\n]+; [^\n]+\n")


@pytest.fixture
def folder(runner: Runner) -> Path:
    """A folder with a script, a picture and a text."""
    (runner.folder / "train.py").write_text("print('trained')")
    (runner.folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (runner.folder / "notes").write_text("these are notes, and no program")
    (runner.folder / "pictures.d").mkdir()
    return runner.folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["nothing.py"]),
        ([], ["no/such/folder/train.py"]),
        ([], ["pictures.d"]),
        ([], ["."]),
        ([], ["nothing-of-this-name"]),
        ([], ["./nothing"]),
        ([], ["picture.png"]),
        ([], ["notes"]),
        ([], [""]),
        (["-m"], ["nothing_of_this_name"]),
        (["-m"], ["os.nothing_of_this_name"]),
        (["-m"], ["json"]),
        (["-m"], ["..train"]),
        (["-m"], ["sys"]),
        (["--store", "notes"], ["train.py"]),
        (["--sampling-hz", "0"], ["train.py"]),
        (["--sampling-hz", "100"], ["train.py"]),
        (["--sampling-hz", "nan"], ["train.py"]),
        (["--examples", "-3"], ["train.py"]),
    ],
    ids=lambda words: " ".join(words) or "-",
)
def test_a_call_that_is_wrong(runner: Runner, folder: Path, options: list[str], words: list[str]) -> None:
    done = runner.erg(*words, options=options)
    assert ONE_LINE.fullmatch(done.err), done.err
    assert (done.out, done.status) == (b"", 2)
    assert done.folders == []


@pytest.mark.parametrize(
    "arguments", [[], ["--nonsense", "train.py"], ["--sampling-hz", "fast", "train.py"], ["--store"]]
)
def test_options_that_are_none(runner: Runner, folder: Path, arguments: list[str]) -> None:
    done = runner.call([sys.executable, "-m", "ergometry", "run", *arguments])
    assert (done.out, done.status) == (b"", 2)
    assert re.fullmatch(r"erg: expected [^\n]+, got [^\n]+; [^\n]+ --help( lists all)?\n", done.err), done.err


def test_what_is_tried_is_not_run_by_halves(runner: Runner, folder: Path) -> None:
    (folder / "side_effect.py").write_text("open('ran', 'w')")
    assert runner.erg("side_effect.py", options=["--sampling-hz", "-1"]).status == 2
    assert not (folder / "ran").exists()


def test_names_that_are_not_ascii(runner: Runner) -> None:
    for name in ("schön.py", "模型.py", os.fsdecode(b"\xff.py")):
        (runner.folder / name).write_text("import sys; print(ascii(sys.argv), ascii(__file__))")
        words = (name, "ü", "\n", os.fsdecode(b"\xfe"), "x" * 100_000)
        for locale in ("C.UTF-8", "C"):
            env = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"}
            plain, measured = runner.plain(*words, env=env), runner.erg(*words, env=env)
            assert (measured.text, measured.err, measured.status) == (plain.text, plain.err, 0)
            run = load(measured.folders[-1])
            assert (run.status, len(run.meta["command"])) == ("completed", 5)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(runner: Runner, closed: str) -> None:
    script = runner.folder / "streams.py"
    script.write_text(
        "import sys, os\n"
        "with open('seen', 'w') as file:\n"
        "    print(sys.stdin is None, sys.stdout is None, sys.stderr is None, file.fileno(), file=file)\n"
        "    print(sorted(os.listdir('/proc/self/fd')), file=file)\n"
        "sys.exit(3)\n"
    )
    seen = []
    for command in ([sys.executable, str(script)], runner.command([script], flags=(), options=["--quiet"])):
        done = runner.call(["sh", "-c", f'exec "$@" {closed}', "sh", *command])
        seen.append((done.status, done.out, done.err, (runner.folder / "seen").read_text()))
    assert seen[1] == seen[0]
    (folder,) = runner.store.iterdir()
    assert load(folder).exit_status == 3


def test_a_working_folder_that_is_gone(runner: Runner, folder: Path) -> None:
    script = folder / "train.py"
    gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    measured = runner.call(["sh", "-c", gone, "sh", *runner.command([script], flags=(), options=["--quiet"])])
    assert (measured.text, measured.status) == ("trained\n", 0), measured.err
    assert measured.run.status == "completed"


def test_two_runs_at_once_in_one_store(runner: Runner) -> None:
    scripts = [runner.start(SCRIPTS / "waits.py", "--on", "checkpoint") for _ in range(3)]
    for script in scripts:
        assert script.stdout is not None
        assert script.stdout.readline() == "ready\n"
    for script in scripts:
        script.terminate()
    assert [script.communicate(timeout=60) for script in scripts] == [("stopped by SIGTERM\n", "")] * 3
    runs = [load(folder) for folder in runner.store.iterdir()]
    assert len(runs) == 3
    assert {(run.status, run.exit_status) for run in runs} == {("failed", 5)}
    assert {run.meta["pid"] for run in runs} == {script.pid for script in scripts}


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory, if this machine lets us."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def erg_into(runner: Runner, store: Path, *words: object, **more: object) -> Done:
    """Measure a script into this store; what has no place in it goes under the temporary folder."""
    refuge = runner.folder / "temporary"
    refuge.mkdir()
    return runner.erg(*words, options=["--store", store], env={"TMPDIR": str(refuge)}, **more)


def refuges(runner: Runner) -> list[Path]:
    return list((runner.folder / "temporary").glob("erg-runs-*/*"))


def test_a_read_only_store(runner: Runner, folder: Path) -> None:
    disk = runner.folder / "disk"
    with mounted(disk, "size=1m"):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = erg_into(runner, disk / "store", "train.py")
    assert (done.out, done.status) == (b"trained\n", 0)
    assert re.fullmatch(ONE_LINE.pattern.rstrip("\n"), done.err), done.err
    (kept,) = refuges(runner)
    assert str(kept) in done.err
    run = load(kept)
    assert run.status == "completed"
    assert [notice.code for notice in run.notices].count("store.unwritable") == 1


def test_a_store_below_a_file(runner: Runner, folder: Path) -> None:
    done = erg_into(runner, folder / "notes" / "store", "train.py")
    assert (done.out, done.status) == (b"trained\n", 0)
    assert done.err.count("\n") == 1
    assert load(refuges(runner)[0]).status == "completed"


@pytest.mark.parametrize("left_kib", [0, 4, 16, 64])
def test_a_disk_that_is_full_when_the_run_begins(runner: Runner, folder: Path, left_kib: int) -> None:
    disk = runner.folder / "disk"
    with mounted(disk, "size=1m"):
        (disk / "filling").write_bytes(bytes((1024 - left_kib) << 10))
        done = erg_into(runner, disk / "store", "train.py")
    assert (done.out, done.status) == (b"trained\n", 0)
    assert "Traceback" not in done.err
    # One line that says so, and perhaps one more at the end.
    assert 1 <= len(done.err.splitlines()) <= 2
    assert all(line.startswith("erg: ") for line in done.err.splitlines())


def test_a_disk_that_fills_up_while_the_run_goes_on(runner: Runner) -> None:
    disk = runner.folder / "disk"
    with mounted(disk, "size=400k"):
        script = runner.start(SCRIPTS / "endless.py", "--until", runner.folder / "stop", options=["--store", disk])
        assert script.stdout is not None
        steps = 0
        for steps, _line in enumerate(script.stdout):
            if steps == 100:
                fill(disk / "filling")
            if steps == 3000:
                (runner.folder / "stop").touch()
        err = script.communicate(timeout=60)[1]
        assert script.returncode == 0
        assert "Traceback" not in err
        assert 1 <= len(err.splitlines()) <= 2
        assert all(line.startswith("erg: ") for line in err.splitlines())
        (kept,) = disk.glob("*-*")
        run = load(kept)
        assert run.status in ("interrupted", "completed")
        assert len(run.table(STEPS)) >= 0


def fill(file: Path) -> None:
    """Write until nothing more goes in."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as full:
        while True:
            full.write(bytes(1024))
