"""Opening every source: what is there is used, what is not is said, nothing raises."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ergometry import sensors
from ergometry.core.ports import Availability

PACKAGE = {"intel-rapl:0": ("package-0", 5_000_000)}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """This machine's own boards, if any, are no part of these tests."""
    monkeypatch.setattr(sensors, "open_nvml", lambda: (None, Availability("nvml", False, "not asked", "none")))


def test_rapl_makes_the_model_needless(powercap, procfs):
    opened, found = sensors.open_sensors(powercap(PACKAGE), procfs.root)
    assert [s.source for s in opened] == ["rapl"]
    assert [(a.source, a.present) for a in found] == [("rapl", True), ("nvml", False)]


def test_the_model_stands_in_where_there_is_no_rapl(tmp_path, procfs):
    opened, found = sensors.open_sensors(tmp_path, procfs.root)
    assert [s.source for s in opened] == ["cpu_model"]
    assert [(a.source, a.present) for a in found] == [("rapl", False), ("nvml", False), ("cpu_model", True)]
    assert "no RAPL package can be read" in found[2].why
    assert all(a.why for a in found if not a.present)
    assert all(a.remedy for a in found if not a.present)


def test_unreadable_rapl_is_said_and_the_cpu_modelled(powercap, procfs, monkeypatch):
    root, real = powercap(PACKAGE), os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    opened, found = sensors.open_sensors(root, procfs.root)
    assert [s.source for s in opened] == ["cpu_model"]
    assert str(root / "class/powercap/intel-rapl:0/energy_uj") in found[0].why
    assert "permission" in found[0].why  # what the recorder looks for


def test_memory_alone_leaves_the_cpu_to_the_model(powercap, procfs):
    root = powercap(PACKAGE | {"intel-rapl:0:0": ("dram", 2_000_000)})
    (root / "class/powercap/intel-rapl:0/energy_uj").write_text("broken")
    opened, _ = sensors.open_sensors(root, procfs.root)
    assert [s.domain for sensor in opened for s in sensor.signals] == ["node0/dram0", "node0/cpu"]


def test_sysfs_comes_from_the_environment(powercap, procfs, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_SYSFS", str(powercap(PACKAGE)))
    opened, _ = sensors.open_sensors(proc=procfs.root)
    assert opened[0].read(0.0) == (5.0,)


def test_nothing_at_all(tmp_path):
    opened, found = sensors.open_sensors(tmp_path, tmp_path)
    assert opened == []
    assert not any(a.present for a in found)


def test_whatever_a_vendor_throws_is_an_absence(tmp_path, procfs, monkeypatch):
    def explode():
        raise RuntimeError("the library is broken")

    monkeypatch.setattr(sensors, "open_nvml", explode)
    opened, found = sensors.open_sensors(tmp_path, procfs.root)
    assert [s.source for s in opened] == ["cpu_model"]
    assert "the library is broken" in next(a for a in found if a.source == "nvml").why


def test_every_sensor_keeps_the_ports_promise(powercap, procfs):
    opened, _ = sensors.open_sensors(powercap(PACKAGE), procfs.root)
    opened += sensors.open_sensors(procfs.root, procfs.root)[0]
    assert len(opened) == 2
    for sensor in opened:
        assert len(sensor.read(0.0)) == len(sensor.signals)
        assert all(signal.method for signal in sensor.signals)
        sensor.close()


def test_importing_the_sensors_brings_in_the_standard_library_only():
    code = (
        "import sys; before = set(sys.modules); import ergometry.sensors, ergometry.sensors.proc;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "print(*sorted(new))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["ergometry"]
