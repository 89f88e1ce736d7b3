"""Rows by step: a step's row may be written more than once, and then the last one is whole."""

from __future__ import annotations

import numpy as np

from ergometry.core.run import Table
from ergometry.equations.section import Array


def last_rows(table: Table) -> Table:
    """Return the last row written for each step, by increasing step; rows without a step are left out.

    A second optimizer's or a second backward's row of the same step holds the sum so far.

    >>> last_rows(Table(("step", "loss"), np.array([[1.0, 0.4], [0.0, 0.9], [1.0, 0.8]]))).rows.tolist()
    [[0.0, 0.9], [1.0, 0.8]]
    """
    if np.all(np.diff(table["step"]) > 0) and np.all(np.isfinite(table["step"][:1])):
        return table  # as nearly every table is: no copy of a million rows
    ordered = table.rows[np.argsort(table["step"], kind="stable")]
    step = ordered[:, table.columns.index("step")]
    last = np.append(step[1:] != step[:-1], True)[: len(step)] & np.isfinite(step)
    return Table(table.columns, ordered[last])


def values_at(steps: Array, table: Table, column: str) -> Array:
    """Return a column of ``table`` (one row a step, by increasing step) at each of ``steps``, NaN where it has none.

    >>> values_at(np.array([0.0, 1.0]), Table(("step", "loss"), np.array([[1.0, 0.8]])), "loss")
    array([nan, 0.8])
    """
    if not len(table):
        return np.full(len(steps), np.nan)
    at = np.minimum(np.searchsorted(table["step"], steps), len(table) - 1)
    return np.where(table["step"][at] == steps, table[column][at], np.nan)
