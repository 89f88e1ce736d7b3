"""Estimate: what adds, what does not, and how it is written."""

from __future__ import annotations

import json
import math

import pytest

from ergometry.core.errors import UnitMismatch
from ergometry.core.estimate import Estimate, Provenance, round_to_error, total, weakest


def test_a_sum_adds_values_and_errors_in_quadrature() -> None:
    e = Estimate(400.0, 3.0, "J") + Estimate(12.7, 4.0, "J")
    assert (e.value, e.stderr, e.unit, e.provenance) == (412.7, 5.0, "J", Provenance.MEASURED)


def test_a_difference_adds_the_errors_too() -> None:
    e = Estimate(400.0, 3.0, "J") - Estimate(12.5, 4.0, "J")
    assert (e.value, e.stderr) == (387.5, 5.0)


def test_correlated_terms_add_their_errors_linearly() -> None:
    terms = [Estimate(10.0, 1.0, "J"), Estimate(20.0, 2.0, "J"), Estimate(5.0, 0.5, "J")]
    assert total(terms, correlated=True).stderr == 3.5
    assert total(terms).stderr == pytest.approx(math.sqrt(5.25))


def test_a_sum_is_in_the_unit_of_its_first_term() -> None:
    e = total([Estimate(1.0, 0.1, "kJ"), Estimate(500.0, 200.0, "J")])
    assert (e.value, e.unit) == (1.5, "kJ")
    assert e.stderr == pytest.approx(math.hypot(0.1, 0.2))


@pytest.mark.parametrize("other", [Estimate(1.0, 0.1, "loss"), Estimate(1.0, 0.1, "nat"), Estimate(1.0, 0.1, "")])
def test_a_joule_adds_to_no_other_scale(other: Estimate) -> None:
    joule = Estimate(1.0, 0.1, "J")
    for combine in (lambda: joule + other, lambda: joule - other, lambda: other + joule, lambda: total([joule, other])):
        with pytest.raises(UnitMismatch):
            combine()


def test_a_sum_with_a_plain_number_is_refused() -> None:
    with pytest.raises(TypeError):
        Estimate(1.0, 0.1, "J") + 1.0  # type: ignore[operator]
    with pytest.raises(TypeError):
        Estimate(1.0, 0.1, "J") - 1.0  # type: ignore[operator]


@pytest.mark.parametrize("first", list(Provenance))
@pytest.mark.parametrize("second", list(Provenance))
def test_the_weakest_provenance_is_kept(first: Provenance, second: Provenance) -> None:
    order = ["measured", "derived", "modelled", "assumed"]
    expected = max(first, second, key=lambda p: order.index(str(p)))
    a, b = Estimate(2.0, 0.1, "J", first), Estimate(4.0, 0.1, "J", second)
    assert (a + b).provenance == (b - a).provenance == weakest(first, second) == expected
    computed = max(expected, Provenance.DERIVED, key=lambda p: order.index(str(p)))
    assert (a * b).provenance == (a / b).provenance == computed


def test_a_product_closes_its_unit_and_adds_relative_errors() -> None:
    e = Estimate(50.0, 5.0, "W") * Estimate(4.0, 0.8, "s")
    assert (e.value, e.unit) == (200.0, "J")
    assert e.stderr == pytest.approx(200 * math.hypot(0.1, 0.2))


def test_a_quotient_closes_its_unit_and_adds_relative_errors() -> None:
    e = Estimate(200.0, 20.0, "J") / Estimate(4.0, 0.8, "step")
    assert (e.value, e.unit) == (50.0, "J/step")
    assert e.stderr == pytest.approx(50 * math.hypot(0.1, 0.2))


def test_a_unit_that_is_turned_on_the_way_turns_the_error_with_it() -> None:
    e = Estimate(2.0, 0.5, "kJ") / Estimate(4.0, 0.0, "s")
    assert (e.value, e.stderr, e.unit) == (500.0, 125.0, "W")


def test_a_quotient_of_tiny_or_huge_values_does_not_overflow_on_the_way() -> None:
    small = Estimate(1e-200, 1e-201, "J") / Estimate(1e-200, 1e-201, "s")
    large = Estimate(1e200, 1e199, "J") / Estimate(1e200, 1e199, "s")
    for e in (small, large):
        assert e.value == pytest.approx(1.0)
        assert e.stderr == pytest.approx(0.1 * math.sqrt(2))


def test_scaling_by_a_number_scales_the_error_by_its_size() -> None:
    e = -3 * Estimate(2.0, 0.5, "J")
    assert (e.value, e.stderr, e.unit, e.provenance) == (-6.0, 1.5, "J", Provenance.MEASURED)
    assert (Estimate(2.0, 0.5, "J") / -4).stderr == 0.125


@pytest.mark.parametrize("zero", [0, 0.0, Estimate(0.0, 0.0, "step", why="counted from the first tensor")])
def test_division_by_zero_is_unknown_and_says_so(zero: object) -> None:
    e = Estimate(2.0, 0.5, "J") / zero  # type: ignore[operator]
    assert (e.value, e.stderr, e.why) == (None, None, "division by zero")


def test_an_unknown_term_makes_every_result_unknown_with_its_reason() -> None:
    known, unknown = Estimate(1.0, 0.1, "J", why="inferred"), Estimate.unknown("J", "no sensor")
    for e in (
        known + unknown,
        unknown - known,
        known * unknown,
        unknown / known,
        known / unknown,
        unknown * 3,
        -unknown,
    ):
        assert (e.value, e.stderr, e.known, e.why) == (None, None, False, "no sensor")


def test_an_unknown_error_stays_unknown_and_is_never_zero() -> None:
    with_error, without = Estimate(1.0, 0.1, "J"), Estimate(2.0, None, "J")
    for e in (with_error + without, with_error * without, without / with_error, 2 * without):
        assert e.value is not None
        assert e.stderr is None


def test_a_sum_of_nothing_is_unknown() -> None:
    assert total([]).value is None


def test_infinities_add_up_to_nothing_known_rather_than_raise() -> None:
    e = total([Estimate(math.inf, 1.0, "J"), Estimate(-math.inf, 1.0, "J")])
    assert not e.known
    assert e.to_json()["value"] is None


def test_conversion_carries_the_error() -> None:
    e = Estimate(2500.0, 50.0, "J").to("kJ")
    assert (e.value, e.stderr, e.unit) == (2.5, 0.05, "kJ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_turns_what_is_not_finite_into_null_and_says_so(value: float) -> None:
    q = Estimate(value, 1.0, "J").to_json()
    assert (q["value"], q["stderr"]) == (None, None)
    assert str(value) in q["why"]
    json.dumps(q, allow_nan=False)


def test_json_turns_an_infinite_error_into_null_and_keeps_the_value() -> None:
    q = Estimate(1.0, math.inf, "J").to_json()
    assert (q["value"], q["stderr"]) == (1.0, None)


def test_json_has_the_fields_of_the_contract() -> None:
    q = Estimate(1.0, 0.5, "J", Provenance.MODELLED, "cpu load model", "inferred").to_json()
    assert q == {
        "value": 1.0,
        "stderr": 0.5,
        "unit": "J",
        "provenance": "modelled",
        "method": "cpu load model",
        "why": "inferred",
    }


def test_a_sum_names_each_method_once() -> None:
    a, b = Estimate(1.0, 0.1, "J", method="rapl"), Estimate(1.0, 0.1, "J", method="nvml")
    assert (a + b + a).method == "rapl + nvml"


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (412.6789, 1.27, "412.7 ± 1.3"),
        (412.7, 5.0, "412.7 ± 5"),
        (400.0, 3.0, "400 ± 3"),
        (41267.0, 1270.0, "41300 ± 1300"),
        (0.00123456, 0.000045, "0.001235 ± 0.000045"),
        (-0.001, 0.5, "0 ± 0.5"),
        (5.0, 0.0, "5 ± 0"),
        (1.5e9, 2.3e7, "1.5e+09 ± 2.3e+07"),
        (math.nan, 1.0, "nan ± 1"),
    ],
)
def test_a_value_shows_the_digits_that_its_error_allows(value: float, stderr: float, text: str) -> None:
    assert round_to_error(value, stderr) == text


def test_words() -> None:
    assert str(Estimate(412.6789, 1.27, "J", method="nvml gpu0")) == "412.7 ± 1.3 J (measured: nvml gpu0)"
    assert str(Estimate(2.0, None, "", Provenance.ASSUMED)) == "2 (assumed)"
    assert str(Estimate.unknown("J", "no sensor")) == "unknown (no sensor)"
