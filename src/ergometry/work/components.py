"""Components: the joules of a run as static, compute, memory and communication, and a residual that closes the sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.domain import Domain, cover, inside
from ergometry.core.estimate import Estimate, Provenance, total, weakest
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.work.coefficients import Coefficients
from ergometry.work.coverage import is_memory
from ergometry.work.division import Division
from ergometry.work.energy_model import components
from ergometry.work.phases import Split
from ergometry.work.roofline import LINK

Array = npt.NDArray[np.float64]
Traces = Mapping[Domain, Trace]

COMPONENTS = ("static", "compute", "memory", "communication", "residual")

NO_COLLECTIVES = "one process: no collectives"


def uncalibrated(run: Run, outer: Traces, traces: Traces, spent: Estimate) -> dict[str, Estimate]:
    """Return J by component where no work can be priced: idle power and metered memory, the rest residual."""
    found = {
        "static": _static(run, outer, traces),
        "compute": Estimate.unknown("J", "needs calibrated joules per FLOP"),
        "memory": _memory(run, traces),
        "communication": Estimate(0.0, 0.0, "J", Provenance.DERIVED, NO_COLLECTIVES),
    }
    if np.any(run.table(series.WORK)["communication_bytes"] > 0):
        found["communication"] = Estimate.unknown("J", "needs calibrated joules per byte between devices")
    if spent.value is None:
        return {**found, "residual": Estimate.unknown("J", spent.why)}
    known = [name for name, part in found.items() if part.known and name != "communication"]
    method = f"total less {' and '.join(known)}" if known else "the total: no component is known"
    if "static" in known:
        method += "; dynamic energy not yet split into compute and memory"
    residual = total([spent, *(-part for part in found.values() if part.known)], method=method)
    return {**found, "residual": replace(residual, provenance=weakest(residual.provenance, Provenance.DERIVED))}


class Leaf(NamedTuple):
    """One reading of the total, how it falls into phases, and whether it is of the device that trained."""

    trace: Trace
    split: Split
    own: bool


def calibrated(
    run: Run,
    division: Division,
    leaves: Sequence[Leaf],
    host: Coefficients | None,
    seconds: Array,
    phases: Mapping[str, Estimate],
    spent: Estimate,
) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Return J by component, and by phase and component, with the work of the device that trained priced by its model.

    Of the other readings, the host's beside an accelerator, what is known goes to static (idle power) and to memory;
    the rest is residual. The residual is the total less the others, in each phase too, so that every sum closes.

    Args:
        run: the run.
        division: of the device's joules.
        leaves: the readings; together they are the total.
        host: the processor's calibration, for its idle power beside an accelerator.
        seconds: (6,) of the run by phase, by host time.
        phases: J by phase, which sum to ``spent``.
        spent: the total.
    """
    books = _Books(run.duration_s)
    books.price(division, [leaf for leaf in leaves if leaf.own])
    others = [leaf for leaf in leaves if not leaf.own]
    processors = [leaf for leaf in others if _of_processor(leaf)]
    if host is not None and host.static_w.value is not None and processors:
        books.idle(processors, host.static_w.value, host.static_w.stderr or 0.0, seconds, "calibrated idle of the host")
        others = [leaf for leaf in others if not _of_processor(leaf)]
    for leaf in others:
        books.other(leaf, seconds)
    unpriced = _unpriced(run, division)
    parts = [component for component in COMPONENTS[:-1] if component != "communication" or not unpriced]
    provenance = weakest(
        spent.provenance, division.known.static_w.provenance, division.known.e_byte.provenance, Provenance.DERIVED
    )
    by_component = books.estimates(parts, None, provenance)
    closing = total([spent, *(-part for part in by_component.values())], method=books.closing())
    by_component["residual"] = replace(closing, stderr=math.sqrt(books.residual_var), provenance=provenance)
    by_phase = {}
    for i, phase in enumerate(series.PHASES):
        each = books.estimates(parts, i, provenance)
        rest = total([phases[phase], *(-part for part in each.values())], method="what is left of the phase")
        by_phase[phase] = {**each, "residual": replace(rest, provenance=weakest(provenance, rest.provenance))}
    for table in (by_component, *by_phase.values()):
        if unpriced:
            table["communication"] = Estimate.unknown("J", unpriced)
    ordered = {phase: {c: table[c] for c in COMPONENTS} for phase, table in by_phase.items()}
    return {component: by_component[component] for component in COMPONENTS}, ordered


class _Books:
    """Joules (6,) by phase of each component, their variances (J²) by phase and of the whole, and how."""

    def __init__(self, duration_s: float) -> None:
        self.duration_s = duration_s
        self.joules = {component: np.zeros(len(series.PHASES)) for component in COMPONENTS}
        self.variance = {component: np.zeros(len(series.PHASES)) for component in COMPONENTS}
        self.whole = dict.fromkeys(COMPONENTS, 0.0)
        self.methods: dict[str, dict[str, None]] = {component: {} for component in COMPONENTS}
        self.residual_var = 0.0
        self.unmodelled: list[str] = []

    def add(self, component: str, joules: Array, variance: Array, whole: float, method: str) -> None:
        self.joules[component] = self.joules[component] + joules
        self.variance[component] = self.variance[component] + variance
        self.whole[component] += whole
        self.methods[component][method] = None

    def price(self, division: Division, own: Sequence[Leaf]) -> None:
        """Book the work of the device by its model. The gain of its sensors scales all parts alike."""
        model, work = division.model, division.work_by_phase
        spent = [leaf.split.joules.sum() for leaf in own]
        sensed_j = math.fsum(spent)
        gained_j = math.hypot(*(leaf.trace.signal.rel_stderr * j for leaf, j in zip(own, spent, strict=True)))
        gain = gained_j / sensed_j if sensed_j > 0 else 0.0
        whole = components(model, work.sum(axis=0))
        for component, (joules, stderr) in components(model, work).items():
            of_run, of_run_stderr = whole[component]
            how = "calibrated static power × duration" if component == "static" else "calibrated energy × counted work"
            self.add(
                component,
                joules,
                stderr**2 + (gain * joules) ** 2,
                float(of_run_stderr**2 + (gain * of_run) ** 2),
                f"{how}, refined by the run's windows",
            )
        priced_j = math.fsum(float(joules) for joules, _ in whole.values())
        self.residual_var += self._sensed_var(own) + float(model.stderr_j(work.sum(axis=0))) ** 2
        self.residual_var += (gain * (sensed_j - priced_j)) ** 2

    def idle(self, leaves: Sequence[Leaf], power_w: float, stderr_w: float, seconds: Array, method: str) -> None:
        """Book the idle power of what did not train as static; what it used beyond that stays residual."""
        variance = (stderr_w * seconds) ** 2
        whole = (stderr_w * self.duration_s) ** 2
        self.add("static", power_w * seconds, variance, whole, method)
        self.residual_var += self._sensed_var(leaves) + whole
        left = math.fsum(leaf.split.joules.sum() for leaf in leaves) - power_w * self.duration_s
        self.residual_var += (max(leaf.trace.signal.rel_stderr for leaf in leaves) * left) ** 2
        self.unmodelled += [leaf.trace.signal.domain for leaf in leaves]

    def other(self, leaf: Leaf, seconds: Array) -> None:
        """Book what is known of a reading beside the device's: memory whole, of others the idle power."""
        signal, split = leaf.trace.signal, leaf.split
        own_var = self._sensed_var([leaf])
        if _of_memory(leaf.trace):
            gained = (signal.rel_stderr * split.joules) ** 2
            whole = own_var + (signal.rel_stderr * float(split.joules.sum())) ** 2
            self.add("memory", split.joules, split.variance + gained, whole, signal.method)
        elif signal.static_w is not None:
            stderr_w = signal.static_w * (signal.static_rel_stderr or 0.0)
            self.idle([leaf], signal.static_w, stderr_w, seconds, f"idle power of {signal.domain} × duration")
        else:
            self.residual_var += own_var + (signal.rel_stderr * float(split.joules.sum())) ** 2
            self.unmodelled.append(signal.domain)

    def estimates(self, parts: Sequence[str], phase: int | None, provenance: Provenance) -> dict[str, Estimate]:
        """Return the components of one phase, or of the whole run."""
        found = {}
        for part in parts:
            value = self.joules[part].sum() if phase is None else self.joules[part][phase]
            variance = self.whole[part] if phase is None else self.variance[part][phase]
            method = " + ".join(self.methods[part]) or NO_COLLECTIVES
            found[part] = Estimate(float(value), math.sqrt(max(variance, 0.0)), "J", provenance, method)
        return found

    def closing(self) -> str:
        """Say what the residual is."""
        beside = ", ".join(dict.fromkeys(self.unmodelled))
        return "total less all other components" + (f"; with what is not modelled of {beside}" if beside else "")

    def _sensed_var(self, leaves: Sequence[Leaf]) -> float:
        return math.fsum(float(leaf.trace.stderr_j(0.0, self.duration_s)[0]) ** 2 for leaf in leaves)


def _of_processor(leaf: Leaf) -> bool:
    return not leaf.trace.signal.device and not _of_memory(leaf.trace)


def _of_memory(trace: Trace) -> bool:
    return is_memory(Domain(trace.signal.domain))


def _unpriced(run: Run, division: Division) -> str:
    """Return why the joules of communication are not known, '' where they are, or there was none."""
    if LINK in division.model.names:
        return ""
    sent = run.table(series.WORK)["communication_bytes"]
    if not np.any(sent > 0):
        return ""
    return "needs joules per byte between devices: torchrun --nproc-per-node=N -m ergometry calibrate"


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
