"""Calibration against known truth: a board whose sensor is off by a known factor, and a meter that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate
from ergometry.core.ports import Signal
from ergometry.core.run import Run, SampleTable, Table
from ergometry.work.board_gain import Meter, calibrate

GPU = Signal("node0/gpu0", "energy_j", "measured", "NVML energy counter", rel_stderr=0.05, board="GPU-1")
GPU_W = Signal("node0/gpu0", "power_w", "measured", "NVML power", rel_stderr=0.05, board="GPU-1")
GPU_MEMORY = Signal("node0/gpu0/memory", "power_w", "measured", "NVML memory power")
PACKAGE = Signal("node0/package0", "energy_j", "measured", "RAPL")
CPU = Signal("node0/cpu", "energy_j", "modelled", "model", rel_stderr=0.4)


def run_of(readings: dict[Signal, float], seconds: float = 100.0, name: str = "run") -> Run:
    """Return a run in which each signal's sensor reads a constant power, W."""
    t_s = np.linspace(0.0, seconds, int(seconds) + 1)
    columns = [t_s * w if signal.quantity == "energy_j" else np.full_like(t_s, w) for signal, w in readings.items()]
    table = Table(("t_s", *(f"c{i}" for i in range(len(columns)))), np.column_stack((t_s, *columns)))
    samples = (SampleTable("fake", tuple(readings), table),)
    return Run(Path(name), "completed", seconds, {"id": name}, {}, samples)


def joules(value: float, stderr: float = 0.0) -> Estimate:
    return Estimate(value, stderr, "J")


@settings(max_examples=25)
@given(st.floats(0.6, 1.6), st.floats(20.0, 700.0), st.floats(10.0, 1000.0))
def test_a_meter_of_the_board_alone_gives_the_gain_exactly(factor, true_w, seconds):
    run = run_of({GPU: true_w / factor}, seconds)
    found = calibrate("GPU-1", Meter(joules(true_w * seconds, 0.005 * true_w * seconds)), run)
    assert found.gain == pytest.approx(factor)
    assert found.rel_stderr == pytest.approx(0.005)
    assert found.readings["run"] == "run"


def test_the_gain_that_the_run_was_recorded_with_is_undone():
    wrong = replace(GPU, gain=1.3, rel_stderr=0.01)
    assert calibrate("GPU-1", Meter(joules(104.0 * 100, 10)), run_of({wrong: 100.0})).gain == pytest.approx(1.04)


def test_the_error_is_that_of_meter_and_supply_and_not_the_board_s_own():
    meter = Meter(joules(200.0 * 100, 0.01 * 200.0 * 100), efficiency=Estimate(0.9, 0.018, ""))
    found = calibrate("GPU-1", meter, run_of({GPU: 150.0}))
    assert found.gain == pytest.approx(180.0 / 150.0)
    assert found.rel_stderr == pytest.approx(np.hypot(0.01, 0.02))


def test_the_board_s_own_late_updates_widen_the_error():
    slow = replace(GPU, update_period_s=5.0)
    sharp, blunt = (calibrate("GPU-1", Meter(joules(1e4, 1.0)), run_of({s: 100.0})) for s in (GPU, slow))
    assert blunt.rel_stderr > 5 * sharp.rel_stderr


@settings(max_examples=25)
@given(st.floats(0.6, 1.6), st.floats(50.0, 300.0), st.floats(0.85, 1.0), st.floats(50.0, 400.0))
def test_by_difference_what_is_the_same_in_both_runs_falls_out(factor, constant_w, efficiency, seconds):
    """The wall meter reads supply losses, a constant rest and a CPU; the board's gain comes out all the same."""
    busy_w, idle_w, cpu_busy_w, cpu_idle_w = 500.0, 60.0, 90.0, 40.0

    def wall_j(board_w: float, cpu_w: float, time_s: float) -> float:
        return (board_w + cpu_w + constant_w) / efficiency * time_s

    run = run_of({GPU: busy_w / factor, PACKAGE: cpu_busy_w}, seconds)
    idle = run_of({GPU: idle_w / factor, PACKAGE: cpu_idle_w}, 0.5 * seconds, "idle")
    meter = Meter(
        joules(wall_j(busy_w, cpu_busy_w, seconds), 1.0),
        joules(wall_j(idle_w, cpu_idle_w, 0.5 * seconds), 1.0),
        Estimate(efficiency, 0.0, ""),
    )
    found = calibrate("GPU-1", meter, run, idle)
    assert found.gain == pytest.approx(factor)
    assert found.readings["others_w"] == pytest.approx(cpu_busy_w - cpu_idle_w)


def test_by_difference_the_others_error_counts_by_what_they_rose():
    """A modelled CPU of ±40 % that rises by 50 W: ±20 W of the board's 440."""
    run, idle = run_of({GPU: 500.0, CPU: 90.0}), run_of({GPU: 60.0, CPU: 40.0}, name="idle")
    meter = Meter(joules(590.0 * 100, 1e-3), joules(100.0 * 100, 1e-3))
    found = calibrate("GPU-1", meter, run, idle)
    assert found.gain == pytest.approx(1.0)
    assert found.rel_stderr == pytest.approx(20.0 / 440.0, rel=0.02)


def test_parts_of_the_board_and_of_the_others_are_not_taken_off_twice():
    part = Signal("node0/package0/core", "energy_j", "measured", "RAPL")
    run = run_of({GPU: 500.0, GPU_MEMORY: 70.0, PACKAGE: 90.0, part: 60.0})
    idle = run_of({GPU: 60.0, GPU_MEMORY: 10.0, PACKAGE: 40.0, part: 20.0}, name="idle")
    found = calibrate("GPU-1", Meter(joules(590.0 * 100, 1.0), joules(100.0 * 100, 1.0)), run, idle)
    assert found.gain == pytest.approx(1.0)


def test_what_only_one_run_metered_is_not_taken_off():
    run, idle = run_of({GPU: 500.0, PACKAGE: 90.0}), run_of({GPU: 60.0}, name="idle")
    found = calibrate("GPU-1", Meter(joules(540.0 * 100, 1.0), joules(100.0 * 100, 1.0)), run, idle)
    assert found.gain == pytest.approx(1.0)


def test_a_board_without_a_counter_is_calibrated_by_its_power():
    assert calibrate("GPU-1", Meter(joules(104.0 * 100, 1.0)), run_of({GPU_W: 100.0})).gain == pytest.approx(1.04)


def test_of_a_counter_and_a_power_the_counter_counts():
    found = calibrate("GPU-1", Meter(joules(104.0 * 100, 1.0)), run_of({GPU_W: 50.0, GPU: 100.0}))
    assert found.gain == pytest.approx(1.04)


def test_a_run_without_the_board_is_refused():
    with pytest.raises(UsageError, match="readings or more of GPU-2"):
        calibrate("GPU-2", Meter(joules(1e4)), run_of({GPU: 100.0}))
    with pytest.raises(UsageError, match="GPU-1"):
        calibrate("GPU-1", Meter(joules(1e4)), run_of({GPU: float("nan")}))


def test_a_difference_that_is_none_is_refused():
    run, idle = run_of({GPU: 60.0}), run_of({GPU: 60.0}, name="idle")
    with pytest.raises(UsageError, match="than in the baseline"):
        calibrate("GPU-1", Meter(joules(1e4), joules(1e4)), run, idle)
