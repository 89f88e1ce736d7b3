"""``erg run``: an unmodified training script, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ergometry.core.errors import UsageError

Words = Annotated[
    list[str], typer.Argument(metavar="SCRIPT [ARGS]...", help="A Python script (or a command) and its arguments.")
]
Module = Annotated[bool, typer.Option("-m", help="The first word is a module, as in python -m.")]
Store = Annotated[Path | None, typer.Option(help="Folder of runs (default: $ERGOMETRY_STORE, or erg-runs here).")]
Name = Annotated[str | None, typer.Option(help="A name for the run.")]
Tag = Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")]
Hertz = Annotated[float, typer.Option("--sampling-hz", help="Samples per second of every power source.")]
Live = Annotated[bool, typer.Option("--live", help="Show a progress line: step, loss, watts, joules.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No summary at the end.")]
Examples = Annotated[float | None, typer.Option(help="Examples in one outermost call, where the inference is wrong.")]
Tokens = Annotated[float | None, typer.Option(help="Tokens in one outermost call, likewise.")]
Classes = Annotated[int | None, typer.Option(help="Classes of the model's output, likewise.")]
Physics = Annotated[
    str, typer.Option(metavar="off|light|full", help="The thermodynamic ledger: none, what costs little, or all of it.")
]
Every = Annotated[
    int | None, typer.Option("--physics-every", help="Steps from one sample of it to the next (default: by cost).")
]
Probe = Annotated[bool, typer.Option("--as-probe", hidden=True, help="An interruption shows no traceback.")]

_MAX_HZ = 10.0
_LEVELS = ("off", "light", "full")


def run(
    words: Words,
    module: Module = False,
    store: Store = None,
    name: Name = None,
    tag: Tag = None,
    sampling_hz: Hertz = 1.0,
    live: Live = False,
    quiet: Quiet = False,
    examples: Examples = None,
    tokens: Tokens = None,
    classes: Classes = None,
    physics: Physics = "light",
    physics_every: Every = None,
    probe: Probe = False,
) -> None:
    """Run an unmodified training script with measuring on; the exit status is the script's own.

    Options of erg come before the script: erg run --name baseline train.py --lr 0.1
    """
    from ergometry.launch import replace_process

    if not 0 < sampling_hz <= _MAX_HZ:
        raise UsageError(
            expected=f"--sampling-hz above 0 and up to {_MAX_HZ:g}",
            got=f"{sampling_hz:g}",
            remedy="some boards' counters are disturbed by faster polling",
        )
    for option, value in (("--examples", examples), ("--tokens", tokens), ("--classes", classes)):
        if value is not None and value <= 0:
            raise UsageError(expected=f"a positive {option}", got=f"{value:g}", remedy="leave it out to infer it")
    if physics not in _LEVELS:
        raise UsageError(
            expected="--physics off, light or full", got=physics, remedy="leave it out for light, at most 5 % of a step"
        )
    if physics_every is not None and physics_every < 1:
        raise UsageError(
            expected="--physics-every of at least 1", got=f"{physics_every}", remedy="leave it out to go by cost"
        )
    config = {
        "store": str(checked_store(store)),
        "name": name,
        "tags": tag or [],
        "sampling_hz": sampling_hz,
        "live": live,
        "quiet": quiet,
        "module": module,
        "examples": examples,
        "tokens": tokens,
        "classes": classes,
        "physics": physics,
        "physics_every": physics_every,
        "probe": probe,
    }
    replace_process(config, words)


def checked_store(store: Path | None) -> Path:
    """Return the store as an absolute path, before the script can change folder.

    Raises:
        UsageError: it is a file; name a folder.
    """
    from ergometry.store.folders import default_store

    folder = (store or default_store()).absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(expected="a folder as the store", got=f"the file {folder}", remedy="name another with --store")
    return folder
