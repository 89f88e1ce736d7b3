"""Spending: what the joules of a run went to, by module, by operator and by phase, as rows whose sums are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run
from ergometry.report.module_tree import Branch, tree
from ergometry.report.rows import OTHER, Row, dearest, summed
from ergometry.work.accounts import Accounts
from ergometry.work.profiles import Item, Share, seconds_of

LEAST = 0.001
"""An operator with a smaller share of the joules gets no line of its own in a table."""

BY = ("module", "op", "phase")


@dataclass(frozen=True)
class Spending:
    """The rows of one way to divide a run's joules, the dearest first, and what of the total no row has.

    ``why`` says why there are no rows, or is empty. ``rest`` is what the phases without counted work have; it and
    the rows sum to ``whole``, the run's total.
    """

    by: str
    rows: tuple[Row, ...]
    rest: Row
    whole: Estimate
    why: str = ""

    def top(self, most: int) -> tuple[Row, ...]:
        """Return at most so many rows, of which the last sums what is left."""
        if len(self.rows) <= most:
            return self.rows
        return (*self.rows[: most - 1], summed(self.rows[most - 1 :], OTHER, self._stderr_j))

    def tree(self, most: int, root: str = "model") -> list[Branch]:
        """Return rows by module as a tree of at most so many lines."""
        return tree(self.rows, most, root, self._stderr_j)

    def lines(self, most: int, root: str = "model") -> list[tuple[int, Row]]:
        """Return the lines of a table, each with its indentation: at most so many, then the rest and the total."""
        if not self.rows:
            return []
        if self.by == "module":
            lines = [(branch.depth, branch.row) for branch in self.tree(most, root)]
        else:
            worth = sum(abs(row.energy.value or 0.0) >= LEAST * abs(self.whole.value or 0.0) for row in self.rows)
            lines = [(0, row) for row in self.top(most if self.by == "phase" else min(most, worth + 1))]
        if self.rest.energy.value:
            lines.append((0, self.rest))
        return [*lines, (0, Row("total", self.whole))]

    @property
    def _stderr_j(self) -> float:
        """What the errors of all rows, of the rest and of the total add up to, J."""
        return math.fsum(e.stderr or 0.0 for e in (self.whole, self.rest.energy, *(row.energy for row in self.rows)))


def spending(books: Accounts, by: str) -> Spending:
    """Divide a run's joules ``by`` one of :data:`BY`."""
    if by == "phase":
        none = Row("", Estimate(0.0, 0.0, "J", Provenance.DERIVED, "phases tile the run"))
        return Spending(by, _phases(books), none, books.total)
    shares = books.by_module if by == "module" else books.by_op
    rows = tuple(_row(share, calibrated=books.calibration is not None) for share in shares)
    return Spending(
        by, rows, _rest(books, rows), books.total, "" if rows else books.attribution_why or "nothing was counted"
    )


def _row(share: Share, *, calibrated: bool) -> Row:
    seconds = share.roofline_s if calibrated and share.roofline_s > 0 else math.nan
    return Row(share.name, share.energy, share.flops, share.bytes, seconds)


def _phases(books: Accounts) -> tuple[Row, ...]:
    did: dict[str, list[Item]] = {}
    for item in books.items:
        did.setdefault(item.phase, []).append(item)
    known = books.calibration
    rows = []
    for phase, energy in books.by_phase.items():
        items = did.get(phase, [])
        if not items:
            rows.append(Row(phase, energy))
            continue
        seconds = math.fsum(seconds_of(item, known) for item in items) if known is not None else 0.0
        flops, moved = math.fsum(item.flops for item in items), math.fsum(item.bytes for item in items)
        rows.append(Row(phase, energy, flops, moved, seconds or math.nan))
    return tuple(sorted(rows, key=dearest))


def root_name(run: Run) -> str:
    """Return what the outermost module of a run is called: its class, or where there are several, the model."""
    profiles = run.meta.get("profiles") or ()
    told = [p for p in profiles if isinstance(p, Mapping) and p.get("phase") in ("forward", "backward")]
    roots = {str(p["root"]) for p in told if p.get("root")}
    return roots.pop() if len(roots) == 1 else "model"


def _rest(books: Accounts, rows: Sequence[Row]) -> Row:
    """Return what of the total is in none of the rows."""
    counted = {item.phase for item in books.items} if rows else set()
    phases = {phase: energy for phase, energy in books.by_phase.items() if phase not in counted and energy.value}
    spent = books.total
    if spent.value is None:
        return Row("not divided", Estimate.unknown("J", spent.why))
    left = spent.value - math.fsum(row.energy.value or 0.0 for row in rows)
    if abs(left) < 1e-9 * abs(spent.value):
        left = 0.0
    alone = total(phases.values()) if phases else Estimate(0.0, 0.0, "J")
    same = abs((alone.value or 0.0) - left) <= 1e-6 * abs(spent.value)
    stderr = alone.stderr if same else spent.stderr
    parts = [*phases, *([] if same else ["other devices"])] if rows else []
    name = f"not divided ({', '.join(parts)})" if parts else "not divided"
    return Row(name, Estimate(left, stderr, "J", spent.provenance, "the total less all rows"))
