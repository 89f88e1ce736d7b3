"""The state of NVIDIA boards beside their power: clocks, heat, limits, users, traffic. NaN where not readable."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from ergometry.core.series import HEAT, IDLE, OTHER_THROTTLE, POWER_BRAKE, POWER_CAP
from ergometry.sensors.nvml_boards import ask

PCIE_PERIOD_S = 10.0
"""Traffic over PCI Express is asked for this seldom: each answer counts bytes for 20 ms, and the call waits."""

SM_CLOCK, MEMORY_CLOCK = 1, 2
PCIE_TX, PCIE_RX = 0, 1
ALL_LINKS = 0xFFFFFFFF
SUCCESS, NOT_FOUND = 0, 6
"""NVML's numbers: kinds of clock, directions, the scope of a field, outcomes."""

HOST_PIDS = "pid:[4026531836]"
"""Linux's first PID namespace (PROC_PID_INIT_INO). NVML's process utilisation is of processes by their numbers there,
whatever namespace asks, so that elsewhere they cannot be told (NVIDIA/nvidia-docker issue 1483)."""

_REASONS = (
    # nvmlClocksEventReason*, and what each is in a table of ours
    (0x01, IDLE),
    (0x02, OTHER_THROTTLE),  # clocks that someone set
    (0x04, POWER_CAP),
    (0x10, OTHER_THROTTLE),  # boards that wait for each other's clock
    (0x20, HEAT),
    (0x40, HEAT),
    (0x80, POWER_BRAKE),
    (0x100, OTHER_THROTTLE),  # a display's clock
)
_SLOWDOWN = 0x08
"""The hardware holds the clock down, for one of the reasons above or for one that it does not tell."""


def throttle_bits(reasons: int) -> int:
    """Return the bits of the table ``health`` for NVML's reasons.

    >>> throttle_bits(0x08 | 0x40) == HEAT, throttle_bits(0x08) == OTHER_THROTTLE
    (True, True)
    """
    bits = 0
    for reason, bit in _REASONS:
        bits |= bit if reasons & reason else 0
    unknown = reasons & ~(_SLOWDOWN | sum(reason for reason, _ in _REASONS))
    if unknown or (reasons & _SLOWDOWN and not bits & (HEAT | POWER_BRAKE | POWER_CAP)):
        bits |= OTHER_THROTTLE
    return bits


def throttle_reasons(nvml: Any, handle: Any) -> int | None:
    """Return NVML's reasons for the present clock, by the newer call or the older."""
    for call in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        reasons = ask(nvml, call, handle)
        if reasons is not None:
            return int(reasons)
    return None


def shares_pids(proc: Path) -> bool:
    """Say whether processes have the same numbers here as for the driver."""
    try:
        return str((proc / "self/ns/pid").readlink()) == HOST_PIDS
    except OSError:
        return False


class BoardHealth:
    """One board's row of the table ``health``, less its ``t_s``.

    Args:
        nvml: the ``pynvml`` module, started.
        number: the board's number in its domain.
        clock: monotonic seconds.
    """

    def __init__(self, nvml: Any, number: int, clock: Callable[[], float]) -> None:
        self._nvml, self._number, self._clock = nvml, number, clock
        self._seen_us = 0
        self._pcie = (math.nan, math.nan)
        self._links: tuple[float, tuple[float, float]] | None = None
        self.pcie_asked_s = -math.inf

    def row(self, handle: Any, pids: Collection[int] | None, *, with_pcie: bool) -> tuple[float, ...]:
        """Return the board's state now.

        Args:
            handle: NVML's handle of the board.
            pids: of the measured processes; None where they cannot be told.
            with_pcie: ask for the traffic over PCI Express anew, which takes 40 ms; else the last is repeated.
        """
        nvml = self._nvml
        rates = ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
        reasons = throttle_reasons(nvml, handle)
        if with_pcie:
            self.pcie_asked_s = self._clock()
            self._pcie = (self._pcie_rate(handle, PCIE_TX), self._pcie_rate(handle, PCIE_RX))
        return (
            float(self._number),
            _number(ask(nvml, "nvmlDeviceGetClockInfo", handle, SM_CLOCK), 1e6),
            _number(ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, SM_CLOCK), 1e6),
            _number(ask(nvml, "nvmlDeviceGetClockInfo", handle, MEMORY_CLOCK), 1e6),
            _number(ask(nvml, "nvmlDeviceGetTemperature", handle, 0)),
            _number(ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle), 1e-3),
            math.nan if rates is None else rates.gpu / 100,
            math.nan if rates is None else rates.memory / 100,
            math.nan if reasons is None else float(throttle_bits(reasons)),
            math.nan if pids is None else self._process_share(handle, pids),
            *self._pcie,
            *self._link_rates(handle),
        )

    def _pcie_rate(self, handle: Any, direction: int) -> float:
        return _number(ask(self._nvml, "nvmlDeviceGetPcieThroughput", handle, direction), 1e3)

    def _process_share(self, handle: Any, pids: Collection[int]) -> float:
        """Return the share of time in which kernels of these processes ran, since last asked."""
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(handle, self._seen_us)
        except self._nvml.NVMLError as error:
            # "Not found", and success with no samples, are answers: nobody used the board.
            return 0.0 if getattr(error, "value", None) in (SUCCESS, NOT_FOUND) else math.nan
        newest: dict[int, tuple[int, int]] = {}
        for sample in samples:
            # Old drivers leave slots of nonsense behind processes that have ended: Syllo/nvtop issue 110.
            if sample.timeStamp > self._seen_us and sample.smUtil <= 100:
                newest[sample.pid] = max(newest.get(sample.pid, (0, 0)), (sample.timeStamp, sample.smUtil))
        self._seen_us = max([self._seen_us, *(time_us for time_us, _ in newest.values())])
        return min(sum(share for pid, (_, share) in newest.items() if pid in pids) / 100, 1.0)

    def _link_rates(self, handle: Any) -> tuple[float, float]:
        """Return bytes per second sent and received over NVLink since last asked."""
        sent, received = (
            field(self._nvml, handle, name, ALL_LINKS)
            for name in ("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX")
        )
        if sent is None or received is None:
            self._links = None
            return math.nan, math.nan
        now_s, counts = self._clock(), (1024.0 * sent, 1024.0 * received)
        before, self._links = self._links, (now_s, counts)
        if before is None or now_s <= before[0]:
            return math.nan, math.nan
        rates = [(new - old) / (now_s - before[0]) for new, old in zip(counts, before[1], strict=True)]
        # A counter that has begun anew tells nothing of the time between.
        return (rates[0], rates[1]) if min(rates) >= 0 else (math.nan, math.nan)


def due_for_pcie(boards: Iterable[BoardHealth], now_s: float) -> BoardHealth | None:
    """Return the board to be asked for its PCI Express traffic now: never two, or power would be kept waiting."""
    oldest = min(boards, key=lambda board: board.pcie_asked_s, default=None)
    return oldest if oldest is not None and now_s - oldest.pcie_asked_s >= PCIE_PERIOD_S else None


def field(nvml: Any, handle: Any, name: str, scope: int = 0) -> float | None:
    """Return the value of an NVML field (``NVML_FI_*``) in its own unit; None where it is not readable."""
    number = getattr(nvml, name, None)
    values = None if number is None else ask(nvml, "nvmlDeviceGetFieldValues", handle, [(number, scope)])
    if values is None or values[0].nvmlReturn != 0:
        return None
    kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    kind = values[0].valueType
    return float(getattr(values[0].value, kinds[kind])) if 0 <= kind < len(kinds) else None


def _number(value: Any, unit: float = 1.0) -> float:
    return math.nan if value is None else float(value) * unit
