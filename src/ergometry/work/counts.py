"""Counts: steps, examples, tokens, FLOP and bytes of a run, and its losses."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance, weakest
from ergometry.core.run import Run, Table

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def mean_power(spent: Estimate, duration_s: float) -> Estimate:
    """Return the mean power P = E/t of a run, W; the duration is taken as exact."""
    if spent.value is None or duration_s <= 0:
        return Estimate.unknown("W", spent.why or "the run has no duration")
    stderr = None if spent.stderr is None else spent.stderr / duration_s
    provenance = weakest(spent.provenance, Provenance.DERIVED)
    return Estimate(spent.value / duration_s, stderr, "W", provenance, "total energy over duration")


def trained(steps: Table) -> Mask:
    """Return which rows of the steps table moved the parameters: not those that the gradient scaler skipped."""
    flags = np.nan_to_num(steps["flags"]).astype(np.int64)
    return np.asarray((flags & series.SKIPPED) == 0)


def work(run: Run) -> dict[str, Estimate]:
    """Return what the run did: counts, with the unit each is counted in."""
    steps = run.table(series.STEPS)
    done = trained(steps)
    skipped = len(steps) - int(done.sum())
    said = "counted by hooks" + (f"; {skipped} skipped by the gradient scaler left out" if skipped else "")
    count = Estimate(float(done.sum()), 0.0, "step", Provenance.MEASURED, said)
    parameters = run.meta.get("parameters")
    return {
        "steps": count,
        "examples": _counted(run, steps["examples"][done], "examples"),
        "tokens": _counted(run, steps["tokens"][done], "tokens"),
        "parameters": Estimate.unknown("parameter", "no model was seen")
        if parameters is None
        else Estimate(float(parameters), 0.0, "parameter", Provenance.MEASURED, "counted in the model"),
        "flops": _counted(run, steps["flops"], "flops"),
        "bytes": _counted(run, _work_column(run, *_BYTES), "bytes"),
        "communication_bytes": _communication(run),
        "peak_memory_bytes": _peak_memory(run),
    }


_UNITS = {"examples": "example", "tokens": "token", "flops": "flop", "bytes": "byte"}

_BYTES = ("forward_bytes", "backward_bytes", "optimizer_bytes")

_OPERATIONS = ("flops", "bytes")


def _work_column(run: Run, *names: str) -> Array:
    """Return the sum of columns of the work table, a row a step; NaN where one is not known, or makes no sense."""
    table = run.table(series.WORK)
    columns = [np.where(table[name] >= 0, table[name], np.nan) for name in names]
    return np.asarray(np.sum(columns, axis=0))


def _communication(run: Run) -> Estimate:
    sent = _work_column(run, "communication_bytes")
    if not np.any(sent > 0):
        return Estimate(0.0, 0.0, "byte", Provenance.DERIVED, "one process: no collectives")
    return Estimate(float(np.nansum(sent)), None, "byte", Provenance.DERIVED, "sent in collectives by this process")


def _counted(run: Run, column: Array, name: str) -> Estimate:
    """Return the sum of a column of counts; steps without one are taken to be like the others, with an error."""
    unit = _UNITS[name]
    seen = column[np.isfinite(column)]
    why = str(run.meta.get("inferred", {}).get(name, ""))
    if not len(seen):
        missing = {
            "examples": "no batch was seen in a step; state it with --examples",
            "tokens": "no sequence of token ids was seen in a step; state it with --tokens",
            "flops": "in no training step were all operations counted",
            "bytes": "needs counts of the bytes that each operation moves",
        }
        return Estimate.unknown(unit, missing[name] if len(column) or name == "bytes" else "no training step was seen")
    method = f"counted in {'the operations that ran in ' if name in _OPERATIONS else ''}training steps"
    lost = len(column) - len(seen)
    if not lost:
        provenance = Provenance.DERIVED if why or name in _OPERATIONS else Provenance.MEASURED
        return Estimate(math.fsum(seen), 0.0, unit, provenance, method, why)
    spread = float(np.std(seen, ddof=1)) if len(seen) > 1 else None
    stderr = None if spread is None else spread * math.sqrt(lost * (1.0 + lost / len(seen)))
    method += f"; {lost} of {len(column)} steps had no count and are taken to be like the others"
    return Estimate(float(np.mean(seen)) * len(column), stderr, unit, Provenance.DERIVED, method, why)


def _peak_memory(run: Run) -> Estimate:
    """Return peak memory, bytes: of the accelerators together where there are any, else of the process."""
    table = run.table(series.MEMORY)
    devices, peaks = table["device"], table["peak_bytes"]
    good = np.isfinite(peaks)
    accelerators = sorted({float(d) for d in devices[good] if d >= 0})
    if accelerators:
        each = [float(peaks[good & (devices == d)].max()) for d in accelerators]
        method = f"sum over {len(each)} accelerators of each one's peak" if len(each) > 1 else "peak of the accelerator"
        return Estimate(math.fsum(each), 0.0, "byte", Provenance.MEASURED, method + ", as its allocator counts")
    if not good.any():
        return Estimate.unknown("byte", "no reading of memory was recorded")
    return Estimate(float(peaks[good].max()), 0.0, "byte", Provenance.MEASURED, "peak resident memory of the process")


def loss(run: Run) -> dict[str, Estimate]:
    """Return the first, last and best loss of single minibatches, in loss units."""
    losses = run.table(series.LOSSES)["loss"]
    if not len(losses):
        return {name: Estimate.unknown("loss", "no loss was seen") for name in ("first", "last", "best")}
    finite = losses[np.isfinite(losses)]
    best = float(finite.min()) if len(finite) else math.nan

    def of(value: float, which: str) -> Estimate:
        return Estimate(value, None, "loss", Provenance.MEASURED, f"minibatch loss, {which}")

    return {
        "first": of(float(losses[0]), "first step"),
        "last": of(float(losses[-1]), "last step"),
        "best": of(best, "least of all steps"),
    }
