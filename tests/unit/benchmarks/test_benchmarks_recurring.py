"""The benchmark of recurring jobs: what it takes off as luck, and what it calls a pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks._recurring_replay import Watched, mean, pooled
from benchmarks.recurring import Row


def test_a_size_run_always_costs_its_mean_once_luck_is_taken_off():
    drawn: list[float] = []
    runs = Watched([[2.0, 40.0], [1.0, 20.0], [3.0, 60.0]], 0.02, 100, drawn)
    picks = [0, 2, 2, 1, 0]
    cost = [0.02 * runs[i][-1] for i in picks]
    np.testing.assert_allclose(np.array(cost) - drawn, 0.02 * 40)


def test_luck_has_mean_zero_also_where_runs_fail_or_cost_more_than_anyone_would_pay():
    drawn: list[float] = []
    runs = Watched([[10.0], [math.nan], [90.0], [400.0]], 0.05, 100, drawn)
    for i in range(4):
        assert len(runs[i]) == 1
    assert sum(drawn) == pytest.approx(0.0)
    assert drawn == pytest.approx([0.5 - 1.625, 0.375, 0.375, 0.375])


def test_means_over_jobs_carry_the_errors_of_all_of_them():
    one, other = np.array([1.0, 3.0]), np.array([4.0, 4.0])
    assert mean(one) == pytest.approx((2.0, 1.0))
    assert pooled([one, other]) == pytest.approx((3.0, 0.5))


@pytest.mark.parametrize(
    ("figure", "error", "verdict"),
    [(3.0, 0.0, "pass"), (3.1, 0.2, "within its error"), (3.1, 0.05, "short"), (3.1, 0.0, "short")],
)
def test_a_figure_passes_or_is_short_and_says_so(figure, error, verdict):
    row = Row("mean regret", 3.0, figure, error)
    assert row.verdict == verdict
    assert str(row).split()[:5] == ["mean", "regret", "≤", "3.00", f"{figure:.2f}"]
