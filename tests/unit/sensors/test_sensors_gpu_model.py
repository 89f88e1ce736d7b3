"""The model of a GPU without a readable counter: its form, its sources, and the public runs behind its numbers."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.sensors.gpu_model import (
    BUSY_SHARE,
    IDLE_SHARE,
    MEDIAN_TDP_W,
    REL_STDERR,
    TDP_LOG_SD,
    GpuModel,
    model_gpu,
)

DATA = Path(__file__).parents[4] / "shared/data"
ZEUS, PERSEUS = DATA / "zeus_nsdi23", DATA / "perseus_sosp24"
needs_data = pytest.mark.skipif(not ZEUS.exists(), reason=f"the public runs are not at {DATA}")

SHARE = st.floats(0.0, 1.0)


@given(limit_w=st.floats(10, 1500), u=SHARE, v=SHARE, f=SHARE, g=SHARE)
def test_power_rises_with_load_and_clock_between_idle_and_limit(limit_w, u, v, f, g):
    model = GpuModel(limit_w, 0.5, "")
    low = model.power_w(min(u, v), min(f, g))
    high = model.power_w(max(u, v), max(f, g))
    assert model.idle_w <= low <= high <= model.power_w(1.0, capped=True) == limit_w


@given(limit_w=st.floats(10, 1500), u=SHARE, f=SHARE, scale=st.floats(0.1, 10))
def test_power_scales_with_the_limit(limit_w, u, f, scale):
    one, other = GpuModel(limit_w, 0.5, ""), GpuModel(scale * limit_w, 0.5, "")
    assert other.power_w(u, f) == pytest.approx(scale * one.power_w(u, f))


def test_idle_power_is_not_scaled_by_what_is_not_used():
    """Another tool's bug: idle power times (1 - utilisation), so that a busy board's static power is gone."""
    model = GpuModel(100.0, 0.5, "")
    assert model.power_w(1.0) == pytest.approx(model.idle_w + (BUSY_SHARE - IDLE_SHARE) * 100)


def test_a_clock_above_its_highest_is_the_highest():
    assert GpuModel(100.0, 0.5, "").power_w(1.0, 1.2) == GpuModel(100.0, 0.5, "").power_w(1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "limit_w", "expected_w", "words"),
    [
        ("Tesla T4", 60.0, 60.0, "power limit 60 W"),
        ("Tesla T4", None, 70.0, "data sheet"),
        ("Tesla T4", 0.0, 70.0, "data sheet"),
        ("NVIDIA A100-PCIE-40GB", None, 250.0, "data sheet"),
        ("NVIDIA A100-SXM4-80GB", None, 400.0, "data sheet"),
        ("NVIDIA A10", None, 150.0, "data sheet"),
        ("NVIDIA L40S", None, 350.0, "data sheet"),
        ("NVIDIA L40", None, 300.0, "data sheet"),
        ("NVIDIA H100 PCIe", None, 350.0, "data sheet"),
        ("NVIDIA H100 80GB HBM3", None, 700.0, "data sheet"),
        ("Tesla V100-PCIE-16GB", None, 250.0, "data sheet"),
        ("Tesla V100-SXM2-16GB", None, 300.0, "data sheet"),
        ("NVIDIA GeForce GT 1030", None, MEDIAN_TDP_W, "not known"),
    ],
)
def test_the_limit_is_the_boards_own_or_its_data_sheets_or_a_median(name, limit_w, expected_w, words):
    model = model_gpu(name, limit_w)
    assert model.limit_w == expected_w
    assert words in model.method
    assert f"±{model.rel_stderr:.0%}" in model.method


def test_the_less_is_known_the_wider_the_error():
    told, named, unknown = model_gpu("Tesla T4", 70.0), model_gpu("Tesla T4", None), model_gpu("?", None)
    assert REL_STDERR == told.rel_stderr < named.rel_stderr < unknown.rel_stderr
    assert unknown.rel_stderr == pytest.approx(math.hypot(REL_STDERR, TDP_LOG_SD))


def shares(board: str) -> dict[str, list[float]]:
    """Return each network's power over the limit, on a board at its highest limit of 250 W."""
    with (ZEUS / f"summary_power_{board}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["power_limit"]) == 250]
    by_network = defaultdict(list)
    for row in rows:
        by_network[row["network"]].append(float(row["average_power"]) / 250)
    return by_network


@needs_data
def test_the_busy_share_is_that_of_two_boards_that_are_kept_busy():
    busy = [
        statistics.mean(shares(board)["resnet50"] + shares(board)["bert_base_uncased"]) for board in ("v100", "p100")
    ]
    assert busy == pytest.approx([0.90, 0.67], abs=0.005)
    assert math.sqrt(busy[0] * busy[1]) == pytest.approx(BUSY_SHARE, abs=0.005)


@needs_data
def test_the_idle_share_is_no_more_than_that_of_a_job_that_hardly_uses_the_board():
    hardly = [statistics.mean(shares(board)["ncf"]) for board in ("v100", "p100")]
    assert hardly == pytest.approx([0.15, 0.14], abs=0.005)
    assert 0.8 < IDLE_SHARE / min(hardly) <= 1.0


@needs_data
def test_the_error_lies_between_its_two_bounds_and_covers_the_jobs():
    logs = {
        board: [math.log(x) for network, of in shares(board).items() if network != "ncf" for x in of]
        for board in ("v100", "p100")
    }
    assert sum(map(len, logs.values())) == 54
    mean = {board: statistics.mean(of) for board, of in logs.items()}
    left_out = [
        math.sqrt(statistics.mean((x - mean[one]) ** 2 for x in logs[other]))
        for one, other in (("v100", "p100"), ("p100", "v100"))
    ]
    assert left_out == pytest.approx([0.45, 0.62], abs=0.01)
    assert 0.16 < REL_STDERR < max(left_out)
    # Of jobs of which only that much is known that a kernel always runs, 90 % intervals hold most.
    all_of_them = [math.exp(x) for of in logs.values() for x in of]
    held = sum(abs(x - BUSY_SHARE) <= 1.645 * REL_STDERR * BUSY_SHARE for x in all_of_them) / len(all_of_them)
    assert held >= 0.8


@needs_data
def test_power_follows_the_square_of_the_clock():
    at: dict[int, list[float]] = defaultdict(list)
    for file in PERSEUS.glob("*stage_profile*"):
        for row in csv.DictReader(file.read_text().splitlines()):
            at[int(row["frequency"])].append(float(row["energy"]) / float(row["time"]))
    power_w = {clock: statistics.mean(at[clock]) for clock in (1410, 1200, 1005)}
    idle_w = IDLE_SHARE * 400
    for clock in (1200, 1005):
        squared_w = idle_w + (power_w[1410] - idle_w) * (clock / 1410) ** 2
        assert squared_w == pytest.approx(power_w[clock], rel=0.12)


@needs_data
def test_the_median_board_is_that_of_the_public_table():
    with (DATA / "hardware/mlco2_gpus.csv").open() as file:
        tdp_w = [float(r["tdp_watts"]) for r in csv.DictReader(file) if r["type"] == "gpu" and "AMD" not in r["name"]]
    assert len(tdp_w) == 37
    assert statistics.median(tdp_w) == MEDIAN_TDP_W
    assert statistics.pstdev(map(math.log, tdp_w)) == pytest.approx(TDP_LOG_SD, abs=0.005)
