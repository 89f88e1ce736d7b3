"""Text: a run for a terminal, 80 columns or whatever it has."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ergometry.core.estimate import Estimate
from ergometry.report import by, sensors, tables, thermodynamics
from ergometry.report.book import Book
from ergometry.report.spending import root_name, spending
from ergometry.report.words import NO_BREAK, UNKNOWN, duration, percent, quantity

_PROVENANCE_STYLE = {"measured": "green", "derived": "cyan", "modelled": "yellow", "assumed": "magenta"}
_VERDICT_STYLE = {"exact": "green", "model": "cyan", "vacuous": "dim", "inconsistent": "yellow", "false": "red"}

#: A bar of measured joules is solid; of modelled or assumed ones it is shaded, so that they never look alike.
_BAR = {"measured": "█", "derived": "█", "modelled": "░", "assumed": "░"}
_BAR_COLUMNS = 16


def text(book: Book, *, width: int = 80, colour: bool = False, brief: bool = False) -> str:
    """Return a run as text, at most ``width`` columns wide; with a terminal's colour codes only when asked.

    ``brief`` leaves the headline, the phases and what needs attention: what ``erg run`` ends with.
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(width, 40),
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    for part in _brief_parts(book) if brief else _parts(book, max(width, 40)):
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _parts(book: Book, width: int) -> list[Any]:
    summary = book.summary
    parts: list[Any] = [*_head(summary["run"]), "", _Story(" ".join(tables.story(book))), "", _headline(book)]
    if book.accounts.total.known:
        parts.append(
            Text(
                " ".join(filter(None, (f"Energy is {tables.label(book.accounts.total)}.", sensors.beyond(book)))), "dim"
            )
        )
    for part, title in (
        ("phase", "Energy by phase"),
        ("component", "Energy by component"),
        ("domain", "Energy by domain"),
    ):
        if summary["energy"][f"by_{part}"]:
            parts += ["", _title(title), _energy(book, part)]
    if known := thermodynamics.ledger(book):
        parts += ["", _title("Thermodynamic ledger"), _ledger(known)]
    parts += ["", _title("Energy by module"), *_modules(book, width)]
    if book.accounts.total.known:
        parts += ["", _title("What was measured"), _coverage(book)]
    if book.accounts.boards:
        parts += ["", _title("Boards"), _boards(book)]
    parts += ["", _title("Equations"), _equations(book), Text("erg equations ID explains one.", "dim")]
    if summary["findings"]:
        parts += ["", _title("Findings"), *(_finding(found) for found in summary["findings"])]
    if summary["warnings"]:
        parts += ["", _title("Warnings"), *(_warning(warning) for warning in summary["warnings"])]
    return [*parts, "", _overhead(summary["overhead"])]


class _Story:
    """Sentences, wrapped where they may be: Rich breaks lines at spaces that must not break."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(textwrap.fill(self._words, options.max_width, break_on_hyphens=False))


def _brief_parts(book: Book) -> list[Any]:
    summary = book.summary
    parts: list[Any] = [_head(summary["run"])[0], _headline(book)]
    told = " ".join(filter(None, (sensors.caveat(book), sensors.beyond(book))))
    parts += [_Story(told.replace(" %", f"{NO_BREAK}%"))] if told else []
    if summary["energy"]["by_phase"] and book.accounts.total.known:
        parts += ["", _energy(book, "phase")]
    attention = [*map(_finding, summary["findings"]), *map(_warning, summary["warnings"])]
    return [*parts, *([""] if attention else []), *attention]


def _head(run: dict[str, Any]) -> list[Text]:
    name = Text(f"{run['name']}  " if run["name"] else "", "bold")
    name.append(run["id"], "bold" if not run["name"] else "dim")
    name.append(f"  {run['status']}", "green" if run["status"] == "completed" else "yellow")
    where = [
        str(run["started"] or "").replace("T", " ").replace("Z", " UTC"),
        run["host"],
        f"Python {run['python']}" if run["python"] else "",
        f"torch {run['torch']}" if run["torch"] else "",
        ", ".join(run["devices"]),
        "tags " + ", ".join(run["tags"]) if run["tags"] else "",
    ]
    return [name, Text(run["command"]), Text(" · ".join(str(part) for part in where if part), "dim")]


def _title(words: str) -> Text:
    return Text(words, "bold underline")


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 1))
    for header, justify in columns:
        table.add_column(header, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _headline(book: Book) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, estimate in tables.headline(book):
        table.add_row(name, Text(quantity(estimate), "bold" if name == "energy" else ""), _note(estimate))
    best = book.accounts.loss["best"]
    table.add_row("loss", tables.loss_words(book), Text("single minibatches" if best.known else best.why, "dim"))
    return table


def _energy(book: Book, by: str) -> Table:
    columns = [(by, "left"), ("energy", "right")]
    columns += [("share", "right"), ("", "left")] if by != "domain" else []
    columns += [("time", "right")] if by == "phase" else []
    table = _table(*columns, ("", "left"))
    for row in tables.energy_rows(book, by):
        cells: list[str | Text] = [row.name, quantity(row.energy)]
        if by != "domain":
            share = row.share or 0.0
            bar = _BAR[row.energy.provenance] * round(_BAR_COLUMNS * min(max(share, 0.0), 1.0))
            cells += [percent(share) if row.share is not None else UNKNOWN, Text(bar, "blue")]
        if by == "phase":
            cells.append(duration(row.seconds) if row.seconds is not None else UNKNOWN)
        table.add_row(*cells, _note(row.energy, why=by == "domain"))
    return table


def _ledger(lines: list[thermodynamics.Line]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row(line.name, thermodynamics.shown(line), Text(line.note, "dim"))
    return table


def _modules(book: Book, width: int) -> list[Any]:
    spent = spending(book.accounts, "module")
    if not spent.rows:
        return [Text(f"Not known: {spent.why}.", "dim")]
    return [by.shown(spent, spent.lines(_MODULES, root_name(book.run)), width), Text(_MORE, "dim")]


_MODULES = 7
_MORE = "erg report RUN --by module, op or phase has more."


def _coverage(book: Book) -> Table:
    table = _table(("part", "left"), ("energy", "right"), ("", "left"), ("", "left"))
    for part in sensors.coverage_rows(book):
        how = Text(part.how, _PROVENANCE_STYLE.get(part.how, "dim"))
        table.add_row(part.part, quantity(part.energy), how, Text(part.why, "dim"))
    return table


def _boards(book: Book) -> Table:
    table = _table(
        ("", "left"),
        ("mean/max", "right"),
        ("clock/top", "right"),
        ("busy", "right"),
        ("limit", "right"),
        ("PCIe in/out", "right"),
        ("held down by", "left"),
    )
    for row in sensors.board_rows(book):
        table.add_row(row.name, row.temperature, row.clock, row.used, row.limit, row.traffic, row.held)
    return table


def _note(estimate: Estimate, *, why: bool = False) -> Text:
    if not estimate.known:
        return Text(estimate.why, "dim")
    note = Text(str(estimate.provenance), _PROVENANCE_STYLE[estimate.provenance])
    return note.append(f"; {estimate.why}", "dim") if why and estimate.why else note


def _equations(book: Book) -> Table:
    table = _table(("", "left"), ("equation", "left"), ("verdict", "left"), ("this run", "left"))
    for entry in tables.entries(book):
        verdict = Text()
        for i, (scale, word) in enumerate(entry.verdicts):
            verdict.append("\n" if i else "").append(word, _VERDICT_STYLE.get(word, ""))
            verdict.append(f" ({scale})" if scale else "", "dim")
        found = entry.first_known
        value = Text(f"{found[0]} = {quantity(found[1])}") if found else Text(UNKNOWN, "dim")
        table.add_row(entry.id, entry.title, verdict, value)
    return table


def _finding(found: dict[str, Any]) -> Padding:
    words = Text(f"• {found['text']}", "bold").append(f": {found['evidence']}. ", "not bold")
    words.append(f"Remedy: {found['remedy']}.", "not bold")
    saving = Estimate.from_json(found["expected_saving"]) if found["expected_saving"] else None
    if saving is not None and not saving.known:
        words.append(f" What it saves is not known: {saving.why}.", "not bold dim")
    elif saving is not None:
        words.append(f" Saves {quantity(saving)} ({tables.label(saving)}).", "not bold green")
    return Padding(words, (0, 0, 0, 0))


def _warning(warning: dict[str, str]) -> Text:
    return Text(f"• {warning['text']}", "yellow").append(f" ({warning['remedy']})" if warning["remedy"] else "", "dim")


def _overhead(overhead: dict[str, Any]) -> Text:
    fraction = Estimate.from_json(overhead["fraction"])
    own = f"{percent(fraction.value)} of the run" if fraction.value is not None else f"not known ({fraction.why})"
    words = f"Measuring took {own}; {overhead['samples']} samples"
    return Text(words + (f", {overhead['dropped']} records dropped." if overhead["dropped"] else "."), "dim")
