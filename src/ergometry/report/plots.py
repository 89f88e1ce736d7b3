"""Plots: what figures are made of, as plain dicts in Plotly's JSON schema. No plotting library.

A trace's ``meta.role`` names its colour; the page's style sheet says what that is, in light and in dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Plot = dict[str, Any]

MOST_BINS = 600
"""A figure has at most so many points a trace, however long the run was."""

HATCH = {"shape": "/", "size": 7, "solidity": 0.3}
"""Modelled joules are hatched wherever they are drawn."""


class Part(NamedTuple):
    """One layer of a stack: the role of its colour, its name, its mean power in each bin (W), whether modelled."""

    role: str
    name: str
    power: Array
    modelled: bool


@dataclass(frozen=True)
class View:
    """One way to draw a figure: its label on the switch, its legend as (role, words, modelled), and the plot."""

    label: str
    legend: tuple[tuple[str, str, bool], ...]
    plot: Plot


@dataclass(frozen=True)
class Figure:
    """A figure: its name in the page, title, what a reader should know to read it, one view or more, and its width.

    ``reading`` stands below it and says what its course means, ``remark`` what was inferred or stands in.
    """

    name: str
    title: str
    caption: str
    views: tuple[View, ...]
    wide: bool = False
    reading: str = ""
    remark: str = ""


def paired(drawn: list[Figure]) -> list[Figure]:
    """Return figures of half a page's width that stand in pairs; the last one without a neighbour is made wide."""
    halves = [i for i, figure in enumerate(drawn) if not figure.wide]
    if len(halves) % 2:
        drawn[halves[-1]] = replace(drawn[halves[-1]], wide=True)
    return drawn


def time_unit(duration_s: float) -> tuple[float, str]:
    """Return (seconds per unit, name) of the unit that a time axis of this length is read in."""
    for most, scale, unit in ((300.0, 1.0, "s"), (3 * 3600.0, 60.0, "min"), (4 * 86400.0, 3600.0, "h")):
        if duration_s <= most:
            return scale, unit
    return 86400.0, "d"


def energy_unit(joules: float) -> tuple[float, str]:
    """Return (joules per unit, name) of the unit that an energy axis up to this value is read in."""
    for least, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")):
        if abs(joules) >= least:
            return least, unit
    return (1e-6, "µJ") if joules else (1.0, "J")


def banded(
    x: Array, y: Array, error: Array, role: str, name: str, modelled: bool, *, floor: float = -math.inf
) -> list[Plot]:
    """Return a line over the band of ± its error, which goes no lower than ``floor``; dashed when modelled."""
    lower = np.maximum(y - error, floor)
    band = curve(np.concatenate((x, x[::-1])), np.concatenate((y + error, lower[::-1])), role, name)
    band.update(fill="toself", hoverinfo="skip")
    band["meta"]["band"] = True
    band["line"]["width"] = 0
    middle = curve(x, y, role, name)
    if modelled:
        band["fillpattern"] = dict(HATCH)
        middle["line"]["dash"] = "6px,3px"
    return [band, middle]


def curve(x: Array, y: Array, role: str, name: str, shape: str = "linear") -> Plot:
    """Return a line through points."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": rounded(x),
        "y": rounded(y),
        "line": {"shape": shape, "width": 1.75},
        "meta": {"role": role},
    }


def plotted(data: list[Plot], x: str, y: str, *, zero: bool = False, from_start: bool = False) -> Plot:
    """Return a plot with its axes' titles; an axis may be made to begin at zero."""
    axes = {"xaxis": (x, from_start), "yaxis": (y, zero)}
    layout = {
        axis: {"title": {"text": title}, "rangemode": "tozero" if at_zero else "normal"}
        for axis, (title, at_zero) in axes.items()
    }
    return {"data": data, "layout": layout}


def rounded(values: npt.ArrayLike) -> list[float | None]:
    """Return values to six digits, with null for NaN and infinity: what a screen can show, in few bytes."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=np.float64).tolist()]
