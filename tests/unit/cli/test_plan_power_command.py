"""``erg plan-power`` as a user calls it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ergometry.cli import app
from ergometry.core.errors import ErgError

JOBS = {
    "vision": [(150, 140, 60.0), (225, 200, 85.0), (300, 250, 100.0)],
    "speech": [(150, 120, 9.0), (300, 160, 10.0)],
    "idle": [(100, 50, 1.0)],
}


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    rows = [f"{job},{cap},{draw},{speed}" for job, caps in JOBS.items() for cap, draw, speed in caps]
    path = tmp_path / "jobs.csv"
    path.write_text("\n".join(["job,cap_w,draw_w,speed", *rows]) + "\n")
    return path


def test_the_caps_are_the_best_of_all_that_fit(jobs: Path) -> None:
    for budget in (310, 350, 400, 460):
        done = CliRunner().invoke(
            app, ["plan-power", str(jobs), "--power", f"{budget} W", "--format", "json"], catch_exceptions=False
        )
        found = json.loads(done.stdout)
        best = max(
            sum(speed / max(s for _, _, s in caps) for (_, _, speed), caps in zip(chosen, JOBS.values(), strict=True))
            for chosen in itertools.product(*JOBS.values())
            if sum(draw for _, draw, _ in chosen) <= budget
        )
        assert found["draw_w"] <= budget
        assert found["relative_speed"] == pytest.approx(best / 3)
        assert found["relative_speed"] <= found["upper_bound"] + 1e-12


def test_the_text_names_every_job(jobs: Path) -> None:
    done = CliRunner().invoke(app, ["plan-power", str(jobs), "--power", "0.4 kW"], catch_exceptions=False)
    assert all(job in done.stdout for job in JOBS)
    assert "of 400 W" in done.stdout


@pytest.mark.parametrize(
    ("text", "power", "said"),
    [
        (None, "100 W", "a budget of 310 W or more"),
        (None, "5 kJ", "in W"),
        ("job,cap_w\n", "1 kW", "none called draw_w, speed"),
        ("job,cap_w,draw_w,speed\na,1,x,2\n", "1 kW", "line 2"),
        ("job,cap_w,draw_w,speed\n", "1 kW", "one job or more"),
        ("job,cap_w,draw_w,speed\na,100,nan,2\n", "1 kW", "a cap at which a was measured"),
    ],
)
def test_wrong_uses_are_told_in_one_line(jobs: Path, text: str | None, power: str, said: str) -> None:
    if text is not None:
        jobs.write_text(text)
    done = CliRunner().invoke(app, ["plan-power", str(jobs), "--power", power])
    assert isinstance(done.exception, ErgError), done.output
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
