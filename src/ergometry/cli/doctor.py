"""``erg doctor``: each power source of this machine, what it is worth, and what to do where it is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ergometry.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LONGEST_S = 60.0

OVERHEAD_S = 3.0
"""The recorder runs at least this long: its first second holds little but its start."""


class Format(StrEnum):
    """How the findings are written."""

    TEXT = "text"
    JSON = "json"


def doctor(
    format: Annotated[Format, typer.Option(help="Tables, or a JSON object.")] = Format.TEXT,  # noqa: A002
    seconds: Annotated[float, typer.Option(help="How long every source is read, to see what it does.")] = 2.0,
) -> None:
    """Examine this machine's power sources: which are there, what they cover and how well, and what to mend."""
    if not 0.0 < seconds <= LONGEST_S:
        raise UsageError(
            expected=f"--seconds above 0 and up to {LONGEST_S:g}", got=f"{seconds:g}", remedy="2 is enough as a rule"
        )
    from ergometry.core.ports import Machine
    from ergometry.meter.doctor import examine, overhead
    from ergometry.store.reader import load

    running_s = max(seconds, OVERHEAD_S)
    _progress(f"reading the power sources for {seconds:g} s ...")
    found = examine(Machine.here(), seconds)
    _progress(f"running a recorder for {running_s:g} s, to see what it costs ...")
    found["overhead"] = overhead(running_s, load)
    if format is Format.JSON:
        import json

        typer.echo(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        for part in _parts(found):
            console.print(part)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        typer.echo(f"erg: {words}", err=True)


def _parts(found: dict[str, Any]) -> Iterator[RenderableType]:
    from rich.text import Text

    def title(words: str) -> Text:
        return Text(f"\n{words}", "bold")

    if found["problems"]:
        yield Text("Needs attention", "bold red")
        yield _listed((problem["what"], problem["remedy"]) for problem in found["problems"])
        yield Text("")
    if found["disabled"]:
        yield Text("ERGOMETRY_DISABLE=1 is set: runs are not measured.\n", "yellow")
    yield from _power(found)
    yield title("Sources")
    yield _sources(found)
    if any(source["domains"] for source in found["sources"]):
        yield title(f"Readings over {found['seconds']:g} s")
        yield _domains(found)
    if found["fallback"]["in_use"]:
        yield title("Modelled, where there is no sensor")
        yield _listed((f"{_short(m['domain'])}: {m['method']}", m["remedy"]) for m in found["fallback"]["models"])
    yield title("Cost of measuring, read here")
    yield Text(_overhead(found))
    yield title("Calibration")
    yield Text(_calibration(found["gains"]))


def _grid(*justify: Literal["left", "right"]) -> Table:
    """Return a table without lines, whose last column takes what is left and wraps in itself."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for number, side in enumerate(justify, start=1):
        table.add_column(justify=side, no_wrap=number < len(justify), overflow="fold")
    return table


def _listed(items: Any) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, remedy in items:
        table.add_row("•", Text(what))
        if remedy:
            table.add_row("", Text(f"Remedy: {remedy}", "dim"))
    return table


def _power(found: dict[str, Any]) -> Iterator[RenderableType]:
    from rich.text import Text

    from ergometry.core.estimate import Estimate
    from ergometry.report.words import listed, quantity

    power = found["power"]
    if not found["cover"]:
        yield Text("Power: not known, as nothing can be read.", "bold")
        return
    now = quantity(Estimate(power["value"], power["stderr"], "W"))
    words = Text(f"Power now: {now}", "bold").append(f" ({power['provenance']}), the sum of", "not bold")
    yield words if power["value"] is not None else Text("Power now: not known; it would be the sum of", "bold")
    table = _grid("left", "right", "left")
    for path, covered in zip(found["cover"], found["covers"], strict=True):
        table.add_row(f"  {_short(path)}", _watts(power["by_domain"][path]), Text(covered))
    yield table
    missing = [_short(path) for path, value in power["by_domain"].items() if value is None]
    if missing and power["value"] is not None:
        yield Text(f"Not in the sum, for want of a reading: {listed(missing)}.", "yellow")
    left = found["leaves_out"]
    yield Text(f"Left out: {listed(left)}." if left else "Nothing of the machine is left out.", "dim")


def _sources(found: dict[str, Any]) -> Table:
    from rich.text import Text

    said = {problem["source"] for problem in found["problems"]}
    table = _grid("left", "left", "left")
    for source in found["sources"]:
        state = Text("present", "green") if source["present"] else Text("absent", "dim")
        if source["present"]:
            read = f", {_value(source['read_s'], 's')} a reading" if source["read_s"] is not None else ""
            count = len(source["domains"])
            words = f"{count} domain{'' if count == 1 else 's'}{read}"
        else:
            words = "see above" if source["source"] in said else source["why"]
        table.add_row(source["source"], state, Text(words))
        if not source["present"] and source["source"] not in said and source["remedy"]:
            table.add_row("", "", Text(f"→ {source['remedy']}", "dim"))
    return table


def _domains(found: dict[str, Any]) -> Table:
    from rich.table import Table

    from ergometry.report.words import UNKNOWN, percent

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("domain", "power", "error", "updates every", "resolution", ""):
        table.add_column(heading, justify="left" if heading in ("domain", "") else "right", overflow="fold")
    for source in found["sources"]:
        for domain in source["domains"]:
            modelled = domain["provenance"] == "modelled"  # and so new whenever it is asked
            seen = _value(None if modelled else domain["update_period_s"], "s")
            table.add_row(
                _short(domain["domain"]),
                _watts(domain["power_w"]),
                f"±{percent(domain['rel_stderr'])}" if domain["rel_stderr"] else UNKNOWN,
                f"≤ {seen}" if domain["update_period_at_most"] and not modelled else seen,
                _value(domain["resolution"] or None, domain["unit"]),
                domain["provenance"] + (", calibrated" if domain["calibrated"] else ""),
            )
    return table


def _overhead(found: dict[str, Any]) -> str:
    from ergometry.report.words import percent

    cost = found["overhead"]
    sample_s = sum(source["read_s"] or 0.0 for source in found["sources"])
    sample = f"One sample of every source takes {_value(sample_s, 's')}." if sample_s else ""
    if cost["fraction_of_core"] is None:
        return f"Not known: {cost['why']}. {sample}"
    return (
        f"{percent(cost['fraction_of_core'])} of one core at {cost['sampling_hz']:g} sample a second, in a process of"
        f" its own, which starts in {_value(cost['start_s'], 's')} and stores {_value(cost['bytes_per_hour'], 'B')} an"
        f" hour. {sample}"
    )


def _calibration(gains: dict[str, Any]) -> str:
    if gains["why"]:
        return f"{gains['file']}: {gains['why']}."
    if not gains["exists"]:
        return f"None: there is no {gains['file']}. erg gain writes one, from a meter's reading."
    count = len(gains["boards"])
    return f"{gains['file']} has {count} gain{'' if count == 1 else 's'}; erg gain lists them."


def _short(path: str) -> str:
    """Return a domain without its node, as one machine has but one."""
    return path.partition("/")[2] or path


def _watts(power_w: float | None) -> str:
    from ergometry.report.words import UNKNOWN

    return UNKNOWN if power_w is None else f"{power_w:.1f} W"


def _value(value: float | None, unit: str, digits: int = 3) -> str:
    from ergometry.core.units import human
    from ergometry.report.words import UNKNOWN

    return UNKNOWN if value is None else human(value, unit, digits)
