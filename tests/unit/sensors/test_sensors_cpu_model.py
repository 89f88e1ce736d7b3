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

from ergometry.core.ports import Machine
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
    Part,
    model_power,
    open_cpu_model,
    open_package_models,
)
from ergometry.sensors.load import MachineLoad
from ergometry.sensors.proc import Processors

BARE = Processors("Fake CPU", 8, 4.0, 1, 2.0, False)
FULL_W = WATT_PER_CORE_GHZ * 4 * 2.0
ROOT = Path(__file__).resolve().parents[3]


def machine(procfs, environ=None) -> Machine:
    return Machine(procfs.root.parent / "sys", procfs.root, environ or {})


def opened(procfs, environ=None) -> CpuModel:
    sensor, availability = open_cpu_model(machine(procfs, environ))
    assert sensor is not None, availability
    return sensor


def contained(procfs, quota_us: int, usage_us: int = 0) -> Path:
    """Put the process into a container of control groups version 2, and return its folder."""
    (procfs.root / "self").mkdir(exist_ok=True)
    (procfs.root / "self/cgroup").write_text("0::/\n")
    folder = procfs.root.parent / "sys/fs/cgroup"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{quota_us} 100000\n")
    (folder / "cpu.stat").write_text(f"usage_usec {usage_us}\nuser_usec 1\n")
    return folder


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
    sensor = CpuModel([Part("node0/cpu", model, MachineLoad(stat, 8))])
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
    assert joules == pytest.approx(sensor.parts[0].model.power_w(0.5), rel=0.03)


def test_time_that_the_host_stole_was_wanted_and_is_load(procfs):
    sensor = opened(procfs)
    sensor.read(0.0)
    (procfs.root / "stat").write_text("cpu  300 0 0 500 0 0 0 200 0 0\n")
    assert sensor.read(10.0)[0] == pytest.approx(10 * sensor.parts[0].model.power_w(0.5))


def test_a_guess_of_the_load_that_proves_high_is_waited_out(procfs):
    sensor = opened(procfs)
    sensor.read(0.0)
    procfs.jiffies(busy=80, idle=0)
    sensor.read(0.1)
    guessed = sensor.read(0.15)[0]  # no tick since: the last load is taken to go on
    assert guessed == pytest.approx(0.15 * FULL_W)
    procfs.jiffies(busy=80, idle=40)
    assert sensor.read(0.16)[0] == guessed


def test_the_signal_is_modelled_and_says_so(procfs):
    (signal,) = opened(procfs).signals
    assert (signal.domain, signal.quantity, signal.provenance) == ("node0/cpu", "energy_j", "modelled")
    assert signal.rel_stderr == pytest.approx(math.hypot(REL_STDERR, TDP_LOG_SD["few"]))
    assert signal.static_rel_stderr == pytest.approx(math.hypot(IDLE_REL_STDERR, TDP_LOG_SD["few"]))
    assert signal.resolution_j == pytest.approx(FULL_W * (1 - IDLE_SHARE) / 8 / os.sysconf("SC_CLK_TCK"))
    assert "leave-one-machine-out" in signal.method
    assert "the whole machine, by /proc/stat" in signal.method


def test_a_virtual_machine_is_a_share_of_its_host(procfs):
    procfs.processors(threads=8, cores=8, mhz=3000, flags="fpu hypervisor")
    sensor = opened(procfs)
    assert sensor.parts[0].model.full_w == pytest.approx(4 * TDP_W_PER_CORE["many"])
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
    _, nonsense = open_cpu_model(machine(procfs, {TDP_VARIABLE: "much"}))
    assert "'much'" in nonsense.why
    assert TDP_VARIABLE in nonsense.remedy
    _, stated = open_cpu_model(machine(procfs, {TDP_VARIABLE: "65"}))
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
    assert energy.value == pytest.approx(5 * sensor.parts[0].model.power_w(0.5))
    assert energy.stderr is not None
    assert energy.stderr / energy.value == pytest.approx(REL_STDERR, rel=0.01)
    assert str(energy.provenance) == "modelled"


def test_no_proc_stat(tmp_path):
    sensor, availability = open_cpu_model(Machine(tmp_path, tmp_path, {}))
    assert sensor is None
    assert not availability.present
    assert str(tmp_path / "stat") in availability.why
    assert "Linux" in availability.remedy


def test_close_twice(procfs):
    sensor = opened(procfs)
    sensor.close()
    sensor.close()
    assert math.isnan(sensor.read(0.0)[0])


def test_a_container_is_the_share_that_its_limit_allows(procfs):
    """2 of 8 CPUs: a quarter of the machine's power, at the load of the container and not of the machine."""
    folder = contained(procfs, quota_us=200_000)
    sensor = opened(procfs, {TDP_VARIABLE: "500"})
    sensor.read(0.0)
    procfs.jiffies(busy=100, idle=7900)
    (folder / "cpu.stat").write_text(f"usage_usec {int(10e6)}\n")  # 10 s of the 20 s that 10 s allow
    whole = model_power(BARE, "500")
    assert sensor.read(10.0)[0] == pytest.approx(10 * whole.power_w(0.5) / 4)
    (signal,) = sensor.signals
    assert signal.static_w == pytest.approx(whole.idle_w / 4)
    assert signal.rel_stderr == REL_STDERR
    assert "share of a host: 2 of 8 CPUs by the container's limit" in signal.method
    assert "/proc/stat" not in signal.method


def test_a_container_never_has_more_than_its_limit(procfs):
    folder = contained(procfs, quota_us=150_000)
    sensor = opened(procfs)
    sensor.read(0.0)
    (folder / "cpu.stat").write_text("usage_usec 99000000\n")  # a burst
    assert sensor.read(1.0)[0] == pytest.approx(FULL_W * 1.5 / 8)


def test_a_limit_as_large_as_the_machine_is_none(procfs):
    contained(procfs, quota_us=800_000)
    assert "the whole machine" in opened(procfs).signals[0].method


def test_a_container_in_a_virtual_machine_is_a_share_of_a_share(procfs):
    procfs.processors(threads=8, cores=8, mhz=3000, flags="fpu hypervisor")
    contained(procfs, quota_us=400_000)
    sensor = opened(procfs)
    assert sensor.parts[0].model.full_w == pytest.approx(2 * TDP_W_PER_CORE["many"])
    assert "share of a virtual machine: 4 of 8 vCPUs by the container's limit" in sensor.signals[0].method


def test_where_the_containers_use_cannot_be_read_the_machines_load_stands_for_it(procfs):
    folder = contained(procfs, quota_us=200_000)
    (folder / "cpu.stat").unlink()
    sensor = opened(procfs)
    sensor.read(0.0)
    procfs.jiffies(busy=8000, idle=0)
    assert sensor.read(10.0)[0] == pytest.approx(10 * FULL_W / 4)


def test_the_containers_use_that_fails_for_a_while_is_carried(procfs):
    folder = contained(procfs, quota_us=200_000)
    sensor = opened(procfs)
    sensor.read(0.0)
    (folder / "cpu.stat").write_text("")
    assert math.isnan(sensor.read(5.0)[0])
    (folder / "cpu.stat").write_text("usage_usec 20000000\n")
    assert sensor.read(10.0)[0] == pytest.approx(10 * FULL_W / 4)


def stat_of_each(procfs, *ticks: tuple[int, int]) -> None:
    lines = [f"cpu{i} {busy} 0 0 {idle} 0 0 0 0 0 0" for i, (busy, idle) in enumerate(ticks)]
    total = [sum(column) for column in zip(*ticks, strict=True)]
    (procfs.root / "stat").write_text("\n".join([f"cpu  {total[0]} 0 0 {total[1]}", *lines, "intr 7 8 9", ""]))


def test_one_package_is_modelled_by_the_load_of_its_own_processors(procfs):
    procfs.processors(threads=4, cores=4, sockets=2, mhz=2000)  # CPUs 0 and 2 in package 0, 1 and 3 in package 1
    stat_of_each(procfs, *[(0, 0)] * 4)
    sensor, availability = open_package_models(machine(procfs, {TDP_VARIABLE: "500"}), [1])
    assert sensor is not None
    assert availability.present
    assert [signal.domain for signal in sensor.signals] == ["node0/package1"]
    sensor.read(0.0)
    stat_of_each(procfs, (1000, 0), (500, 500), (1000, 0), (500, 500))
    half = model_power(Processors("p", 4, 4.0, 2, 2.0, False), "500").power_w(0.5) / 2
    assert sensor.read(10.0)[0] == pytest.approx(10 * half)
    sensor.close()


def test_the_packages_together_are_the_machine(procfs):
    procfs.processors(threads=8, cores=4, sockets=2)
    stat_of_each(procfs, *[(0, 0)] * 8)
    both, _ = open_package_models(machine(procfs), [0, 1])
    whole = opened(procfs)
    assert both is not None
    both.read(0.0), whole.read(0.0)
    stat_of_each(procfs, *[(300, 700)] * 8)
    assert sum(both.read(10.0)) == pytest.approx(whole.read(10.0)[0])


def test_a_package_that_is_not_there_is_said(procfs):
    sensor, availability = open_package_models(machine(procfs), [7])
    assert sensor is None
    assert not availability.present
    assert availability.why.endswith(": 7")
    (procfs.root / "stat").unlink()
    sensor, availability = open_package_models(machine(procfs), [0])
    assert sensor is None
    assert str(procfs.root / "stat") in availability.why


def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_fallback", ROOT / "benchmarks/fallback.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (module.DATA / "cpu_load_rapl").is_dir():
        pytest.skip(f"the public load sweeps are not at {module.DATA / 'cpu_load_rapl'}")
    return module


def test_constants_are_the_fit(capsys):
    assert benchmark().main() == 0, capsys.readouterr().out


def test_a_constant_that_is_not_the_fit_fails_the_benchmark(monkeypatch, capsys):
    bench = benchmark()
    monkeypatch.setattr(bench.cpu_model, "WATT_PER_CORE_GHZ", 3.2)
    assert bench.main() == 1
    assert capsys.readouterr().out.count("differs") == 1


def test_machines_not_fitted_on_are_within_the_error():
    bench = benchmark()
    sweep = bench.read_sweeps()
    predicted = bench.held_out(sweep.base_clock(), bench.SIZE, bench.TDP_W)
    assert np.median(np.abs(predicted / sweep.power_w - 1)) < 0.15
    inside = bench.covered(sweep, predicted, REL_STDERR)
    assert 0.8 < np.mean(inside) < 0.97
    for number in range(len(bench.MACHINES)):
        assert np.mean(inside[sweep.machine == number]) > 0.75
