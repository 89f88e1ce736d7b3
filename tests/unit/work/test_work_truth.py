"""Attribution against a known truth: trainings on the simulated accelerator, calibrated through the same sensor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.work import Accounts, accounts
from ergometry.work.components import COMPONENTS
from support.attributed import COUNTER, MODELS, PART_TIME, POWER, Truth, calibrate, training

SENSORS = {"a counter": (COUNTER, 10.0, 3.0), "a counter at 1 Hz": (COUNTER, 1.0, 3.0)}
SENSORS |= {"a counter that looks a quarter of the time": (PART_TIME, 10.0, 3.0), "a mean power": (POWER, 1.0, 10.0)}
PRICED = ("static", "compute", "memory")
CALIBRATED = {name: calibrate(front, seed=1, each_s=each_s) for name, (front, _, each_s) in SENSORS.items()}


def books_of(model: str, sensor: str, **more: object) -> tuple[Accounts, Truth]:
    front, hz, _ = SENSORS[sensor]
    run, truth = training(MODELS[model], front=front, hz=hz, seed=2, **more)  # type: ignore[arg-type]
    return accounts(run, calibrations={"cuda:0": CALIBRATED[sensor]}), truth


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("model", MODELS)
def test_components_are_within_five_percent_and_modules_within_ten(model, sensor):
    for stray in (0.0, 0.1):  # operators that cost what the kernels cost, or a tenth more or less
        books, truth = books_of(model, sensor, stray=stray)
        for component in PRICED:
            assert books.by_component[component].value == pytest.approx(truth.by_component[component], rel=0.05)
        assert abs(books.by_component["residual"].value) < 0.01 * truth.total
        found = {row.name: row.energy.value for row in books.by_module}
        assert set(found) == set(truth.by_module)
        off = np.mean([abs(found[name] / true - 1) for name, true in truth.by_module.items()])
        assert off < (0.1 if stray else 0.02)
        for phase in ("data", "forward", "backward", "optimizer"):
            assert books.by_phase[phase].value == pytest.approx(truth.by_phase[phase], rel=0.05)


@pytest.mark.parametrize("sensor", SENSORS)
def test_nine_intervals_of_ten_hold_the_truth(sensor):
    inside = []
    for seed in range(6):
        front, hz, each_s = SENSORS[sensor]
        gain = 1.0 + 0.05 * np.random.default_rng(seed).standard_normal()
        front = replace(front, gain=float(gain))
        known = calibrate(front, seed=seed, rel_stderr=0.05, each_s=each_s)
        model = list(MODELS)[seed % 3]
        run, truth = training(
            MODELS[model], front=front, hz=hz, seed=seed, stray=0.1, rel_stderr=0.05, steps=150, evaluate_every=40
        )
        books = accounts(run, calibrations={"cuda:0": known})
        found = {row.name: row.energy for row in books.by_module}
        pairs = [(books.by_component[c], truth.by_component[c]) for c in PRICED]
        pairs += [(books.by_phase[p], j) for p, j in truth.by_phase.items() if p != "other"]
        pairs += [(found[name], true) for name, true in truth.by_module.items()]
        pairs += [(books.components_by_phase[p][c], j) for (p, c), j in truth.by_both.items() if p != "other"]
        inside += [abs(e.value - true) <= 1.645 * e.stderr for e, true in pairs]
    assert np.mean(inside) > 0.9


def test_a_run_divided_by_its_work_is_surer_of_its_phases_than_by_equal_power():
    run, truth = training(MODELS["mixed"], seed=3)
    by_power, by_work = accounts(run), accounts(run, calibrations={"cuda:0": CALIBRATED["a counter"]})
    for phase in ("data", "forward", "backward", "optimizer"):
        off = [abs(books.by_phase[phase].value - truth.by_phase[phase]) for books in (by_power, by_work)]
        assert by_work.by_phase[phase].stderr < 0.6 * by_power.by_phase[phase].stderr
        assert off[1] < max(0.2 * off[0], 0.005 * truth.by_phase[phase])
    assert "in proportion to the work of each phase" in by_work.by_phase["forward"].method
    assert "assumed equal" not in by_work.by_phase["forward"].method


@pytest.mark.parametrize("model", MODELS)
def test_every_sum_closes_to_rounding(model):
    books, _ = books_of(model, "a counter")
    whole = pytest.approx(books.total.value, rel=1e-12)
    assert math.fsum(e.value for e in books.by_component.values()) == whole
    assert math.fsum(e.value for e in books.by_phase.values()) == whole
    for phase in series.PHASES:
        row = books.components_by_phase[phase]
        assert math.fsum(e.value for e in row.values()) == pytest.approx(
            books.by_phase[phase].value, rel=1e-12, abs=1e-9
        )
    for component in COMPONENTS:
        column = [books.components_by_phase[phase][component].value for phase in series.PHASES]
        assert math.fsum(column) == pytest.approx(books.by_component[component].value, rel=1e-9, abs=1e-6)
    worked = math.fsum(books.by_phase[p].value for p in ("forward", "backward", "optimizer", "evaluation"))
    for rows in (books.by_module, books.by_op):
        assert math.fsum(row.energy.value for row in rows) == pytest.approx(worked, rel=1e-9)


def test_a_steady_run_keeps_the_calibration_s_proportions_and_its_own_sum():
    # All windows alike: they tell what a step costs, and not of what that is made.
    run, truth = training(MODELS["mixed"], seed=4, steady=True, evaluate_every=10**6)
    known = CALIBRATED["a counter"]
    wrong = replace(
        known,
        e_flop={d: q * 1.2 for d, q in known.e_flop.items()},
        e_byte=known.e_byte * 1.2,
        static_w=known.static_w * 1.2,
    )
    books = accounts(run, calibrations={"cuda:0": wrong})
    assert abs(books.by_component["residual"].value) < 0.01 * truth.total
    for component in PRICED:
        assert books.by_component[component].value == pytest.approx(truth.by_component[component], rel=0.15)


def test_the_gain_of_the_sensor_scales_every_part_alike():
    run, _ = training(MODELS["mixed"], seed=5, rel_stderr=0.0)
    more = replace(
        run,
        samples=tuple(replace(s, signals=tuple(replace(x, rel_stderr=0.3) for x in s.signals)) for s in run.samples),
    )
    known = {"cuda:0": CALIBRATED["a counter"]}
    plain, wide = accounts(run, calibrations=known), accounts(more, calibrations=known)
    for component in PRICED:
        a, b = plain.by_component[component], wide.by_component[component]
        assert b.value == a.value
        assert b.stderr == pytest.approx(math.hypot(a.stderr, 0.3 * a.value), rel=1e-6)


def test_rates_are_those_of_the_work_done():
    run, _ = training(MODELS["mixed"], seed=6)
    known = CALIBRATED["a counter"]
    books = accounts(run, calibrations={"cuda:0": known})
    steps, work = run.table(series.STEPS), run.table(series.WORK)
    seconds = float((steps["t1_s"] - steps["t0_s"]).sum())
    flops = float((work["forward_flops"] + work["backward_flops"]).sum())
    moved = float((work["forward_bytes"] + work["backward_bytes"] + work["optimizer_bytes"]).sum())
    per_dtype = {d: sum(op.flops for op in MODELS["mixed"] if op.dtype == d) for d in ("bf16", "fp32")}
    at_peak = sum(f / known.peak_flop_per_s[d].value for d, f in per_dtype.items()) / sum(per_dtype.values())
    rates = books.rates
    assert rates["mfu"].value == pytest.approx(flops * at_peak / seconds, rel=1e-9)
    assert rates["hfu"].value == pytest.approx(rates["mfu"].value)
    assert rates["byte_per_s"].value == pytest.approx(moved / seconds)
    assert rates["j_per_byte"].value == pytest.approx(books.total.value / moved)
    assert rates["intensity"].value == pytest.approx(flops / moved)
    assert rates["j_per_token"].value == pytest.approx(books.total.value / steps["tokens"].sum())
    assert 0 < rates["compute_bound"].value < 1
    assert rates["mfu"].stderr > 0


def test_recomputed_flop_are_executed_and_not_the_model_s():
    run, _ = training(MODELS["mixed"], seed=6, steps=60)
    rows = run.table(series.WORK).rows.copy()
    rows[:, series.WORK.columns.index("recomputed_flops")] = rows[:, 1]  # the forward ran again in the backward
    again = replace(run, tables={**run.tables, "work": replace(run.table(series.WORK), rows=rows)})
    rates = accounts(again, calibrations={"cuda:0": CALIBRATED["a counter"]}).rates
    assert rates["mfu"].value == pytest.approx(2 / 3 * rates["hfu"].value)


def test_with_a_model_bound_by_arithmetic_time_lies_above_the_ridge():
    shares = {m: books_of(m, "a counter", steps=60)[0].rates["compute_bound"].value for m in MODELS}
    assert shares["compute-bound"] > 0.7 > shares["mixed"] > shares["memory-bound"]


def test_the_gain_of_the_sensor_scales_the_residual_and_each_phase_too():
    run, _ = training(MODELS["mixed"], seed=5, unknown="gelu")
    more = replace(
        run,
        samples=tuple(replace(s, signals=tuple(replace(x, rel_stderr=0.3) for x in s.signals)) for s in run.samples),
    )
    known = {"cuda:0": CALIBRATED["a counter"]}
    plain, wide = accounts(run, calibrations=known), accounts(more, calibrations=known)
    pairs = [(plain.by_component["residual"], wide.by_component["residual"])]
    pairs += [(plain.components_by_phase["forward"][c], wide.components_by_phase["forward"][c]) for c in PRICED]
    for a, b in pairs:
        assert b.stderr == pytest.approx(math.hypot(a.stderr, 0.3 * a.value), rel=1e-6)


def test_windows_that_stray_from_the_model_leave_it_less_sure():
    run, _ = training(MODELS["mixed"], seed=7)
    (samples,) = run.samples
    rows = samples.table.rows.copy()
    wander = 1.0 + 0.1 * np.repeat(np.random.default_rng(0).standard_normal(len(rows) // 40 + 1), 40)[: len(rows) - 1]
    rows[1:, 1] = rows[0, 1] + np.cumsum(np.diff(rows[:, 1]) * wander)
    restless = replace(run, samples=(replace(samples, table=replace(samples.table, rows=rows)),))
    known = {"cuda:0": CALIBRATED["a counter"]}
    still, stray = (accounts(r, calibrations=known) for r in (run, restless))
    assert stray.by_component["residual"].stderr > 4 * still.by_component["residual"].stderr
    assert abs(stray.by_component["residual"].value) < 3 * stray.by_component["residual"].stderr
