"""A plan from runs, as text and as JSON (schema ``ergometry.plan/1``); the formulas as written beside the optimum."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ergometry.core.budget import Budget
from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate
from ergometry.core.run import Run
from ergometry.core.units import human, parse
from ergometry.equations.live import entries
from ergometry.equations.readings import read as read_equations
from ergometry.planning.from_runs import check_limits, largest_batch, rate_of
from ergometry.planning.from_runs import read as read_runs
from ergometry.planning.learning_rate import LearningRate
from ergometry.planning.operating_points import OperatingPoint, fit_costs
from ergometry.planning.other_sizes import from_runs as from_other_sizes
from ergometry.planning.other_sizes import stated
from ergometry.planning.over_time import OverTime, over_time
from ergometry.planning.plan import Plan, Range
from ergometry.planning.plan import plan as choose
from ergometry.report.plan_schedules import batch_gain
from ergometry.report.words import duration, percent, quantity
from ergometry.store.catalog import default_store, resolve
from ergometry.store.reader import load
from ergometry.work.attribution import accounts

SCHEMA = "ergometry.plan/1"

#: Formulas as written whose result a planner would be told: (section, name).
AS_WRITTEN = (("6.1", "B_opt"), ("8.2", "eta_opt"), ("8.3", "B_efficient"))


class Recorded(Protocol):
    """A recording, as ``erg.record`` gives."""

    def run(self) -> Run:
        """Return the run so far."""


@dataclass(frozen=True)
class RunPlan(Plan):
    """A plan from stored runs, with what only runs tell.

    Attributes:
        learning_rate: at the plan's batch size; None where the run's own is not known.
        schedules: power and batch size over time.
        equations: the first run's equations, for the formulas as written.
    """

    learning_rate: LearningRate | None
    schedules: OverTime
    equations: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON: s, J, W, example/step; what is unknown or never reached is null."""
        return plan_json(self, self.learning_rate, self.equations, self.schedules)

    def __str__(self) -> str:
        return plan_text(self, self.learning_rate, self.equations, self.schedules)


def plan(  # noqa: PLR0913 - what is wanted, what is allowed
    runs: Run | Recorded | str | Path | Sequence[Run | Recorded | str | Path],
    *,
    target_loss: float | None = None,
    budget: Budget | None = None,
    energy_weight: float = 1.0,
    points: Sequence[OperatingPoint] = (),
    batches: Sequence[int] | None = None,
    max_batch: float | None = None,
    memory: float | str | None = None,
    optimizer: str | None = None,
    sizes: Sequence[Run | Recorded | str | Path] = (),
    critical_batch: float | None = None,
    grown: float = 1.0,
    store: Path | str | None = None,
) -> RunPlan:
    """Return the batch size, learning rate, power limit, time and energy for a goal, from measured runs of one job.

    Args:
        runs: one or more: a recording, a run, its id, name or path, or ``last``. The first is the one to go on from.
        target_loss: loss to reach; without one, what the first run reached.
        budget: limits, such as ``erg.Budget(energy="5 MJ", power="300 W")``.
        energy_weight: w of w·energy + (1 − w)·P_max·time.
        points: operating points besides those of the runs.
        batches: batch sizes to choose from; else half octaves around those measured.
        max_batch: no batch size above.
        memory: of one device, bytes or such as ``"80 GB"``: no batch size that is not sure to fit.
        optimizer: name of its class, where the run does not tell.
        sizes: runs of the job with smaller or larger models: their B_c tells of this one's by a power law.
        critical_batch: B_c known from elsewhere, example/step; taken to hold within a factor 1.5.
        grown: how many times larger model and data are now than where that was known.
        store: the folder of runs; else ``$ERGOMETRY_STORE``, else ``erg-runs``.

    Raises:
        UsageError: no use of what was measured meets the budget (the nearest is named); the goal is never reached; the
            runs have no steps of known batch size and energy.
        RunNotFound: no run answers to a name.
    """
    several = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    folder = Path(store) if store is not None else default_store()
    loaded = list({run.id: run for run in (run_of(one, folder) for one in several)}.values())  # named twice, it is one
    if not loaded:
        raise UsageError(expected="one run or more", got="none", remedy="record one with erg run")
    if critical_batch is None and grown != 1.0:
        raise UsageError(
            expected="a critical batch size beside the growth since", got="none", remedy="state both (--critical-batch)"
        )
    by_size, left_out = from_other_sizes([run_of(run, folder) for run in sizes], loaded[0].meta.get("parameters"))
    elsewhere = [
        *([by_size] if by_size else []),
        *([stated(critical_batch, grown)] if critical_batch is not None else []),
    ]
    known = read_runs(loaded, target_loss, elsewhere)
    check_limits(points, known.limits_w)
    measured = [*known.points, *points]
    remarks = [*known.remarks, *left_out]
    if known.limits_w is None and any(point.power_limit_w is not None for point in points):
        remarks.append(
            "which power limits the boards can be set to is not known: see that those planned are among them"
        )
    if memory is not None:
        fits = largest_batch(loaded, parse(memory, "byte", "a memory"))
        if fits is None:
            remarks.append("no run tells its peak memory: which batch sizes fit is not known")
        elif math.isfinite(fits):
            max_batch = math.floor(fits) if max_batch is None else min(max_batch, math.floor(fits))
            remarks.append(f"batch sizes up to {math.floor(fits)} are sure to fit, by the peak memory of the runs")
    goal = known.history.goal
    found = choose(
        measured,
        known.history.critical_batch,
        goal,
        budget=budget,
        energy_weight=energy_weight,
        max_batch=max_batch,
        batches=batches,
        split=known.split,
        remarks=remarks,
    )
    books = accounts(loaded[0])
    batch = found.settings[0].batch
    rate = rate_of(loaded[0], read_equations(loaded[0], books), batch, optimizer, others=loaded[1:])
    costs = fit_costs(measured, split=known.split)
    return RunPlan(
        **vars(found),
        learning_rate=rate,
        schedules=over_time(loaded[0], measured, costs, batch, rate),
        equations=entries(loaded[0], books),
    )


def run_of(run: Run | Recorded | str | Path, store: Path) -> Run:
    """Return the run that a recording has so far, or that an id, a name or a path means.

    Raises:
        UsageError: it is none of these.
        RunNotFound: no run answers to it.
    """
    if isinstance(run, Run):
        return run
    if isinstance(run, str | Path):
        return load(resolve(str(run), store))
    if callable(getattr(run, "run", None)):
        return run.run()
    raise UsageError(expected="a run, a recording, or a run's id or path", got=repr(run), remedy="see erg ls")


def plan_json(
    plan: Plan,
    rate: LearningRate | None = None,
    equations: dict[str, Any] | None = None,
    schedules: OverTime | None = None,
) -> dict[str, Any]:
    """Return a plan as JSON.

    Args:
        plan: the plan.
        rate: learning rate at its batch size, where the run's is known.
        equations: entries of the run's equations, for the formulas as written.
        schedules: over time.
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
        **({} if schedules is None else {"schedules": _schedules_json(schedules)}),
    }


def _schedules_json(found: OverTime) -> dict[str, Any]:
    batch, rate = found.batch, found.rate
    return {
        "learning_rate": None
        if rate is None
        else {"progress": rate.progress.tolist(), "rates": rate.rate.tolist(), "constant": rate.constant},
        "power": {"why": found.power_why, "alpha": found.alpha, "kinds": [asdict(kind) for kind in found.power]},
        "batch": {
            "why": found.batch_why,
            "progress": None if batch is None else batch.progress.tolist(),
            "sizes": None if batch is None else batch.batch.tolist(),
            "constant": None if batch is None else batch.constant,
            "gain": None if batch is None else batch.gain,
        },
    }


def plan_text(
    plan: Plan,
    rate: LearningRate | None = None,
    equations: dict[str, Any] | None = None,
    schedules: OverTime | None = None,
) -> str:
    """Return a plan for a terminal of 80 columns. Arguments as of :func:`plan_json`."""
    lines = [_wrapped(f"To reach {plan.goal}:"), ""]
    for setting in plan.settings:
        cap = "" if setting.power_limit_w is None else f", power limit {setting.power_limit_w:g} W"
        part = "" if setting.share == 1.0 else f" for {percent(setting.share)} of the progress"
        lines.append(f"  batch size {setting.batch}{cap}{part}: {_range(setting.steps)}")
    if rate is not None:
        rule = "as in the run" if rate.scale == 1.0 else f"{rate.rule} rule"
        if rate.several:
            lines.append(
                f"  learning rate of each group times {rate.scale:.3g} ({rule})".replace(" times 1 (as", " (as")
            )
        else:
            lines.append(f"  learning rate {rate.value:.3g} ({rule})")
        course = None if schedules is None else schedules.rate
        if course is not None and not course.constant and not rate.several:
            lines.append(
                f"    over the steps as in the run: from {course.rate[0]:.3g} to {course.rate[-1]:.3g}"
                + (
                    f", {course.rate.max():.3g} at most"
                    if course.rate.max() > max(course.rate[0], course.rate[-1])
                    else ""
                )
            )
    lines += [
        "",
        f"  time    {_range(plan.time)}",
        f"  energy  {_range(plan.energy)}",
        f"  power   {_range(plan.power)}, mean",
    ]
    if plan.saving is not None:
        kept = plan.saving.low == plan.saving.high == 0.0
        saved = (
            "nothing: this is what was measured" if kept else f"{_share(plan.saving)} of the energy against going on"
        )
        lines.append(f"  saves   {saved}" + ("" if kept else " as measured"))
    low, high = plan.critical_batch.interval()
    lines += [
        "  (medians, and what holds nine times in ten)",
        "",
        f"best batch size, all that is not known included: {_range(plan.best_batch)}",
        f"critical batch size: {plan.critical_batch.median:.4g} [{low:.3g}, {high:.3g}]",
        _wrapped(f"  from {plan.critical_batch.source}"),
    ]
    if plan.holds:
        told = ", ".join(f"{name} {percent(chance)}" for name, chance in plan.holds.items())
        lines.append(f"chance that the budget holds: {told}")
    if plan.binding:
        lines.append(f"held back by the budget of {' and '.join(plan.binding)}")
    lines += ["", *_front(plan), *(_schedules(schedules) if schedules is not None else ()), *_seed(equations)]
    notes = [*plan.remarks, *([rate.remark] if rate is not None and rate.remark else [])]
    return "\n".join([*lines, *(_wrapped(f"note: {note}") for note in notes)])


def _wrapped(line: str, columns: int = 80) -> str:
    return textwrap.fill(line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _schedules(found: OverTime) -> list[str]:
    """Return the schedules that would gain something measurable, with what they are worth."""
    lines = []
    if found.alpha is not None:
        lines.append(f"power over time, at one mean power (speed goes as power^{found.alpha:.2f}):")
        lines += [
            f"  {kind.name}: {kind.final - 1:+.1%} steps by the end, {kind.anytime - 1:+.1%} loss area; {kind.verdict}"
            for kind in found.power
        ]
    if found.batch is not None:
        parts = list(zip(found.batch.progress, found.batch.batch, strict=True))
        changes = [part for i, part in enumerate(parts) if i == 0 or part[1] != parts[i - 1][1]]
        sizes = ", ".join(f"{size} from {percent(share)}" for share, size in changes)
        lines += [
            "batch size over the progress, as the noise scale moves (model: it stands in",
            f"for B_c): {sizes}",
            f"  takes {batch_gain(found.batch)} than {found.batch.constant:.0f} throughout",
        ]
    return [*lines, ""] if lines else []


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
    lines += [
        textwrap.indent(_wrapped(f"{name}: {quantity(q) if q.known else 'nothing: ' + q.why}", 78), "  ")
        for name, q in found.items()
    ]
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
