"""``erg rm``: delete runs from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rm(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Ids, beginnings of ids, names, paths or 'last'.")
    ],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Even while a run is recorded, or when it cannot be read.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Delete runs. All of them are looked up before the first is deleted."""
    from ergometry.store.catalog import default_store, remove, resolve

    folder = store or default_store()
    for path in dict.fromkeys(resolve(run, folder) for run in runs):
        remove(path, force=force)
        typer.echo(f"erg: removed {path}", err=True)
