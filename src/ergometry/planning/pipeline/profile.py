"""Profile: measured seconds and joules of each instruction of each stage at each frequency, from a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ergometry.core.errors import UsageError
from ergometry.planning.pipeline.dag import Dag, Point

COLUMNS = ("stage", "instruction", "frequency", "time", "energy")


@dataclass(frozen=True)
class Profile:
    """Measured points of each (stage, instruction), by falling frequency."""

    points: Mapping[tuple[int, str], tuple[Point, ...]]

    @property
    def stages(self) -> int:
        """Number of stages."""
        return 1 + max(stage for stage, _ in self.points)

    def of(self, dag: Dag) -> list[tuple[Point, ...]]:
        """Return the points of each operation of a graph.

        Raises:
            UsageError: an operation was not profiled.
        """
        kinds = {(operation.stage, operation.instruction) for operation in dag.operations}
        if missing := sorted(kinds - set(self.points)):
            stage, instruction = missing[0]
            raise UsageError(
                expected=f"rows of {instruction} on stage {stage}",
                got="a profile without them",
                remedy="measure it, or plan fewer stages",
            )
        return [self.points[operation.stage, operation.instruction] for operation in dag.operations]


def read_profile(path: Path) -> Profile:
    """Read a profile: a CSV file with columns stage, instruction, frequency (MHz), time (s), energy (J).

    Repeated measurements of one frequency are averaged.

    Raises:
        UsageError: no such file, no such columns, or a row that is no measurement.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
                raise UsageError(
                    expected=f"columns {', '.join(COLUMNS)} in {path}",
                    got=f"none called {', '.join(missing)}",
                    remedy="give frequencies in MHz, times in s and energies in J",
                )
            return _profile([_row(path, number, row) for number, row in enumerate(rows, start=2)], path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(expected="a profile in CSV", got=str(error), remedy="see that it can be read") from None


def _row(path: Path, number: int, row: Mapping[str, str]) -> tuple[int, str, Point]:
    try:
        stage, point = int(row["stage"]), Point(*(float(row[column]) for column in COLUMNS[2:]))
        valid = stage >= 0 and all(math.isfinite(x) and x > 0 for x in point)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise UsageError(
            expected="a stage number and a positive frequency, time and energy",
            got=f"{path}, line {number}: {', '.join(str(row[column]) for column in COLUMNS)}",
            remedy="leave out failed measurements",
        )
    return stage, row["instruction"].strip().lower(), point


def _profile(rows: Iterable[tuple[int, str, Point]], path: Path) -> Profile:
    found: dict[tuple[int, str], dict[float, list[Point]]] = {}
    for stage, instruction, point in rows:
        found.setdefault((stage, instruction), {}).setdefault(point.frequency_mhz, []).append(point)
    if not found:
        raise UsageError(expected="measurements", got=f"an empty profile, {path}", remedy="measure every stage first")
    return Profile(
        {
            kind: tuple(_mean(points) for _, points in sorted(by_frequency.items(), reverse=True))
            for kind, by_frequency in found.items()
        }
    )


def _mean(points: list[Point]) -> Point:
    return Point(*(math.fsum(values) / len(points) for values in zip(*points, strict=True)))
