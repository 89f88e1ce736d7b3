"""NVML: the energy counters of NVIDIA boards (Volta and later); their power, or a model of it, where there is none.

A board's counter, ``nvmlDeviceGetTotalEnergyConsumption``, is in mJ. On A100 and H100 the sensor behind it looks about
a quarter of the time, and each board has its own gain: about ±5 %, the same for all readings of one board (Yang et
al., "Part-time Power Measurements", arXiv 2312.02741). What is known of each kind of board stands in
:mod:`ergometry.sensors.nvml_boards`. The domains::

    node0/gpu0           the board, J by its counter; else W: the sensor's present power, else its mean of a second
    node0/gpu0/memory    the board's memory, W, where the driver tells it apart (H100)
    node0/module0        a superchip's module, processor included, W (GH200)
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ergometry.core.errors import SensorError
from ergometry.core.ports import Availability, Machine
from ergometry.sensors.nvml_boards import Board, SensorClass, ask, classify, text, visible_boards
from ergometry.sensors.nvml_health import BoardHealth, due_for_pcie, shares_pids
from ergometry.sensors.nvml_meters import Meter, find_meters

QUICK_PERIOD_S, CAREFUL_PERIOD_S = 0.09, 0.9
"""Asked at most 10 times a second, once where a board is not known to bear it; with room for a late clock."""

RESTART_PERIOD_S = 10.0
"""While a board is lost NVML is started again this seldom: a start takes up to a second."""

_REMEDY = "if a GPU is meant to be used, check nvidia-smi; a container needs it passed in with its utility capability"
_REMEDIES = {
    # NVML_ERROR_*
    4: "give this user access to /dev/nvidiactl and /dev/nvidia*",
    9: "load the driver (modprobe nvidia), or pass the GPU into the container (docker run --gpus all)",
    12: "install NVIDIA's driver; in a container, pass the GPU in with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    18: "the driver was updated while the old one is loaded: reboot, or reload its modules",
}


@dataclass
class OpenBoard:
    """A board that is read. ``handle`` is None while the board is lost."""

    board: Board
    name: str
    handle: Any
    meters: list[Meter]
    health: BoardHealth


class Nvml:
    """The visible boards as a sensor: J, or W for boards without a counter.

    ``names`` are the boards' product names, in their order; ``lost`` says which visible boards could not be opened,
    and why; ``modelled`` which have nothing to read. A board that is lost while the run goes on is NaN; NVML is then
    started again from time to time, and the board comes back under the same signals, its counter perhaps anew.

    Set ``pids`` to a call that returns the measured processes, for their share of each board.

    Args:
        binding: the ``pynvml`` module of nvidia-ml-py, or an object like it.
        visible: what CUDA_VISIBLE_DEVICES says; None where it is not set.
        proc: where procfs is mounted.
        clock: monotonic seconds.

    Raises:
        SensorError: NVML cannot start, or no visible board can be read; its remedy says what to do.
    """

    source = "nvml"
    may_block = True

    def __init__(
        self,
        binding: Any,
        visible: str | None = None,
        *,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml, self._proc, self._clock = binding, proc, clock
        self._started = False
        self._restarted_s = -math.inf
        self._boards: list[OpenBoard] = []
        self.pids: Callable[[], Iterable[int]] | None = None
        self.lost: list[str] = []
        self.modelled: list[str] = []
        try:
            binding.nvmlInit()
            self._started = True
            boards = visible_boards(binding, visible)
            present = int(binding.nvmlDeviceGetCount())
        except binding.NVMLError as error:
            self.close()
            remedy = _REMEDIES.get(getattr(error, "value", 0), _REMEDY)
            raise SensorError(expected="NVIDIA's driver", got=str(error), remedy=remedy) from error
        kinds = [kind for board in boards if (kind := self._open(board)) is not None]
        if not self._boards:
            self.close()
            why, remedy = "; ".join(self.lost), _REMEDY
            if not why and visible is not None and present:
                why = f"CUDA_VISIBLE_DEVICES={visible!r} hides all of this machine's {present}"
                remedy = "to use and measure them, unset it or name them in it"
            raise SensorError(expected="a visible NVIDIA board", got=why or "none", remedy=remedy)
        self.min_period_s = QUICK_PERIOD_S if all(kind.quick for kind in kinds) else CAREFUL_PERIOD_S
        self.names = tuple(board.name for board in self._boards)
        self.signals = tuple(meter.signal for board in self._boards for meter in board.meters)

    def _open(self, board: Board) -> SensorClass | None:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(board.number)
            name = text(nvml.nvmlDeviceGetName(handle))
            kind = classify(name, ask(nvml, "nvmlDeviceGetArchitecture", handle))
            meters = find_meters(nvml, handle, board, name, kind)
        except nvml.NVMLError as error:
            self.lost.append(f"gpu{board.number}: {error}")
            return None
        if meters[0].signal.provenance == "modelled":
            self.modelled.append(f"gpu{board.number} ({name}) has no readable power: {meters[0].signal.method}")
        self._boards.append(OpenBoard(board, name, handle, meters, BoardHealth(nvml, board.number, self._clock)))
        return kind

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one reading per signal, J or W; NaN where NVML failed (a lost GPU, say)."""
        values = self._readings()
        if self._some_lost(values) and now_s - self._restarted_s >= RESTART_PERIOD_S:
            self._restarted_s = now_s
            self._restart()
            values = self._readings()
        return values

    def _readings(self) -> tuple[float, ...]:
        read = [
            None if board.handle is None else meter.read(board.handle)
            for board in self._boards
            for meter in board.meters
        ]
        return tuple(math.nan if value is None else value for value in read)

    def _some_lost(self, values: tuple[float, ...]) -> bool:
        meters = [meter for board in self._boards for meter in board.meters]
        return any(meter.vital and math.isnan(value) for meter, value in zip(meters, values, strict=True))

    def _restart(self) -> None:
        """Start NVML again; a handle from before may be of a board that is gone, so all are asked for anew."""
        self.close()
        try:
            self._nvml.nvmlInit()
            self._started = True
        except self._nvml.NVMLError:
            pass
        for board in self._boards:
            by_uuid = ("nvmlDeviceGetHandleByUUID", board.board.uuid)
            by_number = ("nvmlDeviceGetHandleByIndex", board.board.number)
            board.handle = ask(self._nvml, *(by_uuid if board.board.uuid else by_number)) if self._started else None

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return the state of each board that is there."""
        pids = None if self.pids is None or not shares_pids(self._proc) else frozenset(self.pids())
        boards = [board for board in self._boards if board.handle is not None]
        due = due_for_pcie((board.health for board in boards), self._clock())
        return tuple(board.health.row(board.handle, pids, with_pcie=board.health is due) for board in boards)

    def close(self) -> None:
        """Let go of NVML; again is harmless."""
        if self._started:
            self._started = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


def open_nvml(machine: Machine) -> tuple[Nvml | None, Availability]:
    """Open the boards that CUDA_VISIBLE_DEVICES leaves visible, and say what was found.

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
        sensor = Nvml(binding, machine.environ.get("CUDA_VISIBLE_DEVICES"), proc=machine.proc)
    except SensorError as error:
        return None, Availability("nvml", present=False, why=error.got, remedy=error.remedy)
    why, remedy = [*sensor.lost, *sensor.modelled], [_REMEDY] if sensor.lost else []
    if len(set(sensor.names)) > 1 and machine.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        why.append("the boards differ, and CUDA may number them otherwise (fastest first)")
        remedy.append("set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that numbers agree")
    return sensor, Availability("nvml", present=True, why="; ".join(why), remedy="; ".join(remedy))
