"""Training scripts, unmodified: measured they differ in no bit, and the account of their steps is what they say.

Every script here prints ``step N loss X …`` for each of its steps, and saves its whole state at the end.
"""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest

from end_to_end.running import SCRIPTS, Measured, Runner, compare, difference
from ergometry.core.run import Run, Table
from ergometry.core.series import (
    EVALUATIONS,
    EXCEPTION,
    LEARNING_RATES,
    LEDGER,
    NO_BACKWARD,
    SKIPPED,
    STEPS,
)


def steps_of(run: Run) -> Table:
    return run.table(STEPS)


def assert_accounted(measured: Measured, *also: str) -> Table:
    """Compare steps, their losses and what else the script tells of each with what was stored."""
    steps = steps_of(measured.run)
    losses = measured.said("loss")
    assert len(steps) == len(losses)
    np.testing.assert_allclose(measured.losses, losses, rtol=1e-6)
    for name in also:
        np.testing.assert_array_equal(steps[name], measured.said(name), err_msg=name)
    return steps


def flagged(steps: Table, bit: int) -> list[int]:
    return [int(step) for step, flags in zip(steps["step"], steps["flags"], strict=True) if int(flags) & bit]


@pytest.mark.parametrize(
    ("data", "evaluate"),
    [("loader", "no_grad"), ("loader", "carelessly"), ("tensors", "inference_mode"), ("tensors", "carelessly")],
)
def test_epochs_with_evaluation_between(runner: Runner, data: str, evaluate: str) -> None:
    first = ["--evaluate-first"] if data == "tensors" else []
    measured = compare(runner, "classifier.py", "--data", data, "--evaluate", evaluate, *first)
    steps = assert_accounted(measured, "examples")
    assert set(steps["flags"]) == {0}
    assert set(steps["backwards"]) == {1}
    assert all((steps[f"{phase}_s"] > 0).all() for phase in ("forward", "backward", "optimizer"))
    passes = measured.said("epoch") if data == "loader" else [0] * 18
    assert list(steps["loader_pass"]) == passes
    assert (steps["data_s"] > 0).all() == (data == "loader")
    evaluations = measured.run.table(EVALUATIONS)
    assert list(evaluations["after_step"]) == [*[-1][: len(first)], 5, 11, 17]
    assert set(evaluations["forwards"]) == {3}
    assert set(evaluations["examples"]) == {50}
    rates = measured.run.table(LEARNING_RATES)
    assert list(rates["step"]) == [0, 6, 12]
    assert list(rates["lr"]) == [0.1, 0.05, 0.025]
    assert measured.run.meta["parameters"] == 60 + 12 + 868
    assert measured.run.meta["classes"] == 4


def test_a_script_forked_where_torch_is_imported_trains_as_in_a_new_interpreter(runner: Runner) -> None:
    """It stands for ``python script.py`` in the tests here."""
    import torch

    words = (SCRIPTS / "language_model.py",)
    new, forked = runner.plain(*words, cwd=runner.folder / "new"), runner.forked(*words, cwd=runner.folder / "forked")
    assert (forked.status, forked.out, forked.err) == (new.status, new.out, new.err) == (0, new.out, "")
    states = [torch.load(done.cwd / "state.pt", weights_only=False) for done in (new, forked)]
    assert difference(*states) is None


def test_gradient_accumulation(runner: Runner) -> None:
    measured = compare(runner, "accumulation.py")
    assert_accounted(measured, "examples", "backwards")
    evaluations = measured.run.table(EVALUATIONS)
    assert list(evaluations["forwards"]) == [3, 3]
    assert evaluations["after_step"][-1] == 4


def test_two_networks_against_each_other(runner: Runner) -> None:
    measured = compare(runner, "adversarial.py")
    assert_accounted(measured, "backwards")
    assert len(measured.run.table(EVALUATIONS)) == 0


def test_gradient_scaling(runner: Runner) -> None:
    measured = compare(runner, "mixed_precision.py", "--io", 0.08)
    steps = assert_accounted(measured)
    assert flagged(steps, SKIPPED) == [3, 9, 15, 21, 27]
    skipped = measured.said("skipped")
    assert [float(step in flagged(steps, SKIPPED)) for step in steps["step"]] == skipped
    ledger = measured.run.table(LEDGER)
    exact = ledger["sampled"] == ledger["parameters"]
    assert exact.sum() >= 1  # how many are followed depends on how fast this machine is
    gradient_sq = np.array(measured.said("gradient_sq"))
    # Unscaled, whether or not the optimizer gets scaled gradients.
    np.testing.assert_allclose(ledger["grad_sq"][exact], gradient_sq[ledger["step"][exact].astype(int)], rtol=1e-4)
    assert not set(ledger["step"]) & set(flagged(steps, SKIPPED))


def test_compiled_models(runner: Runner) -> None:
    ways = ["eager:model", "eager:in_place", "eager:part", "eager:function", "aot_eager:model", "aot_eager:function"]
    if any(map(shutil.which, ("g++", "c++", "clang++"))):  # inductor needs a compiler
        ways.append("inductor:model")
    measured = compare(runner, "compiled.py", *ways)
    steps = assert_accounted(measured)
    examples = np.array(measured.said("examples"))
    seen = np.isfinite(steps["examples"])
    np.testing.assert_array_equal(steps["examples"][seen], examples[seen])
    # A compiled function takes the module's call into itself: nothing then tells how many examples there were.
    assert seen[np.repeat([not way.endswith("function") for way in ways], 5)].all()
    assert len(measured.run.table(EVALUATIONS)) >= sum(not way.endswith("function") for way in ways)


def test_compiled_optimizers_and_training_functions_are_compiled_alike(runner: Runner) -> None:
    measured = compare(runner, "compiled.py", "eager:optimizer", "eager:whole")
    # An optimizer's step that is compiled cannot be seen; that no step was is said.
    assert len(steps_of(measured.run)) == 0
    assert "steps.none" in [notice.code for notice in measured.run.notices]


def test_closures_count_once(runner: Runner) -> None:
    measured = compare(runner, "quasi_newton.py")
    steps = assert_accounted(measured, "examples", "backwards")
    assert max(steps["backwards"]) > 2


def test_every_kind_of_optimizer(runner: Runner) -> None:
    measured = compare(runner, "optimizers.py")
    assert_accounted(measured, "examples")
    rates = measured.run.table(LEARNING_RATES)
    assert len(set(zip(rates["optimizer"], rates["group"], strict=True))) == 24


@pytest.mark.parametrize("teacher", ["first", "last"])
def test_a_teacher_belongs_to_the_step(runner: Runner, teacher: str) -> None:
    measured = compare(runner, "distillation.py", "--teacher", teacher)
    assert_accounted(measured, "examples")
    evaluations = measured.run.table(EVALUATIONS)
    assert list(evaluations["after_step"]) == [3, 7, 11]
    assert list(evaluations["forwards"]) == [8, 8, 8]


def test_training_in_eval_mode(runner: Runner) -> None:
    measured = compare(runner, "fine_tuning.py")
    assert_accounted(measured, "examples")
    evaluations = measured.run.table(EVALUATIONS)
    assert list(evaluations["examples"]) == [4]


def test_outputs_of_every_kind(runner: Runner) -> None:
    measured = compare(runner, "outputs.py")
    assert_accounted(measured, "examples")
    assert measured.run.meta["classes"] == 4


def test_mishaps_within_a_step(runner: Runner) -> None:
    measured = compare(runner, "mishaps.py")
    steps = assert_accounted(measured)
    assert len(flagged(steps, EXCEPTION)) >= 3
    assert sum(math.isnan(loss) for loss in measured.losses) == 1
    assert "loss.unreadable" in [notice.code for notice in measured.run.notices]


def test_activation_checkpointing(runner: Runner) -> None:
    measured = compare(runner, "recomputation.py")
    assert_accounted(measured, "examples")


@pytest.mark.parametrize(
    ("start", "workers", "of"),
    [("fork", 2, ["items", "stream"]), ("spawn", 1, ["items"]), ("forkserver", 1, ["stream"])],
    ids=["fork", "spawn", "forkserver"],
)
def test_workers_of_data_loaders(runner: Runner, start: str, workers: int, of: list[str]) -> None:
    words = ("--start", start, "--workers", workers, "--of", *of)
    measured = compare(runner, "loaders.py", *words, new=start != "fork")
    steps = assert_accounted(measured, "examples")
    assert list(steps["loader_pass"]) == measured.said("epoch")
    # Starting the workers is waiting for data; the median, since a busy machine may hold up any one step.
    assert steps["data_s"][0] > np.median(steps["data_s"][1:4])


def test_copies_of_the_model(runner: Runner) -> None:
    measured = compare(runner, "copies.py")
    assert_accounted(measured, "examples")
    evaluations = measured.run.table(EVALUATIONS)
    assert list(evaluations["after_step"]) == [3, 7]
    assert list(evaluations["forwards"]) == [4, 4]


def test_a_language_model(runner: Runner) -> None:
    measured = compare(runner, "language_model.py")
    assert_accounted(measured, "examples", "tokens")
    assert measured.run.meta["parameters"] == 8928
    assert measured.run.meta["classes"] == 256
    rates = measured.run.table(LEARNING_RATES)
    assert list(rates["lr"]) == measured.said("rate")[:4]


def test_unusual_ways_of_training(runner: Runner) -> None:
    measured = compare(runner, "unusual.py")
    steps = assert_accounted(measured)
    assert flagged(steps, NO_BACKWARD) == [12, 13]
    assert flagged(steps, EXCEPTION) == []
