"""Comparison: several runs side by side, each against the first, the differences with their uncertainty."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.report.markdown import escape, table
from ergometry.report.words import percent, quantity, show
from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts

SCHEMA = "ergometry.compare/1"

FORMATS = ("text", "markdown", "json")

#: From this many columns on, the text has room for the error of every value.
_WIDE = 110

#: Fractions of the joules that were measured, further apart than this, are another way of knowing them.
_SAME_COVERAGE = 0.05

_SHARED_ERROR = (
    "± is one standard error, errors taken as independent; one that both share, such as a sensor's gain, partly cancels"
)


@dataclass(frozen=True)
class Line:
    """One quantity over the runs: its path in the summary, its name for a reader, and its values."""

    key: str
    name: str
    values: tuple[Estimate, ...]

    @property
    def differences(self) -> tuple[Estimate, ...]:
        """Return value less the first run's, with both errors; what only rounding tells apart is equal."""
        return tuple(_settled(value - self.values[0], value) for value in self.values[1:])

    @property
    def ratios(self) -> tuple[Estimate, ...]:
        """Return value over the first run's, with both relative errors."""
        return tuple(value / self.values[0] for value in self.values[1:])

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON."""
        return {
            "name": self.key,
            "values": [value.to_json() for value in self.values],
            "differences": [difference.to_json() for difference in self.differences],
            "ratios": [ratio.to_json() for ratio in self.ratios],
        }


def _settled(difference: Estimate, of: Estimate) -> Estimate:
    grain = 1e-12 * abs(of.value or 0.0)
    if difference.value is None or abs(difference.value) > grain:
        return difference
    return replace(difference, value=0.0, stderr=0.0 if (difference.stderr or grain) <= grain else difference.stderr)


def compare(runs: Sequence[Run], format: str = "text", *, width: int = 80) -> str:  # noqa: A002
    """Return runs side by side: energy, time, power, rates, loss and energy by phase.

    The standard error of a difference is √(σ₁² + σ₂²); of a ratio, the ratio × √((σ₁/x₁)² + (σ₂/x₂)²).

    Args:
        runs: two runs or more; the first is what the others are compared with.
        format: one of :data:`FORMATS`.
        width: columns of the text.

    Raises:
        UsageError: fewer than two runs, or no such format.
    """
    if len(runs) < 2:
        raise UsageError(expected="two runs or more", got=str(len(runs)), remedy="name another; erg ls lists them")
    if format not in FORMATS:
        raise UsageError(expected=f"a format of {', '.join(FORMATS)}", got=format, remedy="choose one with --format")
    books = [accounts(run) for run in runs]
    lines, notes = _lines(runs, books), _notes(books)
    if format == "json":
        return json.dumps(_tree(runs, lines, notes), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    names = [str(run.meta.get("name") or run.id) for run in runs]
    return _markdown(names, lines, notes) if format == "markdown" else _text(names, lines, notes, width)


def _lines(runs: Sequence[Run], books: Sequence[Accounts]) -> list[Line]:
    seconds = [Estimate(run.duration_s, 0.0, "s", Provenance.MEASURED, "clock") for run in runs]
    lines = [
        Line("energy.total", "energy", tuple(book.total for book in books)),
        Line("run.duration_s", "time", tuple(seconds)),
        *(Line(f"rates.{key}", name, tuple(book.rates[key] for book in books)) for key, name in _RATES),
        *(Line(f"loss.{key}", f"{key} loss", tuple(book.loss[key] for book in books)) for key in ("last", "best")),
        *(
            Line(f"energy.by_phase.{phase}", phase, tuple(book.by_phase[phase] for book in books))
            for phase in books[0].by_phase
        ),
        *_components(books),
    ]
    return [line for line in lines if any(value.known for value in line.values)]


def _components(books: Sequence[Accounts]) -> list[Line]:
    """Return the components that are known, and not nothing, in every run; without them the residual tells nothing."""
    lines = []
    for component in ("static", "compute", "memory", "communication"):
        values = tuple(book.by_component[component] for book in books)
        if all(value.known for value in values) and any(value.value for value in values):
            lines.append(Line(f"energy.by_component.{component}", f"{component} energy", values))
    residual = tuple(book.by_component["residual"] for book in books)
    return [*lines, Line("energy.by_component.residual", "residual", residual)] if lines else []


_RATES = (
    ("power_w", "mean power"),
    ("j_per_step", "energy"),
    ("j_per_example", "energy"),
    ("j_per_flop", "energy"),
    ("step_s", "time per step"),
    ("flop_per_s", "compute"),
    ("byte_per_s", "memory traffic"),
    ("mfu", "MFU"),
)


def _notes(books: Sequence[Accounts]) -> list[str]:
    """Return what a reader must know before trusting a difference."""
    notes = [_SHARED_ERROR]
    if any(book.loss[key].known for book in books for key in ("last", "best")):
        notes.append("losses are those of single minibatches, which scatter: their differences tell little")
    first = set(books[0].by_domain)
    if any(set(book.by_domain) != first for book in books[1:]):
        notes.append("the runs were not metered in the same domains: their joules are not of the same parts")
    measured = [book.coverage.measured.value or 0.0 for book in books]
    if max(measured) - min(measured) > _SAME_COVERAGE:
        shares = ", ".join(map(percent, measured))
        notes.append(f"the runs' joules are not known in the same way: {shares} of them were measured")
    return notes


def _tree(runs: Sequence[Run], lines: Sequence[Line], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "runs": [{"id": run.id, "name": run.meta.get("name"), "status": run.status} for run in runs],
        "quantities": [line.to_json() for line in lines],
        "notes": list(notes),
    }


def _cells(line: Line, *, brief: bool = False) -> list[str]:
    """Return a line's cells: name and unit, the first run's value, then value, difference and ratio of each other.

    All are in the unit of the first value. When ``brief``, values go without their errors, which the differences have.
    """
    first = next(value for value in line.values if value.known)
    unit = show(first).unit

    def number(estimate: Estimate, *, error: bool = True) -> str:
        shown = show(estimate, first)
        return str(shown._replace(unit="", error=shown.error if error else ""))

    name = line.name if unit in ("", "loss") else f"{line.name} ({unit})"
    cells = [name, number(line.values[0], error=not brief)]
    for value, difference, ratio in zip(line.values[1:], line.differences, line.ratios, strict=True):
        sign = "+" if (difference.value or 0.0) > 0 else ""
        cells += [number(value, error=not brief), sign + number(difference), quantity(ratio)]
    return cells


def _markdown(names: Sequence[str], lines: Sequence[Line], notes: Sequence[str]) -> str:
    first, *others = map(escape, names)
    header = ["", first, *(cell for name in others for cell in (name, "difference", "ratio"))]
    body = table(header, "l" + "r" * (len(header) - 1), [_cells(line) for line in lines])
    return f"# {first} against {', '.join(others)}\n\n{body}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _text(names: Sequence[str], lines: Sequence[Line], notes: Sequence[str], width: int) -> str:
    """Return one table for each run that is compared with the first, so that each is narrow enough to read."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    for i, other in enumerate(names[1:]):
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for header in ("", names[0], other, "difference", "ratio"):
            shown.add_column(header, justify="right" if header else "left", overflow="fold")
        for line in lines:
            cells = _cells(line, brief=width < _WIDE)
            shown.add_row(*cells[:2], *cells[2 + 3 * i : 5 + 3 * i])
        console.print(shown)
        console.print()
    for note in notes:
        console.print(f"• {note}")
    return "\n".join(text.rstrip() for text in out.getvalue().splitlines()) + "\n"
