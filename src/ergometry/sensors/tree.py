"""The tree of a machine's domains: which lies in which, whatever sources are read together. Standard library only.

A source names what it meters by a place of its own (``node0/package0``, ``node0/gpu1/memory``). What contains it
depends on the others: with a platform counter the packages lie in it, on a superchip CPU and GPU lie in the module::

    node0                         the whole machine: a BMC's or a supply's reading
      psys                        the platform: packages, memory, board; not the accelerators in slots of their own
        package0 dram0
      module0                     a superchip or system on module: CPU, GPU and their memories
        package0 socket0 gpu0
        rails                     its supply rails, by their names; none reads them all together
      package0                    where nothing above it is read
        core uncore die0 gpu0
      socket0                     a Grace CPU with its memory
        core sysio
      dram0, cpu, dram            beside the package; the last two are models of all packages, of all memory
      gpu0
        memory

So paths that overlap are exactly those of which one begins with the other, and sums follow from
:mod:`ergometry.core.domain` alone. A model of all packages (or all memory) beside a reading of one is a second
opinion: it is placed inside the first reading that it overlaps, where no sum adds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ergometry.core.ports import Signal

_HEAD = re.compile(r"(?P<kind>[a-z]+)(?P<number>\d*)")

IN_PLATFORM = frozenset({"package", "dram", "cpu"})
"""What a platform counter (psys) contains."""

IN_MODULE = frozenset({"package", "socket", "dram", "cpu", "gpu", "rails"})
"""What a module of the same number contains; what has no number lies in the first."""

CPU_METERS = frozenset({"package", "psys", "module", "socket", "rails"})
MEMORY_METERS = frozenset({"dram", "psys", "module", "socket", "rails"})
"""The kinds of domain with the processors' energy in them, and with the memory's."""

SECOND_OPINIONS = {
    "cpu": ("module", "socket", "package", "rails"),
    "dram": ("module", "socket", "dram", "rails"),
}
"""Models of a whole kind, and the kinds of reading that overlap them, outermost first."""


def place(signals: Iterable[Signal], read: Iterable[str]) -> tuple[Signal, ...]:
    """Return the signals with their domains where they belong in the tree, given all the domains that are read.

    Args:
        signals: of one source, each with a place of its own.
        read: the domains of all sources together, before or after placing.
    """
    known = sorted(read, key=lambda domain: domain.count("/"))
    return tuple(replace(signal, domain=_path(signal.domain, known)) for signal in signals)


def meters(kinds: Iterable[str], read: Iterable[str]) -> bool:
    """Say whether a part of any of the kinds is among the domains.

    >>> meters({"dram"}, ["node0/psys/dram0"]), meters({"dram"}, ["node0/gpu0/memory"])
    (True, False)
    """
    wanted = set(kinds)
    return any(kind_of(part) in wanted for domain in read for part in domain.split("/")[1:])


def units(kinds: Iterable[str], read: Iterable[str]) -> int:
    """Return how many parts of a machine of these kinds are among the domains; dies that are metered apart are parts.

    >>> units({"package"}, ["node0/package0", "node0/package0/core", "node0/package1/die0", "node0/package1/die1"])
    3
    """
    part = re.compile(rf"/(?:{'|'.join(kinds)})(?![a-z])[^/]*(?:/die\d+)?")
    return len({match[0] for match in map(part.search, read) if match})


def kind_of(part: str) -> str:
    """Return the kind of a part of a path.

    >>> kind_of("package12")
    'package'
    """
    match = _HEAD.match(part)
    return match["kind"] if match else ""


def _path(domain: str, known: Sequence[str]) -> str:
    node, _, rest = domain.partition("/")
    head = _HEAD.match(rest)
    if head is None:
        return domain
    outer = []
    if head["kind"] in IN_PLATFORM:
        outer.append(f"{node}/psys")
    if head["kind"] in IN_MODULE:
        outer.append(f"{node}/module{head['number'] or 0}")
    if rest in SECOND_OPINIONS:
        outer.extend(_overlapped(rest, known))
    within = next((container for container in outer if container in known), "")
    return f"{_path(within, known)}/{rest}" if within else domain


def _overlapped(model: str, known: Sequence[str]) -> list[str]:
    """Return the readings that a model of a whole kind overlaps, outermost kind first."""
    return [
        domain
        for kind in SECOND_OPINIONS[model]
        for domain in known
        if domain.rpartition("/")[2] != model and any(kind_of(part) == kind for part in domain.split("/")[1:])
    ]
