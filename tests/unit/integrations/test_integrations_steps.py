"""The step machine, by hand: what a script does, second by second, and the rows that must come of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ergometry.core.series import EXCEPTION, LOSSES, NO_BACKWARD, SKIPPED, STEPS, WORK
from ergometry.integrations.counting.profiles import Totals
from ergometry.integrations.step_work import Entry
from ergometry.integrations.steps import BACKWARD, DATA, FORWARD, OPTIMIZER, OTHER
from support.scripted import Script


@pytest.fixture
def script() -> Script:
    return Script()


def row(t0_s: float, t1_s: float, data: float, forward: float, backward: float, optimizer: float, other: float) -> Any:
    return {
        "t0_s": t0_s,
        "t1_s": t1_s,
        "data_s": data,
        "forward_s": forward,
        "backward_s": backward,
        "optimizer_s": optimizer,
        "other_s": other,
    }


def times(script: Script) -> list[dict[str, float]]:
    """Return the steps' times; they are numbered from 0, and each is as long as its phases and evaluations."""
    steps = script.steps()
    assert [step["step"] for step in steps] == list(range(len(steps)))
    return [{name: step[name] for name in row(*[0] * 7)} for step in steps]


def evaluation(t0_s: float, t1_s: float, forwards: int, examples: float, after_step: int) -> dict[str, float]:
    return {"t0_s": t0_s, "t1_s": t1_s, "forwards": forwards, "examples": examples, "after_step": after_step}


def whole(script: Script) -> dict[str, float]:
    """Return an evaluation that was told in parts, which must join."""
    told = script.evaluations()
    assert [part["t0_s"] for part in told[1:]] == [part["t1_s"] for part in told[:-1]]
    (after_step,) = {part["after_step"] for part in told}
    forwards, examples = (sum(part[name] for part in told) for name in ("forwards", "examples"))
    return evaluation(told[0]["t0_s"], told[-1]["t1_s"], int(forwards), examples, int(after_step))


def train(script: Script, *, loader: bool = True) -> None:
    """Take one plain step of eight seconds, half a second of them for what a loader would be waited for."""
    if loader:
        script.data(0.5)
    else:
        script.other(0.5)
    script.forward(2)
    script.other(0.5)  # the loss
    script.backward(4, loss=1.0)
    script.optimizer(1)


# Plain loops


def test_a_plain_loop(script: Script) -> None:
    script.other(100)  # imports, set-up
    for _ in range(3):
        script.data(1)
        script.other(0.25)
        script.forward(2)
        script.backward(3)
        script.other(0.125)
        script.optimizer(1)
        script.other(0.5)
    script.finish()
    assert times(script) == [
        row(100, 107.375, 1, 2, 3, 1, 0.375),
        row(107.375, 115.25, 1, 2, 3, 1, 0.875),
        row(115.25, 123.125, 1, 2, 3, 1, 0.875),
    ]
    assert script.evaluations() == []


def test_the_first_step_begins_with_its_batch_and_the_time_before_is_set_up(script: Script) -> None:
    script.data(7)  # a batch that is only looked at
    script.other(50)
    script.data(3)  # the loader's workers start
    script.other(2)
    script.data(1)
    script.other(0.5)
    script.forward(2)
    script.backward(3)
    script.optimizer(1)
    assert times(script) == [row(62, 69.5, 1, 2, 3, 1, 0.5)]


def test_the_first_step_without_a_loader_begins_with_its_forward(script: Script) -> None:
    script.other(50)
    script.forward(2)
    script.backward(3)
    script.optimizer(1)
    script.other(5)
    train(script, loader=False)
    assert times(script) == [row(50, 56, 0, 2, 3, 1, 0), row(56, 69, 0, 2.5, 4, 1, 5.5)]


def test_modules_that_were_called_in_the_set_up_are_not_in_the_first_step(script: Script) -> None:
    script.loss(5)
    script.other(10)
    script.forward(2)
    script.backward(3)
    script.optimizer(1)
    assert times(script) == [row(15, 21, 0, 2, 3, 1, 0)]


def test_modules_that_were_called_before_the_first_batch_are_not_in_the_first_step(script: Script) -> None:
    script.loss(5)
    script.data(1)
    script.loss(0.25)
    script.forward(2)
    script.backward(3)
    script.optimizer(1)
    assert times(script) == [row(5, 12.25, 1, 2.25, 3, 1, 0)]


def test_what_runs_between_forward_and_backward_is_the_loss_and_counts_as_forward(script: Script) -> None:
    train(script)
    script.data(0.5)
    script.forward(2)
    script.other(0.25)
    script.loss(1)
    script.other(0.75)
    script.backward(4)
    script.optimizer(1)
    first, second = times(script)
    assert first["forward_s"] == 2.5
    assert (second["forward_s"], second["other_s"]) == (3.75, 0.25), "only what follows the last forward is a tail"


def test_a_wait_for_data_ends_the_tail_of_the_forward(script: Script) -> None:
    train(script)
    script.forward(2)
    script.other(1)
    script.data(0.5)
    script.other(0.25)
    script.backward(4)
    script.optimizer(1)
    assert times(script)[1] == row(8, 16.75, 0.5, 2, 4, 1, 1.25)


def test_a_forward_while_a_batch_is_made_is_forward_and_leaves_no_tail(script: Script) -> None:
    train(script)
    script.machine.data_begin(script.now_s)
    script.other(1)
    script.loss(2)
    script.other(1)
    script.machine.data_end(script.now_s)
    script.other(0.5)
    script.backward(4)
    script.optimizer(1)
    assert times(script)[1] == row(8, 17.5, 2, 2, 4, 1, 0.5)


def flop(number: float) -> Totals:
    return Totals(number, 2 * number, 3 * number, number / 2)


def test_rows_carry_what_was_counted(script: Script) -> None:
    script.forward(1)
    script.machine.add_examples(32.0, math.nan)
    script.machine.work.add("forward", flop(100.0))
    script.machine.loader_pass = 2
    script.backward(1, loss=3.5)
    script.machine.work.add("backward", flop(200.0))
    script.optimizer(1)
    train(script)
    first, second = script.steps()
    assert (first["examples"], first["flops"], first["backwards"], first["flags"]) == (32.0, 300.0, 1.0, 0.0)
    assert first["loader_pass"] == 2.0
    assert math.isnan(first["tokens"])
    assert math.isnan(second["examples"])
    assert math.isnan(second["flops"])
    assert script.losses() == {0: 3.5, 1: 1.0}
    work = [dict(zip(WORK.columns, values, strict=True)) for series, values in script.rows if series is WORK]
    assert work[0] == {
        "step": 0,
        "forward_flops": 200,
        "backward_flops": 400,
        "optimizer_flops": 0,
        "forward_bytes": 300,
        "backward_bytes": 600,
        "optimizer_bytes": 0,
        "parameter_bytes": 150,
        "recomputed_flops": 0,
        "communication_bytes": 0,
        "uncounted": 0,
    }


def test_flop_that_were_not_counted_leave_the_steps_unknown_and_not_the_next(script: Script) -> None:
    script.forward(1)
    script.machine.work.add("forward", flop(100.0))
    script.machine.work.add("forward", None)
    script.backward(1)
    script.optimizer(1)
    script.forward(1)
    script.machine.work.add("forward", flop(100.0))
    script.machine.work.add("optimizer", None)
    script.backward(1)
    script.optimizer(1)
    first, second = script.steps()
    assert math.isnan(first["flops"])
    assert second["flops"] == 100.0


def test_passes_that_are_known_by_number_add_up_to_what_they_would_one_by_one(script: Script) -> None:
    work = script.machine.work
    work.entries += [Entry("forward", flop(100.0), False), Entry("backward", flop(30.0), True)]
    for _ in range(2):
        script.forward(1)
        work.passes.extend([0, 0, 1])
        work.add("forward", flop(7.0))
        script.backward(1)
        script.optimizer(1)
    assert [step["flops"] for step in script.steps()] == [237.0, 237.0]
    assert work.row()[:2] == (414.0, 60.0)
    assert work.row()[-1] == 1.0
    assert work.steps == {(0, 0, 1): 1}
    work.settle()
    assert work.steps == {(0, 0, 1): 2}


def test_a_step_that_is_open_at_the_end_is_no_step(script: Script) -> None:
    train(script)
    script.data(1)
    script.forward(2)
    script.backward(3)
    script.finish()
    assert len(script.steps()) == 1
    assert script.machine.steps == 1


# Accumulation and several optimizers


def test_accumulation_is_one_step_of_several_backwards(script: Script) -> None:
    for _ in range(2):
        for _ in range(3):
            script.data(1)
            script.forward(2)
            script.backward(3, loss=0.5)
            script.machine.add_examples(8, 16)
            script.other(0.25)
        script.optimizer(1)
    assert times(script) == [row(0, 19.75, 3, 6, 9, 1, 0.75), row(19.75, 39.5, 3, 6, 9, 1, 0.75)]
    for step in script.steps():
        assert (step["backwards"], step["examples"], step["tokens"]) == (3, 24, 48)
    assert script.losses() == {0: 1.5, 1: 1.5}


def test_two_optimizers_in_a_row_are_one_step(script: Script) -> None:
    for _ in range(2):
        script.data(1)
        script.forward(2)
        script.backward(3, loss=1.0)
        script.optimizer(1)
        script.other(0.25)
        script.optimizer(0.5)
    assert times(script) == [row(0, 7.75, 1, 2, 3, 1.5, 0.25), row(7.75, 15.5, 1, 2, 3, 1.5, 0.25)]
    told = [values for series, values in script.rows if series is STEPS]
    assert [values[0] for values in told] == [0, 0, 1, 1], "told at each optimizer's end: a kill loses nothing"
    assert told[0][2] == 7.0
    assert script.losses() == {0: 1.0, 1: 1.0}


def test_two_optimizers_with_a_forward_between_are_two_steps(script: Script) -> None:
    script.data(1)
    script.forward(2)
    script.backward(3)
    script.optimizer(1)  # the discriminator's
    script.forward(2)
    script.backward(3)
    script.optimizer(1)  # the generator's
    assert times(script) == [row(0, 7, 1, 2, 3, 1, 0), row(7, 13, 0, 2, 3, 1, 0)]


def test_a_step_that_the_gradient_scaler_skipped_is_marked_and_counted(script: Script) -> None:
    script.forward(2)
    script.backward(3)
    script.optimizer(0, skipped=True)
    train(script)
    assert [step["flags"] for step in script.steps()] == [SKIPPED, 0]
    assert script.machine.skipped == 1


# Evaluation


def test_evaluation_between_epochs_belongs_to_no_step(script: Script) -> None:
    train(script)  # until 8
    script.other(1)
    for _ in range(3):
        script.data(0.5)
        assert script.evaluate(2, examples=10)
        script.other(0.5)
    script.data(0.5)  # the next epoch: this was an evaluation
    script.other(1)
    script.forward(2)
    script.backward(4)
    script.optimizer(1)
    script.finish()
    # It ends with its last forward; what follows belongs to the next step.
    assert whole(script) == evaluation(8, 17.5, 3, 30, after_step=0)
    assert times(script)[1] == row(17.5, 26.5, 0.5, 2, 4, 1, 1.5)


def test_evaluation_without_a_loader_is_confirmed_by_the_next_training_forward(script: Script) -> None:
    train(script, loader=False)  # from 0.5 to 8
    script.evaluate(2, examples=10)
    script.other(1)
    script.evaluate(2, examples=5)
    script.other(0.25)
    script.forward(2)
    script.backward(4)
    script.optimizer(1)
    assert script.evaluations() == [evaluation(8, 13, 2, 15, after_step=0)]
    assert times(script)[1] == row(13, 20.25, 0, 2, 4, 1, 0.25)


def test_a_long_evaluation_is_told_in_parts_that_join(script: Script) -> None:
    train(script)
    for _ in range(10):
        script.data(0.25)
        script.evaluate(0.25, examples=1)
    script.finish()
    assert len(script.evaluations()) > 2, "a kill in the middle loses little"
    assert whole(script) == evaluation(8, script.now_s, 10, 10, after_step=0)


def test_short_evaluations_are_told_together(script: Script) -> None:
    train(script)
    for _ in range(64):
        script.data(1 / 256)
        script.evaluate(1 / 256, examples=1)
    script.finish()
    assert script.evaluations() == [evaluation(8, 8.5, 64, 64, after_step=0)]


def test_a_run_that_only_evaluates(script: Script) -> None:
    script.other(100)
    for _ in range(4):
        script.data(0.25)
        script.evaluate(1, examples=8)
        script.other(0.25)
    script.other(10)
    script.finish()
    assert script.steps() == []
    told = script.evaluations()
    assert told[0]["t0_s"] == 100, "what came before the first batch was set-up"
    assert 5 <= sum(part["t1_s"] - part["t0_s"] for part in told) <= 5.75
    assert {part["after_step"] for part in told} == {-1}
    assert sum(part["examples"] for part in told) == 32


def test_a_run_that_only_evaluates_without_a_loader(script: Script) -> None:
    script.other(100)
    script.evaluate(2, examples=8)
    script.other(1)
    script.evaluate(2, examples=8)
    script.other(10)
    script.finish()
    assert script.evaluations() == [evaluation(100, 105, 2, 16, after_step=-1)]


def test_evaluation_before_training_is_not_in_the_first_step(script: Script) -> None:
    script.other(100)
    script.data(1)
    script.evaluate(2, examples=8)
    script.other(5)
    train(script)
    assert script.evaluations() == [evaluation(100, 103, 1, 8, after_step=-1)]
    assert times(script) == [row(108, 116, 0.5, 2.5, 4, 1, 0)]


def test_evaluation_in_the_middle_of_accumulation_is_not_in_the_steps_phases(script: Script) -> None:
    script.data(1)
    script.forward(2)
    script.backward(3)
    script.data(0.5)
    script.evaluate(2, examples=8)
    script.other(0.25)
    script.data(1)
    script.forward(2)
    script.backward(3)
    script.optimizer(1)
    assert script.evaluations() == [evaluation(6, 8.5, 1, 8, after_step=-1)]
    assert times(script) == [row(0, 15.75, 2, 4, 6, 1, 0.25)], "2.5 s shorter than its time"


def test_evaluations_around_an_optimizer_do_not_cover_it(script: Script) -> None:
    script.forward(2)
    script.backward(3)
    script.evaluate(0.125)
    script.optimizer(1)
    script.evaluate(0.125)
    script.finish()
    assert script.evaluations() == [evaluation(5, 5.125, 1, 0, after_step=-1), evaluation(6.125, 6.25, 1, 0, 0)]
    assert times(script) == [row(0, 6.125, 0, 2, 3, 1, 0)]


def test_a_teacher_on_the_batch_of_the_step_is_forward(script: Script) -> None:
    train(script)
    script.data(1)
    script.other(0.25)
    script.evaluate(2, examples=8)  # no one can know yet
    script.other(0.25)
    script.forward(2)
    script.backward(4)
    script.optimizer(1)
    script.finish()
    assert script.evaluations() == []
    assert times(script)[1] == row(8, 18.5, 1, 4, 4, 1, 0.5)


def test_a_teacher_in_the_first_step_is_forward_and_the_set_up_is_left_out(script: Script) -> None:
    script.other(100)
    script.data(1)
    script.other(0.25)
    script.evaluate(2, examples=8)
    script.other(0.5)
    script.forward(2)
    script.backward(4)
    script.optimizer(1)
    script.finish()
    assert script.evaluations() == []
    assert times(script) == [row(100, 110.75, 1, 4, 4, 1, 0.75)]


def test_a_teacher_between_forward_and_backward_is_forward(script: Script) -> None:
    train(script)
    script.data(1)
    script.forward(2)
    assert not script.evaluate(2)
    script.other(0.5)
    script.backward(4)
    script.optimizer(1)
    assert times(script)[1] == row(8, 18.5, 1, 4.5, 4, 1, 0)


# Exceptions


def test_a_forward_that_failed_and_is_tried_again(script: Script) -> None:
    train(script)
    script.data(1)
    script.forward(2, fails=True)  # out of memory
    script.other(0.5)
    script.forward(1)
    script.backward(4)
    script.optimizer(1)
    train(script)
    assert times(script)[1] == row(8, 17.5, 1, 3, 4, 1, 0.5)
    assert [step["flags"] for step in script.steps()] == [0, EXCEPTION, 0]


def test_a_backward_that_failed_leaves_its_time_in_the_step(script: Script) -> None:
    train(script)
    script.forward(2)
    script.backward(3, fails=True)
    script.forward(2)
    script.backward(4)
    script.optimizer(1)
    assert times(script)[1] == row(8, 20, 0, 4, 7, 1, 0)
    assert script.steps()[1]["flags"] == EXCEPTION
    assert script.steps()[1]["backwards"] == 1


def test_after_a_training_call_that_failed_an_evaluation_is_one(script: Script) -> None:
    for fails in ("forward", "backward"):
        train(script)
        script.data(1)
        script.forward(2, fails=fails == "forward")
        if fails == "backward":
            script.backward(3, fails=True)
        script.data(1)
        assert script.evaluate(2)
        script.data(1)


def test_an_evaluation_that_failed_leaves_no_phase_open(script: Script) -> None:
    train(script)
    script.data(0.5)
    script.evaluate(2, fails=True)
    assert script.machine.depth == 0
    train(script)
    script.finish()
    assert len(script.steps()) == 2
    step = times(script)[1]
    assert step["t0_s"] == 8
    assert step["t1_s"] == script.now_s


def test_an_optimizer_that_raised_is_closed_by_the_next(script: Script) -> None:
    train(script)
    script.forward(2)
    script.backward(4)
    script.optimizer(1, fails=True)
    script.other(0.5)
    script.forward(2)
    script.backward(4)
    script.optimizer(1)
    train(script)
    steps = script.steps()
    assert [step["flags"] for step in steps] == [0, EXCEPTION, 0]
    assert steps[1]["t1_s"] - steps[1]["t0_s"] == 14.5
    assert times(script)[2] == row(22.5, 30.5, 0.5, 2.5, 4, 1, 0)
    assert script.machine.depth == 0


# Unusual steps


def test_a_closure_runs_inside_the_optimizer_and_counts_its_first_call_only(script: Script) -> None:
    counted: list[bool] = []

    def closure() -> None:
        for loss in (3.0, 2.0, 1.0):
            script.forward(1)
            script.backward(2, loss=loss)
            counted.append(script.machine.counting)

    for _ in range(2):
        script.data(1)
        script.optimizer(2, closure=closure)
    assert times(script) == [row(0, 12, 1, 3, 6, 2, 0), row(12, 24, 1, 3, 6, 2, 0)]
    assert counted == [False] * 6, "after each of the backwards"
    assert script.losses() == {0: 3.0, 1: 3.0}
    assert [step["backwards"] for step in script.steps()] == [3, 3]


def test_a_closure_that_evaluates_without_gradient_is_forward(script: Script) -> None:
    train(script)
    script.optimizer(1, closure=lambda: script.evaluate(2))
    assert script.evaluations() == []
    assert times(script) == [row(0, 11, 0.5, 4.5, 4, 2, 0)]


def test_a_backward_opens_the_step_where_no_forward_was_seen(script: Script) -> None:
    script.other(10)
    for _ in range(2):
        script.data(1)
        script.other(0.5)
        script.backward(3, loss=2.0)
        script.optimizer(1)
    assert times(script) == [row(10, 15.5, 1, 0, 3, 1, 0.5), row(15.5, 21, 1, 0, 3, 1, 0.5)]
    assert [step["flags"] for step in script.steps()] == [0, 0]


@pytest.mark.parametrize("loader", [False, True])
def test_an_optimizer_without_anything_before_it_is_a_step(script: Script, loader: bool) -> None:
    script.other(10)
    if loader:
        script.data(1)
        script.other(0.5)
    script.optimizer(2)
    assert times(script) == [row(10, 13.5, 1, 0, 0, 2, 0.5) if loader else row(10, 12, 0, 0, 0, 2, 0)]
    assert script.steps()[0]["flags"] == NO_BACKWARD


def test_a_step_whose_gradient_came_by_another_way_is_marked(script: Script) -> None:
    train(script)
    script.forward(2)
    script.other(3)  # torch.autograd.grad
    script.optimizer(1)
    assert times(script)[1] == row(8, 14, 0, 2, 0, 1, 3)
    assert script.steps()[1]["flags"] == NO_BACKWARD
    assert 1 not in script.losses()


def test_losses_of_several_backwards_add_and_those_that_are_not_known_are_left_out(script: Script) -> None:
    script.forward(1)
    script.backward(1, loss=1.5)
    script.backward(1)
    script.backward(1, loss=0.25)
    script.optimizer(1)
    assert script.losses() == {0: 1.75}
    script.forward(1)
    script.backward(1)
    script.optimizer(1)
    assert [values[0] for series, values in script.rows if series is LOSSES] == [0]


def test_phases_that_end_are_told_to_who_marks_them(script: Script) -> None:
    ended: list[tuple[int, int]] = []
    script.machine.on_switch = lambda phase: ended.append((phase, script.machine.index))
    for _ in range(2):
        script.data(1)
        script.forward(1)
        script.backward(1)
        script.optimizer(1)
    per_step = [OTHER, DATA, OTHER, FORWARD, OTHER, BACKWARD, OTHER, OPTIMIZER]
    assert [phase for phase, _ in ended] == per_step * 2
    assert [index for _, index in ended] == sorted(index for _, index in ended)
