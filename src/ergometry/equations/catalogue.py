"""The catalogue: all sections of the equations of work and power, in order, each file of this room adding its own."""

from __future__ import annotations

from ergometry.core.errors import UsageError
from ergometry.equations import (
    budgets,
    efficiency,
    information,
    landscape,
    power,
    power_speed,
    practice,
    thermodynamic_work,
    work_loss,
)
from ergometry.equations.section import Section, Symbol, Verdict

__all__ = ["CATALOGUE", "FILES", "Section", "Symbol", "Verdict", "section"]

FILES = (thermodynamic_work, power, efficiency, work_loss, power_speed, budgets, landscape, practice, information)
"""One module per section 1–9, each with ``SECTIONS`` and ``live``."""

CATALOGUE: dict[str, Section] = {entry.id: entry for module in FILES for entry in module.SECTIONS}
"""Section id -> section, in the order of the ids."""


def section(section_id: str) -> Section:
    """Return one section of the catalogue.

    Raises:
        UsageError: no section has this id; ``erg equations`` lists them.

    >>> section("1.2").title
    'Work worth of a bit'
    """
    try:
        return CATALOGUE[section_id]
    except KeyError:
        raise UsageError(
            expected=f"one of {', '.join(CATALOGUE)}", got=repr(section_id), remedy="list them with `erg equations`"
        ) from None
