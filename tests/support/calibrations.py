"""A calibration with known coefficients, and kernels as a machine with known ones shows them."""

from __future__ import annotations

import itertools

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.work.coefficients import Coefficients
from ergometry.work.roofline import Kernel, roofline_s

FOUND = Coefficients(
    machine="0123456789ab",
    device="cuda:0",
    board="A Board",
    date="2026-11-22T10:00:00+00:00",
    static_w=Estimate(60.0, 1.0, "W", Provenance.DERIVED, "fit"),
    e_flop={"bf16": Estimate(0.6e-12, 0.02e-12, "J/flop", Provenance.DERIVED, "fit")},
    e_byte=Estimate(3e-11, 1e-12, "J/byte", Provenance.DERIVED, "fit"),
    e_link=None,
    peak_flop_per_s={"bf16": Estimate(4e14, 1e12, "flop/s", Provenance.MEASURED, "best")},
    peak_byte_per_s=Estimate(2e12, 1e10, "byte/s", Provenance.MEASURED, "best"),
    names=("static_w", "e_flop:bf16", "e_byte"),
    covariance=np.diag([1.0, 4e-28, 1e-24]),
    conditions={"seconds": 90.0, "kernels": []},
)

STATIC_W, E_BF16, E_FP32, E_BYTE = 60.0, 0.6e-12, 8e-12, 3e-11
PEAKS = {"bf16": 400e12, "fp32": 50e12}
BANDWIDTH = 2e12


def machine(noise: float = 0.0, seed: int = 0, *, rounds: int = 3, static_w: float = STATIC_W) -> list[Kernel]:
    """Return kernels as a machine with those coefficients would show them."""
    random = np.random.default_rng(seed)
    kinds = [("idle", {}, 0.0), ("copy", {}, 8e11)]
    kinds += [(f"{d} at {i}", {d: i * 4e11}, 4e11) for d, i in itertools.product(PEAKS, (1.0, 16.0, 64.0, 512.0))]
    found = []
    for name, flops, moved in kinds * rounds:
        seconds = roofline_s(flops, moved, PEAKS, BANDWIDTH) or 2.0
        joules = static_w * seconds + E_BF16 * flops.get("bf16", 0) + E_FP32 * flops.get("fp32", 0) + E_BYTE * moved
        stderr = noise * joules
        found.append(
            Kernel(name, seconds, flops, moved, joules=joules + stderr * random.standard_normal(), stderr_j=stderr)
        )
    return found
