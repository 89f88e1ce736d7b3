"""By: one run's joules as one table, by module, by operator or by phase, for ``erg report --by``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.report.markdown import escape, spending_table, table
from ergometry.report.rows import HEADER, Row, cells, merged_name
from ergometry.report.spending import BY, Spending, root_name, spending
from ergometry.report.summary import to_plain
from ergometry.report.words import UNKNOWN, quantity
from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts

SCHEMA = "ergometry.by/1"

FORMATS = ("text", "markdown", "json")

MOST = {"text": 40, "markdown": 60}
"""Rows of a table; the small ones are summed. JSON has all of them."""

_LESS = ("bytes", "roofline_s", "intensity", "flops")
"""What a narrow table leaves out, in this order."""

_NAME_COLUMNS = 18


def by(run: Run, what: str, format: str = "text", *, width: int = 80) -> str:  # noqa: A002
    """Return what a run's joules went to.

    Args:
        run: a stored run, in progress or ended.
        what: module, op or phase.
        format: one of :data:`FORMATS`.
        width: columns of the text.

    Raises:
        UsageError: no such table or format.
    """
    for word, known, option in ((what, BY, "--by"), (format, FORMATS, "--format")):
        if word not in known:
            raise UsageError(
                expected=f"{option} {', '.join(known[:-1])} or {known[-1]}",
                got=word,
                remedy="choose one of them for a table",
            )
    books = accounts(run)
    spent = spending(books, what)
    if format == "json":
        return json.dumps(_tree(run, spent, books), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    name = str(run.meta.get("name") or run.id)
    rows = spent.lines(MOST[format], root_name(run))
    notes = _notes(spent, books)
    components = _components(books) if what == "phase" else ([], [])
    if format == "markdown":
        return _markdown(name, spent, rows, components, notes)
    return _text(name, spent, rows, components, notes, width)


def _tree(run: Run, spent: Spending, books: Accounts) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "schema": SCHEMA,
        "run": {"id": run.id, "name": run.meta.get("name"), "status": run.status},
        "by": spent.by,
        "total": spent.whole,
        "rows": [row.to_json(spent.whole) for row in spent.rows],
        "rest": spent.rest.energy,
        "why": spent.why,
    }
    if spent.by == "phase":
        tree["components"] = books.components_by_phase
    plain: dict[str, Any] = to_plain(tree, [])
    return plain


def _components(books: Accounts) -> tuple[list[str], list[list[str]]]:
    """Return the table of components by phase: its header and its rows; nothing where they are not known."""
    parts = books.components_by_phase
    known = [c for c in books.by_component if any(c in of and of[c].known for of in parts.values())]
    known = [c for c in known if c != "communication" or books.by_component[c].value]
    if not known:
        return [], []
    rows = [[phase, *(quantity(of[c]) if c in of else UNKNOWN for c in known)] for phase, of in parts.items()]
    rows.append(["run", *(quantity(books.by_component[c]) for c in known)])
    return ["phase", *known], rows


def _notes(spent: Spending, books: Accounts) -> list[str]:
    """Return what a reader must know of the table."""
    if not spent.rows:
        return [f"Energy by {spent.by} is not known: {spent.why}."]
    notes = []
    if spent.by == "phase" and (why := books.attribution_why):
        what = "Components" if books.items else "Work and components"
        notes.append(f"{what} of phases are not known: {why}.")
    if books.calibration is not None:
        found = books.calibration
        notes.append(
            f"Divided by the calibration of {found.board} ({found.device}), {found.date[:10]}, "
            f"{found.e_byte.provenance}; roofline: the least seconds at its peaks."
        )
    if spent.by != "phase":
        notes.append("± is one standard error; where rows are summed, an upper bound of it.")
    return notes


def _markdown(
    name: str,
    spent: Spending,
    rows: Sequence[tuple[int, Row]],
    components: tuple[list[str], list[list[str]]],
    notes: Iterable[str],
) -> str:
    blocks = [f"# {escape(name)}: energy by {spent.by}"]
    if rows:
        blocks.append(spending_table(spent, rows))
    header, parts = components
    if header:
        blocks += ["## Components", table(header, "l" + "r" * (len(header) - 1), parts)]
    return "\n\n".join([*blocks, "\n".join(f"- {escape(note)}" for note in notes)]).rstrip() + "\n"


def _text(
    name: str,
    spent: Spending,
    rows: Sequence[tuple[int, Row]],
    components: tuple[list[str], list[list[str]]],
    notes: Iterable[str],
    width: int,
) -> str:
    from rich.console import Console

    out = io.StringIO()
    width = max(width, 40)
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(f"{name}: energy by {spent.by}\n")
    if rows:
        console.print(shown(spent, rows, width))
        console.print()
    header, parts = components
    if header:
        console.print(grid(header, parts))
        console.print()
    for note in notes:
        console.print(note)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def shown(spent: Spending, lines: Sequence[tuple[int, Row]], width: int) -> Any:
    """Return the lines of a table for a terminal of this width."""
    told = [("  " * depth + merged_name(row), cells(row, spent.whole)) for depth, row in lines]
    columns = _fitting([c for _, c in told], width)
    header = [spent.by, *(HEADER[c] for c in columns)]
    return grid(header, [[name, *(c[key] for key in columns)] for name, c in told], gap=1)


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], gap: int = 2) -> Any:
    """Return a table without lines, for a terminal: the first column to the left, numbers to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="")
    for i, title in enumerate(header):
        table.add_column(title, justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _fitting(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Return the columns for which there is room beside a name."""
    columns = list(HEADER)
    for less in ("", *_LESS):
        columns = [c for c in columns if c != less]
        taken = sum(1 + max(len(HEADER[c]), *(len(row[c]) for row in rows)) for c in columns)
        if taken + _NAME_COLUMNS <= width:
            break
    return columns
