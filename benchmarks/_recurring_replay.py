"""The shared harness for recurring jobs, and replays of our policy in it."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ergometry.planning.recurring import RecurringJob, Settings

SHARED = Path(__file__).parents[2] / "shared"
HARNESS = SHARED / "bench" / "recurring_replay.py"
TRACES = SHARED / "data" / "zeus_nsdi23"
GPUS = ("p100", "v100")
DATASETS = ("cifar100", "imagenet", "movielens-1m", "squad")
LAST = 0.75
"""The last quarter begins here."""
LUCK_CAP = 2.0
"""A run's luck is reckoned up to this many runs of the oracle's: what costs more is given up."""


def harness() -> ModuleType | None:
    """Return the shared harness, read where it lies, or None without it or its traces."""
    if not HARNESS.is_file() or not (TRACES / "summary_train.csv").is_file():
        return None
    spec = importlib.util.spec_from_file_location("recurring_replay", HARNESS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


class Watched(list[Any]):
    """The recorded runs of a batch size, which note the luck of each draw: its cost less that of their mean.

    Whatever the policy does, the luck of a draw has mean zero given all that went before. Regret less luck therefore
    has the mean of regret, and far less scatter.
    """

    def __init__(self, runs: list[Any], epoch_cost: float, max_epochs: int, drawn: list[float]) -> None:
        super().__init__(runs)
        ends = [run[-1] if run[-1] <= max_epochs else math.inf for run in runs]
        cost = np.minimum(epoch_cost * np.array(ends), LUCK_CAP)
        self._luck, self._drawn = cost - cost.mean(), drawn

    def __getitem__(self, i: Any) -> Any:
        self._drawn.append(float(self._luck[i]))
        return super().__getitem__(i)


@dataclass(frozen=True)
class Score:
    """One job, by seed: regret in runs and last quarter over the oracle, both plain and less luck, and last states."""

    regret: np.ndarray
    last: np.ndarray
    plain_regret: np.ndarray
    plain_last: np.ndarray
    histories: list[str]


def mean(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def pooled(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """Mean over jobs of the mean over seeds, and its standard error."""
    found = [mean(v) for v in values]
    return float(np.mean([m for m, _ in found])), math.sqrt(sum(e * e for _, e in found)) / len(found)


def score(
    replays: ModuleType,
    job: Any,
    seeds: int,
    settings: Settings | None = None,
    start: Callable[[int], str] | None = None,
) -> Score:
    """Replay one job; ``start`` gives the history from another machine that a seed begins with."""
    drawn: list[float] = []
    oracle, limits, runs = job.oracle(), job.spec.power_limits_w, job.paths
    job.paths = {
        b: Watched(r, min(job.epoch_cost(b, p) for p in limits) / oracle, job.spec.max_epochs, drawn)
        for b, r in runs.items()
    }
    over, luck, histories = [], [], []
    for seed in range(seeds):
        drawn.clear()
        ends = [0]
        made: list[RecurringJob] = []

        class Counting(RecurringJob):
            def end_attempt(self, epochs: int, reached: bool, ends: list[int] = ends) -> None:
                super().end_attempt(epochs, reached)
                if reached:
                    ends.append(len(drawn))

        def factory(made: list[RecurringJob] = made, kind: type = Counting, begin: int = seed, **spec: Any) -> Any:
            policy = kind(**spec, settings=settings)
            made.append(policy.warm_start(start(begin)) if start else policy)
            return made[-1]

        over.append(replays.replay(job, factory, seed))
        luck.append(np.diff(np.concatenate([[0.0], np.cumsum(drawn)])[ends]))
        histories.append(made[-1].to_json())
    job.paths = runs
    plain, net = np.array(over), np.array(over) - np.array(luck)
    begins = int(LAST * plain.shape[1])
    return Score(
        (net - 1).sum(1), net[:, begins:].mean(1), (plain - 1).sum(1), plain[:, begins:].mean(1), histories
    )  # fmt: skip


def zeus() -> dict[tuple[float, str, str], tuple[float, float]]:
    """Return regret and last quarter of Zeus's own policy, in its own simulator, by (weight, GPU, data set)."""
    with (TRACES / "zeus_policy_results.csv").open() as file:
        return {
            (float(r["weight"]), r["gpu"], r["dataset"]): (
                float(r["zeus_regret_runs"]),
                float(r["zeus_last_quarter_over_oracle"]),
            )
            for r in csv.DictReader(file)
        }
