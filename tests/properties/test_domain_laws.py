"""Laws of Domain: a cover covers everything and counts nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.errors import DomainOverlap

names = st.sampled_from(["node0", "package0", "package1", "core", "gpu1", "gpu10"])
domains = st.lists(names, min_size=1, max_size=4).map(lambda parts: Domain("/".join(parts)))


@given(st.dictionaries(domains, st.integers(), max_size=12))
def test_a_cover_is_disjoint_complete_and_its_own_cover(readings: dict[Domain, int]) -> None:
    kept = cover(readings)
    assert_disjoint(kept)
    assert all(any(outer.contains(domain) for outer in kept) for domain in readings)
    assert all(readings[domain] == value for domain, value in kept.items())
    assert cover(kept) == kept


@given(st.lists(domains, max_size=8))
def test_domains_are_disjoint_exactly_if_no_two_overlap(some: list[Domain]) -> None:
    if any(a.overlaps(b) for i, a in enumerate(some) for b in some[i + 1 :]):
        with pytest.raises(DomainOverlap):
            assert_disjoint(some)
    else:
        assert_disjoint(some)


@given(domains, domains, domains)
def test_containing_is_an_order(a: Domain, b: Domain, c: Domain) -> None:
    assert a.contains(a)
    assert not (a.contains(b) and b.contains(a)) or a == b
    assert not (a.contains(b) and b.contains(c)) or a.contains(c)
    assert a.contains(b) == (a.path.split("/") == b.path.split("/")[: len(a.path.split("/"))])
