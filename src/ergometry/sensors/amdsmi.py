"""AMD SMI: the energy accumulators of AMD's boards, or their power where there is no accumulator.

``amdsmi_get_energy_count`` gives a counter and its resolution in µJ: 2⁻¹⁶ J = 15.259 µJ, which some versions round to
15.3 (0.3 % more; put right here). Counters have been seen stuck (ROCm/amdsmi issue 22), wrong (38) and running backward
(115): what is read is passed on as it is, and :class:`ergometry.core.trace.Trace` takes a fall, or a power no board
draws, for a reset that adds nothing. An MI250 has two dies; the odd one reads zero and the even one reports for both,
so that only the even one is read, and said to hold both. The power that AMD SMI gives is smoothed over time: it
is read only where there is no accumulator, or one that stands at zero.

Without the ``amdsmi`` binding the kernel's own hardware monitor is read (:mod:`ergometry.sensors.amdgpu`).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ergometry.core.errors import SensorError
from ergometry.core.ports import Availability, Machine, Signal
from ergometry.core.series import HEAT, OTHER_THROTTLE, POWER_CAP
from ergometry.sensors.amdgpu import Amdgpu, find_chips, visible
from ergometry.sensors.sysfs import exists

UNIT_J = 2.0**-16
"""The accumulator's own unit; AMD SMI prints it as 15.259 or 15.3 µJ."""

UNIT_GRAIN = 0.005
"""A resolution that differs from the unit by less, relatively, is the unit, rounded."""

UPDATE_PERIOD_S = 0.01
"""Assumed: firmware's table of metrics is renewed every millisecond to ten, and the driver keeps it as long."""

SMOOTHED_S = 1.0
"""Assumed: what power is averaged over, where only that is given; AMD does not state it."""

REL_STDERR = 0.05
"""Assumed standard uncertainty of a board's gain, as of NVIDIA's: AMD states none."""

MAX_POWER_W = 3000.0
"""More than any board draws: a jump above it is a fault."""

POLL_PERIOD_S = 0.09
"""Asked again sooner, the last readings are returned: 10 Hz, with room for a late clock."""

_REMEDY = "check amd-smi list; a container needs /dev/kfd and /dev/dri passed in, and membership of their groups"
_TWO_DIES = re.compile(r"MI25\d")

_PPT = 0x00000000000000FF
_TEMPERATURES = 0x0000FFFF00000000
"""Bits of ``indep_throttle_status``: power limits, temperatures (Linux, amdgpu_smu.h, SMU_THROTTLER_*)."""


class Board(NamedTuple):
    """A board that is read: AMD SMI's handle and number, torch's ordinal, its UUID, and what of it is read."""

    handle: Any
    number: int
    ordinal: int
    uuid: str
    counts: bool
    both_dies: bool


class AmdSmi:
    """The visible boards' energy as a sensor: J (W for boards without an accumulator), one signal per board.

    ``lost`` says which visible boards could not be opened, and why.

    Args:
        binding: the ``amdsmi`` module, or an object like it.
        machine: whose environment says which boards are visible.

    Raises:
        SensorError: AMD SMI cannot start, or no visible board can be read; its remedy says what to do.
    """

    source = "amdsmi"
    min_period_s = POLL_PERIOD_S
    may_block = True

    def __init__(self, binding: Any, machine: Machine) -> None:
        self._smi = binding
        self._started = False
        self._read_s = -math.inf
        self._last: tuple[float, ...] = ()
        self.lost: list[str] = []
        try:
            binding.amdsmi_init()
            self._started = True
            handles = self._in_order(list(binding.amdsmi_get_processor_handles()))
            self._boards = self._open(handles, machine)
        except Exception as error:  # the binding's own errors, or those of a driver that is not there
            self.close()
            raise SensorError(expected="AMD's driver", got=_said(error), remedy=_REMEDY) from error
        if not self._boards:
            self.close()
            got = "; ".join(self.lost) or f"none of {len(handles)} visible"
            raise SensorError(expected="a visible AMD board", got=got, remedy=_REMEDY)
        self.signals = tuple(map(self._limited, self._boards))
        self._last = (math.nan,) * len(self.signals)

    def _in_order(self, handles: list[Any]) -> list[Any]:
        """Return the boards as HIP numbers them, where AMD SMI knows."""
        ids = [_number(self._ask("amdsmi_get_gpu_enumeration_info", handle), "hip_id") for handle in handles]
        if len({i for i in ids if i == i}) == len(handles):
            return [handle for _, handle in sorted(zip(ids, handles, strict=True), key=lambda pair: pair[0])]
        return handles

    def _open(self, handles: Sequence[Any], machine: Machine) -> list[Board]:
        uuids = [self._uuid(handle) for handle in handles]
        read_j = [self._energy_j(handle) for handle in handles]
        paired = [self._reports_through(handles, read_j, number) for number in range(len(handles))]
        boards: dict[int, Board] = {}
        for ordinal, asked in enumerate(visible(uuids, machine.environ)):
            number = paired[asked]
            counts = read_j[number] > 0.0
            if not counts and math.isnan(self._power_w(handles[number])):
                counts = read_j[number] == 0.0
                if not counts:
                    self.lost.append(f"gpu{asked}: neither its energy nor its power can be read")
                    continue
            both = paired.count(number) > 1
            boards.setdefault(number, Board(handles[number], number, ordinal, uuids[number], counts, both))
        return list(boards.values())

    def _reports_through(self, handles: Sequence[Any], read_j: Sequence[float], number: int) -> int:
        """Return the number of the die that reports this one's energy: its own, or the even one of its pair."""
        if number % 2 and read_j[number - 1] > 0.0 and not read_j[number] > 0.0:
            name = str(self._ask("amdsmi_get_gpu_asic_info", handles[number]).get("market_name", ""))
            return number - 1 if _TWO_DIES.search(name) else number
        return number

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one reading per signal, J or W; NaN where AMD SMI failed."""
        if not self._started:
            return (math.nan,) * len(self.signals)
        if now_s - self._read_s >= POLL_PERIOD_S:
            self._read_s = now_s
            self._last = tuple(
                self._energy_j(board.handle) if board.counts else self._power_w(board.handle) for board in self._boards
            )
        return self._last

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return one row per board; what AMD SMI does not tell at once is NaN."""
        return tuple(self._health(board) for board in self._boards) if self._started else ()

    def close(self) -> None:
        """Let go of AMD SMI; again is harmless."""
        if self._started:
            self._started = False
            with contextlib.suppress(Exception):
                self._smi.amdsmi_shut_down()

    def _ask(self, call: str, *arguments: Any) -> dict[str, Any]:
        """Return what a call answers, nothing where it fails, or is not in this version."""
        try:
            answer = getattr(self._smi, call)(*arguments)
        except Exception:  # its library raises errors of its own, which differ between versions
            return {}
        return answer if isinstance(answer, dict) else {"": answer}

    def _energy_j(self, handle: Any) -> float:
        count = self._ask("amdsmi_get_energy_count", handle)
        ticks = _number(count, "energy_accumulator", "power")  # renamed in ROCm 6.4
        unit_j = _number(count, "counter_resolution") * 1e-6
        if abs(unit_j / UNIT_J - 1.0) < UNIT_GRAIN:
            unit_j = UNIT_J
        return ticks * unit_j if unit_j > 0.0 else math.nan

    def _power_w(self, handle: Any) -> float:
        info = self._ask("amdsmi_get_power_info", handle)
        found = [_number(info, key) for key in ("socket_power", "current_socket_power", "average_socket_power")]
        # Fields that a board does not have are N/A, or all ones.
        return next((power_w for power_w in found if 0.0 < power_w <= MAX_POWER_W), math.nan)

    def _limited(self, board: Board) -> Signal:
        """Return a board's signal with the power limits that it can be set to, where AMD SMI tells them."""
        caps = self._ask("amdsmi_get_power_cap_info", board.handle)
        least_uw, greatest_uw = (_number(caps, key) for key in ("min_power_cap", "max_power_cap"))
        if not greatest_uw > 0.0:
            return _signal(board)
        least_w = 0.0 if math.isnan(least_uw) else least_uw * 1e-6
        return replace(_signal(board), least_limit_w=least_w, greatest_limit_w=greatest_uw * 1e-6)

    def _uuid(self, handle: Any) -> str:
        uuid = self._ask("amdsmi_get_gpu_enumeration_info", handle).get("hip_uuid")
        own = self._ask("amdsmi_get_gpu_device_uuid", handle).get("", "")
        return str(uuid) if str(uuid).startswith("GPU-") else str(own)

    def _health(self, board: Board) -> tuple[float, ...]:
        smi, handle = self._smi, board.handle
        clocks, types = getattr(smi, "AmdSmiClkType", None), getattr(smi, "AmdSmiTemperatureType", None)
        graphics = self._ask("amdsmi_get_clock_info", handle, getattr(clocks, "GFX", None))
        memory = self._ask("amdsmi_get_clock_info", handle, getattr(clocks, "MEM", None))
        place = getattr(types, "HOTSPOT", None) or getattr(types, "JUNCTION", None)
        now = getattr(getattr(smi, "AmdSmiTemperatureMetric", None), "CURRENT", None)
        activity = self._ask("amdsmi_get_gpu_activity", handle)
        cap_w = _number(self._ask("amdsmi_get_power_cap_info", handle), "power_cap") * 1e-6
        row = (
            float(board.number),
            _number(graphics, "clk", "cur_clk") * 1e6,
            _number(graphics, "max_clk") * 1e6,
            _number(memory, "clk", "cur_clk") * 1e6,
            _number(self._ask("amdsmi_get_temp_metric", handle, place, now), ""),
            cap_w if cap_w > 0.0 else math.nan,
            _number(activity, "gfx_activity") * 0.01,
            _number(activity, "umc_activity") * 0.01,
            _throttle(_number(self._ask("amdsmi_get_gpu_metrics_info", handle), "indep_throttle_status")),
        )
        # Who uses a board is not told as a share of time. Traffic by PCIe takes a second to count.
        return (*row, *(math.nan,) * 5)


def open_amdsmi(machine: Machine) -> tuple[AmdSmi | Amdgpu | None, Availability]:
    """Open the boards that ROCm's variables leave visible, and say what was found.

    Returns:
        The sensor (None where there is no board) and its availability.
    """
    if not any(exists(machine.sysfs / place) for place in ("module/amdgpu", "class/kfd")):
        why = f"no amdgpu driver below {machine.sysfs}"
        return None, Availability("amdsmi", present=False, why=why, remedy="for AMD GPUs: install the amdgpu driver")
    try:
        sensor = AmdSmi(importlib.import_module("amdsmi"), machine)
        why = "; ".join(sensor.lost)
        return sensor, Availability("amdsmi", present=True, why=why, remedy=_REMEDY if why else "")
    except SensorError as error:
        why, remedy = f"AMD SMI: {error.got}", error.remedy
    except Exception as error:  # not installed, or without the library that it loads
        why, remedy = f"AMD's binding amdsmi cannot be imported: {_said(error)}", "pip install /opt/rocm/share/amd_smi"
    chips, lost = find_chips(machine)
    fallback = Amdgpu(chips, machine)
    if fallback.signals:
        why = "; ".join([f"amdgpu's hardware monitor is read instead ({why})", *lost])
        return fallback, Availability("amdsmi", present=True, why=why, remedy=remedy)
    return None, Availability("amdsmi", present=False, why="; ".join([why, *lost]), remedy=remedy)


def _signal(board: Board) -> Signal:
    what = "energy accumulator" if board.counts else "smoothed power, integrated"
    return Signal(
        domain=f"node0/gpu{board.number}",
        quantity="energy_j" if board.counts else "power_w",
        provenance="measured",
        method=f"AMD SMI {what}" + (", of both dies of the board" if board.both_dies else ""),
        resolution_j=UNIT_J if board.counts else 0.0,
        resolution_w=0.0 if board.counts else 1.0,
        update_period_s=UPDATE_PERIOD_S if board.counts else SMOOTHED_S,
        averaging_s=0.0 if board.counts else SMOOTHED_S,
        rel_stderr=REL_STDERR,
        max_power_w=MAX_POWER_W,
        device=f"cuda:{board.ordinal}",
        board=f"amd/{board.uuid or f'gpu{board.number}'}",
    )


def _throttle(status: float) -> float:
    if math.isnan(status) or status >= 2.0**63:  # all ones: the board does not tell
        return math.nan
    bits = int(status)
    found = (POWER_CAP if bits & _PPT else 0) | (HEAT if bits & _TEMPERATURES else 0)
    return float(found | (OTHER_THROTTLE if bits & ~(_PPT | _TEMPERATURES) else 0))


def _number(answer: dict[str, Any], *keys: str) -> float:
    """Return the first of the keys that is a number; what a board lacks is the text N/A."""
    for key in keys:
        value = answer.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
    return math.nan


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
