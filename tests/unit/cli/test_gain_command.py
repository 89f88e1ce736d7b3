"""``erg gain``: a board is found by domain or identity, its gain written, computed, listed and forgotten."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ergometry import sensors
from ergometry.cli import main
from ergometry.core.ports import Availability, OpenSource, Signal
from ergometry.core.run import SampleTable, Table
from support.stored import store_run
from support.synthetic import synthetic_run

GPU = Signal("node0/gpu0", "energy_j", "measured", "NVML energy counter", rel_stderr=0.05, board="GPU-8f5d9b1c-aaaa")
SECOND = replace(GPU, domain="node0/gpu1", board="GPU-8f5d0000-bbbb")
MEMORY = replace(GPU, domain="node0/gpu0/memory", board="")
CPU = Signal("node0/cpu", "energy_j", "modelled", "a model", rel_stderr=0.4)


class Board:
    source, min_period_s, may_block = "nvml", 0.0, False
    signals = (GPU, SECOND, MEMORY, CPU)

    def read(self, now_s: float) -> tuple[float, ...]:
        return (now_s,) * len(self.signals)

    def health(self) -> tuple[()]:
        return ()

    def close(self) -> None:
        pass


def stored(folder: Path, name: str, powers: dict[Signal, float], seconds: int = 100) -> None:
    """Store a run in which each sensor read a constant power."""
    t_s = np.arange(0.0, seconds + 1.0)
    table = Table(
        ("t_s", *(f"c{i}" for i in range(len(powers)))), np.column_stack([t_s, *(t_s * w for w in powers.values())])
    )
    run = synthetic_run(3, path=Path(name))
    store_run(replace(run, samples=(SampleTable("nvml", tuple(powers), table),), duration_s=float(seconds)), folder)


@pytest.fixture
def erg(capsys, monkeypatch, tmp_path):
    """Run ``erg gain`` on a machine with two boards, and three runs of them."""
    monkeypatch.setenv("ERGOMETRY_GAINS", str(tmp_path / "gains.json"))
    monkeypatch.setenv("ERGOMETRY_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "80")
    board = Board()
    opened = [OpenSource(board, board.signals, lambda _: (None, None))]
    monkeypatch.setattr(sensors, "open_sensors", lambda *_: (opened, [Availability("nvml", True)]))
    stored(tmp_path / "runs", "20260101-000000-busy", {GPU: 400.0, SECOND: 60.0})
    stored(tmp_path / "runs", "20260101-000001-idle", {GPU: 50.0, SECOND: 60.0})
    stored(tmp_path / "runs", "20260101-000002-gain", {replace(GPU, gain=1.25): 400.0})

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["erg", "gain", *words])
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def kept(tmp_path):
    def read() -> dict:
        file = tmp_path / "gains.json"
        return json.loads(file.read_text())["boards"] if file.exists() else {}

    return read


@pytest.mark.parametrize("word", ["gpu0", "node0/gpu0", "GPU-8f5d9b1c-aaaa", "GPU-8f5d9"])
def test_a_board_is_meant_by_domain_identity_or_its_beginning(erg, kept, word):
    status, out, err = erg(word, "1.043", "--stderr", "0.01", "--reference", "wall meter")
    assert (status, out) == (0, "")
    assert err.startswith("erg: GPU-8f5d9b1c-aaaa: gain 1.043 ± 0.01, in ")
    (entry,) = kept().values()
    assert (entry["gain"], entry["reference"]) == (1.043, "wall meter")
    assert entry["rel_stderr"] == pytest.approx(0.01 / 1.043)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("GPU-8f5d", "'GPU-8f5d', which is GPU-8f5d0000-bbbb and GPU-8f5d9b1c-aaaa; give more letters"),
        ("gpu7", "got 'gpu7'; erg gain lists the boards"),
        ("", "got ''"),
        ("cpu", "got node0/cpu (a model); only a sensor's own readings can be calibrated"),
        ("memory", "got node0/gpu0/memory"),
        ("pu0", "got 'pu0'"),
    ],
)
def test_what_is_no_board_is_refused_in_one_line(erg, kept, word, words):
    status, out, err = erg(word, "1.043", "--stderr", "0.01")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert kept() == {}


def test_a_meter_of_the_board_gives_its_gain_over_a_run(erg, kept):
    words = ("--run", "20260101-000000", "--reference-energy", "42 kJ", "--reference-stderr", "420 J")
    status, _, err = erg("gpu0", *words)
    assert status == 0, err
    (entry,) = kept().values()
    assert entry["gain"] == pytest.approx(42e3 / 40e3)
    assert entry["rel_stderr"] == pytest.approx(0.01, rel=0.01)
    assert entry["readings"]["run"] == "20260101-000000-busy"


def test_kilowatt_hours_are_energy_too(erg, kept):
    words = ("--run", "20260101-000000", "--reference-energy", "0.011kWh", "--reference-stderr", "0.1 Wh")
    assert erg("gpu0", *words)[0] == 0
    assert kept()["GPU-8f5d9b1c-aaaa"]["gain"] == pytest.approx(0.011 * 3.6e6 / 40e3)


def test_the_gain_of_the_run_is_undone(erg, kept):
    words = ("--run", "20260101-000002", "--reference-energy", "42 kJ", "--reference-stderr", "420 J")
    assert erg("gpu0", *words)[0] == 0
    assert kept()["GPU-8f5d9b1c-aaaa"]["gain"] == pytest.approx(42e3 / 40e3)


def test_a_wall_meter_gives_the_gain_by_difference(erg, kept):
    """(44 - 8) kJ over 100 s are 360 W at the wall, 342 W behind the supply; the board says 350 W."""
    words = ("--run", "20260101-000000", "--reference-energy", "44 kJ", "--reference-stderr", "40 J")
    words += ("--baseline", "20260101-000001", "--baseline-energy", "8 kJ")
    status, _, err = erg("gpu0", *words)
    assert (status, "--psu-efficiency" in err) == (2, True)
    assert erg("gpu0", *words, "--psu-efficiency", "0.95", "--psu-stderr", "0.01")[0] == 0
    entry = kept()["GPU-8f5d9b1c-aaaa"]
    assert entry["gain"] == pytest.approx(342.0 / 350.0)
    assert entry["rel_stderr"] == pytest.approx(0.01 / 0.95, rel=0.02)
    assert entry["readings"]["baseline"] == "20260101-000001-idle"


METERED = ("--run", "20260101-000000", "--reference-energy", "42 kJ", "--reference-stderr", "420 J")


@pytest.mark.parametrize(
    "words",
    [
        ("gpu0", "1.04"),
        ("gpu0", "--stderr", "0.01"),
        ("gpu0", "1.04", "--stderr", "0.01", "--remove"),
        ("gpu0", "1.04", "--stderr", "0.01", *METERED),
        ("gpu0", "1.04", "--stderr", "0.01", "--reference-energy", "1 J"),
        ("gpu0", "--reference", "wall"),
        ("gpu0", "0", "--stderr", "0.01"),
        ("gpu0", "nan", "--stderr", "0.01"),
        ("gpu0", "3", "--stderr", "0.01"),
        ("gpu0", "1.04", "--stderr", "0"),
        ("gpu0", "1.04", "--stderr", "-0.1"),
        ("gpu0", "much", "--stderr", "0.01"),
        ("--remove",),
        ("gpu0", "--remove"),
        METERED,
        ("gpu0", *METERED[:4]),
        ("gpu0", *METERED[:2], *METERED[4:]),
        ("gpu0", *METERED, "--stderr", "0.01"),
        ("gpu0", *METERED, "--baseline", "20260101-000001"),
        ("gpu0", *METERED, "--baseline-energy", "8 kJ"),
        ("gpu0", *METERED, "--psu-efficiency", "94"),
        ("gpu0", *METERED, "--psu-efficiency", "0.94", "--psu-stderr", "-1"),
        ("gpu0", *METERED[:2], "--reference-energy", "42", *METERED[4:]),
        ("gpu0", *METERED[:2], "--reference-energy", "42 kW", *METERED[4:]),
        ("gpu0", *METERED[:2], "--reference-energy", "-42 kJ", *METERED[4:]),
        ("gpu0", *METERED[:2], "--reference-energy", "1e999 J", *METERED[4:]),
        ("gpu0", *METERED[:2], "--reference-energy", "42 kJ!", *METERED[4:]),
        ("gpu0", *METERED[:2], "--reference-energy", "420 kJ", *METERED[4:]),
        ("gpu1", "--run", "20260101-000002", *METERED[2:]),
    ],
)
def test_a_wrong_use_is_one_line_has_status_two_and_writes_nothing(erg, kept, words):
    status, out, err = erg(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("erg: ")
    assert kept() == {}


def test_a_run_in_progress_is_not_used(erg, kept, tmp_path):
    store_run(synthetic_run(3, path=Path("live")), tmp_path / "runs", finished=False)
    status, _, err = erg("gpu0", "--run", "live", *METERED[2:])
    assert (status, kept()) == (2, {})
    assert "a run that has ended" in err


def test_a_gain_can_be_removed_by_identity_where_the_board_is_not(erg, kept, monkeypatch):
    erg("gpu0", "1.043", "--stderr", "0.01")
    monkeypatch.setattr(sensors, "open_sensors", lambda *_: ([], []))
    assert erg("GPU-8f5d9", "--remove")[0] == 0
    assert kept() == {}


def test_the_list_names_boards_with_and_without_a_gain_in_eighty_columns(erg, monkeypatch, tmp_path):
    (tmp_path / "gains.json").write_text(
        '{"schema": "ergometry.gains/1", "boards": {"GPU-elsewhere-0123-4567-89ab-cdef01234567":'
        ' {"gain": 0.97, "rel_stderr": 0.02, "date": "2026-01-02"}}}'
    )
    erg("gpu0", "1.043", "--stderr", "0.01")
    status, out, err = erg()
    assert (status, err) == (0, "")
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "1.043 ± 0.01" in lines["GPU-8f5d9b1c-aaaa"]
    assert "none" in lines["GPU-8f5d0000-bbbb"]
    assert "elsewhere" in lines["GPU-elsewhere-0123-4567-89ab-cdef01234567"]
    assert "cpu" not in out


def test_one_board_is_shown_with_the_readings_of_its_calibration(erg):
    erg("gpu0", *METERED, "--reference", "a riser with [shunts]")
    status, out, _ = erg("gpu0")
    assert status == 0
    assert "  reference = a riser with [shunts]\n" in out
    assert "  reference_j = 42000.0\n" in out
    assert "GPU-8f5d0000-bbbb" not in out


def test_the_list_as_json(erg, tmp_path):
    erg("gpu0", "1.043", "--stderr", "0.01")
    found = json.loads(erg("--format", "json")[1])
    assert found["file"] == str(tmp_path / "gains.json")
    assert [board["board"] for board in found["boards"]] == [GPU.board, SECOND.board]
    assert found["boards"][0]["gain"] == 1.043
    assert found["boards"][0]["domains"] == ["node0/gpu0"]


def test_a_damaged_file_is_said_and_not_written_over(erg, tmp_path):
    (tmp_path / "gains.json").write_text("{")
    status, _, err = erg()
    assert (status, err.count("\n")) == (0, 1)
    assert "gains are not used" in err
    status, _, err = erg("gpu0", "1.043", "--stderr", "0.01")
    assert (status, err.count("\n")) == (1, 1)
    assert (tmp_path / "gains.json").read_text() == "{"


def test_no_board_at_all_is_said(erg, monkeypatch):
    monkeypatch.setattr(sensors, "open_sensors", lambda *_: ([], []))
    assert erg() == (0, "", "erg: no board with an identity is read here; erg doctor says what is, and why\n")
