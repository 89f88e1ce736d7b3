"""Laws of the step machine that hold for any script: time is neither lost nor counted twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.series import EVALUATIONS, PHASES, STEPS
from support.scripted import Script

STEP_PHASES = [f"{phase}_s" for phase in PHASES if phase != "evaluation"]

seconds = st.floats(0.0, 3.0)
short = st.floats(0.0, 0.01)


def doing(name: str, *more: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, float, float, Any]]:
    """Return strategies for (what, how long, time before it, what else)."""
    return st.tuples(st.just(name), seconds | short, st.just(0.0) | seconds, *(more or (st.none(),)))


plain = st.one_of(
    doing("data"),
    doing("forward"),
    doing("backward"),
    doing("evaluate"),
    doing("loss"),
    doing("other"),
    doing("optimizer"),
)
mishaps = st.one_of(
    doing("forward fails"),
    doing("backward fails"),
    doing("evaluate fails"),
    doing("optimizer fails"),
    doing("optimizer skipped"),
    doing("model in data", st.sampled_from(["evaluate", "forward", "loss", "data"])),
    doing("closure", st.lists(st.sampled_from(["forward", "backward", "evaluate", "loss"]), max_size=6)),
)
loop = st.sampled_from(
    [
        ["data", "forward", "backward", "optimizer"],
        ["data", "forward", "backward", "data", "forward", "backward", "optimizer"],
        ["data", "evaluate", "forward", "backward", "optimizer"],
        ["data", "evaluate"] * 3,
        ["evaluate"] * 2,
        ["forward", "backward", "optimizer", "optimizer"],
        ["forward", "backward", "evaluate", "optimizer", "evaluate"],
        ["forward", "evaluate", "backward", "evaluate", "backward", "optimizer"],
    ]
)
scripts = st.lists(
    plain.map(lambda one: [one])
    | mishaps.map(lambda one: [one])
    | st.tuples(loop, seconds | short).map(lambda pair: [(name, pair[1], 0.0, None) for name in pair[0]]),
    max_size=30,
).map(lambda parts: list(itertools.chain.from_iterable(parts)))
orderly = st.lists(plain, max_size=60)


def run(doings: list[tuple[str, float, float, Any]], start_s: float = 0.0) -> Script:
    script = Script()
    script.now_s = start_s
    for what, takes_s, before_s, more in doings:
        script.other(before_s)
        name, _, how = what.partition(" ")
        if what == "closure":
            script.optimizer(takes_s, closure=lambda more=more: [getattr(script, one)(0.25) for one in more])
        elif what == "model in data":
            script.machine.data_begin(script.now_s)
            script.other(takes_s)
            getattr(script, more)(takes_s)
            script.machine.data_end(script.now_s)
        else:
            call: Callable[..., Any] = getattr(script, name)
            call(takes_s, **({how: True} if how else {}))
    script.finish()
    return script


def overlap(a: dict[str, float], b: dict[str, float]) -> float:
    return max(0.0, min(a["t1_s"], b["t1_s"]) - max(a["t0_s"], b["t0_s"]))


@given(scripts, st.sampled_from([0.0, 1e4]))
@settings(max_examples=400)
def test_phases_are_never_negative_and_sum_to_the_step_less_the_evaluation_within(
    doings: list[Any], start_s: float
) -> None:
    script = run(doings, start_s)
    evaluations = script.evaluations()
    for step in script.steps():
        phases = [step[name] for name in STEP_PHASES]
        assert min(phases) >= 0
        inside = math.fsum(overlap(step, evaluation) for evaluation in evaluations)
        assert math.fsum(phases) + inside == pytest.approx(step["t1_s"] - step["t0_s"], abs=1e-9)


@given(scripts)
def test_steps_are_numbered_in_order_and_do_not_overlap(doings: list[Any]) -> None:
    script = run(doings)
    steps = script.steps()
    assert [step["step"] for step in steps] == list(range(len(steps))) == list(range(script.machine.steps))
    assert all(step["t0_s"] <= step["t1_s"] for step in steps)
    assert all(a["t1_s"] <= b["t0_s"] for a, b in itertools.pairwise(steps))
    assert all(step["t0_s"] >= 0.0 and step["t1_s"] <= script.now_s for step in steps)


@given(scripts)
def test_evaluations_are_in_order_and_do_not_overlap(doings: list[Any]) -> None:
    script = run(doings)
    told = script.evaluations()
    assert all(part["t0_s"] <= part["t1_s"] <= script.now_s for part in told)
    assert all(a["t1_s"] <= b["t0_s"] for a, b in itertools.pairwise(told))
    assert [part["after_step"] for part in told] == sorted(part["after_step"] for part in told)


@given(scripts)
@settings(max_examples=400)
def test_no_second_is_counted_twice(doings: list[Any]) -> None:
    script = run(doings)
    spent = math.fsum(step[name] for step in script.steps() for name in STEP_PHASES)
    evaluated = math.fsum(part["t1_s"] - part["t0_s"] for part in script.evaluations())
    assert spent + evaluated <= script.now_s + 1e-9


@given(scripts)
def test_a_step_that_is_told_again_is_told_longer(doings: list[Any]) -> None:
    told: dict[float, dict[str, float]] = {}
    for series, values in run(doings).rows:
        if series is STEPS:
            row = dict(zip(STEPS.columns, values, strict=True))
            before = told.get(row["step"], row)
            assert row["t0_s"] == before["t0_s"]
            assert row["t1_s"] >= before["t1_s"]
            assert all(row[name] >= before[name] for name in STEP_PHASES)
            told[row["step"]] = row


@given(orderly)
def test_every_evaluation_and_every_backward_is_counted(doings: list[Any]) -> None:
    script = Script()
    forwards = backwards = 0
    for what, takes_s, before_s, _ in doings:
        script.other(before_s)
        if what == "evaluate":
            forwards += script.evaluate(takes_s, examples=2.0)
            continue
        getattr(script, what)(takes_s)
        backwards += what == "backward"
    script.optimizer(0.0)
    script.finish()
    counted = sum(part["forwards"] for part in script.evaluations())
    # A teacher's forward is taken back from the evaluations, so that there may be fewer.
    assert counted <= forwards
    assert sum(part["examples"] for part in script.evaluations()) == 2 * counted
    assert sum(step["backwards"] for step in script.steps()) == backwards


@given(st.lists(st.tuples(seconds, seconds, seconds, seconds), min_size=1, max_size=20), seconds)
def test_a_plain_loop_is_split_exactly(steps: list[tuple[float, float, float, float]], set_up_s: float) -> None:
    script = Script()
    script.other(set_up_s)
    for data_s, forward_s, backward_s, optimizer_s in steps:
        script.data(data_s)
        script.forward(forward_s)
        script.backward(backward_s)
        script.optimizer(optimizer_s)
    for told, expected in zip(script.steps(), steps, strict=True):
        assert [told[name] for name in STEP_PHASES] == pytest.approx([*expected, 0.0], abs=1e-9)


@given(scripts)
@settings(max_examples=50)
def test_the_machine_comes_to_rest(doings: list[Any]) -> None:
    script = run(doings)
    script.optimizer(1.0)  # closes what an optimizer that raised has left open
    assert script.machine.depth == 0
    assert not script.machine.in_data
    assert not script.machine.in_optimizer


@given(scripts)
def test_rows_have_no_value_that_is_not_a_number_but_counts(doings: list[Any]) -> None:
    for series, values in run(doings).rows:
        row = dict(zip(series.columns, values, strict=True))
        if series in (STEPS, EVALUATIONS):
            unknown = {name for name, value in row.items() if not math.isfinite(value)}
            assert unknown <= {"examples", "tokens", "flops"}
