"""Icicle: the joules of a run by module, each module drawn within the one that holds it."""

from __future__ import annotations

from dataclasses import replace

from ergometry.core.estimate import Provenance
from ergometry.report.book import Book
from ergometry.report.module_tree import Branch
from ergometry.report.plots import HATCH, Figure, Plot, View, rounded
from ergometry.report.rows import Row, merged_name
from ergometry.report.spending import root_name, spending
from ergometry.report.words import percent, quantity

MOST = 120
"""Modules drawn; the small ones are summed."""

RUN = "the run"

_COLOURS = 5
_REST = "not divided"


def icicle(book: Book) -> Figure | None:
    """Return joules by module: what is drawn within a module sums to it, and what is within the run to its total."""
    spent = spending(book.accounts, "module")
    whole = spent.whole.value
    if not spent.rows or not whole or not whole > 0:
        return None
    tree = spent.tree(MOST, root_name(book.run))
    branches = [Branch(RUN, "", 0, Row(RUN, spent.whole)), *(_within_run(branch) for branch in tree)]
    if (spent.rest.energy.value or 0.0) > 0:
        branches.append(Branch(f"{RUN}.", RUN, 1, replace(spent.rest, name=_REST)))
    branches = [branch for branch in branches if (branch.row.energy.value or 0.0) > 0]
    names = [branch.row.name if branch.parent == RUN else merged_name(branch.row) for branch in branches]
    said = [f"{quantity(b.row.energy)}, {percent(b.row.share(spent.whole).value or 0.0)} of the run" for b in branches]
    trace: Plot = {
        "type": "icicle",
        "ids": [branch.path for branch in branches],
        "parents": [branch.parent for branch in branches],
        "labels": names,
        "values": rounded(_own_j(branches)),
        "text": said,
        "branchvalues": "remainder",
        "texttemplate": "%{label}",
        "hovertemplate": "%{label}<br>%{text}<extra></extra>",
        "meta": {"roles": _roles(branches), "depths": [branch.depth for branch in branches]},
    }
    weak = any(branch.row.energy.provenance.rank > Provenance.DERIVED.rank for branch in branches)
    if weak:
        trace["marker"] = {"pattern": HATCH | {"fillmode": "overlay", "fgopacity": 0.35}}
    plot = {"data": [trace], "layout": {}}
    caption = "A module is as high as its energy, within the module that holds it. Choose one to look into it."
    return Figure("modules", "Energy by module", caption, (View("", (), plot),), wide=True)


def _within_run(branch: Branch) -> Branch:
    return Branch(f"{RUN}.{branch.path}", f"{RUN}.{branch.parent}".rstrip("."), branch.depth + 1, branch.row)


def _own_j(branches: list[Branch]) -> list[float]:
    """Return the joules of each branch that no other branch within it has."""
    left = {branch.path: branch.row.energy.value or 0.0 for branch in branches}
    whole = dict(left)
    for branch in branches[1:]:
        left[branch.parent] -= whole[branch.path]
    return [joules if joules > 1e-9 * whole[RUN] else 0.0 for joules in left.values()]


def _roles(branches: list[Branch]) -> list[str]:
    """Return the role of each module's colour: one for all that is in a part of the model."""
    of: dict[str, str] = {}
    count = 0
    for branch in branches:
        if branch.depth == 2:
            of[branch.path] = f"domain{count % _COLOURS}"
            count += 1
        else:
            of[branch.path] = of.get(branch.parent, "muted") if branch.depth > 2 else "muted"
    return list(of.values())
