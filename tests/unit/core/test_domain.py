"""Domain: joules are never counted twice."""

from __future__ import annotations

import pytest

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.errors import DomainOverlap


@pytest.mark.parametrize(
    ("outer", "inner", "contained"),
    [
        ("node0/package0", "node0/package0/core", True),
        ("node0/package0", "node0/package0", True),
        ("node0", "node0/gpu0", True),
        ("node0/package0/core", "node0/package0", False),
        ("node0/gpu1", "node0/gpu10", False),
        ("node0/package0", "node0/dram0", False),
    ],
)
def test_a_domain_contains_what_its_path_is_a_whole_prefix_of(outer: str, inner: str, contained: bool) -> None:
    assert Domain(outer).contains(Domain(inner)) is contained
    overlap = contained or Domain(inner).contains(Domain(outer))
    assert Domain(outer).overlaps(Domain(inner)) is Domain(inner).overlaps(Domain(outer)) is overlap


def test_a_package_and_its_core_are_refused_wherever_they_stand() -> None:
    domains = [Domain("n/package0/core"), Domain("n/gpu0"), Domain("n/dram0"), Domain("n/package0")]
    with pytest.raises(DomainOverlap, match="n/package0 and n/package0/core"):
        assert_disjoint(domains)
    with pytest.raises(DomainOverlap):
        assert_disjoint([Domain("n/gpu0"), Domain("n/gpu0")])


def test_a_package_its_memory_and_the_boards_pass() -> None:
    assert_disjoint(map(Domain, ["n/package0", "n/dram0", "n/gpu1", "n/gpu10"]))


def test_the_cover_keeps_the_outermost() -> None:
    read = {
        Domain(path): i
        for i, path in enumerate(["n/p0/core", "n/p0", "n/p0/uncore", "n/p1/core", "n/dram0", "n/gpu1", "n/gpu10"])
    }
    kept = cover(read)
    assert {str(d): v for d, v in kept.items()} == {"n/p0": 1, "n/p1/core": 3, "n/dram0": 4, "n/gpu1": 5, "n/gpu10": 6}
    assert_disjoint(kept)


def test_one_reading_of_everything_stands_alone() -> None:
    assert list(cover({Domain("n"): 1, Domain("n/p0"): 2, Domain("n/gpu0"): 3})) == [Domain("n")]


def test_nothing_read_is_nothing_covered() -> None:
    assert cover({}) == {}
