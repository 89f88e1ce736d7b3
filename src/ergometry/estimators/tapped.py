"""What the tables that taps wrote have in common: why there is none, and the stretch at one learning rate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ergometry.core.run import Run
from ergometry.core.series import LEARNING_RATES


class Rate(NamedTuple):
    """The last learning rate η, NaN if there is not one; since which step; and why there is not one."""

    eta: float
    since: float
    why: str


def last_rate(run: Run) -> Rate:
    """Return the learning rate that the run ended with, and since when all parameter groups had it."""
    table = run.table(LEARNING_RATES)
    if not len(table):
        return Rate(np.nan, np.inf, "needs the learning rate, which was not recorded")
    by_step = np.argsort(table["step"], kind="stable")[::-1]
    # Of each group the row of its last step: unique returns the first of each, and these begin with the last.
    _, last = np.unique((table["optimizer"] * 2.0**20 + table["group"])[by_step], return_index=True)
    rates, since = table["lr"][by_step][last], float(table["step"].max())
    if np.ptp(rates) > 1e-12 * np.abs(rates).max():
        return Rate(np.nan, since, "needs one learning rate: the parameter groups ended with different ones")
    if not rates[0] > 0:
        return Rate(np.nan, since, "needs a positive learning rate at the end")
    return Rate(float(rates[0]), since, "")


def why_none(run: Run, tap: str, needs: str) -> str:
    """Return why a tap left no rows: what it said itself, else what it needs."""
    told = ((run.meta.get("physics") or {}).get("taps") or {}).get(tap) or {}
    return f"{needs}: {told['why']}" if told.get("why") else f"{needs}: none were recorded (physics off?)"
