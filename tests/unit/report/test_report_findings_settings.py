"""Findings about settings: each fires with the number worked out by hand, and keeps silent without evidence."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.equations.catalogue import CATALOGUE
from ergometry.report import summary
from ergometry.report.findings import settings
from ergometry.report.words import NO_BREAK
from ergometry.work import accounts
from ergometry.work.profiles import Item
from support.calibrations import FOUND
from support.odd_runs import attributed, with_table
from support.synthetic import BOARD, WELL, language_model, synthetic_run, with_counts, with_health

TRAINING_J = 200 * 0.08 * 50.0
"""Forward, backward and optimizer of 200 steps at 50 W."""


def q(value, stderr=0.0, unit=""):
    return Estimate(value, stderr, unit).to_json()


def found(run):
    return {f["code"]: f for f in summary(run)["findings"]}


# Batch size: e0 = 1 J/step and e1 = 0.001 J/example at B_c = 1000 make B* = 1000.


HALF_A_FACTOR_3 = 0.5 * math.log(3.0)


def budget(used=32.0, critical=1000.0, modelled=700.0, spread=HALF_A_FACTOR_3, **changes):
    repair = {
        "B_star": q(math.sqrt(1000.0 * critical), spread * math.sqrt(1000.0 * critical)),
        "B_actual": q(used),
        "B_c": q(critical, math.log(3.0) * critical),
        "e0": q(1.0),
        "e1": q(0.001),
        "E_modelled": q(modelled),
    }
    return {"6.1": {"repair": {**repair, **changes}}}


def advised(**changes):
    run = synthetic_run(200)
    return settings.batch_size(run, accounts(run), budget(**changes))


def energy(b, critical):
    """Return the energy to a loss by the law itself."""
    return (1.0 + critical / b) * (1.0 + 0.001 * b)


def test_a_batch_size_far_below_the_cheapest_is_told_with_what_the_best_one_saves():
    finding = advised()
    saved = 1.0 - energy(1000.0, 1000.0) / energy(32.0, 1000.0)
    assert finding.expected_saving.value == pytest.approx(700.0 * saved, rel=1e-6)
    assert finding.stake_j == finding.expected_saving.value
    assert finding.text.replace(NO_BREAK, "") == "a batch size of 32 is below that of least energy, about 1000"
    assert finding.remedy.replace(NO_BREAK, "").startswith("try batches of 410 to 1000 ")  # 1000/3^(1.645/2) = 405
    assert "B_noise stands in" in finding.evidence
    assert finding.expected_saving.provenance is Provenance.MODELLED


def test_the_interval_of_the_saving_is_that_of_draws_of_the_critical_batch_size():
    drawn = 1000.0 * np.exp(math.log(3.0) * np.random.default_rng(0).standard_normal(20_001))
    best = np.sqrt(drawn * 1000.0)
    low, high = np.quantile(1.0 - energy(best, drawn) / energy(32.0, drawn), (0.05, 0.95))
    finding = advised()
    assert 2 * 1.645 * finding.expected_saving.stderr == pytest.approx(700.0 * (high - low), rel=0.03)
    told = [int(n) / 100 for n in re.search(r"take (\d+) % to (\d+) % less", finding.evidence).groups()]
    assert told == pytest.approx([low, high], abs=0.01)


def test_a_batch_size_far_above_the_cheapest_is_told_too():
    finding = advised(used=30_000.0)
    saved = 1.0 - energy(1000.0, 1000.0) / energy(30_000.0, 1000.0)
    assert "above" in finding.text
    assert finding.remedy.replace(NO_BREAK, "").startswith("try batches of 1000 to 2500 ")
    assert finding.expected_saving.value == pytest.approx(700.0 * saved, rel=1e-6)


def test_no_more_is_promised_than_training_took():
    finding = advised(modelled=1.9 * TRAINING_J)
    assert finding.expected_saving.value < TRAINING_J


@pytest.mark.parametrize(
    "weak",
    [
        {"used": 420.0},  # within the factor 2.5 that B* is known to
        {"used": 2400.0},
        {"spread": 2.2},  # B_noise itself is hardly known
        {"modelled": 10.0 * TRAINING_J},  # the model of a step is far off
        {"modelled": 0.1 * TRAINING_J},
        {"B_star": Estimate.unknown("example/step", "needs B_c").to_json()},
    ],
)
def test_a_batch_size_is_not_judged_on_weak_evidence(weak):
    assert advised(**weak) is None


def test_the_names_that_are_read_are_the_catalogue_s():
    assert set(budget()["6.1"]["repair"]) <= set(CATALOGUE["6.1"].repair_names)
    assert {"stability", "eta_stable", "eta_used", "eta_descent"} <= set(CATALOGUE["8.2"].repair_names)


# Learning rate


def looked(largest, *, rates=((0, 0, 0, 0.1),), momentum=0.0, eligible=1.0, stderr=0.05, looks=6):
    """Return a run of SGD whose curvature was looked at, 200 steps of 0.1 s at 50 W."""
    run = synthetic_run(200, evaluate_every=10**6)
    steps = np.linspace(30, 190, looks)
    rows = np.full((looks, len(series.CURVATURE.columns)), np.nan)
    for name, value in (("step", steps), ("largest", largest), ("largest_stderr", stderr), ("how", 1.0)):
        rows[:, series.CURVATURE.columns.index(name)] = value
    run = with_table(run, series.CURVATURE, rows)
    run = with_table(run, series.LEARNING_RATES, rates)
    table = np.zeros((looks, len(series.EQUILIBRIUM.columns)))
    for name, value in (("step", steps), ("momentum", momentum), ("eligible", eligible)):
        table[:, series.EQUILIBRIUM.columns.index(name)] = value
    return with_table(run, series.EQUILIBRIUM, table)


def test_a_learning_rate_above_the_stability_limit():
    finding = found(looked(30.0))["learning_rate.unstable"]  # 2/30 = 0.0667
    assert finding["text"] == "the learning rate is 1.5 times the largest stable one"
    assert "above it at 6 of 6 looks" in finding["evidence"]
    assert finding["expected_saving"]["value"] is None


def test_momentum_moves_the_limit():
    assert "learning_rate.unstable" not in found(looked(30.0, momentum=0.9))  # 2·1.9/30 = 0.127
    assert "learning_rate.unstable" in found(looked(60.0, momentum=0.9))


@pytest.mark.parametrize(
    "weak",
    [
        {"largest": 21.0},  # 1.05 of the limit: where full-batch training hovers by itself
        {"largest": 30.0, "stderr": 9.0},
        {"largest": 30.0, "looks": 2},
        {"largest": np.array([5.0, 5.0, 5.0, 5.0, 5.0, 30.0])},
        {"largest": 30.0, "eligible": 0.0},  # not plain SGD
    ],
)
def test_instability_is_not_claimed_on_weak_evidence(weak):
    assert "learning_rate.unstable" not in found(looked(**weak))


def rates_of(descent, stderr, stable=0.5):
    repair = {"eta_descent": q(descent, stderr), "eta_stable": q(stable, 0.001), "eta_used": q(0.01)}
    return {"8.2": {"repair": repair}}


def judged(equations, **options):
    run = looked(4.0, rates=((0, 0, 0, 0.01),), **options)
    return settings.short_steps(run, accounts(run), equations)


def test_steps_much_shorter_than_the_best_are_told_with_what_longer_ones_save():
    finding = judged(rates_of(0.1, 0.01))
    spent = TRAINING_J
    assert finding.expected_saving.value == pytest.approx(spent * (1.0 - (2 * 0.1 - 0.01)), rel=1e-3)
    assert "at most" in finding.expected_saving.method
    low, high = (1.0 - (0.02 / d - (0.01 / d) ** 2) for d in (0.1 - 0.01645, 0.1 + 0.01645))
    of_spent = accounts(looked(4.0)).by_phase["forward"].stderr * math.sqrt(1 + 4 + 1)  # kept per phase
    assert finding.expected_saving.stderr > spent * (high - low) / (2 * 1.645)
    assert finding.expected_saving.stderr < spent * (high - low) / (2 * 1.645) + 2 * of_spent


def test_the_rate_advised_is_at_most_half_of_the_stability_limit():
    finding = judged(rates_of(0.1, 0.01, stable=0.06))
    better = 0.5 * (0.06 - 0.001645) / 0.1
    saved = 1.0 - 0.19 / (2 * better - better**2)
    assert finding.expected_saving.value == pytest.approx(200 * 0.08 * 50.0 * saved, rel=1e-3)
    assert finding.remedy.startswith("try 0.029")


def test_momentum_makes_the_same_rate_a_longer_step():
    assert judged(rates_of(0.1, 0.01), momentum=0.9) is None
    half = judged(rates_of(0.1, 0.01), momentum=0.5)  # a fifth of the best
    assert half.expected_saving.value == pytest.approx(TRAINING_J * (1.0 - (0.4 - 0.04)), rel=1e-3)


def test_short_steps_are_not_judged_on_weak_evidence():
    assert judged(rates_of(0.1, 0.06)) is None  # no better than 0 to 0.2
    assert judged(rates_of(0.015, 0.001)) is None  # two thirds of the best
    assert judged(rates_of(0.1, 0.01), eligible=0.0) is None
    run = looked(4.0, rates=((0, 0, 0, 0.1), (100, 0, 0, 0.01)))  # lowered on purpose
    assert settings.short_steps(run, accounts(run), rates_of(0.1, 0.01)) is None


# Precision: 8 pJ against 0.6 pJ a FLOP, 50 against 400 TFLOP/s


def in_fp32(**peaks):
    both = {"fp32": Estimate(5e13, 1e11, "flop/s"), "bf16": Estimate(4e14, 1e12, "flop/s")} | peaks
    dear = {**FOUND.e_flop, "fp32": Estimate(8e-12, 0.1e-12, "J/flop", Provenance.DERIVED, "fit")}
    known = replace(FOUND, peak_flop_per_s=both, e_flop=dear)
    run = synthetic_run(100, signal=BOARD, power_w=2500.0, devices=["A Board"], parameters=25e6, evaluate_every=10**6)
    return with_counts(run, language_model(dtype="fp32"), known)


def test_products_in_fp32_on_a_board_with_a_faster_half():
    run = in_fp32()
    finding = found(run)["work.precision"]
    products = [i for i in accounts(run).items if i.flops >= 25.0 * i.bytes and i.flops]
    flops = sum(i.flops for i in products)
    gained_s = sum(i.flops / 5e13 - max(i.flops / 4e14, i.bytes / 2e12) for i in products)
    assert flops == pytest.approx(100 * 15.6e12, rel=0.05)
    assert finding["expected_saving"]["value"] == pytest.approx(7.4e-12 * flops + 60.0 * gained_s, rel=1e-6)
    assert finding["expected_saving"]["unit"] == "J"
    assert finding["expected_saving"]["stderr"] > 0.1e-12 * flops
    assert "8 times as fast" in finding["text"]


def test_precision_is_not_blamed_where_half_is_no_faster_or_in_use_already():
    assert "work.precision" not in found(in_fp32(bf16=Estimate(6e13, 1e11, "flop/s")))
    assert "work.precision" not in found(attributed())


def test_what_is_bound_by_memory_gains_no_more_than_its_bytes_allow():
    item = Item("forward", "", "mm", "fp32", 1.0, 1e12, 0.0, 2e10)
    assert settings._gained_s(item, 0.02, 4e14, 2e12) == pytest.approx(0.02 - 0.01)


# Power limits: 400 W for the first ten seconds, then 220 W


def limited(*, second=250.0, late_w=220.0, rel_stderr=0.01):
    run = synthetic_run(
        200,
        power_w=lambda t: np.where(t < 10.5, 400.0, late_w),
        signal=replace(BOARD, rel_stderr=rel_stderr),
        sampling_hz=20.0,
        evaluate_every=10**6,
        devices=["A Board"],
    )
    return with_health(run, {**WELL, "power_limit_w": lambda t: np.where(t < 10.5, 500.0, second)}, each_s=0.05)


def test_a_lower_power_limit_that_took_less_energy():
    finding = found(limited())["board.best_limit"]
    assert finding["text"] == "a step took 45 % less energy at a power limit of 250 W than at 500 W"
    # 100 steps of 0.1 s at 400 W instead of 220 W, but for the first of a stretch
    assert finding["expected_saving"]["value"] == pytest.approx(99 * 18.0, rel=0.02)
    assert finding["expected_saving"]["unit"] == "J"
    assert finding["expected_saving"]["stderr"] > 0


def test_one_power_limit_or_two_that_cost_the_same_are_nothing_to_tell():
    assert "board.best_limit" not in found(limited(second=500.0))
    assert "board.best_limit" not in found(limited(late_w=396.0))
    assert "board.best_limit" not in found(limited(late_w=392.0, rel_stderr=1e-5))  # known well, and hardly less


# A plateau and the fluctuation-dissipation relation


def plateau(ratio, spread=0.02):
    """Return a run whose loss fell no further, with θ·g this many times its dissipation, η = 0.1."""
    k = np.arange(1000)
    run = synthetic_run(1000, evaluate_every=10**6)
    losses = run.table(series.LOSSES).rows.copy()
    losses[:, 2] = 1.0 + 4.0 * np.exp(-k / 60)
    run = with_table(run, series.LOSSES, losses)
    run = with_table(run, series.LEARNING_RATES, [(0, 0, 0, 0.1)])
    table = np.zeros((1000, len(series.EQUILIBRIUM.columns)))
    noise = 1.0 + spread * np.random.default_rng(0).standard_normal(1000)
    for name, value in (("step", k), ("theta_g", ratio * noise), ("dtheta_sq", 0.2), ("eligible", 1.0)):
        table[:, series.EQUILIBRIUM.columns.index(name)] = value
    return found(with_table(run, series.EQUILIBRIUM, table))["loss.plateau"]


def test_a_plateau_held_up_by_noise_is_told_from_one_that_still_moves():
    held, moving = plateau(1.0), plateau(1.6)
    assert "nothing speaks against a stationary state" in held["evidence"]
    assert "lower the learning rate" in held["remedy"]
    assert "not stationary yet" in moving["evidence"]
    assert "1.59" in moving["evidence"]
    vague = plateau(1.0, spread=30.0)
    assert "stationary" not in vague["evidence"]
