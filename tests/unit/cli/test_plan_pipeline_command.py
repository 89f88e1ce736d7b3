"""``erg plan-pipeline`` as a user calls it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ergometry.cli import app
from ergometry.core.errors import ErgError


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.csv"
    rows = ["stage,instruction,frequency,time,energy"]
    for stage in range(2):
        for instruction, scale in (("forward", 1.0), ("backward", 2.0)):
            for mhz, seconds, joules in ((1000, 0.1, 30), (900, 0.12, 22), (800, 0.15, 18)):
                rows.append(f"{stage},{instruction},{mhz},{scale * seconds},{scale * joules}")
    path.write_text("\n".join(rows) + "\n")
    return path


def erg(*words: object) -> str:
    done = CliRunner().invoke(app, ["plan-pipeline", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, ["plan-pipeline", *map(str, words)])
    assert isinstance(done.exception, ErgError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_without_a_time_the_whole_frontier_is_shown_within_80_columns(profile: Path) -> None:
    text = erg(profile, "-m", 4, "--blocking-power", "40 W")
    assert max(map(len, text.splitlines())) <= 80
    assert "iteration" in text.splitlines()[0]
    found = json.loads(erg(profile, "-m", 4, "--blocking-power", "40 W", "--format", "json"))
    times = [plan["iteration_s"] for plan in found["plans"]]
    assert times == sorted(times)
    assert times[0] == pytest.approx(1.5)  # (M + S − 1) · (0.1 + 0.2) s
    assert found["certified_gap"] < 0.05


def test_one_plan_is_written_whole_to_a_file(profile: Path, tmp_path: Path) -> None:
    output = tmp_path / "plan.csv"
    found = json.loads(
        erg(profile, "-m", 4, "--blocking-power", 40, "--slowdown", "20%", "--format", "json", "-o", output)
    )
    rows = list(csv.DictReader(output.open()))
    assert len(rows) == len(found["operations"]) == 2 * 2 * 4
    assert [float(row["frequency"]) for row in rows] == [op["frequency_mhz"] for op in found["operations"]]
    assert found["deadline_s"] == pytest.approx(1.8)
    assert found["iteration_s"] <= found["deadline_s"]
    assert found["lower_bound_j"] <= found["energy_at_deadline_j"]


def test_the_time_of_a_straggler_is_allowed_in_any_unit(profile: Path) -> None:
    text = erg(profile, "-m", 4, "--blocking-power", "40 W", "--time", "2000 ms")
    assert "allowed 2 s" in text
    assert "fastest 1.5 s" in text


def test_waiting_that_draws_nothing_is_said_to_be_taken_so(profile: Path) -> None:
    done = CliRunner().invoke(app, ["plan-pipeline", str(profile), "-m", "2"], catch_exceptions=False)
    assert "waiting is taken to draw nothing" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--time", "1 kJ"), "in s, such as 2 h, got '1 kJ'"),
        (("--time", "0.1 s"), "1.5 s or more"),
        (("--time", "0 s"), "positive budget of time"),
        (("--time", "2 s", "--slowdown", "5%"), "--time or --slowdown"),
        (("--slowdown", "-3%"), "slowdown such as"),
        (("-o", "plan.csv"), "one plan to write"),
        (("--blocking-power", "-5 W"), "blocking power of 0 W or more"),
        (("--chunks", "2"), "one stage a device"),
        (("--schedule", "interleaved", "--chunks", "3"), "divide the profile's 2 stages"),
    ],
)
def test_wrong_uses_are_told_in_one_line(profile: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(profile, "-m", 4, *words)


def test_interleaving_takes_the_stages_of_each_device(profile: Path) -> None:
    assert "iteration" in erg(profile, "-m", 4, "--schedule", "interleaved", "--chunks", "2", "--blocking-power", "1 W")
