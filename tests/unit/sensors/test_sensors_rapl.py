"""RAPL on fake powercap trees: which joules are whose, and what a failed read does."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.estimate import Provenance
from ergometry.core.ports import Availability, Machine
from ergometry.core.trace import Trace
from ergometry.sensors.rapl import MODEL_REL_STDERR, REL_STDERR, Rapl, find_zones, open_rapl
from ergometry.sensors.sysfs import REOPEN_S
from ergometry.sensors.tree import CPU_METERS, meters

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


def looked(root: Path) -> tuple[Rapl | None, Availability]:
    return open_rapl(Machine(root, root.parent / "proc", {}))


def opened(root: Path) -> Rapl:
    sensor, availability = looked(root)
    assert sensor is not None, availability
    return sensor


def joules(sensor: Rapl) -> dict[str, float]:
    return dict(zip((s.domain for s in sensor.signals), sensor.read(0.0), strict=True))


def covered_j(sensor: Rapl) -> float:
    outer = cover({Domain(path): value for path, value in joules(sensor).items()})
    assert_disjoint(outer)
    return sum(outer.values())


def test_a_package_is_measured_and_its_parts_and_memory_are_estimated(powercap):
    errors = {signal.domain.rpartition("/")[2]: signal.rel_stderr for signal in opened(powercap(LAPTOP)).signals}
    assert errors == {
        "package0": REL_STDERR,
        "core": MODEL_REL_STDERR,
        "uncore": MODEL_REL_STDERR,
        "dram0": MODEL_REL_STDERR,
    }


def test_amds_zones_are_estimated(powercap, procfs):
    (procfs.root / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\n")
    root = powercap({"intel-rapl:0": ("package-0", 10_000_000)})
    sensor, _ = open_rapl(Machine(root, procfs.root, {}))
    assert sensor is not None
    assert sensor.signals[0].rel_stderr == MODEL_REL_STDERR


def test_package_holds_core_and_uncore_and_dram_stands_beside_it(powercap):
    sensor = opened(powercap(LAPTOP))
    assert joules(sensor) == {
        "node0/package0": 5.0,
        "node0/package0/core": 3.0,
        "node0/package0/uncore": 1.0,
        "node0/dram0": 2.0,
    }
    assert covered_j(sensor) == 7.0
    assert meters(CPU_METERS, joules(sensor))


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
        if failing[0] in (2, 3):  # and once more, when it is opened anew
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
    sensor, availability = looked(root)
    assert sensor is None
    assert not availability.present
    assert f"{root / 'class/powercap/intel-rapl:0/energy_uj'} (package-0): permission denied" in availability.why
    assert "modelled" in availability.why
    assert "udev" in availability.remedy
    assert "CVE-2020-8694" in availability.remedy


def test_one_package_readable_is_used_and_the_other_named(powercap, monkeypatch):
    root = powercap(TWO_SOCKETS)
    deny(monkeypatch, "intel-rapl:1")
    sensor, availability = looked(root)
    assert sensor is not None
    assert joules(sensor) == {"node0/package0": 5.0, "node0/dram0": 2.0, "node0/dram1": 3.0}
    assert availability.present
    assert "package-1" in availability.why
    assert "package-0" not in availability.why
    assert availability.remedy


def test_parts_of_an_unreadable_package_would_overlap_its_model(powercap, monkeypatch):
    root = powercap(LAPTOP)
    deny(monkeypatch, "intel-rapl:0")
    sensor, availability = looked(root)
    assert sensor is not None
    assert joules(sensor) == {"node0/dram0": 2.0}
    assert not meters(CPU_METERS, joules(sensor))
    assert "package-0" in availability.why


def test_a_counter_that_is_no_file_is_named(powercap):
    root = powercap({"intel-rapl:0": ("package-0", 1)})
    file = root / "class/powercap/intel-rapl:0/energy_uj"
    file.unlink()
    file.mkdir()
    sensor, availability = looked(root)
    assert sensor is None
    assert str(file) in availability.why


def test_no_zone_at_all(tmp_path):
    sensor, availability = looked(tmp_path)
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


def test_what_cannot_be_read_is_missing_from_the_sum(powercap, monkeypatch):
    root = powercap(TWO_SOCKETS)
    deny(monkeypatch, "intel-rapl:1", "intel-rapl:0:0")
    assert looked(root)[1].missing == ("node0/package1", "node0/dram0")


def test_under_a_platform_counter_nothing_is_missing(powercap, monkeypatch):
    root = powercap(TWO_SOCKETS | {"intel-rapl:2": ("psys", 20_000_000)})
    deny(monkeypatch, "intel-rapl:1")
    sensor, availability = looked(root)
    assert sensor is not None
    assert covered_j(sensor) == 20.0
    assert availability.missing == ()
    assert "package-1" in availability.why


def test_a_zone_that_vanishes_is_a_gap_until_it_is_back(powercap):
    root = powercap(TWO_SOCKETS)
    sensor = opened(root)
    file = root / "class/powercap/intel-rapl:1/energy_uj"
    os.truncate(file, 0)  # what is read of the open file fails from here on, as of a zone that is gone
    file.unlink()
    assert [math.isnan(x) for x in sensor.read(0.0)] == [False, True, False, False]
    file.write_text("9000000\n")
    assert math.isnan(sensor.read(REOPEN_S - 1e-3)[1])  # looked for at 0 s; not yet again
    assert sensor.read(REOPEN_S)[1] == 9.0
    assert sensor.read(REOPEN_S + 1e-3)[1] == 9.0


def test_a_file_that_stays_away_is_not_looked_for_at_every_reading(powercap, monkeypatch):
    root = powercap(TWO_SOCKETS)
    sensor = opened(root)
    file = root / "class/powercap/intel-rapl:1/energy_uj"
    os.truncate(file, 0)
    file.unlink()
    tried: list[Any] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **kwargs: tried.append(path) or real(path, *args, **kwargs))
    for tenth in range(1000):
        sensor.read(tenth / 10)
    assert len(tried) == 10


def test_a_counter_that_resume_set_to_zero_is_bridged_and_is_no_wrap(powercap):
    sensor = opened(powercap({"intel-rapl:0": ("package-0", 200_000_000_000)}))
    readings = []
    for second in range(20):  # at 50 W; the tenth second's joules are lost
        energy_uj = 200_000_000_000 + 50_000_000 * second if second < 10 else 50_000_000 * (second - 10) + 3_000_000
        powercap({"intel-rapl:0": ("package-0", energy_uj)})
        readings.append(sensor.read(second)[0])
    trace = Trace.from_samples(np.arange(20.0), readings, sensor.signals[0])
    spent = trace.energy(0.0, 19.0)
    assert spent.value == pytest.approx(19 * 50.0, rel=0.02)
    assert spent.provenance is Provenance.MODELLED


@pytest.mark.parametrize("energy", ["-5\n", "262143328851\n", "9" * 40, "1e6", "0x10", "\0\xff\xfe"])
def test_what_no_counter_holds_is_refused(powercap, energy):
    root = powercap({"intel-rapl:0": ("package-0", 1)})
    (root / "class/powercap/intel-rapl:0/energy_uj").write_bytes(energy.encode("latin-1"))
    sensor, availability = looked(root)
    assert sensor is None
    assert "holds no number" in availability.why
    assert "mounted there" in availability.remedy


@pytest.mark.parametrize("stated", ["", "0", "-1", "long", str(2**64)])
def test_a_zone_without_a_range_never_wraps(powercap, stated):
    root = powercap({"intel-rapl:0": ("package-0", 5_000_000)})
    (root / "class/powercap/intel-rapl:0/max_energy_range_uj").write_text(stated)
    (signal,) = opened(root).signals
    assert signal.wrap_j is None


def test_somebody_elses_sysfs_is_an_absence_with_a_reason(tmp_path):
    zones = tmp_path / "class/powercap"
    for folder in ("dtpm", "intel-rapl", "intel-rapl:x", "intel-rapl:1", "intel-rapl:3"):
        (zones / folder).mkdir(parents=True)
    (zones / "intel-rapl/name").write_text("control type\n")
    (zones / "intel-rapl:1/name").mkdir()
    (zones / "intel-rapl:3/name").write_text("package-3\n")  # a name and no counter
    (zones / "intel-rapl:2").symlink_to(tmp_path / "nowhere")
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert str(zones / "intel-rapl:3/energy_uj") in availability.why
    assert "no such file" in availability.why
    assert availability.remedy


def test_zones_of_names_that_nobody_knows_are_left_alone(powercap):
    sensor, availability = looked(powercap({"intel-rapl:0": ("turbine", 5_000_000)}))
    assert sensor is None
    assert availability.why == "its zones meter no known domain"
    assert availability.remedy
    odd = {"intel-rapl:0:0": ("../../gpu0", 1), "intel-rapl:0:1": ("Core Two", 1)}
    assert set(joules(opened(powercap({"intel-rapl:0": ("package-0", 5_000_000)} | odd)))) == {"node0/package0"}


def test_a_pipe_in_a_counters_place_holds_nothing_up(powercap):
    root = powercap({"intel-rapl:0": ("package-0", 1)})
    file = root / "class/powercap/intel-rapl:0/energy_uj"
    file.unlink()
    os.mkfifo(file)
    assert looked(root)[0] is None


def test_boards_are_named_after_the_machine_whose_own_id_stays_hidden(powercap):
    root = powercap(TWO_SOCKETS)
    (root.parent / "proc/sys/kernel").mkdir(parents=True)
    (root.parent / "proc/sys/kernel/hostname").write_text("node17\n")
    assert [s.board for s in opened(root).signals] == [
        "rapl/node17/package-0",
        "rapl/node17/package-1",
        "rapl/node17/dram of package0",
        "rapl/node17/dram of package1",
    ]
    machine_id = "0123456789abcdef0123456789abcdef"
    (root.parent / "etc").mkdir()
    (root.parent / "etc/machine-id").write_text(machine_id + "\n")
    boards = [s.board for s in opened(root).signals]
    assert len(set(boards)) == 4
    assert not any(machine_id[:8] in board or "node17" in board for board in boards)
    assert boards == [s.board for s in opened(root).signals]


@pytest.mark.rapl
def test_this_machine(request):
    sensor, availability = open_rapl(Machine())
    if sensor is None:
        pytest.skip(f"no readable RAPL here: {availability.why}")
    request.addfinalizer(sensor.close)
    first = sensor.read(0.0)
    total = 0
    for i in range(2_000_000):
        total += i
    assert any(b > a for a, b in zip(first, sensor.read(0.0), strict=True))
