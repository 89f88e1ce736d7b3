"""Power from Linux's hardware monitors: Grace superchips, Jetson modules, and the ACPI power meter of a server.

Only chips whose reading has a known place are taken. Voltages, fans and temperatures are no power; amdgpu's own chip
is left to :mod:`ergometry.sensors.amdsmi`, processors' to RAPL.

**Grace** (ACPI power meters; NVIDIA, Grace Performance Tuning Guide, "Power and Thermals"). Each names what it meters
in ``power1_oem_info``: *Module* is the whole superchip with regulators, CPU, GPU and their memories; *Grace* the CPU
socket, its memory included (so Alumet takes the memory's power as what CPU and SysIO leave of it); *CPU* and *SysIO*
are rails inside. There is no energy: ``power1_average`` is a mean over ``power1_average_interval`` (ms).

**Jetson** (INA3221, kernel's hwmon/ina3221): up to three rails, bus voltage (mV) times current (mA). ``VDD_IN``
(``POM_5V_IN`` on older modules) is the module's input and holds the other rails; on AGX Orin, which has none, the rails
add up, but for ``VDDQ_VDD2_1V8AO``, which is fed from ``VIN_SYS_5V0``.

**ACPI power meter** without such a name (kernel's hwmon/acpi_power_meter): the whole machine's supply, if there is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Availability, Machine, Signal
from ergometry.sensors.sysfs import NumberFile, exists, folders, machine_name, reason, text

MAX_POWER_W = 20_000.0
"""More than any machine with such a meter draws: a reading above it is a fault."""

REL_STDERR = 0.03
"""Assumed standard uncertainty of the gain: ±5 % (Jetson's shunts and INA3221 together), taken as uniform."""

INTERVAL_S = 1.0
"""Averaging interval of an ACPI meter that does not state it: a second, the longest that Grace offers."""

RAIL_PERIOD_S = 0.1
"""An INA3221's conversion of three channels takes a few to some 100 ms, by its set averaging."""

_GRACE = re.compile(r"(?P<what>Module|Grace|CPU|SysIO) Power Socket (?P<socket>\d+)", re.IGNORECASE)
_GRACE_PLACE = {"module": "module{}", "grace": "socket{}", "cpu": "socket{}/core", "sysio": "socket{}/sysio"}

_MODULE_INPUTS = frozenset({"vdd_in", "pom_5v_in"})
_FED_FROM = {"vddq_vdd2_1v8ao": "vin_sys_5v0"}


class Meter(NamedTuple):
    """A power: the product of its files' numbers, W; what it meters, and how it comes about."""

    files: tuple[NumberFile, ...]
    domain: str
    method: str
    averaging_s: float
    resolution_w: float

    def power_w(self, now_s: float) -> float:
        """Return the power, NaN where a file cannot be read or no machine draws so much (or less than nothing)."""
        power_w = math.prod(file.read(now_s) for file in self.files)
        return power_w if 0.0 <= power_w <= MAX_POWER_W else math.nan


class Hwmon:
    """Hardware monitors as a sensor: W, one signal per meter.

    Args:
        meters: what to read.
        machine: the machine's name, which the boards' identities begin with.
    """

    source = "hwmon"
    may_block = True  # firmware is asked through ACPI, an INA3221 through I²C

    def __init__(self, meters: Sequence[Meter], machine: str) -> None:
        self._meters = tuple(meters)
        self.signals = tuple(_signal(meter, machine) for meter in meters)
        self.min_period_s = min(meter.averaging_s for meter in meters)

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one reading per signal, W; NaN where it failed."""
        return tuple(meter.power_w(now_s) for meter in self._meters)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: the meters are of no accelerator of their own."""
        return ()

    def close(self) -> None:
        """Close the files; again is harmless."""
        _close(self._meters)


def open_hwmon(machine: Machine) -> tuple[Hwmon | None, Availability]:
    """Open every power meter below ``class/hwmon`` whose place is known, and say what was found.

    Returns:
        The sensor (None where there is no such meter) and its availability.
    """
    root = machine.sysfs / "class/hwmon"
    meters: list[Meter] = []
    refused: list[str] = []
    for chip in folders(root):
        kind = _attribute(chip, "name")
        found = _acpi(chip) if kind == "power_meter" else _rails(chip) if kind == "ina3221" else iter(())
        for meter in found:
            if isinstance(meter, Meter):
                meters.append(meter)
            else:
                refused.append(meter)
    meters, left_out = _placed(meters)
    refused += left_out
    why = "; ".join(refused)
    remedy = "give read permission on the file, or check the driver (acpi_power_meter, ina3221)" if refused else ""
    if not meters:
        return None, Availability(
            "hwmon",
            present=False,
            why=why or f"no power meter of a known place below {root}",
            remedy=remedy or "Grace, Jetson and some servers have one: modprobe acpi_power_meter or ina3221",
        )
    return Hwmon(meters, machine_name(machine)), Availability("hwmon", True, why, remedy)


def _acpi(chip: Path) -> Iterator[Meter | str]:
    if _attribute(chip, "power1_is_battery") == "1":
        return
    label = _attribute(chip, "power1_oem_info")
    grace = _GRACE.match(label)
    domain = "node0"
    if grace:
        domain = "node0/" + _GRACE_PLACE[grace["what"].lower()].format(int(grace["socket"]))
    interval_ms = _attribute(chip, "power1_average_interval")
    averaging_s = int(interval_ms) / 1e3 if interval_ms.isdecimal() and int(interval_ms) else INTERVAL_S
    try:
        file = NumberFile(_file(chip, "power1_average"), 1e-6)
    except (OSError, ValueError) as error:
        yield f"{_file(chip, 'power1_average')} ({label or 'power meter'}): {reason(error)}"
        return
    method = f"ACPI power meter {label or chip.name}, mean of {averaging_s:g} s, integrated"
    yield Meter((file,), domain, method, averaging_s, 1e-3)


def _rails(chip: Path) -> Iterator[Meter | str]:
    for channel in (1, 2, 3):
        label = _attribute(chip, f"in{channel}_label")
        name = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
        if name in ("", "nc") or _attribute(chip, f"in{channel}_enable") == "0":
            continue
        files: list[NumberFile] = []
        try:
            files.append(NumberFile(_file(chip, f"in{channel}_input"), 1e-3))
            files.append(NumberFile(_file(chip, f"curr{channel}_input"), 1e-3))
        except (OSError, ValueError) as error:
            for file in files:
                file.close()
            yield f"{chip} channel {channel} ({label}): {reason(error)}"
            continue
        inside = f"{_FED_FROM[name]}/" if name in _FED_FROM else ""
        domain = "node0/module0" if name in _MODULE_INPUTS else f"node0/rails/{inside}{name}"
        # 1 mA at the rail's voltage; the voltage's own step is much finer.
        yield Meter(tuple(files), domain, f"INA3221 rail {label}, integrated", RAIL_PERIOD_S, 1e-3 * files[0].first)


def _placed(meters: list[Meter]) -> tuple[list[Meter], list[str]]:
    """Leave out what has no place of its own: the second meter of one domain, and several unnamed supplies."""
    kept: dict[str, Meter] = {}
    refused = []
    unnamed = [meter for meter in meters if meter.domain == "node0"]
    if len(unnamed) > 1:
        names = ", ".join(str(meter.files[0].path) for meter in unnamed)
        refused.append(f"several power meters that do not say what they meter, so none is taken: {names}")
        _close(unnamed)
    for meter in meters:
        if meter.domain == "node0" and len(unnamed) > 1:
            continue
        if meter.domain in kept:
            refused.append(f"{meter.files[0].path} meters {meter.domain} once more")
            _close([meter])
            continue
        kept[meter.domain] = meter
    return list(kept.values()), refused


def _signal(meter: Meter, machine: str) -> Signal:
    return Signal(
        domain=meter.domain,
        quantity="power_w",
        provenance="measured",
        method=meter.method,
        update_period_s=meter.averaging_s,
        averaging_s=meter.averaging_s,
        resolution_w=meter.resolution_w,
        rel_stderr=REL_STDERR,
        max_power_w=MAX_POWER_W,
        board=f"hwmon/{machine}/{meter.domain.partition('/')[2] or 'node'}",
    )


def _file(chip: Path, name: str) -> Path:
    # Where a driver is of the older kind, its attributes are in the device's folder.
    return chip / name if exists(chip / name) else chip / "device" / name


def _attribute(chip: Path, name: str) -> str:
    return text(chip / name) or text(chip / "device" / name)


def _close(meters: Sequence[Meter]) -> None:
    for meter in meters:
        for file in meter.files:
            file.close()
