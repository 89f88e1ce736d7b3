"""The modelled memory: modules where they are told, size where not, a share by size; and the error."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.ports import Machine
from ergometry.core.trace import Trace
from ergometry.sensors.memory_model import (
    COUNT_REL_STDERR,
    GB,
    IDLE_GB,
    IDLE_MODULE,
    MODULE,
    MemoryModel,
    count_modules,
    model_memory,
    open_memory_model,
)

KIB_64_GB = 64_000_000_000 // 1024


def machine(procfs, memory_kib: int | None = KIB_64_GB) -> Machine:
    if memory_kib is not None:
        (procfs.root / "meminfo").write_text(f"MemTotal:       {memory_kib} kB\nMemFree: 1 kB\n")
    return Machine(procfs.root.parent / "sys", procfs.root, {})


def opened(on: Machine) -> MemoryModel:
    sensor, availability = open_memory_model(on)
    assert sensor is not None, availability
    assert availability.present
    return sensor


def edac(sysfs: Path, controller: int, name: str, **files: str) -> None:
    folder = sysfs / f"devices/system/edac/mc/mc{controller}/{name}"
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n")


def test_the_modules_that_error_detection_lists(procfs):
    on = machine(procfs)
    for controller in (0, 1):
        for slot in range(3):
            edac(on.sysfs, controller, f"dimm{slot}", size="16384", dimm_location=f"channel {slot} slot 0")
    edac(on.sysfs, 1, "dimm9", size="0")  # an empty socket
    (on.sysfs / "devices/system/edac/mc/mc0/power").mkdir()
    assert count_modules(on.sysfs) == 6
    (signal,) = opened(on).signals
    assert signal.static_w == pytest.approx(6 * IDLE_MODULE.power_w)
    assert signal.rel_stderr == pytest.approx(MODULE.rel_stderr)
    assert "6 modules" in signal.method


def test_two_ranks_of_one_channel_are_one_module(tmp_path):
    for rank, (csrow, channel) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (2, 0)]):
        edac(tmp_path, 0, f"rank{rank}", size="8192", dimm_location=f"csrow {csrow} channel {channel} ")
    edac(tmp_path, 0, "rank9", size="8192")  # of no known place
    assert count_modules(tmp_path) == 3


def test_the_modules_of_the_firmwares_table(tmp_path):
    for number, size in enumerate([0x4000, 0x7FFF, 0, 0x0080]):
        folder = tmp_path / f"firmware/dmi/entries/17-{number}"
        folder.mkdir(parents=True)
        (folder / "raw").write_bytes(bytes([17, 40, number, 0]) + b"\1" * 8 + size.to_bytes(2, "little") + b"\1" * 26)
    other = tmp_path / "firmware/dmi/entries/16-0"
    other.mkdir()
    (other / "raw").write_bytes(b"\1" * 40)
    assert count_modules(tmp_path) == 3
    (tmp_path / "firmware/dmi/entries/17-0/raw").unlink()
    (tmp_path / "firmware/dmi/entries/17-0/raw").mkdir()  # unreadable
    assert count_modules(tmp_path) == 2


def test_without_modules_their_number_is_taken_from_the_size(procfs):
    (signal,) = opened(machine(procfs)).signals
    assert signal.static_w == pytest.approx(4 * IDLE_MODULE.power_w)
    assert signal.rel_stderr == pytest.approx(math.hypot(MODULE.rel_stderr, COUNT_REL_STDERR))
    assert signal.static_rel_stderr == pytest.approx(math.hypot(IDLE_MODULE.rel_stderr, COUNT_REL_STDERR))
    assert "64 GB taken as 4.0 modules" in signal.method


@pytest.mark.parametrize(("size_gb", "modules"), [(1, 1), (4, 1), (16, 2), (64, 4), (256, 8), (1024, 16)])
def test_larger_machines_have_more_and_larger_modules(size_gb, modules):
    assert model_memory(int(size_gb * 1e9)).power.power_w == pytest.approx(modules * MODULE.power_w)


@given(st.integers(1, 10**14), st.integers(1, 10**14))
def test_more_memory_never_draws_less(a, b):
    small, large = sorted((a, b))
    for virtual in (False, True):
        less, more = model_memory(small, virtual=virtual), model_memory(large, virtual=virtual)
        assert less.power.power_w <= more.power.power_w
        assert less.idle.power_w <= less.power.power_w


def test_a_virtual_machine_is_a_share_by_size_whatever_modules_it_shows(procfs):
    procfs.processors(threads=8, cores=8, flags="fpu hypervisor")
    on = machine(procfs)
    edac(on.sysfs, 0, "dimm0", size="65536")
    (signal,) = opened(on).signals
    assert signal.static_w == pytest.approx(64 * IDLE_GB.power_w)
    assert signal.rel_stderr == pytest.approx(GB.rel_stderr)
    assert "a share of its host's" in signal.method
    assert model_memory(10**9, virtual=True).power.power_w * 64 == pytest.approx(64 * GB.power_w)


def test_a_container_is_a_share_by_size(procfs):
    on = machine(procfs)
    whole = opened(on).model.power
    (procfs.root / "self").mkdir()
    (procfs.root / "self/cgroup").write_text("0::/\n")
    (on.sysfs / "fs/cgroup").mkdir(parents=True)
    (on.sysfs / "fs/cgroup/memory.max").write_text("16000000000\n")
    sensor = opened(on)
    assert sensor.model.power.power_w == pytest.approx(whole.power_w / 4)
    assert sensor.model.power.rel_stderr == whole.rel_stderr
    assert "share by size: 16 of 64 GB by the container's limit" in sensor.signals[0].method
    (on.sysfs / "fs/cgroup/memory.max").write_text("9223372036854771712\n")
    assert opened(on).model.power == whole


def test_the_counter_begins_at_zero_and_rises_with_time(procfs):
    sensor = opened(machine(procfs))
    assert sensor.read(100.0) == (0.0,)
    assert sensor.read(110.0)[0] == pytest.approx(10 * 4 * MODULE.power_w)
    assert sensor.read(90.0) == (0.0,)
    assert sensor.health() == ()
    sensor.close()
    sensor.close()


def test_a_window_carries_the_models_error(procfs):
    sensor = opened(machine(procfs))
    (signal,) = sensor.signals
    assert (signal.domain, signal.quantity, signal.provenance) == ("node0/dram", "energy_j", "modelled")
    energy = Trace.from_samples(np.arange(11.0), [sensor.read(float(i))[0] for i in range(11)], signal).energy(2.0, 7.0)
    assert energy.value == pytest.approx(5 * 4 * MODULE.power_w)
    assert energy.stderr is not None
    assert energy.stderr / energy.value == pytest.approx(signal.rel_stderr, rel=0.01)


def test_no_size_and_no_modules(tmp_path):
    sensor, availability = open_memory_model(Machine(tmp_path, tmp_path, {}))
    assert sensor is None
    assert not availability.present
    assert str(tmp_path / "meminfo") in availability.why
    assert "Linux" in availability.remedy


def test_modules_without_a_size_are_enough(procfs):
    on = machine(procfs, None)
    edac(on.sysfs, 0, "dimm0", size="65536")
    assert opened(on).model.power.power_w == pytest.approx(MODULE.power_w)
