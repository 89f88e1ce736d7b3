"""Section: one entry of the catalogue, as plain data: what is claimed, how far it holds, what a run can say of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ergometry.core.estimate import Estimate

Real: TypeAlias = Any
"""What the formulas take and give: floats, NumPy arrays or torch tensors, which broadcast (:mod:`.elementwise`)."""

Array: TypeAlias = Any
"""The same, with one axis at least."""

Values: TypeAlias = Mapping[str, Mapping[str, Estimate]]
"""Section id -> name -> value: what one file of the room could fill for a run."""


CERTIFIED = "certified mode only: needs Langevin dynamics of known temperature"
PROBE = "needs a probe batch's outputs along the run"
TWO_SIZES = "needs |g|² at two batch sizes (E3)"
REPLAYED = "needs the loss on the same batch after the step: one more forward on sampled steps (E1)"
MIDPOINT = "needs the gradient at θ+Δθ on the same batch (midpoint, E2)"
LEDGER = "needs the ledger of gradient work: a torch optimizer, and --physics light or full"
COUNTED = "needs counted work on a calibrated device (erg calibrate)"
STAND_IN = f"needs B_c, for which B_noise stands in ({TWO_SIZES}); and counted work on a calibrated device"
"""What a value needs, where several sections say the same."""


PAGES = (
    "1-thermodynamic-work",
    "2-power",
    "3-efficiency",
    "4-work-loss",
    "5-power-speed",
    "6-budgets",
    "7-landscape",
    "8-practice",
    "9-information",
)
"""The manual's page of each file of the room."""


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
    def page(self) -> str:
        """Return where the manual has the section."""
        heading = "".join(c for c in f"{self.id} {self.title}".lower() if c.isalnum() or c == " ")
        return f"docs/equations/{PAGES[int(self.id[0]) - 1]}.md#{heading.replace(' ', '-')}"

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
            "page": self.page,
        }
