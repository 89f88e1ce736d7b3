"""The energy model of one device in one run: calibrated coefficients, refined by the run's own windows.

Joules of a window with t seconds, F FLOP of a dtype, Q bytes of memory traffic and L bytes over links are taken as
E = P_static·t + Σ e_flop·F + e_byte·Q + e_link·L.
The calibration gives the coefficients c₀ with covariance C₀. What it cannot know, that real operators cost more or
less than its kernels, is added to C₀ as a relative error of each. The run's windows, X c = E with variances R, then
refine it as Gaussian knowledge does:

    C = (C₀⁻¹ + XᵀR⁻¹X)⁻¹        c = C (C₀⁻¹c₀ + XᵀR⁻¹E)        c ≥ 0

Directions that the run's windows tell apart are thus fitted to the run; those that they do not stay the calibration's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.work.coefficients import Coefficients
from ergometry.work.roofline import BYTE, LINK, STATIC

Array = npt.NDArray[np.float64]

REL_MODEL = 0.1
"""Relative standard error of applying a kernel's coefficient to another operator, of each coefficient, independently.

Published models of energy per instruction miss by 11 to 14 % on kernels not fitted to (Accel-Sim's AccelWattch, 2021,
on Volta), of which a part is measurement."""


@dataclass(frozen=True)
class EnergyModel:
    """Coefficients: ``values`` (k,) of ``names``, with their ``covariance`` (k, k).

    Names are ``static_w``, ``e_flop:<dtype>`` for each dtype, ``e_byte``, and ``e_link`` where it is calibrated.
    """

    names: tuple[str, ...]
    values: Array
    covariance: Array

    @classmethod
    def prior(cls, found: Coefficients, dtypes: Sequence[str], rel_model: float = REL_MODEL) -> EnergyModel:
        """Return a calibration's coefficients for the dtypes of a run, with the error of applying them there.

        A dtype that was not calibrated takes the dearest of the calibrated ones, and as much again as its error.
        """
        stored = {name: i for i, name in enumerate(found.names)}
        names = (STATIC, *(f"e_flop:{dtype}" for dtype in dtypes), BYTE, *([LINK] if found.e_link else []))
        dearest = max((q.value or 0.0 for q in found.e_flop.values()), default=0.0)
        quantities = {STATIC: found.static_w, BYTE: found.e_byte, **{f"e_flop:{d}": q for d, q in found.e_flop.items()}}
        if found.e_link is not None:
            quantities[LINK] = found.e_link
        values = np.array([quantities[n].value or 0.0 if n in quantities else dearest for n in names])
        own = np.array([quantities[n].stderr or 0.0 if n in quantities else dearest for n in names])
        covariance = np.diag(own**2)
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if i != j and a in stored and b in stored:
                    covariance[i, j] = found.covariance[stored[a], stored[b]]
        return cls(names, values, covariance + np.diag((rel_model * values) ** 2))

    def refined(self, work: Array, joules: Array, variance: Array) -> EnergyModel:
        """Return the model after the run's own windows.

        Args:
            work: (w, k) of each window: seconds, FLOP by dtype, bytes, in the order of ``names``.
            joules: (w,) measured.
            variance: (w,) of the measured joules, J²; the error that all windows share left out.
        """
        keep = np.isfinite(work).all(axis=1) & np.isfinite(joules) & (variance > 0)
        scale = np.sqrt(np.diag(self.covariance))
        free = scale > 0
        if not keep.any() or not free.any():
            return self
        unit = np.where(free, scale, 1.0)
        # In units of the prior's errors: the coefficients differ by twelve orders of magnitude.
        design = work[keep] * unit / np.sqrt(variance[keep])[:, None]
        offset = (joules[keep] - work[keep] @ self.values) / np.sqrt(variance[keep])
        prior = self.covariance / np.outer(unit, unit)
        gram = design.T @ design
        # (P⁻¹ + G)⁻¹ = P (1 + G P)⁻¹, which needs no inverse of a singular prior.
        posterior = np.linalg.solve((np.eye(len(unit)) + gram @ prior).T, prior.T).T
        posterior = 0.5 * (posterior + posterior.T)
        shift = posterior @ (design.T @ offset)
        values, covariance = self.values + unit * shift, posterior * np.outer(unit, unit)
        return EnergyModel(self.names, *_not_negative(values, covariance))

    def joules(self, work: Array) -> Array:
        """Return the joules of work (…, k) in its parts (…, k): static, FLOP of each dtype, bytes."""
        return np.asarray(work * self.values)

    def stderr_j(self, work: Array) -> Array:
        """Return the standard error of the joules of work (…, k), all parts together (…,)."""
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j->...", work, self.covariance, work).clip(min=0.0)))


def _not_negative(values: Array, covariance: Array) -> tuple[Array, Array]:
    """Return the Gaussian given that no coefficient is below zero: those that were are held at zero."""
    for _ in range(len(values)):
        worst = int(np.argmin(values))
        if values[worst] >= 0:
            break
        gain = covariance[:, worst] / covariance[worst, worst]
        spread = covariance[worst, worst]
        values = values - gain * values[worst]
        covariance = covariance - np.outer(gain, covariance[worst])
        values[worst] = 0.0
        covariance[worst, worst] = spread  # how far from zero it may yet be
    return values, covariance


def component_of(name: str) -> str:
    """Return the component that a coefficient's joules are of.

    >>> [component_of(name) for name in ("static_w", "e_flop:bf16", "e_byte", "e_link")]
    ['static', 'compute', 'memory', 'communication']
    """
    return {STATIC: "static", BYTE: "memory", LINK: "communication"}.get(name, "compute")


def components(model: EnergyModel, work: Array) -> dict[str, tuple[Array, Array]]:
    """Return the joules and standard errors (…,) of each component of some work (…, k), those that the model has."""
    of = [component_of(name) for name in model.names]
    found = {}
    for component in dict.fromkeys(of):
        part = np.where(np.array(of) == component, work, 0.0)
        found[component] = (np.asarray(model.joules(part).sum(axis=-1)), model.stderr_j(part))
    return found


class Terms(NamedTuple):
    """What a division adds up to, over all stretches or over some: sums of these are those of all of them.

    ``joules`` (m,) of each part; ``slopes`` (m, k), their derivatives by the coefficients; ``between`` (m,),
    Σ E·share·(1 - share), what moves if one part is dearer than the model says.
    """

    joules: Array
    slopes: Array
    between: Array

    def __add__(self, other: object) -> Terms:
        """Return the terms of both."""
        if not isinstance(other, Terms):
            return NotImplemented
        return Terms(self.joules + other.joules, self.slopes + other.slopes, self.between + other.between)


def shares_of(work: Array, model: EnergyModel) -> Array:
    """Return the share (n, m) of each part of each stretch in its joules, by the model; even where there is no work."""
    parts = work @ model.values
    whole = parts.sum(axis=1, keepdims=True)
    return np.asarray(np.where(whole > 0, parts / np.where(whole > 0, whole, 1.0), 1.0 / work.shape[1]))


def terms(spent_j: Array, work: Array, model: EnergyModel) -> Terms:
    """Return the terms of :func:`divided` for some stretches."""
    shares = shares_of(work, model)
    whole = (work @ model.values).sum(axis=1)
    per_joule = np.where(whole > 0, spent_j / np.where(whole > 0, whole, 1.0), 0.0)
    # d(share of part p)/dc_k = (x_pk - share_p Σ x_k) / whole.
    slopes = np.tensordot(per_joule, work, axes=1) - (shares * per_joule[:, None]).T @ work.sum(axis=1)
    return Terms(spent_j @ shares, slopes, spent_j @ (shares * (1.0 - shares)))


def divided(spent_j: Array, work: Array, model: EnergyModel, rel_model: float = REL_MODEL) -> tuple[Array, Array]:
    """Divide measured joules among parts in proportion to what the model gives each; return joules and standard errors.

    Args:
        spent_j: (n,) measured joules of each stretch.
        work: (n, m, k) of each part of each stretch.
        model: the coefficients.
        rel_model: relative error of the model's joules of one part against another's, the same in all stretches.

    Returns:
        (m,) joules, which sum to ``spent_j``'s sum, and (m,) standard errors: of the coefficients, to first order,
        and of the model. A stretch whose parts have no work at all is shared out evenly.
    """
    found = terms(spent_j, work, model)
    return found.joules, np.sqrt(division_variance(found, model, rel_model))


def division_variance(found: Terms, model: EnergyModel, rel_model: float = REL_MODEL) -> Array:
    """Return the variance (m,), J², of the parts of a division, by its terms."""
    variance = np.einsum("pi,ij,pj->p", found.slopes, model.covariance, found.slopes).clip(min=0.0)
    within = np.sqrt(2.0) * rel_model * found.between.clip(min=0.0)
    return np.asarray(variance + within**2)


def work_matrix(
    seconds: Array, flops: Mapping[str, Array], moved_bytes: Array, model: EnergyModel, link_bytes: Array | float = 0.0
) -> Array:
    """Return work (…, k) in the order of a model's coefficients; what a dtype has no entry for is zero."""
    zero = np.zeros_like(np.asarray(seconds, dtype=np.float64))
    amounts = {STATIC: seconds, BYTE: moved_bytes, LINK: link_bytes, **{f"e_flop:{d}": f for d, f in flops.items()}}
    return np.stack([zero + amounts.get(name, 0.0) for name in model.names], axis=-1)
