"""What Linux's /proc tells of the machine and of a process tree; nothing of it is power."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
"""The clock tick that /proc counts processor time in, s."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

RESCAN_READS = 5
"""New children are looked for at every fifth reading: a listing of /proc costs more than the tree itself."""


class ProcessTree:
    """A process and its descendants: processor time and resident memory.

    Children that were waited for count through their parent, so a worker that ends loses nothing; a child that is
    born and ends between two looks is missed only if nobody waits for it. A descendant stays in the tree when its
    parent dies. This process itself (the recorder) never counts.

    Args:
        pid: the root of the tree.
        proc: where procfs is mounted.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._pid, self._proc = pid, str(proc)
        self._parents: dict[int, int] = {}
        self._members = [pid]
        self._reads = 0
        self._cpu_s = 0.0

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the processes of the tree, as last met: the root first."""
        return tuple(self._members)

    def read(self) -> tuple[float, float]:
        """Return (processor time so far, s; resident memory now, bytes), NaN both when the root is gone.

        Processor time is user and system time, resolution one clock tick (10 ms), and never falls. Memory counts
        pages that processes share once for each.
        """
        if self._reads % RESCAN_READS == 0:
            self._look()
        self._reads += 1
        cpu_s = rss_bytes = 0.0
        for pid in list(self._members):
            fields = self._stat(pid)
            if fields is None:
                if pid == self._pid:
                    return math.nan, math.nan
                self._members.remove(pid)
                continue
            # Fields 14 to 17 and 24 of proc(5): utime, stime, cutime, cstime; rss.
            cpu_s += sum(map(int, fields[11:15])) * TICK_S
            rss_bytes += int(fields[21]) * _PAGE_BYTES
        # A descendant nobody waits for takes its time with it; what was seen stays counted.
        self._cpu_s = max(self._cpu_s, cpu_s)
        return self._cpu_s, rss_bytes

    def _look(self) -> None:
        """Find the descendants: only processes not met before are opened."""
        try:
            listed = {int(name) for name in os.listdir(self._proc) if name.isdecimal()}  # noqa: PTH208 - it is quicker
        except OSError:
            return
        parents = {pid: parent for pid, parent in self._parents.items() if pid in listed}
        for pid in listed - parents.keys():
            fields = self._stat(pid)
            if fields is not None:
                parents[pid] = int(fields[1])
        self._parents = parents
        children: dict[int, list[int]] = {}
        for pid, parent in parents.items():
            children.setdefault(parent, []).append(pid)
        # Members stay while they live: one whose parent died now hangs beneath init.
        members = {self._pid: None} | {pid: None for pid in self._members if pid in listed}
        queue = list(members)
        while queue:
            born = [pid for pid in children.get(queue.pop(), ()) if pid not in members and pid != os.getpid()]
            members.update(dict.fromkeys(born))
            queue.extend(born)
        self._members = list(members)

    def _stat(self, pid: int) -> list[bytes] | None:
        """Return the fields of /proc/pid/stat from the third on, None if the process is gone."""
        try:
            fd = os.open(f"{self._proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # The second field, the command in parentheses, may hold spaces and parentheses of its own.
            fields = os.read(fd, 4096).rpartition(b")")[2].split()
        except OSError:
            return None
        finally:
            os.close(fd)
        return fields if len(fields) > 21 else None


class Jiffies(NamedTuple):
    """Clock ticks so far of some processors together: running tasks, stolen by the host for others, idle."""

    run: int
    stolen: int
    idle: int


def jiffies(stat: bytes, cpus: Collection[int] = ()) -> Jiffies:
    r"""Return the ticks of all processors together, from the first line of /proc/stat, or of those numbered.

    Run are user, nice, system, irq and softirq; idle holds iowait; guest is inside user.

    Raises:
        ValueError: the text is not that of /proc/stat, or lacks one of the processors; pass the whole file.

    >>> jiffies(b"cpu  10 1 5 80 4 1 1 2 3 0 \ncpu0 ...")
    Jiffies(run=18, stolen=2, idle=84)
    """
    if not cpus:
        return _ticks(stat.partition(b"\n")[0], b"cpu")
    lines = {line.partition(b" ")[0]: line for line in stat.splitlines() if line[:3] == b"cpu"}
    each = [_ticks(lines.get(b"cpu%d" % cpu, b""), b"cpu%d" % cpu) for cpu in cpus]
    return Jiffies(*map(sum, zip(*each, strict=True)))


def _ticks(line: bytes, name: bytes) -> Jiffies:
    words = line.split()
    if words[:1] != [name] or len(words) < 5:
        raise ValueError(
            f"expected the line '{name.decode()} user nice system idle …' of /proc/stat, got {line[:40]!r}"
        )
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = [*map(int, words[1:]), 0, 0, 0, 0]
    return Jiffies(user + nice + system + irq + softirq, steal, idle + iowait)


class BusyTime:
    """The busy time of a machine's processors together, by /proc/stat: what its own tasks ran, interrupts included.

    Time that a host gave to other virtual machines is not in it, so that it is what a process's time is a part of.

    Args:
        proc: where procfs is mounted.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        try:
            self._fd = os.open(proc / "stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def read(self) -> float:
        """Return busy processor seconds so far, resolution one clock tick; NaN where /proc/stat cannot be read."""
        try:
            return jiffies(os.pread(self._fd, 512, 0)).run * TICK_S
        except (OSError, ValueError):
            return math.nan

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class Processors(NamedTuple):
    """The machine's processors, as /proc/cpuinfo tells.

    ``threads`` are logical CPUs; ``cores`` physical ones, in a virtual machine half the vCPUs, which stand for
    hardware threads, two a core. ``base_ghz`` is the rate of x86's time-stamp counter, which runs at the part's base
    clock; None elsewhere.
    """

    model: str
    threads: int
    cores: float
    sockets: int
    base_ghz: float | None
    virtual: bool


def processors(proc: Path = Path("/proc")) -> Processors:
    """Return what /proc/cpuinfo says of the processors; where there is none, a machine of unknown make.

    Args:
        proc: where procfs is mounted.
    """
    text = _text(proc / "cpuinfo")
    threads = len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or os.cpu_count() or 1
    packages = _values(text, "physical id")
    flags = _values(text, "flags")
    virtual = bool(flags) and "hypervisor" in flags[0].split()
    core_ids = _values(text, "core id")
    cores = float(len(set(zip(packages, core_ids, strict=False)))) or float(threads)
    bogomips = _values(text, "bogomips")
    names = _values(text, "model name")
    return Processors(
        model=names[0] if names else os.uname().machine,
        threads=threads,
        cores=threads / 2 if virtual else cores,
        sockets=len(set(packages)) or 1,
        # Only x86 derives bogomips from its time-stamp counter: twice its MHz.
        base_ghz=float(bogomips[0]) / 2000 if flags and bogomips else None,
        virtual=virtual,
    )


def package_cpus(proc: Path = Path("/proc")) -> dict[int, tuple[int, ...]]:
    """Return the logical CPUs of each package, by its physical id; empty where /proc/cpuinfo does not say.

    Args:
        proc: where procfs is mounted.
    """
    found: dict[int, tuple[int, ...]] = {}
    for block in _text(proc / "cpuinfo").split("\n\n"):
        number, package = _values(block, "processor"), _values(block, "physical id")
        if number and package:
            key = int(package[0])
            found[key] = (*found.get(key, ()), int(number[0]))
    return found


def memory_bytes(proc: Path = Path("/proc")) -> int | None:
    """Return the memory that the kernel manages, somewhat less than is installed; None where it does not say.

    Args:
        proc: where procfs is mounted.
    """
    match = re.search(r"^MemTotal:\s*(\d+) kB", _text(proc / "meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def machine_facts(proc: Path = Path("/proc")) -> dict[str, Any]:
    """Return the machine in JSON: ``cpu_model``, ``logical_cpus``, ``memory_bytes``, ``virtual``, ``kernel``.

    Args:
        proc: where procfs is mounted.
    """
    cpu = processors(proc)
    return {
        "cpu_model": cpu.model,
        "logical_cpus": cpu.threads,
        "memory_bytes": memory_bytes(proc),
        "virtual": cpu.virtual,
        "kernel": _text(proc / "sys/kernel/osrelease").strip() or os.uname().release,
    }


def _values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
