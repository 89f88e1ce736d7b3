"""Check: one number of a reference case, what it should be, and whether it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import MissingExtra

Array: TypeAlias = npt.NDArray[np.float64]
Source = Literal["exact", "published"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A number computed here beside the number that it should be.

    Attributes:
        quantity: what it is, and of how many samples.
        expected: what it should be; where ``relation`` is not ``=``, the bound that it must keep.
        value: what was found; None where it could not be computed here.
        tolerance: largest absolute difference that passes; for a bound, how far it may be overstepped.
        stderr: standard error of ``value``; 0 where nothing was sampled.
        source: ``published`` where a paper states the number, ``exact`` where it follows from the case.
        relation: ``=``, or ``≤`` or ``≥`` where ``expected`` bounds ``value``.
        why: where the tolerance or the number comes from, or why there is none.

    >>> Check(quantity="work", expected=0.18, value=0.181, tolerance=0.002).passed
    True
    """

    quantity: str
    expected: float
    value: float | None
    tolerance: float
    stderr: float = 0.0
    source: Source = "exact"
    relation: Literal["=", "≤", "≥"] = "="
    why: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the value is as expected; None where there is no value. A value that is not a number is not."""
        if self.value is None:
            return None
        above = self.value - self.expected
        over = {"=": abs(above), "≤": above, "≥": -above}[self.relation]
        return bool(over <= self.tolerance)


@dataclass(frozen=True, slots=True)
class Case:
    """A reference case: ``run`` takes a generator of random numbers and yields its checks, one by one."""

    id: str
    title: str
    run: Callable[[np.random.Generator], Iterator[Check]]


@dataclass(frozen=True, slots=True)
class Row:
    """A check of a case, and the seconds that it took."""

    case: str
    title: str
    check: Check
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON; a number that is not finite is null."""
        check = self.check
        value = check.value if check.value is not None and math.isfinite(check.value) else None
        return {
            "case": self.case,
            "title": self.title,
            "quantity": check.quantity,
            "relation": check.relation,
            "expected": check.expected,
            "source": check.source,
            "value": value,
            "stderr": check.stderr if value is not None and math.isfinite(check.stderr) else None,
            "tolerance": check.tolerance if math.isfinite(check.tolerance) else None,
            "passed": check.passed,
            "seconds": self.seconds,
            "why": check.why,
        }


def sampled(
    quantity: str, expected: float, value: float, stderr: float, *, errors: float = 3.0, source: Source = "exact"
) -> Check:
    """Return the check of a sampled number: within so many of its standard errors.

    >>> sampled("mean", 0.0, 0.05, 0.02).passed
    True
    """
    return Check(
        quantity=quantity,
        expected=expected,
        value=float(value),
        tolerance=errors * float(stderr),
        stderr=float(stderr),
        source=source,
        why=f"{errors:g} standard errors",
    )


def stderr_of_mean(values: Array) -> float:
    """Return the standard error of the mean of independent values (n,)."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def needed_torch() -> Any:
    """Return torch.

    Raises:
        MissingExtra: torch is not installed; ``pip install 'ergometry[torch]'``.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra(
            expected="torch", got="no such module", remedy="pip install 'ergometry[torch]', or name the other cases"
        ) from None
    return torch
