"""What stored runs offer to a plan, and ``erg plan`` on them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ergometry as erg_
from ergometry.cli import app
from ergometry.core import series
from ergometry.core.errors import ErgError, UsageError
from ergometry.core.estimate import Estimate
from ergometry.core.run import Run, Table
from ergometry.equations.readings import read as read_equations
from ergometry.planning.from_runs import largest_batch, limits_of, optimizer_of, points_of, rate_of, read
from ergometry.planning.operating_points import OperatingPoint
from ergometry.work.attribution import accounts
from support.attributed import COUNTER, MODELS, calibrate, training
from support.planned import CRITICAL, job
from support.stored import store_run
from support.synthetic import BOARD, WELL, synthetic_run, with_health


def test_a_run_is_an_operating_point_of_its_steps_alone() -> None:
    run = synthetic_run(200, power_w=lambda t: np.where(t < 0.5, 500.0, 50.0))  # imports at a high power
    (point,) = points_of(run, accounts(run))
    assert point.batch == 32
    assert point.step_s == pytest.approx(0.1)
    assert point.step_j == pytest.approx(5.0, rel=0.01)
    assert point.step_j_stderr is not None
    assert point.power_limit_w is None
    assert point.source == run.id


def test_every_batch_size_that_many_steps_have_is_a_point_and_remainders_are_none() -> None:
    run = synthetic_run(200, evaluate_every=10**6)
    rows = run.table(series.STEPS).rows.copy()
    column = series.STEPS.columns.index("examples")
    rows[100:, column] = 64.0
    rows[::50, column] = 7.0
    run = replace(run, tables={**run.tables, "steps": Table(series.STEPS.columns, rows)})
    assert [point.batch for point in points_of(run, accounts(run))] == [32.0, 64.0]


def test_the_power_limit_is_that_of_the_boards_together() -> None:
    run = with_health(synthetic_run(60), WELL, WELL)
    (point,) = points_of(run, accounts(run))
    assert point.power_limit_w == 1400.0


def test_the_plan_from_two_runs_is_near_the_optimum_that_made_them() -> None:
    runs = [job(32, 1600, 40.0), job(256, 600, 120.0)]  # 0.1 s a step: 4 J and 12 J, so e0 = 2.857, e1 = 0.0357
    found = erg_.plan(runs)
    best = math.sqrt(CRITICAL * (4 - 32 * 8 / 224) / (8 / 224))
    assert found.settings[0].batch == pytest.approx(best, rel=0.2)  # half an octave is the grid's width
    assert found.best_batch.low <= 1.2 * best <= 1.2**2 * found.best_batch.high


def test_runs_without_sizes_or_none_at_all_are_refused() -> None:
    run = synthetic_run(50)
    rows = run.table(series.STEPS).rows.copy()
    rows[:, series.STEPS.columns.index("examples")] = math.nan
    with pytest.raises(UsageError, match="--examples"):
        erg_.plan([replace(run, tables={**run.tables, "steps": Table(series.STEPS.columns, rows)})])
    with pytest.raises(UsageError, match="one run or more"):
        erg_.plan([])


def test_the_optimizer_is_read_off_the_profiles() -> None:
    run = synthetic_run(
        20,
        profiles=[
            {"phase": "forward", "root": "Net", "items": []},
            {"phase": "optimizer", "root": "AdamW", "items": []},
        ],
    )
    assert optimizer_of(run) == "AdamW"
    assert optimizer_of(synthetic_run(20)) is None


def with_peak(run: Run, peak_bytes: float, device: float = 0.0) -> Run:
    rows = np.array([[1.0, -1.0, 9e9], [2.0, device, peak_bytes]])
    return replace(run, tables={**run.tables, "memory": Table(series.MEMORY.columns, rows)})


def test_the_largest_batch_size_that_fits_is_known_by_the_peaks_of_the_runs() -> None:
    one = with_peak(job(32), 5e9)
    assert largest_batch([one], 40e9) == pytest.approx(256.0)  # all of it taken to grow
    assert largest_batch([one, with_peak(job(128), 8e9)], 40e9) == pytest.approx(32 + 35 / (3 / 96))
    silent = replace(job(32), tables={**job(32).tables, "memory": Table.empty(series.MEMORY.columns)})
    assert largest_batch([silent], 40e9) is None
    for memory, said in ((1e9, "holds batch size 32"), (-1.0, "positive memory"), (math.nan, "positive memory")):
        with pytest.raises(UsageError, match=said):
            largest_batch([one], memory)


def test_a_run_on_other_devices_tells_of_steps_and_not_of_joules() -> None:
    runs = [job(32, 1600, 40.0, devices=["A"]), job(256, 600, 999.0, devices=["B"])]
    known = read(runs)
    assert {p.batch for p in known.points} == {32.0}
    assert any("other devices" in remark for remark in known.remarks)
    assert known.history.critical_batch.source.startswith("runs at 2 batch sizes")


def test_what_lies_between_steps_is_said_not_to_be_counted() -> None:
    assert any("set-up and evaluation took" in remark for remark in read([synthetic_run(100)]).remarks)
    assert not any("set-up and evaluation took" in remark for remark in read([job(32, 2000)]).remarks)


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_split_of_a_single_batch_size_is_what_the_work_really_cost(kind: str) -> None:
    held = {"cuda:0": calibrate(COUNTER).to_json()}
    run, truth = training(MODELS[kind], steps=60, evaluate_every=10**6, steady=True, calibrations=held)
    split = read([run]).split
    assert split is not None
    dynamic = {phase: 0.0 for phase, _ in truth.by_both}
    for (phase, component), joules in truth.by_both.items():
        dynamic[phase] += 0.0 if component == "static" else joules / 60
    assert split.step_j == pytest.approx(dynamic["optimizer"], rel=0.05)
    assert 32 * split.example_j == pytest.approx(dynamic["forward"] + dynamic["backward"], rel=0.03)
    assert split.static_w == pytest.approx(60.0, rel=0.03)


def test_a_rate_at_which_another_run_trained_is_stable() -> None:
    def at(run: Run, rate: float) -> Run:
        rows = np.array([[0.0, 0.0, 0.0, rate]])
        return replace(run, tables={**run.tables, "learning_rates": Table(series.LEARNING_RATES.columns, rows)})

    run, other = at(job(32), 0.1), at(job(256), 0.5)
    readings = read_equations(run, accounts(run))
    curved = replace(readings, curvature=replace(readings.curvature, limit=Estimate(0.3, 0.01, "1")))
    alone, beside = (rate_of(run, curved, 128, others=others) for others in ((), (other,)))
    assert alone is not None
    assert beside is not None
    assert alone.value == pytest.approx(0.15)
    assert beside.value == pytest.approx(0.4)


def test_a_plan_is_made_in_python_as_on_the_command_line(store: Path) -> None:
    found = erg_.plan([RUNS[0], job(128, 300, 80.0)], budget=erg_.Budget(slowdown="10%"), store=store)
    by_command = json.loads(erg(store, *RUNS, "--slowdown", "10%", "--format", "json"))
    assert found.to_json()["settings"] == by_command["settings"]
    assert str(found).startswith("To reach")
    assert erg_.plan(job(32)).settings
    with pytest.raises(UsageError, match="a run, a recording"):
        erg_.plan(7)


# As a user calls it


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for run in (job(32, 400, 40.0), job(128, 300, 80.0)):
        store_run(run, tmp_path / "runs")
    return tmp_path / "runs"


def erg(store: Path, *words: object) -> str:
    done = CliRunner().invoke(app, ["plan", *map(str, words), "--store", str(store)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


RUNS = ("20260102-030405-a32", "20260102-030405-a128")


def test_the_text_fits_80_columns(store: Path) -> None:
    text = erg(store, *RUNS)
    assert max(map(len, text.splitlines())) <= 80, max(text.splitlines(), key=len)
    for words in ("batch size", "learning rate", "energy", "the front", "as written"):
        assert words in text


def test_the_json_holds_every_quantity_with_its_interval(store: Path) -> None:
    found = json.loads(erg(store, *RUNS, "--format", "json", "--slowdown", "10%"))
    assert found["schema"] == "ergometry.plan/1"
    for name in ("time", "energy", "power", "best_batch"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert set(found["holds"]) == {"slowdown"}
    assert found["critical_batch"]["source"].startswith("runs at 2 batch sizes")
    assert {"6.1 B_opt", "8.2 eta_opt", "8.3 B_efficient"} <= set(found["as_written"])


def test_points_of_a_file_are_planned_with(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("batch,step_s,step_j\n512,0.2,20\n")
    found = json.loads(erg(store, RUNS[0], "--points", path, "--format", "json"))
    assert max(point["batch"] for point in found["front"]) >= 32
    assert not any("one batch size was measured" in remark for remark in found["remarks"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--energy", "20 kW"), "in J, such as 20 kJ, got '20 kW'"),
        (("--energy", "0 J"), "positive budget of energy"),
        (("--time", "-1 h"), "positive budget of time"),
        (("--time", "1 s"), "nearest that can be met is time"),
        (("--weight", "2"), "weight of energy"),
        (("--max-batch", "0"), "--max-batch of 1 or more"),
        (("--batch", "64", "--max-batch", "32"), "a batch size to choose from"),
        (("--target-loss", "0.01"), "a goal that is reached"),
    ],
)
def test_wrong_uses_are_told_in_one_line(store: Path, words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["plan", RUNS[0], *words, "--store", str(store)])
    assert isinstance(done.exception, ErgError), done.output
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)


def ranged(least_w: float | None, greatest_w: float | None) -> Run:
    """Return a run whose board says between which power limits it can be set."""
    signal = replace(BOARD, least_limit_w=least_w, greatest_limit_w=greatest_w)
    return with_health(job(64, power_w=300.0, signal=signal), WELL)


def test_points_at_limits_that_the_boards_cannot_be_set_to_are_refused() -> None:
    run = ranged(200.0, 700.0)
    assert limits_of(accounts(run)) == (200.0, 700.0)
    too_high = OperatingPoint(64, 0.1, 40.0, power_limit_w=900.0, source="points.csv")
    with pytest.raises(UsageError, match=r"limits of 200 to 700 W.*got 900 W in points.csv; leave out"):
        erg_.plan(run, points=[too_high])
    assert erg_.plan(run, points=[replace(too_high, power_limit_w=700.4)]).settings  # boards round


def test_where_no_board_tells_its_limits_the_plan_says_so() -> None:
    point = OperatingPoint(64, 0.1, 4.0, power_limit_w=150.0)
    said = "which power limits the boards can be set to is not known"
    assert any(said in remark for remark in erg_.plan(job(64), points=[point]).remarks)
    assert not any(said in remark for remark in erg_.plan(job(64)).remarks)
    assert limits_of(accounts(ranged(None, 700.0))) is None


def test_load_that_comes_and_goes_for_many_steps_is_in_the_error_of_a_point() -> None:
    run = synthetic_run(400, evaluate_every=10**6)
    rows = run.table(series.STEPS).rows.copy()
    slow = np.r_[np.zeros(250), np.full(150, 0.04)] + 1e-3 * np.random.default_rng(0).normal(size=400)
    rows[:, 2] = rows[:, 1] + 0.05 + slow  # it ends sooner than the next one begins
    loaded = replace(run, tables={**run.tables, "steps": Table(series.STEPS.columns, rows)})
    (point,) = points_of(loaded, accounts(loaded))
    one_by_one = float(np.std(rows[10:, 2] - rows[10:, 1], ddof=1)) / math.sqrt(390)
    assert point.step_s_stderr is not None
    assert point.step_s_stderr > 4 * one_by_one
    (steady,) = points_of(run, accounts(run))
    assert steady.step_s_stderr == pytest.approx(0.0, abs=1e-9)


def test_a_run_of_another_job_offers_neither_steps_nor_points() -> None:
    run, other = job(64, 800, parameters=10**6), job(256, 600, power_w=200.0, parameters=10**5)
    known = read([run, other])
    assert [point.batch for point in known.points] == [64.0]
    assert any("trained another model (100,000 parameters, not 1,000,000)" in remark for remark in known.remarks)


def test_a_run_named_twice_is_one(store: Path) -> None:
    once, twice = (json.loads(erg(store, *names, "--format", "json")) for names in (RUNS[:1], (RUNS[0], RUNS[0])))
    assert once == twice
    compared = CliRunner().invoke(app, ["compare", RUNS[0], RUNS[0], "--store", str(store)])
    assert "alone, named 2 times" in str(compared.exception)


def test_rates_of_several_groups_are_scaled_and_not_averaged(store: Path) -> None:
    run = job(32, 1600, 40.0)
    rates = np.array([[0.0, 0.0, 0.0, 0.001], [0.0, 1.0, 0.0, 0.1]])
    run = replace(run, tables={**run.tables, "learning_rates": Table(series.LEARNING_RATES.columns, rates)})
    found = erg_.plan([run, job(256, 600, 120.0)])
    assert found.learning_rate is not None
    assert f"learning rate of each group times {found.learning_rate.scale:.3g}" in str(found)
