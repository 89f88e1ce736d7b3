"""Power sources, one file each, and models where there are none. Standard library only when imported.

A source's file has ``open_<name>(machine)``, which looks for it and says what it found; :data:`SOURCES` lists them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ergometry.core.ports import Availability, Machine, Opener, OpenSource, Sensor
from ergometry.sensors import gains, part, tree
from ergometry.sensors.amdsmi import open_amdsmi
from ergometry.sensors.cpu_model import open_cpu_model, open_package_models
from ergometry.sensors.hwmon import open_hwmon
from ergometry.sensors.ipmi import open_ipmi
from ergometry.sensors.memory_model import open_memory_model
from ergometry.sensors.nvml import open_nvml
from ergometry.sensors.powermetrics import open_powermetrics
from ergometry.sensors.rapl import open_rapl
from ergometry.sensors.replay import open_replay
from ergometry.sensors.simulated import open_simulated

__all__ = ["MODELS", "SELECTION", "SOURCES", "open_sensors", "reopen"]

SELECTION = "ERGOMETRY_SENSORS"
"""Names the sources to look for, with commas between; by default all of :data:`SOURCES`, and models where they leave
the processors or the memory without a reading. ``simulated`` and ``replay`` are looked for only when named."""

SOURCES: dict[str, Opener] = {
    "rapl": open_rapl,
    "nvml": open_nvml,
    "amdsmi": open_amdsmi,
    "hwmon": open_hwmon,
    "ipmi": open_ipmi,
    "powermetrics": open_powermetrics,
}
"""The hardware, in the order in which it is looked for: of two that read one domain the first counts."""

MODELS: dict[str, tuple[Opener, frozenset[str]]] = {
    "cpu_model": (open_cpu_model, tree.CPU_METERS),
    "memory_model": (open_memory_model, tree.MEMORY_METERS),
}
"""Models, each with the kinds of domain that make it needless. Where some of them exist but cannot be read, it stands
for those (:mod:`ergometry.sensors.part`)."""

VENDORS = frozenset({"nvml", "amdsmi", "ipmi", "powermetrics"})
"""Sources behind a driver or a program that may hang, and would keep the others from being read."""

PATIENCE_S = 20.0
"""They have this long to open. Boards whose driver must first be loaded take seconds each."""

NAMED: dict[str, Opener] = {"simulated": open_simulated, "replay": open_replay}


def open_sensors(machine: Machine | None = None) -> tuple[list[OpenSource], list[Availability]]:
    """Open every power source of a machine. Never raises.

    Args:
        machine: by default this one.

    Returns:
        The open sources, and one availability per source that was looked for: present, or absent with why and
        the remedy. A source may be present and still name a part of it that cannot be read.
    """
    machine = Machine.here() if machine is None else machine
    names = [name.strip() for name in machine.environ.get(SELECTION, "").split(",") if name.strip()]
    opened: list[OpenSource] = []
    found: list[Availability] = []

    def look(name: str, opener: Opener) -> None:
        sensor, availability = open_one(name, opener, machine)
        found.append(availability)
        if sensor is not None:
            opened.append(sensor)

    for name in names:
        if name not in SOURCES | NAMED | MODELS:
            known = ", ".join([*SOURCES, *NAMED, *MODELS])
            found.append(Availability(name, False, "no such source", f"{SELECTION} takes some of: {known}"))
    for name, opener in (SOURCES | NAMED).items():
        if name in (names or SOURCES):
            look(name, opener)
    read = [signal.domain for source in opened for signal in source.signals]
    missing = [domain for availability in found for domain in availability.missing]
    for name, (opener, kinds) in MODELS.items():
        if name in names or (not names and not tree.meters(kinds, read)):
            look(name, opener)
        elif not names and tree.meters(kinds, missing):
            parts = [domain for domain in missing if tree.meters(kinds, [domain])]
            own = open_package_models if name == "cpu_model" else None
            look(name, part.opener_of(opener, parts, tree.units(kinds, read + missing), own))
    return _arranged(opened, machine), found


def open_one(name: str, opener: Opener, machine: Machine) -> tuple[OpenSource | None, Availability]:
    """Open one source, whatever its vendor's library throws, and however long its driver hangs."""
    found: list[tuple[Sensor | None, Availability]] = []

    def look() -> None:
        try:
            found.append(opener(machine))
        except Exception as error:  # the run goes on without it
            found.append((None, Availability(name, False, f"failed to open: {error!r}", "report this")))

    if name in VENDORS:
        thread = threading.Thread(target=look, name=f"open {name}", daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
    else:
        look()
    if not found:
        why = f"no answer within {PATIENCE_S:.0f} s"
        return None, Availability(name, False, why, "its driver hangs: the kernel's log (dmesg) may say why")
    sensor, availability = found[0]
    return None if sensor is None else OpenSource(sensor, tuple(sensor.signals), opener), availability


def reopen(source: OpenSource, beside: Iterable[OpenSource]) -> OpenSource | None:
    """Open a source anew that was closed, with its signals placed among those of the sources beside it.

    Returns:
        The source, None where it is not there (any more, or yet).
    """
    machine = Machine.here()
    opened, _ = open_one(source.sensor.source, source.open, machine)
    return None if opened is None else _arranged([opened, *beside], machine)[0]


def _arranged(opened: list[OpenSource], machine: Machine) -> list[OpenSource]:
    """Return the sources with their signals placed in the machine's tree, and calibrated."""
    read = [signal.domain for source in opened for signal in source.signals]
    known = gains.read(machine.environ)
    return [
        source._replace(signals=tuple(gains.apply(signal, known) for signal in tree.place(source.signals, read)))
        for source in opened
    ]
