"""Exact moments mode by mode, against the same chain carried as matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ergometry.langevin.curvature import Parabola
from ergometry.langevin.gaussian import Quadratic, State, step, wasserstein_sq
from ergometry.langevin.modes import exact_modes

TEMPERATURE, STD, ETA, CONTROLS = 0.3, 1.4, 0.08, [0.2, 0.5, 1.0, 1.5]


def losses(same, seed=0, groups=3, n=4):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(groups, n, n))
    if same:
        roots[:] = roots[0]
    return roots @ roots.transpose(0, 2, 1) / n, rng.normal(size=(groups, n)), rng.normal(size=groups)


def parabola_of(hessian, linear, constant):
    return Parabola(*(torch.from_numpy(part) for part in (hessian, linear, constant)))


@pytest.mark.parametrize("same", [True, False])
def test_modes_are_the_chain_in_other_coordinates(same):
    hessian, linear, constant = losses(same)
    modes = exact_modes(parabola_of(hessian, linear, constant), STD, TEMPERATURE, ETA, CONTROLS)
    prior = Quadratic.trap(TEMPERATURE / STD**2 * np.eye(4))
    for g in range(3):
        loss = Quadratic(hessian[g], linear[g], constant[g], np.zeros((4, 1)))
        first = state = State.prior(4, STD)
        for control in CONTROLS:
            u = loss.scaled(control).plus(prior)
            state = step(state, u, ETA, TEMPERATURE).state
        assert modes.mean[g] == pytest.approx(state.mean, rel=1e-11)
        assert modes.covariance[g] == pytest.approx(state.covariance, rel=1e-10, abs=1e-12)
        assert modes.entropy_change[g] == pytest.approx(state.entropy - first.entropy, rel=1e-10)
        assert modes.wasserstein_sq[g] == pytest.approx(wasserstein_sq(first, state), rel=1e-9)
        assert modes.delta_f[g] == pytest.approx(u.free_energy(TEMPERATURE) - prior.free_energy(TEMPERATURE), rel=1e-10)
        least = np.linalg.solve(hessian[g], linear[g])
        depth = 0.5 * least @ hessian[g] @ least - linear[g] @ least + constant[g]
        assert modes.least_loss[g] == pytest.approx(depth, rel=1e-9)
    assert (modes.hessian is not None) is same


def test_a_flat_direction_has_no_least_loss():
    hessian, linear, constant = losses(same=True)
    hessian[:] = np.diag([1.0, 2.0, 3.0, 0.0])
    modes = exact_modes(parabola_of(hessian, linear, constant), STD, TEMPERATURE, ETA, CONTROLS)
    assert np.all(np.isnan(modes.least_loss))
    assert np.all(np.isfinite(modes.mean))


def test_the_marginal_entropy_is_that_of_the_pooled_covariance():
    hessian, linear, constant = losses(same=True, groups=3)
    modes = exact_modes(parabola_of(hessian, linear, constant), STD, TEMPERATURE, ETA, CONTROLS)
    pooled = modes.covariance[0] + np.cov(modes.mean[:2].T, ddof=1)
    expected = 0.5 * math.log(np.linalg.det(2 * math.pi * math.e * pooled))
    assert modes.marginal_entropy(np.array([0, 1])) == pytest.approx(expected, rel=1e-10)
