"""Rows by step: what one table says of the steps of another, and which steps moved the parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ergometry.core.estimate import Estimate
from ergometry.core.run import Run, Table
from ergometry.core.series import LOSSES, SKIPPED, STEPS

Array = npt.NDArray[np.float64]


def values_at(steps: Array, table: Table, column: str) -> Array:
    """Return a column of ``table`` (one row a step, by increasing step) at each of ``steps``, NaN where it has none.

    >>> values_at(np.array([0.0, 1.0]), Table(("step", "loss"), np.array([[1.0, 0.8]])), "loss")
    array([nan, 0.8])
    """
    if not len(table):
        return np.full(len(steps), np.nan)
    at = np.minimum(np.searchsorted(table["step"], steps), len(table) - 1)
    return np.where(table["step"][at] == steps, table[column][at], np.nan)


def moving_steps(run: Run) -> Array:
    """Return (n,) the steps that moved the parameters along a finite gradient.

    Not those that the gradient scaler skipped, nor those whose loss is not finite.
    """
    steps = run.table(STEPS)
    moved = np.nan_to_num(steps["flags"]).astype(np.int64) & SKIPPED == 0
    losses = run.table(LOSSES)
    if len(losses):
        moved &= np.isfinite(values_at(steps["step"], losses, "loss"))
    return np.asarray(steps["step"][moved])


def not_finite(run: Run) -> Array:
    """Return (n,) the steps whose loss was NaN or infinite."""
    losses = run.table(LOSSES)
    return np.asarray(losses["step"][~np.isfinite(losses["loss"])])


def left_out(run: Run) -> str:
    """Say how many steps no sum over a run holds, their loss not being finite; nothing where there is none."""
    broken = not_finite(run)
    if not len(broken):
        return ""
    return f"{len(broken)} steps whose loss was not finite, from step {broken[0]:.0f} on, are left out"


def beside(estimate: Estimate, fact: str) -> Estimate:
    """Return an estimate with one more fact in its ``why``, if there is one to tell."""
    return replace(estimate, why="; ".join(filter(None, (estimate.why, fact)))) if fact else estimate
