"""Estimate: a number with its standard error, its unit, its provenance and the method that gave it."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ergometry.core import units


class Provenance(enum.StrEnum):
    """Where a number comes from, the strongest first. A sum keeps the weakest of its terms."""

    MEASURED = "measured"
    """Read from a hardware counter or a clock."""
    DERIVED = "derived"
    """Computed from measured and counted values."""
    MODELLED = "modelled"
    """No sensor: a model with a known held-out error."""
    ASSUMED = "assumed"
    """A constant of the user's or of a data sheet."""

    @property
    def rank(self) -> int:
        """Return 0 for measured up to 3 for assumed."""
        return _RANK[self]


_RANK = {p: rank for rank, p in enumerate(Provenance)}


def weakest(*provenances: Provenance) -> Provenance:
    """Return the weakest of several provenances.

    >>> str(weakest(Provenance.MEASURED, Provenance.MODELLED))
    'modelled'
    """
    return max(provenances, key=lambda p: p.rank)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity: value, standard uncertainty (one sigma, same unit), unit, provenance, method.

    ``value`` None means *not known*, and ``why`` then says what it would need; ``why`` beside a value says that
    it was inferred, and how. ``stderr`` None means that no error is known, never that it is zero.

    ``+`` and ``-`` take the two errors as independent; use :func:`total` with ``correlated=True`` for terms
    that share their error (two windows of one uncalibrated board). Unlike units raise
    :class:`~ergometry.core.errors.UnitMismatch`; unknown terms make the result unknown.

    >>> e = Estimate(400.0, 3.0, "J") + Estimate(12.7, 4.0, "J")
    >>> print(e)
    412.7 ± 5 J (measured)
    """

    value: float | None
    stderr: float | None = None
    unit: str = ""
    provenance: Provenance = Provenance.MEASURED
    method: str = ""
    why: str = ""

    @classmethod
    def unknown(cls, unit: str, why: str, provenance: Provenance = Provenance.DERIVED) -> Estimate:
        """Return a value that is not known, with the reason."""
        return cls(None, None, unit, provenance, "", why)

    @property
    def known(self) -> bool:
        """Say whether there is a finite value."""
        return self.value is not None and math.isfinite(self.value)

    def to(self, unit: str) -> Estimate:
        """Return the same quantity in another unit of the same dimension."""
        k = units.factor(self.unit, unit)
        return replace(self._scaled(k), unit=unit)

    def _scaled(self, k: float) -> Estimate:
        value = None if self.value is None else self.value * k
        stderr = None if self.stderr is None else self.stderr * abs(k)
        return replace(self, value=value, stderr=stderr)

    def __neg__(self) -> Estimate:
        return self._scaled(-1.0)

    def __add__(self, other: Estimate) -> Estimate:
        if not isinstance(other, Estimate):
            return NotImplemented
        return total([self, other])

    def __sub__(self, other: Estimate) -> Estimate:
        if not isinstance(other, Estimate):
            return NotImplemented
        return total([self, -other])

    def __mul__(self, other: Estimate | float) -> Estimate:
        if not isinstance(other, Estimate):
            return self._scaled(float(other))
        return self._combine(other, inverse=False)

    __rmul__ = __mul__

    def __truediv__(self, other: Estimate | float) -> Estimate:
        if not isinstance(other, Estimate):
            if other == 0:
                return replace(
                    self, value=None, stderr=None, why=self.why if self.value is None else "division by zero"
                )
            return self._scaled(1.0 / float(other))
        return self._combine(other, inverse=True)

    def _combine(self, other: Estimate, *, inverse: bool) -> Estimate:
        k, unit = units.product(self.unit, other.unit, inverse=inverse)
        provenance = weakest(self.provenance, other.provenance, Provenance.DERIVED)
        a, b = self.value, other.value
        if a is None or b is None or (inverse and b == 0):
            why = self.why if a is None else other.why if b is None else "division by zero"
            return Estimate.unknown(unit, why, provenance)
        value = k * (a / b if inverse else a * b)
        stderr = None
        if self.stderr is not None and other.stderr is not None:
            partials = (self.stderr / b, a / b * (other.stderr / b)) if inverse else (self.stderr * b, a * other.stderr)
            stderr = abs(k) * math.hypot(*partials)
        return Estimate(value, stderr, unit, provenance, self.method or other.method, self.why or other.why)

    def __str__(self) -> str:
        if self.value is None:
            return f"unknown ({self.why})"
        label = f"{self.provenance}: {self.method}" if self.method else str(self.provenance)
        if self.stderr is None:
            return f"{self.value:.4g} {self.unit} ({label})".replace("  ", " ")
        return f"{round_to_error(self.value, self.stderr)} {self.unit} ({label})".replace("  ", " ")

    def to_json(self) -> dict[str, Any]:
        """Return the ``Q`` object of the JSON summary; NaN and infinity become null, and ``why`` says so."""
        why, value = self.why, self.value
        if value is not None and not math.isfinite(value):
            value, why = None, why or f"the value is {value}"
        stderr = self.stderr if value is not None and self.stderr is not None and math.isfinite(self.stderr) else None
        return {
            "value": value,
            "stderr": stderr,
            "unit": self.unit,
            "provenance": str(self.provenance),
            "method": self.method,
            "why": why,
        }

    @classmethod
    def from_json(cls, q: dict[str, Any]) -> Estimate:
        """Return the estimate that :meth:`to_json` wrote."""
        return cls(q["value"], q["stderr"], q["unit"], Provenance(q["provenance"]), q["method"], q["why"])


def total(terms: Iterable[Estimate], *, correlated: bool = False, method: str = "") -> Estimate:
    """Return the sum of several estimates, in the unit of the first, with the weakest provenance.

    The standard errors add in quadrature, or linearly when ``correlated`` (the upper bound, exact when all terms
    share one cause of error). One unknown term makes the sum unknown: a partial sum is never passed off as whole.

    Raises:
        UnitMismatch: the units are not of one dimension.
    """
    terms = list(terms)
    if not terms:
        return Estimate.unknown("", "a sum of nothing")
    unit = terms[0].unit
    terms = [term if term.unit == unit else term.to(unit) for term in terms]
    provenance = weakest(*(term.provenance for term in terms))
    methods = dict.fromkeys(name for term in terms if term.method for name in term.method.split(" + "))
    method = method or " + ".join(methods)
    missing = next((term for term in terms if term.value is None), None)
    if missing is not None:
        return Estimate(None, None, unit, provenance, method, missing.why)
    values = [term.value for term in terms if term.value is not None]
    value = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
    errors = [term.stderr for term in terms]
    stderr = None
    if all(error is not None for error in errors):
        known = [error for error in errors if error is not None]
        stderr = math.fsum(known) if correlated else math.hypot(*known)
    why = next((term.why for term in terms if term.why), "")
    return Estimate(value, stderr, unit, provenance, method, why)


def round_to_error(value: float, stderr: float) -> str:
    """Return ``value ± stderr`` with the digits that the error allows (two of the error's).

    >>> round_to_error(412.6789, 1.27)
    '412.7 ± 1.3'
    """
    if not (math.isfinite(value) and math.isfinite(stderr)) or stderr <= 0:
        return f"{value:.4g} ± {stderr:.2g}"
    decimals = 1 - math.floor(math.log10(stderr))
    if -5 < decimals <= 6 and abs(value) < 1e6:
        shown = max(decimals, 0)
        return f"{_trim(value, shown, decimals)} ± {_trim(stderr, shown, decimals)}"
    digits = 1 + decimals + (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:.{min(max(digits, 1), 15)}g} ± {stderr:.2g}"


def _trim(x: float, shown: int, decimals: int) -> str:
    text = f"{round(x, decimals) + 0.0:.{shown}f}"  # + 0.0: no minus before a zero
    return text.rstrip("0").rstrip(".") if "." in text else text
