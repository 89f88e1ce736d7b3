"""Section: one entry of the catalogue, as plain data: what is claimed, how far it holds, what a run can say of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ergometry.core.estimate import Estimate

Array: TypeAlias = npt.NDArray[np.float64]

Real: TypeAlias = float | Array
"""What the formulas take and give: a float, or a float64 array for element-wise evaluation."""

Values: TypeAlias = Mapping[str, Mapping[str, Estimate]]
"""Section id -> name -> value: what one file of the room could fill for a run."""


class Verdict(enum.StrEnum):
    """How far a formula holds as written."""

    EXACT = "exact"
    """A theorem or a definition."""
    MODEL = "model"
    """True up to a stated approximation."""
    VACUOUS = "vacuous"
    """True, and says nothing at today's scale."""
    INCONSISTENT = "inconsistent"
    """Its units do not close."""
    FALSE = "false"
    """A counterexample exists."""


class Symbol(NamedTuple):
    """A symbol of a formula: how it is written, its unit (of :mod:`ergometry.core.units`), what it means."""

    symbol: str
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One numbered formula.

    ``as_written_names`` and ``repair_names`` map each value that a run's summary carries to its unit; a name
    occurs once in a section. ``needs`` says, for a value that not every run can fill, what it takes; the
    first of ``as_written_names`` is the formula's left side. ``tells`` is what a reader learns from the number.
    """

    id: str
    title: str
    as_written: str
    symbols: tuple[Symbol, ...]
    verdict: Verdict | Mapping[str, Verdict]
    why: str
    repair: str
    as_written_names: Mapping[str, str]
    repair_names: Mapping[str, str]
    tells: str
    needs: Mapping[str, str] = field(default_factory=dict)
    estimator: str = ""
    references: tuple[str, ...] = ()

    @property
    def names(self) -> dict[str, str]:
        """Return every name with its unit, those of the formula as written first."""
        return {**self.as_written_names, **self.repair_names}

    @property
    def unit(self) -> str:
        """Return the unit of the formula's left side."""
        return next(iter(self.as_written_names.values()))

    @property
    def verdict_text(self) -> str:
        """Return the verdict in words; on two scales, one after the other."""
        if isinstance(self.verdict, Verdict):
            return str(self.verdict)
        return ", ".join(f"{verdict} ({scale})" for scale, verdict in self.verdict.items())

    def verdict_json(self) -> str | dict[str, str]:
        """Return the verdict as the JSON contract has it."""
        if isinstance(self.verdict, Verdict):
            return str(self.verdict)
        return {scale: str(verdict) for scale, verdict in self.verdict.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the section as JSON."""
        return {
            "id": self.id,
            "title": self.title,
            "as_written": self.as_written,
            "symbols": [symbol._asdict() for symbol in self.symbols],
            "verdict": self.verdict_json(),
            "why": self.why,
            "repair": self.repair,
            "as_written_names": dict(self.as_written_names),
            "repair_names": dict(self.repair_names),
            "needs": dict(self.needs),
            "tells": self.tells,
            "estimator": self.estimator,
            "references": list(self.references),
        }
