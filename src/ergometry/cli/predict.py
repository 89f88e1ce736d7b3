"""``erg predict``: time and energy of a run before it begins, or of the rest of one that has begun."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ergometry.core.errors import ErgError, UsageError

if TYPE_CHECKING:
    from ergometry.core.run import Run
    from ergometry.report.prediction import Before, Rest


class Format(StrEnum):
    """How the prediction is written."""

    TEXT = "text"
    JSON = "json"


def predict(  # the command's options
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN | SCRIPT [ARGS]...]", help="A run that has begun, or a script to probe."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps in all, of a run or a script.")] = None,
    probe: Annotated[str, typer.Option(help="How long a script is measured, from its first step on.")] = "60 s",
    parameters: Annotated[float | None, typer.Option(help="Parameters of the model, such as 7e9.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens (or examples) to train on, such as 2e12.")] = None,
    flops: Annotated[float | None, typer.Option(help="Or the FLOP of the whole training.")] = None,
    machine: Annotated[
        str | None, typer.Option(help="Accelerator by name, such as H100; default: this machine's calibration.")
    ] = None,
    devices: Annotated[int, typer.Option(help="How many accelerators.")] = 1,
    dtype: Annotated[str, typer.Option(help="Type of the products: bf16, fp16, tf32 or fp32.")] = "bf16",
    mfu: Annotated[float | None, typer.Option(help="Model FLOP utilisation, if you know it.")] = None,
    pue: Annotated[float, typer.Option(help="Power usage effectiveness of the building.")] = 1.0,
    price: Annotated[float | None, typer.Option(help="Price of a kWh.")] = None,
    carbon: Annotated[float | None, typer.Option(help="gCO₂ of a kWh.")] = None,
    format: Annotated[Format, typer.Option(help="How it is written.")] = Format.TEXT,  # noqa: A002
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Predict time and energy: of a run by its numbers, of a script by a probe, or of the rest of a run.

    erg predict --parameters 7e9 --tokens 2e12 --machine H100 --devices 512

    erg predict --probe 60s --steps 20000 train.py --lr 0.1

    erg predict --steps 20000 last

    Options come before the run or the script.
    """
    from ergometry.report.prediction import before, checked_steps, rest
    from ergometry.store.folders import default_store

    counted = parameters is not None or tokens is not None or flops is not None
    if what and counted:
        raise UsageError(
            expected="a run, a script, or numbers", got="both", remedy="leave out --parameters, --tokens and --flops"
        )
    if what:
        steps = checked_steps(steps)
        folder = (store or default_store()).absolute()
        told: Before | Rest = rest(_begun(what, probe, folder), steps, pue, price, carbon)
    else:
        told = before(
            parameters=parameters,
            tokens=tokens,
            flops=flops,
            machine=machine,
            dtype=dtype,
            mfu=mfu,
            devices=devices,
            pue=pue,
            price_per_kwh=price,
            carbon_g_per_kwh=carbon,
        )
    typer.echo(json.dumps(told.to_json(), indent=1, ensure_ascii=False) if format is Format.JSON else str(told))


# A run that has begun, or a script that is begun to be measured


def _begun(what: list[str], probe: str, store: Path) -> Run:
    """Return the run that is named, or that of a probe of the script that is named."""
    from ergometry.core.units import parse
    from ergometry.store.catalog import resolve
    from ergometry.store.reader import load

    if what[0].endswith(".py") or Path(what[0]).is_file():
        seconds = parse(probe, "s", "a probe")
        if not 1 <= seconds < math.inf:
            raise UsageError(expected="a probe of 1 s or more", got=probe, remedy="a minute tells most")
        if not Path(what[0]).is_file():
            raise UsageError(expected="a script", got=f"no file {what[0]}", remedy="check the path")
        return load(_probe(what, seconds, store))
    if len(what) > 1:
        raise UsageError(expected="one run, or a script", got=" ".join(what), remedy="a script's name ends in .py")
    return load(resolve(what[0], store))


_START_S = 600.0
"""A script that makes no step in this time is not probed further."""


def _probe(words: list[str], seconds: float, store: Path) -> Path:
    """Run a script under ``erg run`` for some time from its first step on, then interrupt it, as Ctrl-C would.

    Imports and data may take longer than the probe itself, and tell nothing.

    Returns:
        The folder of the run.
    """
    from ergometry.store.catalog import list_runs

    before = {run.path for run in list_runs(store)} if store.is_dir() else set()
    command = [
        sys.executable,
        "-m",
        "ergometry",
        "run",
        "--as-probe",
        "--quiet",
        "--name",
        "probe",
        "--store",
        str(store),
    ]
    child = subprocess.Popen([*command, *words], stdout=sys.stderr)
    begun, ends = time.monotonic(), math.inf
    while child.poll() is None and time.monotonic() < ends:
        if ends == math.inf and (_steps(_new(store, before)) or time.monotonic() > begun + _START_S):
            ends = time.monotonic() + seconds
        try:
            child.wait(min(_LOOK_S, max(ends - time.monotonic(), 0.0)))
        except subprocess.TimeoutExpired:
            continue
    if child.poll() is None:
        sys.stderr.write(f"erg: probed for {seconds:g} s: the script is interrupted now\n")
        child.send_signal(signal.SIGINT)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    elif child.returncode:
        raise ErgError(
            expected="a script that trains",
            got=f"one that ended with status {child.returncode}",
            remedy="run it by itself first",
        )
    found = _new(store, before)
    if found is None:
        raise ErgError(expected="a recorded probe", got="none", remedy="see erg doctor")
    return found


_LOOK_S = 0.5


def _new(store: Path, before: set[Path]) -> Path | None:
    """Return the run of the probe: the one that was not there before and is called so."""
    from ergometry.store.catalog import list_runs

    if not store.is_dir():
        return None
    return next((run.path for run in list_runs(store) if run.path not in before and run.name == "probe"), None)


def _steps(folder: Path | None) -> int:
    """Return how many steps a run has made so far."""
    from ergometry.core.series import STEPS
    from ergometry.store.reader import load

    if folder is None:
        return 0
    try:
        return len(load(folder).table(STEPS))
    except ErgError:
        return 0  # nothing is written yet
