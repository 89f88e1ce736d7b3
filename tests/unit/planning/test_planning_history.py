"""What the losses of runs say of the steps to a goal and of B_c: noise, luck, branches, and runs that went wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.errors import UsageError
from ergometry.core.run import Run, Table
from ergometry.planning.history import loss_by_step, read_history, taking_turns
from support.planned import CRITICAL, job, noisy, steps_to
from support.synthetic import synthetic_run


def with_losses(run: Run, change: slice, value: float) -> Run:
    rows = run.table(series.LOSSES).rows.copy()
    rows[change, 2] = value
    return replace(run, tables={**run.tables, "losses": Table(series.LOSSES.columns, rows)})


def test_without_a_target_the_goal_is_what_the_run_reached_up_to_luck() -> None:
    goal = read_history([job(32)]).goal
    assert goal.batch == 32
    assert float(np.median(goal.steps)) == pytest.approx(400, rel=0.02)
    assert float(np.std(np.log(goal.steps))) == pytest.approx(0.05 * math.sqrt(2), rel=0.15)  # its luck and the next's
    assert "20260102-030405-a32" in goal.words


def test_a_target_that_was_reached_took_the_steps_it_took_and_one_beyond_is_extrapolated() -> None:
    run = job(32, 2000)
    reached = read_history([run], 1.3).goal
    assert float(np.median(reached.steps)) == pytest.approx(steps_to(1.3, 32), rel=0.05)
    beyond = read_history([run], 1.1).goal
    low, high = np.quantile(beyond.steps, [0.05, 0.95], method="inverted_cdf")
    assert low <= steps_to(1.1, 32) <= high


def test_runs_at_two_batch_sizes_tell_the_critical_one() -> None:
    found = read_history([job(32, 1600), job(128, 800), job(512, 600)]).critical_batch
    low, high = found.interval()
    assert low <= CRITICAL <= high
    assert found.factor < 1.5


def test_the_scatter_of_small_batches_does_not_bend_the_law() -> None:
    # The first smoothed loss below a target comes early where losses scatter: it gave B_c of about 2 here, not 100.
    biases = []
    for seed in range(8):
        runs = [job(b, n, noise=noisy(b, 1.0), seed=seed) for b, n in ((32, 1600), (256, 600))]
        belief = read_history(runs).critical_batch
        biases.append((belief.log_mean - math.log(CRITICAL)) / belief.log_sd)
    assert abs(np.mean(biases)) < 1.0
    assert np.max(np.abs(biases)) < 3.0


def test_short_runs_branched_off_a_checkpoint_tell_it_beside_the_run_from_the_beginning() -> None:
    runs = [job(32, 2000), job(128, 300, name="b", begun=300.0), job(512, 200, name="c", begun=300.0)]
    low, high = read_history(runs).critical_batch.interval()
    assert low <= CRITICAL <= high
    assert high / low < 20


def test_a_run_alone_knows_next_to_nothing_of_the_critical_batch_and_says_so() -> None:
    found = read_history([job(32)]).critical_batch
    assert found.factor == pytest.approx(10.0)
    assert "nothing is known" in found.source


def test_a_lucky_first_run_is_seen_through_by_the_others() -> None:
    lucky = [job(32, 1600, luck=0.85), job(64, 1200), job(128, 800), job(256, 700), job(512, 600)]
    goal = read_history(lucky).goal
    assert 1600 < float(np.median(goal.steps)) < 1600 / 0.85


def test_draws_of_the_steps_go_with_those_of_the_critical_batch() -> None:
    goal = read_history([job(32, 1600), job(256, 600)]).goal
    assert goal.critical is not None
    # At the other batch size the law is known as well as at the first: the two errors are one.
    at = goal.steps * (1 + goal.critical / 256) / (1 + goal.critical / 32)
    assert float(np.std(np.log(at))) < 1.3 * float(np.std(np.log(goal.steps)))


@pytest.mark.parametrize("value", [math.nan, 40.0])
def test_a_run_that_diverged_poisons_nothing_and_is_named(value: float) -> None:
    good = [job(32, 1600), job(128, 800)]
    bad = with_losses(job(512, 600, name="bad"), slice(200, None), value)
    found = read_history([*good, bad])
    assert found.critical_batch.median == pytest.approx(read_history(good).critical_batch.median, rel=1e-9)
    assert any("bad512 diverged" in remark for remark in found.remarks)
    with pytest.raises(UsageError, match="a first run that trained"):
        read_history([bad, *good])


def test_a_run_of_another_model_or_of_changing_batch_size_is_left_out_and_named() -> None:
    runs = [job(32, parameters=1000), job(128, name="other", parameters=2000)]
    assert any("another model" in remark for remark in read_history(runs).remarks)
    mixed = job(128, name="mixed")
    rows = mixed.table(series.STEPS).rows.copy()
    rows[::2, series.STEPS.columns.index("examples")] = 64.0
    mixed = replace(mixed, tables={**mixed.tables, "steps": Table(series.STEPS.columns, rows)})
    assert any("changed its batch size" in remark for remark in read_history([job(32), mixed]).remarks)


@pytest.mark.parametrize(
    ("target", "said"), [(math.nan, "finite target"), (50.0, "a target below 1.9"), (-math.inf, "finite target")]
)
def test_targets_that_are_none_are_refused(target: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_history([job(32)], target)


def test_what_rises_is_no_loss() -> None:
    run = synthetic_run(300)
    rising = np.linspace(0.1, 0.9, 300)
    rows = run.table(series.LOSSES).rows.copy()
    rows[:, 2] = rising
    run = replace(run, tables={**run.tables, "losses": Table(series.LOSSES.columns, rows)})
    assert loss_by_step(run)[0] == 0.1
    with pytest.raises(UsageError, match=r"no loss|diverged"):
        read_history([run], 0.95)


def with_first_steps(run, *began: float):
    """Return a run whose optimizers made their first steps there."""
    rows = np.array([(step, who, 0.0, 0.1) for who, step in enumerate(began)])
    return replace(run, tables={**run.tables, "learning_rates": Table(series.LEARNING_RATES.columns, rows)})


def test_optimizers_that_take_turns_have_no_one_loss_to_plan_for() -> None:
    turns = with_first_steps(job(64), 0, 1)
    assert taking_turns(turns) == 2
    with pytest.raises(UsageError, match="whose 2 optimizers take turns, each at a loss of its own"):
        read_history([turns])
    found = read_history([job(64), turns])
    assert any("optimizers that take turns" in remark for remark in found.remarks)


def test_optimizers_of_one_loss_and_one_that_comes_much_later_take_no_turns() -> None:
    assert taking_turns(with_first_steps(job(64), 0, 0)) == 1
    assert taking_turns(with_first_steps(job(64), 0, 300)) == 1
    assert read_history([with_first_steps(job(64), 0, 0)]).goal.words


def test_a_goal_far_beyond_the_steps_seen_is_said_to_be() -> None:
    far = read_history([job(64, 400)], 1.076)  # after ten times as many
    assert any("times as many steps away as were seen" in remark for remark in far.remarks)
    assert not any("steps away" in remark for remark in read_history([job(64, 400)]).remarks)


def test_a_loss_that_was_no_number_is_told_from_one_that_is_not_known() -> None:
    run = with_losses(job(32), slice(-3, None), math.nan)
    loss = loss_by_step(run)
    assert np.all(np.isinf(loss[-3:]))
    kept = run.table(series.LOSSES).rows[:-3]
    unknown = replace(run, tables={**run.tables, "losses": Table(series.LOSSES.columns, kept)})
    assert np.all(np.isnan(loss_by_step(unknown)[-3:]))


def test_a_run_that_has_not_come_down_is_no_goal_and_one_that_has_is() -> None:
    flat = job(32, 20)
    rows = flat.table(series.LOSSES).rows.copy()
    rows[:, 2] = 2.0 + 0.5 * np.random.default_rng(1).normal(size=len(rows))
    flat = replace(flat, tables={**flat.tables, "losses": Table(series.LOSSES.columns, rows)})
    assert any("not come down" in remark for remark in read_history([flat]).remarks)
    assert not any("not come down" in remark for remark in read_history([job(32)]).remarks)


def test_the_sum_of_several_losses_of_several_optimizers_is_said_to_be_one() -> None:
    run = job(32)
    steps = run.table(series.STEPS).rows.copy()
    steps[:, series.STEPS.columns.index("backwards")] = 2.0
    rates = np.array([[steps[0, 0], 0.0, 0.0, 0.1], [steps[0, 0], 1.0, 0.0, 0.1]])
    both = {"steps": Table(series.STEPS.columns, steps), "learning_rates": Table(series.LEARNING_RATES.columns, rates)}
    gan = replace(run, tables={**run.tables, **both})
    assert any("2 optimizers and 2 backward passes" in remark for remark in read_history([gan]).remarks)
    for name in both:  # accumulation under one optimizer; two optimizers of one loss
        one = replace(run, tables={**gan.tables, name: run.table(getattr(series, name.upper()))})
        assert not any("backward passes" in remark for remark in read_history([one]).remarks)
    with pytest.raises(UsageError, match="2 backward passes of 2 optimizers"):
        read_history([with_losses(gan, slice(-200, None), 50.0)])
