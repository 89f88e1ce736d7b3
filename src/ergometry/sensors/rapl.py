"""RAPL: the processors' own energy counters, read from the Linux powercap tree (Intel, and AMD since Zen).

What each zone meters, from the kernel's powercap documentation and its ABI description (sysfs-class-powercap):
a *package* holds its *core* and *uncore* but not its *dram*; *psys* holds the whole platform; ``intel-rapl-mmio``
zones are the packages once more. The domains say the same, so that no sum counts a joule twice::

    node0/package0  node0/package0/core  node0/dram0                    without psys
    node0/psys      node0/psys/package0  node0/psys/dram0               with it
    node0/package0/die0  node0/package0/die1                            dies that are metered apart
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Availability, Signal

RESOLUTION_J = 61e-6
"""The counters' own step on most parts, 2⁻¹⁴ J (some servers and AMD: 2⁻¹⁶ J); powercap prints whole µJ."""

UPDATE_PERIOD_S = 1e-3
"""The counters are brought up to date about every millisecond."""

MAX_POWER_W = 2000.0
"""More than any package draws: a jump above it is a failed read, not a wrap."""

MAX_PSYS_POWER_W = 10_000.0
"""The same bound for a whole platform."""

MIRROR_J = 0.5
"""Counters of one package that differ by less are one counter read twice: 250 W over two updates."""

_ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:\d+(?P<sub>:\d+)?")
_PACKAGE = re.compile(r"package-(?P<package>\d+)(?:-die-(?P<die>\d+))?")

_GRANT = (
    "until the next boot: sudo chmod o+r on the file; for good: a udev rule,"
    ' SUBSYSTEM=="powercap", RUN+="/bin/chmod o+r /sys%p/energy_uj", or chgrp and g+r for a group of yours'
    " (root only since CVE-2020-8694, as power tells of others' computations)"
)


class Counter:
    """One open ``energy_uj`` file, in joules; it wraps at ``wrap_j``.

    Raises:
        OSError: the file cannot be opened or read; grant read permission on it.
        ValueError: it holds no number.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "energy_uj"
        self._fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.opened_j = int(os.pread(self._fd, 32, 0)) / 1e6
            self.wrap_j = int((folder / "max_energy_range_uj").read_bytes()) / 1e6
        except BaseException:
            self.close()
            raise

    def read_j(self) -> float:
        """Return the counter in joules, NaN where the read fails."""
        try:
            return int(os.pread(self._fd, 32, 0)) / 1e6
        except (OSError, ValueError):
            return math.nan

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class Zone(NamedTuple):
    """A powercap zone: its key such as ``intel-rapl:0:1``, that of the zone it lies in, its name and folder."""

    key: str
    parent: str
    name: str
    folder: Path


class Meter(NamedTuple):
    """A counter, with the domain it meters and how to speak of it."""

    counter: Counter
    domain: str
    name: str


class Rapl:
    """RAPL's energy counters as a sensor: joules, one signal per zone that could be opened.

    The files stay open, so that a sample costs one ``pread`` each. A failed read is NaN, never the last value:
    what was used meanwhile is carried by the next good one.
    """

    source = "rapl"

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._counters = [meter.counter for meter in meters]
        self.signals = tuple(_signal(meter) for meter in meters)

    @property
    def meters_cpu(self) -> bool:
        """Say whether a package or the platform is among the signals, so that no model of the CPU is needed."""
        return any("/package" in signal.domain or "/psys" in signal.domain for signal in self.signals)

    def read(self, now_s: float) -> tuple[float, ...]:  # noqa: ARG002 - the counter keeps its own time
        """Return one reading per signal, J; NaN where it failed."""
        return tuple(counter.read_j() for counter in self._counters)

    def close(self) -> None:
        """Close the files; again is harmless."""
        for counter in self._counters:
            counter.close()


def open_rapl(sysfs: Path) -> tuple[Rapl | None, Availability]:
    """Open every RAPL zone below ``sysfs`` that can be read, and say what was found.

    A zone that is there but cannot be read is named in the availability with its file and the remedy, whether or
    not others can be read.

    Args:
        sysfs: root of sysfs, ``/sys`` on a real machine.

    Returns:
        The sensor (None where nothing can be read) and its availability.
    """
    zones = find_zones(sysfs)
    if not zones:
        return None, Availability(
            "rapl",
            present=False,
            why=f"no RAPL zone below {sysfs / 'class/powercap'}",
            remedy="a virtual machine has none, and containers often hide it; on bare metal: modprobe intel_rapl_msr",
        )
    counters: dict[str, Counter] = {}
    refused: list[str] = []
    for zone in zones:
        try:
            counters[zone.key] = Counter(zone.folder)
        except (OSError, ValueError) as error:
            refused.append(f"{zone.folder / 'energy_uj'} ({zone.name}): {_reason(error)}")
    meters = arrange(zones, counters)
    kept = {id(meter.counter) for meter in meters}
    for counter in counters.values():
        if id(counter) not in kept:
            counter.close()
    why = f"cannot read {'; '.join(refused)}" if refused else ""
    remedy = _GRANT if refused else ""
    if not meters:
        why = f"{why}; the CPU is modelled instead" if why else "its zones meter no known domain"
        return None, Availability("rapl", present=False, why=why, remedy=remedy)
    return Rapl(meters), Availability("rapl", present=True, why=why, remedy=remedy)


def find_zones(sysfs: Path) -> list[Zone]:
    """Return the RAPL zones, outer before inner, without the mmio zones that repeat a package."""
    root = sysfs / "class/powercap"
    folders: dict[str, Path] = {}
    # The class folder lists every zone flat; copies of it, and /sys/devices, nest them.
    for pattern in ("intel-rapl*", "intel-rapl*/intel-rapl*", "intel-rapl*/intel-rapl*/intel-rapl*"):
        for folder in root.glob(pattern):
            if _ZONE.fullmatch(folder.name):
                folders.setdefault(folder.name, folder)
    zones = []
    for key in sorted(folders, key=_order):
        try:
            name = (folders[key] / "name").read_text().strip()
        except OSError:
            continue
        parent = key.rpartition(":")[0] if key.count(":") == 2 else ""
        zones.append(Zone(key, parent, name, folders[key]))
    direct = {zone.name for zone in zones if not zone.parent and "mmio" not in zone.key}
    repeated = {zone.key for zone in zones if not zone.parent and "mmio" in zone.key and zone.name in direct}
    return [zone for zone in zones if zone.key not in repeated and zone.parent not in repeated]


def arrange(zones: Iterable[Zone], counters: dict[str, Counter]) -> list[Meter]:
    """Return what is worth reading: each open counter once, under a domain that overlaps only what it should.

    Left out are counters that mirror another of their package, parts of a package that cannot itself be read (they
    would overlap its model), a psys that stands at zero (the platform does not feed it), and unknown zones.
    """
    tops = [zone for zone in zones if not zone.parent]
    parts = [zone for zone in zones if zone.parent]
    meters: list[Meter] = []
    base = "node0"
    for zone in tops:
        if zone.name.startswith("psys") and zone.key in counters and counters[zone.key].opened_j > 0:
            base = "node0/psys"
            meters.append(Meter(counters[zone.key], base, "psys"))
            break
    packages = _package_paths(tops, counters)
    for zone in tops:
        path = packages.get(zone.key, "")
        if path and zone.key in counters:
            meters.append(Meter(counters[zone.key], f"{base}/{path}", zone.name))
    for zone in parts:
        path = packages.get(zone.parent, "")
        if not path or zone.key not in counters:
            continue
        if zone.name == "dram":
            domain = f"{base}/{path.replace('package', 'dram', 1)}"
        elif zone.parent in counters:
            domain = f"{base}/{path}/{zone.name}"
        else:
            continue
        meters.append(Meter(counters[zone.key], domain, f"{zone.name} of {path}"))
    return meters


def _package_paths(tops: Iterable[Zone], counters: dict[str, Counter]) -> dict[str, str]:
    """Return key -> path such as ``package0`` or ``package0/die1``; zones that mirror another are not in it."""
    groups: dict[str, list[Zone]] = {}
    for zone in tops:
        if match := _PACKAGE.fullmatch(zone.name):
            groups.setdefault(match["package"], []).append(zone)
    paths: dict[str, str] = {}
    for number, members in groups.items():
        kept: list[Zone] = []
        for zone in members:
            if not any(_mirrored(counters.get(zone.key), counters.get(other.key)) for other in kept):
                kept.append(zone)
        collapsed = len(kept) == 1 and len(members) > 1
        for zone in kept:
            match = _PACKAGE.fullmatch(zone.name)
            die = match["die"] if match else None
            path = f"package{number}" if die is None or collapsed else f"package{number}/die{die}"
            # Two zones of one name that count differently are two packages, whatever they are called.
            repeat = sum(p == path or p.startswith(f"{path}-") for p in paths.values())
            paths[zone.key] = f"{path}-{repeat}" if repeat else path
    return paths


def _mirrored(one: Counter | None, other: Counter | None) -> bool:
    # Zen 1 and 2 give every die of a package the package's own counter: 68 W + 68 W reported for 68 W.
    if one is None or other is None:
        return False
    a, b = one.read_j(), other.read_j()
    return a > 0 and b > 0 and abs(a - b) < MIRROR_J


def _signal(meter: Meter) -> Signal:
    return Signal(
        domain=meter.domain,
        quantity="energy_j",
        provenance="measured",
        method=f"RAPL {meter.name}",
        resolution_j=RESOLUTION_J,
        update_period_s=UPDATE_PERIOD_S,
        wrap_j=meter.counter.wrap_j,
        max_power_w=MAX_PSYS_POWER_W if meter.domain.endswith("/psys") else MAX_POWER_W,
    )


def _order(key: str) -> list[int]:
    return ["mmio" in key, *map(int, key.split(":")[1:])]


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied"
    return (error.strerror or str(error)) if isinstance(error, OSError) else "holds no number"
