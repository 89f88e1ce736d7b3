"""Power sources, one file each, and the model of the CPU where it has none. Standard library only when imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ergometry.core.ports import Availability, Sensor
from ergometry.sensors.cpu_model import open_cpu_model
from ergometry.sensors.nvml import open_nvml
from ergometry.sensors.rapl import Rapl, open_rapl

__all__ = ["open_sensors"]


def open_sensors(sysfs: Path | None = None, proc: Path = Path("/proc")) -> tuple[list[Sensor], list[Availability]]:
    """Open every power source of this machine. Never raises.

    The CPU's modelled counter is opened only where RAPL gives neither a package nor the platform, and its
    availability says why.

    Args:
        sysfs: root of sysfs; by default ``$ERGOMETRY_SYSFS``, else ``/sys``.
        proc: where procfs is mounted.

    Returns:
        The open sensors, and one availability per source that was looked for: present, or absent with why and
        the remedy. A source may be present and still name a part of it that cannot be read.
    """
    root = sysfs if sysfs is not None else Path(os.environ.get("ERGOMETRY_SYSFS") or "/sys")
    sensors: list[Sensor] = []
    found: list[Availability] = []

    def look(source: str, opener: Callable[[], tuple[Sensor | None, Availability]]) -> Sensor | None:
        try:
            sensor, availability = opener()
        except Exception as error:  # whatever a vendor's library throws, the run goes on without it
            sensor, availability = None, Availability(source, False, f"failed to open: {error!r}", "report this")
        found.append(availability)
        if sensor is not None:
            sensors.append(sensor)
        return sensor

    rapl = look("rapl", lambda: open_rapl(root))
    look("nvml", open_nvml)
    if not (isinstance(rapl, Rapl) and rapl.meters_cpu):
        look("cpu_model", lambda: open_cpu_model(proc, "used as no RAPL package can be read"))
    return sensors, found
