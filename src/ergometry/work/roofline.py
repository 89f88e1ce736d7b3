"""The two rooflines of a machine, fitted to kernels with known work: what it can do in a second, and what that costs.

Time: a kernel of F FLOP and Q bytes takes at least max(F / peak FLOP/s, Q / peak byte/s). Energy, with no such
maximum, since both kinds of work draw power at the same time:

    E = P_static · t + Σ_dtype e_flop · F + e_byte · Q + e_link · (bytes over links)

Every term is known to be at or above zero, and a kernel's joules tell them apart only where kernels differ in
intensity. Source: Choi, Bedard, Fowler, Vuduc, "A roofline model of energy", IPDPS 2013.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import InvalidSeries

Array = npt.NDArray[np.float64]

STATIC, BYTE, LINK = "static_w", "e_byte", "e_link"


@dataclass(frozen=True)
class Kernel:
    """One timed stretch of one kind of work.

    ``flops`` by dtype, ``bytes`` to and from memory, ``link_bytes`` between devices; ``joules`` and their standard
    error ``stderr_j`` without the part that all stretches share; NaN where there is no reading.
    """

    name: str
    seconds: float
    flops: Mapping[str, float] = field(default_factory=dict)
    bytes: float = 0.0
    link_bytes: float = 0.0
    joules: float = math.nan
    stderr_j: float = math.nan

    @property
    def power_w(self) -> float:
        """Mean power, W."""
        return self.joules / self.seconds

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOP per byte."""
        return sum(self.flops.values()) / self.bytes if self.bytes else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the kernel as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EnergyFit:
    """Coefficients of the energy roofline: ``values`` (k,) of ``names``, their ``covariance`` (k, k), and the misfit.

    Names: ``static_w`` (W), ``e_flop:<dtype>`` (J/flop), ``e_byte``, ``e_link`` (J/byte). ``rms`` is the root mean
    square of (measured - fitted) / measured; ``chi2_dof`` the misfit over what the stretches' own errors allow.
    """

    names: tuple[str, ...]
    values: Array
    covariance: Array
    rms: float
    chi2_dof: float

    def stderr(self, name: str) -> float:
        """Return the standard error of one coefficient."""
        i = self.names.index(name)
        return float(math.sqrt(self.covariance[i, i]))


def design(kernels: Sequence[Kernel]) -> tuple[tuple[str, ...], Array]:
    """Return the names of the coefficients that the kernels' work calls for, and their matrix (n, k).

    Joules are the matrix times the coefficients.
    """
    dtypes = sorted({dtype for kernel in kernels for dtype, flops in kernel.flops.items() if flops})
    names = (STATIC, *(f"e_flop:{dtype}" for dtype in dtypes), BYTE)
    columns = [
        [kernel.seconds for kernel in kernels],
        *([kernel.flops.get(dtype, 0.0) for kernel in kernels] for dtype in dtypes),
        [kernel.bytes for kernel in kernels],
    ]
    if any(kernel.link_bytes for kernel in kernels):
        names, columns = (*names, LINK), [*columns, [kernel.link_bytes for kernel in kernels]]
    return names, np.array(columns, dtype=np.float64).T


def fit_energy(kernels: Sequence[Kernel], *, shared_rel_stderr: float = 0.0) -> EnergyFit:
    """Fit the energy roofline by non-negative least squares, each stretch weighted by its own error.

    The covariance is that of the unconstrained fit (so a coefficient held at zero keeps an error), widened by the
    misfit where the model does not hold to within the stretches' errors, with the error that all readings share (the
    sensor's gain, which scales every coefficient alike) on top.

    Args:
        kernels: stretches with joules; those without are left out.
        shared_rel_stderr: relative standard error common to all joules.

    Raises:
        InvalidSeries: fewer stretches with joules than coefficients; measure more kinds of kernels.
    """
    from scipy.optimize import nnls

    used = [k for k in kernels if math.isfinite(k.joules) and k.seconds > 0]
    names, matrix = design(used)
    if len(used) < len(names):
        raise InvalidSeries(
            expected=f"at least {len(names)} stretches with joules for {len(names)} coefficients",
            got=f"{len(used)}",
            remedy="measure more kinds of kernels",
        )
    joules = np.array([k.joules for k in used])
    own = np.array([k.stderr_j if math.isfinite(k.stderr_j) else 0.0 for k in used])
    weight = 1.0 / np.maximum(own, 1e-3 * np.abs(joules) + 1e-12)
    weighted = matrix * weight[:, None]
    scale = np.linalg.norm(weighted, axis=0)  # columns differ by twelve orders of magnitude
    scaled = weighted / scale
    solved, _ = nnls(scaled, joules * weight)
    values = solved / scale
    misfit = matrix @ values - joules
    chi2_dof = float(np.sum((misfit * weight) ** 2) / max(len(used) - len(names), 1))
    covariance = np.linalg.pinv(scaled.T @ scaled) / np.outer(scale, scale) * max(1.0, chi2_dof)
    covariance = covariance + shared_rel_stderr**2 * np.outer(values, values)
    spent = joules > 0
    rms = float(np.sqrt(np.mean((misfit[spent] / joules[spent]) ** 2))) if spent.any() else math.nan
    return EnergyFit(names, values, covariance, rms, chi2_dof)


def peak_rates(kernels: Sequence[Kernel]) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Return the peak FLOP/s by dtype and the peak byte/s, each (rate, standard error), that the kernels reached.

    A peak is the best stretch's mean rate: what disturbs a stretch can only slow it. Its error is how far the median of
    the same kind of kernel's stretches lies below, or NaN of a single one.
    """
    dtypes = sorted({dtype for kernel in kernels for dtype, flops in kernel.flops.items() if flops})
    return {dtype: _best(kernels, dtype) for dtype in dtypes}, _best(kernels, None)


def _best(kernels: Sequence[Kernel], dtype: str | None) -> tuple[float, float]:
    """Return the best stretch's rate and its error: of FLOP of one dtype, or (None) of bytes."""
    kinds: dict[str, list[float]] = {}
    for kernel in kernels:
        amount = kernel.bytes if dtype is None else kernel.flops.get(dtype, 0.0)
        if amount > 0 and kernel.seconds > 0:
            kinds.setdefault(kernel.name, []).append(amount / kernel.seconds)
    if not kinds:
        return math.nan, math.nan
    rates = max(kinds.values(), key=max)
    return max(rates), max(rates) - float(np.median(rates)) if len(rates) > 1 else math.nan


def roofline_s(
    flops: Mapping[str, float], moved_bytes: float, peak_flop_per_s: Mapping[str, float], peak_byte_per_s: float
) -> float:
    """Return the least seconds that some work takes: max(Σ F/peak, Q/peak byte/s); dtypes share the arithmetic units.

    A dtype without a peak is taken at the fastest known.

    >>> roofline_s({"fp32": 2e9}, 1e8, {"fp32": 1e12}, 1e10)
    0.01
    """
    fastest = max(peak_flop_per_s.values(), default=math.nan)
    arithmetic = sum(amount / peak_flop_per_s.get(dtype, fastest) for dtype, amount in flops.items() if amount)
    return max(arithmetic, moved_bytes / peak_byte_per_s)
