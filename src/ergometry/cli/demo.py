"""``erg demo``: a small real model on real text, measured end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ergometry.cli.run import checked_store
from ergometry.core.errors import MissingExtra


def demo(
    seconds: Annotated[float | None, typer.Option(help="Train for this long (default: about a minute).")] = None,
    steps: Annotated[int | None, typer.Option(help="Train for this many steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the model and of the order of the data.")] = 0,
    store: Annotated[Path | None, typer.Option(help="Folder of runs.")] = None,
) -> None:
    """Train a byte-level transformer on the source text of Python's own library, and report the run.

    No download: the text is on every machine that has Python. It is a training script like any other, run by erg run.
    """
    import importlib.util

    from ergometry.launch import replace_process

    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(expected="torch", got="no such module", remedy="pip install 'ergometry[torch]'")
    words = ["ergometry.demo.train", "--seed", str(seed)]
    if steps is not None:
        words += ["--steps", str(steps), "--seconds", "0"]
    if seconds is not None:
        words += ["--seconds", str(seconds)]
    config = {
        "store": str(checked_store(store)),
        "name": "demo",
        "tags": [],
        "sampling_hz": 2.0,
        "live": True,
        "token": "byte",
        "html": True,
        "module": True,
    }
    replace_process(config, words)
