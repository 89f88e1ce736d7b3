"""``erg export``: a run's tables as Parquet or CSV files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Target(StrEnum):
    """The format of the files."""

    PARQUET = "parquet"
    CSV = "csv"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="An id, its beginning, a name, a path or 'last'.")],
    to: Annotated[Target, typer.Option(help="The format of the files.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write to; by default RUN's id, here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Write a run's tables, one file each, and print the files' names."""
    from ergometry.store.catalog import default_store, resolve
    from ergometry.store.export import export as export_run
    from ergometry.store.reader import load

    loaded = load(resolve(run, store or default_store()))
    for path in export_run(loaded, to.value, output or Path(Path(loaded.id).name), force=force):
        typer.echo(path)
