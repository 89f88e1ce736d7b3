"""Rows by step: what one table says of the steps of another."""

from __future__ import annotations

import numpy as np

from ergometry.core.run import Table
from ergometry.equations.section import Array


def values_at(steps: Array, table: Table, column: str) -> Array:
    """Return a column of ``table`` (one row a step, by increasing step) at each of ``steps``, NaN where it has none.

    >>> values_at(np.array([0.0, 1.0]), Table(("step", "loss"), np.array([[1.0, 0.8]])), "loss")
    array([nan, 0.8])
    """
    if not len(table):
        return np.full(len(steps), np.nan)
    at = np.minimum(np.searchsorted(table["step"], steps), len(table) - 1)
    return np.where(table["step"][at] == steps, table[column][at], np.nan)
