"""Words: quantities, durations and counts as a reader sees them. Only here do SI values become kJ, minutes and %."""

from __future__ import annotations

import math
from typing import NamedTuple

from ergometry.core.estimate import Estimate, round_to_error
from ergometry.core.units import human

#: Powers of ten of the prefixes that :func:`ergometry.core.units.human` writes.
_PREFIXES = {"f": -15, "p": -12, "n": -9, "µ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}

#: Units that are counted, so that a reader expects ``6 400 examples``.
_COUNTED = ("step", "example", "token", "parameter")

#: What a reader calls units that take other names in the summary; those of the first kind take no SI prefix.
_UNPREFIXED = {"degC": "°C"}
_NAMED = {"byte": "B", "byte/s": "B/s"}

#: An error this small beside its value is the rounding of floats, not something known.
_NO_ERROR = 1e-9

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

UNKNOWN = "–"
"""What stands where a value is not known."""

UPPER = "an upper bound"
"""What the reason of a value that has no error says where it is one."""

NO_BREAK = "\N{NO-BREAK SPACE}"


class Shown(NamedTuple):
    """A quantity in three parts: ``20.48``, ``0.13`` (empty when no error is known, or none) and ``kJ``."""

    value: str
    error: str
    unit: str

    def __str__(self) -> str:
        return f"{self.value} ± {self.error} {self.unit}".strip() if self.error else f"{self.value} {self.unit}".strip()


def show(estimate: Estimate, like: Estimate | None = None) -> Shown:
    """Return a quantity with an SI prefix and the digits that its error allows; ``like`` gives the prefix, if any."""
    value, stderr, unit = estimate.value, estimate.stderr, estimate.unit
    if value is None or not math.isfinite(value):
        return Shown(UNKNOWN, "", "")
    has_error = stderr is not None and math.isfinite(stderr) and stderr > _NO_ERROR * abs(value)
    if unit in _COUNTED:
        plural = unit if value == 1 else unit + "s"
        if not has_error:
            return Shown(grouped(value), "", plural)
        return Shown(*_aligned(*round_to_error(value, stderr or 0.0).split(" ± ")), plural)
    exponent, shown = (
        (0, _UNPREFIXED[unit]) if unit in _UNPREFIXED else _scale(_anchor(like or estimate), _NAMED.get(unit, unit))
    )
    value, error = value * 10.0**-exponent, (stderr or 0.0) * 10.0**-exponent
    if not has_error:
        return Shown(f"{value:.4g}", "", shown)
    return Shown(*_aligned(*round_to_error(value, error).split(" ± ")), shown)


def _anchor(estimate: Estimate) -> float:
    """Return what a prefix is chosen for: the larger of value and error, so that "0 ± 3 kJ" is not in joules."""
    both = (abs(estimate.value or 0.0), estimate.stderr or 0.0)
    return max(number if math.isfinite(number) else 0.0 for number in both)


def _scale(anchor: float, unit: str) -> tuple[int, str]:
    """Return the power of ten to take out of a value, and its unit then: with an SI prefix, or with that power."""
    if unit and 1e-15 <= anchor < 1e21:
        prefix = human(anchor, unit).split(" ", 1)[1].removesuffix(unit)
        if _PREFIXES.get(prefix):
            return _PREFIXES[prefix], prefix + unit
    if anchor == 0 or 1e-4 <= anchor < 1e6:
        return 0, unit
    exponent = math.floor(math.log10(anchor))
    return exponent, f"×10{str(exponent).translate(_SUPERSCRIPTS)} {unit}".strip()


def _aligned(value: str, error: str) -> tuple[str, str]:
    """Return a value and its error with equally many decimals: 1.00 ± 0.63, not 1 ± 0.63."""
    if "e" in value + error:
        return value, error
    decimals = max(len(text.partition(".")[2]) for text in (value, error))
    return f"{float(value):.{decimals}f}", f"{float(error):.{decimals}f}"


def quantity(estimate: Estimate) -> str:
    """Return value ± error and unit as one string.

    >>> quantity(Estimate(20480.0, 130.0, "J"))
    '20.48 ± 0.13 kJ'
    >>> quantity(Estimate(6400.0, 0.0, "example")).replace(NO_BREAK, "_")
    '6_400 examples'
    >>> quantity(Estimate(2.8e-21, None, "J")), quantity(Estimate.unknown("J", "no sensor"))
    ('2.8 ×10⁻²¹ J', '–')
    >>> quantity(Estimate(120.0, None, "nat", why="an upper bound: labels may have come twice"))
    '≤ 120 nat'
    """
    bound = estimate.known and estimate.stderr is None and UPPER in estimate.why
    return f"≤ {show(estimate)}" if bound else str(show(estimate))


def grouped(value: float) -> str:
    """Return a count with its thousands set apart; from a hundred million on, in words.

    >>> grouped(409600.0).replace(NO_BREAK, "_"), grouped(1.5e9)
    ('409_600', '1.5 billion')
    """
    for power, word in ((12, "trillion"), (9, "billion"), (6, "million")):
        if abs(value) >= 10.0 ** max(power, 8):
            return f"{value / 10.0**power:.4g} {word}"
    return f"{value:,.0f}".replace(",", NO_BREAK) if value == round(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a stretch of time as a reader says it.

    >>> [duration(s) for s in (0.0123, 22.25, 125.0, 5025.0, 200000.0)]
    ['12.3 ms', '22.2 s', '2 min 5 s', '1 h 24 min', '2 d 8 h']
    """
    if not math.isfinite(seconds):
        return UNKNOWN
    if abs(seconds) < 60:
        return human(seconds, "s", 3)
    large, size, small, part = (
        ("min", 60, "s", 1)
        if seconds < 3600
        else ("h", 3600, "min", 60)
        if seconds < 86400
        else ("d", 86400, "h", 3600)
    )
    whole, rest = divmod(round(seconds / part), size // part)
    return f"{whole} {large}" + (f" {rest} {small}" if rest else "")


def percent(fraction: float) -> str:
    """Return a fraction as a percentage.

    >>> percent(0.3642), percent(0.0421), percent(0.004), percent(0.0)
    ('36 %', '4.2 %', '0.4 %', '0 %')
    """
    if not math.isfinite(fraction):
        return UNKNOWN
    value = 100.0 * fraction
    if value == 0 or abs(value) >= 9.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if abs(value) >= 1 else f"{value:.1g} %"


def listed(items: list[str]) -> str:
    """Return several items as a phrase.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
