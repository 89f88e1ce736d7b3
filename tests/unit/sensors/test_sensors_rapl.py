"""RAPL on fake powercap trees: which joules are whose, and what a failed read does."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.trace import Trace
from ergometry.sensors.rapl import Rapl, find_zones, open_rapl

LAPTOP = {
    "intel-rapl:0": ("package-0", 5_000_000),
    "intel-rapl:0:0": ("core", 3_000_000),
    "intel-rapl:0:1": ("uncore", 1_000_000),
    "intel-rapl:0:2": ("dram", 2_000_000),
}
TWO_SOCKETS = {
    "intel-rapl:0": ("package-0", 5_000_000),
    "intel-rapl:0:0": ("dram", 2_000_000),
    "intel-rapl:1": ("package-1", 7_000_000),
    "intel-rapl:1:0": ("dram", 3_000_000),
}


def opened(root: Path) -> Rapl:
    sensor, availability = open_rapl(root)
    assert sensor is not None, availability
    return sensor


def joules(sensor: Rapl) -> dict[str, float]:
    return dict(zip((s.domain for s in sensor.signals), sensor.read(0.0), strict=True))


def covered_j(sensor: Rapl) -> float:
    outer = cover({Domain(path): value for path, value in joules(sensor).items()})
    assert_disjoint(outer)
    return sum(outer.values())


def test_package_holds_core_and_uncore_and_dram_stands_beside_it(powercap):
    sensor = opened(powercap(LAPTOP))
    assert joules(sensor) == {
        "node0/package0": 5.0,
        "node0/package0/core": 3.0,
        "node0/package0/uncore": 1.0,
        "node0/dram0": 2.0,
    }
    assert covered_j(sensor) == 7.0
    assert sensor.meters_cpu


def test_two_sockets_and_their_memory_add(powercap):
    sensor = opened(powercap(TWO_SOCKETS))
    assert set(joules(sensor)) == {"node0/package0", "node0/package1", "node0/dram0", "node0/dram1"}
    assert covered_j(sensor) == 17.0


def test_psys_holds_packages_and_dram(powercap):
    sensor = opened(powercap(LAPTOP | {"intel-rapl:1": ("psys", 20_000_000)}))
    assert set(joules(sensor)) == {
        "node0/psys",
        "node0/psys/package0",
        "node0/psys/package0/core",
        "node0/psys/package0/uncore",
        "node0/psys/dram0",
    }
    assert covered_j(sensor) == 20.0


def test_a_psys_that_stands_at_zero_hides_nothing(powercap):
    assert covered_j(opened(powercap(LAPTOP | {"intel-rapl:1": ("psys", 0)}))) == 7.0


def test_mmio_repeats_are_skipped(powercap):
    mmio = {"intel-rapl-mmio:0": ("package-0", 5_000_123), "intel-rapl-mmio:0:0": ("dram", 2_000_123)}
    assert joules(opened(powercap(LAPTOP | mmio))) == joules(opened(powercap(LAPTOP)))
    assert covered_j(opened(powercap(LAPTOP | mmio))) == 7.0
    assert not any("mmio" in zone.key for zone in find_zones(powercap(LAPTOP | mmio)))


def test_mmio_is_used_where_it_is_all_there_is(powercap):
    assert joules(opened(powercap({"intel-rapl-mmio:0": ("package-0", 5_000_000)}))) == {"node0/package0": 5.0}


def test_amd_has_package_and_core(powercap):
    root = powercap({"intel-rapl:0": ("package-0", 9_000_000), "intel-rapl:0:0": ("core", 4_000_000)})
    assert joules(opened(root)) == {"node0/package0": 9.0, "node0/package0/core": 4.0}


def test_dies_that_count_apart_add(powercap):
    root = powercap(
        {
            "intel-rapl:0": ("package-0-die-0", 9_000_000),
            "intel-rapl:0:0": ("dram", 1_000_000),
            "intel-rapl:1": ("package-0-die-1", 4_000_000),
        }
    )
    sensor = opened(root)
    assert joules(sensor) == {"node0/package0/die0": 9.0, "node0/package0/die1": 4.0, "node0/dram0/die0": 1.0}
    assert covered_j(sensor) == 14.0


@pytest.mark.parametrize("names", [("package-0", "package-0"), ("package-0-die-0", "package-0-die-1")])
def test_mirrored_dies_are_one(powercap, names):
    root = powercap({"intel-rapl:0": (names[0], 68_000_000), "intel-rapl:1": (names[1], 68_000_061)})
    assert joules(opened(root)) == {"node0/package0": 68.0}


def test_equal_readings_of_two_packages_are_two(powercap):
    root = powercap({"intel-rapl:0": ("package-0", 68_000_000), "intel-rapl:1": ("package-1", 68_000_000)})
    assert covered_j(opened(root)) == 136.0


def test_one_name_with_two_counts_is_two_packages(powercap):
    root = powercap({"intel-rapl:0": ("package-0", 68_000_000), "intel-rapl:1": ("package-0", 90_000_000)})
    assert covered_j(opened(root)) == 158.0


def test_package_ten_is_not_package_one(powercap):
    root = powercap({f"intel-rapl:{i}": (f"package-{i}", (i + 1) * 1_000_000) for i in range(12)})
    assert joules(opened(root)) == {f"node0/package{i}": i + 1.0 for i in range(12)}
    assert covered_j(opened(root)) == 78.0


def test_nested_zones_are_found_too(powercap, tmp_path):
    root = powercap(LAPTOP)
    flat = joules(opened(root))
    folder = root / "class/powercap"
    for part in ("intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:0:2"):
        (folder / part).rename(folder / "intel-rapl:0" / part)
    assert joules(opened(root)) == flat


def test_the_signal_says_how_well(powercap):
    (signal, *_) = opened(powercap(LAPTOP)).signals
    assert (signal.quantity, signal.provenance, signal.device) == ("energy_j", "measured", "")
    assert signal.wrap_j == pytest.approx(262_143.32885)
    assert signal.resolution_j == 61e-6
    assert signal.update_period_s == 1e-3
    assert signal.max_power_w is not None
    assert "package-0" in signal.method


def test_a_wrap_is_carried_and_a_failed_read_is_not_one(powercap):
    """Another tool took a failed read for a wrap: +209 kJ."""
    zone = "intel-rapl:0"
    root = powercap({zone: ("package-0", 262_143_000_000)})
    sensor = opened(root)
    readings = [sensor.read(0.0)[0]]
    file = root / "class/powercap" / zone / "energy_uj"
    for text in ("", "garbage", "100000000", "200000000"):
        file.write_text(text)
        readings.append(sensor.read(0.0)[0])
    assert [math.isnan(x) for x in readings] == [False, True, True, False, False]
    trace = Trace.from_samples(np.arange(5.0), readings, sensor.signals[0])
    assert trace.gaps == 2
    assert trace.e_j[-1] == pytest.approx(0.32885 + 200.0)


def test_a_device_error_is_nan_for_its_signal_only(powercap, monkeypatch):
    sensor = opened(powercap(TWO_SOCKETS))
    real, failing = os.pread, [0]

    def pread(fd: int, n: int, offset: int) -> bytes:
        failing[0] += 1
        if failing[0] == 2:
            raise OSError(5, "Input/output error")
        return real(fd, n, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert [math.isnan(x) for x in sensor.read(0.0)] == [False, True, False, False]


def deny(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """Refuse to open the zones named, as the kernel does to all but root (as which tests may run)."""
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("energy_uj") and Path(path).parent.name in parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)


def test_unreadable_counters_are_named_with_the_remedy(powercap, monkeypatch):
    root = powercap(LAPTOP)
    deny(monkeypatch, *LAPTOP)
    sensor, availability = open_rapl(root)
    assert sensor is None
    assert not availability.present
    assert f"{root / 'class/powercap/intel-rapl:0/energy_uj'} (package-0): permission denied" in availability.why
    assert "modelled" in availability.why
    assert "udev" in availability.remedy
    assert "CVE-2020-8694" in availability.remedy


def test_one_package_readable_is_used_and_the_other_named(powercap, monkeypatch):
    root = powercap(TWO_SOCKETS)
    deny(monkeypatch, "intel-rapl:1")
    sensor, availability = open_rapl(root)
    assert sensor is not None
    assert joules(sensor) == {"node0/package0": 5.0, "node0/dram0": 2.0, "node0/dram1": 3.0}
    assert availability.present
    assert "package-1" in availability.why
    assert "package-0" not in availability.why
    assert availability.remedy


def test_parts_of_an_unreadable_package_would_overlap_its_model(powercap, monkeypatch):
    root = powercap(LAPTOP)
    deny(monkeypatch, "intel-rapl:0")
    sensor, availability = open_rapl(root)
    assert sensor is not None
    assert joules(sensor) == {"node0/dram0": 2.0}
    assert not sensor.meters_cpu
    assert "package-0" in availability.why


def test_a_counter_that_is_no_file_is_named(powercap):
    root = powercap({"intel-rapl:0": ("package-0", 1)})
    file = root / "class/powercap/intel-rapl:0/energy_uj"
    file.unlink()
    file.mkdir()
    sensor, availability = open_rapl(root)
    assert sensor is None
    assert str(file) in availability.why


def test_no_zone_at_all(tmp_path):
    sensor, availability = open_rapl(tmp_path)
    assert sensor is None
    assert not availability.present
    assert str(tmp_path / "class/powercap") in availability.why
    assert "virtual machine" in availability.remedy


def test_close_twice_and_no_descriptor_is_left(powercap):
    mirrored = {"intel-rapl:1": ("package-0", 5_000_000)}
    root = powercap(LAPTOP | mirrored)
    before = len(os.listdir("/proc/self/fd"))
    sensor = opened(root)
    assert len(os.listdir("/proc/self/fd")) == before + 4
    sensor.close()
    sensor.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(math.isnan(x) for x in sensor.read(0.0))


@pytest.mark.rapl
def test_this_machine(request):
    sensor, availability = open_rapl(Path("/sys"))
    if sensor is None:
        pytest.skip(f"no readable RAPL here: {availability.why}")
    request.addfinalizer(sensor.close)
    first = sensor.read(0.0)
    total = 0
    for i in range(2_000_000):
        total += i
    assert any(b > a for a, b in zip(first, sensor.read(0.0), strict=True))
