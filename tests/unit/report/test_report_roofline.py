"""The roofline: ceilings and ridges are the calibration's, points the run's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ergometry.core.estimate import Estimate
from ergometry.report.roofline import figure, kernel_points, points, remarks, roofline_json
from ergometry.report.summary import summary
from ergometry.work import Timeline, accounts
from support.calibrations import FOUND, machine
from support.odd_runs import ODD_RUNS, attributed, modelled, uncalibrated

RUN = attributed()
BOOKS, TIMELINE = accounts(RUN), Timeline.of(RUN)
WITH_KERNELS = replace(FOUND, conditions={"kernels": [kernel.to_json() for kernel in machine()]})


def test_a_point_is_flop_over_bytes_and_over_the_seconds_of_its_phase():
    found = {point.name: point for point in points(RUN, BOOKS, TIMELINE)}
    assert set(found) == {"forward", "backward", "optimizer"}
    assert found["optimizer"].intensity == pytest.approx(1e9 / 2e10)
    assert found["optimizer"].flop_per_s == pytest.approx(1e9 / 0.02)
    assert found["backward"].flop_per_s == pytest.approx(found["forward"].flop_per_s)


def test_the_seconds_are_the_device_s_own():
    rows = RUN.tables["device_steps"].rows.copy()
    rows[:, 3], rows[:, 6] = 0.01, 0.02  # forward takes half as long, the rest is other
    run = replace(RUN, tables={**RUN.tables, "device_steps": replace(RUN.tables["device_steps"], rows=rows)})
    (fast,) = [p for p in points(run, BOOKS, TIMELINE) if p.name == "forward"]
    (slow,) = [p for p in points(RUN, BOOKS, TIMELINE) if p.name == "forward"]
    assert fast.flop_per_s == pytest.approx(2 * slow.flop_per_s)


def test_no_point_lies_above_the_roof():
    peak, rate = FOUND.peak_flop_per_s["bf16"].value, FOUND.peak_byte_per_s.value
    for point in points(RUN, BOOKS, TIMELINE):
        assert point.flop_per_s <= min(peak, point.intensity * rate)


def test_the_summary_has_peaks_ridge_points_and_the_calibration():
    told = summary(RUN)["roofline"]
    assert told["why"] == ""
    assert told["ridge"]["bf16"]["value"] == pytest.approx(200.0)
    assert told["peaks"]["flop_per_s"]["bf16"]["value"] == 4e14
    assert told["peaks"]["byte_per_s"]["unit"] == "byte/s"
    assert [point["phase"] for point in told["points"]] == ["forward", "backward", "optimizer"]
    about = {"device": "cuda:0", "board": "A Board", "date": FOUND.date, "provenance": "derived"}
    assert about.items() <= told["calibration"].items()


def test_without_a_calibration_the_summary_says_why_and_still_has_the_points():
    told = summary(uncalibrated())["roofline"]
    assert told["calibration"] is told["peaks"] is told["ridge"] is None
    assert "erg calibrate" in told["why"]
    assert len(told["points"]) == 3


def test_a_peak_that_is_not_known_has_no_ridge():
    unknown = replace(FOUND, peak_byte_per_s=Estimate.unknown("byte/s", "no kernel of its kind could run here"))
    tree = roofline_json(RUN, replace(BOOKS, calibration=unknown), TIMELINE)
    assert tree["ridge"]["bf16"].value is None
    assert figure(unknown, [], []) is None


def test_ceilings_meet_the_memory_s_at_the_ridge():
    drawn = figure(FOUND, points(RUN, BOOKS, TIMELINE), [])
    traces = {trace["name"]: trace for trace in drawn.views[0].plot["data"]}
    memory, ceiling, ridge = traces["memory"], traces["bf16"], traces["bf16 ridge"]
    assert (memory["x"][-1], memory["y"][-1]) == (ceiling["x"][0], ceiling["y"][0]) == (200.0, 4e14)
    assert (ridge["x"], ridge["y"]) == ([200.0], [4e14])
    assert memory["y"][0] / memory["x"][0] == pytest.approx(2e12)
    xs = [x for trace in traces.values() for x in trace["x"]]
    assert min(xs) < 0.05 < 200 < max(xs)
    assert drawn.views[0].plot["layout"]["xaxis"]["type"] == "log"
    assert {role for role, *_ in drawn.views[0].legend} == {"muted", "forward", "backward", "optimizer"}
    json.dumps(drawn.views[0].plot, allow_nan=False)


def test_kernels_are_drawn_by_their_best_stretch():
    slow = [kernel.to_json() | {"seconds": 2 * kernel.seconds} for kernel in machine()]
    found = replace(FOUND, conditions={"kernels": slow + WITH_KERNELS.conditions["kernels"]})
    assert kernel_points(found) == kernel_points(WITH_KERNELS)
    best = {point.name: point for point in kernel_points(found)}
    assert best["bf16 at 512.0"].flop_per_s == pytest.approx(4e14)
    assert "copy" not in best
    assert "idle" not in best


def test_kernels_that_make_no_sense_are_left_out():
    sound = machine()[3].to_json()
    for nonsense in (
        {"seconds": 0.0},
        {"seconds": "a"},
        {"flops": None},
        {"flops": {"bf16": float("nan")}},
        {"bytes": -1.0},
        {"joules": "x"},
        {"colour": 1},
    ):
        found = replace(FOUND, conditions={"kernels": [sound, sound | {"name": "odd"} | nonsense, 3]})
        assert [point.name for point in kernel_points(found)] == [sound["name"]], nonsense


def test_what_to_know_of_a_calibration_is_said():
    assert remarks(FOUND) == []
    (busy,) = remarks(replace(FOUND, conditions={"busy_share": 0.25, "widened": 6.0}))
    assert "others used 25% of its processors" in busy
    assert "6.0 times" in busy
    (zero,) = remarks(replace(FOUND, e_byte=replace(FOUND.e_byte, value=0.0)))
    assert "could not be told from nothing" in zero
    assert remarks(replace(FOUND, conditions={"busy_share": "a lot", "widened": None})) == []


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_any_run_can_be_asked_for_its_roofline(kind):
    run = ODD_RUNS[kind]()
    tree = roofline_json(run, accounts(run), Timeline.of(run))
    assert bool(tree["why"]) == (tree["calibration"] is None)


def test_a_run_without_counts_has_no_points():
    run = modelled()
    assert points(run, accounts(run), Timeline.of(run)) == []
