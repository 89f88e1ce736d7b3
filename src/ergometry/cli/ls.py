"""``erg ls``: the runs of the store."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ergometry.store.catalog import RunInfo

_ELASTIC = ("name", "tags", "command")


class Format(StrEnum):
    """How the list is written."""

    TEXT = "text"
    JSON = "json"


def ls(
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    format: Annotated[Format, typer.Option(help="A table, or a JSON list.")] = Format.TEXT,  # noqa: A002
) -> None:
    """List the stored runs, the newest last."""
    from ergometry.store.catalog import default_store, list_runs

    folder = store or default_store()
    runs = list_runs(folder, tag)
    if format is Format.JSON:
        import json

        typer.echo(json.dumps([run.to_json() for run in runs], indent=2))
        return
    if not runs:
        typer.echo(f"erg: no runs in {folder}" + (f" with tag {tag}" if tag else ""), err=True)
        return
    _print(runs)
    for run in runs:
        if run.error:
            typer.echo(f"erg: {run.id}: {run.error}", err=True)


def _print(runs: list[RunInfo]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = {
        "id": [run.id for run in runs],
        "name": [run.name or "" for run in runs],
        "tags": [" ".join(run.tags) for run in runs],
        "started": [_local(run.started) for run in runs],
        "status": [run.status for run in runs],
        "duration": ["" if run.duration_s is None else _clock(run.duration_s) for run in runs],
        "command": [" ".join(run.command) for run in runs],
    }
    shown = {heading: words for heading, words in columns.items() if any(words)}
    for heading in shown:
        # Where the terminal is narrow, only columns that may wrap give way; their words are cut instead of wrapped.
        table.add_column(heading, justify="right" if heading == "duration" else "left", no_wrap=heading not in _ELASTIC)
    for row in zip(*shown.values(), strict=True):
        # As Text, a tag such as [x] is no markup.
        table.add_row(*(Text(word, no_wrap=True, overflow="ellipsis") for word in row))
    Console().print(table)


def _local(started: str | None) -> str:
    """Return a start as local month, day and minute; the id has the whole of it in UTC."""
    import datetime

    if not started:
        return ""
    try:
        return datetime.datetime.fromisoformat(started).astimezone().strftime("%m-%d %H:%M")
    except ValueError:
        return started


def _clock(duration_s: float) -> str:
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
