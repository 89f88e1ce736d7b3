"""``erg verify``: the reference cases, computed on this machine, beside the numbers that they should give."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ergometry.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ergometry.verification.check import Case, Check, Row


class Format(StrEnum):
    """How the cases are written."""

    TEXT = "text"
    JSON = "json"


def verify(
    cases: Annotated[
        list[str] | None, typer.Argument(metavar="[CASE]...", help="Cases such as R1 R7; all without it.")
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON.")] = Format.TEXT,  # noqa: A002
    seed: Annotated[int, typer.Option(help="Seed of what is sampled. At 3 standard errors 1 in 370 falls out.")] = 0,
) -> None:
    """Compute the reference cases on this machine, beside the published or exact numbers.

    The exit status is 1 unless every check passed. A case that cannot be run here says why, and is no pass.
    """
    if seed < 0:
        raise UsageError(expected="--seed of 0 or more", got=str(seed), remedy="0 is what the manual quotes")
    from ergometry.verification.run import chosen
    from ergometry.verification.run import verify as run

    rows = list(run(chosen(cases or []), seed, _progress))
    if format is Format.JSON:
        import json

        typer.echo(json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        console = Console(highlight=False, emoji=False, markup=False)
        with console.capture() as captured:
            for part in _parts(rows):
                console.print(part)
        typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if not all(row.check.passed for row in rows):
        raise typer.Exit(1)


def _progress(case: Case) -> None:
    if sys.stderr.isatty():
        typer.echo(f"erg: {case.id} {case.title} ...", err=True)


def _parts(rows: list[Row]) -> Iterator[RenderableType]:
    """Yield a table of each case under its title, what is to be said of checks that did not pass, and the count."""
    from rich.padding import Padding
    from rich.text import Text

    yield _table([("", "expected", "here", "tolerance", "")])
    for case, of_case in itertools.groupby(rows, key=lambda row: row.case):
        checks = list(of_case)
        yield Text(f"{case}  {checks[0].title}", "bold")
        yield _table(_cells(row.check) for row in checks)
        for words in _troubles(checks):
            yield Padding(Text(words, "red"), (0, 0, 0, 2))
    yield Text(f"\n{_count(rows)}")


WIDTHS = (34, 10, 19, 9, 4)
"""Of a row's cells, so that with a space between them a row has 80 columns."""


def _table(lines: Iterable[tuple[str, ...]]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 1, 0, 0))
    for number, width in enumerate(WIDTHS):
        table.add_column(width=width, justify="left" if number in (0, 4) else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def _cells(check: Check) -> tuple[str, ...]:
    from ergometry.core.estimate import round_to_error

    value = check.value
    here = "" if value is None else round_to_error(value, check.stderr) if check.stderr else _number(value)
    relation = "" if check.relation == "=" else f"{check.relation} "
    verdict = {True: "pass", False: "FAIL", None: "none"}[check.passed]
    return (
        f"  {check.quantity}",
        relation + _number(check.expected, 10 - len(relation)),
        here,
        f"{check.tolerance:.2g}",
        verdict,
    )


def _number(value: float, room: int = 10) -> str:
    """Return a number with six digits, or as many fewer as it takes to fit."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.2g}"
    return next(
        (text for text in (f"{value:.{digits}g}" for digits in (6, 5, 4, 3)) if len(text) <= room), f"{value:.2g}"
    )


def _troubles(rows: list[Row]) -> Iterator[str]:
    """Yield what is to be said of the checks that did not pass, those of one reason together."""
    failed = [row.check for row in rows if not row.check.passed]
    for (missing, why), group in itertools.groupby(failed, key=lambda check: (check.value is None, check.why)):
        names = [check.quantity for check in group]
        said = names[0] if len(names) == 1 else f"{len(names)} checks"
        yield f"{'not run' if missing else 'FAILED'}: {said}: {why}"


def _count(rows: list[Row]) -> str:
    verdicts = [row.check.passed for row in rows]
    parts = [f"{verdicts.count(True)} of {len(rows)} checks passed"]
    if failed := verdicts.count(False):
        parts.append(f"{failed} failed")
    if missing := verdicts.count(None):
        parts.append(f"{missing} could not be run")
    return f"{', '.join(parts)}; {sum(row.seconds for row in rows):.1f} s."
