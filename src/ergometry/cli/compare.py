"""``erg compare``: runs side by side, with the uncertainty of each difference."""

from __future__ import annotations

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ergometry.core.errors import UsageError


class Format(StrEnum):
    """How the comparison is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN...", help="Two runs or more: ids, paths or last; the first is the reference."),
    ],
    format: Annotated[Format, typer.Option(help="How the comparison is written.")] = Format.TEXT,  # noqa: A002
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Put runs side by side: each value, its difference from the first run's, and the ratio, with their errors."""
    from ergometry.report import compare as comparison
    from ergometry.store.catalog import default_store, resolve
    from ergometry.store.reader import load

    folder = store or default_store()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    loaded = [load(path) for path in dict.fromkeys(resolve(run, folder) for run in runs)]
    if len(loaded) == 1 < len(runs):
        raise UsageError(
            expected="two runs or more", got=f"{loaded[0].id} alone, named {len(runs)} times", remedy="see erg ls"
        )
    typer.echo(comparison.compare(loaded, format, width=width), nl=False)
