"""What stored runs offer to a plan, and ``erg plan`` on them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ergometry.cli import app
from ergometry.core import series
from ergometry.core.errors import ErgError, UsageError
from ergometry.core.run import Run, Table
from ergometry.planning.from_runs import critical_batch_of, goal_of, optimizer_of, plan_runs, points_of
from ergometry.work.attribution import accounts
from support.stored import store_run
from support.synthetic import WELL, synthetic_run, with_health

CRITICAL = 100.0


def job(batch: float, steps: int = 400, power_w: float = 50.0, *, name: str = "a") -> Run:
    """Return a run of 0.1 s steps at a batch size, whose loss follows the examples by the law of steps."""
    run = synthetic_run(
        steps, power_w=power_w, evaluate_every=10**6, path=Path(f"erg-runs/20260102-030405-{name}{batch:.0f}")
    )
    table = run.table(series.STEPS)
    rows = table.rows.copy()
    rows[:, table.columns.index("examples")] = batch
    losses = run.table(series.LOSSES).rows.copy()
    noise = 0.002 * np.random.default_rng(int(batch)).normal(size=steps)
    losses[:, 2] = 1.0 + 3.0 * (10.0 + np.arange(steps) / (1 + CRITICAL / batch)) ** -0.5 + noise
    tables = {"steps": Table(table.columns, rows), "losses": Table(series.LOSSES.columns, losses)}
    return replace(run, tables={**run.tables, **tables})


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


def test_without_a_target_the_goal_is_what_the_run_reached() -> None:
    run = job(32)
    goal = goal_of(run, points_of(run, accounts(run)), None)
    assert goal.batch == 32
    assert set(goal.steps) == {400.0}
    assert run.id in goal.words


def test_a_target_that_was_reached_took_the_steps_it_took_and_one_beyond_is_extrapolated() -> None:
    run = job(32, 2000)
    points = points_of(run, accounts(run))
    reached = goal_of(run, points, 1.3)
    at = (3.0 / 0.3) ** 2 - 10
    assert float(reached.steps[0]) == pytest.approx(at * (1 + CRITICAL / 32), rel=0.1)
    beyond = goal_of(run, points, 1.1)
    true = ((3.0 / 0.1) ** 2 - 10) * (1 + CRITICAL / 32)
    low, high = np.quantile(beyond.steps, [0.05, 0.95], method="inverted_cdf")
    assert low <= true <= high
    assert np.all(beyond.steps >= 2000)
    with pytest.raises(UsageError, match="finite target"):
        goal_of(run, points, math.nan)


def test_runs_at_two_batch_sizes_tell_the_critical_one() -> None:
    found = critical_batch_of([job(32, 1600), job(128, 800), job(512, 600)])
    low, high = found.interval()
    assert low <= CRITICAL <= high
    assert found.factor < 1.5


def test_one_run_without_a_noise_scale_knows_next_to_nothing_and_says_so() -> None:
    found = critical_batch_of([job(32)])
    assert found.factor == pytest.approx(10.0)
    assert "nothing is known" in found.source


def test_the_plan_from_two_runs_is_near_the_optimum_that_made_them() -> None:
    runs = [job(32, 1600, 40.0), job(256, 600, 120.0)]  # 0.1 s a step: 4 J and 12 J, so e0 = 2.857, e1 = 0.0357
    found = plan_runs(runs)
    best = math.sqrt(CRITICAL * (4 - 32 * 8 / 224) / (8 / 224))
    assert found.settings[0].batch == pytest.approx(best, rel=0.2)  # half an octave is the grid's width
    assert found.best_batch.low <= 1.2 * best <= 1.2**2 * found.best_batch.high


def test_runs_without_sizes_or_none_at_all_are_refused() -> None:
    run = synthetic_run(50)
    rows = run.table(series.STEPS).rows.copy()
    rows[:, series.STEPS.columns.index("examples")] = math.nan
    with pytest.raises(UsageError, match="--examples"):
        plan_runs([replace(run, tables={**run.tables, "steps": Table(series.STEPS.columns, rows)})])
    with pytest.raises(UsageError, match="one run or more"):
        plan_runs([])


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


def test_the_text_fits_80_columns_but_for_notes_and_formulas(store: Path) -> None:
    text = erg(store, *RUNS)
    told = [line for line in text.splitlines() if not line.startswith(("note:", "  6.1", "  8.2", "  8.3"))]
    assert max(map(len, told)) <= 80, max(told, key=len)
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
