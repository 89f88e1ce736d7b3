"""The modelled CPU: known load gives known energy, and the error holds the truth."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.trace import Trace
from ergometry.sensors.cpu_model import (
    IDLE_REL_STDERR,
    IDLE_SHARE,
    REL_STDERR,
    TDP_LOG_SD,
    TDP_VARIABLE,
    TDP_W_PER_CORE,
    WATT_PER_CORE_GHZ,
    CpuModel,
    jiffies,
    model_power,
    open_cpu_model,
)
from ergometry.sensors.proc import Processors

BARE = Processors("Fake CPU", 8, 4.0, 1, 2.0, False)
FULL_W = WATT_PER_CORE_GHZ * 4 * 2.0
ROOT = Path(__file__).resolve().parents[3]


def opened(procfs, environ=None) -> CpuModel:
    sensor, availability = open_cpu_model(procfs.root, environ=environ or {})
    assert sensor is not None, availability
    return sensor


def test_the_first_reading_is_zero_and_idle_costs_idle_power(procfs):
    procfs.jiffies(busy=1000, idle=5000)
    sensor = opened(procfs)
    assert sensor.read(100.0) == (0.0,)
    procfs.jiffies(busy=1000, idle=13000)
    assert sensor.read(110.0)[0] == pytest.approx(10 * IDLE_SHARE * FULL_W)
    assert sensor.signals[0].static_w == pytest.approx(IDLE_SHARE * FULL_W)


def test_full_load_costs_full_power_and_half_load_three_quarters_of_the_rest(procfs):
    sensor = opened(procfs)
    sensor.read(0.0)
    procfs.jiffies(busy=8000, idle=0)
    full_j = sensor.read(10.0)[0]
    assert full_j == pytest.approx(10 * FULL_W)
    procfs.jiffies(busy=12000, idle=4000)
    half_w = FULL_W * (IDLE_SHARE + 0.75 * (1 - IDLE_SHARE))
    assert sensor.read(20.0)[0] - full_j == pytest.approx(10 * half_w)


def test_energy_at_steady_load_does_not_depend_on_how_often_it_is_read(procfs):
    often, rarely = opened(procfs), opened(procfs)
    often.read(0.0), rarely.read(0.0)
    for i in range(1, 101):
        procfs.jiffies(busy=6 * i, idle=2 * i)
        last = often.read(0.01 * i)[0]
    assert last == pytest.approx(rarely.read(1.0)[0])


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80), st.floats(0.001, 2.0)), min_size=1, max_size=30))
def test_the_counter_never_falls_nor_exceeds_full_power(tmp_path_factory, steps):
    stat = tmp_path_factory.mktemp("proc") / "stat"
    stat.write_text("cpu 0 0 0 0\n")
    model = model_power(BARE)
    sensor = CpuModel(model, stat, 8)
    now = busy = idle = 0.0
    readings = [sensor.read(now)[0]]
    for more_busy, more_idle, seconds in steps:
        busy, idle, now = busy + more_busy, idle + more_idle, now + seconds
        stat.write_text(f"cpu {int(busy)} 0 0 {int(idle)}\n")
        readings.append(sensor.read(now)[0])
    sensor.close()
    assert all(b >= a for a, b in itertools.pairwise(readings))
    assert readings[-1] <= now * model.full_w * (1 + 1e-9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_power_rises_with_load(a, b):
    model = model_power(BARE)
    low, high = sorted((a, b))
    assert model.idle_w <= model.power_w(low) <= model.power_w(high) <= model.full_w * (1 + 1e-12)


def test_a_failed_read_is_nan_and_its_time_is_carried(procfs, monkeypatch):
    sensor = opened(procfs)
    sensor.read(0.0)
    (procfs.root / "stat").write_text("")
    assert math.isnan(sensor.read(5.0)[0])
    procfs.jiffies(busy=8000, idle=0)
    assert sensor.read(10.0)[0] == pytest.approx(10 * FULL_W)


def test_jiffies_that_step_back_are_no_negative_load(procfs):
    procfs.jiffies(busy=100, idle=100)
    sensor = opened(procfs)
    sensor.read(0.0)
    procfs.jiffies(busy=90, idle=200)
    idle_j = sensor.read(1.0)[0]
    assert idle_j == pytest.approx(IDLE_SHARE * FULL_W)
    procfs.jiffies(busy=40, idle=150)
    assert sensor.read(2.0)[0] == pytest.approx(2 * idle_j)


def test_load_is_no_finer_than_the_ticks_it_is_counted_in(procfs):
    """Every other tick busy is half load, though each tick alone is busy or idle."""
    sensor = opened(procfs)
    sensor.read(0.0)
    for i in range(1, 101):
        procfs.jiffies(busy=i // 2, idle=i - i // 2)
        joules = sensor.read(0.01 * i)[0]
    assert joules == pytest.approx(sensor.model.power_w(0.5), rel=0.03)


def test_a_guess_of_the_load_that_proves_high_is_waited_out(procfs):
    sensor = opened(procfs)
    sensor.read(0.0)
    procfs.jiffies(busy=80, idle=0)
    sensor.read(0.1)
    guessed = sensor.read(0.15)[0]  # no tick since: the last load is taken to go on
    assert guessed == pytest.approx(0.15 * FULL_W)
    procfs.jiffies(busy=80, idle=40)
    assert sensor.read(0.16)[0] == guessed


def test_busy_and_idle_as_the_kernel_counts_them():
    assert jiffies(b"cpu  1 2 4 8 16 32 64 128 256 512\ncpu0 9\n") == (1 + 2 + 4 + 32 + 64 + 128, 255)
    assert jiffies(b"cpu  1 2 4 8\n") == (7, 15)
    with pytest.raises(ValueError, match="expected the line"):
        jiffies(b"cpu0 1 2 3 4\n")


def test_the_signal_is_modelled_and_says_so(procfs):
    (signal,) = opened(procfs).signals
    assert (signal.domain, signal.quantity, signal.provenance) == ("node0/cpu", "energy_j", "modelled")
    assert signal.rel_stderr == pytest.approx(math.hypot(REL_STDERR, TDP_LOG_SD["few"]))
    assert signal.static_rel_stderr == pytest.approx(math.hypot(IDLE_REL_STDERR, TDP_LOG_SD["few"]))
    assert signal.resolution_j == pytest.approx(FULL_W * (1 - IDLE_SHARE) / 8 / os.sysconf("SC_CLK_TCK"))
    assert "leave-one-machine-out" in signal.method
    assert "vCPU" not in signal.method


def test_a_virtual_machine_is_a_share_of_its_host(procfs):
    procfs.processors(threads=8, cores=8, mhz=3000, flags="fpu hypervisor")
    sensor = opened(procfs)
    assert sensor.model.full_w == pytest.approx(4 * TDP_W_PER_CORE["many"])
    assert "a share of a host by vCPUs" in sensor.signals[0].method


def test_vcpus_add():
    small = model_power(Processors("v", 4, 2.0, 1, 2.6, True))
    large = model_power(Processors("v", 16, 8.0, 1, 2.6, True))
    assert large.power_w(0.3) == pytest.approx(4 * small.power_w(0.3))


@pytest.mark.parametrize(
    ("tdp", "sockets", "virtual", "full_w"),
    [
        ("16", 1, False, 16.0),  # caps κ · 4 cores · 2 GHz = 25 W
        ("500", 1, False, FULL_W),
        ("8", 2, False, 16.0),
        ("64/16", 2, False, 16.0),
        ("64/16", 1, True, 16.0),
        ("16", 1, True, 16.0),
    ],
)
def test_a_stated_tdp_bounds_power_and_narrows_the_error(tdp, sockets, virtual, full_w):
    model = model_power(Processors("p", 8, 4.0, sockets, 2.0, virtual), tdp)
    assert model.full_w == pytest.approx(full_w)
    assert model.rel_stderr == REL_STDERR
    assert model.idle_rel_stderr == IDLE_REL_STDERR
    assert "stated" in model.method


@pytest.mark.parametrize("tdp", ["", "much", "-5", "0", "nan", "inf", "280/0", "280/x", "1e400"])
def test_nonsense_is_no_tdp(tdp):
    assert model_power(BARE, tdp) == model_power(BARE)


def test_nonsense_is_told_and_a_statement_needs_no_remedy(procfs):
    _, nonsense = open_cpu_model(procfs.root, environ={TDP_VARIABLE: "much"})
    assert "'much'" in nonsense.why
    assert TDP_VARIABLE in nonsense.remedy
    _, stated = open_cpu_model(procfs.root, environ={TDP_VARIABLE: "65"})
    assert stated.remedy == ""
    assert "TDP 65 W stated" in stated.why


def test_without_a_base_clock_full_power_is_tdp():
    arm = Processors("arm", 64, 64.0, 1, None, False)
    assert model_power(arm).full_w == pytest.approx(64 * TDP_W_PER_CORE["many"])
    assert model_power(arm, "250").full_w == 250.0


def test_a_window_of_a_trace_carries_the_models_error(procfs):
    sensor = opened(procfs, {TDP_VARIABLE: "65"})
    readings = []
    for i in range(11):
        procfs.jiffies(busy=400 * i, idle=400 * i)
        readings.append(sensor.read(float(i))[0])
    energy = Trace.from_samples(np.arange(11.0), readings, sensor.signals[0]).energy(2.0, 7.0)
    assert energy.value == pytest.approx(5 * sensor.model.power_w(0.5))
    assert energy.stderr is not None
    assert energy.stderr / energy.value == pytest.approx(REL_STDERR, rel=0.01)
    assert str(energy.provenance) == "modelled"


def test_no_proc_stat(tmp_path):
    sensor, availability = open_cpu_model(tmp_path, environ={})
    assert sensor is None
    assert not availability.present
    assert str(tmp_path / "stat") in availability.why
    assert "Linux" in availability.remedy


def test_close_twice(procfs):
    sensor = opened(procfs)
    sensor.close()
    sensor.close()
    assert math.isnan(sensor.read(0.0)[0])


def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_cpu_model", ROOT / "benchmarks/cpu_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (module.DATA / "cpu_load_rapl").is_dir():
        pytest.skip(f"the public load sweeps are not at {module.DATA / 'cpu_load_rapl'}")
    return module


def test_constants_are_the_fit(capsys):
    assert benchmark().main() == 0, capsys.readouterr().out


def test_machines_not_fitted_on_are_within_the_error():
    bench = benchmark()
    sweep = bench.read_sweeps()
    cores, _, ghz, tdp_w = np.array(list(bench.MACHINES.values())).T
    predicted = bench.held_out(sweep, cores * ghz, tdp_w)
    assert np.median(np.abs(predicted / sweep.power_w - 1)) < 0.15
    inside = np.abs(sweep.power_w - predicted) <= 1.645 * REL_STDERR * predicted
    assert 0.85 < np.mean(inside) < 0.97
    for machine in range(len(bench.MACHINES)):
        assert np.mean(inside[sweep.machine == machine]) > 0.75
