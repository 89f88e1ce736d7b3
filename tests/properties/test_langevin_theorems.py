"""The theorems of certified mode on random quadratic losses: means and covariances carried exactly, nothing sampled.

Every inequality is checked to rounding, for the discrete chain at any stable step and for the continuous motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.langevin.gaussian import Quadratic, Relaxation, State, relax, step, wasserstein_sq

ROUNDING = 1e-12


@dataclass(frozen=True)
class Motion:
    """A protocol run on an ensemble of data sets, step by step."""

    states: list[State]
    heats: list[float]
    work: float
    displacement: np.ndarray
    first: Quadratic
    last: Quadratic
    temperature: float
    time: float

    @property
    def heat(self) -> float:
        return math.fsum(self.heats)

    @property
    def path_work(self) -> float:
        return self.states[-1].energy(self.last) - self.states[0].energy(self.first) + self.heat

    @property
    def entropy_production(self) -> float:
        given = self.states[-1].conditional_entropy - self.states[0].conditional_entropy
        return given + self.heat / self.temperature

    @property
    def size(self) -> float:
        """What the terms of an inequality are large against, in nat."""
        energies = [abs(s.energy(u)) for s, u in ((self.states[0], self.last), (self.states[-1], self.last))]
        return 1.0 + (sum(energies) + sum(map(abs, self.heats))) / self.temperature


@st.composite
def motions(draw: st.DrawFn, *, discrete: bool) -> Motion:
    seed, n, p = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    rng = np.random.default_rng(seed)
    temperature, std = draw(st.floats(0.01, 10.0)), draw(st.floats(0.1, 3.0))
    root = rng.normal(size=(n, draw(st.integers(1, 6))))  # a loss may be flat in some directions
    hessian = root @ root.T * draw(st.floats(0.01, 10.0))
    loss = Quadratic.trap(hessian, rng.normal(size=n), rng.normal(size=(n, p)))
    prior = Quadratic.trap(temperature / std**2 * np.eye(n))
    steps = draw(st.integers(1, 12))
    controls = draw(st.lists(st.floats(0.0, 2.0), min_size=steps, max_size=steps))
    steepest = 2.0 * float(np.linalg.eigvalsh(hessian)[-1]) + temperature / std**2
    dt = draw(st.floats(0.01, 1.9)) / steepest
    return run(loss, prior, std, controls, dt, temperature, discrete=discrete)


def run(
    loss: Quadratic,
    prior: Quadratic,
    std: float,
    controls: list[float],
    dt: float,
    temperature: float,
    *,
    discrete: bool,
) -> Motion:
    n, p = loss.tilt.shape
    state, u, work = State.prior(n, std, p), prior, 0.0
    states, heats, displacement = [state], [], np.zeros((n, 1 + p))
    for control in controls:
        switched = loss.scaled(control).plus(prior)
        work += state.energy(switched) - state.energy(u)
        u = switched
        end: Relaxation = (step if discrete else relax)(state, u, dt, temperature)
        state = end.state
        states.append(state)
        heats.append(end.heat)
        displacement = displacement + end.displacement
    return Motion(states, heats, work, displacement, prior, u, temperature, dt * len(controls))


either = pytest.mark.parametrize("discrete", [True, False], ids=["chain", "continuous"])


@either
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_entropy_is_produced_whatever_the_protocol(discrete, data):
    motion = data.draw(motions(discrete=discrete))
    assert motion.entropy_production >= -ROUNDING * motion.size


@either
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_information_is_paid_for_by_entropy_and_heat_at_every_step(discrete, data):
    motion = data.draw(motions(discrete=discrete))
    for before, after, heat in zip(motion.states, motion.states[1:], motion.heats, strict=False):
        gained, spread = after.information - before.information, after.entropy - before.entropy
        assert gained <= spread + heat / motion.temperature + ROUNDING * motion.size
    gained = motion.states[-1].information
    most = motion.states[-1].entropy - motion.states[0].entropy + motion.heat / motion.temperature
    assert gained <= most + ROUNDING * motion.size
    assert gained >= -ROUNDING * motion.size
    if most > 1e-6:
        assert gained / most <= 1.0 + ROUNDING * motion.size / most


@either
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_work_exceeds_the_free_energy(discrete, data):
    motion = data.draw(motions(discrete=discrete))
    free = motion.last.free_energy(motion.temperature) - motion.first.free_energy(motion.temperature)
    assert motion.path_work >= free - ROUNDING * motion.size * motion.temperature * 10


@settings(max_examples=100, deadline=None)
@given(motion=motions(discrete=False))
def test_in_continuous_motion_the_path_work_is_the_work_of_the_switches(motion):
    assert motion.path_work == pytest.approx(motion.work, abs=ROUNDING * 10 * motion.size * motion.temperature)


@settings(max_examples=150, deadline=None)
@given(motion=motions(discrete=True))
def test_the_chain_obeys_the_speed_limit_of_its_mean_displacement_at_any_step(motion):
    least = float(np.sum(motion.displacement**2)) / motion.time
    assert motion.temperature * motion.entropy_production >= least - ROUNDING * motion.size * motion.temperature


@settings(max_examples=150, deadline=None)
@given(motion=motions(discrete=False))
def test_continuous_motion_obeys_the_speed_limit_of_transport(motion):
    least = wasserstein_sq(motion.states[0], motion.states[-1]) / motion.time
    transported = sum(float(np.trace(state.marginal)) for state in (motion.states[0], motion.states[-1]))
    slack = ROUNDING * (motion.size * motion.temperature + transported / motion.time)  # W₂² is a difference of these
    assert motion.temperature * motion.entropy_production >= least - slack


@either
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_heat_and_the_way_from_the_prior_bound_what_was_learned(discrete, data):
    """I ≤ ⟨KL from the prior⟩ ≤ Q/T + ⟨ln prior(θ_0) − ln prior(θ_K)⟩."""
    motion = data.draw(motions(discrete=discrete))
    prior_energy = motion.states[-1].energy(motion.first) - motion.states[0].energy(motion.first)
    most = (motion.heat + prior_energy) / motion.temperature
    last = motion.states[-1]
    n, std_sq = len(last.mean), motion.states[0].covariance[0, 0]
    second = float(np.trace(last.marginal) + last.mean @ last.mean)
    divergence = 0.5 * (second / std_sq + n * math.log(2 * math.pi * std_sq)) - last.conditional_entropy
    assert last.information <= divergence + ROUNDING * motion.size
    assert divergence <= most + ROUNDING * motion.size


def test_a_reversible_protocol_reaches_the_bounds_it_approaches():
    """What makes the inequalities worth having: they are attained, by slow driving."""
    loss, prior = Quadratic.trap(np.eye(1), np.zeros(1), np.ones((1, 1))), Quadratic.trap(np.eye(1))
    for steps, most in ((200, 0.05), (2000, 0.005)):
        motion = run(loss, prior, 1.0, [(k + 1) / steps for k in range(steps)], 0.1, 1.0, discrete=False)
        assert 0.0 < motion.entropy_production < most


def test_the_speed_limit_of_the_continuous_motion_is_not_that_of_a_coarse_chain():
    """Why the chain has a limit of its own: with W₂² between its ends the continuous one fails at a large step."""
    loss, prior = Quadratic.trap(np.eye(1), np.array([5.0])), Quadratic.trap(1e-9 * np.eye(1))
    motion = run(loss, prior, 1.0, [1.0], 1.0, 1.0, discrete=True)
    transported = wasserstein_sq(motion.states[0], motion.states[-1]) / motion.time
    assert motion.temperature * motion.entropy_production < transported
    assert motion.temperature * motion.entropy_production >= float(np.sum(motion.displacement**2)) / motion.time
