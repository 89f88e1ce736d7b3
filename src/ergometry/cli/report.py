"""``erg report``: one run, as text, JSON, Markdown or a page; or one table of where its joules went."""

from __future__ import annotations

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How a run is written."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"


class By(StrEnum):
    """What the joules are divided by."""

    MODULE = "module"
    OP = "op"
    PHASE = "phase"


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of one, a path, or last.")],
    by: Annotated[
        By | None, typer.Option(help="Only a table of where the joules went, by module, operator or phase.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How the run is written.")] = Format.TEXT,  # noqa: A002
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file to write to; else a page goes into the run's folder."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Render a run. A page is written to a file, whose path is printed; the other formats are printed."""
    from ergometry.report import render
    from ergometry.report.by import by as table
    from ergometry.store.catalog import default_store, resolve
    from ergometry.store.reader import load

    stored = load(resolve(run, store or default_store()))
    on_terminal = output is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else 80
    if by is None:
        rendered = render(stored, format, width=width, colour=on_terminal)
    else:
        rendered = table(stored, by, format, width=width)
    if output is None and format is Format.HTML:
        output = stored.path / "report.html"
    if output is None:
        typer.echo(rendered, nl=False)
        return
    write(output, rendered)
    typer.echo(str(output))


def write(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        UsageError: it cannot be written; name another.
    """
    from ergometry.core.errors import UsageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            expected="a file that can be written", got=f"{path} ({error.strerror})", remedy="name another"
        ) from error
