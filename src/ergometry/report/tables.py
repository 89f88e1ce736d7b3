"""Tables: the rows that every format shows, from the summary, so that no two formats tell a run differently."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ergometry.core.estimate import Estimate
from ergometry.equations.catalogue import CATALOGUE
from ergometry.report import sensors
from ergometry.report.book import Book
from ergometry.report.words import NO_BREAK, duration, grouped, listed, percent, quantity

#: What each provenance means, for a legend.
PROVENANCES = {
    "measured": "read from a hardware counter or a clock",
    "derived": "computed from measured and counted values",
    "modelled": "no sensor: a model with a known error",
    "assumed": "a constant of the user's or of a data sheet",
}

VERDICTS = {
    "exact": "a theorem or a definition",
    "model": "true up to a stated approximation",
    "vacuous": "true, and says nothing at today's scale",
    "inconsistent": "its units do not close as written",
    "false": "a counterexample exists",
}


@dataclass(frozen=True)
class Row:
    """One line of an energy table: J, the fraction of the total, and seconds where there are any."""

    name: str
    energy: Estimate
    share: float | None
    seconds: float | None = None


@dataclass(frozen=True)
class Entry:
    """One equation of a run: verdicts by scale (``""`` when there is one), formulas, values as written and repaired."""

    id: str
    title: str
    verdicts: tuple[tuple[str, str], ...]
    why: str
    formula: str
    repaired: str
    tells: str
    as_written: tuple[tuple[str, Estimate], ...]
    repair: tuple[tuple[str, Estimate], ...]

    @property
    def first_known(self) -> tuple[str, Estimate] | None:
        """Return the first value that this run could give, those of the repair before those as written."""
        return next(((name, value) for name, value in (*self.repair, *self.as_written) if value.known), None)


def energy_rows(book: Book, by: str) -> list[Row]:
    """Return the rows of ``by``: phase, component or domain; those with most joules first, unknown ones last.

    Domains may overlap: theirs are shares of nothing, so they have none.
    """
    whole = book.accounts.total.value
    rows = []
    for name, q in book.summary["energy"][f"by_{by}"].items():
        energy = Estimate.from_json(q)
        share = energy.value / whole if by != "domain" and energy.value is not None and whole else None
        seconds = book.accounts.seconds_by_phase[name].value if by == "phase" else None
        rows.append(Row(name, energy, share, seconds))
    return sorted(rows, key=lambda row: -math.inf if row.energy.value is None else row.energy.value, reverse=True)


def entries(book: Book) -> list[Entry]:
    """Return the equations in the order of their numbers."""
    return [
        Entry(
            number,
            entry["title"],
            tuple(entry["verdict"].items()) if isinstance(entry["verdict"], dict) else (("", entry["verdict"]),),
            entry["why"],
            CATALOGUE[number].as_written,
            CATALOGUE[number].repair,
            CATALOGUE[number].tells,
            tuple((name, Estimate.from_json(q)) for name, q in entry["as_written"].items()),
            tuple((name, Estimate.from_json(q)) for name, q in entry["repair"].items()),
        )
        for number, entry in sorted(book.summary["equations"].items())
    ]


def headline(book: Book) -> list[tuple[str, Estimate]]:
    """Return the numbers that a reader looks for first."""
    rates, books = book.accounts.rates, book.accounts
    return [
        ("energy", books.total),
        *([("of it, this process", books.process)] if books.process.known else []),
        ("mean power", books.power),
        ("energy per step", rates["j_per_step"]),
        ("energy per example", rates["j_per_example"]),
        ("energy per FLOP", rates["j_per_flop"]),
        ("step time", rates["step_s"]),
        ("compute rate", rates["flop_per_s"]),
        ("peak memory", books.work["peak_memory_bytes"]),
    ]


def loss_words(book: Book) -> str:
    """Return the loss's way, ``5.500 → 2.127 (best 2.127)``."""
    loss: dict[str, Any] = book.summary["loss"]
    first, last, best = (f"{loss[k]:#.4g}" if loss[k] is not None else "–" for k in ("first", "last", "best"))
    return f"{first} → {last} (best {best})" if (first, last, best) != ("–", "–", "–") else "–"


LABELS = {
    "communication_bytes": "bytes communicated",
    "bytes": "bytes moved",
    "flops": "FLOP",
    "peak_memory_bytes": "peak memory",
    "step_s": "time per step",
    "power_w": "mean power",
    "flop_per_s": "compute rate",
    "byte_per_s": "memory traffic",
    "mfu": "model FLOP/s over peak (MFU)",
    "hfu": "all FLOP/s over peak (HFU)",
    "j_per_step": "energy per step",
    "j_per_example": "energy per example",
    "j_per_token": "energy per token",
    "j_per_flop": "energy per FLOP",
    "j_per_byte": "energy per byte",
    "intensity": "FLOP per byte",
    "compute_bound": "time above the ridge",
}
"""What a reader calls the work and the rates whose name in the summary is not already a word."""


def label(estimate: Estimate) -> str:
    """Return a number's provenance and method, for a reader: ``measured: rapl package-0``."""
    return f"{estimate.provenance}: {estimate.method}" if estimate.method else str(estimate.provenance)


def story(book: Book) -> list[str]:
    """Return, in plain sentences, what the run cost and what that bought."""
    sentences = (_cost(book), _bought(book), _went(book), sensors.caveat(book))
    return [sentence.replace(" %", f"{NO_BREAK}%") for sentence in sentences if sentence]


def _tight(estimate: Estimate) -> str:
    """Return a quantity that no line break parts from its error or unit."""
    return quantity(estimate).replace(" ", NO_BREAK)


def _cost(book: Book) -> str:
    spent, power, run = book.accounts.total, book.accounts.power, book.summary["run"]
    verb = "has run for" if run["status"] == "running" else "took"
    if spent.value is None:
        return f"This run {verb} {duration(run['duration_s'])}. Its energy is not known: {spent.why}."
    return f"This run {verb} {duration(run['duration_s'])} and {_tight(spent)}, a mean of {_tight(power)}."


def _bought(book: Book) -> str:
    done, loss = book.accounts.work, book.summary["loss"]
    if not done["steps"].value:
        return "No training step was seen in it."
    words = f"It trained {_model(done['parameters'])} for {_tight(done['steps'])}"
    seen = [_tight(done[name]) for name in ("examples", "tokens") if done[name].known]
    words += f" on {' ('.join(seen)}{')' if len(seen) > 1 else ''}" if seen else ""
    each = book.accounts.rates["j_per_example"]
    words += f", {_tight(each).replace('/example', '')} an example" if each.known else ""
    if loss["first"] is not None and loss["last"] is not None:
        moved = "fell" if loss["last"] < loss["first"] else "went"
        words += f", and the loss {moved} from {loss['first']:#.4g} to {loss['last']:#.4g}"
    elif loss["first"] is not None:
        words += f", and the loss began at {loss['first']:#.4g} and ended as no finite number"
    return words + "."


def _model(parameters: Estimate) -> str:
    return f"a model of {grouped(parameters.value)} parameters" if parameters.value is not None else "a model"


def _went(book: Book) -> str:
    rows = [row for row in energy_rows(book, "phase") if row.share is not None and row.share >= 0.05]
    if not rows or not book.accounts.work["steps"].value:
        return ""
    first, *rest = [f"{percent(row.share or 0.0)}{{}} to {_PHASE_WORDS[row.name]}" for row in rows]
    return f"Of the energy, {listed([first.format(' went'), *(part.format('') for part in rest)])}."


_PHASE_WORDS = {
    "data": "waiting for data",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer",
    "evaluation": "evaluation",
    "other": "everything else, such as set-up",
}
