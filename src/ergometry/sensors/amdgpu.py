"""AMD's boards without AMD SMI: which of them a process sees, and their power by the kernel's hardware monitor.

The amdgpu driver gives every board a chip below ``class/hwmon``: ``power1_average`` (µW; ``power1_input`` on boards
that measure an instant), where there is one ``energy1_input`` (µJ), clocks, temperatures and its power cap. The chip of
a processor with graphics has no cap, and its power is the whole package's, which RAPL reads: it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Machine, Signal
from ergometry.sensors.sysfs import NumberFile, folders, machine_name, text

UPDATE_PERIOD_S = 1.0
"""Power is averaged over a time that the driver does not state: taken as a second."""

REL_STDERR = 0.05
MAX_POWER_W = 3000.0

_SEEN_BY = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


class Chip(NamedTuple):
    """A board's hardware monitor: its folder, the board's UUID (``""`` where not known), and what can be read of it."""

    folder: Path
    uuid: str
    file: NumberFile | None = None
    energy: bool = False

    def read(self, now_s: float) -> float:
        """Return J or W, NaN where it fails or is no power that a board draws."""
        value = math.nan if self.file is None else self.file.read(now_s)
        return value if 0.0 <= value <= (math.inf if self.energy else MAX_POWER_W) else math.nan

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self.file is not None:
            self.file.close()


class Amdgpu:
    """The visible boards' hardware monitors as a sensor: W (J where there is a counter), one signal per board.

    Args:
        chips: every board of the machine, in the order in which torch numbers them.
        machine: whose environment says which of them are visible.
    """

    source = "amdsmi"
    min_period_s = 0.0
    may_block = True  # the driver asks the board's firmware, and may wake it first

    def __init__(self, chips: Sequence[Chip], machine: Machine) -> None:
        numbers = visible([chip.uuid for chip in chips], machine.environ)
        seen = [(number, ordinal) for ordinal, number in enumerate(numbers) if chips[number].file is not None]
        self._boards = [(number, chips[number]) for number, _ in seen]
        for number, chip in enumerate(chips):
            if number not in numbers:
                chip.close()
        name = machine_name(machine)
        self.signals = tuple(
            _signal(number, ordinal, chips[number], chips[number].uuid or f"{name}/gpu{number}")
            for number, ordinal in seen
        )

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one reading per signal, J or W; NaN where it failed."""
        return tuple(chip.read(now_s) for _, chip in self._boards)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return one row per board: clocks, temperature, power cap and utilisations where there are files of them."""
        return tuple(_health(number, chip.folder) for number, chip in self._boards)

    def close(self) -> None:
        """Close the files; again is harmless."""
        for _, chip in self._boards:
            chip.close()


def find_chips(machine: Machine) -> tuple[list[Chip], list[str]]:
    """Return the boards' hardware monitors by their place on the bus, and those that cannot be read, with why."""
    found: list[tuple[str, Path]] = []
    for folder in folders(machine.sysfs / "class/hwmon"):
        if text(folder / "name") == "amdgpu" and text(folder / "power1_cap"):
            device = folder / "device"
            found.append((device.resolve().name if device.is_symlink() else folder.name, folder))
    chips: list[Chip] = []
    lost: list[str] = []
    for _, folder in sorted(found, key=lambda entry: entry[0] if ":" in entry[0] else ""):
        unique = text(folder / "device/unique_id")
        for name in ("energy1_input", "power1_average", "power1_input"):
            try:
                file = NumberFile(folder / name, 1e-6)
            except (OSError, ValueError):
                continue
            chips.append(Chip(folder, f"GPU-{unique}" if unique else "", file, name.startswith("energy")))
            break
        else:
            chips.append(Chip(folder, f"GPU-{unique}" if unique else ""))  # others keep their numbers
            lost.append(f"{folder}: neither energy1_input nor power1_average can be read")
    return chips, lost


def visible(uuids: Sequence[str], environ: Mapping[str, str]) -> list[int]:
    """Return the numbers of the boards that torch sees, in its order, by ROCm's rules.

    ``ROCR_VISIBLE_DEVICES`` picks first; ``HIP_VISIBLE_DEVICES``, or without it ``CUDA_VISIBLE_DEVICES``, picks among
    what that has left. Entries are indices or UUIDs; a list ends at the first that names no board; empty hides all.
    Source: ROCm's documentation, "GPU isolation techniques".

    Args:
        uuids: of the boards, in ROCm's order, such as ``GPU-4b2c1a9f8d3e6f7a``; ``""`` where not known.
        environ: where the variables are looked for.

    >>> visible(["GPU-a", "GPU-b", "GPU-c"], {"ROCR_VISIBLE_DEVICES": "2,GPU-a", "HIP_VISIBLE_DEVICES": "1"})
    [0]
    """
    rocr, hip, cuda = (environ.get(name) for name in _SEEN_BY)
    numbers = list(range(len(uuids)))
    for picked in (rocr, cuda if hip is None else hip):
        if picked is not None:
            numbers = _picked(numbers, uuids, picked)
    return numbers


def _picked(numbers: list[int], uuids: Sequence[str], entries: str) -> list[int]:
    kept: list[int] = []
    for entry in map(str.strip, entries.split(",")):
        if entry.isdecimal():
            named = numbers[int(entry) : int(entry) + 1]
        else:
            named = [number for number in numbers if entry and uuids[number].lower() == entry.lower()]
        if len(named) != 1 or named[0] in kept:
            break
        kept += named
    return kept


def _signal(number: int, ordinal: int, chip: Chip, board: str) -> Signal:
    return Signal(
        domain=f"node0/gpu{number}",
        quantity="energy_j" if chip.energy else "power_w",
        provenance="measured",
        method="amdgpu's hardware monitor, " + ("energy" if chip.energy else "smoothed power, integrated"),
        resolution_j=1e-6 if chip.energy else 0.0,
        resolution_w=0.0 if chip.energy else 1.0,
        update_period_s=0.1 if chip.energy else UPDATE_PERIOD_S,
        averaging_s=0.0 if chip.energy else UPDATE_PERIOD_S,
        rel_stderr=REL_STDERR,
        max_power_w=MAX_POWER_W,
        device=f"cuda:{ordinal}",
        board=f"amd/{board}",
    )


def _health(number: int, folder: Path) -> tuple[float, ...]:
    hottest = max((_number(folder / f"temp{i}_input", 1e-3) for i in (1, 2)), key=lambda t: -math.inf if t != t else t)
    row = [
        float(number),
        _number(folder / "freq1_input", 1.0),
        math.nan,
        _number(folder / "freq2_input", 1.0),
        hottest,
        _number(folder / "power1_cap", 1e-6),
        _number(folder / "device/gpu_busy_percent", 0.01),
        _number(folder / "device/mem_busy_percent", 0.01),
    ]
    return (*row, *(math.nan,) * 6)


def _number(path: Path, scale: float) -> float:
    digits = text(path, 32)
    return int(digits) * scale if digits.isdecimal() else math.nan
