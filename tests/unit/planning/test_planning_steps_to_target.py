"""The law of steps to a target and what is known of the critical batch size."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate
from ergometry.planning.belief import Belief, combined
from ergometry.planning.steps_to_target import fit_steps, from_noise_scale, from_sizes, ratio

TABLE = Path(__file__).parents[4] / "shared" / "data" / "training_tables" / "steps_to_target_by_batch_size.csv"
BATCHES = np.array([16.0, 64.0, 256.0, 1024.0])


@given(least=st.floats(10, 1e6), critical=st.floats(10, 2000))
def test_steps_on_the_law_give_the_law_back(least: float, critical: float) -> None:
    steps = least * (1 + critical / BATCHES)
    law = fit_steps(BATCHES.tolist(), steps.tolist())
    low, high = law.critical_batch.interval(0.5)
    assert low <= critical <= high
    assert law.critical_batch.factor < 1.9
    assert law.steps(100.0) == pytest.approx(least * (1 + critical / 100.0), rel=0.03)


def test_the_interval_of_the_critical_batch_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        steps = 1000 * (1 + 150 / BATCHES) * np.exp(0.05 * rng.normal(size=4))
        low, high = fit_steps(BATCHES.tolist(), steps.tolist()).critical_batch.interval(0.9)
        held += low <= 150 <= high
    assert 0.82 <= held / 200 <= 0.99


def test_steps_that_do_not_tell_leave_a_wide_belief_and_a_prior_narrows_it() -> None:
    far_above = [1e4, 1e5]  # S(B) is flat there, whatever B_c is, as long as it is small
    law = fit_steps(far_above, [1000.0, 1000.0])
    assert law.critical_batch.factor > 3
    prior = Belief.of(50.0, factor=1.5, source="history")
    assert fit_steps(far_above, [1000.0, 1000.0], prior).critical_batch.factor < 1.6


def test_runs_that_never_reached_the_target_are_left_out_and_one_batch_size_is_too_few() -> None:
    law = fit_steps([16, 64, 256], [11_000.0, math.inf, 1625.0])
    assert law.critical_batch.median == pytest.approx(160.0, rel=0.1)
    with pytest.raises(UsageError, match="two batch sizes"):
        fit_steps([16, 64], [1000.0, math.nan])
    with pytest.raises(UsageError, match="branch short runs"):
        fit_steps([], [])


def test_a_ratio_of_steps_is_one_at_the_reference_and_falls_to_its_limit() -> None:
    assert float(ratio(64.0, 64.0, 100.0)) == 1.0
    assert float(ratio(1e12, 100.0, 100.0)) == pytest.approx(0.5)
    assert ratio(np.array([1.0, 2.0]), 1.0, np.array([[1.0], [3.0]])).shape == (2, 2)


def test_the_noise_scale_stands_in_within_a_factor_of_three() -> None:
    found = from_noise_scale(Estimate(200.0, 20.0, "example"))
    assert found is not None
    assert found.median == pytest.approx(200.0)
    assert found.factor == pytest.approx(3.0, rel=0.02)
    assert "stand-in" in found.source
    for q in (Estimate(-5.0, 1.0, "example"), Estimate.unknown("example", "no gradients"), Estimate(math.nan, None)):
        assert from_noise_scale(q) is None


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
def test_a_noise_scale_without_an_error_is_believed_less_than_any_that_has_one(unknown: float | None) -> None:
    told, untold = (from_noise_scale(Estimate(200.0, error, "example")) for error in (200.0, unknown))
    assert told is not None and untold is not None
    assert untold.median == pytest.approx(200.0)
    assert untold.log_sd == pytest.approx(math.hypot(math.log(3.0), math.log(10.0)))
    assert untold.log_sd > 1.5 * told.log_sd


@given(a=st.floats(10, 1000), b=st.floats(10, 1000), f=st.floats(1.1, 5), g=st.floats(1.1, 5))
def test_beliefs_combine_in_any_order_to_something_between(a: float, b: float, f: float, g: float) -> None:
    one, other = Belief.of(a, factor=f, source="one"), Belief.of(b, factor=g, source="other")
    both, again = combined([one, other]), combined([other, one])
    assert both.log_mean == pytest.approx(again.log_mean)
    assert both.log_sd == pytest.approx(again.log_sd)
    assert min(a, b) * (1 - 1e-9) <= both.median <= max(a, b) * (1 + 1e-9)
    assert combined([one]).log_mean == pytest.approx(one.log_mean)
    assert combined([one]).log_sd == pytest.approx(one.log_sd)


def test_beliefs_that_contradict_each_other_are_wider_together() -> None:
    apart = combined([Belief.of(10, factor=1.1, source="a"), Belief.of(1000, factor=1.1, source="b")])
    assert apart.factor > 5
    with pytest.raises(ValueError, match="no beliefs"):
        combined([])


def test_draws_of_a_belief_have_its_median_and_interval() -> None:
    belief = Belief.of(100.0, factor=2.0, source="x")
    drawn = belief.draws(np.random.default_rng(0), 20_000)
    low, high = belief.interval(0.9)
    assert np.median(drawn) == pytest.approx(100.0, rel=0.02)
    assert np.mean((drawn > low) & (drawn < high)) == pytest.approx(0.9, abs=0.01)


def test_other_sizes_tell_by_their_power_law_and_one_by_the_exponent_taken() -> None:
    sizes = [1e8, 3e8, 1e9]
    known = [Belief.of(50 * (size / 1e8) ** 0.6, factor=1.05, source="runs") for size in sizes]
    found = from_sizes(sizes, known, 4e9)
    assert found.median == pytest.approx(50 * 40**0.6, rel=0.1)
    alone = from_sizes(sizes[:1], known[:1], 1e9)
    assert alone.median == pytest.approx(50 * 10**0.47, rel=1e-6)
    assert alone.factor > found.factor
    with pytest.raises(UsageError, match="one other size"):
        from_sizes([], [], 1e9)


@pytest.mark.skipif(not TABLE.is_file(), reason="needs the public table of steps by batch size")
def test_on_public_language_models_one_run_and_the_size_law_predict_every_other_batch_size() -> None:
    runs: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for row in csv.DictReader(TABLE.open()):
        runs[float(row["model_params_M"])].append((float(row["batch_size_seqs"]), float(row["steps_to_target"])))
    laws = {size: fit_steps(*zip(*rows, strict=True)) for size, rows in runs.items()}
    assert max(law.scatter for law in laws.values()) < 0.12
    errors = []
    for size, rows in runs.items():
        others = [other for other in laws if other != size]
        critical = from_sizes(others, [laws[other].critical_batch for other in others], size)
        for b, s in rows:
            errors += [abs(s * float(ratio(to, b, critical.median)) / true - 1) for to, true in rows if to != b]
    assert float(np.mean(errors)) < 0.12
