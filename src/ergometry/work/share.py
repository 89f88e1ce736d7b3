"""This process's share: how much of a machine's joules belongs to the measured process tree, beside the whole.

No sensor meters a process. The share is modelled from what the recorder saw of the tree and of the machine:

* **processors** (package, psys, cpu, and whatever holds them and is not split further): of the joules between two
  samples, the tree's part of the machine's busy time between them;
* **accelerators**: the tree's part of the board's utilisation; the whole board where that is not known;
* **memory**: resident size over installed size, at each sample.

The static part of the power, which is there whoever runs, goes by the same part as the rest: the only process on a
machine gets all of it. How it should be shared is a matter of rule, from none of it to all, and that is in the error:
S·√(s(1-s)/3) for a share s of the static joules S, which is what a uniform choice between both ends leaves open at
s = ½, and zero where the process is alone or absent. What is dynamic may cost more in a busy second of one process
than in one of another: D·s(1-s)·:data:`INTENSITY_LOG_SD`. Both are one mistake all along the run, and add linearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.domain import Domain
from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run, Table
from ergometry.core.trace import Trace
from ergometry.sensors.cgroup import BY_LIMIT
from ergometry.work.meters import Meter, metering

Array = npt.NDArray[np.float64]

INTENSITY_LOG_SD = 0.5
"""Assumed standard deviation of log(dynamic power per busy second) among processes: a factor of 1.6. On the public
load sweeps (:mod:`ergometry.sensors.cpu_model`) a core's second thread draws a third of what its first does."""

_STRETCHES = 10
"""Where static power is not known, it is taken as the least mean power among so many equal parts of the run."""


class Shares(NamedTuple):
    """A share over time: ``share[i]`` holds from ``t_s[i-1]`` to ``t_s[i]``, the first and the last beyond them too.

    ``rule`` says what it was taken from. NaN: nobody used anything then, and the rest of the run decides.
    """

    t_s: Array
    share: Array
    rule: str


class Unknown(NamedTuple):
    """No share is known, and why."""

    why: str


def process_share(run: Run, traces: Mapping[Domain, Trace] | None = None) -> Estimate:
    """Return the energy of the measured process tree, J: a modelled part of the run's total, never more than it.

    Args:
        run: a stored run, in progress or ended.
        traces: ``run.traces()``, where it is at hand.

    Returns:
        The sum of :func:`process_shares`, their errors added linearly; unknown with the reason where one is.
    """
    parts = process_shares(run, traces)
    if not parts:
        why = "needs at least two samples of a power source"
        return Estimate.unknown("J", why if run.samples else "no power source was read", Provenance.MODELLED)
    return total(parts.values(), correlated=True)


def process_shares(run: Run, traces: Mapping[Domain, Trace] | None = None) -> dict[str, Estimate]:
    """Return the tree's part of each reading that makes up the run's total, J, by domain.

    Args:
        run: a stored run, in progress or ended.
        traces: ``run.traces()``, where it is at hand.
    """
    meters = metering(run.traces() if traces is None else traces, run.duration_s).meters
    busy = busy_shares(run)
    return {meter.domain.path: _of_meter(run, meter, busy) for meter in meters}


def busy_shares(run: Run) -> Shares | Unknown:
    """Return the tree's part of the machine's busy processor time between samples.

    Time of a process that was met late is seen all at once: what exceeds the machine's own is moved to before.
    """
    table = run.table(series.PROCESS)
    if "machine_busy_s" not in table.columns or not np.isfinite(table["machine_busy_s"]).any():
        return Unknown("needs the machine's busy time beside the process's, which this run does not hold")
    rows = _finite(table, "t_s", "cpu_s", "machine_busy_s")
    if len(rows) < 2:
        return Unknown("needs two samples of the process's processor time")
    t_s = rows[:, 0]
    cpu_s, busy_s = np.maximum.accumulate(rows[:, 1:]).T
    # The largest curve that ends with the tree's time and nowhere rises faster than the machine's.
    cpu_s = busy_s + np.maximum.accumulate((cpu_s - busy_s)[::-1])[::-1]
    return Shares(t_s[1:], _ratio(np.diff(cpu_s), np.diff(busy_s)), "processors by busy time")


def resident_shares(run: Run) -> Shares | Unknown:
    """Return the tree's resident size over the machine's memory, at each sample; pages shared by two count for each."""
    size_bytes = (run.meta.get("machine") or {}).get("memory_bytes")
    rows = _finite(run.table(series.PROCESS), "t_s", "rss_bytes")
    if not size_bytes or not len(rows):
        return Unknown("needs the process's resident size and the machine's memory")
    return Shares(rows[:, 0], np.clip(rows[:, 1] / size_bytes, 0.0, 1.0), "memory by resident size")


def board_shares(run: Run, board: int) -> Shares:
    """Return the tree's part of a board's utilisation; all of it where the two are not known, or nobody used it."""
    rows = _finite(run.table(series.HEALTH), "t_s", "process_utilisation", "utilisation", "board")
    rows = rows[rows[:, 3] == board]
    if not len(rows):
        return Shares(np.zeros(1), np.ones(1), f"gpu{board} whole, others' use of it not known")
    share = _ratio(rows[:, 1], rows[:, 2])
    if np.isnan(share).all():
        return Shares(np.zeros(1), np.ones(1), f"gpu{board} whole, as nobody used it")
    return Shares(rows[:, 0], share, "boards by utilisation")


def _of_meter(run: Run, meter: Meter, busy: Shares | Unknown) -> Estimate:
    """Return the tree's part of one meter: of the parts inside it each by its rule, of the rest as of these."""
    if not meter.inner:
        return _of_trace(run, meter.domain, meter.trace, busy)
    parts = total((_of_meter(run, inner, busy) for inner in meter.inner), correlated=True)
    if parts.value is None:
        return parts
    inner_j = math.fsum(_joules(inner.trace, run.duration_s) for inner in meter.inner)
    rest = meter.rest.energy(0.0, run.duration_s)
    share = np.array([min(parts.value / inner_j, 1.0) if inner_j > 0 else 1.0])
    value, open_j = (rest.value or 0.0) * float(share[0]), (rest.value or 0.0) * float(_open_share(share)[0])
    stderr = math.hypot(open_j, (rest.stderr or 0.0) * float(share[0]))
    rule = f"rest of {meter.domain} as what is in it"
    return total([parts, Estimate(value, stderr, "J", Provenance.MODELLED, rule)], correlated=True)


def _of_trace(run: Run, domain: Domain, trace: Trace, busy: Shares | Unknown) -> Estimate:
    if BY_LIMIT in trace.signal.method:
        rule = "the container's share whole, taken as this process's own"
        return _split(run, trace, Shares(np.zeros(1), np.ones(1), rule))
    for part in domain.path.split("/")[1:]:
        if part.startswith("gpu"):
            number = part.removeprefix("gpu").partition(":")[0]
            return _split(run, trace, board_shares(run, int(number) if number.isdecimal() else -1))
        if part.startswith("dram"):
            resident = resident_shares(run)
            if isinstance(resident, Shares):
                return _split(run, trace, resident, static=True)
    return _split(run, trace, busy)


def _split(run: Run, trace: Trace, shares: Shares | Unknown, *, static: bool = False) -> Estimate:
    """Return Σ s·E over the stretches between samples, with the error that the module's text gives.

    Args:
        run: the run.
        trace: the joules to share.
        shares: the share over time.
        static: all of the joules are; else what the trace's signal says of static power, or the least power seen.
    """
    if isinstance(shares, Unknown):
        return Estimate.unknown("J", shares.why, Provenance.MODELLED)
    inside = (shares.t_s > 0) & (shares.t_s < run.duration_s)
    edges_s = np.concatenate(([0.0], shares.t_s[inside], [run.duration_s]))
    # The stretch that ends with the run belongs to the first sample at or after its end, or to the last.
    last = min(int(np.searchsorted(shares.t_s, run.duration_s)), len(shares.share) - 1)
    share = np.append(shares.share[inside], shares.share[last])
    energy_j = np.diff(trace.cumulative_j(edges_s))
    known = np.isfinite(share)
    known_j = float(energy_j[known].sum())
    share = np.where(known, share, float(energy_j[known] @ share[known]) / known_j if known_j > 0 else 1.0)
    static_j = energy_j if static else np.minimum(energy_j, np.diff(edges_s) * _static_w(run, trace))
    whole = trace.energy(0.0, run.duration_s)
    value = min(float(energy_j @ share), float(energy_j.sum()))
    open_j = static_j @ _open_share(share) + INTENSITY_LOG_SD * (energy_j - static_j) @ (share * (1.0 - share))
    metered_j = value * whole.stderr / whole.value if whole.value and whole.stderr else 0.0
    return Estimate(value, math.hypot(float(open_j), metered_j), "J", Provenance.MODELLED, shares.rule)


def _static_w(run: Run, trace: Trace) -> float:
    if trace.signal.static_w is not None or run.duration_s <= 0:
        return max(trace.signal.static_w or 0.0, 0.0)
    return max(float(trace.power_w(np.linspace(0.0, run.duration_s, _STRETCHES + 1)).min()), 0.0)


def _open_share(share: Array) -> Array:
    """Return the standard error that a matter of rule leaves in a share."""
    return np.asarray(np.sqrt(share * (1.0 - share) / 3.0))


def _ratio(part: Array, whole: Array) -> Array:
    """Return part / whole within 0 to 1; NaN where the whole is nothing."""
    ratio = np.full(len(whole), np.nan)
    used = whole > 0
    ratio[used] = part[used] / whole[used]
    return np.asarray(ratio.clip(0.0, 1.0))


def _finite(table: Table, *columns: str) -> Array:
    """Return the rows of some columns in which all of them are known."""
    if not set(columns) <= set(table.columns):
        return np.empty((0, len(columns)))
    rows = np.column_stack([table[column] for column in columns])
    return np.asarray(rows[np.isfinite(rows).all(axis=1)])


def _joules(trace: Trace, duration_s: float) -> float:
    return float(np.diff(trace.cumulative_j([0.0, duration_s]))[0])
