"""The schedules of a plan as figures: batch size, learning rate and power over the run, each with what it is worth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ergometry.core.units import human
from ergometry.planning.learning_rate import LearningRate
from ergometry.planning.over_time import OverTime, RateCourse
from ergometry.planning.plan import Plan
from ergometry.planning.schedules import BatchSchedule, PowerSchedule
from ergometry.report.plots import MOST_BINS, Figure, Plot, View, curve, plotted
from ergometry.report.words import grouped

Array = npt.NDArray[np.float64]

_POINTS = 101
_WORTH = 0.001


def schedules(plan: Plan, found: OverTime, rate: LearningRate | None) -> list[Figure]:
    """Return a figure of each schedule that there is."""
    drawn = []
    if found.batch is not None:
        drawn.append(_batch(found.batch, plan))
    if found.rate is not None and rate is not None:
        drawn.append(_rate(found.rate, rate, plan))
    if found.power and found.alpha is not None:
        drawn.append(_power(found.power, found.alpha))
    return drawn


def missing(found: OverTime) -> list[str]:
    """Return why there is no schedule of batch size or of power, in words."""
    told = (("batch size", found.batch_why), ("power", found.power_why))
    return [f"No schedule of the {of}: it {why}." for of, why in told if why]


def _batch(found: BatchSchedule, plan: Plan) -> Figure:
    x, y = _steps(found.progress, found.batch.astype(np.float64))
    chosen = plan.settings[0].batch
    data = [_flat(float(chosen), "muted"), curve(x, y, "optimizer", "", "hv")]
    data[1]["hovertemplate"] = "from %{x:.0f} %: batch size %{y:.0f}<extra></extra>"
    plot = plotted(data, "progress (%)", "batch size", zero=True)
    first, last = grouped(int(found.batch[0])), grouped(int(found.batch[-1]))
    reading = (
        f"As the noise scale moves, the batch size of least energy goes from {first} to {last}: "
        f"{batch_gain(found)} than {grouped(round(found.constant))} throughout."
    )
    legend = (("optimizer", "B*(s) = √(B_noise(s)·e0/e1), to powers of two", False), ("muted", "the plan", False))
    remark = "A model: the noise scale stands in for B_c. Nothing drives it yet."
    return Figure("batch-schedule", "Batch size over the run", "", (View("", legend, plot),), False, reading, remark)


def batch_gain(found: BatchSchedule) -> str:
    """Return what a course of batch sizes saves over the best constant one, in words."""
    saved = 1.0 - 1.0 / (1.0 + found.gain)
    return f"{saved:.1%} less energy" if saved >= _WORTH else "no less energy (in powers of two)"


def _rate(course: RateCourse, rate: LearningRate, plan: Plan) -> Figure:
    total = sum(setting.steps.value for setting in plan.settings)
    span = total if np.isfinite(total) else 1.0
    x, y = _steps(course.progress, course.rate)
    every = max(1, len(x) // MOST_BINS)
    x, y = np.append(x[:-1:every], x[-1]) / 100.0 * span, np.append(y[:-1:every], y[-1])
    line = curve(x, y, "accent", "", "hv")
    line["hovertemplate"] = "from step %{x:.0f}: %{y:.3~g}<extra></extra>"
    plot = plotted([line], "step" if span == total else "share of the steps", "learning rate", zero=True)
    by = f"the {rate.rule} rule" if not rate.remark.startswith("the rule gives") else "half of the stability limit"
    if course.constant:
        reading = f"One learning rate throughout, as the run had it, scaled by {rate.scale:.3g}, {by}."
    else:
        reading = (
            f"The run's own course, from {course.rate[0]:.3g} to {course.rate[-1]:.3g}, stretched to the plan's steps "
            f"and scaled by {rate.scale:.3g}, {by}."
        )
    legend = (("accent", f"learning rate at batch size {grouped(plan.settings[0].batch)}", False),)
    return Figure("rate-schedule", "Learning rate over the run", "", (View("", legend, plot),), False, reading)


def _power(kinds: tuple[PowerSchedule, ...], alpha: float) -> Figure:
    roles = ("muted", "optimizer", "accent")
    t = np.linspace(0.0, 1.0, _POINTS)
    data = [curve(100.0 * t, kind.power_w(t), role, kind.name) for kind, role in zip(kinds, roles, strict=True)]
    for line in data:
        line["hovertemplate"] = "%{x:.0f} %: %{y:.4~g} W<extra></extra>"
    words = [
        f"{kind.name}: {kind.final - 1:+.1%} steps by the end, {kind.anytime - 1:+.1%} loss area; {kind.verdict}"
        for kind in kinds
    ]
    legend = tuple((role, text, False) for role, text in zip(roles, words, strict=True))
    mean = human(float(np.mean(kinds[0].power_w(t))), "W", 3)
    reading = (
        f"At one mean of {mean} above the static power, speed goes as power^{alpha:.2f}: constant power makes most "
        "steps by the end, a falling one has the lower loss on the way."
    )
    plot = plotted(data, "time (%)", "power above static (W)", zero=True)
    return Figure("power-schedule", "Power over the run", "", (View("", legend, plot),), False, reading)


def _steps(begins: Array, values: Array) -> tuple[Array, Array]:
    """Return a course of stretches in percent, its last value carried to the end."""
    return 100.0 * np.append(begins, 1.0), np.append(values, values[-1])


def _flat(y: float, role: str) -> Plot:
    line = curve(np.array([0.0, 100.0]), np.array([y, y]), role, "")
    line["line"]["dash"] = "6px,3px"
    line["hoverinfo"] = "skip"
    return line
