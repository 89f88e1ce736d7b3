"""``erg doctor``: words, streams and exit statuses, on fake machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ergometry.cli import doctor as doctor_command
from ergometry.cli import main
from ergometry.core.ports import Availability, OpenSource, Signal
from ergometry.meter import doctor as examiner

ZONES = {
    "intel-rapl:0": ("package-0", 40.0),
    "intel-rapl:0:0": ("core", 25.0),
    "intel-rapl:0:1": ("dram", 6.0),
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing in it, at which ``erg`` looks."""
    monkeypatch.setenv("ERGOMETRY_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("ERGOMETRY_GAINS", str(tmp_path / "gains.json"))
    monkeypatch.setenv("COLUMNS", "80")
    for variable in ("ERGOMETRY_SENSORS", "ERGOMETRY_DISABLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(doctor_command, "OVERHEAD_S", 0.05)
    return tmp_path


@pytest.fixture
def erg(capsys, monkeypatch, machine):
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["erg", "doctor", *words])
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def rapl(machine: Path) -> Iterator[Path]:
    """The powercap folder of a machine whose counters run."""
    folder, stop = machine / "sys/class/powercap", threading.Event()
    files = {}
    for key, (name, watts) in ZONES.items():
        (folder / key).mkdir(parents=True)
        (folder / key / "name").write_text(f"{name}\n")
        (folder / key / "max_energy_range_uj").write_text("262143328850\n")
        files[folder / key / "energy_uj"] = watts

    def tick(step: int) -> None:
        for file, watts in files.items():
            # In place and of one length, as a reader may look in between.
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT), "w") as out:
                out.write(f"{5_000_000 + int(step * watts * 2e3):<12d}\n")

    def run() -> None:
        step = 1
        while not stop.wait(0.002):
            tick(step)
            step += 1

    tick(0)
    thread = threading.Thread(target=run)
    thread.start()
    yield folder
    stop.set()
    thread.join()


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_running_counters_are_shown_with_what_they_cover_and_leave_out(erg, rapl):
    status, out, err = erg("--seconds", "0.3")
    words = " ".join(out.split())
    assert (status, err) == (0, "")
    assert widest(out) <= 80
    assert "Needs attention" not in out
    # package and memory add, the cores lie in the package
    assert re.search(r"package0 +[\d.]+ W +CPU package 0 with its cores and uncore; not its memory", out)
    assert re.search(r"dram0 +[\d.]+ W +the memory of CPU package 0", out)
    assert "Left out: voltage regulators" in words
    assert re.search(r"package0/core +[\d.]+ W +±10 % +[≤ ]*[\d.]+ ms +61 µJ +measured", out)
    assert re.search(r"[\d.]+ % of one core at 1 sample a second", words)


def test_json_is_the_contract_and_nothing_else(erg, rapl):
    status, out, err = erg("--seconds", "0.3", "--format", "json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert {"sources", "fallback", "overhead"} <= found.keys()
    sources = {source["source"]: source for source in found["sources"]}
    package = next(d for d in sources["rapl"]["domains"] if d["domain"] == "node0/package0")
    assert package["unit"] == "J"
    assert 0.001 < package["update_period_s"] < 0.02
    assert found["cover"] == ["node0/package0", "node0/dram0"]
    assert found["overhead"]["fraction_of_core"] > 0


def test_nothing_at_all_is_a_finding_and_no_failure(erg, machine, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_SENSORS", "rapl")
    status, out, err = erg("--seconds", "0.01")
    assert (status, err) == (0, "")
    assert out.startswith("Needs attention\n• no power source can be read here")
    assert "Power: not known" in out
    assert widest(out) <= 80


def test_an_unreadable_counter_comes_first_with_file_and_remedy(erg, rapl, monkeypatch):
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("energy_uj") and args[0] & os.O_ACCMODE == os.O_RDONLY:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    status, out, _ = erg("--seconds", "0.01")
    folded = "".join(out.split())
    assert status == 0
    assert out.startswith("Needs attention\n• rapl")
    assert f"{rapl / 'intel-rapl:0/energy_uj'}" in folded
    assert "permissiondenied" in folded
    assert "udev" in folded
    assert "Modelled, where there is no sensor" in out
    assert widest(out) <= 80


def test_long_names_and_brackets_break_no_line(erg, monkeypatch):
    """Words of a driver's are words: no markup, no line beyond the terminal."""
    signal = Signal("node0/psys/package0/uncore", "energy_j", "modelled", "[red]model[/red] " * 20, rel_stderr=0.2)

    class Endless:
        source, signals, min_period_s, may_block = "a_[b]long_name[/b]_of_a_source", (signal,), 0.0, False

        def read(self, now_s: float) -> tuple[float, ...]:
            return (1234.5 * now_s,)

        def health(self) -> tuple[()]:
            return ()

        def close(self) -> None:
            pass

    source = Endless()
    found = [
        Availability(source.source, True, why="[bold]", remedy="x" * 200),
        Availability("absent", False, "because " * 40, "do " * 60),
    ]
    opened = [OpenSource(source, source.signals, lambda _: (None, None))]
    monkeypatch.setattr(examiner, "open_sensors", lambda _: (opened, found))
    status, out, _ = erg("--seconds", "0.02")
    assert status == 0
    assert widest(out) <= 80
    assert "[b]long_name[/b]" in out
    assert "[bold]" in out
    assert "[red]model[/red]" in out


def test_a_damaged_file_of_gains_comes_first(erg, rapl, machine):
    (machine / "gains.json").write_text("{")
    status, out, _ = erg("--seconds", "0.1")
    assert status == 0
    assert out.startswith("Needs attention\n• gains are not used, of")
    assert f"{machine / 'gains.json'}" in "".join(out.split())


def test_measuring_that_is_turned_off_is_said(erg, rapl, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_DISABLE", "1")
    assert "ERGOMETRY_DISABLE=1 is set" in erg("--seconds", "0.1")[1]


@pytest.mark.parametrize("words", [("--seconds", "0"), ("--seconds", "-1"), ("--seconds", "nan"), ("--seconds", "61")])
def test_a_wrong_time_is_a_wrong_use(erg, words):
    status, out, err = erg(*words)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"erg: expected --seconds above 0 and up to 60, got \S+; .+\n", err)


def test_a_wrong_format_is_a_wrong_use(erg):
    status, out, err = erg("--format", "html")
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_the_command_line_loads_nothing_heavy_before_a_command_runs():
    code = "import sys, ergometry.cli; print(*sorted({'numpy', 'rich.table', 'sqlite3', 'pint'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
