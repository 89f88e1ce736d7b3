"""Operating points and the laws fitted to them, against steps of known costs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ergometry.core.errors import UsageError
from ergometry.planning.operating_points import (
    OperatingPoint,
    Split,
    contradictions,
    fit_costs,
    read_points,
    usable,
)


def point(b: float, limit: float | None = None, *, roofline: bool = True, noise: float = 0.0, seed: int = 0):
    rng = np.random.default_rng((seed, int(b), int(limit or 0)))
    speed = ((limit or 300.0) / 300.0) ** 0.4
    t = (max(0.05, 0.001 * b) if roofline else 0.05 + 0.001 * b) / speed
    e = (100.0 * t + 3.0 + 0.15 * b) * (speed if limit else 1.0)
    return OperatingPoint(
        b, t * (1 + noise * rng.normal()), e * (1 + noise * rng.normal()), noise * t, noise * e, limit
    )


@pytest.mark.parametrize("roofline", [True, False])
def test_the_laws_of_exact_points_are_found(roofline: bool) -> None:
    costs = fit_costs([point(b, roofline=roofline) for b in (8, 16, 32, 64, 128, 256)])
    assert np.mean(costs.roofline == roofline) > 0.95
    assert costs.split_known
    at = np.array([4.0, 45.0, 512.0])
    expected = [point(b, roofline=roofline) for b in at]
    assert np.median(costs.time_s(at)[0], axis=0) == pytest.approx([p.step_s for p in expected], rel=0.03)
    assert np.median(costs.energy_j(at)[0], axis=0) == pytest.approx([p.step_j for p in expected], rel=0.03)


def test_the_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    held = total = 0
    for seed in range(40):
        costs = fit_costs([point(b, noise=0.03, seed=seed) for b in (16, 32, 64, 128, 256)], draws=128, seed=seed)
        for b in (24.0, 90.0, 200.0):
            true = point(b)
            for law, value in ((costs.time_s, true.step_s), (costs.energy_j, true.step_j)):
                low, high = np.quantile(law(np.array([b]))[0, :, 0], [0.05, 0.95])
                held, total = held + (low <= value <= high), total + 1
    assert 0.8 <= held / total <= 0.99


def test_another_power_limit_scales_the_law() -> None:
    points = [point(b, 300.0) for b in (16, 64, 256)] + [point(64, 150.0)]
    costs = fit_costs(points)
    assert costs.limits_w == (150.0, 300.0)
    true = point(128, 150.0)
    assert np.median(costs.time_s(np.array([128.0]))[0]) == pytest.approx(true.step_s, rel=0.05)
    assert np.median(costs.energy_j(np.array([128.0]))[0]) == pytest.approx(true.step_j, rel=0.05)


def test_one_batch_size_leaves_the_split_open_and_a_calibration_narrows_it() -> None:
    alone = fit_costs([point(64, roofline=False)])
    assert not alone.split_known
    at = np.array([64.0, 512.0])
    here, there = alone.energy_j(at)[0].T
    assert np.std(here) / np.mean(here) < 0.02
    assert np.quantile(there, 0.95) / np.quantile(there, 0.05) > 3
    known = fit_costs([point(64, roofline=False)], split=Split(step_j=3.0, example_j=0.15, static_w=100.0))
    told = known.energy_j(at)[0].T[1]
    assert np.std(told) < 0.5 * np.std(there)
    assert np.quantile(told, 0.05) <= point(512, roofline=False).step_j <= np.quantile(told, 0.95)


def test_scaling_all_joules_scales_the_laws() -> None:
    points = [point(b, noise=0.02) for b in (16, 64, 256)]
    dearer = [
        OperatingPoint(p.batch, p.step_s, 5 * p.step_j, p.step_s_stderr, 5 * (p.step_j_stderr or 0)) for p in points
    ]
    at = np.array([100.0])
    assert np.median(fit_costs(dearer).energy_j(at)) == pytest.approx(5 * np.median(fit_costs(points).energy_j(at)))


def test_failed_points_are_left_out_and_none_is_refused() -> None:
    bad = [OperatingPoint(32, math.nan, 1.0), OperatingPoint(32, 1.0, 0.0), OperatingPoint(-1, 1.0, 1.0)]
    assert usable([*bad, point(64)]) == (point(64),)
    with pytest.raises(UsageError, match="3 points without"):
        usable(bad)


def test_points_that_cannot_both_be_right_are_named() -> None:
    slow = OperatingPoint(64, 1.0, 100.0, 0.01, 1.0, 300.0)
    fast = OperatingPoint(64, 0.8, 90.0, 0.01, 1.0, 150.0)
    assert "faster at 150 W" in contradictions([slow, fast])[0]
    assert contradictions([slow, OperatingPoint(64, 0.99, 90.0, 0.01, 1.0, 150.0)]) == ()
    assert contradictions([slow, OperatingPoint(32, 0.5, 90.0, 0.01, 1.0, 150.0)]) == ()


def test_points_are_read_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("batch,step_s,step_j,power_limit_w\n64,0.1,20,250\n128,0.2,30,\n")
    one, other = read_points(path)
    assert (one.batch, one.step_s, one.step_j, one.power_limit_w, one.power_w) == (64, 0.1, 20, 250, 200)
    assert other.power_limit_w is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch,time\n", "none called step_s, step_j"),
        ("batch,step_s,step_j\n64,x,3\n", "line 2"),
        ("batch,step_s,step_j\n", "one operating point or more"),
        ("batch,step_s,step_j\n64,nan,3\n", "one operating point or more"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_points(path)


def test_two_batch_sizes_leave_the_form_of_the_step_time_open() -> None:
    costs = fit_costs([point(16), point(256)])
    assert 0.3 < np.mean(costs.roofline) < 0.7
    between = costs.time_s(np.array([64.0]))[0, :, 0]
    truth = point(64).step_s
    assert np.quantile(between, 0.05) <= truth <= np.quantile(between, 0.95)


def test_points_that_scatter_wildly_give_no_step_of_no_time() -> None:
    wild = [OperatingPoint(91, 0.0041, 0.047), OperatingPoint(256, 0.0244, 0.29), OperatingPoint(32, 0.0069, 0.083)]
    costs = fit_costs(wild)
    at = np.array([8.0, 64.0, 1024.0])
    assert np.all(costs.time_s(at) > 0)
    assert np.all(np.isfinite(costs.energy_j(at) / costs.time_s(at)))


@pytest.mark.parametrize("cell", ["-5", "nan", "inf", "0"])
def test_a_power_limit_that_cannot_be_is_refused_and_not_taken_for_none(cell: str, tmp_path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(f"batch,step_s,step_j,power_limit_w\n32,0.1,5,\n64,0.1,6,{cell}\n")
    with pytest.raises(UsageError, match=r"a positive power_limit_w, or none, got .* line 3"):
        read_points(path)
