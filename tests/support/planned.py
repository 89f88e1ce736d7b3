"""Runs of one job at several batch sizes, whose loss follows the law of steps: what plans are made from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.run import Run, Table
from support.synthetic import synthetic_run

CRITICAL = 100.0


def job(
    batch: float,
    steps: int = 400,
    power_w: float = 50.0,
    *,
    name: str = "a",
    critical: float = CRITICAL,
    noise: float = 0.002,
    begun: float = 0.0,
    luck: float = 1.0,
    seed: int = 0,
    **meta: Any,
) -> Run:
    """Return a run of 0.1 s steps at a batch size, whose loss follows the examples by the law of steps.

    Args:
        batch: B.
        steps: how many.
        power_w: constant.
        name: of its id.
        critical: B_c.
        noise: standard deviation of a minibatch's loss.
        begun: steps of progress (those of a large batch) behind its first step: branched off a checkpoint there.
        luck: how many times the steps of the law it takes.
        seed: of the noise.
        meta: labels of the run.
    """
    run = synthetic_run(
        steps, power_w=power_w, evaluate_every=10**6, path=Path(f"erg-runs/20260102-030405-{name}{batch:.0f}"), **meta
    )
    table = run.table(series.STEPS)
    rows = table.rows.copy()
    rows[:, table.columns.index("examples")] = batch
    losses = run.table(series.LOSSES).rows.copy()
    scatter = noise * np.random.default_rng((int(batch), seed)).normal(size=steps)
    losses[:, 2] = loss_after(begun + np.arange(steps) / (1 + critical / batch) / luck) + scatter
    tables = {"steps": Table(table.columns, rows), "losses": Table(series.LOSSES.columns, losses)}
    return replace(run, tables={**run.tables, **tables})


def loss_after(progress: np.ndarray) -> np.ndarray:
    """Return the loss after so many steps of a very large batch."""
    return np.asarray(1.0 + 3.0 * (10.0 + progress) ** -0.5)


def steps_to(loss: float, batch: float, critical: float = CRITICAL) -> float:
    """Return the steps to a loss at a batch size."""
    return ((3.0 / (loss - 1.0)) ** 2 - 10.0) * (1 + critical / batch)


def noisy(batch: float, sigma: float) -> float:
    """Return the scatter of the loss of a minibatch, where that of one example is sigma."""
    return sigma / math.sqrt(batch)
