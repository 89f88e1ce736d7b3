"""A recorder's client that keeps in memory what it is told."""

from __future__ import annotations

import time
from typing import Any

from ergometry.core.series import Series


class Kept:
    """Stands for a :class:`~ergometry.meter.client.RecorderClient` where no recorder is needed."""

    def __init__(self) -> None:
        self.origin_s = time.perf_counter()
        self.rows: list[tuple[Series, tuple[float, ...]]] = []
        self.labels: dict[str, Any] = {}
        self.notices: list[tuple[str, str]] = []
        self.finished = False

    def write(self, series: Series, *values: float) -> None:
        """Keep a row."""
        assert len(values) == len(series.columns)
        self.rows.append((series, tuple(map(float, values))))

    def meta(self, **values: Any) -> None:
        """Keep labels."""
        self.labels.update(values)

    def notice(self, code: str, detail: str = "") -> None:
        """Keep a warning."""
        self.notices.append((code, detail))

    def table(self, series: Series) -> list[dict[str, float]]:
        """Return the rows of a table; of rows that were told again, the last."""
        rows = [dict(zip(series.columns, values, strict=True)) for kind, values in self.rows if kind is series]
        return list({row["step"]: row for row in rows}.values()) if series.columns[0] == "step" else rows
