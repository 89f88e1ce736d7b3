"""90 % intervals of windows hold the truth about as often as they say: the benchmark's table, smaller."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from benchmarks import coverage
from benchmarks.coverage import CLASSES, LEAST, MOST

TIMING = Path(__file__).parents[3] / "shared/data/sensors/nvml_power_timing.csv"
LENGTHS_S = (0.05, 0.5, 3.0, 10.0)
SLACK = 3.0
"""Of this many windows (some 400 of a class), %; the benchmark has more, and none."""


@pytest.fixture(autouse=True)
def fewer_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "BOARDS", 12)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_intervals_of_a_class_hold_the_truth(name: str, calibrated: bool) -> None:
    """Also with the board's gain known, when the errors of sampling stand alone."""
    kind, seed = CLASSES[name], [7, list(CLASSES).index(name)]
    edges = [coverage.sampled(kind, length, [*seed, 0], calibrated=calibrated).coverage for length in LENGTHS_S]
    between = [cell.coverage for cell in coverage.unsampled(kind, LENGTHS_S, [*seed, 1], calibrated=calibrated)]
    for cells in (edges, between):
        assert LEAST - SLACK <= np.mean(cells) <= MOST + SLACK - 1, cells
        assert min(cells) >= LEAST - 3 * SLACK, cells


def test_the_classes_are_those_of_the_published_timing() -> None:
    if not TIMING.exists():
        pytest.skip(f"no {TIMING}")
    with TIMING.open() as file:
        rows = [
            (row["gpu"], float(row["update_period_ms"]), float(row["averaging_window_ms"]))
            for row in csv.DictReader(file)
        ]
    ours = {(round(1e3 * c.front.period_s), round(1e3 * c.front.averaging_s)): name for name, c in CLASSES.items()}
    for gpu, period_ms, averaging_ms in rows:
        assert (period_ms, averaging_ms) in ours, gpu
