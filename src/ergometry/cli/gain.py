"""``erg gain``: what a board's readings must be multiplied by, from a reference that is better than its own sensor."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ergometry.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ergometry.core.ports import Signal
    from ergometry.core.run import Run
    from ergometry.sensors.gains import Gain, GainsFile
    from ergometry.work.board_gain import Meter


class Format(StrEnum):
    """How the list is written."""

    TEXT = "text"
    JSON = "json"


def gain(
    board: Annotated[
        str | None,
        typer.Argument(metavar="[BOARD]", help="A domain (gpu0, package0), or the beginning of an identity."),
    ] = None,
    value: Annotated[
        float | None, typer.Argument(metavar="[GAIN]", help="What its readings are to be multiplied by.")
    ] = None,
    stderr: Annotated[float | None, typer.Option(help="The standard error of GAIN, such as 0.01.")] = None,
    reference: Annotated[str, typer.Option(help="What it was compared with, in your words.")] = "",
    run: Annotated[str | None, typer.Option(help="Compute it: the run during which the reference was read.")] = None,
    reference_energy: Annotated[
        str | None, typer.Option(help="What the reference read for RUN: 412 kJ, 0.11 kWh.")
    ] = None,
    reference_stderr: Annotated[str | None, typer.Option(help="The standard error of each of its readings.")] = None,
    baseline: Annotated[str | None, typer.Option(help="An idle run: only differences from it are compared.")] = None,
    baseline_energy: Annotated[str | None, typer.Option(help="What the reference read for the idle run.")] = None,
    psu_efficiency: Annotated[
        float | None, typer.Option(help="Share of what the reference reads that passes the power supply; 1 behind it.")
    ] = None,
    psu_stderr: Annotated[float, typer.Option(help="The standard error of that share.")] = 0.0,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the board's gain.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How the list is written.")] = Format.TEXT,  # noqa: A002
) -> None:
    """List the boards of this machine and their gains, or calibrate one.

    erg gain gpu0 1.043 --stderr 0.01 writes a gain; erg gain gpu0 --run last --reference-energy '412 kJ'
    --reference-stderr '2 kJ' computes it. docs/sensors.md says which meter can calibrate what.
    """
    import os

    from ergometry.sensors import gains

    computed = {
        "--reference-energy": reference_energy,
        "--reference-stderr": reference_stderr,
        "--baseline": baseline,
        "--baseline-energy": baseline_energy,
        "--psu-efficiency": psu_efficiency,
    }
    given = [name for name, option in computed.items() if option is not None]
    if reference and run is None and value is None:
        given.append("--reference")
    _check_use(board, [("GAIN", value is not None), ("--run", run is not None), ("--remove", remove)], stderr, given)
    if run is not None and board is not None:
        from ergometry.work.board_gain import calibrate

        meter = _meter(computed, psu_stderr)
        loaded = _load(run, store)
        identity = _identity(board, _signals_of(loaded), gains.read(os.environ))
        idle = _load(baseline, store) if baseline is not None else None
        found = calibrate(identity, meter, loaded, idle, reference)
    elif board is not None and remove:
        known = gains.look(os.environ)
        identity = _identity(board, _signals_here(), known.gains)
        if not gains.remove(os.environ, identity):
            raise UsageError(
                expected="a board with a gain", got=f"{identity}, which has none", remedy="erg gain lists them"
            )
        typer.echo(f"erg: {identity} has no gain any more", err=True)
        return
    elif board is not None and value is not None:
        identity = _identity(board, _signals_here(), gains.read(os.environ))
        found = gains.Gain(value, (stderr or 0.0) / value if value else 0.0, reference=reference)
    else:
        _list(board, gains.look(os.environ), format)
        return
    file = gains.write(os.environ, identity, found)
    error = found.gain * found.rel_stderr
    typer.echo(f"erg: {identity}: gain {found.gain:.4g} ± {error:.2g}, in {file}", err=True)


def _check_use(board: str | None, ways: list[tuple[str, bool]], stderr: float | None, given: list[str]) -> None:
    """Refuse options that contradict or lack each other.

    Raises:
        UsageError: they do.
    """
    chosen = [name for name, used in ways if used]
    if chosen and board is None:
        raise UsageError(expected="a BOARD", got=f"{chosen[0]} alone", remedy="name a domain such as gpu0")
    if len(chosen) > 1:
        raise UsageError(expected="one of GAIN, --run and --remove", got=" and ".join(chosen), remedy="choose one")
    if chosen == ["GAIN"] and stderr is None:
        raise UsageError(
            expected="GAIN with its --stderr", got="none", remedy="state how far off it may be, such as --stderr 0.01"
        )
    if chosen != ["GAIN"] and stderr is not None:
        raise UsageError(expected="--stderr beside a GAIN", got="no GAIN", remedy="a run's has its own error")
    if chosen != ["--run"] and given:
        raise UsageError(
            expected=f"a gain for {given[0]}", got="none", remedy="name the run that was metered with --run"
        )


def _meter(options: Mapping[str, Any], psu_stderr: float) -> Meter:
    """Return what the reference read.

    Raises:
        UsageError: a reading is missing, or is not an energy.
    """
    from ergometry.core.estimate import Estimate
    from ergometry.work.board_gain import Meter

    for needed in ("--reference-energy", "--reference-stderr"):
        if options[needed] is None:
            raise UsageError(expected=f"--run with {needed}", got="none", remedy="such as '412 kJ' and '2 kJ'")
    error_j = _joules("--reference-stderr", options["--reference-stderr"])
    energy = Estimate(_joules("--reference-energy", options["--reference-energy"]), error_j, "J")
    if (options["--baseline"] is None) != (options["--baseline-energy"] is None):
        raise UsageError(
            expected="--baseline and --baseline-energy together",
            got="one of them",
            remedy="read the meter in both runs",
        )
    efficiency = options["--psu-efficiency"]
    baseline = None
    if options["--baseline-energy"] is not None:
        baseline = Estimate(_joules("--baseline-energy", options["--baseline-energy"]), error_j, "J")
        if efficiency is None:
            raise UsageError(
                expected="--psu-efficiency beside --baseline",
                got="none",
                remedy="a meter at the wall reads the supply's losses too: give its data sheet's share, such as 0.94,"
                " with --psu-stderr; 1 for a meter behind it",
            )
    efficiency = 1.0 if efficiency is None else efficiency
    if not 0.5 <= efficiency <= 1.0 or not 0.0 <= psu_stderr < 0.5:
        raise UsageError(
            expected="--psu-efficiency from 0.5 to 1, with --psu-stderr from 0 to 0.5",
            got=f"{efficiency:g} and {psu_stderr:g}",
            remedy="give shares, such as 0.94 and 0.01",
        )
    return Meter(energy, baseline, Estimate(efficiency, psu_stderr, ""))


def _joules(option: str, words: str) -> float:
    """Return an energy in J, from words such as ``412 kJ`` or ``0.11 kWh``.

    Raises:
        UsageError: it is not a positive energy.
    """
    from ergometry.core import units
    from ergometry.core.errors import UnitMismatch

    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]+)\s*", words)
    try:
        if match is None:
            raise ValueError(words)
        value = float(match[1]) * units.factor(match[2].replace("Wh", "W*h"), "J")
    except (ValueError, UnitMismatch):
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise UsageError(expected=f"{option} with its unit", got=repr(words), remedy="write '412 kJ' or '0.114 kWh'")
    return value


def _load(reference: str, store: Path | None) -> Run:
    """Return a stored run that has ended.

    Raises:
        UsageError: it is still being recorded.
    """
    from ergometry.store.catalog import default_store, resolve
    from ergometry.store.reader import load

    run = load(resolve(reference, store or default_store()))
    if run.status == "running" or run.duration_s <= 0:
        raise UsageError(expected="a run that has ended", got=f"{run.id}, {run.status}", remedy="wait for its end")
    return run


def _signals_of(run: Run) -> list[Signal]:
    return [signal for samples in run.samples for signal in samples.signals]


def _signals_here() -> list[Signal]:
    from ergometry.sensors import open_sensors

    opened, _ = open_sensors()
    for source in opened:
        source.sensor.close()
    return [signal for source in opened for signal in source.signals]


def _identity(word: str, signals: Iterable[Signal], known: Mapping[str, Gain]) -> str:
    """Return the identity of the board that is meant: by a domain, or by an identity's beginning.

    Raises:
        UsageError: there is no such board, more than one, or what is meant has no identity that could be calibrated.
    """
    listed = list(signals)
    named = [signal for signal in listed if f"/{signal.domain}".endswith(f"/{word}")] if word else []
    boards = {signal.board for signal in named if signal.board and signal.provenance == "measured"}
    if named and not boards:
        what = named[0]
        raise UsageError(
            expected="a board that is measured and has an identity",
            got=f"{what.domain} ({what.method})",
            remedy="only a sensor's own readings can be calibrated; erg gain lists the boards",
        )
    identities = {signal.board for signal in listed if signal.board} | set(known)
    if not named and word:
        boards = {word} if word in identities else {board for board in identities if board.startswith(word)}
    if len(boards) != 1:
        got = f"{word!r}, which is {' and '.join(sorted(boards))}" if boards else repr(word)
        remedy = "give more letters" if boards else "erg gain lists the boards of this machine"
        raise UsageError(expected="a board", got=got, remedy=remedy)
    return boards.pop()


def _list(word: str | None, known: GainsFile, format: Format) -> None:  # noqa: A002
    """Print the boards of this machine and those with a gain, or one of them in full."""
    here = _signals_here()
    domains: dict[str, list[str]] = {}
    for signal in here:
        if signal.board and signal.provenance == "measured":
            domains.setdefault(signal.board, []).append(signal.domain)
    if known.why:
        typer.echo(f"erg: gains are not used, of {known.path}: {known.why}", err=True)
    chosen = [*domains, *(board for board in known.gains if board not in domains)]
    if word is not None:
        chosen = [_identity(word, here, known.gains)]
    listed = [
        {"board": board, "domains": domains.get(board, [])}
        | (known.gains[board]._asdict() if board in known.gains else {})
        for board in chosen
    ]
    if format is Format.JSON:
        import json

        typer.echo(json.dumps({"file": str(known.path), "boards": listed}, indent=2, ensure_ascii=False))
    elif listed:
        _print(listed, full=word is not None)
    else:
        typer.echo("erg: no board with an identity is read here; erg doctor says what is, and why", err=True)


def _print(listed: list[dict[str, Any]], *, full: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("board", "gain", "found", "reads"):
        table.add_column(heading, no_wrap=heading in ("gain", "found"), overflow="fold")
    for entry in listed:
        gain = f"{entry['gain']:.4g} ± {entry['gain'] * entry['rel_stderr']:.2g}" if "gain" in entry else "none"
        where = ", ".join(path.partition("/")[2] or path for path in entry["domains"]) or "elsewhere"
        table.add_row(Text(entry["board"]), gain, Text(entry.get("date", "")), Text(where))
    console = Console(highlight=False, emoji=False, markup=False)
    console.print(table)
    if full and "gain" in listed[0]:
        for name, value in {"reference": listed[0]["reference"], **listed[0]["readings"]}.items():
            console.print(Text(f"  {name} = {value}", "dim"))
