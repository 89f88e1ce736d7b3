"""The page of a plan: what is drawn is the plan's own front, and what was chosen stands on it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from ergometry.cli import app
from ergometry.core.budget import Budget
from ergometry.planning.belief import Belief
from ergometry.planning.learning_rate import LearningRate
from ergometry.planning.operating_points import OperatingPoint
from ergometry.planning.over_time import OverTime, RateCourse
from ergometry.planning.plan import FrontPoint, Goal, plan
from ergometry.planning.schedules import batch_schedule, power_schedules
from ergometry.report.plan_page import front, html
from ergometry.report.plan_schedules import batch_gain, schedules
from support.stored import store_run
from support.synthetic import synthetic_run


def point(b: float, limit: float) -> OperatingPoint:
    speed = (limit / 300.0) ** 0.4
    t = (0.05 + 0.001 * b) / speed
    return OperatingPoint(b, t, (8.0 + 0.25 * b) * speed**1.5, 0.002 * t, 0.0, limit)


POINTS = [point(b, limit) for b in (16, 64, 256) for limit in (150.0, 225.0, 300.0)]
GOAL = Goal(64, np.full(200, 10_000.0), "a loss of <b>2</b>")


def planned(**options):
    return plan(POINTS, Belief.of(200.0, factor=1.5, source="runs"), GOAL, **options)


def traces(found):
    return front(found).views[0].plot["data"]


def test_the_line_is_the_front_in_the_axes_units():
    found = planned()
    line = traces(found)[0]
    titles = front(found).views[0].plot["layout"]
    assert titles["xaxis"]["title"]["text"] == "time (min)"
    assert titles["yaxis"]["title"]["text"] == "energy (kJ)"
    assert np.array(line["x"]) * 60.0 == pytest.approx([p.time_s for p in found.front], rel=1e-5)
    assert np.array(line["y"]) * 1e3 == pytest.approx([p.energy_j for p in found.front], rel=1e-5)
    assert line["text"][0] == f"batch {found.front[0].batch}, {found.front[0].power_limit_w:g} W"


def test_the_plan_stands_on_it_with_its_intervals():
    found = planned()
    mark = traces(found)[-1]
    assert mark["x"][0] * 60.0 == pytest.approx(found.time.value, rel=1e-5)
    assert mark["y"][0] * 1e3 == pytest.approx(found.energy.value, rel=1e-5)
    up, down = mark["error_y"]["array"][0], mark["error_y"]["arrayminus"][0]
    assert 1e3 * (mark["y"][0] + up) == pytest.approx(found.energy.high, rel=1e-4)
    assert 1e3 * (mark["y"][0] - down) == pytest.approx(found.energy.low, rel=1e-4)


def test_the_batch_sizes_within_the_interval_of_the_best_are_marked_and_no_others():
    found = planned()
    beyond = FrontPoint(2048, 150.0, 9000.0, 1e5)
    found = replace(found, front=(*found.front, beyond))
    marked = set(traces(found)[1]["x"])
    for corner, x in zip(found.front, traces(found)[0]["x"], strict=True):
        assert (x in marked) == (found.best_batch.low <= corner.batch <= found.best_batch.high)
    assert 0 < len(marked) < len(found.front)


def test_an_energy_that_may_never_end_has_no_bar_to_infinity():
    found = planned()
    endless = replace(found, energy=replace(found.energy, high=float("inf")))
    assert traces(endless)[-1]["error_y"]["array"] == [0.0]
    assert "never" in html(endless)


def test_the_page_needs_nothing_else_and_holds_the_plan():
    found = planned(budget=Budget(slowdown="20%"))
    page = html(found, LearningRate(0.02, "linear", {}, None, "try it first"))
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page.partition("<script>")[0])
    assert "<b>2</b>" not in page.partition("<script")[0]
    tree = json.loads(re.search(r'<script type="application/json" id="summary">(.*?)</script>', page, re.S)[1])
    assert tree["schema"] == "ergometry.plan/1"
    assert tree["energy"]["value"] == found.energy.value
    words = re.sub(r"<[^>]+>", " ", page.partition("<script")[0])
    assert "try it first" in words
    assert "budget of slowdown" in words
    assert f"batch {found.settings[0].batch}" in words


def test_erg_plan_writes_the_page_beside_its_answer(tmp_path):
    store_run(synthetic_run(200), tmp_path / "runs")
    page = tmp_path / "plan.html"
    words = ["plan", "20260102-030405-abcd", "--html", str(page), "--store", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "energy" in done.stdout
    assert 'data-figure="front"' in page.read_text(encoding="utf-8")


def over(**parts) -> OverTime:
    known = {"power": (), "alpha": None, "power_why": "needs two limits", "batch": None, "batch_why": "needs looks"}
    return OverTime(**{**known, **parts})


def test_the_schedules_are_drawn_as_they_are_planned_each_with_a_sentence():
    found = planned()
    rate = LearningRate(0.2, "linear", {}, None, "", 2.0)
    course = RateCourse(np.array([0.0, 0.25]), np.array([0.02, 0.2]))
    sizes = batch_schedule([0.0, 0.5], [100.0, 1600.0], 4.0, 0.01)
    told = over(batch=sizes, rate=course, power=power_schedules(100.0, 0.4), alpha=0.4)
    batch, rates, power = schedules(found, told, rate)
    (line,) = rates.views[0].plot["data"]
    total = sum(setting.steps.value for setting in found.settings)
    assert line["x"] == pytest.approx([0.0, 0.25 * total, total], rel=1e-5)
    assert line["y"] == [0.02, 0.2, 0.2]
    assert line["line"]["shape"] == "hv"
    assert batch.views[0].plot["data"][1]["y"] == [*sizes.batch.tolist(), sizes.batch[-1]]
    assert "less energy than" in batch.reading
    assert "scaled by 2, the linear rule" in rates.reading
    assert [trace["y"][0] for trace in power.views[0].plot["data"]] == pytest.approx(
        [kind.start_w for kind in told.power], rel=1e-5
    )
    page = html(found, rate, None, told)
    assert all(f'data-figure="{name}"' in page for name in ("batch-schedule", "rate-schedule", "power-schedule"))


def test_a_schedule_that_is_not_known_says_what_it_needs():
    page = html(planned(), None, None, over())
    assert "No schedule of the batch size: it needs looks." in page
    assert "No schedule of the power: it needs two limits." in page
    assert 'data-figure="rate-schedule"' not in page
    assert "Over the run" not in html(planned())


def test_a_course_that_rounding_makes_worse_is_not_praised():
    found = batch_schedule([0.0, 0.5], [100.0, 100.0], 4.0, 0.0123)
    assert found.gain < 0
    assert batch_gain(found).startswith("no less energy")
