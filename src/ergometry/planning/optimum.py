"""Optimum: the best use of operating points under budgets, by the lower convex hull of their (time, energy).

Every point reaches the end of the run in some time T for some energy E. Spending a share x_i of the progress at point
i, Σx_i = 1, takes Σx_iT_i and Σx_iE_i: what can be reached is the convex hull of the points, of which only the lower
left edge, where less time costs more energy, is ever wanted. On it energy is a convex function of time, so budgets of
energy and of time cut out one stretch, an objective that is linear in both is least at a corner of that stretch, and
two neighbouring points, shared in time, suffice. A budget of power, which must hold at any time, strikes points out
first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ergometry.core.budget import Budget

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Mixture:
    """Shares of the progress by point, one or two, and what they take.

    Attributes:
        shares: position of a point -> share of the progress made there.
        time_s: Σ shares·time.
        energy_j: Σ shares·energy.
        binding: names of the budgets that hold this back from a better one.
    """

    shares: Mapping[int, float]
    time_s: float
    energy_j: float
    binding: tuple[str, ...] = ()


@dataclass(frozen=True)
class Infeasible:
    """Why no use of the points meets a budget: which limits bind, and the nearest that could be met, by name."""

    binding: tuple[str, ...]
    nearest: Mapping[str, float]


def lower_hull(time_s: Array, energy_j: Array) -> Index:
    """Return the corners (k,) of the lower left edge of the points' convex hull, from the fastest to the cheapest.

    Points whose time or energy is not finite are left out.

    >>> lower_hull(np.array([1.0, 2.0, 3.0, 2.5]), np.array([9.0, 8.0, 3.0, 9.0])).tolist()
    [0, 2]
    """
    finite = np.flatnonzero(np.isfinite(time_s) & np.isfinite(energy_j))
    if not len(finite):
        return finite
    order = finite[np.lexsort((energy_j[finite], time_s[finite]))]
    # Only points cheaper than every faster one can be corners: with many points these are few.
    least = np.minimum.accumulate(energy_j[order])
    keep = np.concatenate(([True], energy_j[order][1:] < least[:-1]))
    candidates = order[keep]
    t, e = time_s[candidates].tolist(), energy_j[candidates].tolist()  # plain floats: ten times as quick one by one
    kept: list[int] = []
    for i in range(len(t)):
        while len(kept) > 1 and _above(t, e, kept[-2], kept[-1], i):
            kept.pop()
        kept.append(i)
    return np.asarray(candidates[kept])


def _above(t: Sequence[float], e: Sequence[float], a: int, b: int, c: int) -> bool:
    """Say whether point ``b`` lies on or above the line from ``a`` to ``c``."""
    return (e[b] - e[a]) * (t[c] - t[a]) >= (e[c] - e[a]) * (t[b] - t[a])


def best(
    time_s: Array,
    energy_j: Array,
    power_w: Array,
    budget: Budget,
    *,
    energy_weight: float = 1.0,
    time_price_w: float = 0.0,
) -> Mixture | Infeasible:
    """Return the use of the points that makes ``energy_weight``·E + ``time_price_w``·T least within a budget.

    Args:
        time_s: (n,) time to the end of the run at each point; NaN or infinity where it is never reached.
        energy_j: (n,) energy to the end.
        power_w: (n,) largest mean power that the point may draw.
        budget: limits; ``slowdown`` is against the fastest point, whatever its power.
        energy_weight: of energy in the objective, 0 or more.
        time_price_w: price of time in the objective, J/s.

    Returns:
        A mixture of at most two points; or why there is none.
    """
    usable = np.isfinite(time_s) & np.isfinite(energy_j)
    limit_s = math.inf if budget.time is None else budget.time
    if budget.slowdown is not None and np.any(usable):
        limit_s = min(limit_s, (1.0 + budget.slowdown) * float(np.min(time_s[usable])))
    time_names = tuple(
        name for name, limit in (("time", budget.time), ("slowdown", budget.slowdown)) if limit is not None
    )
    limit_j = math.inf if budget.energy is None else budget.energy
    allowed = usable if budget.power is None else usable & (power_w <= budget.power)
    if not np.any(allowed):
        least = float(np.min(power_w[usable])) if np.any(usable) else math.nan
        return Infeasible(("power",), {"power": least})
    corners = np.flatnonzero(allowed)[lower_hull(time_s[allowed], energy_j[allowed])]
    t, e = time_s[corners], energy_j[corners]
    slowest = _time_within(t, e, limit_j)  # the least time whose energy is within the limit
    if limit_s < t[0] or limit_j < e[-1] or slowest > limit_s:
        return _infeasible(t, e, limit_s, limit_j, time_names, power=budget.power is not None)
    first, last = slowest, min(limit_s, float(t[-1]))
    wanted = float(t[np.argmin(energy_weight * e + time_price_w * t)])
    chosen = min(max(wanted, first), last)
    binding = ("energy",) if wanted < first else time_names if wanted > last else ()
    if budget.power is not None and _power_binds(time_s, energy_j, usable, allowed, energy_weight, time_price_w):
        binding = (*binding, "power")
    return _at(corners, t, e, chosen, binding)


def _power_binds(
    t: Array, e: Array, usable: npt.NDArray[np.bool_], allowed: npt.NDArray[np.bool_], w: float, p: float
) -> bool:
    objective = w * e + p * t
    return bool(np.min(objective[usable]) < np.min(objective[allowed]))


def _time_within(t: Array, e: Array, limit_j: float) -> float:
    """Return the shortest time on the edge at which energy is within a limit; infinite if it never is."""
    if e[0] <= limit_j:
        return float(t[0])
    if e[-1] > limit_j:
        return math.inf
    return float(np.interp(limit_j, e[::-1], t[::-1]))


def _at(corners: Index, t: Array, e: Array, time_s: float, binding: tuple[str, ...]) -> Mixture:
    """Return the mixture of neighbouring corners that takes a time."""
    right = int(np.searchsorted(t, time_s, side="left"))
    if right >= len(t) or t[right] == time_s or right == 0:
        right = min(right, len(t) - 1)
        return Mixture({int(corners[right]): 1.0}, float(t[right]), float(e[right]), binding)
    left = right - 1
    share = float((time_s - t[left]) / (t[right] - t[left]))
    energy_j = float((1 - share) * e[left] + share * e[right])
    return Mixture({int(corners[left]): 1.0 - share, int(corners[right]): share}, time_s, energy_j, binding)


def _infeasible(
    t: Array, e: Array, limit_s: float, limit_j: float, time_names: tuple[str, ...], *, power: bool
) -> Infeasible:
    nearest: dict[str, float] = {}
    binding: list[str] = []
    if limit_s < t[0]:
        nearest["time"] = float(t[0])
        binding += time_names
    if limit_j < e[-1]:
        nearest["energy"] = float(e[-1])
        binding.append("energy")
    if not binding:  # each could be met, and not both
        nearest = {"time": _time_within(t, e, limit_j), "energy": float(np.interp(limit_s, t, e))}
        binding = [*time_names, "energy"]
    return Infeasible((*binding, "power") if power else tuple(binding), nearest)
