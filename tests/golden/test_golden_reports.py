"""Golden reports: what a reader sees, kept as files beside this one. After a change that is meant:

    pytest tests/golden --snapshot-update

The equations are two fixed entries: what the catalogue says of a run has tests of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from ergometry.core.estimate import Estimate
from ergometry.report import calibration, render
from ergometry.report.by import by
from ergometry.report.compare import compare
from ergometry.report.spending import BY
from support.calibrations import FOUND, machine
from support.odd_runs import attributed, mixed, modelled, wave
from support.synthetic import synthetic_run


class GoldenFile(SingleFileSnapshotExtension):
    """A file for each report, as a reader would open it."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"


@pytest.fixture
def golden(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Return the report kept for this test."""
    return snapshot.use_extension(GoldenFile)


@pytest.fixture(autouse=True)
def two_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run have the same two equations."""
    known = Estimate(3.25, 0.5, "J", method="by a formula").to_json()
    unknown = Estimate.unknown("J", "needs what this run has not").to_json()
    verdicts: dict[str, Any] = {"1.1": "exact", "5.2": {"physical": "vacuous", "algorithmic": "false"}}
    fixed = {
        number: {
            "title": f"Title of {number}",
            "verdict": verdict,
            "why": "because it is so",
            "as_written": {"first": unknown},
            "repair": {"second": known},
        }
        for number, verdict in verdicts.items()
    }
    monkeypatch.setattr("ergometry.equations.live.entries", lambda run, books: fixed)


RUNS = {
    "measured": lambda: synthetic_run(power_w=wave),
    "modelled": modelled,
    "mixed": mixed,
    "no steps": lambda: synthetic_run(0),
    "attributed": attributed,
}


def steady(text: str) -> str:
    """Return text with its long numbers cut to nine digits: the rest is the machine's arithmetic, not the report's."""
    return re.sub(r"-?\d+\.\d{6,}(e[-+]\d+)?|\d+e[-+]\d+", lambda number: f"{float(number[0]):.9g}", text)


@pytest.mark.parametrize("kind", RUNS)
def test_text(kind: str, golden: SnapshotAssertion) -> None:
    assert render(RUNS[kind](), "text") == golden


@pytest.mark.parametrize("kind", RUNS)
def test_markdown(kind: str, golden: SnapshotAssertion) -> None:
    assert render(RUNS[kind](), "markdown") == golden


@pytest.mark.parametrize("kind", RUNS)
def test_json(kind: str, golden: SnapshotAssertion) -> None:
    assert steady(render(RUNS[kind](), "json")) == golden


@pytest.mark.parametrize("kind", RUNS)
def test_page(kind: str, golden: SnapshotAssertion) -> None:
    page = render(RUNS[kind](), "html")
    # The plotting library and the style are not the report's words; the summary has a file of its own.
    page = re.sub(
        r"<style>.*?</style>|<script>.*?</script>|<script [^>]*summary[^>]*>.*?</script>", "", page, flags=re.S
    )
    assert steady(page) == golden


@pytest.mark.parametrize("what", BY)
@pytest.mark.parametrize("form", ["text", "markdown"])
def test_one_table(what: str, form: str, golden: SnapshotAssertion) -> None:
    assert by(attributed(), what, form) == golden


def test_calibration(golden: SnapshotAssertion) -> None:
    conditions = {"seconds": 90.0, "sensor": "NVML energy counter", "kernels": [k.to_json() for k in machine()]}
    assert calibration.text(replace(FOUND, conditions=conditions)) == golden


def test_comparison(golden: SnapshotAssertion) -> None:
    second = synthetic_run(150, power_w=60.0, name="second", path=Path("erg-runs/second"))
    assert compare([synthetic_run(), second]) == golden


def test_long_numbers_are_steadied_and_short_ones_are_not() -> None:
    assert (
        steady('{"a": 0.30000000000000004, "b": 1.25, "c": 1.0000000000001e-9}') == '{"a": 0.3, "b": 1.25, "c": 1e-09}'
    )
    assert json.loads(steady("[1112.5000000000018, -2e-05]")) == [1112.5, -2e-05]
