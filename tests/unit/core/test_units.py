"""Units: two scales that never meet, and words for a reader."""

from __future__ import annotations

import math

import pytest

from ergometry.core import units
from ergometry.core.errors import UnitMismatch


@pytest.mark.parametrize(
    ("a", "b", "factor"),
    [
        ("kJ", "J", 1e3),
        ("W*s", "J", 1.0),
        ("J/s", "W", 1.0),
        ("h", "s", 3600.0),
        ("MJ", "kJ", 1e3),
        ("1/s", "Hz", 1.0),
        ("eV", "J", 1.602176634e-19),
        ("bit", "nat", math.log(2)),
        ("nat", "bit", 1 / math.log(2)),
        ("loss^2", "loss^2", 1.0),
        ("", "", 1.0),
    ],
)
def test_factors(a: str, b: str, factor: float) -> None:
    assert units.factor(a, b) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b"), [("J", "loss"), ("loss", "J"), ("J", "nat"), ("nat", "loss"), ("J", "W"), ("flop", "byte"), ("", "J")]
)
def test_unlike_units_have_no_factor(a: str, b: str) -> None:
    with pytest.raises(UnitMismatch):
        units.factor(a, b)


@pytest.mark.parametrize(("a", "b"), [("furlong", "J"), ("J", "furlong")])
def test_what_is_no_unit_is_named(a: str, b: str) -> None:
    with pytest.raises(UnitMismatch, match="furlong"):
        units.factor(a, b)
    with pytest.raises(UnitMismatch, match="furlong"):
        units.product(a, b)


@pytest.mark.parametrize(
    ("a", "b", "inverse", "expected"),
    [
        ("W", "s", False, (1.0, "J")),
        ("J", "s", True, (1.0, "W")),
        ("J", "W", True, (1.0, "s")),
        ("J", "step", True, (1.0, "J/step")),
        ("J/step", "step", False, (1.0, "J")),
        ("kJ", "h", True, (1000 / 3600, "W")),
        ("loss", "loss", False, (1.0, "loss^2")),
        ("loss^2", "loss", True, (1.0, "loss")),
        ("J", "loss", True, (1.0, "J/loss")),
        ("J/loss", "loss", False, (1.0, "J")),
        ("nat", "bit", True, (1 / math.log(2), "")),
        ("flop/s", "W", True, (1.0, "flop/J")),
        ("", "s", True, (1.0, "1/s")),
        ("J", "J", True, (1.0, "")),
    ],
)
def test_products(a: str, b: str, inverse: bool, expected: tuple[float, str]) -> None:
    factor, unit = units.product(a, b, inverse=inverse)
    assert factor == pytest.approx(expected[0], rel=1e-12)
    assert unit == expected[1]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (20480.0, "J", "20.48 kJ"),
        (999.96, "J", "1 kJ"),
        (1000.0, "J", "1 kJ"),
        (0.00032, "s", "320 µs"),
        (90.0, "s", "90 s"),
        (3600.0, "s", "3600 s"),
        (1.25e12, "flop/s", "1.25 Tflop/s"),
        (-5300.0, "J", "-5.3 kJ"),
        (0.0, "J", "0 J"),
        (1e22, "J", "1e+04 EJ"),
        (12345.678, "example", "1.235e+04 example"),
        (1.5, "", "1.5"),
        (math.nan, "J", "nan J"),
        (math.inf, "", "inf"),
    ],
)
def test_words_for_a_reader(value: float, unit: str, text: str) -> None:
    assert units.human(value, unit) == text
