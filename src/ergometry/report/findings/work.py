"""What the counted work of a run has to say: little of the peak used, work bound by memory, joules in no component."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.report.findings.finding import Finding
from ergometry.report.words import duration, listed, percent, quantity
from ergometry.work.accounts import Accounts
from ergometry.work.coefficients import Coefficients
from ergometry.work.profiles import Item, seconds_of

LOW_MFU = 0.3
"""Large models that are trained with care reach 0.35 to 0.5 of an accelerator's peak (Llama 3: 0.38 to 0.43)."""

NEAR = 0.5
"""From this share of a step's time at the roofline on, it is the work that takes the time, not what is between."""

SMALL_S = 2e-5
"""An operator with less work than this is over before the next one is launched: launching takes 5 to 10 µs."""

MEMORY_BOUND = 0.5
VAGUE = 0.5
"""A static power that is known no better than this, relatively, promises no saving."""

LARGE_RESIDUAL = 0.3

_PRODUCT = re.compile(r"mm|conv|attention|linear|matmul")
"""Names of the operators that are matrix products, or made of them."""

_TRAINING = ("forward", "backward", "optimizer")


def low_mfu(run: Run, books: Accounts) -> Finding | None:
    """Find that little of the peak FLOP/s is used though the work is not bound by memory: launches, small matrices."""
    known, mfu = books.calibration, books.rates["mfu"].value
    did = _trained(books)
    steps = run.table(series.STEPS)
    # The whole step, since an accelerator works on while the host waits for it in any phase.
    spent_s = float(np.nansum(steps["t1_s"] - steps["t0_s"]) - np.nansum(steps["data_s"]))
    if known is None or mfu is None or mfu >= LOW_MFU or not did or spent_s <= 0:
        return None
    least_s = math.fsum(seconds_of(item, known) for item in did)
    calls = math.fsum(item.calls for item in did)
    if not 0 < least_s < NEAR * spent_s:
        return None
    count = max(len(steps), 1)
    why, sizes, remedy = _slow(did, known, least_s / calls if calls else math.nan)
    evidence = f"a step's work takes {duration(least_s / count)} at the roofline, the step {duration(spent_s / count)}"
    evidence += f"; {sizes}"
    lost_s = spent_s - least_s
    saving = _idle(books, lost_s)
    stake = saving.value if saving.value is not None else 0.0
    return Finding(
        "work.low_mfu", f"{percent(mfu)} of the peak FLOP/s are used (MFU): {why}", evidence, remedy, saving, stake
    )


def _slow(did: Sequence[Item], known: Coefficients, each_s: float) -> tuple[str, str, str]:
    """Return why operators take longer than at the roofline, the sizes that tell it, and what to do.

    Small operators are over before the next is launched. Where most of them are matrix products, those are what is
    small, and no fusing of what is between them helps; else it is what is between.
    """
    each = f"an operator's work takes {duration(each_s)} on average"
    if each_s >= SMALL_S:
        return (
            "its kernels are far from the roofline",
            each,
            "look for odd-shaped matrices (multiples of 64 suit most boards), a dtype with a higher peak, and waits "
            "for the host between operators",
        )
    each += ", about as long as its launch or less"
    products = [item for item in did if item.flops > 0 and _PRODUCT.search(item.op)]
    called, flops = math.fsum(item.calls for item in products), math.fsum(item.flops for item in products)
    # Of all the FLOP, not of all the products: what is small must be where the work is.
    product_s = (
        math.fsum(i.flops * seconds_of(i, known) / i.calls for i in products if i.calls) / flops if flops else 0.0
    )
    if called >= 0.5 * math.fsum(item.calls for item in did) and product_s < SMALL_S:
        return (
            "small matrices",
            f"{each}; most of them are matrix products, of {flops / called:.2g} FLOP on average",
            "make the products larger: larger batches, wider layers, products of one shape stacked into one "
            "(torch.bmm, torch.vmap) instead of a loop; CUDA graphs where they must stay small",
        )
    return (
        "launch-bound, its operators are small",
        each,
        "give each operator more to do: larger batches, torch.compile, CUDA graphs, a fused or foreach optimizer",
    )


def _idle(books: Accounts, seconds: float) -> Estimate:
    """Return the static joules of some seconds, which are what surely goes when those seconds do."""
    static, known = books.by_component["static"], books.calibration
    run_s = math.fsum(e.value or 0.0 for e in books.seconds_by_phase.values())
    if known is not None and known.static_w.stderr and known.static_w.stderr > VAGUE * (known.static_w.value or 0.0):
        why = "the calibration does not know static power well enough: calibrate again while the machine is quiet"
        return Estimate.unknown("J", why, Provenance.MODELLED)
    if static.value is None or run_s <= 0:
        return Estimate.unknown("J", static.why or "static power is not known", Provenance.MODELLED)
    part = static * (seconds / run_s)
    method = "at most, static power × the seconds in steps beyond those at the roofline"
    return Estimate(part.value, part.stderr, "J", Provenance.MODELLED, method)


def memory_bound(_run: Run, books: Accounts) -> Finding | None:
    """Find that most of a step's time at the roofline goes to moving bytes."""
    known, did = books.calibration, _trained(books)
    if known is None or not did:
        return None
    below: dict[str, float] = {}
    whole_s = 0.0
    for item in did:
        seconds = seconds_of(item, known)
        whole_s += seconds
        if item.bytes and (not item.flops or item.flops / item.bytes < known.ridge(item.dtype)):
            below[item.op] = below.get(item.op, 0.0) + seconds
    share = math.fsum(below.values()) / whole_s if whole_s else 0.0
    if share <= MEMORY_BOUND:
        return None
    dearest = sorted(below, key=lambda op: -below[op])[:3]
    most = listed([f"{op} {percent(below[op] / whole_s)}" for op in dearest])
    memory = books.by_component["memory"]
    mfu = books.rates["mfu"].value
    evidence = f"of that time: {most}" + (f"; MFU {percent(mfu)}" if mfu is not None else "")
    if memory.value is not None:
        evidence += f"; memory took {quantity(memory)}"
    return Finding(
        "work.memory_bound",
        f"memory-bound: {percent(share)} of the step's roofline time is below the ridge",
        evidence,
        "move fewer bytes: torch.compile fuses element-wise operators, narrower dtypes and fused optimizers read less, "
        "larger batches read the weights less often",
        Estimate.unknown("J", "it depends on how many of these operators can be fused", Provenance.MODELLED),
        memory.value or 0.0,
    )


def residual(run: Run, books: Accounts) -> Finding | None:
    """Find that much of the energy is in no component, in a run whose operators were counted."""
    left, whole = books.by_component["residual"], books.total
    if not books.items or left.value is None or not whole.value or abs(left.value) <= LARGE_RESIDUAL * whole.value:
        return None
    text = f"{percent(left.value / whole.value)} of the energy is in no component"
    if books.calibration is None:
        why = books.attribution_why or "this board was never calibrated"
        # It costs nothing, so it stands last.
        remedy = "do that once on this machine while it is quiet; the report of this run then has them"
        return Finding("work.uncalibrated", text, why, remedy, None, 0.0)
    evidence = f"{quantity(left)} of {quantity(whole)}"
    if left.value < 0:
        evidence += ": the calibrated coefficients give more than was measured"
        remedy = "calibrate again while the machine is quiet: erg calibrate"
    elif uncounted := _uncounted(run):
        evidence += f"; in {percent(uncounted)} of the steps something was not counted"
        remedy = (
            "see the warnings on what was not counted; erg.work.register_flop(op) tells how many FLOP an operator does"
        )
    else:
        outside = [p for p, parts in books.components_by_phase.items() if _share(parts, left) > LARGE_RESIDUAL]
        evidence += f", most of it in {listed(outside)}" if outside else ""
        remedy = (
            "look at what ran beside the training: other processes, loaders, work outside of modules; "
            "and calibrate again while the machine is quiet: erg calibrate"
        )
    return Finding("work.residual", text, evidence, remedy, None, abs(left.value))


def _share(parts: Mapping[str, Estimate], left: Estimate) -> float:
    part = parts.get("residual")
    return (part.value or 0.0) / left.value if part is not None and left.value else 0.0


def _uncounted(run: Run) -> float:
    """Return the share of the steps in which something was not counted."""
    flags = run.table(series.WORK)["uncounted"]
    return float((flags > 0).mean()) if len(flags) else 0.0


def _trained(books: Accounts) -> Sequence[Item]:
    return [item for item in books.items if item.phase in _TRAINING]
