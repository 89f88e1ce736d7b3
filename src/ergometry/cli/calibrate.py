"""``erg calibrate``: measures what this machine's arithmetic and memory traffic cost, and what it can do."""

from __future__ import annotations

import json
import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ergometry.work.coefficients import Coefficients


class Format(StrEnum):
    """How the result is written."""

    TEXT = "text"
    JSON = "json"


def calibrate(
    device: Annotated[str, typer.Option(help="The device, as torch names it: cpu, cuda:0.")] = "cpu",
    seconds: Annotated[float, typer.Option(help="About how long it may take; 60 to 120 are sensible.")] = 90.0,
    format: Annotated[Format, typer.Option(help="How the result is written.")] = Format.TEXT,  # noqa: A002
    plot: Annotated[Path | None, typer.Option(metavar="FILE.html", help="A page with the roofline.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Measure nothing; show what was found before.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where it is kept; else $ERGOMETRY_CALIBRATION, else your data folder.")
    ] = None,
) -> None:
    """Measure static power, joules per FLOP and per byte, and peak rates, by running kernels with known work.

    Leave the machine alone meanwhile: what others run is found, said, and widens the errors.
    """
    from ergometry.cli.report import write
    from ergometry.work.coefficients import folder as default_folder

    where = folder or default_folder()
    if plot is not None:
        _check_file(plot)
    found = _stored(where, device) if show else _measured(where, device, seconds)
    if found is None:
        return  # not the first rank
    if format is Format.JSON:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        from ergometry.report.calibration import text

        width = min(shutil.get_terminal_size().columns, 120) if sys.stdout.isatty() else 80
        typer.echo(text(found, width=width), nl=False)
    if plot is not None:
        from ergometry.report.calibration import html

        write(plot, html(found))
        typer.echo(f"erg: the roofline is in {plot}", err=True)


def _measured(where: Path, device: str, seconds: float) -> Coefficients | None:
    """Measure and keep; None on the ranks beside the first.

    Raises:
        InvalidCalibration: the folder cannot be written, which is found before anything is measured.
        MissingExtra: there is no torch.
        UsageError: no such device, or too little time.
    """
    try:
        from ergometry.calibration.procedure import calibrate as measure
    except ModuleNotFoundError as error:
        from ergometry.core.errors import MissingExtra

        raise MissingExtra(
            expected="torch, whose kernels are measured",
            got=f"no {error.name}",
            remedy="pip install 'ergometry[torch]'",
        ) from None
    from ergometry.work.coefficients import save

    _check_folder(where)
    found = measure(device, seconds, lambda said: typer.echo(f"erg: {said}", err=True))
    if found is not None:
        typer.echo(f"erg: kept in {save(found, where)}", err=True)
    return found


def _stored(where: Path, device: str) -> Coefficients:
    """Return the calibration that is kept.

    Raises:
        InvalidCalibration: there is none of this machine's device, or it is damaged; calibrate.
    """
    from ergometry.core.errors import InvalidCalibration
    from ergometry.work.coefficients import load, machine_identity

    device = f"{device}:0" if device != "cpu" and ":" not in device else device
    found = load(where, machine_identity(), device)
    if found is None:
        raise InvalidCalibration(
            expected=f"a calibration of this machine's {device} in {where}",
            got="none",
            remedy=f"measure it: erg calibrate --device {device}",
        )
    return found


def _check_file(file: Path) -> None:
    """Pass if a file can be written: this is asked before a minute and a half of measuring, not after.

    Raises:
        UsageError: it cannot; name another.
    """
    from ergometry.core.errors import UsageError

    folder = file.parent
    if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise UsageError(
            expected="--plot with a file that can be written", got=str(file), remedy="name another in a folder of yours"
        )


def _check_folder(where: Path) -> None:
    """Pass if calibrations can be kept.

    Raises:
        InvalidCalibration: they cannot; name another folder.
    """
    from ergometry.core.errors import InvalidCalibration

    try:
        where.mkdir(parents=True, exist_ok=True)
        writable = os.access(where, os.W_OK | os.X_OK)
        got = "one that is read-only"
    except OSError as error:
        writable, got = False, error.strerror or str(error)
    if not writable:
        raise InvalidCalibration(
            expected=f"a folder to write to, {where}", got=got, remedy="set $ERGOMETRY_CALIBRATION or --folder"
        )
