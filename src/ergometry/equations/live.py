"""Live values: what a stored run can say of each of the 23 sections, in the form of the JSON contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ergometry.core.errors import UnitMismatch
from ergometry.core.estimate import Estimate
from ergometry.core.run import Run
from ergometry.equations.catalogue import CATALOGUE, FILES
from ergometry.equations.readings import Readings, read
from ergometry.equations.section import Section
from ergometry.work.accounts import Accounts


def entries(run: Run, accounts: Accounts) -> dict[str, dict[str, Any]]:
    """Return every section's values for a run: id -> title, verdict, why, ``as_written`` and ``repair`` (name -> Q).

    Every id and every name of the catalogue is present, in the catalogue's units; a value that the run cannot give is
    null and its ``why`` says what it would need.
    """
    # A diverged run holds NaN and infinity: what comes out so is null, with its reason, and no warning.
    with np.errstate(all="ignore"):
        filled = values(read(run, accounts))
    for section_id, proven in certified(run).items():
        filled[section_id] = {**filled.get(section_id, {}), **proven}
    return {section_id: _entry(section, filled.get(section_id, {})) for section_id, section in CATALOGUE.items()}


def certified(run: Run) -> dict[str, Mapping[str, Estimate]]:
    """Return what the run's label ``certified`` holds: id -> name -> estimate, as certified mode wrote them."""
    kept = run.meta.get("certified")
    found: dict[str, Mapping[str, Estimate]] = {}
    for section_id, told in kept.items() if isinstance(kept, Mapping) else ():
        section = CATALOGUE.get(section_id)
        if section is not None and isinstance(told, Mapping):
            units = section.names
            found[section_id] = {name: _told(q, units[name]) for name, q in told.items() if name in units}
    return found


def _told(q: Any, unit: str) -> Estimate:
    try:
        return Estimate.from_json(q).to(unit)
    except (KeyError, TypeError, ValueError, UnitMismatch):
        return Estimate.unknown(unit, "certified mode wrote what cannot be read")


def values(readings: Readings) -> dict[str, Mapping[str, Estimate]]:
    """Return what the sections could fill: id -> name -> estimate, before units are those of the catalogue."""
    return {section_id: found for module in FILES for section_id, found in module.live(readings).items()}


def _entry(section: Section, found: Mapping[str, Estimate]) -> dict[str, Any]:
    def quantities(names: Mapping[str, str]) -> dict[str, Any]:
        return {name: _quantity(section, found, name, unit).to_json() for name, unit in names.items()}

    return {
        "title": section.title,
        "verdict": section.verdict_json(),
        "why": section.why,
        "as_written": quantities(section.as_written_names),
        "repair": quantities(section.repair_names),
    }


def _quantity(section: Section, found: Mapping[str, Estimate], name: str, unit: str) -> Estimate:
    if name in found:
        return found[name].to(unit)
    return Estimate.unknown(unit, section.needs[name])
