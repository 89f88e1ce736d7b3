"""What the steps, the losses and the evaluations of a run have to say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run
from ergometry.estimators.equilibration import read_equilibration
from ergometry.estimators.rows import not_finite
from ergometry.report.findings.finding import Finding
from ergometry.report.words import duration, percent, quantity
from ergometry.work.accounts import Accounts

Array = npt.NDArray[np.float64]


def data_waiting(run: Run, books: Accounts) -> Finding | None:
    """Find that training waits for its data more than a tenth of the time spent in steps."""
    steps = run.table(series.STEPS)
    training_s = float((steps["t1_s"] - steps["t0_s"]).sum())
    waiting_s = float(np.nansum(steps["data_s"]))
    if training_s <= 0 or waiting_s <= 0.1001 * training_s:
        return None
    spent = books.by_phase["data"]
    saving = None
    static = books.by_component["static"]
    if static.value is not None and run.duration_s > 0:
        # Loading still costs its own joules when it overlaps training; what surely goes is idling meanwhile.
        part = static * (waiting_s / run.duration_s)
        saving = Estimate(part.value, part.stderr, "J", Provenance.MODELLED, "at most, idle power × seconds of waiting")
    return Finding(
        "data.waiting",
        f"training waited for data {percent(waiting_s / training_s)} of the time",
        f"{duration(waiting_s)} of {duration(training_s)} in training steps, {quantity(spent)}",
        "load ahead of the step: DataLoader(num_workers > 0, prefetch_factor, pin_memory), or keep the data in memory",
        saving,
        spent.value or 0.0,
    )


def evaluation_share(run: Run, books: Accounts) -> Finding | None:
    """Find that evaluation takes more than three tenths of the energy."""
    spent, whole = books.by_phase["evaluation"], books.total
    if not spent.value or not whole.value or spent.value <= 0.3 * whole.value:
        return None
    count = len(run.table(series.EVALUATIONS))
    half = spent * 0.5
    saving = Estimate(half.value, half.stderr, "J", spent.provenance, "half of the evaluations left out")
    return Finding(
        "evaluation.share",
        f"evaluation took {percent(spent.value / whole.value)} of the energy",
        f"{quantity(spent)} of {quantity(whole)}, in {count} evaluations",
        "evaluate half as often, or on a fixed part of the evaluation set",
        saving if count > 1 else None,
        spent.value,
    )


def loss_not_finite(run: Run, books: Accounts) -> Finding | None:
    """Find that the loss became NaN or infinite, and what was spent after that."""
    losses, broken = run.table(series.LOSSES), not_finite(run)
    if not len(broken):
        return None
    first, count = float(broken[0]), len(broken)
    good = np.isfinite(losses["loss"])
    before = losses["loss"][good & (losses["step"] < first)]
    for_good = not np.any(good & (losses["step"] > first))
    since_s = float(losses["t_s"][losses["step"] == first][0])
    after = total(trace.energy(since_s, run.duration_s) for trace in books.metered.cover().values())
    saving = None
    if for_good and after.value:
        saving = Estimate(after.value, after.stderr, "J", after.provenance, "everything after that step")
    lasted = "and never finite again" if for_good else "and finite again later"
    was = f"; the loss before it was {before[-1]:#.4g}" if len(before) else ""
    return Finding(
        "loss.not_finite",
        f"the loss became not finite at step {first:.0f}",
        f"{count} of {len(losses)} losses are NaN or infinite, {lasted}{was}; sums over the run leave those steps out",
        "lower the learning rate or warm it up, clip the gradients, train half precision in bfloat16 or with a "
        "GradScaler, and look for a logarithm or a division of zero; torch.autograd.set_detect_anomaly(True) names the "
        "operator",
        saving,
        books.total.value or 0.0,
    )


def loss_plateau(run: Run, books: Accounts) -> Finding | None:
    """Find that the last part of the energy hardly lowered the loss any more.

    The losses are cut into twenty stretches of equal length. The plateau begins at the first one whose mean is
    within 2 % of the whole fall of the last one's. Nothing is said unless the means are known well enough to tell
    2 % (two standard errors), nor unless three tenths of the energy came after.
    """
    table = run.table(series.LOSSES)
    good = np.isfinite(table["loss"]) & np.isfinite(table["t_s"])
    at_s, losses = table["t_s"][good], table["loss"][good]
    if len(losses) < 200 or not books.total.value:
        return None
    parts = np.array_split(np.arange(len(losses)), 20)
    means = np.array([losses[part].mean() for part in parts])
    errors = np.array([losses[part].std(ddof=1) / np.sqrt(len(part)) for part in parts])
    fall = float(means[0] - means[-1])
    near = np.flatnonzero(means - means[-1] <= 0.02 * fall)
    first = int(near[0]) if len(near) else len(parts) - 1
    # A trend within a stretch widens its error, which errs on the side of silence.
    if fall <= 0 or first >= len(parts) - 1 or 2 * np.hypot(errors[first], errors[-1]) > 0.02 * fall:
        return None
    since_s = float(at_s[parts[first][-1]])
    after = total(trace.energy(since_s, run.duration_s) for trace in books.metered.cover().values())
    if not after.value or after.value < 0.3 * books.total.value:
        return None
    share, bought = percent(after.value / books.total.value), percent(max(float(means[first] - means[-1]) / fall, 0.0))
    saving = Estimate(after.value, after.stderr, "J", after.provenance, "at most, everything after the plateau began")
    began = duration(since_s)
    settled, remedy = _settled(run)
    return Finding(
        "loss.plateau",
        f"the last {share} of the energy bought {bought} of the loss's fall",
        f"mean training loss {means[0]:#.4g} at first, {means[first]:#.4g} at {began}, {means[-1]:#.4g} last{settled}",
        remedy,
        saving,
        after.value,
    )


def _settled(run: Run) -> tuple[str, str]:
    """Return what the fluctuation–dissipation relation (E4) says of a plateau, and what to do about it."""
    found = read_equilibration(run)
    ratio, z = found.ratio, found.z
    if ratio.value is not None and ratio.stderr is not None and ratio.stderr <= TIGHT and z.value is not None:
        if abs(z.value) <= 2.0:
            return (
                f"; nothing speaks against a stationary state, ⟨θ·g⟩ over its dissipation is {quantity(ratio)}",
                "the noise of the batches holds the loss up: lower the learning rate there or take larger batches, or "
                "stop sooner",
            )
        if abs(z.value) > 3.0:
            return (
                f"; the weights are not stationary yet, ⟨θ·g⟩ over its dissipation is {quantity(ratio)}",
                "stop sooner, or see whether a longer run falls further: the weights still move",
            )
    return "", "stop sooner, or change the learning rate there, unless that last part is what the run is for"


TIGHT = 0.25
"""The relation's two sides are known well enough to say that they are equal."""
