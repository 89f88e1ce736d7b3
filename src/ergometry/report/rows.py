"""Rows: one line of a table of joules, its numbers in words, and several lines as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.units import human
from ergometry.report.words import UNKNOWN, percent, quantity

OTHER = "other"
"""What a row is called that sums the small ones."""

HEADER = {
    "energy": "energy",
    "share": "share",
    "flops": "FLOP",
    "bytes": "bytes",
    "roofline_s": "roofline",
    "j_per_flop": "J/FLOP",
    "intensity": "FLOP/B",
}
"""The columns of a table and what a reader calls them."""

COUNTED, AT_ROOFLINE = "counted in the operators that ran", "counted work at the calibrated peaks"


@dataclass(frozen=True)
class Row:
    """One line of a table: joules, the work they did, and the least seconds that work takes at the roofline.

    ``flops``, ``bytes`` and ``roofline_s`` are NaN where they are not known. ``merged`` counts what was summed in it.
    """

    name: str
    energy: Estimate
    flops: float = math.nan
    bytes: float = math.nan
    roofline_s: float = math.nan
    merged: int = 1

    @property
    def j_per_flop(self) -> Estimate:
        """Joules of all it did over its FLOP, J/flop."""
        if not self.flops > 0:
            return Estimate.unknown("J/flop", "no FLOP were counted in it")
        per = self.energy * (1.0 / self.flops)
        return replace(per, unit="J/flop", method="energy over counted FLOP")

    @property
    def intensity(self) -> Estimate:
        """Arithmetic intensity, flop/byte."""
        if not (self.bytes > 0 and self.flops >= 0):
            return Estimate.unknown("flop/byte", "no bytes were counted in it")
        return Estimate(self.flops / self.bytes, None, "flop/byte", Provenance.DERIVED, COUNTED)

    def share(self, whole: Estimate) -> Estimate:
        """Return the fraction of the run's joules that it has."""
        if self.energy.value is None or not whole.value:
            return Estimate.unknown("", self.energy.why or whole.why or "the run spent nothing")
        stderr = None if self.energy.stderr is None else self.energy.stderr / whole.value
        return Estimate(self.energy.value / whole.value, stderr, "", Provenance.DERIVED, "of the run's energy")

    def to_json(self, whole: Estimate) -> dict[str, Any]:
        """Return the row as JSON, in which estimates stay."""
        return {
            "name": self.name,
            "merged": self.merged,
            "energy": self.energy,
            "share": self.share(whole),
            "flops": _counted(self.flops, "flop", COUNTED),
            "bytes": _counted(self.bytes, "byte", COUNTED),
            "roofline_s": _counted(self.roofline_s, "s", AT_ROOFLINE),
            "j_per_flop": self.j_per_flop,
            "intensity": self.intensity,
        }


def _counted(value: float, unit: str, method: str) -> Estimate:
    if not math.isfinite(value):
        return Estimate.unknown(unit, "needs a calibration" if method == AT_ROOFLINE else "nothing was counted in it")
    return Estimate(value, None, unit, Provenance.DERIVED, method)


def dearest(row: Row) -> float:
    """Return what rows are sorted by: the dearest first, the unknown last."""
    return -(row.energy.value if row.energy.value is not None else -math.inf)


def summed(rows: Sequence[Row], name: str, whole_stderr_j: float = math.inf) -> Row:
    """Return rows as one, with an upper bound of its error.

    Errors of rows share causes, so they add linearly at most. Nor is a sum further off than the total and all that is
    not in it are together: ``whole_stderr_j`` is what the errors of all, those of these rows included, add up to.
    """
    energy = total((row.energy for row in rows), correlated=True)
    if energy.stderr is not None and len(rows) > 1:
        energy = replace(energy, stderr=min(energy.stderr, whole_stderr_j - energy.stderr))
    return Row(
        name,
        energy,
        math.fsum(row.flops for row in rows),
        math.fsum(row.bytes for row in rows),
        math.fsum(row.roofline_s for row in rows),
        sum(row.merged for row in rows),
    )


def cells(row: Row, whole: Estimate) -> dict[str, str]:
    """Return a row's numbers in words, by column."""
    share = row.share(whole).value
    return {
        "energy": quantity(row.energy),
        "share": UNKNOWN if share is None else percent(share),
        "flops": _number(row.flops, "flop").removesuffix("flop").rstrip(),
        "bytes": _number(row.bytes, "B"),
        "roofline_s": _number(row.roofline_s, "s"),
        "j_per_flop": _number(row.j_per_flop.value, "J"),
        "intensity": _number(row.intensity.value, ""),
    }


def _number(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return human(value, unit, 3) if value else "0"


def merged_name(row: Row) -> str:
    """Return a row's name, with how many it sums."""
    return f"{row.name} ({row.merged})" if row.name == OTHER and row.merged > 1 else row.name or "(the model itself)"
