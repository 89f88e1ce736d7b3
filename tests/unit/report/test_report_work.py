"""Findings from counted work: each on a run that has it, with the joules at stake, and none on one that has not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Estimate
from ergometry.report.findings import findings, work
from ergometry.work import accounts
from support.calibrations import FOUND
from support.odd_runs import ODD_RUNS, attributed, uncalibrated, with_table
from support.synthetic import BOARD, profile, synthetic_run, with_counts


def found(run, books=None):
    return {f.code: f for f in findings(run, books or accounts(run), {})}


def of_items(*items, steps=100, power_w=120.0):
    """Return a calibrated run whose steps of 0.1 s do these items in the forward."""
    run = synthetic_run(steps, signal=BOARD, power_w=power_w, evaluate_every=10**6, devices=["A Board"])
    return with_counts(run, [profile("forward", "Net", items)], FOUND)


LARGE = ("a", "mm", "bf16", 10.0, 1.2e13, 1e9, 1e9)  # 30 ms of the peak
MOVED = ("b", "gelu", "bf16", 10.0, 1e9, 0.0, 1.2e11)  # 60 ms of memory traffic


def test_a_run_that_uses_its_board_well_has_none():
    assert not [code for code in found(attributed()) if code.startswith("work.")]


def test_small_operators_are_launch_bound():
    run = of_items(("a", "gelu", "bf16", 1000.0, 1e12, 1e8, 1e8))  # 2.5 ms in 1000 operators
    finding = found(run)["work.low_mfu"]
    assert "2.5 % of the peak FLOP/s are used (MFU): launch-bound" in finding.text
    assert "takes 2.5 ms at the roofline, the step 90 ms" in finding.evidence
    assert "2.5 µs on average" in finding.evidence
    assert "CUDA graphs" in finding.remedy


def test_small_matrices_are_told_apart_from_small_operators_between_them():
    products = ("a", "mm", "bf16", 1000.0, 1e12, 1e8, 1e8)
    alone = found(of_items(products))["work.low_mfu"]
    assert alone.text.endswith("(MFU): small matrices")
    assert "most of them are matrix products, of 1e+09 FLOP on average" in alone.evidence
    assert "torch.bmm" in alone.remedy
    # As many calls again of what is no product, and a few: fusing them helps in the one case only.
    assert "launch-bound" in found(of_items(products, ("a", "add", "bf16", 1001.0, 1e6, 1e6, 1e6)))["work.low_mfu"].text
    assert (
        "small matrices" in found(of_items(products, ("a", "add", "bf16", 900.0, 1e6, 1e6, 1e6)))["work.low_mfu"].text
    )


def test_many_tiny_products_beside_few_large_ones_are_not_where_the_work_is():
    tiny, large = ("a", "mm", "bf16", 9000.0, 1e9, 1e6, 1e6), ("b", "addmm", "bf16", 10.0, 5e12, 1e8, 1e8)
    assert "launch-bound" in found(of_items(tiny, large))["work.low_mfu"].text


def test_large_operators_far_from_the_roofline_are_not_called_so():
    finding = found(of_items(("a", "mm", "bf16", 10.0, 1e13, 1e8, 1e8)))["work.low_mfu"]
    assert "far from the roofline" in finding.text
    assert "launch" not in finding.text
    assert "2.5 ms on average" in finding.evidence


def test_the_saving_is_at_most_the_static_joules_of_the_seconds_lost():
    run = of_items(("a", "mm", "bf16", 1000.0, 1e12, 1e8, 1e8))
    books = accounts(run)
    finding = found(run, books)["work.low_mfu"]
    static_w = books.by_component["static"].value / run.duration_s
    assert finding.expected_saving.value == pytest.approx(static_w * 100 * (0.09 - 0.0025), rel=1e-6)
    assert finding.expected_saving.method.startswith("at most")
    assert finding.stake_j == finding.expected_saving.value


def test_without_static_power_the_saving_says_why():
    run = of_items(("a", "mm", "bf16", 1000.0, 1e12, 1e8, 1e8))
    books = accounts(run)
    unknown = {**books.by_component, "static": Estimate.unknown("J", "no idle power")}
    finding = found(run, replace(books, by_component=unknown))["work.low_mfu"]
    assert (finding.expected_saving.value, finding.expected_saving.why) == (None, "no idle power")
    assert finding.stake_j == 0.0


def test_work_near_the_roofline_is_not_to_blame():
    assert "work.low_mfu" not in found(of_items(LARGE, MOVED))
    assert "work.low_mfu" not in found(of_items(("a", "mm", "bf16", 1e4, 2.4e13, 1e9, 1e9)))


def test_waiting_for_data_is_not_counted_against_the_work():
    run = of_items(LARGE, MOVED)
    steps = run.table(series.STEPS).rows.copy()
    steps[:, 2] += 10.0  # a step lasts ten seconds longer, for want of data
    steps[:, 3] += 10.0
    books = accounts(run)
    assert work.low_mfu(with_table(run, series.STEPS, steps), books) is None
    steps[:, 3] -= 10.0
    low = replace(books, rates={**books.rates, "mfu": Estimate(0.01, None, "")})
    assert work.low_mfu(with_table(run, series.STEPS, steps), low) is not None


def test_memory_bound_work_names_the_operators():
    run = of_items(LARGE, MOVED)
    books = accounts(run)
    finding = found(run, books)["work.memory_bound"]
    assert finding.text == "memory-bound: 67 % of the step's roofline time is below the ridge"
    assert "gelu 67 %" in finding.evidence
    assert "mm" not in finding.evidence
    assert finding.stake_j == books.by_component["memory"].value
    assert finding.expected_saving.value is None
    assert finding.expected_saving.why


def test_half_of_the_time_below_the_ridge_is_not_worth_a_word():
    assert "work.memory_bound" not in found(of_items(LARGE, (*MOVED[:6], 5e10)))


def test_a_large_residual_says_what_was_not_counted():
    run = of_items(LARGE, power_w=400.0)
    rows = run.table(series.WORK).rows.copy()
    rows[:25, series.WORK.columns.index("uncounted")] = 1.0
    finding = found(with_table(run, series.WORK, rows))["work.residual"]
    assert "in 25 % of the steps something was not counted" in finding.evidence
    assert "register_flop" in finding.remedy
    assert finding.expected_saving is None


def test_a_large_residual_of_counted_work_says_where_it_is():
    run, books = attributed(), accounts(attributed())
    parts = {phase: dict(of) for phase, of in books.components_by_phase.items()}
    parts["other"]["residual"] = Estimate(3000.0, 1.0, "J")
    large = {**books.by_component, "residual": Estimate(3500.0, 1.0, "J")}
    finding = found(run, replace(books, by_component=large, components_by_phase=parts))["work.residual"]
    assert finding.evidence.endswith("most of it in other")
    assert finding.stake_j == 3500.0
    assert finding.text == "62 % of the energy is in no component"


def test_a_residual_below_zero_says_that_the_coefficients_are_too_large():
    books = accounts(attributed())
    less = {**books.by_component, "residual": Estimate(-2500.0, 1.0, "J")}
    finding = found(attributed(), replace(books, by_component=less))["work.residual"]
    assert "more than was measured" in finding.evidence
    assert "calibrate again" in finding.remedy


def test_a_run_that_was_counted_on_a_board_never_calibrated_is_told_so_last():
    run = uncalibrated()
    finding = found(run)["work.uncalibrated"]
    assert "erg calibrate" in finding.evidence
    assert finding.stake_j == 0.0
    assert "work.residual" not in found(run)


def test_a_run_without_counts_is_told_nothing():
    assert "work.uncalibrated" not in found(synthetic_run(20))


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_stakes_and_savings_are_numbers(kind):
    for finding in found(ODD_RUNS[kind]()).values():
        assert math.isfinite(finding.stake_j)
        assert (
            finding.expected_saving is None or finding.expected_saving.value is not None or finding.expected_saving.why
        )


def test_nonsense_in_the_steps_is_no_trouble():
    run = of_items(LARGE, MOVED)
    steps = run.table(series.STEPS).rows.copy()
    steps[:, 1:4] = np.nan
    assert work.low_mfu(with_table(run, series.STEPS, steps), accounts(run)) is None
