"""Attribution: the joules of a run by domain, phase, component, module and operator; every sum closes on the total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ergometry.core import series
from ergometry.core.domain import Domain
from ergometry.core.estimate import Estimate, Provenance, total, weakest
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.store.calibration_files import CALIBRATIONS
from ergometry.work import components, counts, device, profiles, rates
from ergometry.work.accounts import Accounts
from ergometry.work.coefficients import Coefficients, Found, parse
from ergometry.work.components import COMPONENTS, Leaf
from ergometry.work.counted import CountedWork, StepRows
from ergometry.work.coverage import coverage
from ergometry.work.division import Division, refine
from ergometry.work.energy_model import EnergyModel
from ergometry.work.health import boards
from ergometry.work.meters import Metering, metering
from ergometry.work.phases import by_phase, split
from ergometry.work.profiles import Item, Profile, Share
from ergometry.work.share import process_share
from ergometry.work.timeline import Timeline

__all__ = ["COMPONENTS", "accounts"]

Traces = Mapping[Domain, Trace]


def accounts(
    run: Run,
    traces: Traces | None = None,
    timeline: Timeline | None = None,
    calibrations: Mapping[str, Found] | None = None,
) -> Accounts:
    """Return the books of a run: energy E = ∫P dt (J) by domain, phase, component and module, work done, and rates.

    Pure: the same run gives the same books. Energies of the domains that cover what was metered add, their errors
    taken as independent; phases and components each sum to that total to rounding.

    Args:
        run: a stored run, in progress or ended.
        traces: ``run.traces()``, where it is at hand (it walks over every sample).
        timeline: ``Timeline.of(run)``, where it is at hand.
        calibrations: by device; None: those that the run itself holds.
    """
    traces = run.traces() if traces is None else traces
    timeline = Timeline.of(run) if timeline is None else timeline
    if calibrations is None:
        held = run.meta.get(CALIBRATIONS)
        calibrations = parse(held) if isinstance(held, Mapping) else {}
    metered = metering(traces, run.duration_s)
    outer = metered.cover()
    spent = _total(run, outer)
    work = counts.work(run)
    seconds = timeline.seconds_by_phase()
    power = counts.mean_power(spent, run.duration_s)
    rows, used = StepRows.of(run), profiles.profiles(run)
    did = profiles.items(used)
    priced = _price(run, timeline, metered, (rows, used), calibrations)
    division = priced.division
    leaves = split(run, metered.meters, timeline, dict.fromkeys(priced.devices, division) if division else {})
    phases = by_phase(metered.meters, leaves, timeline, spent)
    by_component = components.uncalibrated(run, outer, traces, spent)
    by_both: Mapping[str, Mapping[str, Estimate]] = {}
    modules: tuple[Share, ...] = ()
    operators: tuple[Share, ...] = ()
    why = priced.why
    if division and spent.value is not None:
        own = [Leaf(trace, leaves[name], own=True) for name, trace in priced.readings.items()]
        named = [leaf for meter in metered.meters for leaf in meter.leaves()]
        others = [Leaf(trace, leaves[name], own=False) for name, trace in named if name not in priced.readings]
        host = calibrations.get(device.CPU) if device.CPU not in priced.devices else None
        host = (
            host if isinstance(host, Coefficients) and device.calibrated(run, device.CPU, calibrations).found else None
        )
        by_component, by_both = components.calibrated(run, division, [*own, *others], host, seconds, phases, spent)
        modules, operators = _rows(division, own, did)
        why = "" if modules else "the run has no profiles that say what its modules did"
    return Accounts(
        total=spent,
        by_component=by_component,
        by_phase=phases,
        by_domain=_by_domain(run, traces),
        seconds_by_phase={
            phase: Estimate(float(seconds[i]), None, "s", Provenance.MEASURED, "host time")
            for i, phase in enumerate(series.PHASES)
        },
        power=power,
        work=work,
        rates={
            **rates.rates(run, spent, power, work),
            **rates.use(run, rows, did, priced.known, len(priced.devices), priced.why),
        },
        loss=counts.loss(run),
        process=process_share(run, traces),
        coverage=coverage(run, traces, metered, spent),
        boards=boards(run),
        metered=metered,
        components_by_phase=by_both,
        calibration=priced.known,
        model=division.model if division else None,
        items=did,
        by_module=modules,
        by_op=operators,
        attribution_why=why,
        attribution_remarks=priced.remarks,
    )


class _Priced(NamedTuple):
    """What is known of the device that trained: names, readings, calibration, and how its joules are divided."""

    devices: tuple[str, ...]
    readings: Mapping[str, Trace]
    known: Coefficients | None
    division: Division | None
    why: str
    remarks: tuple[str, ...]


def _price(
    run: Run,
    timeline: Timeline,
    metered: Metering,
    counted: tuple[StepRows, Sequence[Profile]],
    calibrations: Mapping[str, Found],
) -> _Priced:
    devices = device.trained_on(run)
    first = devices[0]
    found, why, remarks = device.calibrated(run, first, calibrations)
    if len(devices) > 1 and found is not None:
        remarks = (*remarks, f"the calibration of {first} stands for {', '.join(devices[1:])} too")
    readings = device.readings(metered, devices)
    if found is not None and not readings:
        why = f"{' and '.join(devices)} had no reading of {'their' if len(devices) > 1 else 'its'} own"
    if found is not None and not why and not len(run.table(series.WORK)):
        why = "the work of the run's steps was not counted"
    if found is None or why:
        return _Priced(devices, readings, found, None, why, remarks)
    own = timeline if first == device.CPU else timeline.by_device_time(run, first) or timeline
    work = CountedWork.of(run, own, *counted, len(devices))
    prior = EnergyModel.prior(found, work.dtypes)
    model = refine(prior, work, list(readings.values()), run.duration_s)
    lacking = [dtype for dtype in work.dtypes if dtype not in found.e_flop]
    if lacking:
        said = f"{', '.join(lacking)} was not calibrated: taken to be as dear as the dearest dtype that was"
        remarks = (*remarks, said)
    return _Priced(devices, readings, found, Division.by_model(found, work, model), "", remarks)


def _rows(division: Division, own: Sequence[Leaf], did: Sequence[Item]) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
    """Return the device's joules by module and by operator."""
    edges_s = division.timeline.edges_s
    energy = np.sum([np.diff(leaf.trace.cumulative_j(edges_s)) for leaf in own], axis=0)
    joules, seconds = division.worked(energy)
    sensed = np.sum([leaf.split.joules for leaf in own], axis=0)
    variance = np.sum(
        [leaf.split.variance + (leaf.trace.signal.rel_stderr * leaf.split.joules) ** 2 for leaf in own], axis=0
    )
    relative = np.sqrt(variance) / np.where(sensed > 0, sensed, 1.0)
    known = division.known
    provenance = weakest(known.static_w.provenance, known.e_byte.provenance, *(leaf.split.provenance for leaf in own))
    phases = {
        phase: Estimate(float(joules[i]), float(relative[i] * joules[i]), "J", provenance, "of the device that trained")
        for i, phase in enumerate(series.PHASES)
    }
    took = dict(zip(series.PHASES, map(float, seconds), strict=True))
    modules = profiles.shares(did, phases, division.model, known, profiles.by_module, took)
    return tuple(modules), tuple(profiles.shares(did, phases, division.model, known, profiles.by_op, took))


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
