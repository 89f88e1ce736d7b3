"""Calibration files as the recorder reads them: those of this machine, as JSON, and why one could not be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ergometry.store import calibration_files
from ergometry.store.calibration_files import file_of, machine_identity, stored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def read(folder: Path) -> dict:
    return stored({"ERGOMETRY_CALIBRATION": str(folder)})


def test_the_calibrations_of_this_machine_are_read_by_device_without_their_kernels(folder):
    for device in ("cpu", "cuda:0", "xpu:11"):
        kept = {"device": device, "conditions": {"threads": 2, "kernels": [{"name": "idle"}]}}
        file_of(folder, machine_identity(), device).write_text(json.dumps(kept))
    file_of(folder, "ba9876543210", "cuda:1").write_text("{}")  # another machine's
    (folder / f"{machine_identity()}-cpu.123.new").write_text("{")  # a draft
    found = read(folder)
    assert {device: kept["device"] for device, kept in found.items()} == {d: d for d in ("cpu", "cuda:0", "xpu:11")}
    assert all(kept["conditions"] == {"threads": 2} for kept in found.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "Expecting property name"), (b"[1]", "no JSON object"), (b"\xff\xfe", "codec"), (b"", "Expecting value")],
)
def test_a_file_that_cannot_be_read_says_why_and_the_others_stay(folder, content, said):
    file_of(folder, machine_identity(), "cuda:0").write_bytes(content)
    file_of(folder, machine_identity(), "cpu").write_text("{}")
    found = read(folder)
    assert found["cpu"] == {}
    assert said in found["cuda:0"]["unreadable"] and str(folder) in found["cuda:0"]["unreadable"]


def test_a_file_that_is_too_large_or_a_folder_says_so(folder, monkeypatch):
    file_of(folder, machine_identity(), "cpu").write_text("{}")
    file_of(folder, machine_identity(), "cuda:0").mkdir()
    monkeypatch.setattr(calibration_files, "MAX_BYTES", 1)
    assert "more than" in read(folder)["cpu"]["unreadable"]
    monkeypatch.undo()
    assert "Is a directory" in read(folder)["cuda:0"]["unreadable"]


def test_no_folder_and_no_home_are_no_calibrations(tmp_path, monkeypatch):
    assert read(tmp_path / "none") == {}
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert stored({}) == {}


def test_it_needs_the_standard_library_alone():
    code = "import sys, ergometry.store.calibration_files; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
