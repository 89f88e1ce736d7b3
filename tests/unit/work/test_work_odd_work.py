"""Work that was not, or not rightly, counted, and calibrations that do not fit: said, and never hidden in a part."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.estimate import Estimate
from ergometry.core.run import Run, Table
from ergometry.work import Accounts, Timeline, accounts, coefficients
from ergometry.work.components import COMPONENTS
from ergometry.work.counted import CountedWork, StepRows
from ergometry.work.energy_model import EnergyModel
from ergometry.work.profiles import items, profiles
from ergometry.work.timeline import STEP
from support.attributed import COUNTER, MODELS, calibrate, training
from support.calibrations import FOUND
from support.odd_runs import ODD_RUNS, with_table
from support.synthetic import BOARD, PACKAGE, synthetic_run, with_source
from unit.work.test_work_laws import build, layouts, powers

KNOWN = calibrate(COUNTER, seed=1)
DYNAMIC = ("compute", "memory")


def books_of(run: Run, known: Any = KNOWN) -> Accounts:
    return accounts(run, calibrations={"cuda:0": known})


def with_work(run: Run, rows: slice, **columns: float) -> Run:
    """Return the run with some rows of its work table changed."""
    table = run.table(series.WORK)
    changed = table.rows.copy()
    for column, value in columns.items():
        changed[rows, table.columns.index(column)] = value
    return with_table(run, series.WORK, changed)


def test_an_operator_that_nobody_counts_is_residual():
    run, truth = training(MODELS["mixed"], seed=1, unknown="gelu")
    books, whole = books_of(run), books_of(training(MODELS["mixed"], seed=1)[0])
    gelu = [op for op in MODELS["mixed"] if op.op == "gelu"]
    share = sum(op.flops * 8e-12 + op.bytes * 3e-11 for op in gelu) / sum(
        op.flops * (8e-12 if op.dtype == "fp32" else 0.6e-12) + op.bytes * 3e-11 for op in MODELS["mixed"]
    )
    dynamic = sum(truth.by_component[c] for c in DYNAMIC)
    residual = books.by_component["residual"]
    assert residual.value == pytest.approx(share * dynamic, rel=0.15)
    assert abs(residual.value - share * dynamic) < 2 * residual.stderr
    assert whole.by_component["residual"].value < 0.1 * residual.value
    before, after = ({r.name: r.energy.value for r in b.by_module} for b in (whole, books))
    assert after["blocks.0.feed"] < before["blocks.0.feed"]
    assert after["head"] < 1.05 * before["head"]  # static apart, none of it went to those that were counted
    assert "assumed equal" in books.by_phase["forward"].method
    assert math.fsum(e.value for e in books.by_component.values()) == pytest.approx(books.total.value, rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, -1e15, math.inf])
def test_the_dynamic_joules_of_steps_without_work_are_residual(value):
    run, truth = training(MODELS["mixed"], seed=2)
    part = with_work(
        run,
        slice(0, 150),
        **{f"{p}_{k}": value for p in ("forward", "backward", "optimizer") for k in ("flops", "bytes")},
    )
    books = books_of(part)
    edges = run.table(series.STEPS).rows[:150, 1:3]
    counted = run.table(series.WORK)
    flops = counted["forward_flops"] + counted["backward_flops"]
    share = flops[:150].sum() / flops.sum()
    dynamic = sum(truth.by_both[p, c] for p in ("forward", "backward", "optimizer") for c in DYNAMIC)
    assert books.by_component["residual"].value == pytest.approx(share * dynamic, rel=0.1)
    assert books.by_component["static"].value == pytest.approx(truth.by_component["static"], rel=0.1)
    assert math.fsum(e.value for e in books.by_component.values()) == pytest.approx(books.total.value, rel=1e-12)
    # Modules have the joules of the counted steps alone.
    inside = np.diff(np.array([run.traces()[d].cumulative_j(edges) for d in run.traces()])).sum()
    modules = math.fsum(row.energy.value for row in books.by_module)
    whole = math.fsum(row.energy.value for row in books_of(run).by_module)
    assert modules == pytest.approx(whole - inside, rel=0.05)
    assert books.rates["mfu"].method.endswith("150 of 300 steps")


def test_modules_that_ran_outside_of_steps_leave_the_sums_alone():
    run, _ = training(MODELS["mixed"], seed=3, steps=80)
    uses = run.table(series.PROFILE_USES).rows.copy()
    uses[uses[:, 1] == 0, 2] *= 3  # two of three forwards were in no step
    more = books_of(with_table(run, series.PROFILE_USES, uses))
    plain = books_of(run)
    assert math.fsum(r.energy.value for r in more.by_module) == pytest.approx(
        math.fsum(r.energy.value for r in plain.by_module), rel=1e-3
    )
    assert more.by_component["residual"].value == pytest.approx(plain.by_component["residual"].value, abs=20.0)


def test_a_module_that_is_called_several_times_or_shared_is_one_row():
    run, _ = training(MODELS["mixed"], seed=3, steps=80)
    halves = []
    for profile in run.meta["profiles"]:
        split = [[*i[:4], *(0.5 * x for x in i[4:])] for i in profile["items"] for _ in range(2)]
        halves.append({**profile, "items": split})
    one, other = (books_of(replace(run, meta={**run.meta, "profiles": p})) for p in (run.meta["profiles"], halves))
    assert [r.name for r in one.by_module] == [r.name for r in other.by_module]
    for a, b in zip(one.by_module, other.by_module, strict=True):
        assert b.energy.value == pytest.approx(a.energy.value, rel=1e-9)


def test_a_model_that_changes_in_mid_run_has_its_own_dtypes_before_and_after():
    run = synthetic_run(400, evaluate_every=10**6)
    half = 200
    row = (1e9, 2e9, 0.0, 1e8, 2e8, 1e7, 1e7, 0.0, 0.0, 0.0)
    run = with_table(run, series.WORK, [(k, *row) for k in range(400)])
    middle = run.table(series.STEPS)["t0_s"][half]
    end = run.table(series.STEPS)["t1_s"][-1]
    uses = [(t, 0.0, 5 * t, 0.0) for t in np.arange(1.0, middle, 1.0)]
    uses += [(t, 1.0, 5 * (t - middle), 0.0) for t in np.arange(middle + 1, end, 1.0)]
    item = ["a", "addmm", "fp32", 1, 1e9, 0, 0, 5e7, 5e7, 0]
    told = [
        {"phase": "forward", "root": "M", "items": [item]},
        {"phase": "forward", "root": "M", "items": [[*item[:2], "bf16", *item[3:]]]},
    ]
    run = replace(with_table(run, series.PROFILE_USES, uses), meta={**run.meta, "profiles": told})
    used = profiles(run)
    work = CountedWork.of(run, Timeline.of(run), StepRows.of(run), used)
    assert work.dtypes == ("fp32", "bf16")
    model = EnergyModel(("static_w", "e_flop:fp32", "e_flop:bf16", "e_byte"), np.ones(4), np.eye(4))
    forward = np.concatenate([block for _, block in work.blocks(model)])[work.timeline.kind == STEP, 1]
    assert forward[:150, 1] == pytest.approx(1e9) and forward[:150, 2] == pytest.approx(0.0)
    assert forward[250:, 1] == pytest.approx(0.0) and forward[250:, 2] == pytest.approx(1e9)
    assert forward[:, 1:3].sum() == pytest.approx(400e9)
    assert {item.dtype for item in items(used)} == {"fp32", "bf16"}


@pytest.mark.parametrize(
    "told",
    [
        [None],
        [{}],
        [{"phase": "forward", "items": 3}],
        [{"phase": "forward", "items": [["a"]]}],
        [{"phase": "forward", "items": [["a", "b", "fp32", 1, "x", 0, 0, 0, 0, 0]]}],
        [{"phase": "forward", "items": [["a", "b", "fp32", 1, math.nan, 0, 0, 0, 0, 0]]}],
        [{"phase": "forward", "items": [["a", "b", "fp32", 1, -1.0, 0, 0, 0, 0, 0]]}],
    ],
)
def test_profiles_that_cannot_be_read_are_left_out_and_the_rest_goes_on(told):
    run, truth = training(MODELS["mixed"], seed=3, steps=80)
    books = books_of(replace(run, meta={**run.meta, "profiles": told}))
    assert not books.items and not books.by_module and "profiles" in books.attribution_why
    assert books.total.value == pytest.approx(truth.total, rel=1e-3)
    assert math.fsum(e.value for e in books.by_component.values()) == pytest.approx(books.total.value, rel=1e-12)


def test_without_a_calibration_its_remedy_is_said_and_nothing_is_divided_by_work():
    run, _ = training(MODELS["mixed"], seed=3, steps=40)
    books = accounts(run)
    assert books.attribution_why == "needs a calibration of cuda:0: erg calibrate --device cuda:0"
    assert (books.calibration, books.model, books.by_module, books.components_by_phase) == (None, None, (), {})
    assert not books.by_component["compute"].known
    assert books.rates["mfu"].why.startswith("needs a calibrated peak FLOP/s")
    assert books.items


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({**KNOWN.to_json(), "board": "B Board"}, "of another board, B Board, not of A Board"),
        ({**KNOWN.to_json(), "e_byte": None}, "calibrate again"),
        ({"schema": "ergometry.calibration/9"}, "expected ergometry.calibration/1"),
        ({"unreadable": "Permission denied in /x"}, "Permission denied in /x"),
        ([], "calibrate again"),
        ({**KNOWN.to_json(), "e_byte": Estimate(-1e-12, None, "J/byte").to_json()}, "-1e-12"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_with_its_remedy_and_the_run_goes_on(held, said):
    run, truth = training(MODELS["mixed"], seed=3, steps=40, calibrations={"cuda:0": held})
    books = accounts(run)
    assert books.calibration is None and books.model is None
    assert said in books.attribution_why and "erg calibrate" in books.attribution_why
    assert books.total.value == pytest.approx(truth.total, rel=1e-3)


def test_a_calibration_of_another_machine_is_refused():
    run, _ = training(MODELS["mixed"], seed=3, steps=40, machine={"identity": "ffffffffffff"})
    assert "another machine" in books_of(run).attribution_why


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (replace(KNOWN, date="2025-06-01T00:00:00+00:00"), "days old"),
        (replace(KNOWN, conditions={"widened": 3.0}), "busy"),
        (replace(KNOWN, conditions={"threads": 4}), "4 threads of torch, the run with 16"),
        (replace(KNOWN, e_flop={"bf16": KNOWN.e_flop["bf16"]}), "fp32 was not calibrated"),
    ],
)
def test_a_calibration_of_other_conditions_is_used_with_a_remark(known, said):
    run, _ = training(MODELS["mixed"], seed=3, steps=40, threads=16)
    books = books_of(run, known)
    assert books.model is not None and books.attribution_why == ""
    assert any(said in remark for remark in books.attribution_remarks)
    assert books_of(run).attribution_remarks == ()


def test_a_run_holds_its_calibration_and_needs_no_folder():
    held = {"cuda:0": json.loads(json.dumps(KNOWN.to_json()))}
    run, _ = training(MODELS["mixed"], seed=3, steps=40, calibrations=held)
    assert accounts(run).by_component == books_of(run).by_component


def test_a_calibration_made_since_is_found_by_the_machine_s_identity(tmp_path):
    mine = replace(KNOWN, machine=coefficients.machine_identity())
    coefficients.save(mine, tmp_path)
    environ = {"ERGOMETRY_CALIBRATION": str(tmp_path)}
    run, _ = training(MODELS["mixed"], seed=3, steps=20, machine={"identity": coefficients.machine_identity()})
    assert coefficients.of(run, environ)["cuda:0"].to_json() == mine.to_json()
    elsewhere = replace(run, meta={**run.meta, "machine": {"identity": "ffffffffffff"}})
    assert coefficients.of(elsewhere, environ) == {}
    damaged = replace(run, meta={**run.meta, "calibrations": {"cuda:0": {}}})
    assert coefficients.of(damaged, environ)["cuda:0"].to_json() == mine.to_json()
    held = replace(run, meta={**run.meta, "calibrations": {"cuda:0": {**mine.to_json(), "date": "2020-01-01"}}})
    assert coefficients.of(held, environ)["cuda:0"].date == "2020-01-01"


def test_a_host_beside_an_accelerator_is_static_as_far_as_that_is_known_else_residual():
    run, _ = training(MODELS["mixed"], seed=3, steps=60)
    package = replace(PACKAGE, wrap_j=None)
    beside = with_source(run, "rapl", {package: 40.0})
    alone, books = books_of(run), books_of(beside)
    host_j = 40.0 * run.duration_s
    assert books.by_component["static"].value == pytest.approx(alone.by_component["static"].value)
    assert books.by_component["residual"].value == pytest.approx(
        host_j + alone.by_component["residual"].value, abs=1e-6
    )
    assert "node0/package0" in books.by_component["residual"].method
    idle = books_of(with_source(run, "rapl", {replace(package, static_w=15.0, static_rel_stderr=0.1): 40.0}))
    cpu = replace(KNOWN, device="cpu", board="", static_w=Estimate(15.0, 1.5, "W"))
    by_calibration = accounts(beside, calibrations={"cuda:0": KNOWN, "cpu": cpu})
    for found in (idle, by_calibration):
        more = found.by_component["static"].value - alone.by_component["static"].value
        assert more == pytest.approx(15.0 * run.duration_s)
        assert math.fsum(e.value for e in found.by_component.values()) == pytest.approx(found.total.value, rel=1e-12)
    told_twice = with_source(run, "rapl", {replace(package, static_w=20.0, static_rel_stderr=0.1): 40.0})
    once = accounts(told_twice, calibrations={"cuda:0": KNOWN, "cpu": cpu}).by_component["static"].value
    assert once == pytest.approx(by_calibration.by_component["static"].value)
    dram = replace(package, domain="node0/dram0")
    memory = books_of(with_source(run, "rapl", {package: 40.0, dram: 5.0})).by_component["memory"]
    assert memory.value == pytest.approx(alone.by_component["memory"].value + 5.0 * run.duration_s)


def test_a_run_on_the_processor_is_priced_by_its_own_readings():
    cpu = replace(
        FOUND, device="cpu", board="", e_flop={"fp32": FOUND.e_flop["bf16"] * 10}, names=(), covariance=np.zeros((0, 0))
    )
    run = with_source(synthetic_run(200, power_w=100.0), "nvml", {BOARD: 50.0})
    run = with_table(run, series.WORK, [(k, 3e11, 6e11, 0, 1e9, 2e9, 1e8, 1e8, 0, 0, 0) for k in range(200)])
    books = accounts(run, calibrations={"cpu": cpu})
    assert books.model is not None
    idle_board_j = 50.0 * run.duration_s
    assert books.by_component["residual"].value > 0.9 * idle_board_j
    parts = math.fsum(books.by_component[c].value for c in ("static", "compute", "memory"))
    assert parts < 100.0 * run.duration_s * 1.1


def test_boards_that_worked_together_each_have_their_static_power():
    run, _ = training(MODELS["mixed"], seed=3, steps=60)
    (first,) = run.samples
    second = replace(
        first, source="other", signals=tuple(replace(s, domain="node0/gpu1", device="cuda:1") for s in first.signals)
    )
    rows = run.table(series.DEVICE_STEPS).rows
    other = rows.copy()
    other[:, 1] = 1.0
    both = with_table(replace(run, samples=(first, second)), series.DEVICE_STEPS, np.vstack((rows, other)))
    work = run.table(series.WORK).rows.copy()
    work[:, 1:10] *= 2
    both = with_table(both, series.WORK, work)
    evaluations = both.table(series.PROFILE_USES).rows.copy()
    evaluations[:, 2] *= 2
    both = with_table(both, series.PROFILE_USES, evaluations)
    one, two = books_of(run), books_of(both)
    for component in ("static", "compute", "memory"):
        assert two.by_component[component].value == pytest.approx(2 * one.by_component[component].value, rel=0.02)
    assert two.rates["hfu"].value == pytest.approx(one.rates["hfu"].value)
    assert any("cuda:1" in remark for remark in two.attribution_remarks)


def test_bytes_between_devices_have_a_price_only_where_links_were_calibrated():
    run, _ = training(MODELS["mixed"], seed=3, steps=60)
    sending = with_work(run, slice(None), communication_bytes=1e9)
    without = books_of(sending)
    assert "between devices" in without.by_component["communication"].why
    linked = replace(
        KNOWN,
        e_link=Estimate(2e-11, 2e-12, "J/byte"),
        names=(*KNOWN.names, "e_link"),
        covariance=np.pad(KNOWN.covariance, (0, 1)),
    )
    with_links = books_of(sending, linked).by_component
    assert with_links["communication"].value == pytest.approx(60 * 1e9 * 2e-11, rel=0.1)
    assert math.fsum(e.value for e in with_links.values()) == pytest.approx(without.total.value, rel=1e-12)
    assert (
        sending.table(series.WORK)["communication_bytes"].sum() == books_of(sending).work["communication_bytes"].value
    )


@pytest.mark.parametrize("name", ODD_RUNS)
def test_odd_runs_take_a_calibration_in_their_stride(name):
    run = ODD_RUNS[name]()
    rows = [(k, 1e9, 2e9, 1e6, 1e8, 2e8, 1e7, 1e7, 0, 0, k % 2) for k in range(len(run.table(series.STEPS)))]
    run = with_table(run, series.WORK, rows)
    for known in (replace(KNOWN, board=""), replace(KNOWN, device="cpu", board="")):
        books = accounts(run, calibrations={"cuda:0": known, "cpu": known})
        if books.total.known:
            parts = [e.value for e in books.by_component.values() if e.known]
            assert math.fsum(parts) == pytest.approx(books.total.value, rel=1e-9, abs=1e-9)


amount = st.sampled_from([0.0, 1e9, 3e12, math.nan, -5.0, math.inf])


@settings(max_examples=60)
@given(layouts, powers, st.lists(st.lists(amount, min_size=10, max_size=10), min_size=12, max_size=12))
def test_whatever_was_counted_every_sum_closes(layout, curves, amounts):
    run = build(layout, curves)
    steps = len(run.table(series.STEPS))
    rows = [(k, *amounts[k]) for k in range(steps)]
    run = replace(run, tables={**run.tables, "work": Table(series.WORK.columns, np.array(rows).reshape(-1, 11))})
    cpu = replace(FOUND, device="cpu", board="")
    books = accounts(run, calibrations={"cpu": cpu})
    near = pytest.approx(books.total.value, rel=1e-9, abs=1e-9)
    assert math.fsum(e.value for e in books.by_phase.values()) == near
    scale = max(abs(e.value) for e in books.by_component.values() if e.known)
    assert math.fsum(e.value for e in books.by_component.values() if e.known) == pytest.approx(
        books.total.value, rel=1e-9, abs=1e-9 * max(scale, 1.0)
    )
    if books.model is not None:
        for phase in series.PHASES:
            row = [e.value for e in books.components_by_phase[phase].values() if e.known]
            assert math.fsum(row) == pytest.approx(books.by_phase[phase].value, rel=1e-9, abs=1e-9 * max(scale, 1.0))
        assert set(books.by_component) == set(COMPONENTS)
        assert all(e.stderr >= 0 for e in books.by_component.values() if e.known)
