"""``erg calibrate --show`` and what is refused before anything is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ergometry.cli import app
from ergometry.core.errors import ErgError, InvalidCalibration, UsageError
from ergometry.work.coefficients import file_of, machine_identity, save
from support.calibrations import FOUND, machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a calibration of this machine's processor and of a board."""
    conditions = {"seconds": 90.0, "kernels": [kernel.to_json() for kernel in machine()]}
    for device in ("cpu", "cuda:0"):
        save(replace(FOUND, machine=machine_identity(), device=device, conditions=conditions), tmp_path / "kept")
    return tmp_path / "kept"


def erg(*words: object) -> str:
    done = CliRunner().invoke(app, ["calibrate", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: object) -> ErgError:
    """Run a command that must fail with one line."""
    done = CliRunner().invoke(app, ["calibrate", *map(str, words)])
    assert isinstance(done.exception, ErgError), done.exception
    assert "\n" not in str(done.exception)
    assert done.stdout == ""
    return done.exception


def test_what_was_found_before_is_shown_without_measuring(folder, monkeypatch):
    monkeypatch.setattr("ergometry.calibration.procedure.calibrate", lambda *_: pytest.fail("it was measured"))
    assert erg("--show", "--folder", folder).startswith("A Board (cpu)")
    for device in ("cuda:0", "cuda"):
        assert erg("--show", "--device", device, "--folder", folder).startswith("A Board (cuda:0)")
    stored = json.loads(file_of(folder, machine_identity(), "cpu").read_text())
    assert json.loads(erg("--show", "--format", "json", "--folder", folder)) == stored


def test_the_folder_may_come_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_CALIBRATION", str(folder))
    assert "FLOP in bf16" in erg("--show")


def test_text_fits_a_terminal_of_80_columns(folder):
    assert max(map(len, erg("--show", "--folder", folder).splitlines())) <= 80


def test_the_roofline_is_a_page(folder, tmp_path):
    page = tmp_path / "roofline.html"
    erg("--show", "--plot", page, "--folder", folder)
    assert 'data-figure="roofline"' in page.read_text(encoding="utf-8")


def test_none_stored_says_how_to_get_one(tmp_path):
    error = refused("--show", "--device", "cuda:1", "--folder", tmp_path)
    assert isinstance(error, InvalidCalibration)
    assert "erg calibrate --device cuda:1" in str(error)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "ergometry.calibration/9"}', '{"a": NaN}', "\x00"])
def test_a_damaged_file_is_one_line(folder, text):
    file_of(folder, machine_identity(), "cpu").write_text(text)
    assert "erg calibrate" in str(refused("--show", "--folder", folder))


def test_another_machine_s_is_refused(folder):
    file = file_of(folder, machine_identity(), "cpu")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": "other"}))
    assert isinstance(refused("--show", "--folder", folder), InvalidCalibration)


def test_a_page_that_cannot_be_written_is_refused_before_measuring(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ergometry.calibration.procedure.calibrate", lambda *_: pytest.fail("it was measured"))
    for page in (tmp_path / "missing" / "a.html", tmp_path):
        assert isinstance(refused("--plot", page, "--folder", folder), UsageError)


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr("ergometry.calibration.procedure.calibrate", lambda *_: pytest.fail("it was measured"))
    file = tmp_path / "file"
    file.write_text("")
    assert "--folder" in str(refused("--folder", file))
    assert "--folder" in str(refused("--folder", file / "below"))


def test_too_little_time_and_unknown_devices_are_one_line(tmp_path):
    assert "at least 10 seconds" in str(refused("--seconds", "1", "--folder", tmp_path))
    assert "at least 10 seconds" in str(refused("--seconds", "nan", "--folder", tmp_path))
    assert "a device of this machine" in str(refused("--device", "toaster", "--folder", tmp_path))


def test_what_is_measured_is_kept_and_printed(tmp_path, monkeypatch):
    found = replace(FOUND, machine=machine_identity(), device="cpu")
    monkeypatch.setattr("ergometry.calibration.procedure.calibrate", lambda *_: found)
    told = erg("--folder", tmp_path)
    assert told == erg("--show", "--folder", tmp_path)


def test_the_ranks_beside_the_first_print_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("ergometry.calibration.procedure.calibrate", lambda *_: None)
    assert erg("--folder", tmp_path) == ""
