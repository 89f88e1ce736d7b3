"""Control groups: what a container leaves its processes of a machine's processors and memory.

The limits are those of the kernel's control groups, version 2 (``cpu.max``, ``memory.max``) and 1
(``cpu.cfs_quota_us``, ``memory.limit_in_bytes``), as the kernel documents them (admin-guide/cgroup-v2 and cgroup-v1,
scheduler/sched-bwc). A limit binds all groups below it, so that of a group is the smallest from it up to the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Machine
from ergometry.sensors.sysfs import exists

BY_LIMIT = "by the container's limit"
"""In a signal's method: it models what a container may use of its host, not the host."""


class CpuLimit(NamedTuple):
    """A limit of processor time.

    ``cpus`` is the processors' worth of time that the group may use; ``usage`` the file that holds what all of the
    limited group has used, in its first line (``usage_usec 7`` or ``7``) and in units of ``unit_s``.
    """

    cpus: float
    usage: Path
    unit_s: float


def cpu_limit(machine: Machine) -> CpuLimit | None:
    """Return the tightest limit of processor time that this process is under; None where there is none."""
    root, found = machine.sysfs / "fs/cgroup", []
    for folder in _folders(machine, ""):
        quota_us, _, period_us = _line(folder / "cpu.max").partition(" ")
        if cpus := _ratio(quota_us, period_us):
            found.append(CpuLimit(cpus, folder / "cpu.stat", 1e-6))
    for folder in _folders(machine, "cpu"):
        if cpus := _ratio(_line(folder / "cpu.cfs_quota_us"), _line(folder / "cpu.cfs_period_us")):
            # The two controllers may be mounted as one or apart: root/cpu/GROUP and root/cpuacct/GROUP.
            group = Path(*folder.relative_to(root).parts[1:])
            usages = (folder / "cpuacct.usage", root / "cpuacct" / group / "cpuacct.usage")
            found.append(CpuLimit(cpus, next((file for file in usages if exists(file)), usages[0]), 1e-9))
    return min(found, key=lambda limit: limit.cpus, default=None)


def memory_limit_bytes(machine: Machine) -> int | None:
    """Return the tightest limit of memory that this process is under, bytes; None where there is none."""
    stated = [_line(folder / "memory.max") for folder in _folders(machine, "")]
    stated += [_line(folder / "memory.limit_in_bytes") for folder in _folders(machine, "memory")]
    # Version 1 says "no limit" by a number near 2⁶³, which bounds nothing either.
    return min((int(words) for words in stated if words.isdecimal()), default=None)


def read_usage_s(limit: CpuLimit, text: bytes) -> float:
    r"""Return the processor seconds that a usage file states.

    Raises:
        ValueError: it states none.

    >>> read_usage_s(CpuLimit(2.0, Path("cpu.stat"), 1e-6), b"usage_usec 2500000\nuser_usec 7\n")
    2.5
    """
    return int(text.partition(b"\n")[0].removeprefix(b"usage_usec")) * limit.unit_s


def _folders(machine: Machine, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of all above it, for a controller; ``""``: version 2."""
    root = machine.sysfs / "fs/cgroup"
    for line in _text(machine.proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        mounts = [root / controllers, root / controller] if controller else [root / "unified", root]
        mount = next((folder for folder in mounts if exists(folder)), None)
        if mount is None:
            continue
        group = Path(path.lstrip("/"))
        # A container may see its own group as the root of the mount, under a path that only the host knows.
        for part in (group, *group.parents):
            if ".." not in part.parts and exists(mount / part):
                yield mount / part


def _ratio(quota: str, period: str) -> float | None:
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None


def _line(file: Path) -> str:
    return _text(file).strip()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
