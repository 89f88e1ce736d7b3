"""Attribution: the joules of a run by domain, phase and component, each sum closing on the total."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.domain import Domain, cover
from ergometry.core.estimate import Estimate, Provenance, total, weakest
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.work import counts
from ergometry.work.accounts import Accounts
from ergometry.work.timeline import Timeline

Array = npt.NDArray[np.float64]
Traces = Mapping[Domain, Trace]

COMPONENTS = ("static", "compute", "memory", "communication", "residual")

EQUAL_POWER = "power assumed equal across the phases of a step"


def accounts(run: Run, traces: Traces | None = None, timeline: Timeline | None = None) -> Accounts:
    """Return the books of a run: energy E = ∫P dt (J) by domain, phase and component, work done, and rates.

    Pure: the same run gives the same books. Energies of the domains that cover what was metered add, their errors
    taken as independent; phases and components each sum to that total to rounding.

    Args:
        run: a stored run, in progress or ended.
        traces: ``run.traces()``, where it is at hand (it walks over every sample).
        timeline: ``Timeline.of(run)``, where it is at hand.
    """
    traces = run.traces() if traces is None else traces
    timeline = Timeline.of(run) if timeline is None else timeline
    outer = cover(traces)
    spent = _total(run, outer)
    work = counts.work(run)
    seconds = timeline.seconds_by_phase()
    power = counts.mean_power(spent, run.duration_s)
    return Accounts(
        total=spent,
        by_component=_by_component(run, outer, traces, spent),
        by_phase=_by_phase(run, outer, timeline, spent),
        by_domain=_by_domain(run, traces),
        seconds_by_phase={
            phase: Estimate(float(seconds[i]), None, "s", Provenance.MEASURED, "host time")
            for i, phase in enumerate(series.PHASES)
        },
        power=power,
        work=work,
        rates=counts.rates(run, spent, power, work),
        loss=counts.loss(run),
    )


def _total(run: Run, outer: Traces) -> Estimate:
    if outer:
        return total(trace.energy(0.0, run.duration_s) for trace in outer.values())
    if run.samples:
        return Estimate.unknown("J", "needs at least two samples of a power source: the run was too short")
    return Estimate.unknown("J", "no power source was read; erg doctor says which there are, and how to open them")


def _by_domain(run: Run, traces: Traces) -> dict[str, Estimate]:
    signals = {signal.domain: signal for samples in run.samples for signal in samples.signals}
    missing = "fewer than two usable samples"
    found = {
        path: Estimate.unknown("J", missing, Provenance(signal.provenance))
        for path, signal in signals.items()
        if Domain(path) not in traces
    }
    found.update((domain.path, trace.energy(0.0, run.duration_s)) for domain, trace in traces.items())
    return dict(sorted(found.items()))


def _by_phase(run: Run, outer: Traces, timeline: Timeline, spent: Estimate) -> dict[str, Estimate]:
    """Return J by phase: Σ over stretches of the trace's energy × the phase's share of the seconds."""
    if spent.value is None:
        return {phase: Estimate.unknown("J", spent.why) for phase in series.PHASES}
    splits = [_split(run, trace, timeline) for trace in outer.values()]
    phases = {phase: total(split[i] for split in splits) for i, phase in enumerate(series.PHASES)}
    others = math.fsum(phases[p].value or 0.0 for p in series.PHASES if p != "other")
    left = spent.value - others
    left = 0.0 if abs(left) < 1e-12 * abs(spent.value) else left
    return {**phases, "other": replace(phases["other"], value=left)}


def _split(run: Run, trace: Trace, timeline: Timeline) -> list[Estimate]:
    """Return the joules of one domain in each phase.

    The standard error has three parts. Within a step: the phases' powers above the static power (where it is known)
    are taken as independent and uniform between zero and twice the step's mean, which gives E·f(1-f)·√(2/3) to a
    phase with the fraction f of the step's seconds; it is the same mistake in every step, so it adds linearly and
    does not average out. At the edges of stretches: see :func:`_edge_variance`. And the relative error that all
    windows of the domain share.
    """
    signal = trace.signal
    by_device = timeline.by_device_time(run, signal.device) if signal.device else None
    clock = "device time" if by_device else "host time"
    if signal.device and by_device is None:
        clock += f", as there are no times of {signal.device}"
    timeline = by_device or timeline
    shares = timeline.shares
    energy = np.diff(trace.cumulative_j(timeline.edges_s))
    joules = energy @ shares
    dynamic = np.maximum(energy - (signal.static_w or 0.0) * timeline.seconds, 0.0)
    # Σ dynamic·f(1-f), without an array of the size of the shares.
    within = math.sqrt(2 / 3) * (dynamic @ shares - np.einsum("i,ij,ij->j", dynamic, shares, shares)).clip(min=0.0)
    stderr = np.sqrt(within**2 + _edge_variance(trace, timeline, energy, joules) + (signal.rel_stderr * joules) ** 2)
    provenance = weakest(Provenance(signal.provenance), Provenance.DERIVED)
    methods = [f"{signal.method} by {clock}" + (f", {EQUAL_POWER}" if w else "") for w in within]
    columns = zip(joules, stderr, methods, strict=True)
    return [Estimate(float(j), float(s), "J", provenance, method) for j, s, method in columns]


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


def _by_component(run: Run, outer: Traces, traces: Traces, spent: Estimate) -> dict[str, Estimate]:
    """Return J by component; the residual is the total less the components that are known."""
    memory = _memory(run, traces)
    found = {
        "static": _static(run, outer),
        "compute": Estimate.unknown("J", "needs calibrated joules per FLOP"),
        "memory": memory,
        "communication": Estimate(0.0, 0.0, "J", Provenance.DERIVED, "one process: no collectives"),
    }
    if spent.value is None:
        return {**found, "residual": Estimate.unknown("J", spent.why)}
    known = [name for name, part in found.items() if part.known and name != "communication"]
    method = f"total less {' and '.join(known)}" if known else "the total: no component is known"
    if "static" in known:
        method += "; dynamic energy not yet split into compute and memory"
    residual = total([spent, *(-part for part in found.values() if part.known)], method=method)
    return {**found, "residual": replace(residual, provenance=weakest(residual.provenance, Provenance.DERIVED))}


def is_memory(domain: Domain) -> bool:
    """Say whether a domain is memory: a part of its path begins with ``dram``."""
    return any(part.startswith("dram") for part in domain.path.split("/"))


def _static(run: Run, outer: Traces) -> Estimate:
    """Return the static energy, idle power × duration, of the domains other than memory."""
    parts = {domain: trace.signal for domain, trace in outer.items() if not is_memory(domain)}
    lacking = [domain.path for domain, signal in parts.items() if signal.static_w is None]
    if lacking or not parts:
        return Estimate.unknown("J", "needs a calibrated idle power" + (f" of {', '.join(lacking)}" if lacking else ""))
    terms = []
    for signal in parts.values():
        value = (signal.static_w or 0.0) * run.duration_s
        stderr = None if signal.static_rel_stderr is None else value * signal.static_rel_stderr
        terms.append(Estimate(value, stderr, "J", Provenance.MODELLED, f"idle power of {signal.domain} × duration"))
    return total(terms)


def _memory(run: Run, traces: Traces) -> Estimate:
    drams = cover({domain: trace for domain, trace in traces.items() if is_memory(domain)})
    if not drams:
        return Estimate.unknown("J", "no memory domain (RAPL dram) is metered; else needs calibrated joules per byte")
    return total(trace.energy(0.0, run.duration_s) for trace in drams.values())
