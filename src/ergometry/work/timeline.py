"""Timeline: the whole run as a row of stretches, each a step, an evaluation or neither, that leave no gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.run import Run

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

OUTSIDE, STEP, EVALUATION = 0, 1, 2
"""The kinds of stretch. Outside of steps and evaluations lie imports, set-up and the tail."""

#: Two stretches closer than this, in seconds, touch: a clock's own grain, not time spent elsewhere.
_TOUCHING_S = 1e-6

_STEP_COLUMNS = ("data_s", "forward_s", "backward_s", "optimizer_s", "other_s")
_STEP_PHASES = [series.PHASES.index(column.removesuffix("_s")) for column in _STEP_COLUMNS]
_EVALUATION_PHASE = series.PHASES.index("evaluation")
_OTHER_PHASE = series.PHASES.index("other")


@dataclass(frozen=True)
class Timeline:
    """Stretches that tile [0, duration]: whatever is summed over all of them is summed over the run, exactly.

    Attributes:
        edges_s: (n+1,) increasing times, from 0 to the run's duration.
        kind: (n,) ``OUTSIDE``, ``STEP`` or ``EVALUATION``.
        row: (n,) the row of the steps or evaluations table that a stretch is, -1 outside.
        shares: (n, 6) the fraction of each stretch's seconds in each of ``series.PHASES``; rows sum to 1.
    """

    edges_s: Array
    kind: Codes
    row: Codes
    shares: Array

    @classmethod
    def of(cls, run: Run) -> Timeline:
        """Build from a run's steps and evaluations, by host time; overlaps go to whichever came first."""
        steps, evaluations = run.table(series.STEPS), run.table(series.EVALUATIONS)
        begin = np.concatenate((steps["t0_s"], evaluations["t0_s"]))
        end = np.concatenate((steps["t1_s"], evaluations["t1_s"]))
        kind = np.repeat([STEP, EVALUATION], [len(steps), len(evaluations)])
        row = np.concatenate((np.arange(len(steps)), np.arange(len(evaluations))))
        order = np.argsort(begin, kind="stable")
        order = order[np.isfinite(begin[order]) & np.isfinite(end[order])]
        edges_s, which = _tile(begin[order], end[order], run.duration_s)
        inside = which >= 0
        kind = np.where(inside, kind[order][which], OUTSIDE) if len(order) else np.full(len(which), OUTSIDE)
        row = np.where(inside, row[order][which], -1) if len(order) else np.full(len(which), -1)
        shares = np.zeros((len(which), len(series.PHASES)))
        shares[kind == EVALUATION, _EVALUATION_PHASE] = 1.0
        shares[np.ix_(kind == STEP, _STEP_PHASES)] = _step_shares(steps.rows, steps.columns)[row[kind == STEP]]
        return cls(edges_s, kind, row, _closed(shares))

    def by_device_time(self, run: Run, device: str) -> Timeline | None:
        """Return the same stretches with the steps' shares by an accelerator's own time; None if it has no rows.

        A step's joules stay those of its host interval, which the device follows a few kernels behind; how they
        fall into phases is what the device's events say. Evaluations keep their host intervals: they end by
        reading a value, which waits for the device.
        """
        table = run.table(series.DEVICE_STEPS)
        number = table["device"] == _device_number(device)
        numbers = run.table(series.STEPS)["step"]
        if not number.any() or not len(numbers):
            return None
        shares = self.shares.copy()
        own = _step_shares(table.rows[number], table.columns)
        order = np.argsort(numbers, kind="stable")
        at = np.clip(np.searchsorted(numbers, table["step"][number], sorter=order), 0, len(numbers) - 1)
        found = numbers[order[at]] == table["step"][number]
        known = np.full((len(numbers), own.shape[1]), np.nan)
        known[order[at[found]]] = own[found]
        stretches = np.flatnonzero(self.kind == STEP)
        rows = known[self.row[stretches]]
        seen = np.isfinite(rows).all(axis=1) & (rows.sum(axis=1) > 0)
        if not seen.any():
            return None
        shares[stretches[seen]] = 0.0
        shares[np.ix_(stretches[seen], _STEP_PHASES)] = rows[seen]
        return Timeline(self.edges_s, self.kind, self.row, _closed(shares))

    @property
    def seconds(self) -> Array:
        """Length of each stretch, (n,) s."""
        return np.diff(self.edges_s)

    def seconds_by_phase(self) -> Array:
        """Return the seconds of the run in each of ``series.PHASES``, (6,); they sum to its duration."""
        return np.asarray(self.seconds @ self.shares)

    def fractions(self, edges_s: npt.ArrayLike) -> Array:
        """Return, for each interval between ``edges_s`` (m,), the fraction of it in each phase, (m-1, 6)."""
        at = np.asarray(edges_s, dtype=np.float64)
        found = np.empty((len(at) - 1, len(series.PHASES)))
        for phase in range(len(series.PHASES)):
            until = np.concatenate(([0.0], np.cumsum(self.seconds * self.shares[:, phase])))
            found[:, phase] = np.diff(np.interp(at, self.edges_s, until)) / np.diff(at)
        return found

    def blocks(self) -> Codes:
        """Return where a run of stretches of one kind begins, as indices of stretches."""
        return np.flatnonzero(np.concatenate(([True], self.kind[1:] != self.kind[:-1])))


def _tile(begin: Array, end: Array, duration_s: float) -> tuple[Array, Codes]:
    """Return edges from 0 to the duration and, per stretch, the index of the interval it is (-1: none)."""
    reached = np.concatenate(([0.0], np.maximum.accumulate(end)))[:-1] if len(end) else end
    reached = np.maximum(reached, 0.0)
    begin = np.where(begin - reached < _TOUCHING_S, reached, begin)
    begin, end = np.minimum(begin, duration_s), np.minimum(end, duration_s)
    kept = np.flatnonzero(end > begin)
    begin, end = begin[kept], end[kept]
    if len(kept) and 0 < duration_s - end[-1] < _TOUCHING_S:
        end[-1] = duration_s
    if not len(kept):
        return np.array([0.0, max(duration_s, 0.0)]), np.array([-1])
    edges_s = np.concatenate(([0.0], np.column_stack((begin, end)).ravel(), [duration_s]))
    which = np.full(len(edges_s) - 1, -1)
    which[1::2] = kept
    full = np.diff(edges_s) > 0
    return np.concatenate((edges_s[:-1][full], [duration_s])), which[full]


def _step_shares(rows: Array, columns: tuple[str, ...]) -> Array:
    """Return the fraction of each step in each of its five phases, (n, 5); a NaN phase has none."""
    seconds = np.nan_to_num(rows[:, [columns.index(c) for c in _STEP_COLUMNS]], posinf=0.0, neginf=0.0).clip(min=0.0)
    spent = seconds.sum(axis=1)
    if "t0_s" in columns:
        spent = np.maximum(spent, rows[:, columns.index("t1_s")] - rows[:, columns.index("t0_s")])
    return np.asarray(seconds / np.where(spent > 0, spent, 1.0)[:, None])


def _closed(shares: Array) -> Array:
    """Give what is left of each stretch to ``other``, so that its row sums to 1."""
    shares[:, _OTHER_PHASE] = 0.0
    left = 1.0 - shares.sum(axis=1)
    shares[:, _OTHER_PHASE] = np.where(left > 1e-12, left, 0.0)
    return shares


def _device_number(device: str) -> int:
    """Return the number of a torch device: 1 for ``cuda:1``, 0 for ``cuda`` or ``mps``."""
    _, _, number = device.partition(":")
    return int(number) if number.isdigit() else 0
