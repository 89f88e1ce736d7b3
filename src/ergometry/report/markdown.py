"""Markdown: a run for an issue, a pull request or a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ergometry.core.estimate import Estimate
from ergometry.report import sensors, tables, thermodynamics
from ergometry.report.book import Book
from ergometry.report.rows import HEADER, Row, cells, merged_name
from ergometry.report.spending import Spending, root_name, spending
from ergometry.report.words import UNKNOWN, duration, percent, quantity


def markdown(book: Book) -> str:
    """Return a run as GitHub-flavoured Markdown."""
    summary, run = book.summary, book.summary["run"]
    labels = [run["status"], run["started"], run["host"], run["python"] and f"Python {run['python']}"]
    labels += [run["torch"] and f"torch {run['torch']}", ", ".join(run["devices"]), ", ".join(run["tags"])]
    blocks = [
        f"# {escape(run['name'] or run['id'])}",
        fenced(run["command"]),
        " · ".join(escape(str(label)) for label in labels if label),
        escape(" ".join(tables.story(book))),
        _headline(book),
        sensors.beyond(book),
        *(_energy(book, by) for by in ("phase", "component", "domain") if summary["energy"][f"by_{by}"]),
        _ledger(book),
        _modules(book),
        *([_coverage(book)] if book.accounts.total.known else []),
        *([_boards(book)] if book.accounts.boards else []),
        _equations(book),
    ]
    if summary["findings"]:
        blocks.append("## Findings\n\n" + "\n".join(_finding(found) for found in summary["findings"]))
    if summary["warnings"]:
        warned = [f"- `{w['code']}` {escape(w['text'])}: {escape(w['remedy'])}." for w in summary["warnings"]]
        blocks.append("## Warnings\n\n" + "\n".join(warned))
    blocks.append(_overhead(book))
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(words: str) -> str:
    r"""Return words so that Markdown and HTML read none of them as markup.

    >>> print(escape("a|b <i>*c*</i>"))
    a\|b &lt;i>\*c\*&lt;/i>
    """
    marked = re.sub(r"([\\`*_\[\]|~])", r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;"))
    return " ".join(marked.split("\n"))


def fenced(words: str) -> str:
    """Return words as a block of code, whose fence is longer than any run of backticks in them."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", words)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{words}\n{fence}"


def table(header: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a table; ``align`` has an ``l`` or ``r`` for each column."""
    marks = {"l": "---", "r": "---:"}
    lines = [header, [marks[a] for a in align], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _note(estimate: Estimate) -> str:
    if not estimate.known:
        return escape(estimate.why)
    return escape(tables.label(estimate) + (f"; {estimate.why}" if estimate.unit == "J" and estimate.why else ""))


def _headline(book: Book) -> str:
    rows = [[name, quantity(estimate), _note(estimate)] for name, estimate in tables.headline(book)]
    rows.append(["loss", tables.loss_words(book), "measured: single minibatches"])
    return table(("", "this run", "how it is known"), "lrl", rows)


def _energy(book: Book, by: str) -> str:
    rows = []
    for row in tables.energy_rows(book, by):
        share = percent(row.share) if row.share is not None else UNKNOWN
        seconds = duration(row.seconds) if row.seconds is not None else UNKNOWN
        rows.append([escape(row.name), quantity(row.energy), share, seconds, _note(row.energy)])
    shown = {"phase": [0, 1, 2, 3, 4], "component": [0, 1, 2, 4], "domain": [0, 1, 4]}[by]
    header = [by, "energy", "share", "time", "how it is known"]
    body = table([header[i] for i in shown], "".join("lrrrl"[i] for i in shown), [[r[i] for i in shown] for r in rows])
    return f"## Energy by {by}\n\n{body}"


def _ledger(book: Book) -> str:
    lines = thermodynamics.ledger(book)
    if not lines:
        return ""
    rows = [[line.name, thermodynamics.shown(line), escape(line.note), _note(line.value)] for line in lines]
    return "## Thermodynamic ledger\n\n" + table(("", "this run", "", "how it is known"), "lrll", rows)


def _modules(book: Book) -> str:
    spent = spending(book.accounts, "module")
    if not spent.rows:
        return f"## Energy by module\n\nNot known: {escape(spent.why)}."
    return "## Energy by module\n\n" + spending_table(spent, spent.lines(_MODULES, root_name(book.run)))


_MODULES = 12


def spending_table(spent: Spending, lines: Iterable[tuple[int, Row]]) -> str:
    """Return lines of what the joules went to as a table, modules indented within those that hold them."""
    rows = [
        ["&nbsp;" * 4 * depth + escape(merged_name(row)), *cells(row, spent.whole).values()] for depth, row in lines
    ]
    return table((spent.by, *HEADER.values()), "l" + "r" * len(HEADER), rows)


def _coverage(book: Book) -> str:
    rows = [[p.part, quantity(p.energy), p.how, escape(p.why)] for p in sensors.coverage_rows(book)]
    return "## What was measured\n\n" + table(("part", "energy", "", "how it is known"), "lrll", rows)


def _boards(book: Book) -> str:
    header = ("board", "temperature, mean/max", "clock/top", "busy", "power limit", "PCIe in/out", "held down by")
    rows = [
        [row.name, row.temperature, row.clock, row.used, row.limit, row.traffic, row.held]
        for row in sensors.board_rows(book)
    ]
    return "## Boards\n\n" + table(header, "lrrrrrl", rows)


def _equations(book: Book) -> str:
    rows = []
    for entry in tables.entries(book):
        verdict = ", ".join(f"{word} ({scale})" if scale else word for scale, word in entry.verdicts)
        values = [_values(part) for part in (entry.as_written, entry.repair)]
        rows.append([entry.id, escape(entry.title), verdict, *values])
    return "## Equations\n\n" + table(("", "equation", "verdict", "as written", "repaired"), "lllll", rows)


def _values(values: Iterable[tuple[str, Estimate]]) -> str:
    known = [f"`{name}` {quantity(estimate)}" for name, estimate in values if estimate.known]
    return "<br>".join(known) or UNKNOWN


def _finding(found: dict[str, Any]) -> str:
    words = f"- **{escape(found['text'])}**: {escape(found['evidence'])}. Remedy: {escape(found['remedy'])}."
    if found["expected_saving"] is None:
        return words
    saving = Estimate.from_json(found["expected_saving"])
    if not saving.known:
        return f"{words} What it saves is not known: {escape(saving.why)}."
    return f"{words} Saves {quantity(saving)} ({escape(tables.label(saving))})."


def _overhead(book: Book) -> str:
    overhead = book.summary["overhead"]
    fraction = overhead["fraction"]["value"]
    own = percent(fraction) + " of the run" if fraction is not None else "not known"
    return f"Measuring took {own}; {overhead['samples']} samples, {overhead['dropped']} records dropped."
