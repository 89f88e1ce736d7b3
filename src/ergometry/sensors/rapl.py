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
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Availability, Machine, Signal
from ergometry.sensors.sysfs import NumberFile, folders, machine_name, reason, text

RESOLUTION_J = 61e-6
"""The counters' own step on most parts, 2⁻¹⁴ J (some servers and AMD: 2⁻¹⁶ J); powercap prints whole µJ."""

UPDATE_PERIOD_S = 1e-3
"""The counters are brought up to date about every millisecond."""

REL_STDERR = 0.03
"""Assumed standard uncertainty of a package's gain, Intel since Haswell, which measures: Khan et al., RAPL in Action
(2018), find it in step with the plug on Haswell and Skylake, and state no error."""

MODEL_REL_STDERR = 0.1
"""Assumed likewise for what is estimated in the processor from its own activity: memory (Desrochers et al., MEMSYS
2016: right in shape, and off by a part that differs between machines), parts of a package, and AMD's zones, which miss
what depends on the data (Schöne et al., CLUSTER 2021, on Zen 2)."""

MAX_POWER_W = 2000.0
"""More than any package draws: a jump above it is a failed read, not a wrap."""

MAX_PSYS_POWER_W = 10_000.0
"""The same bound for a whole platform."""

MAX_J = 2.0**64 / 1e6
"""The kernel keeps counters in 64 bits of µJ."""

MIRROR_J = 0.5
"""Counters of one package that differ by less are one counter read twice: 250 W over two updates."""

_ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:\d+(?P<sub>:\d+)?")
_PART = re.compile(r"[a-z][a-z0-9_-]*")
_PACKAGE = re.compile(r"package-(?P<package>\d+)(?:-die-(?P<die>\d+))?")

_GRANT = (
    "until the next boot: sudo chmod o+r on the file; for good: a udev rule,"
    ' SUBSYSTEM=="powercap", RUN+="/bin/chmod o+r /sys%p/energy_uj", or chgrp and g+r for a group of yours'
    " (root only since CVE-2020-8694, as power tells of others' computations)"
)
_FOREIGN = "check that the sysfs mounted there is this machine's, and that its driver (intel_rapl_msr) works"


class Counter:
    """One open ``energy_uj`` file, in joules; it wraps at ``wrap_j`` (None where the zone does not say).

    Raises:
        OSError: the file cannot be opened or read; grant read permission on it.
        ValueError: it holds no number that a counter can have.
    """

    def __init__(self, folder: Path) -> None:
        self.file = NumberFile(folder / "energy_uj", 1e-6)
        range_uj = text(folder / "max_energy_range_uj", 32)
        self.wrap_j = int(range_uj) / 1e6 if range_uj.isdecimal() and 0 < int(range_uj) < 2**64 else None
        self.opened_j = self.file.first
        if not self._believable(self.opened_j):
            self.close()
            raise ValueError(self.opened_j)

    def read_j(self, now_s: float) -> float:
        """Return the counter in joules, NaN where the read fails or gives what no counter holds."""
        joules = self.file.read(now_s)
        return joules if self._believable(joules) else math.nan

    def _believable(self, joules: float) -> bool:
        return 0.0 <= joules <= (self.wrap_j or MAX_J)

    def close(self) -> None:
        """Close the file; again is harmless."""
        self.file.close()


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
    what was used meanwhile is carried by the next good one. A zone that vanishes is looked for again by its path.
    A counter that a resume set back to zero is passed on as it is: the fall implies a power no part draws
    (``max_power_w``), so it is taken for a reset and not for a wrap.

    Args:
        meters: what to read.
        machine: the machine's name, which the boards' identities begin with.
    """

    source = "rapl"
    min_period_s = 0.0
    may_block = False

    def __init__(self, meters: Sequence[Meter], machine: str, *, estimated: bool = False) -> None:
        self._counters = [meter.counter for meter in meters]
        self.signals = tuple(_signal(meter, machine, estimated=estimated) for meter in meters)

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return one reading per signal, J; NaN where it failed."""
        return tuple(counter.read_j(now_s) for counter in self._counters)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: no accelerator is among the zones."""
        return ()

    def close(self) -> None:
        """Close the files; again is harmless."""
        for counter in self._counters:
            counter.close()


def open_rapl(machine: Machine) -> tuple[Rapl | None, Availability]:
    """Open every RAPL zone of a machine that can be read, and say what was found.

    A zone that is there but cannot be read is named in the availability with its file and the remedy, whether or
    not others can be read; what is then missing from the sum is in its ``missing``, for a model to stand in.

    Returns:
        The sensor (None where nothing can be read) and its availability.
    """
    zones = find_zones(machine.sysfs)
    if not zones:
        return None, Availability(
            "rapl",
            present=False,
            why=f"no RAPL zone below {machine.sysfs / 'class/powercap'}",
            remedy="a virtual machine has none, and containers often hide it; on bare metal: modprobe intel_rapl_msr",
        )
    counters: dict[str, Counter] = {}
    refused: list[str] = []
    for zone in zones:
        try:
            counters[zone.key] = Counter(zone.folder)
        except (OSError, ValueError) as error:
            refused.append(f"{zone.folder / 'energy_uj'} ({zone.name}): {reason(error)}")
    meters, missing = arrange(zones, counters)
    kept = {id(meter.counter) for meter in meters}
    for counter in counters.values():
        if id(counter) not in kept:
            counter.close()
    why = f"cannot read {'; '.join(refused)}" if refused else ""
    remedy = _GRANT if "permi" in why else _FOREIGN if why or not meters else ""
    if not meters:
        why = f"{why}; the CPU is modelled instead" if why else "its zones meter no known domain"
        return None, Availability("rapl", present=False, why=why, remedy=remedy)
    if missing:
        why = f"{why}; modelled instead: {', '.join(missing)}"
    amd = "AuthenticAMD" in text(machine.proc / "cpuinfo")
    return Rapl(meters, machine_name(machine), estimated=amd), Availability("rapl", True, why, remedy, missing)


def find_zones(sysfs: Path) -> list[Zone]:
    """Return the RAPL zones, outer before inner, without the mmio zones that repeat a package."""
    root = sysfs / "class/powercap"
    found: dict[str, Path] = {}
    # The class folder lists every zone flat; copies of it, and /sys/devices, nest them.
    level = [root]
    for _ in range(3):
        level = [inner for outer in level for inner in folders(outer) if inner.name.startswith("intel-rapl")]
        for folder in level:
            if _ZONE.fullmatch(folder.name):
                found.setdefault(folder.name, folder)
    zones = []
    for key in sorted(found, key=_order):
        name = text(found[key] / "name")
        if not name:
            continue
        parent = key.rpartition(":")[0] if key.count(":") == 2 else ""
        zones.append(Zone(key, parent, name, found[key]))
    direct = {zone.name for zone in zones if not zone.parent and "mmio" not in zone.key}
    repeated = {zone.key for zone in zones if not zone.parent and "mmio" in zone.key and zone.name in direct}
    return [zone for zone in zones if zone.key not in repeated and zone.parent not in repeated]


def arrange(zones: Iterable[Zone], counters: dict[str, Counter]) -> tuple[list[Meter], tuple[str, ...]]:
    """Return what is worth reading: each open counter once, under a domain that overlaps only what it should.

    Left out are counters that mirror another of their package, parts of a package that cannot itself be read (they
    would overlap its model), a psys that stands at zero (the platform does not feed it), and unknown zones.

    Returns:
        The meters, and the domains that are there, cannot be read and lie in none that can.
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
    missing: list[str] = []
    packages = _package_paths(tops, counters)
    for zone in [*tops, *parts]:
        path = packages.get(zone.parent or zone.key, "")
        if not path or (zone.parent and not _PART.fullmatch(zone.name)):
            continue
        domain, name = f"{base}/{path}", zone.name
        if zone.parent:
            name = f"{zone.name} of {path}"
            domain = f"{base}/{path.replace('package', 'dram', 1)}" if zone.name == "dram" else f"{domain}/{zone.name}"
        if zone.key not in counters:
            if not zone.parent or zone.name == "dram":
                missing.append(domain)
        elif not zone.parent or zone.name == "dram" or zone.parent in counters:
            meters.append(Meter(counters[zone.key], domain, name))
    return meters, () if base == "node0/psys" else tuple(missing)


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
    a, b = one.read_j(0.0), other.read_j(0.0)
    return a > 0 and b > 0 and abs(a - b) < MIRROR_J


def _signal(meter: Meter, machine: str, *, estimated: bool) -> Signal:
    part = meter.domain.rpartition("/")[2]
    measured = part.startswith(("package", "die", "psys")) and not estimated
    return Signal(
        domain=meter.domain,
        quantity="energy_j",
        provenance="measured",
        method=f"RAPL {meter.name}",
        resolution_j=RESOLUTION_J,
        update_period_s=UPDATE_PERIOD_S,
        rel_stderr=REL_STDERR if measured else MODEL_REL_STDERR,
        wrap_j=meter.counter.wrap_j,
        max_power_w=MAX_PSYS_POWER_W if meter.domain.endswith("/psys") else MAX_POWER_W,
        board=f"rapl/{machine}/{meter.name}",
    )


def _order(key: str) -> list[int]:
    return ["mmio" in key, *map(int, key.split(":")[1:])]
