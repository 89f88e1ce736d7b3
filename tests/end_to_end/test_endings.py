"""A script under ``erg run`` ends as ``python script.py`` would: status, signal, words on both streams."""

from __future__ import annotations

import os
import re
import runpy
import signal

import pytest

from end_to_end.running import SCRIPTS, Done, Runner, finished

WAYS = runpy.run_path(str(SCRIPTS / "endings.py"))["WAYS"]

#: How the stored run says that it ended, where this is not "completed" with status 0 or "failed" with the status.
STORED = {
    "interrupt": ("interrupted", 130),
    "interrupt-by-signal": ("interrupted", 130),
    # Ended without a word to anyone: the recorder sees it, and cannot know the status.
    "exit-at-once": ("interrupted", None),
    "terminate": ("interrupted", None),
    "abort": ("interrupted", None),
    "execute": ("interrupted", None),
}


def assert_same(plain: Done, measured: Done) -> None:
    assert without_addresses(measured.err) == without_addresses(plain.err)
    assert measured.out == plain.out
    assert measured.status == plain.status


def without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


@pytest.mark.parametrize("way", WAYS)
def test_a_script_ends(runner: Runner, way: str) -> None:
    words = (SCRIPTS / "endings.py", way)
    plain, measured = runner.plain(*words), runner.erg(*words)
    assert_same(plain, measured)
    expected = STORED.get(way, ("failed" if plain.status else "completed", plain.status))
    assert (measured.run.status, measured.run.exit_status) == expected


def stopped(runner: Runner, number: int, on: str, *, measured: bool) -> Done:
    """Send a signal to a script that waits, and to all of its group as a terminal does; return how it ended."""
    script = runner.start(SCRIPTS / "waits.py", "--on", on, measured=measured, start_new_session=True)
    assert script.stdout is not None
    first = script.stdout.readline()
    os.killpg(script.pid, number)
    out, err = script.communicate(timeout=60)
    return Done(script.returncode, (first + out).encode(), err, runner.folder, runner.store)


@pytest.mark.parametrize(
    ("number", "on"),
    [
        *((number, "default") for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)),
        *((signal.SIGINT, on) for on in ("checkpoint", "ignore")),
        *((signal.SIGTERM, on) for on in ("checkpoint", "raise", "ignore")),
        *((signal.SIGUSR1, on) for on in ("default", "checkpoint")),
    ],
)
def test_a_signal_does_what_it_does_in_python(runner: Runner, number: signal.Signals, on: str) -> None:
    plain = stopped(runner, number, on, measured=False)
    measured = stopped(runner, number, on, measured=True)
    # Where the signal came is not where it came the other time.
    lines = [re.sub(r", line \d+, in .*\n.*\n", "\n", done.err) for done in (plain, measured)]
    assert lines[0] == lines[1]
    assert (measured.out, measured.status) == (plain.out, plain.status)
    caught = on != "default" or number == signal.SIGINT
    run = finished(runner)
    if not caught:
        assert (run.status, run.exit_status) == ("interrupted", None)
    elif plain.status == -signal.SIGINT:
        assert (run.status, run.exit_status) == ("interrupted", 130)
    else:
        assert run.exit_status == plain.status


BROKEN = {
    "syntax": b"x = 1\nif x\n    pass\n",
    "indentation": b"def f():\nreturn 1\n",
    "import": b"import nothing_of_this_name\n",
    "imported-syntax": b"import broken_too\n",
    "future": b"x = 1\nfrom __future__ import annotations\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_script_fails_in_pythons_words(runner: Runner, name: str) -> None:
    (runner.folder / "broken.py").write_bytes(BROKEN[name])
    (runner.folder / "broken_too.py").write_bytes(BROKEN["syntax"])
    assert_same(runner.plain("broken.py"), runner.erg("broken.py"))


def without_runpy(text: str) -> str:
    """Take out the frames that ``python -m`` has of its own, which we have not."""
    return re.sub(r'Traceback .*\n|  File "<frozen [^>]*>", line .*\n(    .*\n)*', "", text)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("place", ["__init__", "__main__"])
def test_a_broken_package_fails_in_pythons_words(runner: Runner, place: str, name: str) -> None:
    package = runner.folder / "package"
    package.mkdir()
    for file in ("__init__", "__main__"):
        (package / f"{file}.py").write_bytes(BROKEN[name] if file == place else b"")
    (runner.folder / "broken_too.py").write_bytes(BROKEN["syntax"])
    plain, measured = runner.plain("-m", "package"), runner.erg("package", options=["-m"])
    assert without_runpy(measured.err) == without_runpy(plain.err)
    assert measured.status == plain.status
    assert (measured.run.status, measured.run.exit_status) == ("failed", plain.status)


def test_a_full_standard_output_ends_as_in_python(runner: Runner) -> None:
    (runner.folder / "prints.py").write_text("print('words')")
    statuses = []
    for call in (runner.plain, runner.erg):
        with open("/dev/full", "wb") as full:
            done = call("prints.py", stdout=full)
        statuses.append((done.status, done.err))
    assert statuses[0][0] == 120
    assert statuses[1] == statuses[0]


def test_turned_off_nothing_is_measured(runner: Runner) -> None:
    words = (SCRIPTS / "endings.py", "raise-from")
    off = {"ERGOMETRY_DISABLE": "1"}
    plain, measured = runner.plain(*words, env=off), runner.erg(*words, env=off)
    assert_same(plain, measured)
    assert measured.folders == []


def test_our_words_go_to_standard_error(runner: Runner) -> None:
    words = (SCRIPTS / "endings.py", "exit-handlers")
    plain = runner.plain(*words)
    measured = runner.call(runner.command(words, flags=(), options=["--live", "--sampling-hz", "10"]))
    assert (measured.out, measured.status) == (plain.out, plain.status)
    assert measured.folders[0].name in measured.err


def test_a_command_is_run_as_it_is(runner: Runner) -> None:
    done = runner.erg("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.out, done.err, done.status) == (b"out\n", "err\n", 7)
    assert (done.run.status, done.run.exit_status) == ("failed", 7)
    assert done.run.meta["command"] == ["sh", "-c", "echo out; echo err >&2; exit 7"]


def test_a_command_that_a_signal_ends(runner: Runner) -> None:
    done = runner.erg("sh", "-c", "kill -TERM $$")
    assert (done.out, done.err, done.status) == (b"", "", -signal.SIGTERM)
    assert (done.run.status, done.run.exit_status) == ("failed", 128 + signal.SIGTERM)


def test_ctrl_c_ends_a_command_as_it_ends_the_shells(runner: Runner) -> None:
    # One program, not a shell: between a shell's fork and exec its child takes Ctrl-C and does nothing.
    command = runner.start("cat", start_new_session=True)
    assert command.stdin is not None
    assert command.stdout is not None
    command.stdin.write("ready\n")
    command.stdin.flush()
    assert command.stdout.readline() == "ready\n"
    os.killpg(command.pid, signal.SIGINT)
    assert command.communicate(timeout=60) == ("", "")
    assert command.returncode == -signal.SIGINT
    assert finished(runner).status == "interrupted"


def test_a_stopped_commands_own_status_counts(runner: Runner) -> None:
    command = runner.start("sh", "-c", "trap 'echo caught; exit 4' TERM; echo ready; while :; do sleep 0.05; done")
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n"
    command.terminate()
    out, err = command.communicate(timeout=60)
    assert (out, err, command.returncode) == ("caught\n", "", 4)
