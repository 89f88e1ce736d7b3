"""``erg plan-pipeline``: the frequencies of a pipeline-parallel iteration, from its measured profile."""

from __future__ import annotations

import csv
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ergometry.core.errors import UsageError

if TYPE_CHECKING:
    from ergometry.planning.pipeline import Dag, Frontier, PipelinePlanner, Plan, Profile


class Format(StrEnum):
    """How the plan is written."""

    TEXT = "text"
    JSON = "json"


class Schedule(StrEnum):
    """The order of a stage's operations."""

    ONE_F_ONE_B = "1f1b"
    GPIPE = "gpipe"
    INTERLEAVED = "interleaved"


def plan_pipeline(
    profile: Annotated[
        Path, typer.Argument(help="CSV with columns stage, instruction, frequency (MHz), time (s), energy (J).")
    ],
    microbatches: Annotated[int, typer.Option("--microbatches", "-m", help="Microbatches of one iteration.")],
    schedule: Annotated[Schedule, typer.Option(help="The order of each device's operations.")] = Schedule.ONE_F_ONE_B,
    chunks: Annotated[int, typer.Option(help="Stages on each device, of the interleaved order.")] = 1,
    blocking_power: Annotated[
        str | None, typer.Option(help="What one device draws while it waits, such as '60 W'.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Iteration time allowed, such as '12.5 s': a straggler's.")] = None,
    slowdown: Annotated[str | None, typer.Option(help="Or how much slower than the fastest: '5%'.")] = None,
    format: Annotated[Format, typer.Option(help="How it is written.")] = Format.TEXT,  # noqa: A002
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write every operation's frequency here (CSV).")
    ] = None,
) -> None:
    """Choose the frequency of every operation of a pipeline, for the least energy at an iteration time.

    Without a time, the whole frontier; with one, that plan. Each with a lower bound that no choice can beat.
    """
    from ergometry.core.budget import Budget
    from ergometry.core.units import parse
    from ergometry.planning.pipeline import PipelinePlanner, read_profile

    if time is not None and slowdown is not None:
        raise UsageError(expected="--time or --slowdown", got="both", remedy="give one of them")
    if output is not None and time is None and slowdown is None:
        raise UsageError(
            expected="one plan to write", got="a whole frontier", remedy="choose one with --time or --slowdown"
        )
    waiting_w = 0.0 if blocking_power is None else parse(blocking_power, "W", "a blocking power")
    measured = read_profile(profile)
    planner = PipelinePlanner(_dag(measured, schedule, microbatches, chunks), measured, blocking_w=waiting_w)
    if blocking_power is None:
        sys.stderr.write("erg: waiting is taken to draw nothing; give what a device draws with --blocking-power\n")
    budget = Budget(time=time, slowdown=slowdown)  # type: ignore[arg-type] # it understands text
    if budget.time is None and budget.slowdown is None:
        frontier = planner.frontier()
        text = _frontier_text(planner, frontier) if format is Format.TEXT else _dumps(frontier_json(planner, frontier))
    else:
        deadline_s = budget.time if budget.time is not None else planner.fastest_s * (1 + (budget.slowdown or 0.0))
        plan = planner.plan(deadline_s)
        text = _plan_text(planner, plan) if format is Format.TEXT else _dumps(plan_json(planner, plan))
        if output is not None:
            _write(output, planner, plan)
    typer.echo(text)


def _dag(profile: Profile, schedule: Schedule, microbatches: int, chunks: int) -> Dag:
    from ergometry.planning.pipeline import gpipe, interleaved, one_forward_one_backward

    if schedule is Schedule.INTERLEAVED:
        if chunks < 1 or profile.stages % chunks:
            raise UsageError(
                expected=f"--chunks that divide the profile's {profile.stages} stages",
                got=str(chunks),
                remedy="profile every stage of every device",
            )
        return interleaved(profile.stages // chunks, microbatches, chunks)
    if chunks != 1:
        raise UsageError(
            expected=f"one stage a device with {schedule}",
            got=f"--chunks {chunks}",
            remedy="use --schedule interleaved",
        )
    return (gpipe if schedule is Schedule.GPIPE else one_forward_one_backward)(profile.stages, microbatches)


def plan_json(planner: PipelinePlanner, plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON: times in s, energies in J, frequencies in MHz."""
    return {
        "deadline_s": plan.deadline_s,
        "iteration_s": plan.iteration_s,
        "energy_j": plan.energy_j,
        "energy_at_deadline_j": plan.energy_at_deadline_j,
        "lower_bound_j": plan.lower_bound_j,
        "gap": plan.gap,
        "operations": [
            {**operation._asdict(), **point._asdict()} for operation, point in planner.frequencies(plan).items()
        ],
    }


def frontier_json(planner: PipelinePlanner, frontier: Frontier) -> dict[str, Any]:
    """Return a frontier as JSON, without the operations of its plans."""
    plans = [plan_json(planner, plan) for plan in frontier.plans]
    for plan in plans:
        del plan["operations"]
    return {"schema": "ergometry.pipeline/1", "certified_gap": frontier.certified, "plans": plans}


def _dumps(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=1)


def _frontier_text(planner: PipelinePlanner, frontier: Frontier) -> str:
    from ergometry.core.units import human

    first = frontier.plans[0]
    lines = ["iteration    slower      energy    saved    above the bound by at most"]
    for plan in frontier.plans:
        slower = plan.iteration_s / planner.fastest_s - 1
        saved = 1 - plan.energy_j / first.energy_j
        lines.append(
            f"{plan.iteration_s:7.4g} s  {slower:8.2%}  {human(plan.energy_j, 'J'):>10}  {saved:7.2%}  {plan.gap:7.2%}"
        )
    lines.append(f"at these times and between, no plan can save {frontier.certified:.2%} more")
    return "\n".join(lines)


def _plan_text(planner: PipelinePlanner, plan: Plan) -> str:
    from ergometry.core.units import human

    by_kind: dict[tuple[int, str], list[float]] = {}
    for operation, point in planner.frequencies(plan).items():
        by_kind.setdefault((operation.stage, operation.instruction), []).append(point.frequency_mhz)
    lines = [
        f"iteration {plan.iteration_s:.5g} s (allowed {plan.deadline_s:.5g} s, fastest {planner.fastest_s:.5g} s)",
        f"energy {human(plan.energy_at_deadline_j, 'J')}, at most {plan.gap:.2%} above the lower bound",
        "",
        "stage  instruction    MHz: lowest  mean  highest",
    ]
    for (stage, instruction), clocks in sorted(by_kind.items()):
        mean = sum(clocks) / len(clocks)
        lines.append(f"{stage:5}  {instruction:<12}  {min(clocks):10.0f}  {mean:5.0f}  {max(clocks):7.0f}")
    return "\n".join(lines)


def _write(path: Path, planner: PipelinePlanner, plan: Plan) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["stage", "instruction", "microbatch", "frequency", "time", "energy"])
            rows.writerows([*operation, *point] for operation, point in planner.frequencies(plan).items())
    except OSError as error:
        raise UsageError(expected="a file to write", got=str(error), remedy="choose another with --output") from None
