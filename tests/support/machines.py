"""Machines in a folder, each with one source of power on it: what the contracts of every source are tested on.

A subject's ``build`` makes the machine below ``root`` (its ``sys``, ``proc`` and ``dev``) and says how the source is
opened on it; ``fail`` breaks what is read, while it is open, and says at which time it is then to be read.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ergometry.core.ports import Machine, Opener, Sensor
from ergometry.sensors import MODELS, NAMED, SOURCES, part, powermetrics
from support.fake_amdsmi import Card, FakeAmdSmi
from support.fake_nvml.binding import FakeBinding, counting

DATA = Path(__file__).parents[1] / "data"


class Built(NamedTuple):
    """A machine, how its source is opened, and how it is broken."""

    machine: Machine
    open: Opener
    fail: Callable[[Sensor], float] | None = None


@dataclass(frozen=True)
class Subject:
    """A source, and what builds a machine that has it."""

    name: str
    registered: str
    build: Callable[[Path, pytest.MonkeyPatch], Built]

    def __str__(self) -> str:
        return self.name


def put(root: Path, files: dict[str, Any]) -> None:
    """Write files below a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def machine(root: Path, **environ: str) -> Machine:
    """Return the machine below a folder, with processors and memory and nothing that meters them."""
    cpuinfo = "".join(
        f"processor\t: {i}\nvendor_id\t: GenuineIntel\nmodel name\t: Some CPU @ 2.00GHz\nphysical id\t: {i % 2}\n"
        f"siblings\t: 4\ncore id\t\t: {i // 4}\ncpu cores\t: 2\nflags\t\t: fpu sse\nbogomips\t: 4000.00\n\n"
        for i in range(8)
    )
    jiffies = "".join(f"cpu{i} {50 * i} 0 10 {5000 - 60 * i} 0 0 0 0 0 0\n" for i in range(8))
    put(
        root / "proc",
        {
            "cpuinfo": cpuinfo,
            "stat": f"cpu  1400 0 80 38320 0 0 0 0 0 0\n{jiffies}",
            "meminfo": "MemTotal:       65842164 kB\nMemFree:        12345678 kB",
            "sys/kernel/hostname": "node17",
        },
    )
    (root / "sys").mkdir(exist_ok=True)
    return Machine(root / "sys", root / "proc", environ)


def empty(*files: Path) -> Callable[[Sensor], float]:
    """Return what makes open files unreadable for good: nothing in them, and nothing by their names."""

    def fail(_: Sensor) -> float:
        for file in files:
            os.truncate(file, 0)
            file.unlink()
        return 100.0

    return fail


def rapl(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    zones = {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "package-1", "1:0": "dram"}
    folder = root / "sys/class/powercap"
    for i, (key, name) in enumerate(zones.items()):
        energy = {"name": name, "energy_uj": 5_000_000 * (i + 1), "max_energy_range_uj": 262143328850}
        put(folder / f"intel-rapl:{key}", energy)
    return Built(machine(root), SOURCES["rapl"], empty(*folder.glob("*/energy_uj")))


def nvml(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    binding = FakeBinding(counting(0), counting(1))
    monkeypatch.setitem(sys.modules, "pynvml", binding)

    def fail(_: Sensor) -> float:
        for device in binding.devices:
            device.lost = True
        return 100.0

    return Built(machine(root), SOURCES["nvml"], fail)


def amdsmi(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    cards = [Card(ticks=2**20), Card(ticks=None, power_w=90.0)]
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi(cards))
    (root / "sys/module/amdgpu").mkdir(parents=True)

    def fail(_: Sensor) -> float:
        for card in cards:
            card.lost = True
        return 100.0

    return Built(machine(root), SOURCES["amdsmi"], fail)


def amdgpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    (root / "sys/module/amdgpu").mkdir(parents=True)
    folder = root / "sys/class/hwmon"
    for i in range(2):
        put(
            folder / f"hwmon{i}",
            {
                "name": "amdgpu",
                "power1_cap": 300_000_000,
                "power1_average": 42_000_000,
                "temp1_input": 51_000,
                "freq1_input": 1_700_000_000,
                "device/unique_id": f"{i:016x}",
                "device/gpu_busy_percent": 7,
            },
        )
    return Built(machine(root), SOURCES["amdsmi"], empty(*folder.glob("*/power1_average")))


def hwmon(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    folder = root / "sys/class/hwmon"
    for i, what in enumerate(("Module", "Grace", "CPU", "SysIO")):
        acpi = {"power1_average": (4 - i) * 30_000_000, "power1_oem_info": f"{what} Power Socket 0"}
        put(folder / f"hwmon{i}", {"name": "power_meter", "power1_average_interval": 1000, **acpi})
    rail = {"name": "ina3221", "in1_label": "VDD_CPU", "in1_input": 5000, "curr1_input": 1200}
    put(folder / "hwmon9", rail)
    files = [*folder.glob("*/power1_average"), *folder.glob("*/curr1_input")]
    return Built(machine(root), SOURCES["hwmon"], empty(*files))


def ipmi(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    put(root, {"dev/ipmi0": "", "bin/ipmitool": f"#!/bin/sh\ncat {DATA}/ipmi/ipmitool-active.txt"})
    (root / "bin/ipmitool").chmod(0o755)

    def fail(_: Sensor) -> float:
        (root / "bin/ipmitool").unlink()
        return 100.0

    return Built(machine(root, PATH=str(root / "bin")), SOURCES["ipmi"], fail)


def apple(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(powermetrics.os, "geteuid", lambda: 0)
    (root / "bin").mkdir(parents=True)
    os.mkfifo(root / "bin/end")
    lines = f"cat {DATA}/powermetrics/apple-silicon.plists; read line < {root}/bin/end"
    put(root, {"bin/powermetrics": f"#!/bin/sh\n{lines}"})
    (root / "bin/powermetrics").chmod(0o755)

    def fail(sensor: Sensor) -> float:
        (root / "bin/end").write_text("now\n")
        while not math.isnan(sensor.read(0.0)[0]):
            time.sleep(0.001)
        return 100.0

    return Built(machine(root, PATH=f"{root}/bin:/usr/bin:/bin"), SOURCES["powermetrics"], fail)


def simulated(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    return Built(machine(root), NAMED["simulated"])


def replay(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    put(root, {"meter.csv": "t_s,node0/gpu0 energy_j,node0/dram0 power_w\n0,1,20\n1,301,21\n2,602,20"})

    def fail(sensor: Sensor) -> float:
        sensor.read(0.0)
        return 100.0  # long after its end

    return Built(machine(root, ERGOMETRY_REPLAY=str(root / "meter.csv")), NAMED["replay"], fail)


def cpu_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    return Built(machine(root), MODELS["cpu_model"][0], empty(root / "proc/stat"))


def cpu_part(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    stands_in = part.opener_of(MODELS["cpu_model"][0], ["node0/package1", "node0/package3"], 4)
    return Built(machine(root), stands_in, empty(root / "proc/stat"))


def memory_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    return Built(machine(root), MODELS["memory_model"][0])


SUBJECTS = (
    Subject("rapl", "rapl", rapl),
    Subject("nvml", "nvml", nvml),
    Subject("amdsmi", "amdsmi", amdsmi),
    Subject("amdgpu", "amdsmi", amdgpu),
    Subject("hwmon", "hwmon", hwmon),
    Subject("ipmi", "ipmi", ipmi),
    Subject("powermetrics", "powermetrics", apple),
    Subject("simulated", "simulated", simulated),
    Subject("replay", "replay", replay),
    Subject("cpu_model", "cpu_model", cpu_model),
    Subject("cpu_model of two packages of four", "cpu_model", cpu_part),
    Subject("memory_model", "memory_model", memory_model),
)
"""Every source there is: a test holds the registry to it."""
