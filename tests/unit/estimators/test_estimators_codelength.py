"""Information from a run's losses: exact where the loss is known, unknown where it cannot be one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.estimate import Provenance
from ergometry.core.run import Table
from ergometry.estimators.codelength import prequential_gain, read_information
from support.synthetic import synthetic_run

STEPS, EXAMPLES, TOKENS, CLASSES = 50, 32, 2048, 256


def run_with(loss=None, *, classes=CLASSES, **columns):
    """Return a run of 50 steps whose losses and columns of the steps table are the ones given."""
    run = synthetic_run(STEPS, classes=classes)
    steps, losses = run.tables["steps"].rows.copy(), run.tables["losses"].rows.copy()
    for name, values in columns.items():
        steps[:, series.STEPS.columns.index(name)] = values
    if loss is not None:
        losses[:, 2] = loss
    tables = {"steps": Table(series.STEPS.columns, steps), "losses": Table(series.LOSSES.columns, losses)}
    return replace(run, tables={**run.tables, **tables})


def test_a_constant_loss_gives_the_gain_exactly():
    found = read_information(run_with(2.5))
    assert found.value == pytest.approx(STEPS * TOKENS * (math.log(CLASSES) - 2.5), rel=1e-14)
    assert (found.stderr, found.unit, str(found.provenance)) == (0.0, "nat", "derived")
    assert "256 classes" in found.why and "one label per token" in found.why and "first pass" in found.why


def test_a_learner_that_knows_nothing_gains_nothing_and_one_that_is_wrong_loses():
    assert read_information(run_with(math.log(CLASSES))).value == pytest.approx(0.0, abs=1e-8)
    assert read_information(run_with(1.2 * math.log(CLASSES))).value < 0


def test_examples_count_where_tokens_are_not_known():
    found = read_information(run_with(2.5, tokens=math.nan))
    assert found.value == pytest.approx(STEPS * EXAMPLES * (math.log(CLASSES) - 2.5), rel=1e-14)
    assert "one label per example" in found.why


def test_only_the_first_pass_is_coded():
    passes = np.where(np.arange(STEPS) < 20, 1.0, 2.0)
    found = read_information(run_with(2.5, loader_pass=passes))
    assert found.value == pytest.approx(20 * TOKENS * (math.log(CLASSES) - 2.5), rel=1e-14)
    none = read_information(run_with(2.5, loader_pass=2.0))
    assert none.value is None and "first pass" in none.why


@pytest.mark.parametrize("unseen", [0.0, math.nan])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_without_a_loader_it_is_an_upper_bound_since_labels_may_repeat_and_it_says_what_to_do(unseen, steps):
    passes = np.where(np.arange(STEPS) < steps, unseen, 1.0)
    found, exact = (read_information(run_with(2.5, loader_pass=which)) for which in (passes, 1.0))
    assert (exact.stderr, exact.provenance) == (0.0, Provenance.DERIVED)
    assert (found.value, found.stderr, found.provenance) == (exact.value, None, Provenance.ASSUMED)
    assert found.why.startswith("an upper bound") and "DataLoader" in found.why


def test_a_negative_gain_says_what_it_means():
    found = read_information(run_with(1.2 * math.log(CLASSES)))
    assert found.value < 0 and found.why.startswith("negative: ") and "uniform code" in found.why
    assert "negative" not in read_information(run_with(2.5)).why


def test_steps_without_a_finite_loss_add_nothing_and_are_counted():
    loss = np.where(np.arange(STEPS) % 5 == 4, math.nan, 2.5)
    found = read_information(run_with(loss))
    assert found.value == pytest.approx(40 * TOKENS * (math.log(CLASSES) - 2.5), rel=1e-14)
    assert "10 of its 50 steps" in found.why


def test_a_step_whose_loss_row_is_missing_counts_as_one_without_loss():
    run = run_with(2.5)
    losses = Table(series.LOSSES.columns, run.tables["losses"].rows[:30])
    found = read_information(replace(run, tables={**run.tables, "losses": losses}))
    assert found.value == pytest.approx(30 * TOKENS * (math.log(CLASSES) - 2.5), rel=1e-14)
    assert "20 of its 50 steps" in found.why


def test_several_backward_calls_are_named():
    assert "backward calls" in read_information(run_with(2.5, backwards=4.0)).why
    assert "backward calls" not in read_information(run_with(2.5)).why


@pytest.mark.parametrize("classes", [None, 1, 0, math.nan, "many"])
def test_unknown_classes_are_needed(classes):
    found = read_information(run_with(2.5, classes=classes))
    assert found.value is None and found.why.startswith("needs the number of classes")


@pytest.mark.parametrize("loss", [1.6 * math.log(CLASSES), 40.0, -0.5])
def test_a_loss_that_is_no_cross_entropy_gives_no_information(loss):
    found = read_information(run_with(loss))
    assert found.value is None
    assert found.why == "the loss does not look like a cross-entropy over 256 classes"


def test_one_negative_loss_is_enough_to_tell():
    loss = np.full(STEPS, 2.5)
    loss[40] = -0.01
    assert read_information(run_with(loss)).value is None


def test_the_guard_looks_at_the_first_losses_only():
    loss = np.full(STEPS, 2.5)
    loss[30:] = 100.0  # it diverged later: that is a loss of information, not another kind of loss
    assert read_information(run_with(loss)).value < 0


def test_a_run_without_steps_or_losses_says_which():
    run = synthetic_run(0)
    assert "training steps" in read_information(run).why
    run = run_with(2.5)
    assert "loss of each step" in read_information(replace(run, tables={"steps": run.tables["steps"]})).why


def test_steps_without_backward_are_not_coded():
    flags = np.where(np.arange(STEPS) < 5, float(series.NO_BACKWARD), 0.0)
    found = read_information(run_with(2.5, flags=flags))
    assert found.value == pytest.approx(45 * TOKENS * (math.log(CLASSES) - 2.5), rel=1e-14)


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 50_000))
def test_the_gain_adds_over_windows_and_is_a_ratio_of_likelihoods(seed, classes):
    rng = np.random.default_rng(seed)
    losses, counts = rng.exponential(size=20), rng.integers(1, 100, 20).astype(float)
    whole = prequential_gain(losses, counts, classes)
    assert whole == pytest.approx(
        prequential_gain(losses[:7], counts[:7], classes) + prequential_gain(losses[7:], counts[7:], classes)
    )
    likelihood, uniform = np.exp(-losses), 1 / classes
    assert whole == pytest.approx(float(np.sum(counts * np.log(likelihood / uniform))), rel=1e-9, abs=1e-6)


def test_a_learner_that_knows_nearly_all_from_the_start_is_believed():
    assert read_information(run_with(0.01)).value == pytest.approx(
        STEPS * TOKENS * (math.log(CLASSES) - 0.01), rel=1e-14
    )
