"""Directional derivatives by central differences, with the step chosen where rounding meets truncation.

The central difference D(h) = [F(θ+hv) − F(θ−hv)]/2h is off by truncation, which grows as h², and by rounding, which
grows as 1/h. How large either is depends on the function, so it is measured: D is taken at steps a factor apart, and
where two neighbours differ least, truncation of the larger and rounding of the smaller balance. Their difference is
the error that is stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ergometry.landscape.point import length

_RATIO = 4.0
_STEPS = 16
_WORSE = 2
"""How many steps on end may be worse than the best before the search ends."""


@dataclass(frozen=True)
class Step:
    """A step: its length h along a unit vector, the relative error of D there, and the evaluations it cost."""

    length: float
    error: float
    evaluations: int


def difference(at: Callable[[float], Tensor], h: float) -> Tensor:
    """Return the central difference [F(h) − F(−h)]/2h."""
    return (at(h) - at(-h)) / (2.0 * h)


def choose_step(at: Callable[[float], Tensor], dtype: torch.dtype, scale: float) -> Step:
    """Return the step at which central differences of F are best.

    Steps are tried from large to small, a factor 4 apart, from 16 ε^⅓·scale, until two on end are worse than
    the best. Halfway (on a logarithmic scale) between the two steps whose D differ least, rounding and truncation are
    both below that difference, which is the error stated: an estimate, not a bound.

    Args:
        at: F(t), t the distance from θ along a unit vector.
        dtype: in which θ and F are computed.
        scale: the length over which F varies, if nothing better is known max(|θ|, 1).

    Source: the balance of errors is in Gill, Murray & Wright, Practical Optimization (1981), section 8.6; the choice
    by successive differences is that of Ridders (1982).
    """
    h = 16.0 * torch.finfo(dtype).eps ** (1.0 / 3.0) * scale
    before, best, worse, tried = difference(at, h), (math.inf, h), 0, 1
    while tried < _STEPS and worse < _WORSE:
        h /= _RATIO
        now = difference(at, h)
        tried += 1
        apart = length(now - before) / max(length(now), 1e-300)
        if apart < best[0]:  # False for NaN: the larger step overflowed
            best, worse = (apart, h * _RATIO**0.5), 0
        elif math.isfinite(best[0]):
            worse += 1
        before = now
    return Step(best[1], best[0], 2 * tried)
