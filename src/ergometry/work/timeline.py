"""Timeline: the whole run as a row of stretches, each a step, an evaluation or neither, that leave no gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.run import Run, Table

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
        """Build from a run's steps and evaluations, by host time.

        An evaluation inside a step (under gradient accumulation) is cut out of it. Where two steps overlap, the one
        that began later has the time.
        """
        steps, evaluations = _ordered(run.table(series.STEPS)), _ordered(run.table(series.EVALUATIONS))
        edges_s = _edges(run.duration_s, steps, evaluations)
        middle_s = 0.5 * (edges_s[1:] + edges_s[:-1])
        step, evaluation = _covering(steps, middle_s), _covering(evaluations, middle_s)
        kind = np.where(evaluation >= 0, EVALUATION, np.where(step >= 0, STEP, OUTSIDE))
        row = np.where(evaluation >= 0, evaluation, step)
        within = kind == STEP
        shares = np.zeros((len(kind), len(series.PHASES)))
        shares[kind == EVALUATION, _EVALUATION_PHASE] = 1.0
        table = run.table(series.STEPS)
        lasting_s = np.zeros(len(table)) + np.bincount(row[within], np.diff(edges_s)[within], minlength=len(table))
        shares[np.ix_(within, _STEP_PHASES)] = _step_shares(table, lasting_s)[row[within]]
        return cls(edges_s, kind, row, _closed(shares))

    def by_device_time(self, run: Run, device: str) -> Timeline | None:
        """Return the same stretches with the steps' shares by an accelerator's own time; None if it has no rows.

        A step's joules stay those of its host interval, which the device follows a few kernels behind; how they
        fall into phases is what the device's events say. Evaluations keep their host intervals: they end by
        reading a value, which waits for the device.
        """
        table = run.table(series.DEVICE_STEPS)
        number = table["device"] == device_number(device)
        numbers = run.table(series.STEPS)["step"]
        if not number.any() or not len(numbers):
            return None
        shares = self.shares.copy()
        own = _step_shares(Table(table.columns, table.rows[number]), np.zeros(int(number.sum())))
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
        return np.asarray(np.diff(self.seconds_until(at), axis=0) / np.diff(at)[:, None])

    def seconds_until(self, at_s: npt.ArrayLike) -> Array:
        """Return the seconds of each phase from the run's beginning to each of the times (m,), (m, 6)."""
        at = np.asarray(at_s, dtype=np.float64)
        found = np.empty((len(at), len(series.PHASES)))
        for phase in range(len(series.PHASES)):
            until = np.concatenate(([0.0], np.cumsum(self.seconds * self.shares[:, phase])))
            found[:, phase] = np.interp(at, self.edges_s, until)
        return found

    def blocks(self) -> Codes:
        """Return where a run of stretches of one kind begins, as indices of stretches."""
        return np.flatnonzero(np.concatenate(([True], self.kind[1:] != self.kind[:-1])))


@dataclass(frozen=True)
class _Ordered:
    """The rows of a table that have a beginning and an end, by their beginning."""

    begin_s: Array
    end_s: Array
    row: Codes


def _ordered(table: Table) -> _Ordered:
    begin_s, end_s = table["t0_s"], table["t1_s"]
    order = np.argsort(begin_s, kind="stable")
    order = order[np.isfinite(begin_s[order]) & np.isfinite(end_s[order])]
    return _Ordered(begin_s[order], end_s[order], order)


def _edges(duration_s: float, *parts: _Ordered) -> Array:
    """Return every beginning and end within the run, in order, those that touch as one."""
    # Stable sorting is fast here: each part is in order already.
    times = np.sort(np.concatenate([times for part in parts for times in (part.begin_s, part.end_s)]), kind="stable")
    times = times[(times > _TOUCHING_S) & (times < duration_s - _TOUCHING_S)]
    apart = np.diff(times, prepend=0.0) >= _TOUCHING_S
    return np.concatenate(([0.0], times[apart], [max(duration_s, 0.0)]))


def _covering(part: _Ordered, at_s: Array) -> Codes:
    """Return the row that each time lies in, the one begun last; -1 where in none."""
    if not len(part.row):
        return np.full(len(at_s), -1)
    last = np.searchsorted(part.begin_s, at_s, side="right") - 1
    inside = (last >= 0) & (at_s < part.end_s[np.maximum(last, 0)])
    return np.where(inside, part.row[np.maximum(last, 0)], -1)


def _step_shares(table: Table, lasting_s: Array) -> Array:
    """Return the fraction of each step in each of its five phases, (n, 5); a NaN phase has none.

    The fractions are of ``lasting_s``, or of the phases' own sum where that is more.
    """
    columns = np.column_stack([table[column] for column in _STEP_COLUMNS])
    seconds = np.nan_to_num(columns, posinf=0.0, neginf=0.0).clip(min=0.0)
    spent = np.maximum(seconds.sum(axis=1), lasting_s)
    return np.asarray(seconds / np.where(spent > 0, spent, 1.0)[:, None])


def _closed(shares: Array) -> Array:
    """Give what is left of each stretch to ``other``, so that its row sums to 1."""
    shares[:, _OTHER_PHASE] = 0.0
    left = 1.0 - shares.sum(axis=1)
    shares[:, _OTHER_PHASE] = np.where(left > 1e-12, left, 0.0)
    return shares


def device_number(device: str) -> int:
    """Return the number of a torch device: 1 for ``cuda:1``, 0 for ``cuda`` or ``mps``."""
    _, _, number = device.partition(":")
    return int(number) if number.isdigit() else 0
