"""Counts and rates: what a run did, and the joules of each part of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Provenance
from ergometry.work import accounts
from support.odd_runs import nan_losses, with_table
from support.synthetic import synthetic_run

COLUMN = {name: i for i, name in enumerate(series.STEPS.columns)}


def changed(column: str, rows: slice, value: float, steps: int = 10):
    run = synthetic_run(steps)
    table = run.table(series.STEPS).rows.copy()
    table[rows, COLUMN[column]] = value
    return with_table(run, series.STEPS, table)


def test_counts_are_sums_in_their_units():
    work = accounts(synthetic_run(10)).work
    found = {name: (e.value, e.stderr, e.unit) for name, e in work.items() if e.known}
    assert found == {
        "steps": (10, 0, "step"),
        "examples": (320, 0, "example"),
        "tokens": (20480, 0, "token"),
        "parameters": (100000, 0, "parameter"),
        "flops": (6e10, 0, "flop"),
        "communication_bytes": (0, 0, "byte"),
        "peak_memory_bytes": (3e8, 0, "byte"),
    }
    assert "bytes" in work["bytes"].why


def test_inferred_counts_say_how():
    work = accounts(synthetic_run(10)).work
    assert work["examples"].why == "the first tensor's first dimension"
    assert work["examples"].provenance is Provenance.DERIVED
    stated = accounts(synthetic_run(10, inferred={})).work["examples"]
    assert (stated.why, stated.provenance) == ("", Provenance.MEASURED)


def test_skipped_steps_trained_on_nothing_but_did_the_work():
    work = accounts(changed("flags", slice(0, 3), series.SKIPPED)).work
    assert work["steps"].value == 7
    assert "3 skipped" in work["steps"].method
    assert work["examples"].value == 7 * 32
    assert work["flops"].value == 10 * 6e9


def test_a_step_whose_backward_was_not_seen_still_counts():
    assert accounts(changed("flags", slice(0, 3), series.NO_BACKWARD)).work["steps"].value == 10


def test_steps_without_a_count_are_taken_to_be_like_the_others_with_an_error():
    run = changed("examples", slice(0, 2), np.nan)
    rows = run.table(series.STEPS).rows
    rows[2:, COLUMN["examples"]] = [30, 34] * 4
    examples = accounts(run).work["examples"]
    assert examples.value == pytest.approx(320)
    assert examples.stderr == pytest.approx(np.std([30, 34] * 4, ddof=1) * np.sqrt(2 * (1 + 2 / 8)))
    assert "2 of 10 steps had no count" in examples.method


def test_counts_that_were_never_seen_are_unknown():
    books = accounts(changed("tokens", slice(None), np.nan))
    assert books.work["tokens"].value is None
    assert "--tokens" in books.work["tokens"].why


def test_peak_memory_is_that_of_the_accelerators_together_where_there_are_any():
    rows = [(1.0, -1, 9e9), (1.0, 0, 2e9), (2.0, 0, 3e9), (2.0, 1, 4e9)]
    peak = accounts(with_table(synthetic_run(2), series.MEMORY, rows)).work["peak_memory_bytes"]
    assert peak.value == 7e9
    assert "2 accelerators" in peak.method


def test_rates_are_the_total_over_what_was_done():
    run = synthetic_run(200, power_w=50.0)
    books = accounts(run)
    total = 50.0 * run.duration_s
    assert books.rates["j_per_step"].value == pytest.approx(total / 200)
    assert books.rates["j_per_example"].value == pytest.approx(total / 6400)
    assert books.rates["j_per_flop"].value == pytest.approx(total / 1.2e12)
    assert books.rates["j_per_example"].stderr == pytest.approx(books.total.stderr / 6400)
    assert books.rates["power_w"].value == pytest.approx(50.0)
    assert books.rates["flop_per_s"].value == pytest.approx(6e10)
    assert [books.rates[n].unit for n in ("j_per_step", "j_per_example", "j_per_flop")] == [
        "J/step",
        "J/example",
        "J/flop",
    ]
    assert "evaluation and set-up included" in books.rates["j_per_step"].method


def test_step_time_is_a_mean_with_its_standard_error():
    run = synthetic_run(4)
    rows = run.table(series.STEPS).rows.copy()
    rows[:, 2] = rows[:, 1] + [0.08, 0.10, 0.10, 0.12]
    step_s = accounts(with_table(run, series.STEPS, rows)).rates["step_s"]
    assert step_s.value == pytest.approx(0.1)
    assert step_s.stderr == pytest.approx(np.std([0.08, 0.10, 0.10, 0.12], ddof=1) / 2)
    assert accounts(synthetic_run(1)).rates["step_s"].stderr is None


def test_without_steps_every_rate_but_power_says_why():
    rates = accounts(synthetic_run(0)).rates
    assert {name for name, e in rates.items() if e.known} == {"power_w"}
    assert all(e.why for name, e in rates.items() if name != "power_w")


def test_a_run_without_duration_has_no_power():
    assert accounts(replace(synthetic_run(0), duration_s=0.0)).power.why == "the run has no duration"


def test_losses_are_the_first_the_last_and_the_least():
    run = with_table(synthetic_run(3), series.LOSSES, [(0, 1.0, 3.0), (1, 2.0, 1.5), (2, 3.0, 2.0)])
    loss = accounts(run).loss
    assert [loss[name].value for name in ("first", "last", "best")] == [3.0, 1.5 + 0.5, 1.5]
    assert loss["first"].unit == "loss"


def test_a_loss_that_became_nan_is_not_passed_off_as_a_number():
    loss = accounts(nan_losses()).loss
    assert not loss["last"].known
    assert loss["best"].value == pytest.approx(min(2.0 + 3.5 * np.exp(-k / 60) for k in range(3)))


def test_without_losses_they_are_unknown():
    loss = accounts(with_table(synthetic_run(3), series.LOSSES, [])).loss
    assert all(e.value is None and e.why for e in loss.values())
