"""Phases: the joules of each meter split by what the run was doing.

By its work where that was counted and the device is calibrated, else by time, the host's or the device's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance, weakest
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.work.division import UNIFORM, Division
from ergometry.work.meters import Meter, unread
from ergometry.work.timeline import STEP, Timeline

Array = npt.NDArray[np.float64]

EQUAL_POWER = "power assumed equal across the phases of a step"
BY_WORK = "in proportion to the work of each phase"


@dataclass(frozen=True, eq=False)
class Split:
    """Joules (6,) of one meter in each phase, their variance (J²) but for the meter's own gain, and how, per phase."""

    joules: Array
    variance: Array
    methods: tuple[tuple[str, ...], ...]
    provenance: Provenance


def split(run: Run, meters: Sequence[Meter], timeline: Timeline, divisions: Mapping[str, Division]) -> dict[str, Split]:
    """Return how the joules of each leaf of the meters fall into phases, by the leaf's name.

    Args:
        run: the run.
        meters: that make up the total.
        timeline: by host time.
        divisions: by device, of those whose work was counted.
    """
    return {
        name: _split_trace(run, trace, timeline, divisions.get(trace.signal.device))
        for meter in meters
        for name, trace in meter.leaves()
    }


def by_phase(
    meters: Sequence[Meter], leaves: Mapping[str, Split], timeline: Timeline, spent: Estimate
) -> dict[str, Estimate]:
    """Return J by phase: Σ over stretches of each leaf's energy × the phase's share of it.

    A meter with others inside it is split in parts: theirs each by its own clock, and what they leave. The phases sum
    to ``spent`` exactly: the last takes up the rounding.
    """
    if spent.value is None:
        return {phase: Estimate.unknown("J", spent.why) for phase in series.PHASES}
    splits = [_whole(meter, leaves, timeline) for meter in meters]
    joules = np.sum([split.joules for split in splits], axis=0)
    gains = [meter.trace.signal.rel_stderr * split.joules for meter, split in zip(meters, splits, strict=True)]
    stderr = np.sqrt(np.sum([split.variance for split in splits], axis=0) + np.sum(np.square(gains), axis=0))
    provenance = weakest(spent.provenance, *(split.provenance for split in splits))
    left = spent.value - math.fsum(joules[: len(series.PHASES) - 1])
    joules[-1] = 0.0 if abs(left) < 1e-12 * abs(spent.value) else left
    return {
        phase: Estimate(float(joules[i]), float(stderr[i]), "J", provenance, _methods(splits, i))
        for i, phase in enumerate(series.PHASES)
    }


assert series.PHASES[-1] == "other"


def _methods(splits: Sequence[Split], phase: int) -> str:
    return " + ".join(dict.fromkeys(method for split in splits for method in split.methods[phase]))


def _whole(meter: Meter, leaves: Mapping[str, Split], timeline: Timeline) -> Split:
    """Return the joules of a meter, of which the meters inside it have their own split.

    An error of an inner meter's gain moves joules between it and the rest, whose phases may be others, and leaves
    the sum: to a phase with J of the inner meter's E joules and the share w of the rest's it does J - E·w.
    """
    if not meter.inner:
        return leaves[meter.domain.path]
    rest = leaves[f"rest of {meter.domain}"]
    parts = [_whole(inner, leaves, timeline) for inner in meter.inner]
    left_j = float(rest.joules.sum())
    share = rest.joules / left_j if left_j > 0 else timeline.seconds_by_phase() / timeline.seconds.sum()
    moved = [
        inner.trace.signal.rel_stderr * (part.joules - part.joules.sum() * share)
        for inner, part in zip(meter.inner, parts, strict=True)
    ]
    every = [*parts, rest]
    return Split(
        np.sum([part.joules for part in every], axis=0),
        np.sum([part.variance for part in every], axis=0) + np.sum(np.square(moved), axis=0),
        tuple(tuple(method for part in every for method in part.methods[i]) for i in range(len(series.PHASES))),
        weakest(*(part.provenance for part in every)),
    )


def _split_trace(run: Run, trace: Trace, timeline: Timeline, division: Division | None) -> Split:
    """Return the joules of one trace in each phase.

    The variance has three parts. Within a step: by the model's errors, where its work was counted; else the phases'
    powers above the static power (where it is known) are taken as independent and uniform between zero and twice the
    step's mean, which gives E·f(1-f)·√(2/3) to a phase with the fraction f of the step's seconds; it is the same
    mistake in every step, so it adds linearly and does not average out. At the edges of stretches: see
    :func:`_edge_variance`. Over gaps in the readings: see :func:`_bridge_variance`.
    """
    signal = trace.signal
    own = timeline
    if division:
        own = division.work.timeline
    elif signal.device:
        own = timeline.by_device_time(run, signal.device) or timeline
    clock = "host time" if own is timeline else "device time"
    if signal.device and own is timeline:
        clock += f", as there are no times of {signal.device}"
    timeline = division.timeline if division else own
    shares = timeline.shares
    energy = np.diff(trace.cumulative_j(timeline.edges_s))
    joules = energy @ shares
    static_w = signal.static_w or 0.0
    if division:
        within = division.variance(energy, static_w)
        all_counted = bool(division.used[timeline.kind == STEP].all())
        how = BY_WORK if all_counted else f"{BY_WORK} where it was counted, else {EQUAL_POWER}"
    else:
        dynamic = np.maximum(energy - static_w * timeline.seconds, 0.0)
        # Σ dynamic·f(1-f), without an array of the size of the shares.
        equal = (dynamic @ shares - np.einsum("i,ij,ij->j", dynamic, shares, shares)).clip(min=0.0)
        within, how = (UNIFORM * equal) ** 2, EQUAL_POWER
    methods = tuple((f"{signal.method} by {clock}" + (f", {how}" if w else ""),) for w in within)
    provenance = weakest(Provenance(signal.provenance), Provenance.DERIVED)
    variance = within + _edge_variance(trace, timeline, energy, joules) + _bridge_variance(trace, timeline)
    return Split(joules, variance, methods, provenance)


def _edge_variance(trace: Trace, timeline: Timeline, energy: Array, joules: Array) -> Array:
    """Return, per phase, the variance (J²) of what sampling misses where a stretch of one kind meets another.

    It is the trace's own at those edges, but never more than a power uniform between zero and twice the mean leaves
    open: many short stretches inside a sampling interval are not as uncertain as the interval is.
    """
    begins = timeline.blocks()
    spent = np.add.reduceat(energy, begins)
    by_phase = np.column_stack([np.add.reduceat(energy * share, begins) for share in timeline.shares.T])
    variance = trace.edge_stderr_j(timeline.edges_s[np.append(begins, len(energy))]) ** 2
    part = by_phase / np.where(spent != 0, spent, 1.0)[:, None]
    missed = (variance[:-1] + variance[1:]) @ part**2
    return np.asarray(np.minimum(missed, joules**2 / 3.0 + trace.signal.resolution_j**2))


def _bridge_variance(trace: Trace, timeline: Timeline) -> Array:
    """Return, per phase, the variance (J²) of what was bridged: the whole run's, with the phase's part of that time."""
    duration_s = float(timeline.edges_s[-1])
    if not trace.bridged_j(0.0, duration_s) > 0:
        return np.zeros(len(series.PHASES))
    begin_s, end_s = unread(trace, duration_s).T
    seconds = (timeline.seconds_until(end_s) - timeline.seconds_until(begin_s)).sum(axis=0)
    return np.asarray((float(trace.stderr_j(0.0, duration_s)[0]) * seconds / seconds.sum()) ** 2)
