"""Bugs that other tools have had, each with its test here (the list at the end of the issue's sensor facts)."""

from __future__ import annotations

import ast
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ergometry
from ergometry.core.domain import Domain, cover
from ergometry.core.ports import Machine, Signal
from ergometry.core.run import Run, SampleTable, Table
from ergometry.core.trace import Trace, unwrap
from ergometry.sensors import amdgpu, open_sensors, tree
from ergometry.sensors.cpu_model import model_power
from ergometry.sensors.nvml import Nvml
from ergometry.sensors.proc import Processors
from ergometry.sensors.rapl import open_rapl
from ergometry.store.reader import load
from ergometry.work.attribution import accounts
from support.fake_nvml.binding import FakeBinding, counting
from support.machines import machine, put
from support.stored import store_run
from support.synthetic import MODELLED, synthetic_run

WRAP_J = 262_143.328850
PACKAGE = Signal(
    "node0/package0",
    "energy_j",
    "measured",
    "RAPL",
    resolution_j=61e-6,
    update_period_s=1e-3,
    wrap_j=WRAP_J,
    max_power_w=2000.0,
)


def zone(root: Path, key: str, name: str, energy_uj: int) -> None:
    files = {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": round(WRAP_J * 1e6)}
    put(root / f"sys/class/powercap/intel-rapl:{key}", files)


def metered(*powers_w: float, kind: str = "gpu", seconds: int = 20) -> Run:
    """Return a run of so many devices, each at its own constant power."""
    base = synthetic_run(steps=10 * seconds, evaluate_every=10**9)
    t = np.arange(0.0, base.duration_s + 1.0)
    signals = tuple(Signal(f"node0/{kind}{k}", "energy_j", "measured", "x") for k in range(len(powers_w)))
    rows = np.column_stack([t, *(1000.0 * k + power_w * t for k, power_w in enumerate(powers_w))])
    columns = ("t_s", *(f"c{k}" for k in range(len(powers_w))))
    return replace(base, samples=(SampleTable("nvml", signals, Table(columns, rows)),))


def test_devices_averaged_instead_of_summed():
    """N boards were reported as 1/N of what they used."""
    run = metered(100.0, 200.0, 300.0, 400.0)
    assert accounts(run).total.value == pytest.approx(1000.0 * run.duration_s)


def test_a_failed_read_taken_for_a_wrap():
    """A read that failed came back as zero, and +209 kJ were counted."""
    energy = 53_000.0 + 50.0 * np.arange(20.0)
    for failed in (math.nan, 0.0, energy[9]):
        readings = energy.copy()
        readings[10] = failed
        spent = Trace.from_samples(np.arange(20.0), readings, PACKAGE).energy(0.0, 19.0)
        assert spent.value == pytest.approx(950.0, rel=0.06)


def test_a_sub_zones_dram_dropped(tmp_path):
    """Memory lies below its package in the tree of zones, and not in the package's energy."""
    zone(tmp_path, "0", "package-0", 5_000_000)
    zone(tmp_path, "0:0", "dram", 2_000_000)
    sensor, _ = open_rapl(machine(tmp_path))
    assert sensor is not None
    readings = zip((Domain(signal.domain) for signal in sensor.signals), sensor.read(0.0), strict=True)
    assert sum(cover(dict(readings)).values()) == 7.0
    sensor.close()


@given(st.floats(0.0, WRAP_J), st.floats(20.0, 400.0), st.integers(2, 120))
def test_a_wrap_counted_by_a_slower_reader(start_j, power_w, every):
    """A child that sampled more slowly met the wrap at another time, and −262 kJ were counted."""
    t = np.arange(0.0, 1200.0 + every)
    counter = (start_j + power_w * t) % WRAP_J
    quick = Trace.from_samples(t, counter, PACKAGE).energy(0.0, 1200.0)
    slow = Trace.from_samples(t[::every], counter[::every], PACKAGE).energy(0.0, 1200.0)
    assert quick.value == pytest.approx(1200.0 * power_w, rel=1e-3)
    assert slow.value == pytest.approx(1200.0 * power_w, rel=1e-3)


def test_psys_taken_for_a_cpu(tmp_path):
    """The platform's counter was added to the packages that it holds."""
    zone(tmp_path, "0", "package-0", 5_000_000)
    zone(tmp_path, "1", "psys", 20_000_000)
    sensor, _ = open_rapl(machine(tmp_path))
    assert sensor is not None
    by_domain = dict(zip((signal.domain for signal in sensor.signals), sensor.read(0.0), strict=True))
    assert by_domain == {"node0/psys": 20.0, "node0/psys/package0": 5.0}
    assert cover({Domain(path): value for path, value in by_domain.items()}) == {Domain("node0/psys"): 20.0}
    sensor.close()


def test_flat_power_deduplicated_and_integrated_to_zero(tmp_path):
    """Readings that did not change were dropped as duplicates, and nothing was left to integrate."""
    signal = Signal("node0/gpu0", "power_w", "measured", "x", update_period_s=0.1, averaging_s=0.1)
    run = synthetic_run(power_w=250.0, signal=signal)
    again = load(store_run(run, tmp_path, commits=5))
    assert len(again.samples[0].table) == len(run.samples[0].table)
    assert accounts(again).total.value == pytest.approx(250.0 * run.duration_s, rel=1e-3)


def test_wall_clock_windows_broken_by_a_clock_step():
    """No clock that someone can set is among what samples and windows are timed by."""
    settable = {"time", "time_ns", "now", "utcnow", "today", "localtime", "CLOCK_REALTIME"}
    package = Path(ergometry.__file__).parent
    used = []
    for room in ("sensors", "meter", "integrations", "core", "work"):
        for file in sorted((package / room).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                named = (
                    isinstance(node, ast.Attribute)
                    and node.attr in settable
                    and isinstance(node.value, ast.Name | ast.Attribute)
                )
                if named and ast.unparse(node.value) in ("time", "datetime", "datetime.datetime", "date"):
                    used.append((f"{room}/{file.name}", ast.unparse(node)))
    assert used == [("meter/client.py", "datetime.datetime.now")]  # when the run began, for people


def test_time_that_runs_backward_is_left_out():
    t = np.array([0.0, 1.0, 2.0, -3600.0, 3.0, 4.0])
    assert Trace.from_samples(t, 100.0 * np.arange(6.0), PACKAGE).gaps == 1


def test_gpu_index_10_parsed_as_1():
    binding = FakeBinding(*(counting(k) for k in range(12)))
    sensor = Nvml(binding, "10,1")
    assert [(signal.domain, signal.device) for signal in sensor.signals] == [
        ("node0/gpu10", "cuda:0"),
        ("node0/gpu1", "cuda:1"),
    ]
    assert sensor.read(0.0)[:2] == (11_000.0, 2_000.0)
    sensor.close()
    assert amdgpu.visible([""] * 12, {"HIP_VISIBLE_DEVICES": "10,1"}) == [10, 1]
    assert not Domain("node0/gpu1").overlaps(Domain("node0/gpu10"))
    signals = [Signal("node0/gpu10", "energy_j", "measured", "x")]
    assert tree.place(signals, ["node0/gpu10", "node0/module1"])[0].domain == "node0/gpu10"


def test_n_ranks_reporting_n_times_the_node(tmp_path):
    """Every rank read the whole node, and their readings were added."""
    run = synthetic_run()
    folder = store_run(run, tmp_path, pid=1)
    for rank in (2, 3, 4):
        shutil.copy(folder / "process-1.sqlite", folder / f"process-{rank}.sqlite")
    assert accounts(load(folder)).total.value == pytest.approx(accounts(run).total.value)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 256), st.booleans())
def test_idle_power_scaled_by_one_less_utilisation(load_a, load_b, threads, virtual):
    """What a machine draws idle it draws under load too: the model rises with load from its idle power."""
    model = model_power(Processors("x", threads, max(threads / 2, 1), 1, 2.0, virtual))
    low, high = sorted((load_a, load_b))
    assert model.idle_w == pytest.approx(model.power_w(0.0))
    assert model.idle_w <= model.power_w(low) * (1 + 1e-12)
    assert model.power_w(low) <= model.power_w(high) * (1 + 1e-12)


def test_static_energy_does_not_depend_on_what_the_run_did():
    for power_w in (8.0, 50.0, 90.0):
        run = synthetic_run(power_w=power_w, signal=MODELLED)
        assert accounts(run).by_component["static"].value == pytest.approx(8.0 * run.duration_s)


def grouped_flops(groups: int) -> tuple[int, int, int]:
    """Return the FLOP of a grouped convolution forward by arithmetic, as counted, and as counted with its backward."""
    torch = pytest.importorskip("torch", reason="FLOPs are counted with torch")
    from ergometry.integrations.counting.mode import CountingMode

    layer = torch.nn.Conv2d(8, 16, 3, groups=groups, bias=False)
    x = torch.zeros(2, 8, 10, 10, requires_grad=True)
    with CountingMode() as counter:
        out = layer(x)
        forward = sum(call.flops for call in counter.calls if call.product)
        out.sum().backward()
    both = sum(call.flops for call in counter.calls if call.product)
    # Each of 2 × 16 × 8 × 8 outputs has 8/groups input channels of 3 × 3: a multiplication and an addition each.
    return 2 * (2 * 16 * 8 * 8) * (8 // groups) * 9, forward, both


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_grouped_convolution_flops_overcounted_by_the_number_of_groups(groups):
    expected, forward, _ = grouped_flops(groups)
    assert forward == expected


@pytest.mark.parametrize("groups", [2, 8])
def test_grouped_convolution_flops_overcounted_on_the_way_back(groups):
    expected, _, both = grouped_flops(groups)
    assert both == 3 * expected  # once forward, once for each of two gradients


@pytest.mark.parametrize(("visible", "hidden"), [("1", [0, 2]), ("", [0, 1, 2]), ("2,0", [1])])
def test_a_board_that_cuda_visible_devices_hides_is_not_read(visible, hidden):
    binding = FakeBinding(*(counting(k) for k in range(3)))
    try:
        sensor = Nvml(binding, visible)
    except Exception:
        assert visible == ""
        return
    sensor.read(0.0)
    sensor.health()
    assert not {signal.domain for signal in sensor.signals} & {f"node0/gpu{k}" for k in hidden}
    hidden_uuids = {binding.devices[k].uuid for k in hidden}
    energy = {"GetTotalEnergyConsumption", "GetPowerUsage", "GetFieldValues"}
    assert not [call for call in binding.calls if call[0] in energy and call[1] in hidden_uuids]
    sensor.close()


def test_counter_differences_modulo_256():
    readings = [10, 15, 45, 255, 0, 10, 3, 2, 2]
    assert np.diff(unwrap(readings, 256)).tolist() == [5, 30, 210, 1, 10, 249, 255, 0]


def test_mirrored_dies_added(tmp_path):
    """Both dies of a Zen package gave the package's counter: 68 W + 68 W were reported for 68 W."""
    zone(tmp_path, "0", "package-0-die-0", 68_000_000)
    zone(tmp_path, "1", "package-0-die-1", 68_000_000)
    sensor, _ = open_rapl(machine(tmp_path))
    assert sensor is not None
    assert [signal.domain for signal in sensor.signals] == ["node0/package0"]
    sensor.close()


def test_a_machine_without_a_sensor_answers_zero(tmp_path):
    """Without a counter, tools said 0 J, or a figure without an error."""
    there = machine(tmp_path)
    opened, found = open_sensors(Machine(there.sysfs, there.proc, {"PATH": ""}))
    processors = [s for source in opened for s in source.signals if s.domain == "node0/cpu"]
    assert [signal.provenance for signal in processors] == ["modelled"]
    assert processors[0].rel_stderr > 0.1
    (source,) = [source for source in opened if source.sensor.source == "cpu_model"]
    assert source.sensor.read(10.0)[0] <= source.sensor.read(20.0)[0] > 0.0
    assert all(a.why and a.remedy for a in found if not a.present)
    for source in opened:
        source.sensor.close()
