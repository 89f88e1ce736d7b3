"""``erg plan-power``: the power cap of each of several jobs under one power budget."""

from __future__ import annotations

import csv
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ergometry.core.errors import UsageError

if TYPE_CHECKING:
    from ergometry.planning.power_sharing import CapPoint, Sharing

COLUMNS = ("job", "cap_w", "draw_w", "speed")


class Format(StrEnum):
    """How it is written."""

    TEXT = "text"
    JSON = "json"


def plan_power(
    jobs: Annotated[
        Path, typer.Argument(help="CSV with columns job, cap_w (W), draw_w (W), speed (any unit, such as step/s).")
    ],
    power: Annotated[str, typer.Option(help="What all jobs may draw together, such as '10 kW'.")],
    format: Annotated[Format, typer.Option(help="How it is written.")] = Format.TEXT,  # noqa: A002
) -> None:
    """Choose the power cap of each job that makes all of them fastest together within one power budget.

    A job is charged what it draws, not its cap.
    """
    from ergometry.core.budget import Budget
    from ergometry.planning.power_sharing import share_power

    points = _read(jobs)
    budget_w = Budget(power=power).power  # type: ignore[arg-type] # text is parsed
    assert budget_w is not None  # it was given
    found = share_power(points, budget_w)
    typer.echo(json.dumps(_tree(found, points), indent=1) if format is Format.JSON else _text(found, points, budget_w))


def _read(path: Path) -> dict[str, list[CapPoint]]:
    from ergometry.planning.power_sharing import CapPoint

    found: dict[str, list[CapPoint]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise UsageError(
                    expected=f"columns {', '.join(COLUMNS)} in {path}",
                    got=f"none called {', '.join(missing)}",
                    remedy="one row for each cap at which a job was measured",
                )
            for number, row in enumerate(rows, start=2):
                try:
                    cap, draw, speed = (float(row[name] or "nan") for name in COLUMNS[1:])
                except ValueError:
                    raise UsageError(
                        expected="numbers",
                        got=f"{path}, line {number}: {', '.join(map(str, row.values()))}",
                        remedy="correct it",
                    ) from None
                found.setdefault(row["job"] or "", []).append(CapPoint(cap, draw, speed))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(expected="jobs in CSV", got=f"{path} ({why})", remedy="see that it can be read") from None
    return found


def _speed(found: Sharing, points: dict[str, list[CapPoint]], job: str) -> tuple[float, float]:
    """Return the draw (W) of a job at its cap, and its speed over its fastest."""
    at = max((p for p in points[job] if p.cap_w == found.caps_w[job]), key=lambda p: p.speed)
    return at.draw_w, at.speed / max(p.speed for p in points[job] if p.speed > 0)


def _tree(found: Sharing, points: dict[str, list[CapPoint]]) -> dict[str, object]:
    jobs = [
        {"job": job, "cap_w": cap_w, "draw_w": draw_w, "relative_speed": speed}
        for job, cap_w in found.caps_w.items()
        for draw_w, speed in [_speed(found, points, job)]
    ]
    return {
        "schema": "ergometry.power_sharing/1",
        "draw_w": found.draw_w,
        "relative_speed": found.relative_speed,
        "upper_bound": found.upper_bound,
        "jobs": jobs,
    }


def _text(found: Sharing, points: dict[str, list[CapPoint]], budget_w: float) -> str:
    from ergometry.core.units import human
    from ergometry.report.words import percent

    width = max(len("job"), *map(len, found.caps_w))
    lines = [f"{'job':<{width}}        cap       draw   of its full speed"]
    for job, cap_w in found.caps_w.items():
        draw_w, speed = _speed(found, points, job)
        lines.append(f"{job:<{width}} {human(cap_w, 'W'):>10} {human(draw_w, 'W'):>10}   {percent(speed)}")
    lines.append(
        f"together {human(found.draw_w, 'W')} of {human(budget_w, 'W')}, {percent(found.relative_speed)} of full speed "
        f"in the mean; no choice reaches more than {percent(found.upper_bound)}"
    )
    return "\n".join(lines)
