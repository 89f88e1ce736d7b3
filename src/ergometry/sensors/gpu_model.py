"""The power of a GPU that has no readable counter, from its utilisation and its clock; wide, and said to be. Pure.

With u the share of time in which a kernel ran, f the clock of the processors and L the board's power limit, W::

    P = P_idle + (P_busy - P_idle) · u · (f / f_max)²     P_busy = σ · L     P_idle = ι · L

and P = L while the driver says that it holds the clock down to keep the limit.

σ: jobs that keep a board busy (ResNet-50 and BERT of the Zeus NSDI'23 trace) draw 0.90 of a V100's limit and 0.67 of
a P100's. Its error cannot be fitted, as no public trace has utilisation beside power; it lies between two bounds of
that trace (V100 and P100, three networks but NCF, 54 settings): those jobs alone differ by ±0.16, and jobs of which
nothing is known, small batches that leave the board half idle among them, by 0.45 to 0.62 when one board is predicted
from the other. A kernel on one of a hundred processors counts as busy, so the error is taken close to the upper bound.
The square of the clock is Perseus's A100 profile: 470, 335 and 260 W at 1410, 1200 and 1005 MHz.
ι: NCF, which hardly uses the board, draws 0.14 of the limit on both; later boards idle at about 0.1.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

BUSY_SHARE = 0.77
"""σ: power of a board that is never idle, over its limit: the geometric mean of V100 and P100."""

IDLE_SHARE = 0.12
"""ι: power of an idle board over its limit."""

REL_STDERR = 0.5
"""Relative standard error of the power, where the limit is known."""

TDP_W = (
    # NVIDIA's data sheets and product briefs of each board
    (r"\bB200\b", 1000),
    (r"\bGH200\b", 900),
    (r"\bH200\b.*NVL", 600),
    (r"\bH100\b.*NVL", 400),
    (r"\bH[18]00\b.*PCI", 350),
    (r"\b(H200|H100|H800)\b", 700),
    (r"\bA[18]00\b.*PCI.*40GB", 250),
    (r"\bA[18]00\b.*PCI.*80GB", 300),
    (r"\bA[18]00\b", 400),
    (r"\bA2\b", 60),
    (r"\bA10G?\b", 150),
    (r"\bA16\b", 250),
    (r"\bA30\b", 165),
    (r"\b(A40|A6000|L40)\b", 300),
    (r"\bL40S\b", 350),
    (r"\bL4\b", 72),
    (r"\bT4\b", 70),
    (r"\bV100S?-PCI", 250),
    (r"\bV100\b", 300),
    (r"\bP4\b", 75),
    (r"\b(P100-PCI|P40|M40|2080 Ti|1080 Ti)", 250),
    (r"\b(P100|K80)\b", 300),
    (r"\b5090\b", 575),
    (r"\b4090\b", 450),
    (r"\b3090\b", 350),
)
"""Power limits of boards that do not tell theirs, W, by what is in their names; the first that matches."""

MEDIAN_TDP_W = 250.0
"""Median of the 37 NVIDIA boards of mlco2/impact's table (gpus.csv, MIT), W."""

TDP_LOG_SD = 0.54
"""Standard deviation of log TDP among them: the relative error of knowing neither limit nor name."""


class GpuModel(NamedTuple):
    """Board power against utilisation and clock, W, with the relative standard error of all it says."""

    limit_w: float
    rel_stderr: float
    method: str

    @property
    def idle_w(self) -> float:
        """Return the power of a board that does nothing, W."""
        return IDLE_SHARE * self.limit_w

    def power_w(self, utilisation: float, clock_ratio: float = 1.0, *, capped: bool = False) -> float:
        """Return the board's power, W.

        Args:
            utilisation: share of time in which a kernel ran, 0 to 1.
            clock_ratio: clock of the processors over their highest, 0 to 1.
            capped: the driver holds the clock down to keep the power limit.

        >>> board = GpuModel(300.0, 0.5, "")
        >>> board.power_w(0.0), round(board.power_w(1.0)), board.power_w(1.0, 0.7, capped=True)
        (36.0, 231, 300.0)
        """
        if capped:
            return self.limit_w
        busy_w = BUSY_SHARE * self.limit_w
        return self.idle_w + (busy_w - self.idle_w) * utilisation * min(clock_ratio, 1.0) ** 2


def model_gpu(name: str, limit_w: float | None) -> GpuModel:
    """Return the model of a board.

    Args:
        name: its product name.
        limit_w: the power limit that is enforced, W; None where the board does not tell it.
    """
    if limit_w:
        return _model(limit_w, 0.0, f"power limit {limit_w:g} W")
    tdp_w = next((float(tdp_w) for pattern, tdp_w in TDP_W if re.search(pattern, name)), None)
    if tdp_w is not None:
        return _model(tdp_w, 0.1, f"TDP {tdp_w:g} W of its data sheet")
    return _model(MEDIAN_TDP_W, TDP_LOG_SD, f"power limit not known, taken as {MEDIAN_TDP_W:g} W")


def _model(limit_w: float, doubt: float, words: str) -> GpuModel:
    rel_stderr = math.hypot(REL_STDERR, doubt)
    return GpuModel(limit_w, rel_stderr, f"GPU modelled from utilisation and clock, ±{rel_stderr:.0%}; {words}")
