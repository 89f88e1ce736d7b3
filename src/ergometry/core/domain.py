"""Domain: a place whose energy is metered, as a path in the tree of a machine; sums that would count twice fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ergometry.core.errors import DomainOverlap

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Domain:
    """A path such as ``node0/package0/core``: a node contains whatever its path is a prefix of.

    ``dram`` is the exception that the hardware makes: RAPL's package excludes it, so it hangs beside the
    package (``node0/dram0``) and may be added to it.

    >>> Domain("node0/package0").contains(Domain("node0/package0/core"))
    True
    """

    path: str

    def contains(self, other: Domain) -> bool:
        """Say whether ``other`` is this domain or lies inside it."""
        return self.path == other.path or other.path.startswith(self.path + "/")

    def overlaps(self, other: Domain) -> bool:
        """Say whether some joules belong to both."""
        return self.contains(other) or other.contains(self)

    def __str__(self) -> str:
        return self.path


def assert_disjoint(domains: Iterable[Domain]) -> None:
    """Pass if no two of the domains overlap.

    Raises:
        DomainOverlap: two do; keep only the outer one, or use :func:`cover`.
    """
    ordered = sorted(domains)
    for i, a in enumerate(ordered):
        for b in ordered[i + 1 :]:
            if a.overlaps(b):
                raise DomainOverlap(
                    expected="domains that share no joules", got=f"{a} and {b}", remedy="keep only the outer one"
                )


def cover(readings: Mapping[Domain, T]) -> dict[Domain, T]:
    """Return the outermost readings: the largest set that covers everything read and counts nothing twice.

    >>> sorted(str(d) for d in cover({Domain("n/p"): 1, Domain("n/p/core"): 2, Domain("n/gpu0"): 3}))
    ['n/gpu0', 'n/p']
    """
    return {
        domain: value
        for domain, value in readings.items()
        if not any(other != domain and other.contains(domain) for other in readings)
    }


def inside(readings: Mapping[Domain, T], outer: Domain) -> dict[Domain, T]:
    """Return the readings that lie within a domain, the domain's own left out.

    >>> [str(d) for d in inside({Domain("n"): 1, Domain("n/p"): 2, Domain("m/p"): 3}, Domain("n"))]
    ['n/p']
    """
    return {domain: value for domain, value in readings.items() if domain != outer and outer.contains(domain)}
