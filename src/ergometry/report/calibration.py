"""Calibration: what ``erg calibrate`` found of a board, as text for a terminal and as a page with its roofline."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from markupsafe import Markup

from ergometry.core.estimate import Estimate
from ergometry.core.units import human
from ergometry.report import roofline
from ergometry.report.by import grid
from ergometry.report.html import embedded, environment
from ergometry.report.summary import to_plain
from ergometry.report.words import UNKNOWN, percent
from ergometry.work.coefficients import Coefficients
from ergometry.work.roofline import Kernel

Cells = list[list[str]]

COEFFICIENTS = ("", "energy", "±", "peak", "±", "how known")
KERNELS = ("kernel", "FLOP/byte", "FLOP/s", "byte/s", "power")


def text(found: Coefficients, *, width: int = 80) -> str:
    """Return a calibration as text, at most ``width`` columns wide."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=max(width, 40), color_system=None, highlight=False, markup=False, emoji=False, soft_wrap=False
    )
    console.print(_head(found))
    console.print()
    console.print(grid(COEFFICIENTS, coefficient_rows(found)))
    if kernels := kernel_rows(found):
        console.print()
        console.print(grid(KERNELS, kernels))
    for remark in roofline.remarks(found):
        console.print(f"\n{remark}")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _head(found: Coefficients) -> str:
    when = found.date.replace("T", " ").replace("+00:00", " UTC")
    seconds = found.conditions.get("seconds")
    lasting = f", {seconds:.0f} s" if isinstance(seconds, (int, float)) and math.isfinite(seconds) else ""
    sensor = found.conditions.get("sensor")
    return f"{found.board} ({found.device}), {when}{lasting}" + (f"\nenergy by {sensor}" if sensor else "")


def coefficient_rows(found: Coefficients) -> Cells:
    """Return a row for each coefficient: what it costs and what the board can do at most, with relative errors."""
    rows = [["static power", *_with_error(found.static_w), "", "", str(found.static_w.provenance)]]
    for dtype in dict.fromkeys((*found.e_flop, *found.peak_flop_per_s)):
        cost, peak = found.e_flop.get(dtype), found.peak_flop_per_s.get(dtype)
        known = str((cost or found.e_byte).provenance)
        rows.append([f"FLOP in {dtype}", *_with_error(cost), *_with_error(peak), known])
    rows.append(
        [
            "byte of memory",
            *_with_error(found.e_byte),
            *_with_error(found.peak_byte_per_s),
            str(found.e_byte.provenance),
        ]
    )
    if found.e_link is not None:
        rows.append(["byte over links", *_with_error(found.e_link), "", "", str(found.e_link.provenance)])
    return rows


def _with_error(estimate: Estimate | None) -> tuple[str, str]:
    """Return a value to three digits and its relative error: a value less than its error keeps its digits so.

    >>> _with_error(Estimate(1.2e-10, 1.2e-9, "J/flop")), _with_error(Estimate(9.4e10, 2e9, "flop/s"))
    (('120 pJ/flop', '10 ×'), ('94 Gflop/s', '2.1 %'))
    """
    if estimate is None or estimate.value is None or not math.isfinite(estimate.value):
        return UNKNOWN, ""
    value, stderr = estimate.value, estimate.stderr
    shown = human(value, estimate.unit, 3).replace("byte", "B") if value else f"0 {estimate.unit}"
    if stderr is None or not math.isfinite(stderr) or not stderr:
        return shown, ""
    if not value:
        return shown, human(stderr, estimate.unit, 2)
    relative = stderr / abs(value)
    return shown, percent(relative) if relative < 2 else f"{relative:.0f} ×"


def kernel_rows(found: Coefficients) -> Cells:
    """Return a row for each kernel, by rising intensity: its best rates, and its mean power over all stretches."""
    together = sorted(roofline.kernels(found).items(), key=lambda item: _order(item[1][0]))
    return [_kernel_cells(name, stretches) for name, stretches in together]


def _order(kernel: Kernel) -> float:
    return kernel.intensity if any(kernel.flops.values()) or kernel.bytes else -1.0


def _kernel_cells(name: str, stretches: Sequence[Kernel]) -> list[str]:
    flops = max(sum(k.flops.values()) / k.seconds for k in stretches)
    moved = max(k.bytes / k.seconds for k in stretches)
    power_w = sum(k.joules for k in stretches) / sum(k.seconds for k in stretches)
    intensity = stretches[0].intensity
    return [
        name,
        f"{intensity:.3g}" if 0 < intensity < math.inf else "",
        human(flops, "flop/s", 3) if flops else "",
        human(moved, "B/s", 3) if moved else "",
        human(power_w, "W", 3) if math.isfinite(power_w) else "",
    ]


def html(found: Coefficients) -> str:
    """Return a calibration as one page with its roofline, which asks nothing of the network."""
    from plotly.offline import get_plotlyjs

    figure = roofline.figure(found, [], roofline.kernel_points(found))
    return (
        environment()
        .get_template("calibration.html.j2")
        .render(
            found=found,
            head=_head(found).splitlines(),
            coefficients=(COEFFICIENTS, coefficient_rows(found)),
            kernels=(KERNELS, kernel_rows(found)),
            remarks=roofline.remarks(found),
            figure=figure,
            plots=embedded({figure.name: [view.plot for view in figure.views]} if figure else {}),
            machine_readable=embedded(to_plain(found.to_json(), [])),
            # Plotly's own script closes no tag, which a test holds.
            plotly=Markup(get_plotlyjs()) if figure else "",
        )
    )
