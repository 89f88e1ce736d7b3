"""Priced work: what a run's FLOP and bytes cost by its calibrated model, for the equations that ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance, weakest
from ergometry.core.run import Run
from ergometry.core.series import STEPS
from ergometry.work.accounts import Accounts
from ergometry.work.profiles import Item, seconds_of
from ergometry.work.roofline import BYTE

TRAINING = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Priced:
    """What the work of a training step costs on the device that trained.

    Attributes:
        e_flop: J/flop, of the mix of dtypes that ran.
        e_byte: J/byte.
        flop_per_step: flop/step, all operators, as executed.
        bytes_per_step: byte/step.
        parameter_bytes: byte/step, of weights, gradients and optimizer state.
        e0d: J/step, dynamic energy that goes with the steps: the update; the weights' traffic, unless gradients are
            accumulated.
        e1d: J/example, dynamic energy that goes with the examples.
        e0d_memory: J/step, memory's part of e0d.
        e1d_memory: J/example, memory's part of e1d.
        roofline: s/step at least, by the calibrated peaks.
        tau0: s/step at the peaks, of what goes with the steps.
        tau1: s/example at the peaks, of what goes with the examples.
    """

    e_flop: Estimate
    e_byte: Estimate
    flop_per_step: Estimate
    bytes_per_step: Estimate
    parameter_bytes: Estimate
    e0d: Estimate
    e1d: Estimate
    e0d_memory: Estimate
    e1d_memory: Estimate
    roofline: Estimate
    tau0: Estimate
    tau1: Estimate


def combined(formula: Callable[..., object], inputs: Sequence[Estimate], unit: str, method: str) -> Estimate:
    """Return a formula's value in a unit, with the error that its inputs', taken as independent, leave in it.

    >>> one = Estimate(3.0, 0.3, "W", Provenance.MEASURED)
    >>> print(combined(lambda a, b: a * b, [one, Estimate(2.0, 0.0, "s")], "J", "P t"))
    6 ± 0.6 J (derived: P t)
    """
    provenance = weakest(Provenance.DERIVED, *(x.provenance for x in inputs))
    values = [x.value for x in inputs if x.value is not None]
    if len(values) < len(inputs):
        return Estimate.unknown(unit, next(x.why for x in inputs if x.value is None), provenance)
    with np.errstate(all="ignore"):
        value = float(formula(*map(np.float64, values)))  # type: ignore[arg-type]
        slopes = [_moved(formula, values, i, x.stderr) for i, x in enumerate(inputs)]
    if not math.isfinite(value):
        return Estimate.unknown(
            unit, "the formula has no finite value: an input is zero, of the wrong sign, or not finite", provenance
        )
    return Estimate(value, math.hypot(*slopes), unit, provenance, method)


def _moved(formula: Callable[..., object], values: list[float], i: int, stderr: float | None) -> float:
    """Return by how much one input's error moves a formula: half of the difference from one side to the other."""
    if not stderr:
        return 0.0
    ends = [float(formula(*map(np.float64, [*values[:i], x, *values[i + 1 :]]))) for x in _around(values[i], stderr)]  # type: ignore[arg-type]
    moved = 0.5 * abs(ends[1] - ends[0])
    return moved if math.isfinite(moved) else math.inf


def _around(value: float, stderr: float) -> tuple[float, float]:
    return value - stderr, value + stderr


def read_priced(run: Run, accounts: Accounts) -> Priced | None:
    """Return what a step's work costs; None where the device is not calibrated, or the run's work was not counted."""
    model, known, steps = accounts.model, accounts.calibration, accounts.work["steps"].value
    did = [item for item in accounts.items if item.phase in TRAINING]
    if model is None or known is None or not did or not steps:
        return None
    names = {name: i for i, name in enumerate(model.names)}

    def relative(component: str) -> float:
        part = accounts.by_component[component]
        return (part.stderr or 0.0) / part.value if part.value else 0.0

    provenance = weakest(accounts.by_component["compute"].provenance, Provenance.DERIVED)

    def price(flops_of: Sequence[Item], moved: float) -> tuple[float, float]:
        memory = moved * float(model.values[names[BYTE]])
        compute = math.fsum(i.flops * float(model.values[names[f"e_flop:{i.dtype}"]]) for i in flops_of if i.flops)
        return memory + compute, math.hypot(relative("memory") * memory, relative("compute") * compute)

    def per(amount: tuple[float, float], by: float, unit: str, method: str) -> Estimate:
        if not by:
            return Estimate.unknown(unit, f"needs a count of what is in {unit.partition('/')[2]}")
        return Estimate(amount[0] / by, amount[1] / by, unit, provenance, method)

    backwards = run.table(STEPS)["backwards"]
    accumulated = bool(np.any(backwards[np.isfinite(backwards)] > 1))
    update = [item for item in did if item.phase == "optimizer"]
    passes = [item for item in did if item.phase != "optimizer"]
    weights = math.fsum(item.parameter_bytes for item in passes)
    fixed_bytes = math.fsum(item.bytes for item in update) + (0.0 if accumulated else weights)
    varying_bytes = math.fsum(item.example_bytes for item in passes) + (weights if accumulated else 0.0)
    fixed, varying = price(update, fixed_bytes), price(passes, varying_bytes)
    executed, moved = math.fsum(item.flops for item in did), math.fsum(item.bytes for item in did)
    of_parameters = math.fsum(item.parameter_bytes for item in did)
    examples = accounts.work["examples"].value or 0.0
    least_s = math.fsum(seconds_of(item, known) for item in did)
    read = [] if accumulated else [replace(item, flops=0.0, example_bytes=0.0) for item in passes]
    apart = passes if accumulated else [replace(item, parameter_bytes=0.0) for item in passes]
    fixed_s = math.fsum(seconds_of(item, known) for item in (*update, *read))
    varying_s = math.fsum(seconds_of(item, known) for item in apart)

    def at_peaks(seconds: float, by: float, unit: str) -> Estimate:
        if not (seconds > 0 and by):
            return Estimate.unknown(unit, "needs calibrated peaks")
        return Estimate(seconds / by, None, unit, provenance, "calibrated peaks")

    of_weights = "" if accumulated else " and the weights"
    return Priced(
        e_flop=per(price(did, 0.0), executed, "J/flop", "calibrated, of the run's mix of dtypes"),
        e_byte=per(price([], moved), moved, "J/byte", "calibrated, refined by the run"),
        flop_per_step=per((executed, 0.0), steps, "flop/step", "all operators, as executed"),
        bytes_per_step=per((moved, 0.0), steps, "byte/step", "all operators"),
        parameter_bytes=per((of_parameters, 0.0), steps, "byte/step", "weights, gradients and optimizer state"),
        e0d=per(fixed, steps, "J/step", f"dynamic energy of the update{of_weights}"),
        e1d=per(varying, examples, "J/example", "dynamic energy of forward and backward beside that of the steps"),
        e0d_memory=per(price([], fixed_bytes), steps, "J/step", f"traffic of the update{of_weights}"),
        e1d_memory=per(price([], varying_bytes), examples, "J/example", "traffic of forward and backward beside it"),
        roofline=at_peaks(least_s, steps, "s/step"),
        tau0=at_peaks(fixed_s, steps, "s/step"),
        tau1=at_peaks(varying_s, examples, "s/example"),
    )
