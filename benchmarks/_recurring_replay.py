"""The shared harness for recurring jobs, and replays of our policy in it."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Callable
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


@dataclass(frozen=True)
class Score:
    """One job over some seeds: regret in runs, last quarter over the oracle, and what each policy knew at the end."""

    regret: np.ndarray
    last: float
    histories: list[str]

    @property
    def mean(self) -> float:
        """Mean regret."""
        return float(self.regret.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.regret.std(ddof=1) / np.sqrt(len(self.regret))) if len(self.regret) > 1 else float("nan")


def score(
    replays: ModuleType,
    job: Any,
    seeds: int,
    settings: Settings | None = None,
    start: Callable[[int], str] | None = None,
) -> Score:
    """Replay one job; ``start`` gives the history from another machine that a seed begins with."""
    regret, last, histories = [], [], []
    for seed in range(seeds):
        made: list[RecurringJob] = []

        def factory(made: list[RecurringJob] = made, begin: int = seed, **spec: Any) -> RecurringJob:
            policy = RecurringJob(**spec, settings=settings)
            made.append(policy.warm_start(start(begin)) if start else policy)
            return made[-1]

        over = np.array(replays.replay(job, factory, seed))
        regret.append(float((over - 1).sum()))
        last.append(float(over[int(LAST * len(over)) :].mean()))
        histories.append(made[-1].to_json())
    return Score(np.array(regret), float(np.mean(last)), histories)


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
