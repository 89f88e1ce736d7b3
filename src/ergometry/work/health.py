"""Health: the state of each accelerator over a run, from what the recorder sampled beside its power."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CAUSES = {
    "heat": series.HEAT,
    "power_cap": series.POWER_CAP,
    "power_brake": series.POWER_BRAKE,
    "other": series.OTHER_THROTTLE,
}
"""What can hold a busy board's clock down; having nothing to do is none of these."""

BUSY = 0.05
"""A board used for a larger share of the time than this has something to do."""

_AT_TOP = 0.99
"""Of its top clock: from here on nothing holds a board down, whatever its driver names as the limit."""

_SAMPLED_S = 1.0
"""The recorder samples health once a second, and more often only between."""

_REACH = 1.5
"""A sample stands for the time halfway to its neighbours, but no further than this many of the usual intervals."""


@dataclass(frozen=True, eq=False)
class Board:
    """One board's samples and what they say, each weighted with the time it stands for.

    Attributes:
        number: the board's, in its domain.
        begin_s, end_s: (n,) the time that each sample stands for.
        busy: (n,) whether it had something to do.
        held: by cause, (n,) whether that held its clock below its top.
        table: (n rows) the samples, by time.
    """

    number: int
    begin_s: Array
    end_s: Array
    busy: Mask
    held: dict[str, Mask]
    table: Table

    @property
    def name(self) -> str:
        """The board's name: the last part of its domain."""
        return f"gpu{self.number}"

    @property
    def seconds(self) -> Array:
        """What each sample stands for, (n,) s."""
        return self.end_s - self.begin_s

    def mean(self, column: str, unit: str, among: Mask | None = None) -> Estimate:
        """Return a column's mean over time; no error of it is known, as that of a board's own sensors is not."""
        value, seconds = self.table[column], self.seconds
        good = np.isfinite(value) if among is None else np.isfinite(value) & among
        if not good.any():
            return Estimate.unknown(unit, "the board does not tell" if among is None else "not sampled meanwhile")
        weight = seconds[good] if seconds[good].sum() > 0 else np.ones(int(good.sum()))
        mean = float(np.average(value[good], weights=weight))
        return Estimate(mean, None, unit, Provenance.MEASURED, f"mean of {int(good.sum())} samples")

    def most(self, column: str, unit: str) -> Estimate:
        """Return a column's largest value; between two samples it may have been larger."""
        value = self.table[column]
        good = np.isfinite(value)
        if not good.any():
            return Estimate.unknown(unit, "the board does not tell")
        return Estimate(float(value[good].max()), None, unit, Provenance.MEASURED, f"most of {int(good.sum())} samples")

    def held_share(self, cause: str) -> Estimate:
        """Return the share of the busy time in which ``cause`` held the clock down.

        Its error is that of where between two samples each change fell, Δt/√12 each.
        """
        seconds, held = self.seconds, self.held[cause] & self.busy
        busy_s = float(seconds[self.busy].sum())
        if not np.isfinite(self.table["throttle"]).any():
            return Estimate.unknown("", "the board does not tell what limits its clock")
        if busy_s <= 0:
            return Estimate.unknown("", "the board was never seen busy")
        changes = int(np.count_nonzero(held[1:] != held[:-1]))
        stderr = math.sqrt(changes / 12.0) * float(np.mean(seconds)) / busy_s
        method = f"share of {int(self.busy.sum())} busy samples, by time"
        return Estimate(float(seconds[held].sum()) / busy_s, stderr, "", Provenance.MEASURED, method)

    def lost_s(self, cause: str) -> float:
        """Return the seconds by which ``cause`` lengthened the run, if its pace is the clock's: Σ t·(1 - f/f_top).

        NaN where the board does not tell its clocks.
        """
        slow = 1.0 - self.table["clock_hz"] / self.table["max_clock_hz"]
        held = self.held[cause] & self.busy & np.isfinite(slow)
        return float((self.seconds[held] * slow[held].clip(0.0, 1.0)).sum()) if held.any() else math.nan

    def figures(self) -> dict[str, Estimate]:
        """Return the numbers that a report shows."""
        return {
            "temperature_mean": self.mean("temperature_c", "degC"),
            "temperature_max": self.most("temperature_c", "degC"),
            "clock_mean": self.mean("clock_hz", "Hz", self.busy if self.busy.any() else None),
            "clock_top": self.most("max_clock_hz", "Hz"),
            "memory_clock_mean": self.mean("memory_clock_hz", "Hz"),
            "utilisation": self.mean("utilisation", ""),
            "memory_utilisation": self.mean("memory_utilisation", ""),
            "power_limit": self.mean("power_limit_w", "W"),
            **{f"held_by_{cause}": self.held_share(cause) for cause in CAUSES},
            "pcie_sent": self.mean("pcie_tx_bytes_per_s", "byte/s"),
            "pcie_received": self.mean("pcie_rx_bytes_per_s", "byte/s"),
            "link_sent": self.mean("link_tx_bytes_per_s", "byte/s"),
            "link_received": self.mean("link_rx_bytes_per_s", "byte/s"),
        }


def boards(run: Run) -> tuple[Board, ...]:
    """Return the boards that were sampled, by number; none where there are none."""
    table = run.table(series.HEALTH)
    good = np.isfinite(table["t_s"]) & np.isfinite(table["board"]) & (table["t_s"] <= run.duration_s)
    numbers = np.unique(table["board"][good]).astype(int)
    return tuple(_board(int(n), table.rows[good & (table["board"] == n)], run.duration_s) for n in numbers)


def _board(number: int, rows: Array, duration_s: float) -> Board:
    table = _sound(Table(series.HEALTH.columns, rows[np.argsort(rows[:, 0], kind="stable")]))
    at_s = table["t_s"]
    gaps_s = np.diff(at_s)
    usual_s = max(float(np.median(gaps_s)), _SAMPLED_S) if len(gaps_s) else duration_s
    half_s = np.minimum(0.5 * gaps_s, _REACH * usual_s)
    begin_s = at_s - np.concatenate(([min(at_s[0], _REACH * usual_s)], half_s))
    end_s = at_s + np.concatenate((half_s, [min(max(duration_s - at_s[-1], 0.0), _REACH * usual_s)]))
    told = table["throttle"] < 1 << 31
    throttle = np.where(told, table["throttle"], 0.0).astype(np.int64)
    used = table["utilisation"]
    busy = np.where(np.isfinite(used), used > BUSY, told & ((throttle & series.IDLE) == 0))
    # A clock that is not known is taken to be below: the driver names a limit.
    below = ~(table["clock_hz"] >= _AT_TOP * table["max_clock_hz"])
    held = {cause: ((throttle & bit) != 0) & below for cause, bit in CAUSES.items()}
    return Board(number, begin_s, end_s, np.asarray(busy, dtype=bool), held, table)


def _sound(table: Table) -> Table:
    """Return the table with what cannot be, such as an infinite or a negative clock, as not told."""
    rows = table.rows.copy()
    wrong = ~np.isfinite(rows) | (rows < 0)
    wrong[:, table.columns.index("temperature_c")] &= ~np.isfinite(table["temperature_c"])
    wrong[:, table.columns.index("max_clock_hz")] |= table["max_clock_hz"] == 0
    wrong[:, :2] = False
    rows[wrong] = np.nan
    return Table(table.columns, rows)
