"""Roofline: what a calibrated board can do, where a run's phases stand below that, and what to know of the calibration.

A board does at most min(peak FLOP/s, intensity × peak byte/s); the two meet at the ridge of each dtype.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.core.units import human
from ergometry.report.plots import Figure, Plot, View, curve, rounded
from ergometry.work.accounts import Accounts
from ergometry.work.coefficients import Coefficients
from ergometry.work.roofline import Kernel
from ergometry.work.timeline import Timeline

_SYMBOLS = {
    "forward": ("triangle-up", "middle left"),
    "backward": ("triangle-down", "middle right"),
    "optimizer": ("square", "middle right"),
    "evaluation": ("circle", "bottom center"),
}
"""Phases differ in their marks, too, and their names do not stand on one another: forward and backward are close."""


class Point(NamedTuple):
    """A phase of a run, or a kernel, below the roofline: flop/byte, and FLOP/s while it lasts."""

    name: str
    intensity: float
    flop_per_s: float


def points(run: Run, books: Accounts, timeline: Timeline) -> list[Point]:
    """Return the phases of a run of which FLOP and bytes were counted, by the seconds of the device that ran them."""
    device = books.calibration.device if books.calibration is not None else ""
    own = (timeline.by_device_time(run, device) if device else None) or timeline
    seconds = dict(zip(series.PHASES, own.seconds_by_phase().tolist(), strict=True))
    found = []
    for phase in series.PHASES:
        items = [item for item in books.items if item.phase == phase]
        flops, moved = math.fsum(item.flops for item in items), math.fsum(item.bytes for item in items)
        if flops > 0 and moved > 0 and seconds[phase] > 0:
            found.append(Point(phase, flops / moved, flops / seconds[phase]))
    return found


def roofline_json(run: Run, books: Accounts, timeline: Timeline) -> dict[str, Any]:
    """Return the roofline as JSON, in which estimates stay; what is not known is null, and ``why`` says so."""
    found = books.calibration
    tree: dict[str, Any] = {"why": "", "calibration": None, "peaks": None, "ridge": None}
    if found is None:
        tree["why"] = books.attribution_why or "needs a calibration of this board: erg calibrate"
    else:
        tree["calibration"] = {
            "device": found.device,
            "board": found.board,
            "date": found.date,
            "provenance": str(found.e_byte.provenance),
            "remarks": [*remarks(found), *books.attribution_remarks],
        }
        tree["peaks"] = {"flop_per_s": dict(found.peak_flop_per_s), "byte_per_s": found.peak_byte_per_s}
        tree["ridge"] = {dtype: _ridge(found, dtype) for dtype in found.peak_flop_per_s}
    tree["points"] = [
        {
            "phase": point.name,
            "intensity": Estimate(point.intensity, None, "flop/byte", Provenance.DERIVED, "counted FLOP over bytes"),
            "flop_per_s": Estimate(point.flop_per_s, None, "flop/s", Provenance.DERIVED, "counted FLOP over its time"),
        }
        for point in points(run, books, timeline)
    ]
    return tree


def _ridge(found: Coefficients, dtype: str) -> Estimate:
    value = found.ridge(dtype)
    if not math.isfinite(value):
        return Estimate.unknown("flop/byte", "needs both peaks")
    return Estimate(value, None, "flop/byte", Provenance.DERIVED, "peak FLOP/s over peak byte/s")


def remarks(found: Coefficients) -> list[str]:
    """Return what to know of a calibration before it is trusted, a sentence each."""
    conditions = found.conditions
    said = []
    busy, widened = conditions.get("busy_share"), conditions.get("widened")
    if isinstance(busy, float) and isinstance(widened, float) and widened > 1.0:
        said.append(
            f"The machine was busy: others used {busy:.0%} of its processors while it should have been idle. "
            f"Every error is {widened:.1f} times as wide for it; calibrate again when it is quiet."
        )
    if str(found.e_byte.provenance) == "modelled":
        said.append(
            "No sensor tells these kernels apart: the rates are measured, the joules share out a modelled power, "
            "and may be off by a factor of two."
        )
    elif found.e_byte.value == 0 or any(each.value == 0 for each in found.e_flop.values()):
        said.append("A coefficient of 0 could not be told from nothing: what it costs is in the others, or in static.")
    return said


def kernels(found: Coefficients) -> dict[str, list[Kernel]]:
    """Return the stretches of each kernel that was measured; one that cannot be read is left out."""
    together: dict[str, list[Kernel]] = {}
    for stored in found.conditions.get("kernels") or ():
        try:
            kernel = Kernel(**stored)
            numbers = (kernel.seconds, kernel.bytes, *kernel.flops.values())
            sound = all(0 <= number < math.inf for number in numbers) and kernel.seconds > 0
            sound = sound and isinstance(kernel.joules, (int, float))
        except (TypeError, AttributeError):
            continue
        if sound:
            together.setdefault(str(kernel.name), []).append(kernel)
    return together


def kernel_points(found: Coefficients) -> list[Point]:
    """Return the kernels that were measured, each by its best stretch, those without FLOP or bytes left out."""
    points = []
    for name, stretches in kernels(found).items():
        intensity = stretches[0].intensity
        if 0 < intensity < math.inf:
            points.append(Point(name, intensity, max(sum(k.flops.values()) / k.seconds for k in stretches)))
    return points


def figure(found: Coefficients, phases: list[Point], measured: list[Point]) -> Figure | None:
    """Return the roofline: ceilings by dtype and of memory, their ridges, the run's phases and measured kernels."""
    rate = found.peak_byte_per_s.value
    peaks = {dtype: q.value for dtype, q in found.peak_flop_per_s.items() if q.value}
    if not rate or not peaks:
        return None
    shown = [*phases, *measured]
    ridges = [Point(f"{dtype} ridge", peak / rate, peak) for dtype, peak in peaks.items()]
    span = [point.intensity for point in (*ridges, *shown)]
    low, high = 10 ** math.floor(math.log10(min(span)) - 0.5), 10 ** math.ceil(math.log10(max(span)) + 0.5)
    data: list[Plot] = []
    for dtype, peak in peaks.items():
        ceiling = curve(np.array([peak / rate, high]), np.array([peak, peak]), "muted", dtype)
        ceiling["hovertemplate"] = f"{dtype}: at most %{{y:.3s}}FLOP/s<extra></extra>"
        data.append(ceiling | {"mode": "lines+text", "text": ["", dtype], "textposition": "top left"})
    top = max(peaks.values())
    memory = curve(np.array([low, top / rate]), np.array([low * rate, top]), "muted", "memory")
    memory["hovertemplate"] = f"memory: at most {human(rate, 'B/s', 3)}<extra></extra>"
    data += [memory, _marks(ridges, "muted", "diamond", 9)]
    legend = [("muted", "ceilings of memory and of each dtype; ◆ their ridges", False)]
    if measured:
        data.append(_marks(measured, "accent", "circle-open", 8))
        legend.append(("accent", "kernels measured", False))
    for point in phases:
        symbol, position = _SYMBOLS.get(point.name, ("circle", "bottom center"))
        named = {"mode": "markers+text", "textposition": position, "cliponaxis": False}
        data.append(_marks([point], point.name, symbol, 11) | named)
        legend.append((point.name, point.name, False))
    layout = {
        "xaxis": {"title": {"text": "FLOP/byte"}, "type": "log", "dtick": 1, "tickformat": "~g"},
        "yaxis": {"title": {"text": "FLOP/s"}, "type": "log", "dtick": 1, "tickformat": "~s"},
        "hovermode": "closest",
    }
    caption = f"What {found.board} can do at most, as measured on {found.date[:10]}"
    caption += ", and what it did in the phases of this run." if phases else "."
    return Figure(
        "roofline",
        "Roofline",
        caption,
        (View("", tuple(legend), {"data": data, "layout": layout}),),
        wide=True,
    )


def _marks(shown: list[Point], role: str, symbol: str, size: int) -> Plot:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": shown[0].name,
        "x": rounded([point.intensity for point in shown]),
        "y": rounded([point.flop_per_s for point in shown]),
        "text": [point.name for point in shown],
        "hovertemplate": "%{text}: %{x:.3~g} FLOP/byte, %{y:.3s}FLOP/s<extra></extra>",
        "marker": {"symbol": symbol, "size": size},
        "meta": {"role": role},
    }
