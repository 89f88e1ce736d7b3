"""Thermodynamics: what a run's report tells of its work and heat, as a short ledger and as figures along the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.estimators.rows import not_finite
from ergometry.estimators.series import Series, series
from ergometry.report.book import Book
from ergometry.report.plots import Array, Figure, Plot, View, banded, curve, plotted, time_unit
from ergometry.report.words import percent, quantity

FIGURES: Mapping[str, tuple[str, Mapping[str, tuple[str, str]]]] = {
    "work_and_heat": ("Work and heat per step", {"heat": ("domain4", "heat Q"), "work": ("accent", "work W")}),
    "loss_change": ("Loss change since the start, Δℓ", {"loss_change": ("accent", "Δℓ")}),
    "b_noise": ("Gradient noise scale, B_noise", {"b_noise": ("accent", "B_noise")}),
    "noise_temperature": ("Noise temperature, T_a", {"noise_temperature": ("accent", "T_a")}),
    "length": (
        "Length of the outputs' path, 𝓛",
        {"length_js": ("accent", "𝓛_JS"), "length_fisher": ("domain4", "𝓛_F")},
    ),
    "alignment": ("Alignment of the motion with the force, A", {"alignment": ("accent", "A")}),
    "information_per_joule": ("Information per joule", {"information_per_joule": ("accent", "nat/J")}),
}
"""Name of a figure -> title, and its series -> (role of the colour, name in the legend)."""

_LOGARITHMIC = ("noise_temperature", "b_noise")
"""Positive, and over the run they change by factors."""

_DECADE = 10.0
_AXES = {"loss": "loss units", "example": "examples"}


@dataclass(frozen=True)
class Line:
    """One line of the ledger: what, how much, and what that is."""

    name: str
    value: Estimate
    note: str


@dataclass(frozen=True)
class Absent:
    """Series that a run has no point of, for one reason."""

    titles: tuple[str, ...]
    why: str


def ledger(book: Book) -> list[Line]:
    """Return what is known of work, heat, noise, temperature, path, stability and the instrument's own cost."""
    told: Mapping[str, Any] = book.summary["equations"]

    def of(section: str, name: str) -> Estimate:
        found = told.get(section, {}).get("repair", {}).get(name)
        return Estimate.unknown("", "was not read") if found is None else Estimate.from_json(found)

    batch, closure = of("6.1", "B_actual"), of("7.2", "first_law_closure")
    first = "second" if "from the second step on" in of("7.2", "delta_U").why else "first"
    change = f"ΔU, from the {first} batch to the last"
    # To rounding it says that the sums were done right; with an error it says how well the sampled steps stand for all.
    if closure.value is not None:
        change += f"; the sampled W − Q closes on it to {quantity(closure)}"
    lines = [
        Line("heat", of("7.2", "Q_first_law"), "ΣQ, what the steps took off the loss of their own batch"),
        Line("work", of("7.2", "W_first_law"), "ΣW, what the changes of batch put back on"),
        Line("loss change", of("7.2", "delta_U"), change),
        Line(
            "noise scale",
            Estimate.from_json(book.summary["noise"]["b_noise"]),
            "B_noise" + (f"; the batches had {quantity(replace(batch, unit='example'))}" if batch.known else ""),
        ),
        Line("noise temperature", of("4.1", "T_noise"), "T_a, of the minibatch noise in the weights"),
        Line("path length", of("4.2", "length_js"), "𝓛_JS, of the outputs for a probe batch"),
        Line("stability", of("8.2", "stability"), "η over the largest stable one; above 1 it is too large"),
        Line(
            "cost of these",
            Estimate.from_json(book.summary["overhead"]["physics"]["share"]),
            "of the steps' time went to looking",
        ),
    ]
    broken = not_finite(book.run)
    if len(broken):
        count = Estimate(float(len(broken)), 0.0, "step", Provenance.MEASURED)
        lines.insert(3, Line("left out", count, f"their loss was not finite, from step {broken[0]:.0f} on"))
    return [line for line in lines if line.value.known]


def shown(line: Line) -> str:
    """Return the value of a line in words: a share of time as a percentage."""
    return percent(line.value.value or 0.0) if line.name == "cost of these" else quantity(line.value)


def figures(book: Book) -> tuple[list[Figure], list[Absent]]:
    """Return the figures of the run's series over time, and what has no points, with why."""
    found = series(book.run, book.accounts)
    drawn = [
        _figure(book, name, title, {key: (*look, found[key]) for key, look in parts.items() if _is_drawn(found[key])})
        for name, (title, parts) in FIGURES.items()
        if any(_is_drawn(found[key]) for key in parts)
    ]
    reasons: dict[str, list[str]] = {}
    for one in found.values():
        if not _is_drawn(one):
            reasons.setdefault(one.why if not len(one) else "needs two stretches of the run: it has one", []).append(
                one.title
            )
    return drawn, [Absent(tuple(titles), why) for why, titles in reasons.items()]


def _is_drawn(one: Series) -> bool:
    return len(one) > 1


def _figure(book: Book, name: str, title: str, parts: Mapping[str, tuple[str, str, Series]]) -> Figure:
    scale, unit = time_unit(book.run.duration_s)
    timed = all(np.all(np.isfinite(one.t_s)) for _, _, one in parts.values())
    values = np.concatenate([one.value for _, _, one in parts.values()])
    errors = np.concatenate([np.nan_to_num(one.stderr) for _, _, one in parts.values()])
    logarithmic = name in _LOGARITHMIC and np.min(values) > 0 and np.max(values) > _DECADE * np.min(values)
    data: list[Plot] = []
    legend = []
    for role, label, one in parts.values():
        at = one.t_s / scale if timed else one.step
        error = np.nan_to_num(one.stderr)
        weak = name == "information_per_joule" and _is_modelled(book.accounts.total)
        # What goes below zero has no logarithm: the band then ends below the axis.
        floor = float(np.min(values)) / _DECADE if logarithmic else -np.inf
        data += banded(at, one.value, error, role, label, weak, floor=floor)
        legend.append((role, f"{label} ± one standard error" if np.any(error > 0) else label, weak))
    first = next(iter(parts.values()))[2]
    plot = plotted(data, f"time ({unit})" if timed else "step", _AXES.get(first.unit, first.unit))
    batch = _batch(book) if name == "b_noise" else None
    if batch is not None:
        at = np.array([data[-1]["x"][0], data[-1]["x"][-1]])
        line = curve(at, np.array([batch, batch]), "muted", "batch size used")
        line["line"]["dash"] = "2px,3px"
        data.append(line)
        legend.append(("muted", "batch size used", False))
        values, errors = np.append(values, batch), np.append(errors, 0.0)
    plot["layout"]["yaxis"] |= _range(values, errors, logarithmic)
    sentences = " ".join((f"{label}: " if len(parts) > 1 else "") + one.how_to_read for _, label, one in parts.values())
    remark = "; ".join(dict.fromkeys(one.why for _, _, one in parts.values() if one.why))
    return Figure(name, title, "", (View("", tuple(legend), plot),), reading=sentences, remark=remark)


def _is_modelled(estimate: Estimate) -> bool:
    return estimate.provenance.rank > Provenance.DERIVED.rank


def _batch(book: Book) -> float | None:
    entry = book.summary["equations"].get("6.1", {}).get("repair", {}).get("B_actual")
    return None if entry is None else entry["value"]


def _range(values: Array, errors: Array, logarithmic: bool) -> dict[str, Any]:
    """Return the range of an axis that shows every value, and of the bands no more than as much again.

    One point that is hardly known would else leave the others flat.
    """
    if logarithmic:
        low, high = np.log10(np.min(values)), np.log10(np.max(values))
        margin = 0.08 * (high - low)
        return {"type": "log", "dtick": 1, "tickformat": "~s", "range": [float(low - margin), float(high + margin)]}
    low, high = float(values.min()), float(values.max())
    span = (high - low) or abs(high) or 1.0
    below = max(float(np.min(values - errors)), low - 0.5 * span)
    above = min(float(np.max(values + errors)), high + 0.5 * span)
    margin = 0.05 * (above - below)
    return {"range": [float(f"{below - margin:.6g}"), float(f"{above + margin:.6g}")]}
