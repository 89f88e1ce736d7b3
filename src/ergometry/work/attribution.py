"""Attribution: the joules of a run by domain, phase and component, each sum closing on the total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ergometry.core import series
from ergometry.core.domain import Domain, cover, inside
from ergometry.core.estimate import Estimate, Provenance, total, weakest
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.work import counts
from ergometry.work.accounts import Accounts
from ergometry.work.coverage import coverage, is_memory
from ergometry.work.health import boards
from ergometry.work.meters import metering
from ergometry.work.phases import by_phase
from ergometry.work.share import process_share
from ergometry.work.timeline import Timeline

Traces = Mapping[Domain, Trace]

COMPONENTS = ("static", "compute", "memory", "communication", "residual")


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
    metered = metering(traces, run.duration_s)
    outer = metered.cover()
    spent = _total(run, outer)
    work = counts.work(run)
    seconds = timeline.seconds_by_phase()
    power = counts.mean_power(spent, run.duration_s)
    return Accounts(
        total=spent,
        by_component=_by_component(run, outer, traces, spent),
        by_phase=by_phase(run, metered.meters, timeline, spent),
        by_domain=_by_domain(run, traces),
        seconds_by_phase={
            phase: Estimate(float(seconds[i]), None, "s", Provenance.MEASURED, "host time")
            for i, phase in enumerate(series.PHASES)
        },
        power=power,
        work=work,
        rates=counts.rates(run, spent, power, work),
        loss=counts.loss(run),
        process=process_share(run, traces),
        coverage=coverage(run, traces, metered, spent),
        boards=boards(run),
        metered=metered,
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


def _by_component(run: Run, outer: Traces, traces: Traces, spent: Estimate) -> dict[str, Estimate]:
    """Return J by component; the residual is the total less the components that are known."""
    memory = _memory(run, traces)
    found = {
        "static": _static(run, outer, traces),
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


def _static(run: Run, outer: Traces, traces: Traces) -> Estimate:
    """Return the static energy, idle power × duration, of the domains other than memory."""
    parts = {domain: trace.signal for domain, trace in outer.items() if not is_memory(domain)}
    lacking = [domain.path for domain, signal in parts.items() if signal.static_w is None]
    if lacking or not parts:
        return Estimate.unknown("J", "needs a calibrated idle power" + (f" of {', '.join(lacking)}" if lacking else ""))
    mixed = [str(domain) for domain in parts if any(map(is_memory, inside(traces, domain)))]
    if mixed:
        return Estimate.unknown("J", f"the idle power of {', '.join(mixed)} has that of memory in it, which is metered")
    terms = []
    for signal in parts.values():
        value = (signal.static_w or 0.0) * run.duration_s
        stderr = None if signal.static_rel_stderr is None else value * signal.static_rel_stderr
        terms.append(Estimate(value, stderr, "J", Provenance.MODELLED, f"idle power of {signal.domain} × duration"))
    return total(terms)


def _memory(run: Run, traces: Traces) -> Estimate:
    """Return the joules of memory, of the node and of boards, measured or modelled."""
    parts = cover({domain: trace for domain, trace in traces.items() if is_memory(domain)})
    if not parts:
        return Estimate.unknown("J", "no memory domain (RAPL dram) is metered; else needs calibrated joules per byte")
    return total(trace.energy(0.0, run.duration_s) for trace in parts.values())
