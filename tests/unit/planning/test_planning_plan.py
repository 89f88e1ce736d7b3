"""Plans against brute force over the candidates, and what must hold of any plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.budget import Budget
from ergometry.core.errors import UsageError
from ergometry.equations import optimal_batch
from ergometry.planning.belief import Belief
from ergometry.planning.operating_points import OperatingPoint
from ergometry.planning.plan import Goal, Plan, Range, plan

CRITICAL = Belief.of(200.0, factor=1.02, source="runs")
GOAL = Goal(64, np.full(200, 10_000.0), "a loss of 2")


def point(b: float, limit: float | None = None, joules: float = 1.0) -> OperatingPoint:
    speed = ((limit or 300.0) / 300.0) ** 0.4
    t = (0.05 + 0.001 * b) / speed
    return OperatingPoint(b, t, joules * (8.0 + 0.25 * b) * speed**1.5, 0.002 * t, 0.0, limit)


POINTS = [point(b, limit) for b in (16, 64, 256) for limit in (150.0, 225.0, 300.0)]


def test_the_batch_size_is_the_closed_form_of_the_optimum() -> None:
    found = plan([point(b) for b in (16, 64, 256)], CRITICAL, GOAL, batches=range(20, 200))
    assert found.settings[0].batch == pytest.approx(optimal_batch(200.0, 8.0, 0.25), rel=0.05)
    assert found.best_batch.low <= optimal_batch(200.0, 8.0, 0.25) <= found.best_batch.high


def test_time_energy_and_steps_are_those_of_the_laws() -> None:
    found = plan(POINTS, CRITICAL, GOAL)
    (setting,) = found.settings
    steps = 10_000 * (1 + 200 / setting.batch) / (1 + 200 / 64)
    true = point(setting.batch, setting.power_limit_w)
    assert setting.steps.value == pytest.approx(steps, rel=0.02)
    assert found.time.value == pytest.approx(steps * true.step_s, rel=0.05)
    assert found.energy.value == pytest.approx(steps * true.step_j, rel=0.05)
    assert found.power.value == pytest.approx(true.power_w, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(c=st.floats(0.01, 100), slowdown=st.floats(0.0, 0.5))
def test_scaling_all_joules_scales_the_energy_and_leaves_the_choice(c: float, slowdown: float) -> None:
    budget = Budget(slowdown=slowdown)
    one = plan(POINTS, CRITICAL, GOAL, budget=budget)
    dearer = [OperatingPoint(p.batch, p.step_s, c * p.step_j, p.step_s_stderr, 0.0, p.power_limit_w) for p in POINTS]
    other = plan(dearer, CRITICAL, GOAL, budget=budget)
    assert other.energy.value == pytest.approx(c * one.energy.value, rel=1e-6)
    assert [(s.batch, s.power_limit_w) for s in other.settings] == [(s.batch, s.power_limit_w) for s in one.settings]


@settings(max_examples=15, deadline=None)
@given(slowdown=st.floats(0.0, 0.5), more=st.floats(0.0, 0.5), weight=st.floats(0, 1))
def test_more_budget_never_gives_a_worse_plan(slowdown: float, more: float, weight: float) -> None:
    price = max(p.power_w for p in POINTS)

    def cost(found: Plan) -> float:
        return weight * found.energy.value + (1 - weight) * price * found.time.value

    tight = plan(POINTS, CRITICAL, GOAL, budget=Budget(slowdown=slowdown), energy_weight=weight)
    loose = plan(POINTS, CRITICAL, GOAL, budget=Budget(slowdown=slowdown + more), energy_weight=weight)
    assert cost(loose) <= cost(tight) * (1 + 0.005)  # medians of a mixture are not the mixture of medians


def test_the_front_falls() -> None:
    front = plan(POINTS, CRITICAL, GOAL).front
    assert len(front) > 2
    assert [p.time_s for p in front] == sorted(p.time_s for p in front)
    assert [p.energy_j for p in front] == sorted((p.energy_j for p in front), reverse=True)


def test_a_bound_on_time_is_met_by_sharing_two_settings() -> None:
    free = plan(POINTS, CRITICAL, GOAL)
    found = plan(POINTS, CRITICAL, GOAL, budget=Budget(time=0.8 * free.time.value))
    assert found.time.value == pytest.approx(0.8 * free.time.value, rel=0.01)
    assert found.energy.value > free.energy.value
    assert found.binding == ("time",)
    assert sum(s.share for s in found.settings) == pytest.approx(1.0)
    assert 0.2 <= found.holds["time"] <= 0.8


def test_weight_zero_is_the_fastest_and_one_the_cheapest() -> None:
    fast = plan(POINTS, CRITICAL, GOAL, energy_weight=0.0)
    cheap = plan(POINTS, CRITICAL, GOAL, energy_weight=1.0)
    assert fast.time.value < cheap.time.value
    assert fast.energy.value > cheap.energy.value
    assert fast.settings[0].power_limit_w == 300.0


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(time=1.0), "nearest that can be met is time"),
        (Budget(energy=10.0), "nearest that can be met is energy"),
        (Budget(power=1.0), "nearest that can be met is power"),
        (Budget(time=1.0, power=200.0), "where time and power bind"),
    ],
)
def test_an_infeasible_budget_names_what_binds_and_the_nearest(budget: Budget, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(POINTS, CRITICAL, GOAL, budget=budget)


def test_one_point_and_a_vague_critical_batch_give_wide_intervals_and_say_why() -> None:
    vague = Belief.of(200.0, factor=10.0, source="nothing is known")
    found = plan([point(64)], vague, GOAL)
    assert found.best_batch.high / found.best_batch.low > 8
    assert any("one batch size was measured" in remark for remark in found.remarks)
    assert any("factor 10" in remark for remark in found.remarks)
    sure = plan(POINTS, CRITICAL, GOAL)
    assert sure.best_batch.high / sure.best_batch.low < 3
    assert sure.remarks == ()


def test_points_that_contradict_are_told_and_widen_the_plan() -> None:
    odd = [
        point(64, 300.0),
        point(256, 300.0),
        OperatingPoint(64, 0.5 * point(64, 300.0).step_s, 20.0, None, None, 150.0),
    ]
    found = plan(odd, CRITICAL, GOAL)
    assert any("faster at 150 W" in remark for remark in found.remarks)


def test_a_batch_size_that_does_not_fit_is_not_chosen() -> None:
    assert plan(POINTS, CRITICAL, GOAL, max_batch=32).settings[0].batch <= 32
    with pytest.raises(UsageError, match="a batch size to choose from"):
        plan(POINTS, CRITICAL, GOAL, batches=[64, 128], max_batch=32)


def test_a_goal_that_is_never_reached_is_refused_and_one_that_may_be_is_told() -> None:
    with pytest.raises(UsageError, match="never do"):
        plan(POINTS, CRITICAL, Goal(64, np.full(200, math.inf), "a loss of 0.1"))
    half = np.where(np.arange(200) % 4 == 0, math.inf, 10_000.0)
    found = plan(POINTS, CRITICAL, Goal(64, half, "a loss of 1"))
    assert found.time.high == math.inf
    assert any("in 25% of the extrapolations" in remark for remark in found.remarks)
    assert found.time.to_json()["high"] is None


def test_a_weight_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="weight of energy"):
        plan(POINTS, CRITICAL, GOAL, energy_weight=1.5)


def test_the_saving_is_against_the_batch_size_that_was_run() -> None:
    found = plan([point(b) for b in (16, 64, 256)], CRITICAL, Goal(256, np.full(200, 5000.0), "x"))
    assert found.saving is not None
    best = optimal_batch(200.0, 8.0, 0.25)

    def energy(b: float) -> float:
        return (1 + 200 / b) * (8.0 + 0.25 * b)

    assert found.saving.value == pytest.approx(1 - energy(best) / energy(256), abs=0.03)


def test_a_budget_of_power_holds_for_a_goal_that_may_never_be_reached() -> None:
    # Infinite joules over infinite seconds were no power at all, and no setting within any budget.
    some = np.where(np.arange(200) % 4 == 0, math.inf, 10_000.0)
    found = plan(POINTS, CRITICAL, Goal(64, some, "a loss of 1"), budget=Budget(power=500.0))
    assert found.power.value < 500.0
    sure = plan(POINTS, CRITICAL, GOAL, budget=Budget(power=500.0))
    assert found.settings[0].batch == sure.settings[0].batch
    assert (found.best_batch.low, found.best_batch.high) == (sure.best_batch.low, sure.best_batch.high)


def test_the_saving_is_told_where_the_batch_size_that_was_run_is_none_to_choose() -> None:
    points = [point(b) for b in (16, 64, 256)]
    all_sizes = plan(points, CRITICAL, Goal(256, np.full(200, 5000.0), "x"), batches=[64, 256])
    without = plan(points, CRITICAL, Goal(256, np.full(200, 5000.0), "x"), batches=[64])
    assert all_sizes.saving == without.saving
    assert without.saving is not None
    same = plan(points, CRITICAL, Goal(64, np.full(200, 5000.0), "x"), batches=[64])
    assert same.saving is not None
    assert (same.saving.low, same.saving.high) == (0.0, 0.0)


def test_a_best_batch_size_beyond_those_to_choose_from_is_told() -> None:
    points = [point(b) for b in (4, 8)]
    assert any("may be larger than 8" in remark for remark in plan(points, CRITICAL, GOAL, max_batch=8).remarks)
    inside = plan([point(b) for b in (16, 64, 256)], CRITICAL, GOAL)
    assert not any("where the choice ends" in remark for remark in inside.remarks)


def test_points_that_are_no_measurements_are_left_out_and_told() -> None:
    found = plan([*POINTS, OperatingPoint(64, math.nan, 5.0), OperatingPoint(64, 1.0, -2.0)], CRITICAL, GOAL)
    assert any("2 of 11 points are no measurements" in remark for remark in found.remarks)
    assert found.energy == plan(POINTS, CRITICAL, GOAL).energy


def test_the_meters_own_gain_moves_the_joules_and_no_choice() -> None:
    # As an error of each point apart, a model's 30 % drowned the split between steps and examples.
    sure, unsure = (
        plan(
            [OperatingPoint(b, point(b).step_s, point(b).step_j, None, share * point(b).step_j) for b in (16, 64, 256)],
            CRITICAL,
            GOAL,
        )
        for share in (0.0, 0.3)
    )
    assert unsure.energy.high / unsure.energy.low > 2
    assert unsure.best_batch.high / unsure.best_batch.low == pytest.approx(
        sure.best_batch.high / sure.best_batch.low, rel=0.2
    )


def test_a_budget_exactly_at_a_corner_of_the_front_is_met_by_it_alone() -> None:
    corner = plan(POINTS, CRITICAL, GOAL).front[1]
    found = plan(POINTS, CRITICAL, GOAL, budget=Budget(time=corner.time_s))
    assert [(s.batch, s.power_limit_w, s.share) for s in found.settings] == [(corner.batch, corner.power_limit_w, 1.0)]


def untold(seed: int, **options: object) -> Plan:
    """Return a plan from one batch size, 64, with B_c known within a factor 10."""
    critical = Belief.of(64.0, factor=10.0, source="nothing")
    draws = critical.draws(np.random.default_rng(0), 256)
    steps = 10_000 * np.exp(0.07 * np.random.default_rng(seed).normal(size=256))
    measured = OperatingPoint(64, 0.001, 0.01, 1e-5, 0.003)
    return plan([measured], critical, Goal(64, steps, "a loss of 2", draws), seed=seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_what_was_measured_is_kept_where_nothing_is_likely_to_be_cheaper(seed: int) -> None:
    # The medians of the energies alone put batch size 91 first, and told that it saved -1.8 %.
    found = untold(seed)
    assert [setting.batch for setting in found.settings] == [64]
    assert found.saving == Range(0.0, 0.0, 0.0, "")
    assert any("it is kept" in remark for remark in found.remarks)


def test_what_was_measured_is_not_kept_where_another_is_cheaper_or_a_budget_forbids_it() -> None:
    dear = plan([point(b) for b in (16, 64, 256)], CRITICAL, Goal(256, GOAL.steps, "a loss of 2"))
    assert dear.settings[0].batch < 256
    assert not any("it is kept" in remark for remark in dear.remarks)
    best = Goal(80, GOAL.steps, "a loss of 2")
    points = [point(b, limit) for b in (80, 16, 256) for limit in (150.0, 300.0)]
    free = plan(points, CRITICAL, best)
    assert [(one.batch, one.power_limit_w) for one in free.settings] == [(80, 150.0)]
    for budget in (Budget(time=0.9 * free.time.value), Budget(slowdown=0.1)):
        held = plan(points, CRITICAL, best, budget=budget)
        assert held.time.value < 0.95 * free.time.value
        assert held.saving is not None
        assert held.saving.value < 0
