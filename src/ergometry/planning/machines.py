"""Accelerators by name: board power and dense peak FLOP/s, as their makers' data sheets state them.

Peaks are without sparsity, of the matrix units where there are any, with accumulation in float32 where the sheet tells.
Google's chips have no board power on a sheet: those of Jouppi et al. 2020 and 2023 (arXiv 2304.01433) are taken.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ergometry.core.errors import UsageError


class Machine(NamedTuple):
    """An accelerator: its name, power (W), and dense peak by dtype (flop/s)."""

    name: str
    power_w: float
    peak_flop_per_s: dict[str, float]

    def peak(self, dtype: str) -> float:
        """Return the peak in a dtype, flop/s; a 16-bit type that is not listed runs as the other one.

        Raises:
            UsageError: the machine's peak in it is not known.
        """
        stand_in = {"bf16": "fp16", "fp16": "bf16", "tf32": "fp32"}.get(dtype, dtype)
        for name in (dtype, stand_in):
            if name in self.peak_flop_per_s:
                return self.peak_flop_per_s[name]
        raise UsageError(
            expected=f"one of {', '.join(self.peak_flop_per_s)} on {self.name}", got=dtype, remedy="name one of these"
        )


_T = 1e12
MACHINES = tuple(
    Machine(name, power_w, {dtype: tera * _T for dtype, tera in peaks.items()})
    for name, power_w, peaks in (
        ("B200", 1000, {"bf16": 2250, "tf32": 1125, "fp32": 75}),
        ("H200 SXM", 700, {"bf16": 989, "tf32": 494.7, "fp32": 66.9}),
        ("H100 SXM", 700, {"bf16": 989, "tf32": 494.7, "fp32": 66.9}),
        ("H100 NVL", 400, {"bf16": 835, "tf32": 417.5, "fp32": 60}),
        ("H100 PCIe", 350, {"bf16": 756, "tf32": 378, "fp32": 51}),
        ("A100 SXM", 400, {"bf16": 312, "tf32": 156, "fp32": 19.5}),
        ("A100 PCIe", 300, {"bf16": 312, "tf32": 156, "fp32": 19.5}),
        ("V100 SXM2", 300, {"fp16": 125, "fp32": 15.7}),
        ("V100 PCIe", 250, {"fp16": 112, "fp32": 14}),
        ("P100", 300, {"fp16": 21.2, "fp32": 10.6}),
        ("T4", 70, {"fp16": 65, "fp32": 8.1}),
        ("L4", 72, {"bf16": 121, "tf32": 60, "fp32": 30.3}),
        ("L40S", 350, {"bf16": 362, "tf32": 183, "fp32": 91.6}),
        ("A10", 150, {"bf16": 125, "tf32": 62.5, "fp32": 31.2}),
        ("RTX 3090", 350, {"bf16": 71, "tf32": 35.6, "fp32": 35.6}),
        ("RTX 4090", 450, {"bf16": 165.2, "tf32": 82.6, "fp32": 82.6}),
        ("MI250X", 560, {"bf16": 383, "fp32": 47.9}),
        ("MI300X", 750, {"bf16": 1307, "tf32": 653.7, "fp32": 163.4}),
        ("TPU v2", 280, {"bf16": 46}),
        ("TPU v3", 450, {"bf16": 123}),
        ("TPU v4", 192, {"bf16": 275}),
    )
)


def machine(name: str) -> Machine:
    """Return the accelerator that a name means: the listed one all of whose words it has, or the first of its number.

    Raises:
        UsageError: none is called so.

    >>> machine("NVIDIA H100 SXM5 80GB").name
    'H100 SXM'
    >>> machine("A100").power_w
    400
    """
    wanted = set(_words(name))
    whole = [m for m in MACHINES if set(_words(m.name)) <= wanted]
    if whole:
        return max(whole, key=lambda m: len(_words(m.name)))
    # Its form is not said, as in "A100": the first that is listed of those with this number.
    family = [m for m in MACHINES if any(word in wanted for word in _words(m.name) if any(map(str.isdigit, word)))]
    maker = {"tpu", "rtx"} & wanted
    for m in family:
        if not maker or maker <= set(_words(m.name)):
            return m
    known = ", ".join(m.name for m in MACHINES)
    raise UsageError(expected=f"one of {known}", got=repr(name), remedy="name one, or calibrate: erg calibrate")


def _words(name: str) -> list[str]:
    text = re.sub(r"(sxm)\d", r"\1", name.lower())
    return re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", text)
