"""``erg plan``: batch size, learning rate, power limit, duration and energy for a goal under a budget."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ergometry.core.errors import UsageError


class Format(StrEnum):
    """How the plan is written."""

    TEXT = "text"
    JSON = "json"


def plan(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN [RUN...]", help="Runs of one job: ids, paths or last; the first is gone on from."),
    ],
    energy: Annotated[str | None, typer.Option(help="Energy allowed, such as '5 MJ'.")] = None,
    power: Annotated[str | None, typer.Option(help="Mean power allowed at any time, such as '300 W'.")] = None,
    time: Annotated[str | None, typer.Option(help="Time allowed, such as '2 h'.")] = None,
    slowdown: Annotated[str | None, typer.Option(help="Slowdown allowed against the fastest, such as '5%'.")] = None,
    target_loss: Annotated[float | None, typer.Option(help="Loss to reach (default: what the run reached).")] = None,
    weight: Annotated[float, typer.Option(help="Weight of energy against time, 0 to 1.")] = 1.0,
    points: Annotated[
        Path | None, typer.Option(help="More operating points: CSV of batch, step_s, step_j[, power_limit_w].")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes to choose from; may be given often.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="The largest batch size that fits in memory.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="The optimizer's class, where the run does not tell.")] = None,
    format: Annotated[Format, typer.Option(help="How the plan is written.")] = Format.TEXT,  # noqa: A002
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Plan the rest of a job from measured runs: the fewest joules (or seconds) to a loss, under a budget.

    A second run at another batch size narrows every interval.
    """
    from ergometry.core.budget import Budget
    from ergometry.equations.live import entries
    from ergometry.equations.readings import read
    from ergometry.planning.from_runs import plan_runs, rate_of
    from ergometry.planning.operating_points import read_points
    from ergometry.report.plan import dumps, plan_json, plan_text
    from ergometry.store.catalog import default_store, resolve
    from ergometry.store.reader import load
    from ergometry.work.attribution import accounts

    budget = Budget(energy=energy, power=power, time=time, slowdown=slowdown)  # type: ignore[arg-type] # text is parsed
    for name, value in (("--max-batch", max_batch), *(("--batch", one) for one in batch or ())):
        if value is not None and value < 1:
            raise UsageError(expected=f"a {name} of 1 or more", got=str(value), remedy="leave it out to try all")
    folder = store or default_store()
    loaded = [load(resolve(run, folder)) for run in runs]
    found = plan_runs(
        loaded,
        target_loss=target_loss,
        budget=budget,
        points=read_points(points) if points is not None else (),
        energy_weight=weight,
        batches=batch,
        max_batch=max_batch,
    )
    books = accounts(loaded[0])
    rate = rate_of(loaded[0], read(loaded[0], books), found.settings[0].batch, optimizer)
    equations = entries(loaded[0], books)
    if format is Format.JSON:
        typer.echo(dumps(plan_json(found, rate, equations)))
    else:
        typer.echo(plan_text(found, rate, equations))
