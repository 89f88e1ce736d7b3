"""Sensors: what a reader is told of the power sources behind a run's joules, and of the boards' state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ergometry.core.domain import Domain
from ergometry.core.estimate import Estimate
from ergometry.report.book import Book
from ergometry.report.words import NO_BREAK, UNKNOWN, duration, listed, percent, quantity, show
from ergometry.work.coverage import ABSENT, ACCELERATORS, BEYOND, PARTS, UNUSED, part_of
from ergometry.work.coverage import Part as CoveredPart
from ergometry.work.health import Board
from ergometry.work.meters import is_measured, unread_s


def caveat(book: Book) -> str:
    """Return what a reader must know before trusting the total; nothing where all of it was measured."""
    spent, coverage = book.accounts.total, book.accounts.coverage
    measured = coverage.measured.value
    if spent.value is None or measured is None:
        return ""
    words = [_provenance_words(book, measured), *(f"{note}." for note in coverage.notes)]
    missing = [
        part for part in coverage.parts if part.part == ACCELERATORS and part.how == ABSENT and part.why != UNUSED
    ]
    words += [f"The accelerators' joules are missing: {part.why.partition(':')[0]}." for part in missing]
    return " ".join(word for word in words if word)


def _provenance_words(book: Book, measured: float) -> str:
    """Return which of the joules were measured, which modelled, and how far off their sum may be."""
    spent, traces = book.accounts.total, book.accounts.metered.cover()
    error = f"may be {percent(spent.stderr / spent.value)} off" if spent.stderr and spent.value else ""
    modelled = _parts_of(domain for domain, trace in traces.items() if not is_measured(trace.signal))
    read = _parts_of(domain for domain, trace in traces.items() if is_measured(trace.signal))
    if not read:
        alone = " alone" if len(modelled) == 1 else ""
        words = f"No sensor measured these joules: they are modelled, for the {listed(modelled)}{alone}"
        return words + (f", and {error}." if error else ".")
    if modelled:
        whole = f"{percent(measured)} of these joules were measured, by the sensors of the {listed(read)}; those of"
        # Of two packages one may be read and the other modelled. What is modelled whole comes first: "the" is of it.
        partly = [f"other {part}" for part in modelled if part in read]
        wholly = [part for part in modelled if part not in read]
        rest = f"{'the ' if wholly else ''}{listed([*wholly, *partly])}"
        words = f"{whole} {rest} are modelled" + (f", and the sum {error}" if error else "")
    elif measured < 1:
        share = percent(measured) if measured < _NEARLY else f"All but {percent(1 - measured)}"
        words = f"{share} of these joules were measured" + (f", and the sum {error}" if error else "")
    else:
        return ""
    bridged = [
        f"{domain} ({duration(unread_s(trace, book.run.duration_s))})"
        for domain, trace in traces.items()
        if is_measured(trace.signal) and trace.bridged_j(0.0, book.run.duration_s) > 0
    ]
    return words + (f"; what was not read of {listed(bridged)} is bridged." if bridged else ".")


_NEARLY = 0.995
"""From here on the fraction that was measured rounds to all, and what was not is said instead."""


def _parts_of(domains: Iterable[Domain]) -> list[str]:
    """Return what the parts of the node are called that the domains belong to, in the order of a report."""
    found = {part_of(domain) or "node" for domain in domains}
    return [part for part in (*PARTS, "node") if part in found]


def beyond(book: Book) -> str:
    """Return what the node uses beside the total, in words; nothing where the total holds it."""
    rest = book.accounts.coverage.parts[-1]
    if rest.included or not book.accounts.total.known:
        return ""
    if not rest.energy.known:
        return f"Not included: {BEYOND}."
    return (
        f"Not included: {BEYOND}, about {quantity(rest.energy).replace(' ', NO_BREAK)} more ({rest.energy.provenance})."
    )


@dataclass(frozen=True)
class BoardRow:
    """One board's state over the run, in words; a dash where the board does not tell."""

    name: str
    temperature: str
    clock: str
    used: str
    held: str
    limit: str
    traffic: str


def board_rows(book: Book) -> list[BoardRow]:
    """Return a row for each board that was sampled."""
    return [_board_row(board) for board in book.accounts.boards]


def _board_row(board: Board) -> BoardRow:
    told = board.figures()
    held = [
        f"{words} {percent(share.value)}"
        for cause, words in HELD_BY.items()
        if (share := told[f"held_by_{cause}"]).value is not None and share.value > 0
    ]
    used = told["utilisation"].value
    return BoardRow(
        board.name,
        _pair(told["temperature_mean"], told["temperature_max"]),
        _pair(told["clock_mean"], told["clock_top"]),
        percent(used) if used is not None else UNKNOWN,
        ", ".join(held) or ("nothing" if told["held_by_heat"].known else UNKNOWN),
        quantity(told["power_limit"]),
        _pair(told["pcie_received"], told["pcie_sent"]),
    )


HELD_BY = {"heat": "heat", "power_cap": "power limit", "power_brake": "power brake", "other": "another limit"}
"""What a reader calls the causes that hold a clock down."""


def _pair(first: Estimate, second: Estimate) -> str:
    """Return two quantities with the unit they share, ``61/72 °C``."""
    if not (first.known or second.known):
        return UNKNOWN
    like = max((first, second), key=lambda e: abs(e.value or 0.0))
    shown = [show(each, like) for each in (first, second)]
    numbers = [f"{float(each.value):.3g}" if each.value != UNKNOWN else UNKNOWN for each in shown]
    return f"{'/'.join(numbers)} {shown[0].unit or shown[1].unit}"


def coverage_rows(book: Book) -> list[CoveredPart]:
    """Return the parts of the node that a reader is told of: not accelerators where none was used."""
    return [part for part in book.accounts.coverage.parts if part.why != UNUSED]
