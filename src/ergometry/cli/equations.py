"""``erg equations``: the catalogue of formulas, as a list or one section in full."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from ergometry.equations.section import Section


class Format(StrEnum):
    """How the catalogue is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def equations(
    section_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A section's number, such as 6.1; all of them without it.")
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, JSON, or what the manual's page has of it.")] = Format.TEXT,  # noqa: A002
) -> None:
    """Explain the equations of work and power: each as written, how far it holds, and its repair."""
    from ergometry.equations.catalogue import CATALOGUE, section

    chosen = [section(section_id)] if section_id is not None else list(CATALOGUE.values())
    if format is Format.JSON:
        import json

        described = [entry.to_json() for entry in chosen]
        typer.echo(json.dumps(described[0] if section_id is not None else described, indent=2, ensure_ascii=False))
    elif format is Format.MARKDOWN:
        typer.echo("\n\n".join(_markdown(entry) for entry in chosen))
    else:
        from rich.console import Console

        Console().print(_whole(chosen[0]) if section_id is not None else _list(chosen))


def _list(chosen: Iterable[Section]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True)
    table.add_column("formula, as written [unit]", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for entry in chosen:
        formula = Text.assemble((entry.title, "bold"), f"\n{entry.as_written}  [{entry.unit or '1'}]")
        table.add_row(Text(entry.id), formula, Text(entry.verdict_text.replace(", ", "\n")))
    return table


def _whole(entry: Section) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def paragraph(label: str, words: str) -> list[RenderableType]:
        return [Text(""), Text(label, "bold"), Text(_sentence(words))] if words else []

    def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for i, heading in enumerate(headings):
            made.add_column(heading, overflow="fold", no_wrap=i == 0)
        for row in rows:
            made.add_row(*map(Text, row))
        return made

    return Group(
        Text(f"{entry.id}  {entry.title}", "bold"),
        Text(f"\n  {entry.as_written}\n"),
        table(("symbol", "unit", "meaning"), ((s.symbol, s.unit or "1", s.meaning) for s in entry.symbols)),
        *paragraph(f"Verdict: {entry.verdict_text}", entry.why),
        *paragraph("Repair", entry.repair),
        *paragraph("What the number tells", entry.tells),
        Text(""),
        table(("value of a run", "unit", "of", "where it is null:"), _values(entry)),
        *paragraph("Estimator", entry.estimator),
        *paragraph("References", "; ".join(entry.references)),
        Text(f"\nIn the manual: {entry.page}"),
    )


def _values(entry: Section) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, unit, whether it is of the formula as written or of the repair, and what it would need."""
    for part, names in (("as written", entry.as_written_names), ("repair", entry.repair_names)):
        for name, unit in names.items():
            yield name, unit or "1", part, entry.needs.get(name, "")


def _markdown(entry: Section) -> str:
    lines = [f"## {entry.id} {entry.title}", f"    {entry.as_written}"]
    for label, words in (
        (f"Verdict: {entry.verdict_text}", entry.why),
        ("Repair", entry.repair),
        ("What the number tells", entry.tells),
    ):
        lines.append(f"**{label}.** {_literal(_sentence(words))}")
    rows = [f"| `{name}` | `{unit}` | {part} | {_literal(needs)} |" for name, unit, part, needs in _values(entry)]
    lines.append("\n".join(["| value | unit | of | where it is null: |", "|---|---|---|---|", *rows]))
    if entry.estimator:
        lines.append(f"Estimator: {_literal(entry.estimator)}.")
    if entry.references:
        lines.append(f"References: {'; '.join(entry.references)}.")
    return "\n\n".join(lines)


def _literal(words: str) -> str:
    """Return words in which no star is emphasis and no bar ends a cell."""
    return words.replace("*", r"\*").replace("|", r"\|")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words[:1].isascii() else f"{words}."
