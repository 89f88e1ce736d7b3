"""A plan as text and as JSON (schema ``ergometry.plan/1``), with the formulas as written beside the optimum."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from ergometry.core.estimate import Estimate
from ergometry.core.units import human
from ergometry.planning.learning_rate import LearningRate
from ergometry.planning.plan import Plan, Range
from ergometry.report.words import duration, percent, quantity

SCHEMA = "ergometry.plan/1"

#: Formulas as written whose result a planner would be told: (section, name).
AS_WRITTEN = (("6.1", "B_opt"), ("8.2", "eta_opt"), ("8.3", "B_efficient"))


def plan_json(plan: Plan, rate: LearningRate | None = None, equations: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a plan as JSON.

    Args:
        plan: the plan.
        rate: learning rate at its batch size, where the run's is known.
        equations: entries of the run's equations, for the formulas as written.
    """
    return {
        "schema": SCHEMA,
        "goal": plan.goal,
        "settings": [
            {
                "batch": setting.batch,
                "power_limit_w": setting.power_limit_w,
                "share": setting.share,
                "steps": setting.steps.to_json(),
                "time": setting.time.to_json(),
                "energy": setting.energy.to_json(),
            }
            for setting in plan.settings
        ],
        "time": plan.time.to_json(),
        "energy": plan.energy.to_json(),
        "power": plan.power.to_json(),
        "best_batch": plan.best_batch.to_json(),
        "saving": None if plan.saving is None else plan.saving.to_json(),
        "learning_rate": None if rate is None else asdict(rate),
        "critical_batch": {
            "median": plan.critical_batch.median,
            "factor": plan.critical_batch.factor,
            "source": plan.critical_batch.source,
        },
        "binding": list(plan.binding),
        "holds": plan.holds,
        "front": [asdict(point) for point in plan.front],
        "as_written": {name: entry.to_json() for name, entry in _as_written(equations).items()},
        "remarks": list(plan.remarks),
    }


def plan_text(plan: Plan, rate: LearningRate | None = None, equations: dict[str, Any] | None = None) -> str:
    """Return a plan for a terminal of 80 columns."""
    lines = [f"To reach {plan.goal}:", ""]
    for setting in plan.settings:
        cap = "" if setting.power_limit_w is None else f", power limit {setting.power_limit_w:g} W"
        part = "" if setting.share == 1.0 else f" for {percent(setting.share)} of the progress"
        lines.append(f"  batch size {setting.batch}{cap}{part}: {_range(setting.steps)}")
    if rate is not None:
        lines.append(f"  learning rate {rate.value:.3g} ({rate.rule} rule)")
    lines += [
        "",
        f"  time    {_range(plan.time)}",
        f"  energy  {_range(plan.energy)}",
        f"  power   {_range(plan.power)}, mean",
    ]
    if plan.saving is not None:
        lines.append(f"  saves   {_share(plan.saving)} of the energy against going on as measured")
    low, high = plan.critical_batch.interval()
    lines += [
        "  (medians, and what holds nine times in ten)",
        "",
        f"best batch size, all that is not known included: {_range(plan.best_batch)}",
        f"critical batch size: {plan.critical_batch.median:.4g} [{low:.3g}, {high:.3g}]",
        f"  from {plan.critical_batch.source}",
    ]
    if plan.holds:
        told = ", ".join(f"{name} {percent(chance)}" for name, chance in plan.holds.items())
        lines.append(f"chance that the budget holds: {told}")
    if plan.binding:
        lines.append(f"held back by the budget of {' and '.join(plan.binding)}")
    lines += ["", *_front(plan), *_seed(equations)]
    notes = [*plan.remarks, *([rate.remark] if rate is not None and rate.remark else [])]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _range(x: Range) -> str:
    if x.unit == "s":
        return f"{_time(x.value)} [{_time(x.low)}, {_time(x.high)}]"
    if x.unit in ("step", "example/step"):
        unit = "steps" if x.unit == "step" else ""
        return f"{_count(x.value)} {unit} [{_count(x.low)}, {_count(x.high)}]".replace("  ", " ")
    return f"{human(x.value, x.unit)} [{human(x.low, x.unit)}, {human(x.high, x.unit)}]"


def _share(x: Range) -> str:
    return f"{x.value:.1%} [{x.low:.1%}, {x.high:.1%}]"


def _time(seconds: float) -> str:
    return duration(seconds) if math.isfinite(seconds) else "never"


def _count(x: float) -> str:
    return f"{x:,.0f}".replace(",", " ") if math.isfinite(x) else "never"


def _front(plan: Plan) -> list[str]:
    """Return the time–energy front, at most a dozen of its corners."""
    step = max(1, math.ceil(len(plan.front) / 12))
    shown = [*plan.front[:-1:step], *plan.front[-1:]]
    lines = ["the front, from the fastest to the cheapest:", "  batch  power limit        time      energy"]
    for point in shown:
        cap = "-" if point.power_limit_w is None else f"{point.power_limit_w:g} W"
        lines.append(f"  {point.batch:5}  {cap:>11}  {_time(point.time_s):>10}  {human(point.energy_j, 'J'):>10}")
    return [*lines, ""]


def _seed(equations: dict[str, Any] | None) -> list[str]:
    found = _as_written(equations)
    if not found:
        return []
    lines = ["the formulas as written would say:"]
    lines += [f"  {name}: {quantity(q) if q.known else 'nothing: ' + q.why}" for name, q in found.items()]
    return [*lines, "  none of these is a batch size or a learning rate: see erg equations 6.1", ""]


def _as_written(equations: dict[str, Any] | None) -> dict[str, Estimate]:
    if equations is None:
        return {}
    return {
        f"{section} {name}": Estimate.from_json(equations[section]["as_written"][name])
        for section, name in AS_WRITTEN
        if name in equations[section]["as_written"]
    }


def dumps(tree: dict[str, Any]) -> str:
    """Return JSON as a command prints it."""
    return json.dumps(tree, indent=1, ensure_ascii=False)
