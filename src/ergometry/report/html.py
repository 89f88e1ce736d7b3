"""HTML: a run as one page that needs nothing else, no network and no server: style, script and figures stand in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ergometry.core.estimate import Estimate
from ergometry.report import sensors, tables, thermodynamics, words
from ergometry.report.book import Book
from ergometry.report.figures import figures
from ergometry.report.plots import paired
from ergometry.report.rows import HEADER, cells, merged_name
from ergometry.report.spending import root_name, spending


def html(book: Book) -> str:
    """Return a run as one self-contained HTML page."""
    from plotly.offline import get_plotlyjs

    along, absent = thermodynamics.figures(book)
    drawn = paired([*figures(book), *along])
    page = environment().get_template("report.html.j2")
    return page.render(
        summary=book.summary,
        run=book.summary["run"],
        books=book.accounts,
        title=book.summary["run"]["name"] or book.run.id,
        story=tables.story(book),
        headline=dict(tables.headline(book)),
        loss=book.summary["loss"],
        energy={by: tables.energy_rows(book, by) for by in ("phase", "component", "domain")},
        spent={by: _spent(book, by) for by in ("module", "op")},
        coverage=sensors.coverage_rows(book),
        beyond=sensors.beyond(book),
        boards=sensors.board_rows(book),
        entries=tables.entries(book),
        figures=drawn,
        absent=absent,
        ledger=thermodynamics.ledger(book),
        shown=thermodynamics.shown,
        overhead=Estimate.from_json(book.summary["overhead"]["fraction"]),
        labels=tables.LABELS,
        provenances=tables.PROVENANCES,
        verdicts=tables.VERDICTS,
        plots=embedded({figure.name: [view.plot for view in figure.views] for figure in drawn}),
        machine_readable=embedded(book.summary),
        # Plotly's own script closes no tag, which a test holds; there is nothing in it to escape.
        plotly=Markup(get_plotlyjs()) if drawn else "",
    )


_MOST_LINES = 16


def _spent(book: Book, by: str) -> dict[str, Any]:
    """Return a table of what the joules went to, its cells in words but for the energy."""
    spent = spending(book.accounts, by)
    lines = [
        {
            "name": merged_name(row),
            "depth": depth,
            "energy": row.energy,
            "cells": [word for column, word in cells(row, spent.whole).items() if column != "energy"],
            "total": row.name == "total" and row.energy is spent.whole,
        }
        for depth, row in spent.lines(_MOST_LINES, root_name(book.run))
    ]
    return {"why": spent.why, "header": HEADER, "lines": lines}


def embedded(data: Any) -> Markup:
    r"""Return data as JSON that can stand inside a script element: no ``<`` is left to close it or open a comment.

    >>> print(embedded({"a": "</script>"}))
    {"a":"\u003c/script>"}
    """
    return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def environment() -> Environment:
    """Return the templates, with the words that they put quantities in."""
    environment = Environment(
        loader=PackageLoader("ergometry.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        show=words.show,
        quantity=words.quantity,
        percent=words.percent,
        duration=words.duration,
        estimate=Estimate.from_json,
        loss=lambda value: words.UNKNOWN if value is None else f"{value:#.4g}",
        started=lambda text: str(text).replace("T", " ").replace("Z", " UTC"),
        fields=asdict,
    )
    return environment
