"""Laws of Estimate that hold for any numbers."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ergometry.core import units
from ergometry.core.estimate import Estimate, Provenance, round_to_error, total, weakest

values = st.floats(-1e12, 1e12).map(lambda x: 0.0 if abs(x) < 1e-12 else x)
errors = st.one_of(st.none(), st.floats(0, 1e9).map(lambda x: 0.0 if x < 1e-12 else x))
provenances = st.sampled_from(list(Provenance))
scales = st.floats(1e-6, 1e6)


def estimates(unit: str = "J") -> st.SearchStrategy[Estimate]:
    """Return known estimates in a unit."""
    return st.builds(Estimate, values, errors, st.just(unit), provenances, st.sampled_from(["rapl", "nvml", ""]))


def known_errors(unit: str = "J") -> st.SearchStrategy[Estimate]:
    """Return estimates whose error is known."""
    return estimates(unit).filter(lambda e: e.stderr is not None)


@given(estimates(), estimates())
def test_addition_commutes(a: Estimate, b: Estimate) -> None:
    left, right = a + b, b + a
    assert (left.value, left.stderr, left.unit, left.provenance) == (
        right.value,
        right.stderr,
        right.unit,
        right.provenance,
    )


@given(known_errors(), known_errors(), known_errors())
def test_addition_associates(a: Estimate, b: Estimate, c: Estimate) -> None:
    left, right = (a + b) + c, a + (b + c)
    assert left.value == pytest.approx(right.value, abs=1e-3)
    assert left.stderr == pytest.approx(right.stderr, rel=1e-9)
    assert left.provenance == right.provenance == weakest(a.provenance, b.provenance, c.provenance)


@given(known_errors(), known_errors())
def test_a_difference_is_a_sum_with_the_opposite(a: Estimate, b: Estimate) -> None:
    assert a - b == a + -b
    assert -1 * (-a) == a
    assert (a - b).stderr == (a + b).stderr, "a difference never gains certainty"


@given(st.lists(known_errors(), min_size=1, max_size=8))
def test_a_shared_error_is_the_upper_bound_of_an_independent_one(terms: list[Estimate]) -> None:
    independent, shared = total(terms), total(terms, correlated=True)
    largest = max(term.stderr or 0.0 for term in terms)
    assert independent.value == shared.value
    assert largest <= (independent.stderr or 0.0) * (1 + 1e-12)
    assert (independent.stderr or 0.0) <= (shared.stderr or 0.0) * (1 + 1e-12)


@given(st.lists(known_errors(), min_size=1, max_size=8), scales, st.booleans())
def test_a_sum_of_scaled_terms_is_the_scaled_sum(terms: list[Estimate], k: float, correlated: bool) -> None:
    left, right = total([k * term for term in terms], correlated=correlated), k * total(terms, correlated=correlated)
    size = sum(abs(term.value or 0.0) for term in terms)
    assert left.value == pytest.approx(right.value, rel=1e-9, abs=1e-12 * k * size)
    assert left.stderr == pytest.approx(right.stderr, rel=1e-9)


@given(known_errors("W"), known_errors("s"))
def test_a_product_commutes_and_closes_its_unit(a: Estimate, b: Estimate) -> None:
    left, right = a * b, b * a
    assert left.unit == right.unit == "J"
    assert left.value == right.value
    assert left.stderr == pytest.approx(right.stderr, rel=1e-12)
    assert left.provenance == weakest(a.provenance, b.provenance, Provenance.DERIVED)


@given(known_errors("J"), known_errors("s"))
def test_a_quotient_undoes_a_product_s_value_and_never_its_error(a: Estimate, b: Estimate) -> None:
    assume(b.value != 0)
    back = (a / b) * b
    assert back.unit == "J"
    assert back.value == pytest.approx(a.value, rel=1e-9)
    assert (back.stderr or 0.0) >= (a.stderr or 0.0) * (1 - 1e-9)


@given(known_errors("J"), known_errors("step"))
def test_relative_errors_add_in_quadrature(a: Estimate, b: Estimate) -> None:
    assume(abs(a.value or 0.0) > 1e-6 and abs(b.value or 0.0) > 1e-6)
    relative = math.hypot(a.stderr / a.value, b.stderr / b.value)  # type: ignore[operator]
    for result in (a * b, a / b):
        assert result.stderr == pytest.approx(abs(result.value or 0.0) * relative, rel=1e-9)


@given(estimates(), st.sampled_from(["J", "W", "s", "loss", ""]), st.sampled_from(["", "no sensor"]))
def test_what_is_unknown_never_becomes_known(a: Estimate, unit: str, why: str) -> None:
    unknown = Estimate.unknown(unit, why)
    results = [a * unknown, unknown * a, a / unknown, unknown / a, -unknown, 2 * unknown, total([unknown, unknown])]
    if unit == "J":
        results += [a + unknown, unknown + a, a - unknown, total([a, unknown, a], correlated=True)]
    assert all(result.value is None and result.stderr is None for result in results)


anything = st.builds(
    Estimate,
    st.one_of(st.none(), st.floats()),
    st.one_of(st.none(), st.floats(min_value=0)),
    st.sampled_from(["J", "W", "loss", "J/step", ""]),
    provenances,
    st.text(max_size=20),
    st.text(max_size=20),
)


@given(anything)
def test_json_keeps_all_that_is_finite_and_nulls_the_rest(e: Estimate) -> None:
    text = json.dumps(e.to_json(), allow_nan=False)
    back = Estimate.from_json(json.loads(text))
    assert (back.unit, back.provenance, back.method) == (e.unit, e.provenance, e.method)
    assert back.known == e.known
    if e.known:
        assert (back.value, back.why) == (e.value, e.why)
        finite = e.stderr is not None and math.isfinite(e.stderr)
        assert back.stderr == (e.stderr if finite else None)
    else:
        assert (back.value, back.stderr) == (None, None)
        assert back.why or e.value is None
    assert Estimate.from_json(back.to_json()) == back


@given(anything)
def test_words_never_fail_and_say_where_a_number_is_from(e: Estimate) -> None:
    text = str(e)
    assert ("unknown" in text) if e.value is None else (str(e.provenance) in text)


@given(known_errors(), st.sampled_from(["kJ", "MJ", "mJ", "eV", "W*h"]))
def test_conversion_there_and_back(e: Estimate, unit: str) -> None:
    back = e.to(unit).to("J")
    assert back.value == pytest.approx(e.value, rel=1e-12)
    assert back.stderr == pytest.approx(e.stderr, rel=1e-12)


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_rounding_loses_a_twentieth_of_the_error_at_most(value: float, stderr: float) -> None:
    shown, error = (float(part) for part in round_to_error(value, stderr).split(" ± "))
    assert abs(shown - value) <= 0.0501 * stderr + 1e-14 * abs(value)
    assert error == pytest.approx(stderr, rel=0.051)


PREFIXES = {"f": -15, "p": -12, "n": -9, "µ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


@given(st.floats(1e-15, 1e20), st.sampled_from(["J", "W", "flop/s"]), st.booleans())
def test_words_for_a_reader_mean_the_number(size: float, unit: str, negative: bool) -> None:
    value = -size if negative else size
    found = re.fullmatch(rf"(-?[\d.]+) ([fpnµmkMGTPE]?){unit}", units.human(value, unit))
    assert found, units.human(value, unit)
    assert float(found[1]) * 10.0 ** PREFIXES[found[2]] == pytest.approx(value, rel=6e-4)
    assert 1 <= abs(float(found[1])) < 1000
