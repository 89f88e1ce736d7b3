"""Pipeline plans against brute force over every assignment of measured points, and the orders of operations."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.planning.pipeline import (
    Dag,
    Operation,
    PipelinePlanner,
    Point,
    Profile,
    gpipe,
    interleaved,
    one_forward_one_backward,
    read_profile,
)

SHARED = Path(__file__).parents[4] / "shared" / "data" / "perseus_sosp24"


def random_profile(stream: random.Random, stages: int, points: int) -> Profile:
    """Return points of no particular shape, the faster mostly dearer."""
    found = {}
    for stage in range(stages):
        for instruction in ("forward", "backward"):
            base_s, base_j = stream.uniform(0.5, 2.0), stream.uniform(5.0, 20.0)
            found[stage, instruction] = tuple(
                Point(
                    1000.0 - 10 * k,
                    base_s * (1 + 0.2 * k * stream.uniform(0.5, 1.5)),
                    base_j * (1 - 0.08 * k * stream.uniform(0.2, 1.8)),
                )
                for k in range(points)
            )
    return Profile(found)


def brute_force(dag: Dag, profile: Profile, blocking_w: float, deadline_s: float) -> float:
    """Return the least energy of all assignments that meet a deadline, waiting until it."""
    best = math.inf
    for chosen in itertools.product(*profile.of(dag)):
        times = [point.time_s for point in chosen]
        if dag.iteration_s(times) <= deadline_s * (1 + 1e-12):
            waiting_s = dag.devices * deadline_s - sum(times)
            best = min(best, sum(point.energy_j for point in chosen) + blocking_w * waiting_s)
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slower", [0.0, 0.07, 0.2, 0.6])
def test_a_plan_lies_between_the_lower_bound_and_a_little_above_the_best_of_all_assignments(
    seed: int, slower: float
) -> None:
    stream = random.Random(seed)
    profile = random_profile(stream, 2, 3)
    dag = one_forward_one_backward(2, 2)
    planner = PipelinePlanner(dag, profile, blocking_w=2.0)
    deadline_s = planner.fastest_s * (1 + slower)
    plan = planner.plan(deadline_s)
    best = brute_force(dag, profile, 2.0, deadline_s)
    assert plan.lower_bound_j <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= plan.energy_at_deadline_j <= best * 1.03
    assert plan.iteration_s <= deadline_s * (1 + 1e-12)


def test_with_time_to_spare_the_plan_is_the_best_of_all_assignments() -> None:
    profile = random_profile(random.Random(3), 2, 3)
    dag = gpipe(2, 2)
    planner = PipelinePlanner(dag, profile, blocking_w=2.0)
    plan = planner.plan(2 * planner.slowest_s)
    assert plan.energy_at_deadline_j == pytest.approx(brute_force(dag, profile, 2.0, 2 * planner.slowest_s), rel=1e-12)
    assert plan.gap == pytest.approx(0.0, abs=1e-9)


def test_the_plans_energy_is_that_of_its_points_and_of_waiting() -> None:
    dag = one_forward_one_backward(3, 4)
    profile = random_profile(random.Random(1), 3, 4)
    planner = PipelinePlanner(dag, profile, blocking_w=5.0)
    plan = planner.plan(1.1 * planner.fastest_s)
    times = [point.time_s for point in plan.points]
    assert plan.iteration_s == dag.iteration_s(times)
    waiting_s = 3 * plan.iteration_s - sum(times)
    assert plan.energy_j == pytest.approx(sum(p.energy_j for p in plan.points) + 5.0 * waiting_s, rel=1e-12)
    assert plan.energy_at_deadline_j - plan.energy_j == pytest.approx(15.0 * (plan.deadline_s - plan.iteration_s))
    measured = profile.of(dag)
    assert all(point in points for point, points in zip(plan.points, measured, strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), stages=st.integers(1, 4), microbatches=st.integers(1, 5), slower=st.floats(0, 1))
def test_no_plan_ends_after_its_deadline_or_below_its_bound(
    seed: int, stages: int, microbatches: int, slower: float
) -> None:
    profile = random_profile(random.Random(seed), stages, 5)
    planner = PipelinePlanner(one_forward_one_backward(stages, microbatches), profile, blocking_w=3.0)
    plan = planner.plan(planner.fastest_s * (1 + slower))
    assert plan.iteration_s <= plan.deadline_s * (1 + 1e-12)
    assert plan.gap >= -1e-9


def test_the_frontier_falls_and_its_certificate_holds_at_times_it_was_not_solved_for() -> None:
    profile = random_profile(random.Random(5), 3, 6)
    planner = PipelinePlanner(one_forward_one_backward(3, 6), profile, blocking_w=2.0)
    frontier = planner.frontier(tolerance=2e-3)
    times = [plan.iteration_s for plan in frontier.plans]
    energies = [plan.energy_j for plan in frontier.plans]
    assert times == sorted(times)
    assert energies == sorted(energies, reverse=True)
    for share in (0.13, 0.37, 0.71):
        deadline_s = planner.fastest_s + share * (planner.slowest_s - planner.fastest_s)
        left = max((p for p in frontier.plans if p.iteration_s <= deadline_s), key=lambda p: p.deadline_s)
        right = min((p for p in frontier.plans if p.deadline_s > deadline_s), key=lambda p: p.deadline_s, default=left)
        bound = planner.plan(deadline_s).lower_bound_j
        weight = (deadline_s - left.deadline_s) / (right.deadline_s - left.deadline_s) if right is not left else 0.0
        shared = (1 - weight) * left.energy_at_deadline_j + weight * right.energy_at_deadline_j
        assert shared <= bound * (1 + frontier.certified) ** 2 * (1 + 1e-9)


def test_scaling_all_joules_scales_the_plan_and_leaves_its_choice() -> None:
    profile = random_profile(random.Random(2), 2, 4)
    dearer = Profile(
        {kind: tuple(p._replace(energy_j=7 * p.energy_j) for p in points) for kind, points in profile.points.items()}
    )
    dag = one_forward_one_backward(2, 3)
    one, other = (
        PipelinePlanner(dag, measured, blocking_w=power).plan(20.0)
        for measured, power in ((profile, 2.0), (dearer, 14.0))
    )
    assert other.energy_j == pytest.approx(7 * one.energy_j)
    assert [p.frequency_mhz for p in one.points] == [p.frequency_mhz for p in other.points]


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("microbatches", [1, 3, 8])
def test_equal_operations_take_the_time_known_for_each_order(stages: int, microbatches: int) -> None:
    for order in (gpipe, one_forward_one_backward):
        dag = order(stages, microbatches)
        assert len(dag.operations) == 2 * stages * microbatches
        assert dag.iteration_s([1.0] * len(dag.operations)) == 2 * (microbatches + stages - 1)


def test_one_forward_one_backward_holds_no_more_microbatches_than_stages_are_left() -> None:
    dag = one_forward_one_backward(4, 9)
    for stage in range(4):
        held = most = 0
        for operation in dag.operations:
            if operation.stage == stage:
                held += 1 if operation.instruction == "forward" else -1
                most = max(most, held)
        assert most == 4 - stage


def test_interleaving_shortens_the_bubble_by_the_number_of_chunks() -> None:
    devices, microbatches = 4, 8
    plain = one_forward_one_backward(devices, microbatches)
    dag = interleaved(devices, microbatches, 2)
    busy_s = 2.0 * microbatches
    assert plain.iteration_s([1.0] * len(plain.operations)) - busy_s == 2 * (devices - 1)
    assert dag.iteration_s([0.5] * len(dag.operations)) - busy_s == devices - 1
    assert dag.devices == devices


def test_any_graph_can_be_planned_and_a_circle_is_refused() -> None:
    a, b, c = (Operation(0, "forward", m) for m in range(3))
    dag = Dag.of({a: [], b: [a], c: [a]}, devices=2)
    assert dag.iteration_s([1.0, 2.0, 3.0]) == 4.0
    with pytest.raises(UsageError, match="circles"):
        Dag.of({a: [b], b: [a]}, devices=1)


def test_too_short_a_time_names_the_shortest() -> None:
    planner = PipelinePlanner(gpipe(1, 1), random_profile(random.Random(0), 1, 2), blocking_w=0.0)
    with pytest.raises(UsageError, match=f"{planner.fastest_s:.6g} s or more"):
        planner.plan(0.9 * planner.fastest_s)
    with pytest.raises(UsageError, match="blocking power"):
        PipelinePlanner(gpipe(1, 1), random_profile(random.Random(0), 1, 2), blocking_w=-1.0)


def test_orders_refuse_what_they_cannot_run() -> None:
    with pytest.raises(UsageError, match="one stage and one microbatch"):
        one_forward_one_backward(0, 3)
    with pytest.raises(UsageError, match="multiples of the 4 devices"):
        interleaved(4, 6, 2)


HEADER = "stage,instruction,frequency,time,energy\n"


def test_a_profile_averages_repeated_measurements_and_orders_frequencies(tmp_path: Path) -> None:
    path = tmp_path / "profile.csv"
    path.write_text(HEADER + "0,forward,900,0.2,10\n0,Forward,1000,0.1,20\n0,forward,900,0.4,14\n")
    assert read_profile(path).points == {
        (0, "forward"): (Point(1000, 0.1, 20), Point(900, pytest.approx(0.3), pytest.approx(12)))
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage,instruction,frequency\n", "none called time, energy"),
        (HEADER, "empty profile"),
        (HEADER + "0,forward,900,nan,10\n", "line 2"),
        (HEADER + "0,forward,900,0.1,10\n0,forward,800,-0.1,10\n", "line 3"),
        (HEADER + "x,forward,900,0.1,10\n", "line 2"),
        (HEADER + "0,forward,900\n", "line 2"),
    ],
)
def test_a_bad_profile_is_refused_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "profile.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_profile(path)


def test_a_profile_that_is_not_there_or_lacks_a_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="profile in CSV"):
        read_profile(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="rows of backward on stage 0"):
        Profile({(0, "forward"): (Point(1, 1, 1),)}).of(gpipe(1, 1))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the published A100 profiles")
@pytest.mark.parametrize("model", ["gpt3-175b", "bloom"])
def test_plans_on_measured_profiles_are_within_three_thousandths_of_the_bound(model: str) -> None:
    profile = read_profile(SHARED / f"emulation__stage_profile__{model}+a100_sxm_bf16.csv")
    planner = PipelinePlanner(one_forward_one_backward(profile.stages, 24), profile, blocking_w=54.8)
    for slower in (0.0, 0.03, 0.08, 0.2):
        plan = planner.plan(planner.fastest_s * (1 + slower))
        assert plan.gap < 0.003
        assert plan.iteration_s <= plan.deadline_s
