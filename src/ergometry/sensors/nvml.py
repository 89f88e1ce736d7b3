"""NVML: the energy counters of NVIDIA boards (Volta and later), or their power where there is no counter.

A board's counter, ``nvmlDeviceGetTotalEnergyConsumption``, is in mJ and moves every 20 to 100 ms. On A100 and H100
the sensor behind it looks about a quarter of the time, and each board has its own gain: about ±5 %, the same for all
readings of one board (Yang et al., "Part-time Power Measurements", arXiv 2312.02741). Read at 100 Hz, some consumer
boards fall far short of the truth; here a board is asked at most ten times a second.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ergometry.core.errors import SensorError
from ergometry.core.ports import Availability, Signal

RESOLUTION_J = 1e-3
"""The counter's unit, 1 mJ."""

UPDATE_PERIOD_S = 0.1
"""The slowest update known of current boards; a window's edge may miss as much."""

REL_STDERR = 0.05
"""Relative standard uncertainty of a board's gain and of its part-time sampling, shared by all its readings."""

MAX_POWER_W = 3000.0
"""More than any board draws: a jump above it is a fault."""

POLL_PERIOD_S = 0.09
"""Asked again sooner, the last readings are returned: 10 Hz, with room for a late clock."""


_REMEDY = "if a GPU is meant to be used, check nvidia-smi; a container needs it passed in with its utility capability"


class Board(NamedTuple):
    """A board that the process may use: NVML's number, torch's ordinal, and whether only a MIG slice of it."""

    number: int
    ordinal: int
    sliced: bool = False


class Nvml:
    """The visible boards' energy counters as a sensor: J (W for boards without a counter), one signal per board.

    ``names`` are the boards' product names, in the order of the signals; ``lost`` says which visible boards could
    not be opened, and why.

    Args:
        binding: the ``pynvml`` module of nvidia-ml-py, or an object like it.
        visible: what CUDA_VISIBLE_DEVICES says; None where it is not set.

    Raises:
        SensorError: NVML cannot start, or no visible board can be read; its remedy says what to do.
    """

    source = "nvml"

    def __init__(self, binding: Any, visible: str | None = None) -> None:
        self._nvml = binding
        self._started = False
        self._read_s = -math.inf
        self._last: tuple[float, ...] = ()
        self._meters: list[tuple[Any, bool]] = []
        names: list[str] = []
        signals: list[Signal] = []
        self.lost: list[str] = []
        try:
            binding.nvmlInit()
            self._started = True
            boards = visible_boards(binding, visible)
        except binding.NVMLError as error:
            self.close()
            raise SensorError(expected="NVIDIA's driver", got=str(error), remedy=_REMEDY) from error
        for board in boards:
            try:
                handle = binding.nvmlDeviceGetHandleByIndex(board.number)
                counter = self._has_counter(handle)
                names.append(_text(binding.nvmlDeviceGetName(handle)))
            except binding.NVMLError as error:
                self.lost.append(f"gpu{board.number}: {error}")
                continue
            self._meters.append((handle, counter))
            signals.append(_signal(board, counter))
        if not signals:
            self.close()
            hidden = "none" if visible is None else f"none, with CUDA_VISIBLE_DEVICES={visible!r}"
            raise SensorError(expected="a visible NVIDIA board", got="; ".join(self.lost) or hidden, remedy=_REMEDY)
        self.names, self.signals = tuple(names), tuple(signals)

    def _has_counter(self, handle: Any) -> bool:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except self._nvml.NVMLError:
            # Raises for a board that gives neither, before a run counts on it.
            self._nvml.nvmlDeviceGetPowerUsage(handle)
            return False
        return True

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one reading per signal, J or W; NaN where the vendor's library failed (a lost GPU, say)."""
        if now_s - self._read_s >= POLL_PERIOD_S:
            self._last = tuple(self._reading(handle, counter) for handle, counter in self._meters)
            self._read_s = now_s
        return self._last

    def _reading(self, handle: Any, counter: bool) -> float:
        ask = self._nvml.nvmlDeviceGetTotalEnergyConsumption if counter else self._nvml.nvmlDeviceGetPowerUsage
        try:
            return float(ask(handle)) / 1e3
        except self._nvml.NVMLError:
            return math.nan

    def close(self) -> None:
        """Let go of NVML; again is harmless."""
        if self._started:
            self._started = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


def open_nvml(environ: Mapping[str, str] = os.environ) -> tuple[Nvml | None, Availability]:
    """Open the boards that CUDA_VISIBLE_DEVICES leaves visible, and say what was found.

    Args:
        environ: where CUDA_VISIBLE_DEVICES is looked up.

    Returns:
        The sensor (None where there is no board) and its availability.
    """
    try:
        binding = importlib.import_module("pynvml")
    except ImportError:
        return None, Availability(
            "nvml",
            present=False,
            why="NVIDIA's binding nvidia-ml-py is not installed",
            remedy="for NVIDIA GPUs: pip install 'ergometry[nvidia]'",
        )
    try:
        sensor = Nvml(binding, environ.get("CUDA_VISIBLE_DEVICES"))
    except SensorError as error:
        return None, Availability("nvml", present=False, why=error.got, remedy=error.remedy)
    why, remedy = "; ".join(sensor.lost), _REMEDY if sensor.lost else ""
    if len(set(sensor.names)) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        why = "; ".join(filter(None, (why, "the boards differ, and CUDA may number them otherwise (fastest first)")))
        remedy = "; ".join(filter(None, (remedy, "set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that numbers agree")))
    return sensor, Availability("nvml", present=True, why=why, remedy=remedy)


def visible_boards(binding: Any, visible: str | None) -> list[Board]:
    """Return the boards in torch's order, by the rules of CUDA_VISIBLE_DEVICES.

    Entries are indices, UUIDs or their unambiguous beginnings, or MIG slices, whose whole board is then read once;
    the list ends at the first entry that names no board; empty hides all.

    Args:
        binding: the ``pynvml`` module, started.
        visible: the variable's value; None shows all.
    """
    count = int(binding.nvmlDeviceGetCount())
    if visible is None:
        return [Board(number, number) for number in range(count)]
    boards: dict[int, Board] = {}
    for ordinal, entry in enumerate(map(str.strip, visible.split(","))):
        number = _number(binding, entry, count)
        if number is None:
            break
        boards.setdefault(number, Board(number, ordinal, sliced=entry.startswith("MIG-")))
    return list(boards.values())


def _number(binding: Any, entry: str, count: int) -> int | None:
    """Return NVML's number of the board that one entry of CUDA_VISIBLE_DEVICES names, None if it names none."""
    if entry.isdecimal():
        return int(entry) if int(entry) < count else None
    if entry.startswith("MIG-"):
        try:
            part = binding.nvmlDeviceGetHandleByUUID(entry)
            return int(binding.nvmlDeviceGetIndex(binding.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)))
        except binding.NVMLError:
            return None
    found = [number for number in range(count) if entry.startswith("GPU-") and _uuid(binding, number).startswith(entry)]
    return found[0] if len(found) == 1 else None


def _uuid(binding: Any, number: int) -> str:
    try:
        return _text(binding.nvmlDeviceGetUUID(binding.nvmlDeviceGetHandleByIndex(number)))
    except binding.NVMLError:
        return ""


def _signal(board: Board, counter: bool) -> Signal:
    what = "energy counter" if counter else "board power, integrated"
    whole = " of the whole board, of which a MIG slice is used" if board.sliced else ""
    return Signal(
        domain=f"node0/gpu{board.number}",
        quantity="energy_j" if counter else "power_w",
        provenance="measured",
        method=f"NVML {what}{whole}",
        resolution_j=RESOLUTION_J if counter else 0.0,
        update_period_s=UPDATE_PERIOD_S,
        rel_stderr=REL_STDERR,
        max_power_w=MAX_POWER_W,
        device=f"cuda:{board.ordinal}",
    )


def _text(value: str | bytes) -> str:
    # Older bindings return bytes.
    return value.decode() if isinstance(value, bytes) else str(value)
