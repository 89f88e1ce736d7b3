"""The file of gains: what is read from it, what is never lost by writing it."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import StoreError, UsageError
from ergometry.core.ports import Signal
from ergometry.sensors import gains
from ergometry.sensors.gains import Gain
from support.stored import ordinary_user

BOARD = Signal("node0/gpu0", "energy_j", "measured", "NVML energy counter", rel_stderr=0.05, board="GPU-1")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"ERGOMETRY_GAINS": str(tmp_path / "config/gains.json")}


def written(environ: dict[str, str]) -> dict:
    return json.loads(Path(environ["ERGOMETRY_GAINS"]).read_text())


def put(environ: dict[str, str], text: str | bytes) -> Path:
    file = Path(environ["ERGOMETRY_GAINS"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ERGOMETRY_GAINS": "/a/g.json", "XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/a/g.json"),
        ({"ERGOMETRY_GAINS": "", "XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/ergometry/gains.json"),
        ({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/ergometry/gains.json"),
        ({"HOME": "/h"}, "/h/.config/ergometry/gains.json"),
    ],
)
def test_the_file_is_where_the_environment_says(environ, expected):
    assert gains.path(environ).as_posix() == expected


def test_without_a_home_there_still_is_a_path():
    assert gains.path({}).name == "gains.json"


@given(
    gain=st.floats(0.5, 2.0),
    rel_stderr=st.floats(1e-9, 0.999),
    board=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_what_is_written_is_read_back(tmp_path_factory, gain, rel_stderr, board):
    environ = {"ERGOMETRY_GAINS": str(tmp_path_factory.mktemp("g") / "gains.json")}
    written = Gain(gain, rel_stderr, "2026-11-22", "wall meter", {"reference_j": 412e3})
    gains.write(environ, board, written)
    assert gains.read(environ) == {board: written}


def test_a_gain_says_its_day_and_keeps_what_is_not_its_own(environ):
    put(environ, '{"schema": "ergometry.gains/1", "site": "lab", "boards": {"GPU-1": {"note": "left slot"}}}')
    gains.write(environ, "GPU-1", Gain(1.043, 0.01))
    gains.write(environ, "GPU-2", Gain(0.97, 0.02))
    document = written(environ)
    assert document["site"] == "lab"
    assert document["boards"]["GPU-1"]["note"] == "left slot"
    assert document["boards"]["GPU-1"]["gain"] == 1.043
    assert len(document["boards"]["GPU-1"]["date"]) == len("2026-11-22")
    assert set(gains.read(environ)) == {"GPU-1", "GPU-2"}


def test_a_new_gain_takes_the_place_of_the_old_one(environ):
    gains.write(environ, "GPU-1", Gain(1.1, 0.05, readings={"run": "a"}))
    gains.write(environ, "GPU-1", Gain(1.043, 0.01))
    assert gains.read(environ)["GPU-1"].gain == 1.043
    assert written(environ)["boards"]["GPU-1"]["readings"] == {}


def test_a_gain_can_be_forgotten(environ):
    assert not gains.remove(environ, "GPU-1")
    assert not Path(environ["ERGOMETRY_GAINS"]).exists()
    gains.write(environ, "GPU-1", Gain(1.043, 0.01))
    gains.write(environ, "GPU-2", Gain(1.0, 0.01))
    assert gains.remove(environ, "GPU-1")
    assert not gains.remove(environ, "GPU-1")
    assert set(gains.read(environ)) == {"GPU-2"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        b"\xff\xfe",
        "[]",
        "null",
        "{}",
        '{"schema": "ergometry.gains/2", "boards": {}}',
        '{"schema": "ergometry.gains/1", "boards": []}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_holds_no_gains_says_so_and_is_left_as_it_is(environ, text):
    file = put(environ, text)
    before = file.read_bytes()
    found = gains.look(environ)
    assert (found.exists, found.gains) == (True, {})
    assert found.why
    for edit in (lambda: gains.write(environ, "GPU-1", Gain(1.0, 0.01)), lambda: gains.remove(environ, "GPU-1")):
        with pytest.raises(StoreError, match="left as it is") as caught:
            edit()
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "entry",
    [
        "1.04",
        "null",
        '{"gain": 1.04}',
        '{"gain": "1.04", "rel_stderr": 0.01}',
        '{"gain": true, "rel_stderr": 0.01}',
        '{"gain": 0.49, "rel_stderr": 0.01}',
        '{"gain": 2.01, "rel_stderr": 0.01}',
        '{"gain": NaN, "rel_stderr": 0.01}',
        '{"gain": Infinity, "rel_stderr": 0.01}',
        '{"gain": 1.04, "rel_stderr": 0}',
        '{"gain": 1.04, "rel_stderr": -0.01}',
        '{"gain": 1.04, "rel_stderr": NaN}',
        '{"gain": 1.04, "rel_stderr": 1}',
    ],
)
def test_one_bad_entry_is_named_and_spoils_no_other(environ, entry):
    good = '{"gain": 1.04, "rel_stderr": 0.01}'
    put(environ, f'{{"schema": "ergometry.gains/1", "boards": {{"GPU-bad": {entry}, "GPU-good": {good}}}}}')
    found = gains.look(environ)
    assert found.gains == {"GPU-good": Gain(1.04, 0.01)}
    assert found.why.startswith("GPU-bad: ")
    assert "GPU-good" not in found.why


@pytest.mark.parametrize(
    ("gain", "rel_stderr"), [(0.4, 0.01), (2.5, 0.01), (1.0, 0.0), (1.0, 1.5), (float("nan"), 0.01)]
)
def test_no_board_s_gain_is_not_written(environ, gain, rel_stderr):
    with pytest.raises(UsageError):
        gains.write(environ, "GPU-1", Gain(gain, rel_stderr))
    assert not gains.look(environ).exists


def test_no_file_is_no_fault(environ):
    assert gains.look(environ) == gains.GainsFile(Path(environ["ERGOMETRY_GAINS"]), False, {})


def test_a_folder_in_its_place_is_said(environ):
    Path(environ["ERGOMETRY_GAINS"]).mkdir(parents=True)
    assert "directory" in gains.look(environ).why
    with pytest.raises(StoreError, match="directory"):
        gains.write(environ, "GPU-1", Gain(1.0, 0.01))


def test_a_file_that_may_not_be_read_or_written_is_said():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lies where only its user may look
        Path(folder).chmod(0o755)
        file = Path(folder) / "gains.json"
        file.write_text('{"schema": "ergometry.gains/1"}')
        file.chmod(0o400)
        with ordinary_user():
            environ = {"ERGOMETRY_GAINS": str(file)}
            if os.geteuid() == file.stat().st_uid:
                pytest.skip("an owner may change the rights")
            assert gains.look(environ).why == "Permission denied"
            with pytest.raises(StoreError, match="Permission denied"):
                gains.write(environ, "GPU-1", Gain(1.0, 0.01))


def test_a_link_stays_one_and_the_mode_is_kept(environ, tmp_path):
    real = tmp_path / "dotfiles.json"
    real.write_text('{"schema": "ergometry.gains/1"}')
    real.chmod(0o640)
    file = Path(environ["ERGOMETRY_GAINS"])
    file.parent.mkdir()
    file.symlink_to(real)
    gains.write(environ, "GPU-1", Gain(1.0, 0.01))
    assert file.is_symlink()
    assert "GPU-1" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_link_to_itself_is_an_error_of_one_line(environ):
    file = Path(environ["ERGOMETRY_GAINS"])
    file.parent.mkdir()
    file.symlink_to(file)
    assert gains.look(environ).gains == {}
    with pytest.raises(StoreError):
        gains.write(environ, "GPU-1", Gain(1.0, 0.01))


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(environ, monkeypatch):
    gains.write(environ, "GPU-1", Gain(1.0, 0.01))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        gains.write(environ, "GPU-2", Gain(1.0, 0.01))
    assert set(gains.read(environ)) == {"GPU-1"}
    assert len(list(Path(environ["ERGOMETRY_GAINS"]).parent.iterdir())) == 1


def test_of_many_writers_at_once_none_loses_another_s_board(environ):
    boards = [f"GPU-{i}" for i in range(16)]
    threads = [threading.Thread(target=gains.write, args=(environ, board, Gain(1.0, 0.01))) for board in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(gains.read(environ)) == set(boards)


def test_the_gain_s_error_takes_the_place_of_the_board_s():
    signal = gains.apply(BOARD, {"GPU-1": Gain(1.043, 0.01), "": Gain(2.0, 0.5)})
    assert (signal.gain, signal.rel_stderr, signal.provenance) == (1.043, 0.01, "measured")


@pytest.mark.parametrize(
    "signal",
    [
        BOARD,
        Signal("node0/cpu", "energy_j", "modelled", "model", rel_stderr=0.4, board="GPU-2"),
        Signal("node0/package0", "energy_j", "measured", "RAPL"),
    ],
)
def test_other_boards_models_and_what_has_no_identity_stay_as_they_are(signal):
    assert gains.apply(signal, {"GPU-2": Gain(1.043, 0.01), "": Gain(1.5, 0.5)}) is signal
