"""The device that trained: its name, its readings, and the calibration that may be used for it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ergometry.core import series
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.work.coefficients import Coefficients, Found
from ergometry.work.meters import Metering
from ergometry.work.timeline import device_number

CPU = "cpu"

_MOST_BOARDS = 1 << 12

OLD_DAYS = 90
"""A calibration that is older than this when the run starts is remarked on."""


class Calibrated(NamedTuple):
    """The calibration of a device, None where none can be used; why not; and what to know of it."""

    found: Coefficients | None
    why: str
    remarks: tuple[str, ...] = ()


def trained_on(run: Run) -> tuple[str, ...]:
    """Return the torch devices that a run trained on: ``("cpu",)``, or accelerators.

    An accelerator is one whose own time was taken, else one whose memory was; its name is that of its signal.
    """
    for table in (series.DEVICE_STEPS, series.MEMORY):
        column = run.table(table)["device"]
        numbers = np.flatnonzero(np.bincount(column[(column >= 0) & (column < _MOST_BOARDS)].astype(np.int64))).tolist()
        if numbers:
            break
    else:
        if all(str(name) == CPU for name in run.meta.get("devices") or ()):
            return (CPU,)
        numbers = [0]
    names = {device_number(s.device): s.device for samples in run.samples for s in samples.signals if s.device}
    return tuple(names.get(number, f"cuda:{number}") for number in numbers)


def readings(metered: Metering, devices: tuple[str, ...]) -> dict[str, Trace]:
    """Return the leaves of a run's meters that are a device's, by name. All leaves together are the total.

    The processor's are those of no other device: packages, memory, and what a meter of the whole node leaves.
    """
    wanted = {"" if device == CPU else device for device in devices}
    leaves = [leaf for meter in metered.meters for leaf in meter.leaves()]
    return {name: trace for name, trace in leaves if trace.signal.device in wanted}


def calibrated(run: Run, device: str, calibrations: Mapping[str, Found]) -> Calibrated:
    """Return the calibration of a device for a run, if it is of the same board of the same machine."""
    remedy = f"erg calibrate --device {device}"
    found = calibrations.get(device)
    if found is None:
        return Calibrated(None, f"needs a calibration of {device}: {remedy}")
    if not isinstance(found, Coefficients):
        return Calibrated(None, f"the calibration of {device} cannot be used: {found}")
    machine = run.meta.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    board = machine.get("cpu_model") if device == CPU else next(iter(run.meta.get("devices") or ()), None)
    for kind, own, its in (("machine", machine.get("identity"), found.machine), ("board", board, found.board)):
        if own and its and str(own) != its and not (kind == "board" and str(own) == device):
            return Calibrated(
                None, f"the calibration of {device} is of another {kind}, {its}, not of {own}: calibrate this, {remedy}"
            )
    return Calibrated(found, "", tuple(_remarks(run, found, remedy)))


def _remarks(run: Run, found: Coefficients, remedy: str) -> list[str]:
    """Return in what a calibration's conditions differ from the run's, a line each."""
    said = []
    conditions: Mapping[str, Any] = found.conditions
    threads, own = conditions.get("threads"), run.meta.get("threads")
    if threads and own and threads != own:
        said.append(f"the calibration ran with {threads} threads of torch, the run with {own}: calibrate with as many")
    widened = conditions.get("widened")
    if isinstance(widened, (int, float)) and widened > 1.0:
        said.append(
            f"the machine was busy while it was calibrated, errors are {widened:.2g} times as wide for it: {remedy}"
        )
    days = _days(found.date, run.meta.get("started"))
    if days > OLD_DAYS:
        said.append(f"the calibration was {days:.0f} days old when the run started: {remedy}")
    return said


def _days(then: str, now: Any) -> float:
    """Return the days between two ISO times, 0 where one is none."""
    try:
        times = [datetime.datetime.fromisoformat(str(text)) for text in (then, now)]
    except ValueError:
        return 0.0
    early, late = (time if time.tzinfo else time.replace(tzinfo=datetime.UTC) for time in times)
    return (late - early).total_seconds() / 86400.0
