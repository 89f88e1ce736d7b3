"""Counted work: the seconds, FLOP and bytes of each phase of each stretch of a run, and what of it was not counted.

The ``work`` table has FLOP and bytes of every step by phase; which dtypes the FLOP were of, and what evaluations did,
the profiles and their uses say. A step is spread evenly over its stretches, what profiles say over the time between
two notes of their uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.run import Run, Table
from ergometry.work.energy_model import EnergyModel, work_matrix
from ergometry.work.profiles import Item, Profile, items
from ergometry.work.timeline import EVALUATION, STEP, Timeline

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BLOCK = 1 << 13
"""Stretches that are priced at once: their work then stays in the cache."""

COUNTED = ("forward", "backward", "optimizer")
"""The phases whose work is in the work table."""

UNKNOWN_DTYPE = "unknown"

_MIX_S, _MOST_MIXES = 4.0, 256
"""Uses are noted about once a second: a mix of dtypes is of four seconds or more."""


@dataclass(frozen=True, eq=False)
class StepRows:
    """Work by row of the steps table: ``flops`` and ``bytes`` (n, 3) by :data:`COUNTED`, ``link_bytes`` (n,).

    What is not known, or is nonsense, is zero here, and its step is not ``whole`` (n,); nor is one in which some
    operator was not counted. ``model_flops`` (n,) are those of forward and backward that the model needs.
    """

    flops: Array
    bytes: Array
    link_bytes: Array
    model_flops: Array
    whole: Mask

    @classmethod
    def of(cls, run: Run) -> StepRows:
        """Align a run's work table with its steps."""
        rows = _aligned(run.table(series.STEPS), run.table(series.WORK))
        table = Table(series.WORK.columns, rows)
        amounts = rows[:, 1:10]
        good = np.isfinite(amounts) & (amounts >= 0)
        whole = good.all(axis=1) & (table["uncounted"] == 0)
        clean = Table(series.WORK.columns, np.where(np.isfinite(rows) & (rows > 0), rows, 0.0))
        flops, moved = (np.column_stack([clean[f"{p}_{kind}"] for p in COUNTED]) for kind in ("flops", "bytes"))
        needed = (flops[:, 0] + flops[:, 1] - clean["recomputed_flops"]).clip(min=0.0)
        return cls(flops, moved, clean["communication_bytes"], needed, whole)


def _aligned(steps: Table, work: Table) -> Array:
    """Return the work row of every step, (n, columns); NaN where there is none."""
    if len(steps) == len(work) and np.array_equal(steps["step"], work["step"]):
        return work.rows  # as a run is written
    found = np.full((len(steps), len(series.WORK.columns)), np.nan)
    if len(steps) and len(work):
        order = np.argsort(work["step"], kind="stable")
        at = np.searchsorted(work["step"], steps["step"], side="right", sorter=order) - 1  # the last counts
        at = order[np.maximum(at, 0)]
        same = work["step"][at] == steps["step"]
        found[same] = work.rows[at[same]]
    return found


@dataclass(frozen=True, eq=False)
class Mix:
    """The share of each dtype in the FLOP of a phase: ``shares`` (m, d) in each of m spans between ``edges_s``."""

    edges_s: Array
    shares: Array

    def at(self, at_s: Array) -> Array:
        """Return the shares (n, d) at times (n,)."""
        span = np.searchsorted(self.edges_s, at_s, side="right") - 1
        return np.asarray(self.shares[np.clip(span, 0, len(self.shares) - 1)])


@dataclass(frozen=True, eq=False)
class CountedWork:
    """The work of every stretch of a timeline, on one device or on several boards alike.

    Attributes:
        timeline: by the device's own time, where it is known.
        boards: how many boards share the work: each has its own static power.
        rows: by step.
        dtypes: of the FLOP.
        mixes: by phase of :data:`COUNTED`.
        evaluation: FLOP by dtype, and bytes, per second of evaluation; None where evaluations were not counted.
        whole: (n,) whether all that a stretch did is counted.
    """

    timeline: Timeline
    boards: int
    rows: StepRows
    dtypes: tuple[str, ...]
    mixes: tuple[Mix, ...]
    evaluation: tuple[Array, float] | None
    whole: Mask
    _part: Array = field(repr=False)
    """(n,) of its step's seconds, the share that a stretch is."""

    @classmethod
    def of(cls, run: Run, timeline: Timeline, rows: StepRows, used: Sequence[Profile], boards: int = 1) -> CountedWork:
        """Gather what a run's tables and profiles say.

        Args:
            run: the run.
            timeline: of the device.
            rows: its work by step.
            used: its profiles.
            boards: how many boards of the device did it together.
        """
        did = items(used)
        dtypes = tuple(dict.fromkeys(item.dtype for item in did if item.flops > 0)) or (UNKNOWN_DTYPE,)
        mixes = tuple(_mix(run, used, phase, dtypes) for phase in COUNTED)
        seconds, step = timeline.seconds, timeline.kind == STEP
        lasting = np.bincount(timeline.row[step], seconds[step], minlength=len(rows.whole))
        row = timeline.row.clip(min=0)
        part = np.zeros(len(seconds))
        part[step] = seconds[step] / lasting[row[step]]
        evaluating = timeline.kind == EVALUATION
        evaluation = _evaluation(did, dtypes, float(seconds[evaluating].sum()))
        whole = np.zeros(len(seconds), dtype=bool)
        whole[step] = rows.whole[row[step]]
        # Nothing says of an evaluation whether all was counted: it is as well counted as most of the steps.
        whole[evaluating] = evaluation is not None and bool(np.mean(rows.whole) >= 0.5 if len(rows.whole) else True)
        return cls(timeline, boards, rows, dtypes, mixes, evaluation, whole, part)

    def block(self, begin: int, end: int, model: EnergyModel) -> Array:
        """Return the work (b, 6, k) of each phase of the stretches from ``begin`` up to ``end``."""
        timeline, at = self.timeline, slice(begin, end)
        edges_s = timeline.edges_s[begin : end + 1]
        lasting = np.diff(edges_s)
        seconds = lasting[:, None] * timeline.shares[at] * self.boards
        flops = {dtype: np.zeros(seconds.shape) for dtype in self.dtypes}
        moved, linked = np.zeros(seconds.shape), np.zeros(seconds.shape)
        step = timeline.kind[at] == STEP
        row, part = timeline.row[at][step], self._part[at][step]
        middle_s = 0.5 * (edges_s[:-1] + edges_s[1:])
        for i, phase in enumerate(COUNTED):
            column = series.PHASES.index(phase)
            moved[step, column] = part * self.rows.bytes[row, i]
            mix = self.mixes[i].at(middle_s[step])
            for d, dtype in enumerate(self.dtypes):
                flops[dtype][step, column] = part * self.rows.flops[row, i] * mix[:, d]
        linked[step, series.PHASES.index("backward")] = part * self.rows.link_bytes[row]
        if self.evaluation is not None:
            column = series.PHASES.index("evaluation")
            spent_s = np.where(timeline.kind[at] == EVALUATION, lasting, 0.0)
            moved[:, column] += spent_s * self.evaluation[1]
            for d, dtype in enumerate(self.dtypes):
                flops[dtype][:, column] += spent_s * self.evaluation[0][d]
        return work_matrix(seconds, flops, moved, model, linked)

    def blocks(self, model: EnergyModel) -> Iterator[tuple[slice, Array]]:
        """Yield the work of all stretches, some at a time: a run of a million steps does not fit at once."""
        for begin in range(0, len(self.whole), BLOCK):
            end = min(begin + BLOCK, len(self.whole))
            yield slice(begin, end), self.block(begin, end, model)


def _mix(run: Run, used: Sequence[Profile], phase: str, dtypes: Sequence[str]) -> Mix:
    """Return the mix of a phase's FLOP over time, by the uses of its profiles; that of the whole run where none is."""
    spans = int(np.clip(run.duration_s // _MIX_S, 1, _MOST_MIXES))
    edges_s = np.linspace(0.0, max(run.duration_s, 1e-9), spans + 1)
    done = np.zeros((spans, len(dtypes)))
    for profile in used:
        if profile.phase != phase:
            continue
        flops = np.array([sum(i.flops for i in profile.items if i.dtype == dtype) for dtype in dtypes])
        span = np.clip(np.searchsorted(edges_s, profile.noted_s, side="left") - 1, 0, spans - 1)
        done += np.bincount(span, profile.used, minlength=spans)[:, None] * flops
    whole = done.sum(axis=0)
    plain = whole / whole.sum() if whole.sum() > 0 else np.full(len(dtypes), 1.0 / len(dtypes))
    each = done.sum(axis=1, keepdims=True)
    return Mix(edges_s, np.where(each > 0, done / np.where(each > 0, each, 1.0), plain))


def _evaluation(did: Sequence[Item], dtypes: Sequence[str], seconds: float) -> tuple[Array, float] | None:
    own = [item for item in did if item.phase == "evaluation"]
    if not own or not seconds > 0:
        return None
    flops = np.array([sum(item.flops for item in own if item.dtype == dtype) for dtype in dtypes])
    return flops / seconds, sum(item.bytes for item in own) / seconds
