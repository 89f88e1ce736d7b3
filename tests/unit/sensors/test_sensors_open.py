"""Opening every source: what is there is used, what is not is said, nothing raises."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ergometry import sensors
from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.ports import Availability, Machine, OpenSource

PACKAGE = {"intel-rapl:0": ("package-0", 5_000_000)}
TWO = {
    "intel-rapl:0": ("package-0", 5_000_000),
    "intel-rapl:0:0": ("dram", 2_000_000),
    "intel-rapl:1": ("package-1", 7_000_000),
    "intel-rapl:1:0": ("dram", 3_000_000),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """This machine's own boards, if any, are no part of these tests."""
    monkeypatch.setitem(sensors.SOURCES, "nvml", lambda machine: (None, Availability("nvml", False, "not asked", "-")))


@pytest.fixture
def closing():
    """Close what a test has opened."""
    opened: list[OpenSource] = []
    yield opened.extend
    for source in opened:
        source.sensor.close()


def domains(opened: list[OpenSource]) -> list[str]:
    return [signal.domain for source in opened for signal in source.signals]


def deny(monkeypatch: pytest.MonkeyPatch, *zones: str) -> None:
    """Refuse to open the counters of some zones, as the kernel does to all but root (as which tests may run)."""
    real = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("energy_uj") and Path(path).parent.name in zones:
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)


def test_rapl_makes_the_model_of_the_processors_needless(powercap, procfs, closing):
    opened, found = sensors.open_sensors(Machine(powercap(PACKAGE), procfs.root, {}))
    closing(opened)
    assert opened[0].sensor.source == "rapl"
    assert "cpu_model" not in [a.source for a in found]
    assert [a.source for a in found][: len(sensors.SOURCES)] == list(sensors.SOURCES)


def test_the_model_stands_in_where_there_is_no_rapl(tmp_path, procfs, closing):
    opened, found = sensors.open_sensors(Machine(tmp_path, procfs.root, {}))
    closing(opened)
    assert "cpu_model" in [source.sensor.source for source in opened]
    assert all(a.why for a in found if not a.present)
    assert all(a.remedy for a in found if not a.present)


def test_unreadable_rapl_is_said_and_the_cpu_modelled(powercap, procfs, monkeypatch, closing):
    root = powercap(PACKAGE)
    deny(monkeypatch, *PACKAGE)
    opened, found = sensors.open_sensors(Machine(root, procfs.root, {}))
    closing(opened)
    assert "node0/cpu" in domains(opened)
    assert str(root / "class/powercap/intel-rapl:0/energy_uj") in found[0].why
    assert "permission" in found[0].why  # what the recorder looks for


def test_one_unreadable_package_of_two_is_modelled_and_not_silently_missing(powercap, procfs, monkeypatch, closing):
    root = powercap(TWO)
    deny(monkeypatch, "intel-rapl:1")
    machine = Machine(root, procfs.root, {})
    opened, found = sensors.open_sensors(machine)
    closing(opened)
    by_domain = {signal.domain: signal for source in opened for signal in source.signals}
    assert {"node0/package0", "node0/package1", "node0/dram0", "node0/dram1"} <= set(by_domain)
    assert "node0/cpu" not in by_domain
    assert_disjoint(cover({Domain(path): None for path in by_domain}))
    part = by_domain["node0/package1"]
    assert part.provenance == "modelled"
    assert by_domain["node0/package0"].provenance == "measured"
    whole, _ = sensors.MODELS["cpu_model"][0](machine)
    assert whole is not None
    closing([OpenSource(whole, (), sensors.MODELS["cpu_model"][0])])
    # Half of the machine's, ± what not knowing the split of the load adds: √(1/3).
    assert part.rel_stderr == pytest.approx(math.hypot(whole.signals[0].rel_stderr, math.sqrt(1 / 3)))
    (source,) = [source for source in opened if source.sensor.source == "cpu_model"]
    for now_s, busy, idle in ((0.0, 0, 0), (10.0, 4000, 4000)):
        procfs.jiffies(busy, idle)
        (value,), of_all = source.sensor.read(now_s), whole.read(now_s)[0]
        assert value == pytest.approx(of_all / 2)
    assert value > 0
    said = next(a for a in found if a.source == "rapl")
    assert str(root / "class/powercap/intel-rapl:1/energy_uj") in said.why
    assert "modelled instead: node0/package1" in said.why
    assert "udev" in said.remedy
    assert "node0/package1" in next(a for a in found if a.source == "cpu_model").why


def test_an_unreadable_package_is_modelled_by_its_own_load_where_the_machine_tells_it(
    powercap, procfs, monkeypatch, closing
):
    root = powercap(TWO)
    deny(monkeypatch, "intel-rapl:1")
    procfs.processors(threads=8, cores=8, sockets=2)
    opened, found = sensors.open_sensors(Machine(root, procfs.root, {}))
    closing(opened)
    (source,) = [source for source in opened if source.sensor.source == "cpu_model"]
    assert [signal.domain for signal in source.signals] == ["node0/package1"]
    assert "equal parts" not in source.signals[0].method
    assert "stands for node0/package1" in next(a for a in found if a.source == "cpu_model").why


def test_unreadable_memory_of_one_package_is_modelled_too(powercap, procfs, monkeypatch, closing):
    root = powercap(TWO)
    deny(monkeypatch, "intel-rapl:1:0")
    (procfs.root / "meminfo").write_text("MemTotal:       65842164 kB\n")
    machine = Machine(root, procfs.root, {})
    opened, _ = sensors.open_sensors(machine)
    closing(opened)
    by_domain = {signal.domain: signal for source in opened for signal in source.signals}
    assert sorted(by_domain) == ["node0/dram0", "node0/dram1", "node0/package0", "node0/package1"]
    assert by_domain["node0/dram1"].provenance == "modelled"
    whole, _ = sensors.MODELS["memory_model"][0](machine)
    assert whole is not None
    (source,) = [source for source in opened if source.sensor.source == "memory_model"]
    for now_s in (0.0, 100.0):
        assert source.sensor.read(now_s)[0] == pytest.approx(whole.read(now_s)[0] / 2)
    assert source.sensor.read(100.0)[0] > 0


def test_the_part_that_stands_in_can_be_opened_again(powercap, procfs, monkeypatch, closing):
    root = powercap(TWO)
    deny(monkeypatch, "intel-rapl:1")
    machine = Machine(root, procfs.root, {})
    opened, _ = sensors.open_sensors(machine)
    closing(opened)
    (source,) = [source for source in opened if source.sensor.source == "cpu_model"]
    again, _ = source.open(machine)
    assert again is not None
    closing([OpenSource(again, (), source.open)])
    assert [signal.domain for signal in again.signals] == ["node0/package1"]


def test_memory_alone_leaves_the_cpu_to_the_model(powercap, procfs, closing):
    root = powercap(PACKAGE | {"intel-rapl:0:0": ("dram", 2_000_000)})
    (root / "class/powercap/intel-rapl:0/energy_uj").write_text("broken")
    opened, _ = sensors.open_sensors(Machine(root, procfs.root, {}))
    closing(opened)
    assert domains(opened) == ["node0/dram0", "node0/cpu"]


def test_a_model_named_beside_a_reading_is_a_second_opinion_that_no_sum_adds(powercap, procfs, closing):
    opened, _ = sensors.open_sensors(Machine(powercap(TWO), procfs.root, {sensors.SELECTION: "rapl, cpu_model"}))
    closing(opened)
    assert [source.sensor.source for source in opened] == ["rapl", "cpu_model"]
    assert domains(opened)[-1] == "node0/package0/cpu"
    kept = cover({Domain(path): None for path in domains(opened)})
    assert sorted(map(str, kept)) == ["node0/dram0", "node0/dram1", "node0/package0", "node0/package1"]


def test_only_the_sources_named_are_looked_for_and_a_wrong_name_is_said(powercap, procfs, closing):
    opened, found = sensors.open_sensors(Machine(powercap(PACKAGE), procfs.root, {sensors.SELECTION: "rapl,rapple"}))
    closing(opened)
    assert [source.sensor.source for source in opened] == ["rapl"]
    assert [(a.source, a.present) for a in found] == [("rapple", False), ("rapl", True)]
    assert "rapl" in found[0].remedy


def test_sysfs_comes_from_the_environment(powercap, monkeypatch, closing):
    monkeypatch.setenv("ERGOMETRY_SYSFS", str(powercap(PACKAGE)))
    opened, _ = sensors.open_sensors()
    closing(opened)
    assert opened[0].sensor.read(0.0) == (5.0,)


def test_nothing_at_all(tmp_path):
    opened, found = sensors.open_sensors(Machine(tmp_path / "sys", tmp_path / "proc", {}))
    assert opened == []
    assert not any(a.present for a in found)


def test_whatever_a_vendor_throws_is_an_absence(tmp_path, procfs, monkeypatch, closing):
    def explode(machine):
        raise RuntimeError("the library is broken")

    monkeypatch.setitem(sensors.SOURCES, "nvml", explode)
    opened, found = sensors.open_sensors(Machine(tmp_path, procfs.root, {}))
    closing(opened)
    assert opened
    assert "the library is broken" in next(a for a in found if a.source == "nvml").why


def test_importing_the_sensors_brings_in_the_standard_library_only():
    code = (
        "import sys; before = set(sys.modules); import ergometry.sensors, ergometry.sensors.proc;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "print(*sorted(new))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["ergometry"]


def test_a_driver_that_hangs_while_it_is_opened_keeps_no_other_source_from_being_read(powercap, procfs, monkeypatch):
    never = threading.Event()
    monkeypatch.setitem(sensors.SOURCES, "nvml", lambda machine: (never.wait(), None)[1])
    monkeypatch.setattr(sensors, "PATIENCE_S", 0.05)
    opened, found = sensors.open_sensors(Machine(powercap(PACKAGE), procfs.root, {}))
    never.set()
    assert "rapl" in [source.sensor.source for source in opened]
    (nvml,) = (a for a in found if a.source == "nvml")
    assert not nvml.present
    assert "no answer" in nvml.why
    assert "hangs" in nvml.remedy
