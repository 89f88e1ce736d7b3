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
    memory: Annotated[
        str | None, typer.Option(help="Memory of one device, such as '80 GB': larger batch sizes are left out.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="The optimizer's class, where the run does not tell.")] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN", help="A run with a smaller or larger model: B_c by the size law; may be given often."
        ),
    ] = None,
    critical_batch: Annotated[
        float | None, typer.Option(help="The critical batch size B_c, known from elsewhere, in examples.")
    ] = None,
    grown: Annotated[float, typer.Option(help="How many times larger model and data are than there.")] = 1.0,
    format: Annotated[Format, typer.Option(help="How the plan is written.")] = Format.TEXT,  # noqa: A002
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page with the front and the schedules, too.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The folder of runs; else $ERGOMETRY_STORE, else erg-runs here.")
    ] = None,
) -> None:
    """Plan the rest of a job from measured runs: the fewest joules (or seconds) to a loss, under a budget.

    A second run at another batch size narrows every interval.
    """
    from ergometry.cli.report import write
    from ergometry.core.budget import Budget
    from ergometry.planning.operating_points import read_points
    from ergometry.report.plan import dumps
    from ergometry.report.plan import plan as plan_of

    budget = Budget(energy=energy, power=power, time=time, slowdown=slowdown)  # type: ignore[arg-type] # text is parsed
    for name, value in (("--max-batch", max_batch), *(("--batch", one) for one in batch or ())):
        if value is not None and value < 1:
            raise UsageError(expected=f"a {name} of 1 or more", got=str(value), remedy="leave it out to try all")
    found = plan_of(
        runs,
        target_loss=target_loss,
        budget=budget,
        points=read_points(points) if points is not None else (),
        energy_weight=weight,
        batches=batch,
        max_batch=max_batch,
        memory=memory,
        optimizer=optimizer,
        sizes=size or (),
        critical_batch=critical_batch,
        grown=grown,
        store=store,
    )
    if html is not None:
        from ergometry.report import plan_page

        write(html, plan_page.html(found, found.learning_rate, found.equations, found.schedules))
    typer.echo(dumps(found.to_json()) if format is Format.JSON else str(found))
