"""What can be read of one NVIDIA board through NVML, how well, and how: signals with the calls that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ergometry.core.ports import Signal
from ergometry.core.series import POWER_CAP
from ergometry.sensors.gpu_model import GpuModel, model_gpu
from ergometry.sensors.nvml_boards import Board, SensorClass, ask
from ergometry.sensors.nvml_health import SM_CLOCK, field, throttle_bits, throttle_reasons

RESOLUTION_J = RESOLUTION_W = 1e-3
"""The units of NVML's answers, 1 mJ and 1 mW."""

REL_STDERR = 0.05
"""Relative standard uncertainty of a board's gain and of its part-time sampling, shared by all its readings."""

PART_REL_STDERR = 0.1
"""The same of what NVML says of a part (memory) or of a module: nobody has published a comparison, so twice that."""

OTHER_SHARE = 1.05
"""A module draws this many times its board, and a board its memory, at least: less is the board's own, read again."""

MAX_POWER_W = 3000.0
"""More than any board draws: a jump above it is a fault."""

SLOW_MEAN_S = 1.0
"""The averaging time of NVML's average power."""

SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY = 0, 1, 2
"""NVML_POWER_SCOPE_*; older bindings lack the names."""


Read = Callable[[Any], float | None]
"""Reads one signal from a board's handle, J or W; None where it fails."""


class Meter(NamedTuple):
    """A signal, and how it is read. The board is lost when a ``vital`` one fails."""

    signal: Signal
    read: Read
    vital: bool = True


def find_meters(nvml: Any, handle: Any, board: Board, name: str, kind: SensorClass) -> list[Meter]:
    """Return what can be read of a board: first the board itself, then its memory and its module.

    Raises:
        NVMLError: nothing can be read, not even its utilisation; check nvidia-smi.
    """
    whole = Signal(
        domain=f"node0/gpu{board.number}",
        quantity="power_w",
        provenance="measured",
        method="",
        update_period_s=kind.period_s,
        rel_stderr=REL_STDERR,
        max_power_w=MAX_POWER_W,
        device=f"cuda:{board.ordinal}",
        averaging_s=kind.window_s,
        resolution_w=RESOLUTION_W,
        board=board.uuid,
    )
    meters = [_board_meter(nvml, handle, whole, name, kind)]
    meters[0] = meters[0]._replace(signal=_limited(nvml, handle, _of_slices(meters[0].signal, board)))
    board_w = _power_w(nvml, handle, SCOPE_GPU) or _usage_w(nvml, handle)
    if board_w is None:
        return meters
    part = replace(whole, rel_stderr=PART_REL_STDERR, board="")  # its gain is not the board's
    for domain, scope, words in (
        (f"{whole.domain}/memory", SCOPE_MEMORY, "memory power"),
        (f"node0/module{board.number}", SCOPE_MODULE, "power of the module, processor included"),
    ):
        if scope == SCOPE_MODULE and not kind.module:
            # The module of a GB200 has several boards: its power, told by each, would be counted as often.
            continue
        for average in (False, True):
            value_w = _power_w(nvml, handle, scope, average=average)
            if value_w is not None and _of_scope(value_w, scope, board_w):
                signal = replace(
                    part,
                    domain=domain,
                    method=f"NVML {'average' if average else 'present'} {words}",
                    averaging_s=SLOW_MEAN_S if average else kind.window_s,
                    device="" if scope == SCOPE_MODULE else part.device,
                )
                meters.append(Meter(signal, _reader(_power_w, nvml, scope, average), vital=False))
                break
    return meters


def _of_scope(value_w: float, scope: int, board_w: float) -> bool:
    """Whether a reading is of its scope: a driver that does not know it may answer 0, or with the board's own power."""
    if scope == SCOPE_MODULE:
        return value_w > OTHER_SHARE * board_w
    return 0.0 < value_w < board_w / OTHER_SHARE


def _board_meter(nvml: Any, handle: Any, whole: Signal, name: str, kind: SensorClass) -> Meter:
    """Return the best that the board itself has. What stands at zero counts nothing."""
    if _counter_j(nvml, handle):
        counter = replace(
            whole,
            quantity="energy_j",
            method="NVML energy counter",
            resolution_j=RESOLUTION_J,
            resolution_w=0.0,
            averaging_s=kind.seen_s,
        )
        return Meter(counter, _reader(_counter_j, nvml))
    if _power_w(nvml, handle, SCOPE_GPU):
        return Meter(replace(whole, method="NVML present power, integrated"), _reader(_power_w, nvml, SCOPE_GPU))
    if _usage_w(nvml, handle):
        averaging_s = SLOW_MEAN_S if kind.slow_usage else kind.window_s
        usage = replace(whole, method="NVML board power, integrated", averaging_s=averaging_s)
        return Meter(usage, _reader(_usage_w, nvml))
    nvml.nvmlDeviceGetUtilizationRates(handle)
    limit_mw = ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    if limit_mw is None:
        limit_mw = ask(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)
    model = model_gpu(name, None if limit_mw is None else limit_mw / 1e3)
    modelled = replace(
        whole,
        provenance="modelled",
        method=model.method,
        update_period_s=SLOW_MEAN_S,
        averaging_s=SLOW_MEAN_S,
        rel_stderr=model.rel_stderr,
        resolution_w=0.01 * model.limit_w,  # utilisation is told in whole percent
        static_w=model.idle_w,
        static_rel_stderr=model.rel_stderr,
        board="",
    )
    return Meter(modelled, _reader(_modelled_w, nvml, model))


def _limited(nvml: Any, handle: Any, signal: Signal) -> Signal:
    """Return the board's signal with the power limits that the board can be set to, where NVML tells them."""
    range_mw = ask(nvml, "nvmlDeviceGetPowerManagementLimitConstraints", handle)
    if range_mw is None:
        return signal
    least_mw, greatest_mw = range_mw
    return replace(signal, least_limit_w=least_mw / 1e3, greatest_limit_w=greatest_mw / 1e3)


def _of_slices(signal: Signal, board: Board) -> Signal:
    if not board.sliced:
        return signal
    words = f"{signal.method}, of the whole board, of which MIG gives a part"
    if board.slices:
        share = f"{board.slices} of {board.all_slices}"
        words += f": {share} compute slices, by which its share would be {board.slices / board.all_slices:.0%}"
    return replace(signal, method=words)


def _reader(read: Callable[..., float | None], nvml: Any, *arguments: Any) -> Read:
    return lambda handle: read(nvml, handle, *arguments)


def _counter_j(nvml: Any, handle: Any) -> float | None:
    energy_mj = ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)
    return None if energy_mj is None else energy_mj / 1e3


def _power_w(nvml: Any, handle: Any, scope: int, average: bool = False) -> float | None:
    power_mw = field(nvml, handle, "NVML_FI_DEV_POWER_AVERAGE" if average else "NVML_FI_DEV_POWER_INSTANT", scope)
    return None if power_mw is None else power_mw / 1e3


def _usage_w(nvml: Any, handle: Any) -> float | None:
    power_mw = ask(nvml, "nvmlDeviceGetPowerUsage", handle)
    return None if power_mw is None else power_mw / 1e3


def _modelled_w(nvml: Any, handle: Any, model: GpuModel) -> float | None:
    rates = ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    if rates is None:
        return None
    clock = ask(nvml, "nvmlDeviceGetClockInfo", handle, SM_CLOCK)
    highest = ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, SM_CLOCK)
    reasons = throttle_reasons(nvml, handle) or 0
    return model.power_w(
        rates.gpu / 100,
        clock / highest if clock and highest else 1.0,
        capped=bool(throttle_bits(reasons) & POWER_CAP),
    )
