"""Figures: what a page draws of a run, as plain dicts in Plotly's JSON schema. Pure functions, no plotting library.

A trace's ``meta.role`` names its colour; the page's style sheet says what that is, in light and in dark. However many
samples and steps there are, a figure has at most :data:`MOST_BINS` points a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.domain import cover
from ergometry.core.estimate import Provenance
from ergometry.core.trace import Trace
from ergometry.report.book import Book
from ergometry.work.coverage import is_memory

Array = npt.NDArray[np.float64]
Plot = dict[str, Any]

MOST_BINS = 600
_MOST_BLOCKS = 120

#: Modelled joules are hatched wherever they are drawn.
_HATCH = {"shape": "/", "size": 7, "solidity": 0.3}

#: The phases from the bottom of the stack to its top: what trains first.
STACK = ("forward", "backward", "optimizer", "data", "evaluation", "other")


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
    """A figure: its name in the page, title, what a reader should know to read it, one view or more, and its width."""

    name: str
    title: str
    caption: str
    views: tuple[View, ...]
    wide: bool = False


def figures(book: Book) -> list[Figure]:
    """Return the figures that a run has the data for."""
    makers: tuple[Callable[[Book], Figure | None], ...] = (
        power_over_time,
        loss_against_energy,
        cumulative_energy,
        energy_per_example,
        learning_rate,
        gradient_work,
    )
    drawn = [figure for figure in (make(book) for make in makers) if figure is not None]
    halves = [i for i, figure in enumerate(drawn) if not figure.wide]
    if len(halves) % 2:  # the last one has no neighbour
        drawn[halves[-1]] = replace(drawn[halves[-1]], wide=True)
    return drawn


def power_over_time(book: Book) -> Figure | None:
    """Return mean power (W) in time bins, stacked by phase, by component and by domain."""
    leaves = dict(leaf for meter in book.accounts.metered.meters for leaf in meter.leaves())
    duration_s = book.run.duration_s
    if not leaves or duration_s <= 0:
        return None
    edges_s = _bins(leaves.values(), duration_s)
    scale, unit = time_unit(duration_s)
    powers = {name: np.maximum(trace.power_w(edges_s), 0.0) for name, trace in leaves.items()}
    whole = np.sum(list(powers.values()), axis=0)
    by = {
        "by phase": _phase_powers(book, leaves, powers, edges_s),
        "by component": _component_powers(book, whole, edges_s),
    }
    if len(powers) > 1:
        by["by domain"] = [
            Part(f"domain{i % 6}", name, power, _is_weak(leaves[name]))
            for i, (name, power) in enumerate(powers.items())
        ]
    views = [_stack(label, parts, edges_s / scale, unit) for label, parts in by.items()]
    each = (edges_s[1] - edges_s[0]) / scale
    caption = f"Mean power in bins of {each:.3g} {unit}; the area is energy."
    return Figure("power", "Power over time", caption, tuple(views), wide=True)


def cumulative_energy(book: Book) -> Figure | None:
    """Return energy since the start (J) over time, with one standard error as a band."""
    outer = book.accounts.metered.cover()
    duration_s = book.run.duration_s
    if not outer or duration_s <= 0:
        return None
    at_s = np.linspace(0.0, duration_s, min(MOST_BINS // 2, len(_bins(outer.values(), duration_s))) + 1)
    energy, variance = np.zeros(len(at_s)), np.zeros(len(at_s))
    for trace in outer.values():
        joules = trace.cumulative_j(at_s) - trace.cumulative_j(0.0)
        edges = trace.edge_stderr_j(at_s) ** 2 + trace.edge_stderr_j(0.0) ** 2
        energy += joules
        variance += np.where(at_s > 0, edges, 0.0) + (trace.signal.rel_stderr * joules) ** 2
    scale, unit = time_unit(duration_s)
    factor, joule = energy_unit(float(energy[-1]))
    weak = _weak(book)
    data = _line(at_s / scale, energy / factor, np.sqrt(variance) / factor, "accent", "energy", weak)
    legend = (("accent", f"energy ± one standard error, {book.accounts.total.provenance}", weak),)
    plot = _plot(data, f"time ({unit})", f"energy ({joule})")
    return Figure("energy", "Energy spent", "Joules since the start.", (View("", legend, plot),))


def loss_against_energy(book: Book) -> Figure | None:
    """Return minibatch loss (loss units) against energy since the start (J), or time where there is no energy."""
    table = book.run.table(series.LOSSES)
    good = np.isfinite(table["loss"]) & np.isfinite(table["t_s"])
    if np.count_nonzero(good) < 2:
        return None
    t_s, loss = table["t_s"][good], table["loss"][good]
    outer = book.accounts.metered.cover()
    if outer:
        spent = np.sum([trace.cumulative_j(t_s) - trace.cumulative_j(0.0) for trace in outer.values()], axis=0)
        scale, unit = energy_unit(float(spent[-1]))
        title, axis = "Loss against joules", f"energy ({unit})"
    else:
        spent = t_s
        scale, unit = time_unit(book.run.duration_s)
        title, axis = "Loss over time", f"time ({unit})"
    starts = _blocks(len(loss), _MOST_BLOCKS)
    mean, spread = _means(loss, starts)
    data = _line(_means(spent, starts)[0] / scale, mean, spread, "accent", "loss", False)
    each = math.ceil(len(loss) / len(starts))
    caption = f"Mean of every {each} minibatches ± their spread." if each > 1 else "Every minibatch."
    view = View("", (("accent", "training loss, measured", False),), _plot(data, axis, "loss", from_start=True))
    return Figure("loss", title, caption, (view,), wide=True)


def energy_per_example(book: Book) -> Figure | None:
    """Return joules per example (per step where examples are not known) in blocks of steps, over time.

    A block lasts two sampling intervals or longer: within one, the energy cannot be told apart.
    """
    steps, outer = book.run.table(series.STEPS), book.accounts.metered.cover()
    if len(steps) < 2 or not outer:
        return None
    interval_s = max(float((trace.t_s[-1] - trace.t_s[0]) / (len(trace.t_s) - 1)) for trace in outer.values())
    most = int((steps["t1_s"][-1] - steps["t0_s"][0]) / (2 * interval_s) + 1e-6)
    if most < 2:
        return None
    starts = _blocks(len(steps), min(most, _MOST_BLOCKS))
    ends = np.append(starts[1:], len(steps)) - 1
    examples = steps["examples"]
    known = bool(np.isfinite(examples).all()) and bool((examples > 0).all())
    done = np.add.reduceat(examples if known else np.ones(len(steps)), starts)
    begin_s, end_s = steps["t0_s"][starts], steps["t1_s"][ends]
    energy, variance = np.zeros(len(starts)), np.zeros(len(starts))
    for trace in outer.values():
        energy += trace.cumulative_j(end_s) - trace.cumulative_j(begin_s)
        variance += trace.edge_stderr_j(begin_s) ** 2 + trace.edge_stderr_j(end_s) ** 2
    per = "example" if known else "step"
    factor, joule = energy_unit(float(np.median(energy / done)))
    scale, unit = time_unit(book.run.duration_s)
    weak = _weak(book)
    data = _line(
        0.5 * (begin_s + end_s) / scale,
        energy / done / factor,
        np.sqrt(variance) / done / factor,
        "accent",
        joule,
        weak,
    )
    legend = (("accent", f"{joule} per {per} ± the error of sampling, {book.accounts.total.provenance}", weak),)
    plot = _plot(data, f"time ({unit})", f"{joule}/{per}", zero=True, from_start=True)
    caption = f"Blocks of {math.ceil(len(steps) / len(starts))} steps, evaluations between them included."
    return Figure("per_example", f"Energy per {per}", caption, (View("", legend, plot),))


def learning_rate(book: Book) -> Figure | None:
    """Return the learning rate of each parameter group over steps, where it was recorded."""
    table = book.run.table(series.LEARNING_RATES)
    if not len(table):
        return None
    last = _last_step(book)
    data, legend = [], []
    groups = np.unique(table.rows[:, [1, 2]], axis=0)[:6]
    for i, (optimizer, group) in enumerate(groups):
        rows = (table["optimizer"] == optimizer) & (table["group"] == group)
        step, rate = _thinned(table["step"][rows], table["lr"][rows])
        name = "learning rate" if len(groups) == 1 else f"optimizer {optimizer:.0f}, group {group:.0f}"
        role = "accent" if len(groups) == 1 else f"domain{i}"
        step, rate = np.append(step, max(last, step[-1])), np.append(rate, rate[-1])
        data.append(_curve(step, rate, role, name, shape="hv"))
        legend.append((role, name, False))
    return Figure("learning_rate", "Learning rate", "", (View("", tuple(legend), _plot(data, "step", "η", zero=True)),))


def gradient_work(book: Book) -> Figure | None:
    """Return the work along the gradient, −g·Δθ, and its bound |g||Δθ|, loss units a step, over steps."""
    table = book.run.table(series.LEDGER)
    good = np.isfinite(table["work"])
    if np.count_nonzero(good) < 2:
        return None
    starts = _blocks(int(np.count_nonzero(good)), _MOST_BLOCKS)
    step = _means(table["step"][good], starts)[0]
    work, spread = _means(table["work"][good], starts)
    path = _means(table["path"][good], starts)[0]
    data = [*_line(step, work, spread, "accent", "−g·Δθ", False), _curve(step, path, "muted", "|g||Δθ|")]
    legend = (("accent", "−g·Δθ, work along the minibatch gradient", False), ("muted", "|g||Δθ|, its bound", False))
    caption = "Loss units a step: how much each step should lower the loss, to first order."
    plot = _plot(data, "step", "loss units")
    return Figure("gradient_work", "Gradient work", caption, (View("", legend, plot),))


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


def _bins(traces: Iterable[Trace], duration_s: float) -> Array:
    """Return the edges of at most MOST_BINS equal bins, none of them shorter than the finest sampling interval."""
    intervals = max(int((len(t.t_s) - 1) * duration_s / (t.t_s[-1] - t.t_s[0])) for t in traces)
    return np.linspace(0.0, duration_s, min(MOST_BINS, max(intervals, 1)) + 1)


def _is_weak(trace: Trace) -> bool:
    return Provenance(trace.signal.provenance).rank > Provenance.DERIVED.rank


def _weak(book: Book) -> bool:
    """Say whether the run's joules are modelled or assumed."""
    return book.accounts.total.provenance.rank > Provenance.DERIVED.rank


def _phase_powers(book: Book, leaves: dict[str, Trace], powers: dict[str, Array], edges_s: Array) -> list[Part]:
    split = np.zeros((len(edges_s) - 1, len(series.PHASES)))
    for name, trace in leaves.items():
        device = trace.signal.device
        timeline = (book.timeline.by_device_time(book.run, device) if device else None) or book.timeline
        split += powers[name][:, None] * timeline.fractions(edges_s)
    columns = {phase: split[:, i] for i, phase in enumerate(series.PHASES)}
    return [Part(phase, phase, columns[phase], _weak(book)) for phase in STACK if columns[phase].any()]


def _component_powers(book: Book, whole: Array, edges_s: Array) -> list[Part]:
    parts, left = [], whole
    memory = cover({domain: trace for domain, trace in book.traces.items() if is_memory(domain)})
    if memory:
        power = np.minimum(np.sum([trace.power_w(edges_s) for trace in memory.values()], axis=0).clip(min=0.0), left)
        parts.append(Part("memory", "memory", power, any(map(_is_weak, memory.values()))))
        left = left - power
    static = book.accounts.by_component["static"]
    if static.value is not None:
        # Drawn no higher than the power there is: where less is drawn than at idle, the model is off, not the sum.
        power = np.minimum(np.full(len(whole), static.value / book.run.duration_s), left)
        parts.insert(0, Part("static", "static", power, static.provenance.rank > Provenance.DERIVED.rank))
        left = left - power
    weak = any(part.modelled for part in parts) or _weak(book)
    return [*parts, Part("residual", "residual, not yet split" if parts else "not yet split", left, weak)]


def _stack(label: str, parts: list[Part], edges: Array, unit: str) -> View:
    data = []
    for part in parts:
        layer = _curve(edges, np.append(part.power, part.power[-1]), part.role, part.name, shape="hv")
        layer.update(stackgroup="power", hovertemplate=f"{part.name} %{{y:.4s}}W<extra></extra>")
        layer["line"]["width"] = 0
        if part.modelled:
            layer["fillpattern"] = dict(_HATCH)
        data.append(layer)
    legend = tuple((part.role, part.name, part.modelled) for part in parts)
    return View(label, legend, _plot(data, f"time ({unit})", "power (W)", zero=True))


def _line(x: Array, y: Array, error: Array, role: str, name: str, modelled: bool) -> list[Plot]:
    """Return a line over the band of ± its error; dashed when modelled."""
    band = _curve(np.concatenate((x, x[::-1])), np.concatenate((y + error, (y - error)[::-1])), role, name)
    band.update(fill="toself", hoverinfo="skip")
    band["meta"]["band"] = True
    band["line"]["width"] = 0
    line = _curve(x, y, role, name)
    if modelled:
        band["fillpattern"] = dict(_HATCH)
        line["line"]["dash"] = "6px,3px"
    return [band, line]


def _curve(x: Array, y: Array, role: str, name: str, shape: str = "linear") -> Plot:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": rounded(x),
        "y": rounded(y),
        "line": {"shape": shape, "width": 1.75},
        "meta": {"role": role},
    }


def _plot(data: list[Plot], x: str, y: str, *, zero: bool = False, from_start: bool = False) -> Plot:
    axes = {"xaxis": (x, from_start), "yaxis": (y, zero)}
    layout = {
        axis: {"title": {"text": title}, "rangemode": "tozero" if at_zero else "normal"}
        for axis, (title, at_zero) in axes.items()
    }
    return {"data": data, "layout": layout}


def rounded(values: npt.ArrayLike) -> list[float | None]:
    """Return values to six digits, with null for NaN and infinity: what a screen can show, in few bytes."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=np.float64).tolist()]


def _blocks(n: int, most: int) -> npt.NDArray[np.int64]:
    """Return where each of at most ``most`` blocks of nearly equal length begins in ``n`` rows."""
    return np.unique(np.linspace(0, n, min(n, most), endpoint=False).astype(np.int64))


def _means(values: Array, starts: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the mean and the standard deviation of each block."""
    counts = np.diff(np.append(starts, len(values)))
    mean = np.add.reduceat(values, starts) / counts
    square = np.add.reduceat((values - np.repeat(mean, counts)) ** 2, starts) / counts
    return mean, np.sqrt(square)


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """Return at most MOST_BINS of the points, evenly picked, the first and the last among them."""
    if len(x) <= MOST_BINS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_BINS).astype(np.int64))
    return x[kept], y[kept]


def _last_step(book: Book) -> float:
    steps = book.run.table(series.STEPS)
    return float(steps["step"][-1]) if len(steps) else 0.0
