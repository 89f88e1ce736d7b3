"""The optimum on the hull against a linear program over all points, and what must hold of any plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from ergometry.core.budget import Budget
from ergometry.planning.optimum import Infeasible, Mixture, best, lower_hull


def points(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    t = rng.uniform(1.0, 10.0, n)
    e = 50.0 / t + rng.uniform(0.0, 20.0, n)
    return t, e, e / t


def by_program(t, e, p, budget: Budget, energy_weight: float, price: float):
    """Solve the same as a linear program over the shares of all points."""
    allowed = np.ones(len(t), bool) if budget.power is None else p <= budget.power
    if not allowed.any():
        return None
    limit_s = math.inf if budget.time is None else budget.time
    if budget.slowdown is not None:
        limit_s = min(limit_s, (1 + budget.slowdown) * t.min())
    rows, right = [], []
    if math.isfinite(limit_s):
        rows.append(t[allowed])
        right.append(limit_s)
    if budget.energy is not None:
        rows.append(e[allowed])
        right.append(budget.energy)
    found = linprog(
        energy_weight * e[allowed] + price * t[allowed],
        A_ub=np.array(rows) if rows else None,
        b_ub=right or None,
        A_eq=np.ones((1, allowed.sum())),
        b_eq=[1.0],
    )
    return found.fun if found.status == 0 else None


limit = st.one_of(st.none(), st.floats(0.5, 60.0))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    energy=limit,
    time_s=limit,
    power=limit,
    slowdown=st.one_of(st.none(), st.floats(0, 3)),
    weight=st.floats(0, 1),
    price=st.floats(0, 20),
)
def test_the_optimum_is_that_of_the_linear_program_over_all_points(
    seed, energy, time_s, power, slowdown, weight, price
) -> None:
    t, e, p = points(seed)
    budget = Budget(energy=energy, power=power, time=time_s, slowdown=slowdown)
    found = best(t, e, p, budget, energy_weight=weight, time_price_w=price)
    expected = by_program(t, e, p, budget, weight, price)
    if expected is None:
        assert isinstance(found, Infeasible)
        return
    assert isinstance(found, Mixture)
    assert weight * found.energy_j + price * found.time_s == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert len(found.shares) <= 2
    assert sum(share * t[i] for i, share in found.shares.items()) == pytest.approx(found.time_s)
    assert sum(share * e[i] for i, share in found.shares.items()) == pytest.approx(found.energy_j)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.floats(0.1, 10.0), energy=st.floats(5.0, 60.0), time_s=st.floats(1.0, 12.0))
def test_scaling_all_joules_scales_the_plan_and_leaves_its_choice(seed, c, energy, time_s) -> None:
    t, e, p = points(seed)
    one = best(t, e, p, Budget(energy=energy, time=time_s))
    other = best(t, c * e, c * p, Budget(energy=c * energy, time=time_s))
    assert type(one) is type(other)
    if isinstance(one, Mixture) and isinstance(other, Mixture):
        assert other.energy_j == pytest.approx(c * one.energy_j)
        assert list(one.shares) == list(other.shares)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), energy=st.floats(5.0, 60.0), time_s=st.floats(1.0, 12.0), more=st.floats(1.0, 2.0))
def test_more_budget_never_gives_a_worse_plan(seed, energy, time_s, more) -> None:
    t, e, p = points(seed)
    tight = best(t, e, p, Budget(energy=energy, time=time_s))
    for budget in (Budget(energy=more * energy, time=time_s), Budget(energy=energy, time=more * time_s), Budget()):
        loose = best(t, e, p, budget)
        if isinstance(tight, Mixture):
            assert isinstance(loose, Mixture)
            assert loose.energy_j <= tight.energy_j * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_hull_falls_ever_less_steeply_and_lies_below_every_point(seed) -> None:
    t, e, _ = points(seed)
    hull = lower_hull(t, e)
    slopes = np.diff(e[hull]) / np.diff(t[hull])
    assert np.all(slopes < 0)
    assert np.all(np.diff(slopes) > 0)
    edge = np.interp(t, t[hull], e[hull])
    inside = t >= t[hull[0]]
    assert np.all(e[inside] >= edge[inside] - 1e-9)


def test_what_cannot_be_met_names_the_nearest_that_can() -> None:
    t, e, p = np.array([1.0, 2.0, 4.0]), np.array([10.0, 6.0, 4.0]), np.array([10.0, 3.0, 1.0])
    assert best(t, e, p, Budget(time=0.5)) == Infeasible(("time",), {"time": 1.0})
    assert best(t, e, p, Budget(energy=3.0)) == Infeasible(("energy",), {"energy": 4.0})
    assert best(t, e, p, Budget(power=0.5)) == Infeasible(("power",), {"power": 1.0})
    assert best(t, e, p, Budget(energy=6.0, time=1.5)) == Infeasible(
        ("time", "energy"), {"time": 2.0, "energy": pytest.approx(8.0)}
    )
    assert best(t, e, p, Budget(power=3.0, time=1.0)) == Infeasible(("time", "power"), {"time": 2.0})


def test_what_binds_is_named() -> None:
    t, e, p = np.array([1.0, 2.0, 4.0]), np.array([10.0, 6.0, 4.0]), np.array([10.0, 3.0, 1.0])
    free = best(t, e, p, Budget())
    assert isinstance(free, Mixture)
    assert (free.shares, free.binding) == ({2: 1.0}, ())
    held = best(t, e, p, Budget(time=3.0))
    assert isinstance(held, Mixture)
    assert held.binding == ("time",)
    assert held.shares == {1: pytest.approx(0.5), 2: pytest.approx(0.5)}
    slowed = best(t, e, p, Budget(slowdown=1.0))
    assert isinstance(slowed, Mixture)
    assert (slowed.shares, slowed.binding) == ({1: 1.0}, ("slowdown",))
    hurried = best(t, e, p, Budget(energy=6.0), energy_weight=0.0, time_price_w=1.0)
    assert isinstance(hurried, Mixture)
    assert (hurried.shares, hurried.binding) == ({1: 1.0}, ("energy",))
    capped = best(t, e, p, Budget(power=3.0), energy_weight=0.0, time_price_w=1.0)
    assert isinstance(capped, Mixture)
    assert (capped.shares, capped.binding) == ({1: 1.0}, ("power",))


def test_points_that_never_reach_the_end_are_left_out() -> None:
    t, e, p = np.array([np.inf, 2.0, np.nan]), np.array([1.0, 6.0, 0.1]), np.array([1.0, 3.0, 1.0])
    found = best(t, e, p, Budget())
    assert isinstance(found, Mixture)
    assert found.shares == {1: 1.0}
    assert isinstance(best(t[[0, 2]], e[[0, 2]], p[[0, 2]], Budget()), Infeasible)
