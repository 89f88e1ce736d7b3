"""Rates: how fast a run worked, against what its device can do, and what each unit of work cost in joules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance, weakest
from ergometry.core.run import Run
from ergometry.work.coefficients import Coefficients
from ergometry.work.counted import COUNTED, StepRows
from ergometry.work.counts import trained
from ergometry.work.profiles import Item, compute_bound

Array = npt.NDArray[np.float64]

PER_RUN = "total energy, evaluation and set-up included, over {of}"

_PEAK = "needs a calibrated peak FLOP/s"


def rates(run: Run, spent: Estimate, power: Estimate, done: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return seconds per step, FLOP/s and byte/s in steps, mean power, and total joules per unit of work."""
    steps = run.table(series.STEPS)
    lasting = steps["t1_s"] - steps["t0_s"]
    in_steps = float(lasting[np.isfinite(lasting)].sum())
    return {
        "step_s": _mean_step(lasting[trained(steps)]),
        "power_w": power,
        "flop_per_s": _rate(done["flops"], in_steps, "FLOP"),
        "byte_per_s": _rate(done["bytes"], in_steps, "bytes"),
        "j_per_step": _per(spent, done["steps"], "training steps"),
        "j_per_example": _per(spent, done["examples"], "training examples"),
        "j_per_token": _per(spent, done["tokens"], "training tokens"),
        "j_per_flop": _per(spent, done["flops"], "FLOP of training steps"),
        "j_per_byte": _per(spent, done["bytes"], "bytes moved in training steps"),
    }


def use(
    run: Run, rows: StepRows, did: Sequence[Item], known: Coefficients | None, boards: int, why: str
) -> dict[str, Estimate]:
    """Return how well the device was used: mfu, hfu, intensity (flop/byte) and the share of work above the ridge.

    Over the steps whose work was all counted, mfu is Σ_dtype (FLOP / peak) over their seconds, with the FLOP that
    forward and backward need, without recomputation; hfu has all that were executed, the optimizer's too.

    Args:
        run: the run.
        rows: its work by step.
        did: its items, for the dtypes and the roofline.
        known: the device's calibration.
        boards: how many boards worked together.
        why: no calibration is known.
    """
    steps = run.table(series.STEPS)
    seconds = steps["t1_s"] - steps["t0_s"]
    whole = rows.whole & np.isfinite(seconds)
    missing = "" if whole.any() else "in no training step was all work counted"
    flops, moved = float(rows.flops[whole].sum()), float(rows.bytes[whole].sum())
    of = f"{int(whole.sum())} of {len(whole)} steps" if not whole.all() else "all steps"
    intensity = Estimate.unknown("flop/byte", missing or "no bytes were counted")
    if moved > 0:
        intensity = Estimate(flops / moved, 0.0, "flop/byte", Provenance.DERIVED, f"executed FLOP over bytes, {of}")
    if known is None or missing:
        why = missing if known is not None else f"{_PEAK}: {why}" if why else _PEAK
        unknown = Estimate.unknown("", why)
        return {"mfu": unknown, "hfu": unknown, "intensity": intensity, "compute_bound": unknown}
    peak = _peak(did, known)
    in_steps = float(seconds[whole].sum()) * boards
    needed = float(rows.model_flops[whole].sum())
    return {
        "mfu": _share(needed, in_steps, peak, f"FLOP that the model needs over peak FLOP/s × seconds, {of}"),
        "hfu": _share(flops, in_steps, peak, f"executed FLOP over peak FLOP/s × seconds, {of}"),
        "intensity": intensity,
        "compute_bound": _above(did, known),
    }


def _peak(did: Sequence[Item], known: Coefficients) -> Estimate:
    """Return the peak FLOP/s of the mix of dtypes of the training phases: FLOP over Σ FLOP/peak."""
    peaks = {dtype: q for dtype, q in known.peak_flop_per_s.items() if q.value}
    if not peaks:
        return Estimate.unknown("flop/s", _PEAK)
    fastest = max(peaks.values(), key=lambda q: q.value or 0.0)
    flops: dict[str, float] = {}
    for item in did:
        if item.phase in COUNTED:
            flops[item.dtype] = flops.get(item.dtype, 0.0) + item.flops
    taken = {dtype: amount for dtype, amount in flops.items() if amount > 0} or {"": 1.0}
    seconds = {dtype: amount / (peaks.get(dtype, fastest).value or 1.0) for dtype, amount in taken.items()}
    whole = math.fsum(seconds.values())
    relative = [
        seconds[d] / whole * (peaks.get(d, fastest).stderr or 0.0) / (peaks.get(d, fastest).value or 1.0) for d in taken
    ]
    lacking = sorted(set(taken) - set(peaks))
    why = f"of {', '.join(filter(None, lacking)) or 'unknown dtype'} no peak is known: the fastest is taken"
    value = math.fsum(taken.values()) / whole
    return Estimate(
        value, value * math.hypot(*relative), "flop/s", fastest.provenance, "calibrated peaks", why if lacking else ""
    )


def _share(flops: float, seconds: float, peak: Estimate, method: str) -> Estimate:
    if peak.value is None or not seconds > 0:
        return Estimate.unknown("", peak.why or "no training step was seen")
    value = flops / (peak.value * seconds)
    stderr = None if peak.stderr is None else value * peak.stderr / peak.value
    return Estimate(value, stderr, "", weakest(peak.provenance, Provenance.DERIVED), method, peak.why)


def _above(did: Sequence[Item], known: Coefficients) -> Estimate:
    share = compute_bound(did, known)
    if math.isnan(share):
        return Estimate.unknown("", "needs counted operators, and calibrated peaks of FLOP/s and byte/s")
    method = "share of the roofline's seconds in operators above the ridge, bound by arithmetic"
    return Estimate(share, None, "", Provenance.DERIVED, method)


def _mean_step(seconds: Array) -> Estimate:
    if not len(seconds):
        return Estimate.unknown("s", "no training step was seen")
    stderr = float(np.std(seconds, ddof=1)) / math.sqrt(len(seconds)) if len(seconds) > 1 else None
    method = "mean over training steps, by host time; the error is the mean's, steps taken as independent"
    return Estimate(float(np.mean(seconds)), stderr, "s", Provenance.MEASURED, method)


def _rate(amount: Estimate, seconds: float, of: str) -> Estimate:
    unit = f"{amount.unit}/s"
    if amount.value is None or seconds <= 0:
        return Estimate.unknown(unit, amount.why or "no training step was seen")
    stderr = None if amount.stderr is None else amount.stderr / seconds
    return Estimate(amount.value / seconds, stderr, unit, Provenance.DERIVED, f"{of} over seconds in training steps")


def _per(spent: Estimate, done: Estimate, of: str) -> Estimate:
    """Return energy per unit of work. Plain division: the units are known here, so pint is not needed."""
    unit = f"J/{done.unit}"
    provenance = weakest(spent.provenance, done.provenance, Provenance.DERIVED)
    if spent.value is None or not done.value:
        return Estimate.unknown(unit, spent.why or done.why or f"no {of}", provenance)
    value = spent.value / done.value
    stderr = None
    if spent.stderr is not None and done.stderr is not None:
        stderr = math.hypot(spent.stderr, value * done.stderr) / done.value
    return Estimate(value, stderr, unit, provenance, PER_RUN.format(of=of), done.why)
