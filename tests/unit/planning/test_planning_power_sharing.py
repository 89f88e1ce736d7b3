"""Sharing one power budget, against every choice of caps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.planning.power_sharing import CapPoint, share_power


def jobs(seed: int, n: int = 4, caps: int = 5) -> dict[str, list[CapPoint]]:
    rng = np.random.default_rng(seed)
    found = {}
    for j in range(n):
        alpha, idle, fastest_w = rng.uniform(0.1, 0.9), rng.uniform(20, 60), rng.uniform(150, 300)
        found[f"job{j}"] = [
            CapPoint(cap, min(cap, fastest_w) * 0.95, (min(cap, fastest_w) - idle) ** alpha * rng.uniform(0.98, 1.02))
            for cap in np.linspace(100, 300, caps)
        ]
    return found


def brute_force(points: dict[str, list[CapPoint]], budget_w: float) -> float:
    tops = {name: max(p.speed for p in ps) for name, ps in points.items()}
    best = -math.inf
    for chosen in itertools.product(*points.values()):
        if sum(p.draw_w for p in chosen) <= budget_w:
            speeds = [p.speed / tops[name] for name, p in zip(points, chosen, strict=True)]
            best = max(best, sum(speeds) / len(speeds))
    return best


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.1))
def test_the_sharing_fits_and_is_the_best_choice_of_all(seed: int, share: float) -> None:
    points = jobs(seed)
    least = sum(min(p.draw_w for p in ps) for ps in points.values())
    most = sum(max(p.draw_w for p in ps) for ps in points.values())
    budget_w = least + share * (most - least) + 1e-6
    found = share_power(points, budget_w)
    best = brute_force(points, budget_w)
    assert found.draw_w <= budget_w
    assert found.upper_bound >= best - 1e-7
    assert found.relative_speed == pytest.approx(best, abs=1e-7)
    draws = [next(p.draw_w for p in points[name] if p.cap_w == cap) for name, cap in found.caps_w.items()]
    assert sum(draws) == pytest.approx(found.draw_w)


def test_with_power_enough_all_run_at_their_fastest() -> None:
    found = share_power(jobs(1), 1e6)
    assert found.relative_speed == pytest.approx(1.0)
    assert found.upper_bound == pytest.approx(1.0)


def test_a_watt_goes_to_the_job_that_it_speeds_up_most() -> None:
    steep = [CapPoint(100, 100, 1.0), CapPoint(200, 200, 2.0)]
    flat = [CapPoint(100, 100, 1.0), CapPoint(200, 200, 1.1)]
    assert share_power({"steep": steep, "flat": flat}, 300).caps_w == {"steep": 200, "flat": 100}


def test_a_job_is_charged_what_it_draws_and_not_its_cap() -> None:
    light = [CapPoint(300, 90, 1.0)]
    assert share_power({"light": light}, 100).caps_w == {"light": 300}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 0.9))
def test_more_power_is_never_slower(seed: int, share: float) -> None:
    points = jobs(seed)
    least = sum(min(p.draw_w for p in ps) for ps in points.values())
    budget_w = least * (1 + share)
    more, less = share_power(points, budget_w * 1.2), share_power(points, budget_w)
    assert more.relative_speed >= less.relative_speed - 1e-7


def test_a_thousand_jobs_are_shared_to_their_bound() -> None:
    points = jobs(3, n=1000, caps=11)
    found = share_power(points, 170_000.0)
    assert found.draw_w <= 170_000.0
    assert found.upper_bound - found.relative_speed < 1e-6


def test_what_cannot_be_shared_is_refused_with_the_least_that_can() -> None:
    with pytest.raises(UsageError, match="one job or more"):
        share_power({}, 100)
    with pytest.raises(UsageError, match="100 W or more"):
        share_power({"a": [CapPoint(100, 100, 1.0)]}, 50)
    with pytest.raises(UsageError, match="a cap at which a was measured"):
        share_power({"a": [CapPoint(100, math.nan, 1.0)]}, 50)
