"""Stored runs that hold given rows: what a tap wrote, and what is needed to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ergometry.core.run import Run, Table
from ergometry.core.series import LEARNING_RATES, STEPS, Series
from support.synthetic import synthetic_run


def table(series: Series, n: int, **columns: Any) -> Table:
    """Return ``n`` rows with these columns (scalars or (n,)), zero elsewhere; ``step`` counts unless given."""
    columns = {"step": np.arange(n), **columns}
    return Table(
        series.columns, np.column_stack([np.broadcast_to(columns.get(c, 0.0), n) for c in series.columns]).astype(float)
    )


def told(
    *tables: tuple[Series, Table], rates: Any = ((0, 0, 0, 0.1),), examples: float = 1.0, meta: Mapping[str, Any] = {}
) -> Run:
    """Return a run of these tables, whose learning rates are ``rates`` and whose steps have ``examples``."""
    run = synthetic_run(4)
    last = int(max((t["step"].max() for _, t in tables if len(t)), default=3.0))
    found = {series.name: t for series, t in tables}
    found[STEPS.name] = table(STEPS, last + 1, examples=examples, backwards=1)
    found[LEARNING_RATES.name] = Table(LEARNING_RATES.columns, np.array(rates, dtype=float).reshape(-1, 4))
    return replace(run, tables=found, meta={**run.meta, **meta})
