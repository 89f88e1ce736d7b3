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
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ergometry.core.errors import ErgError, UsageError

if TYPE_CHECKING:
    from ergometry.core.run import Run
    from ergometry.planning.plan import Range
    from ergometry.planning.predict import Prediction, Rate, Remainder

SCHEMA = "ergometry.prediction/1"


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
    counted = parameters is not None or tokens is not None or flops is not None
    if what and counted:
        raise UsageError(
            expected="a run, a script, or numbers", got="both", remedy="leave out --parameters, --tokens and --flops"
        )
    if what:
        told: Any = _begun(what, steps, probe, store)
        tree, text = _remainder_json(told, pue, price, carbon), _remainder_text(told, pue, price, carbon)
    else:
        told = _numbers(parameters, tokens, flops, machine, dtype, mfu, devices, pue, price, carbon)
        tree, text = _prediction_json(told), _prediction_text(told)
    typer.echo(json.dumps({"schema": SCHEMA, **tree}, indent=1, ensure_ascii=False) if format is Format.JSON else text)


# A run by its numbers


def _numbers(  # the options that matter
    parameters: float | None,
    tokens: float | None,
    flops: float | None,
    machine: str | None,
    dtype: str,
    mfu: float | None,
    devices: int,
    pue: float,
    price: float | None,
    carbon: float | None,
) -> Prediction:
    from ergometry.planning.predict import FLOP_LOG_SD, Rate, mfu_prior, training_flop
    from ergometry.planning.predict import predict as predicted

    if flops is not None and flops > 0 and parameters is None and tokens is None:
        flop = Rate(flops, FLOP_LOG_SD, "stated")
    elif flops is None and parameters is not None and tokens is not None:
        flop = training_flop(parameters, tokens)
    else:
        raise UsageError(
            expected="--parameters and --tokens, or a positive --flops, or a run, or a script",
            got=", ".join(n for n, x in (("--parameters", parameters), ("--tokens", tokens), ("--flops", flops)) if x)
            or "none of them",
            remedy="see erg predict --help",
        )
    peak, watts = _machine(machine, dtype)
    return predicted(
        flop,
        peak,
        watts,
        mfu=mfu_prior(mfu),
        devices=devices,
        pue=pue,
        price_per_kwh=price,
        carbon_g_per_kwh=carbon,
    )


def _machine(name: str | None, dtype: str) -> tuple[float, Rate]:
    """Return the peak FLOP/s and the watts of a device: by name, or of this machine's calibration."""
    from ergometry.planning.machines import machine as named
    from ergometry.planning.predict import watts_prior

    if name is not None:
        found = named(name)
        return found.peak(dtype), watts_prior(found.power_w, found.name)
    return _calibrated(dtype)


def _calibrated(dtype: str) -> tuple[float, Rate]:
    """Return what ``erg calibrate`` found of this machine, the accelerator before the processor."""
    from ergometry.planning.predict import MFU_MEDIAN, Rate
    from ergometry.store.calibration_files import stored
    from ergometry.work.coefficients import Coefficients, parse

    known = {device: one for device, one in parse(stored()).items() if isinstance(one, Coefficients)}
    for device in sorted(known, key=lambda name: name == "cpu"):
        peak, e_flop = known[device].peak_flop_per_s.get(dtype), known[device].e_flop.get(dtype)
        static = known[device].static_w
        if peak is not None and peak.value and e_flop is not None and e_flop.value and static.value:
            watts = static.value + e_flop.value * peak.value * MFU_MEDIAN
            error = ((static.stderr or 0.0) ** 2 + (peak.value * MFU_MEDIAN * (e_flop.stderr or 0.0)) ** 2) ** 0.5
            return peak.value, Rate(watts, max(error / watts, 0.1), f"calibration of {device}")
    raise UsageError(
        expected=f"a calibration of this machine in {dtype}, or --machine",
        got=f"calibrations of {', '.join(sorted(known))}" if known else "none",
        remedy="run erg calibrate, or name a machine such as H100",
    )


def _prediction_json(told: Prediction) -> dict[str, Any]:
    return {
        "time": told.time.to_json(),
        "energy": told.energy.to_json(),
        "power": told.power.to_json(),
        "price": None if told.price is None else told.price.to_json(),
        "carbon": None if told.carbon is None else told.carbon.to_json(),
        "variance_share": dict(told.terms),
        "dominant": told.dominant,
        "assumed": dict(told.assumed),
    }


def _prediction_text(told: Prediction) -> str:
    lines = [f"  time    {_time(told.time)}", f"  energy  {_energy(told.energy)}", f"  power   {told.power}"]
    if told.price is not None:
        lines.append(f"  price   {told.price.value:.4g} [{told.price.low:.4g}, {told.price.high:.4g}]")
    if told.carbon is not None:
        kg = told.carbon.value / 1e3, told.carbon.low / 1e3, told.carbon.high / 1e3
        lines.append(f"  carbon  {kg[0]:.4g} kgCO₂ [{kg[1]:.4g}, {kg[2]:.4g}]")
    lines += ["  (medians, and what holds nine times in ten)", ""]
    lines += [f"{name}: {words}" for name, words in told.assumed.items()]
    share = told.terms[told.dominant]
    return "\n".join(
        [*lines, f"most of the interval ({share:.0%}) is {told.dominant}: a 60 s probe of the script tells it"]
    )


# A run that has begun, or a script that is begun to be measured


def _begun(what: list[str], steps: int | None, probe: str, store: Path | None) -> Remainder:
    from ergometry.core.units import parse
    from ergometry.planning.predict import remainder
    from ergometry.store.catalog import default_store, resolve
    from ergometry.store.reader import load
    from ergometry.work.attribution import accounts

    if steps is None or steps < 1:
        raise UsageError(
            expected="the steps in all with --steps",
            got="none" if steps is None else str(steps),
            remedy="state them, before the run or script",
        )
    folder = (store or default_store()).absolute()
    if what[0].endswith(".py") or Path(what[0]).is_file():
        seconds = parse(probe, "s", "a probe")
        if not seconds >= 1:
            raise UsageError(expected="a probe of 1 s or more", got=probe, remedy="a minute tells most")
        run: Run = load(_probe(what, seconds, folder))
    elif len(what) > 1:
        raise UsageError(expected="one run, or a script", got=" ".join(what), remedy="a script's name ends in .py")
    else:
        run = load(resolve(what[0], folder))
    return remainder(run, accounts(run), steps)


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
    command = [sys.executable, "-m", "ergometry", "run", "--quiet", "--name", "probe", "--store", str(store), *words]
    child = subprocess.Popen(command, stdout=sys.stderr)
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


def _remainder_json(told: Remainder, pue: float, price: float | None, carbon: float | None) -> dict[str, Any]:
    ranges = {name: getattr(told, name) for name in ("time", "energy", "time_left", "energy_left")}
    kwh = None if told.energy is None else told.energy.value / 3.6e6 * pue
    return {
        "steps_done": told.steps_done,
        "steps": told.steps,
        **{name: None if found is None else found.to_json() for name, found in ranges.items()},
        "pue": pue,
        "price": None if price is None or kwh is None else price * kwh,
        "carbon_g": None if carbon is None or kwh is None else carbon * kwh,
        "why": told.why,
        "notes": list(told.notes),
    }


def _remainder_text(told: Remainder, pue: float, price: float | None, carbon: float | None) -> str:
    head = f"{told.steps_done} of {told.steps} steps made"
    if told.energy is None or told.time is None or told.energy_left is None or told.time_left is None:
        return f"{head}; {told.why}"
    lines = [
        head,
        f"  time    {_time(told.time)} in all, {_time(told.time_left)} left",
        f"  energy  {_energy(told.energy)} in all, {_energy(told.energy_left)} left",
    ]
    kwh = told.energy.value / 3.6e6 * pue
    if price is not None:
        lines.append(f"  price   {price * kwh:.4g}")
    if carbon is not None:
        lines.append(f"  carbon  {carbon * kwh / 1e3:.4g} kgCO₂")
    return "\n".join(
        [*lines, "  (medians, and what holds nine times in ten)", *(f"note: {note}" for note in told.notes)]
    )


def _energy(x: Range) -> str:
    return str(x)


def _time(x: Range) -> str:
    from ergometry.report.words import duration

    return f"{duration(x.value)} [{duration(x.low)}, {duration(x.high)}]"
