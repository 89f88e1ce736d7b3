"""Findings: each on a run that has it, and none on one that has not."""

from __future__ import annotations

import numpy as np
import pytest

from ergometry.core import series
from ergometry.report import render, summary
from support.odd_runs import modelled, with_table
from support.synthetic import MODELLED, synthetic_run


def found(run):
    return {f["code"]: f for f in summary(run)["findings"]}


def waiting(seconds: float, **options):
    """Return a run in which this much of each step of 0.1 s is spent waiting for data."""
    run = synthetic_run(50, evaluate_every=1000, **options)
    steps = run.table(series.STEPS).rows.copy()
    steps[:, 5] -= seconds - steps[:, 3]
    steps[:, 3] = seconds
    return with_table(run, series.STEPS, steps)


def test_an_ordinary_run_has_none():
    assert found(synthetic_run(100)) == {}
    assert found(synthetic_run(0)) == {}


def test_waiting_for_data():
    finding = found(waiting(0.03))["data.waiting"]
    assert finding["text"] == "training waited for data 30 % of the time"
    assert "1.5 s of 5 s" in finding["evidence"]
    assert finding["expected_saving"] is None  # without a static power nothing is known of it


def test_waiting_for_data_saves_at_most_the_idle_power_meanwhile():
    saving = found(waiting(0.03, signal=MODELLED))["data.waiting"]["expected_saving"]
    assert saving["value"] == pytest.approx(8.0 * 50 * 0.03)
    assert saving["stderr"] == pytest.approx(0.5 * saving["value"])
    assert (saving["unit"], saving["provenance"]) == ("J", "modelled")


def test_a_tenth_of_waiting_is_not_worth_a_word():
    assert "data.waiting" not in found(waiting(0.01))


def test_evaluation_that_takes_much_of_the_energy():
    run = synthetic_run(40, evaluate_every=10, evaluation_s=1.0, power_w=50.0)
    finding = found(run)["evaluation.share"]
    assert finding["expected_saving"]["value"] == pytest.approx(0.5 * 50.0 * 3.0, rel=1e-6)
    assert "in 3 evaluations" in finding["evidence"]
    assert "evaluation.share" not in found(synthetic_run(40, evaluate_every=10, evaluation_s=0.1))


def test_a_single_evaluation_cannot_be_halved():
    run = synthetic_run(20, evaluate_every=10, evaluation_s=2.0)
    assert found(run)["evaluation.share"]["expected_saving"] is None


def losses(values):
    run = synthetic_run(len(values), evaluate_every=10**6)
    rows = run.table(series.LOSSES).rows.copy()
    rows[:, 2] = values
    return with_table(run, series.LOSSES, rows)


def test_a_loss_that_fell_no_further():
    k = np.arange(1000)
    finding = found(losses(1.0 + 4.0 * np.exp(-k / 60)))["loss.plateau"]
    assert finding["expected_saving"]["value"] == pytest.approx(0.7 * 5000, rel=0.1)
    assert finding["expected_saving"]["method"].startswith("at most")


def test_a_loss_that_falls_to_the_end_is_no_plateau():
    assert "loss.plateau" not in found(losses(5.0 - 0.004 * np.arange(1000)))


def test_a_loss_too_noisy_to_tell_is_no_plateau():
    k = np.arange(1000)
    noise = np.random.default_rng(0).normal(0, 2.0, 1000)
    assert "loss.plateau" not in found(losses(1.0 + 4.0 * np.exp(-k / 60) + noise))


def test_a_loss_that_rose_is_no_plateau():
    assert "loss.plateau" not in found(losses(1.0 + 0.01 * np.arange(1000)))


def test_the_costliest_comes_first():
    assert [f["code"] for f in summary(modelled())["findings"]] == ["loss.plateau", "data.waiting"]


def diverged(*, from_step, until=None):
    run = synthetic_run(200)
    losses = run.table(series.LOSSES).rows.copy()
    losses[from_step:until, 2] = np.nan
    return with_table(run, series.LOSSES, losses)


def test_a_loss_that_stopped_being_finite_is_found_with_what_was_spent_since():
    run = diverged(from_step=150)
    finding = found(run)["loss.not_finite"]
    assert finding["text"] == "the loss became not finite at step 150"
    assert "50 of 200 losses are NaN or infinite, and never finite again" in finding["evidence"]
    since_s = run.table(series.LOSSES)["t_s"][150]
    # 50 W all along
    assert finding["expected_saving"]["value"] == pytest.approx(50.0 * (run.duration_s - since_s), rel=1e-6)
    assert "lower the learning rate" in finding["remedy"]


def test_a_loss_that_was_not_finite_once_is_found_without_a_saving():
    finding = found(diverged(from_step=20, until=22))["loss.not_finite"]
    assert "2 of 200" in finding["evidence"] and "finite again later" in finding["evidence"]
    assert finding["expected_saving"] is None


def test_a_run_whose_losses_are_finite_has_no_such_finding():
    assert "loss.not_finite" not in found(synthetic_run(200))


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_every_report_says_that_the_loss_stopped_being_finite(form):
    told = " ".join(render(diverged(from_step=150), form).split())
    assert "the loss became not finite at step 150" in told
    assert "their loss was not finite, from step 150 on" in told
