"""A plan as one HTML page: its settings, its time–energy front with what was chosen on it, and what is not known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from ergometry.core.estimate import Estimate
from ergometry.core.units import human
from ergometry.planning.learning_rate import LearningRate
from ergometry.planning.over_time import OverTime
from ergometry.planning.plan import Plan, Range
from ergometry.report.html import embedded, environment
from ergometry.report.plan import plan_json
from ergometry.report.plan_schedules import missing, schedules
from ergometry.report.plots import Figure, Plot, View, curve, energy_unit, paired, plotted, rounded, time_unit
from ergometry.report.words import NO_BREAK, duration, percent, quantity

_MOST_ROWS = 40


def html(
    plan: Plan,
    rate: LearningRate | None = None,
    equations: dict[str, Any] | None = None,
    over: OverTime | None = None,
) -> str:
    """Return a plan as one self-contained HTML page.

    Arguments as of :func:`~ergometry.report.plan.plan_json`; ``over`` are its schedules.
    """
    from plotly.offline import get_plotlyjs

    figure, tree = front(plan), plan_json(plan, rate, equations, over)
    courses = [] if over is None else paired(schedules(plan, over, rate))
    cards = [
        ("Time", plan.time),
        ("Energy", plan.energy),
        ("Mean power", plan.power),
        ("Best batch, by all that is known", plan.best_batch),
    ]
    return (
        environment()
        .get_template("plan.html.j2")
        .render(
            plan=plan,
            cards=[(name, {part: _words(found, part) for part in ("low", "value", "high")}) for name, found in cards],
            remarks=[*plan.remarks, *([rate.remark] if rate is not None and rate.remark else [])],
            tables=_tables(plan, rate, tree),
            figure=figure,
            courses=courses,
            no_courses=[] if over is None else missing(over),
            plots=embedded({one.name: [view.plot for view in one.views] for one in (figure, *courses)}),
            machine_readable=embedded(tree),
            # Plotly's own script closes no tag, which a test holds.
            plotly=Markup(get_plotlyjs()),
        )
    )


def front(plan: Plan) -> Figure:
    """Return the time–energy front (s, J), its batch sizes within the interval of the best marked, and the plan on it.

    The front is of medians. The plan's mark has the 90 % intervals of its time and energy.
    """
    corners = [p for p in plan.front if math.isfinite(p.time_s) and math.isfinite(p.energy_j)]
    scale, time = time_unit(max((p.time_s for p in corners), default=plan.time.value))
    factor, joule = energy_unit(max((p.energy_j for p in corners), default=plan.energy.value))
    line = curve(
        np.array([p.time_s for p in corners]) / scale, np.array([p.energy_j for p in corners]) / factor, "muted", ""
    )
    line |= {"mode": "lines+markers", "marker": {"size": 6}, "text": [_setting(p) for p in corners]}
    line["hovertemplate"] = f"%{{text}}: %{{x:.4~g}} {time}, %{{y:.4~g}} {joule}<extra></extra>"
    within = [p for p in corners if plan.best_batch.low <= p.batch <= plan.best_batch.high]
    data: list[Plot] = [line]
    legend = [("muted", "time and energy of the batch sizes and limits worth choosing, medians", False)]
    if within:
        data.append(_marks([(p.time_s / scale, p.energy_j / factor) for p in within], "optimizer", "circle", 9))
        data[-1]["hoverinfo"] = "skip"
        low, high = _words(plan.best_batch, "low"), _words(plan.best_batch, "high")
        legend.append(
            ("optimizer", f"batch sizes of {low} to {high}: the best is one of these nine times in ten", False)
        )
    if math.isfinite(plan.time.value) and math.isfinite(plan.energy.value):
        data.append(_marks([(plan.time.value / scale, plan.energy.value / factor)], "accent", "diamond", 13))
        data[-1] |= {
            "error_x": _interval(plan.time, scale),
            "error_y": _interval(plan.energy, factor),
            "hovertemplate": f"the plan: %{{x:.4~g}} {time}, %{{y:.4~g}} {joule}<extra></extra>",
        }
        legend.append(("accent", f"the plan ({_chosen(plan)}), with its 90 % intervals", False))
    plot = plotted(data, f"time ({time})", f"energy ({joule})")
    plot["layout"]["hovermode"] = "closest"
    reading = "Left is faster, down is cheaper: nothing known is both at once, and what lies above the line is wasted."
    return Figure("front", "Time and energy", "", (View("", tuple(legend), plot),), wide=True, reading=reading)


def _marks(at: list[tuple[float, float]], role: str, symbol: str, size: int) -> Plot:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "",
        "x": rounded([x for x, _ in at]),
        "y": rounded([y for _, y in at]),
        "marker": {"symbol": symbol, "size": size},
        "meta": {"role": role},
    }


def _interval(found: Range, scale: float) -> Plot:
    """Return error bars down to the low end of a range and up to the high one, where that is finite."""
    high = found.high if math.isfinite(found.high) else found.value
    parts = rounded([(high - found.value) / scale, (found.value - found.low) / scale])
    return {"type": "data", "symmetric": False, "array": parts[:1], "arrayminus": parts[1:], "thickness": 1.5}


def _setting(p: Any) -> str:
    return f"batch {p.batch}" + ("" if p.power_limit_w is None else f", {p.power_limit_w:g} W")


def _chosen(plan: Plan) -> str:
    return " and ".join(_setting(setting) for setting in plan.settings)


def _words(found: Range, part: str) -> str:
    value: float = getattr(found, part)
    if not math.isfinite(value):
        return "never"
    if found.unit == "s":
        return duration(value)
    if found.unit in ("step", "example/step"):
        return f"{value:,.0f}".replace(",", NO_BREAK)
    return percent(value) if not found.unit else human(value, found.unit, 3)


def _range(found: Range) -> str:
    return f"{_words(found, 'value')} ({_words(found, 'low')} to {_words(found, 'high')})"


Tables = list[tuple[str, str, tuple[str, ...], list[list[str]], bool]]


def _tables(plan: Plan, rate: LearningRate | None, tree: dict[str, Any]) -> Tables:
    """Return the page's tables: name, title, header, rows of cells, and whether the last cell is prose."""
    settings = [
        [_setting(s), percent(s.share), _range(s.steps), _range(s.time), _range(s.energy)] for s in plan.settings
    ]
    low, high = plan.critical_batch.interval()
    known = [
        [
            "critical batch size",
            _range(Range(low, plan.critical_batch.median, high, "example/step")),
            plan.critical_batch.source,
        ]
    ]
    if rate is not None:
        value = f"each times {rate.scale:.3g}" if rate.several else f"{rate.value:.3g}"
        known.append(["learning rate", value, "as in the run" if rate.scale == 1.0 else f"{rate.rule} rule"])
    if plan.saving is not None:
        known.append(["saves", _range(plan.saving), "of the energy, against going on as measured"])
    known += [[f"budget of {name}", percent(chance), "the chance that it holds"] for name, chance in plan.holds.items()]
    known += [[f"budget of {name}", "binds", "a larger one allows a better plan"] for name in plan.binding]
    written = [
        [name, quantity(Estimate.from_json(q)) if q["value"] is not None else "nothing", q["why"] or q["method"]]
        for name, q in tree["as_written"].items()
    ]
    step = max(1, math.ceil(len(plan.front) / _MOST_ROWS))
    corners = [*plan.front[:-1:step], *plan.front[-1:]]
    return [
        ("settings", "Settings", ("", "of the progress", "steps", "time", "energy"), settings, False),
        ("known", "What it rests on", (), known, True),
        (
            "corners",
            "The front, from the fastest to the cheapest",
            ("", "time", "energy"),
            [[_setting(p), duration(p.time_s), human(p.energy_j, "J", 4)] for p in corners],
            False,
        ),
        ("written", "What the formulas as written would say", (), written, True),
    ]
