"""Figures: what a page draws of a run, as plain dicts in Plotly's JSON schema. Pure functions, no plotting library.

A trace's ``meta.role`` names its colour; the page's style sheet says what that is, in light and in dark. However many
samples and steps there are, a figure has at most :data:`MOST_BINS` points a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.domain import cover
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.trace import Trace
from ergometry.report import roofline
from ergometry.report.book import Book
from ergometry.report.icicle import icicle
from ergometry.report.plots import (
    HATCH,
    MOST_BINS,
    Array,
    Figure,
    Part,
    View,
    banded,
    curve,
    energy_unit,
    plotted,
    time_unit,
)
from ergometry.report.roofline import Point
from ergometry.work.coverage import is_memory

_MOST_BLOCKS = 120
_FITTINGS = 30

COMPONENTS = ("static", "memory", "communication", "compute", "residual")
"""The components from the bottom of the stack to its top."""

_UNKNOWN = Estimate.unknown("J", "")

STACK = ("forward", "backward", "optimizer", "data", "evaluation", "other")
"""The phases from the bottom of the stack to its top: what trains first."""


def figures(book: Book) -> list[Figure]:
    """Return the figures that a run has the data for."""
    makers: tuple[Callable[[Book], Figure | None], ...] = (
        power_over_time,
        icicle,
        roofline_of,
        loss_against_energy,
        cumulative_energy,
        energy_per_example,
        learning_rate,
    )
    return [figure for figure in (make(book) for make in makers) if figure is not None]


def roofline_of(book: Book) -> Figure | None:
    """Return the roofline of the calibrated board with the run's phases below it."""
    found = book.accounts.calibration
    told = book.summary["roofline"]["points"]
    shown = [Point(at["phase"], at["intensity"]["value"], at["flop_per_s"]["value"]) for at in told]
    return roofline.figure(found, shown, []) if found is not None and shown else None


def power_over_time(book: Book) -> Figure | None:
    """Return mean power (W) in time bins, stacked by phase, by component and by domain."""
    leaves = dict(leaf for meter in book.accounts.metered.meters for leaf in meter.leaves())
    duration_s = book.run.duration_s
    if not leaves or duration_s <= 0:
        return None
    edges_s = _bins(leaves.values(), duration_s)
    scale, unit = time_unit(duration_s)
    powers = {name: np.maximum(trace.power_w(edges_s), 0.0) for name, trace in leaves.items()}
    by = {
        "by phase": _phase_powers(book, leaves, powers, edges_s),
        "by component": _component_powers(book, leaves, powers, edges_s),
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
    data = banded(at_s / scale, energy / factor, np.sqrt(variance) / factor, "accent", "energy", weak)
    legend = (("accent", f"energy ± one standard error, {book.accounts.total.provenance}", weak),)
    plot = plotted(data, f"time ({unit})", f"energy ({joule})")
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
    data = banded(_means(spent, starts)[0] / scale, mean, spread, "accent", "loss", False)
    each = math.ceil(len(loss) / len(starts))
    caption = f"Mean of every {each} minibatches ± their spread." if each > 1 else "Every minibatch."
    view = View("", (("accent", "training loss, measured", False),), plotted(data, axis, "loss", from_start=True))
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
    data = banded(
        0.5 * (begin_s + end_s) / scale,
        energy / done / factor,
        np.sqrt(variance) / done / factor,
        "accent",
        joule,
        weak,
    )
    legend = (("accent", f"{joule} per {per} ± the error of sampling, {book.accounts.total.provenance}", weak),)
    plot = plotted(data, f"time ({unit})", f"{joule}/{per}", zero=True, from_start=True)
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
        data.append(curve(step, rate, role, name, shape="hv"))
        legend.append((role, name, False))
    return Figure(
        "learning_rate", "Learning rate", "", (View("", tuple(legend), plotted(data, "step", "η", zero=True)),)
    )


def _bins(traces: Iterable[Trace], duration_s: float) -> Array:
    """Return the edges of at most MOST_BINS equal bins, none of them shorter than the finest sampling interval."""
    intervals = max(int((len(t.t_s) - 1) * duration_s / (t.t_s[-1] - t.t_s[0])) for t in traces)
    return np.linspace(0.0, duration_s, min(MOST_BINS, max(intervals, 1)) + 1)


def _is_weak(trace: Trace) -> bool:
    return Provenance(trace.signal.provenance).rank > Provenance.DERIVED.rank


def _weak(book: Book) -> bool:
    """Say whether the run's joules are modelled or assumed."""
    return _is_modelled(book.accounts.total)


def _is_modelled(estimate: Estimate) -> bool:
    return estimate.provenance.rank > Provenance.DERIVED.rank


def _phase_split(book: Book, leaves: dict[str, Trace], powers: dict[str, Array], edges_s: Array) -> Array:
    """Return the power (n, 6) of each phase in each bin; the phases sum to the bin's power."""
    split = np.zeros((len(edges_s) - 1, len(series.PHASES)))
    for name, trace in leaves.items():
        device = trace.signal.device
        timeline = (book.timeline.by_device_time(book.run, device) if device else None) or book.timeline
        split += powers[name][:, None] * timeline.fractions(edges_s)
    energies = [_positive(book.accounts.by_phase[phase]) for phase in series.PHASES]
    return _fitted(split, np.array(energies) / (edges_s[1] - edges_s[0]))


def _fitted(split: Array, sums: Array) -> Array:
    """Return power (n, 6) by bin and phase scaled by phase so that its columns have these sums, its rows keep theirs.

    Bins are longer than phases: by time alone each would have an equal power, which is not what its joules say.
    This is iterative proportional fitting (Deming and Stephan, 1940); a bin that would be left empty is not changed.
    """
    rows, fitted = split.sum(axis=1, keepdims=True), split
    for _ in range(_FITTINGS):
        columns = fitted.sum(axis=0)
        scaled = fitted * np.where(columns > 0, sums / np.where(columns > 0, columns, 1.0), 1.0)
        left = scaled.sum(axis=1, keepdims=True)
        fitted = np.where(left > 0, scaled * rows / np.where(left > 0, left, 1.0), split)
    return np.asarray(fitted)


def _phase_powers(book: Book, leaves: dict[str, Trace], powers: dict[str, Array], edges_s: Array) -> list[Part]:
    split = _phase_split(book, leaves, powers, edges_s)
    columns = {phase: split[:, i] for i, phase in enumerate(series.PHASES)}
    return [Part(phase, phase, columns[phase], _weak(book)) for phase in STACK if columns[phase].any()]


def _component_powers(book: Book, leaves: dict[str, Trace], powers: dict[str, Array], edges_s: Array) -> list[Part]:
    """Return the power of each component in each bin; they sum to the bin's power.

    Of what each phase draws in a bin, a component has the share that it has of the phase's joules in the whole run.
    """
    known = book.accounts.components_by_phase
    if not any(of.get("compute", _UNKNOWN).known for of in known.values()):
        return _metered_components(book, np.sum(list(powers.values()), axis=0), edges_s)
    split = _phase_split(book, leaves, powers, edges_s)
    joules = np.array([[_positive(known.get(p, {}).get(c)) for c in COMPONENTS] for p in series.PHASES])
    residual = COMPONENTS.index("residual")
    joules[joules.sum(axis=1) <= 0, residual] = 1.0
    power = split @ (joules / joules.sum(axis=1, keepdims=True))
    return [
        Part(component, component, power[:, i], _is_modelled(book.accounts.by_component[component]))
        for i, component in enumerate(COMPONENTS)
        if power[:, i].any()
    ]


def _positive(energy: Estimate | None) -> float:
    return max(energy.value or 0.0, 0.0) if energy is not None and energy.known else 0.0


def _metered_components(book: Book, whole: Array, edges_s: Array) -> list[Part]:
    """Return the power of the components that have a reading or an idle power of their own."""
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
        parts.insert(0, Part("static", "static", power, _is_modelled(static)))
        left = left - power
    weak = any(part.modelled for part in parts) or _weak(book)
    return [*parts, Part("residual", "residual, not yet split" if parts else "not yet split", left, weak)]


def _stack(label: str, parts: list[Part], edges: Array, unit: str) -> View:
    data = []
    for part in parts:
        layer = curve(edges, np.append(part.power, part.power[-1]), part.role, part.name, shape="hv")
        layer.update(stackgroup="power", hovertemplate=f"{part.name} %{{y:.4s}}W<extra></extra>")
        layer["line"]["width"] = 0
        if part.modelled:
            layer["fillpattern"] = dict(HATCH)
        data.append(layer)
    legend = tuple((part.role, part.name, part.modelled) for part in parts)
    return View(label, legend, plotted(data, f"time ({unit})", "power (W)", zero=True))


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
