"""The memory's energy where no counter can be read: constant watts, from its modules or its size, with a wide error.

Power of DDR memory as published disagrees by more than ten times: what a module adds when idle, under load, by its
size, by data sheets or at the wall. ``benchmarks/fallback.py`` lists the figures with their sources (measurements by
Tom's Hardware and ChannelPartner, an issue of the Green Algorithms calculator, the constants of Green Algorithms,
CodeCarbon and Cloud Carbon Footprint, a drafted ENERGY STAR allowance) and holds the constants here to them:
each is the middle of its figures, and its 90 % interval spans them all. How hard the memory is used is not known and
is part of that error. An accelerator's own memory is not in it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Availability, Machine, Signal
from ergometry.sensors.cgroup import BY_LIMIT, memory_limit_bytes
from ergometry.sensors.proc import memory_bytes, processors
from ergometry.sensors.sysfs import folders


class Figure(NamedTuple):
    """A power, W, and its relative standard error."""

    power_w: float
    rel_stderr: float


MODULE = Figure(2.85, 0.53)
"""Of one module, from idle to full load."""

IDLE_MODULE = Figure(1.19, 0.42)
"""Of one idle module."""

GB = Figure(0.208, 0.54)
"""Of one GB of memory in large machines, of which a virtual machine has a share."""

IDLE_GB = Figure(0.0742, 0.42)
"""The same, idle."""

COUNT_REL_STDERR = 0.42
"""Of guessing the number of modules from the size: half to twice as many in 90 of 100 (log 2 / 1.645)."""

GB_PER_SQUARE_MODULE = 4.0
"""Machines with more memory have more modules and larger ones: 16 GB in 2, 64 in 4, 256 in 8, 1 TB in 16."""


class MemoryPower(NamedTuple):
    """The memory's power and the idle part of it, and how they were come by."""

    power: Figure
    idle: Figure
    method: str

    def share(self, part: float, words: str) -> MemoryPower:
        """Return a part of it, 0 to 1."""
        power, idle = (figure._replace(power_w=part * figure.power_w) for figure in (self.power, self.idle))
        return MemoryPower(power, idle, f"{self.method}, {words}")


class MemoryModel:
    """A modelled energy counter of the main memory, J: constant power since the first reading."""

    source = "memory_model"
    min_period_s = 0.0
    may_block = False

    def __init__(self, model: MemoryPower) -> None:
        self.model = model
        self._began_s: float | None = None
        self.signals = (
            Signal(
                domain="node0/dram",
                quantity="energy_j",
                provenance="modelled",
                method=model.method,
                rel_stderr=model.power.rel_stderr,
                static_w=model.idle.power_w,
                static_rel_stderr=model.idle.rel_stderr,
            ),
        )

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return the joules since the first reading."""
        if self._began_s is None:
            self._began_s = now_s
        return (self.model.power.power_w * max(now_s - self._began_s, 0.0),)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: there is no board."""
        return ()

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_memory_model(machine: Machine) -> tuple[MemoryModel | None, Availability]:
    """Open the modelled counter of the memory that this process may use, and say what was found.

    That is the whole machine's; in a container whose memory is limited, its share by size.

    Returns:
        The sensor (None where neither modules nor the size are known) and its availability.
    """
    size = memory_bytes(machine.proc)
    modules = count_modules(machine.sysfs)
    if size is None and not modules:
        return None, Availability(
            "memory_model",
            present=False,
            why=f"{machine.proc / 'meminfo'} has no MemTotal",
            remedy="the memory's size is known on Linux only; the other sources are unaffected",
        )
    virtual = processors(machine.proc).virtual
    model = model_memory(size or 0, 0 if virtual else modules, virtual=virtual)
    limit = memory_limit_bytes(machine)
    if size and limit is not None and limit < size:
        part = f"share by size: {limit / 1e9:.3g} of {size / 1e9:.3g} GB {BY_LIMIT}"
        model = model.share(limit / size, part)
    why = f"used where no counter of the memory can be read; {model.method}"
    return MemoryModel(model), Availability("memory_model", present=True, why=why)


def model_memory(size_bytes: int, modules: int = 0, *, virtual: bool = False) -> MemoryPower:
    """Return the model of so much memory.

    Args:
        size_bytes: as installed, or a virtual machine's.
        modules: how many modules it is in; 0: not known.
        virtual: it is a share of a host's memory, in proportion to its size.

    >>> model_memory(0, modules=8).power
    Figure(power_w=22.8, rel_stderr=0.53)
    """
    size_gb = size_bytes / 1e9
    if modules:
        return _modules(modules, 0.0, f"{modules} modules")
    if virtual:
        method = f"memory modelled from a virtual machine's size, {size_gb:.3g} GB, a share of its host's"
        return _model(size_gb, GB, IDLE_GB, 0.0, method)
    count = max(1.0, math.sqrt(size_gb / GB_PER_SQUARE_MODULE))
    return _modules(count, COUNT_REL_STDERR, f"its size, {size_gb:.3g} GB taken as {count:.1f} modules")


def _modules(count: float, doubt: float, source: str) -> MemoryPower:
    return _model(count, MODULE, IDLE_MODULE, doubt, f"memory modelled from {source}")


def _model(count: float, figure: Figure, idle: Figure, doubt: float, method: str) -> MemoryPower:
    def times(one: Figure) -> Figure:
        return Figure(count * one.power_w, math.hypot(one.rel_stderr, doubt))

    power = times(figure)
    return MemoryPower(power, times(idle), f"{method}: ±{power.rel_stderr:.0%}, as published figures disagree")


def count_modules(sysfs: Path) -> int:
    """Return how many memory modules are installed, 0 where it is not told.

    By the kernel's error detection (``devices/system/edac``), whose drivers list modules or, by chip selects, ranks
    (two chip selects of a channel are one module); else by the firmware's table (DMI type 17), which root alone may
    read.
    """
    return _edac_modules(sysfs) or _dmi_modules(sysfs)


def _edac_modules(sysfs: Path) -> int:
    found: set[tuple[str, ...]] = set()
    controllers = [c for c in folders(sysfs / "devices/system/edac/mc") if re.fullmatch(r"mc\d+", c.name)]
    for folder in (folder for controller in controllers for folder in folders(controller)):
        if not re.fullmatch(r"(dimm|rank)\d+", folder.name) or _text(folder / "size") == "0":
            continue
        place = re.fullmatch(r"csrow (\d+) channel (\d+)", _text(folder / "dimm_location"))
        if place:
            found.add((folder.parent.name, str(int(place[1]) // 2), place[2]))
        elif folder.name.startswith("dimm"):
            found.add((folder.parent.name, folder.name))
    return len(found)


def _dmi_modules(sysfs: Path) -> int:
    # SMBIOS type 17, offset 0x0C: the size of what is in the socket, two bytes, zero where it is empty.
    sizes = [
        _bytes(entry / "raw")[12:14] for entry in folders(sysfs / "firmware/dmi/entries") if entry.name[:3] == "17-"
    ]
    return sum(any(size) for size in sizes)


def _text(file: Path) -> str:
    return _bytes(file).decode(errors="replace").strip()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
