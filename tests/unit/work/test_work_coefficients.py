"""The calibration file: what is written is read, and what is not a calibration of this board is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ergometry.core.errors import InvalidCalibration
from ergometry.work import coefficients
from ergometry.work.coefficients import file_of, load, save
from support.calibrations import FOUND


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = save(FOUND, tmp_path / "new")
    assert file == file_of(tmp_path / "new", FOUND.machine, FOUND.device)
    again = load(tmp_path / "new", FOUND.machine, "cuda:0", "A Board")
    assert again is not None
    assert again.to_json() == FOUND.to_json()
    assert np.array_equal(again.covariance, FOUND.covariance)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_each_device_of_a_machine_has_its_own(tmp_path: Path) -> None:
    save(FOUND, tmp_path)
    save(replace(FOUND, device="cuda:1", board="Another"), tmp_path)
    assert load(tmp_path, FOUND.machine, "cuda:1").board == "Another"  # type: ignore[union-attr]
    assert load(tmp_path, FOUND.machine, "cpu") is None


def test_a_calibration_of_another_board_is_refused(tmp_path: Path) -> None:
    save(FOUND, tmp_path)
    with pytest.raises(InvalidCalibration, match="expected a calibration of B Board, got one of A Board"):
        load(tmp_path, FOUND.machine, "cuda:0", "B Board")


def test_a_calibration_of_another_machine_is_refused(tmp_path: Path) -> None:
    save(FOUND, tmp_path).rename(file_of(tmp_path, "ba9876543210", "cuda:0"))
    with pytest.raises(InvalidCalibration, match="calibrate this board"):
        load(tmp_path, "ba9876543210", "cuda:0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({**FOUND.to_json(), "static_w": None}),
        json.dumps({**FOUND.to_json(), "e_flop": [1]}),
        json.dumps({**FOUND.to_json(), "covariance": {"names": ["static_w"], "matrix": [[1, 2]]}}),
        json.dumps({**FOUND.to_json(), "schema": "ergometry.calibration/9"}),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file_of(tmp_path, FOUND.machine, "cuda:0").write_text(text)
    with pytest.raises(InvalidCalibration) as refused:
        load(tmp_path, FOUND.machine, "cuda:0")
    assert "\n" not in str(refused.value)
    assert "calibrat" in str(refused.value)


def test_the_ridge_is_where_both_limits_meet() -> None:
    assert FOUND.ridge("bf16") == pytest.approx(200.0)
    assert np.isnan(FOUND.ridge("fp64"))


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert coefficients.folder({"ERGOMETRY_CALIBRATION": "/x"}) == Path("/x")
    assert coefficients.folder({"XDG_DATA_HOME": "/y"}) == Path("/y/ergometry/calibration")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert coefficients.folder({}) == tmp_path / ".local/share/ergometry/calibration"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidCalibration, match="ERGOMETRY_CALIBRATION"):
        save(FOUND, tmp_path / "file")


def test_a_machine_keeps_its_identity_and_does_not_tell_it() -> None:
    assert coefficients.machine_identity() == coefficients.machine_identity()
    assert len(coefficients.machine_identity()) == 12
