"""The theorems behind the equations, on random networks and inputs: nothing is allowed beyond rounding. And the
negative controls: what must not change, and what must flip, when something that has no say in it is changed.

The bounds of thermodynamic length and of ½logdet are tested with their estimators.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry import equations as eq
from ergometry.core.run import Run, Table
from ergometry.core.series import LEARNING_RATES, WORK
from ergometry.equations.live import entries
from ergometry.equations.practice import WORST_ALPHA
from ergometry.estimators.codelength import read_information
from ergometry.estimators.displacement import Displacement
from ergometry.estimators.first_law import StochasticFirstLaw
from ergometry.estimators.noise_scale import NoiseScale, NoiseScaleEstimator, Pair
from ergometry.estimators.path_length import PathLength
from ergometry.estimators.temperatures import noise_temperature
from ergometry.landscape.fisher import fisher
from ergometry.landscape.information import information
from ergometry.session import record
from ergometry.work.attribution import accounts
from support.calibrations import FOUND
from support.synthetic import language_model, synthetic_run, with_counts
from support.trained_paths import BATCH, OPTIMIZERS, TrainedPath, trained

ROUNDING = 1e-12
seeds = st.integers(0, 2**32 - 1)
networks = st.tuples(st.integers(0, 9), st.sampled_from(OPTIMIZERS)).map(lambda key: trained(*key))
"""Ten networks with each of six optimizers: hypothesis chooses among them."""
positive = st.floats(1e-3, 1e3)
times = st.floats(0.05, 60.0)
few = settings(max_examples=40)


def at_most(smaller: float, larger: float) -> bool:
    return bool(smaller <= larger + ROUNDING * max(abs(smaller), abs(larger)))


# 4.2, 7.1: paths of real trainings


@few
@given(path=networks)
def test_no_training_is_cheaper_than_the_straight_path(path: TrainedPath):
    cost, least = eq.path_cost(path.moves, path.eta), eq.least_path_cost(path.moves, path.eta)
    assert least > 0.0 and at_most(least, cost)
    assert at_most(float(np.sum(path.moves.sum(0) ** 2)), len(path.moves) * path.eta * cost)


@few
@given(path=networks, seed=seeds)
def test_and_none_under_any_learning_rates_some_of_them_zero(path: TrainedPath, seed: int):
    rng = np.random.default_rng(seed)
    eta = rng.exponential(size=path.moves.shape) * (rng.random(path.moves.shape) > 0.3)
    moves = np.where(eta > 0, path.moves, 0.0)
    assert at_most(eq.least_path_cost(moves, eta), eq.path_cost(moves, eta))


@few
@given(path=networks)
def test_alignment_is_between_minus_one_and_one_by_either_reading_and_so_it_is_of_every_step(path: TrainedPath):
    for following in (None, path.next_gradients):
        work = eq.displacement_work(path.gradients, path.moves, following)
        length = eq.gradient_path(path.gradients, path.moves, following)
        assert at_most(abs(float(np.sum(work))), length)
        for k, one in enumerate(work):
            step = (path.gradients[k : k + 1], path.moves[k : k + 1])
            ahead = None if following is None else following[k : k + 1]
            assert at_most(abs(eq.alignment(float(one), eq.gradient_path(*step, ahead))), 1.0)


@given(seed=seeds, size=st.integers(1, 40), temperature=positive)
def test_4_2_as_written_is_an_upper_bound_on_t_times_the_entropy_change(seed, size, temperature):
    slope, moved = np.random.default_rng(seed).normal(size=(2, size))
    written = eq.optimal_work_as_written(temperature, float(np.linalg.norm(slope)), float(np.linalg.norm(moved)))
    assert at_most(temperature * abs(float(slope @ moved)), written)
    along = eq.optimal_work_as_written(temperature, float(np.linalg.norm(slope)), float(np.linalg.norm(3.0 * slope)))
    assert along == pytest.approx(3.0 * temperature * float(slope @ slope), rel=ROUNDING)


# 3.1, 9: certified mode's own bounds, in closed form


@given(x=positive, tau=times)
def test_no_drag_or_quench_carries_more_information_than_entropy_and_heat(x, tau):
    drag, quench = eq.drag_information(x, tau), eq.quench_information(x, tau)
    assert at_most(drag, eq.largest_information(drag, eq.trap_drag_heat(x, tau)))
    assert at_most(eq.quench_efficiency(x, tau), 0.5)
    assert eq.quench_efficiency(x, tau) == pytest.approx(
        eq.certified_efficiency(quench, quench, eq.quench_heat(x, tau)), rel=ROUNDING
    )


@given(x=positive, t=times)
def test_9_3_repaired_holds_at_every_moment_of_the_quench(x, t):
    rate = eq.quench_information_rate(x, t)
    assert at_most(rate, eq.largest_information(rate, eq.quench_heat_rate(x, t)))
    assert eq.quench_heat_rate(x, t) >= 0.0


@given(x=positive, tau=times)
def test_entropy_production_is_never_below_the_speed_limit(x, tau):
    moved_sq = math.expm1(2.0 * eq.drag_information(x, tau))  # x·m²: the means part by m·θ*, the variance stays
    assert eq.least_entropy_production(moved_sq, tau) <= eq.trap_drag_heat(x, tau) * (1.0 + 1e-9)
    assert at_most(eq.quench_speed_ratio(tau), 1.0)


# 6.1, 5.1, 8.1, 9.2: what is called an optimum is one


@given(b=positive, least_steps=positive, bc=positive, e0=positive, e1=positive)
def test_no_batch_costs_less_than_e_star(b, least_steps, bc, e0, e1):
    energy = eq.steps_to_target(b, least_steps, bc) * (e0 + e1 * b)
    assert at_most(eq.least_energy(least_steps, bc, e0, e1), energy)


@given(b=positive, bc=positive, e0d=positive, e1d=positive, static=positive, tau0=positive, tau1=positive)
def test_no_batch_costs_less_than_the_median_at_the_roofline(b, bc, e0d, e1d, static, tau0, tau1):
    at = (bc, e0d, e1d, static, tau0, tau1)
    best = eq.roofline_batch(*at)
    assert at_most(eq.roofline_energy(best, *at), eq.roofline_energy(b, *at))
    throughput = eq.optimal_batch(bc, e0d, e1d + static * tau1)
    latency = eq.optimal_batch(bc, e0d + static * tau0, e1d)
    assert best == sorted((throughput, tau0 / tau1, latency))[1]
    assert at_most(throughput, latency)


@given(bc=positive, e0d=positive, e1d=positive, static=positive, tau0=positive, tau1=positive, price=positive)
def test_a_price_on_time_never_buys_a_slower_run(bc, e0d, e1d, static, tau0, tau1, price):
    def seconds(static_w: float) -> float:
        b = eq.roofline_batch(bc, e0d, e1d, static_w, tau0, tau1)
        return float(eq.steps_to_target(b, 1.0, bc) * eq.step_time(b, tau0, tau1))

    assert at_most(seconds(static + price), seconds(static))


@given(static=positive, exponent=st.floats(1.1, 6.0), c=positive, speed=positive)
def test_no_frequency_costs_less_than_the_power_cap(static, exponent, c, speed):
    best = ((eq.energy_optimal_power(static, exponent) - static) / c) ** (1.0 / exponent)
    energy, least = ((static + c * f**exponent) / f for f in (speed, best))
    assert at_most(least, energy)


@given(alpha=st.floats(0.0, 1.0), seed=seeds)
def test_constant_power_makes_the_most_steps_and_the_schedule_loses_two_percent_at_most(alpha, seed):
    assert at_most(eq.schedule_speed_factor(WORST_ALPHA), eq.schedule_speed_factor(alpha))
    assert at_most(eq.schedule_speed_factor(alpha), 1.0)
    power = np.random.default_rng(seed).exponential(size=50)
    assert at_most(float(np.mean(power**alpha)), float(np.mean(power)) ** alpha)


@given(seed=seeds, size=st.integers(2, 12), energy=positive)
def test_lagranges_condition_holds_where_9_2_is_exact_and_nowhere_else_is_better(seed, size, energy):
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=size) + 1e-3
    joules = eq.logarithmic_allocation(weights, energy)
    np.testing.assert_allclose(weights / joules, weights.sum() / energy, rtol=ROUNDING)
    assert float(joules.sum()) == pytest.approx(energy, rel=ROUNDING)
    shifted = joules * rng.dirichlet(np.ones(size)) * size
    shifted *= energy / shifted.sum()
    assert float(weights @ np.log(shifted / joules)) <= ROUNDING * float(weights.sum())


# Negative controls


def ledger(path: TrainedPath, eta: float) -> tuple[Displacement, object]:
    """Return the estimator of displacement work with every step of a training in it."""
    work, length = eq.displacement_work(path.gradients, path.moves), np.linalg.norm(path.gradients, axis=1)
    estimator = Displacement()
    state = estimator.init()
    for k, moved in enumerate(path.moves):
        row = (k, eta, length[k] ** 2, float(moved @ moved), float(work[k]), length[k] * float(np.linalg.norm(moved)))
        state = estimator.update(state, row)
    return estimator, state


def first_law(path: TrainedPath):
    estimator = StochasticFirstLaw()
    state = estimator.init()
    midpoint = eq.displacement_work(path.gradients, path.moves, path.next_gradients)
    for k, half in enumerate(midpoint):
        at = slice(k, k + 1)
        along = eq.gradient_path(path.gradients[at], path.moves[at], path.next_gradients[at])
        row = (k, path.before[k], path.after[k], path.following[k], float(half), 0.0, float(along), 0.0)
        state = estimator.update(state, row)
    return estimator.result(state)


def length_of(path: TrainedPath):
    estimator = PathLength()
    state = estimator.init()
    for outputs in path.outputs:
        state = estimator.update(state, outputs)
    return estimator.result(state)


def noise(path: TrainedPath, precision: np.ndarray | float = 1.0) -> NoiseScale:
    """Return the noise scale from halves and wholes, of gradients squared over a precision (K, N)."""
    big = np.sum(path.gradients**2 / precision, axis=-1)
    small = np.sum(path.halves**2 / np.expand_dims(precision, -2 if np.ndim(precision) else 0), axis=-1).mean(1)
    estimator = NoiseScaleEstimator()
    state = estimator.init()
    for k, squares in enumerate(zip(small, big, strict=True)):
        state = estimator.update(state, Pair(k, BATCH / 2, BATCH, *squares))
    return estimator.result(state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("scale", "rel"), [(8.0, ROUNDING), (0.25, ROUNDING), (3.0, 1e-9)])
@pytest.mark.parametrize("seed", [0, 1])  # 1: with clipping
def test_a_rescaled_loss_rescales_work_heat_and_temperature_and_nothing_else(optimizer, scale, rel, seed):
    """Powers of two rescale without rounding; by 3 the two trainings part by rounding alone."""
    plain, scaled = trained(seed, optimizer), trained(seed, optimizer, scale)
    np.testing.assert_allclose(scaled.moves, plain.moves, rtol=1e-7, atol=1e-14)

    def same(a: float | None, b: float | None, factor: float = 1.0) -> None:
        assert a is not None and b is not None and a != 0.0
        assert b == pytest.approx(a * factor, rel=rel)

    for name in ("heat", "work", "energy_change", "midpoint", "midpoint_path"):
        same(getattr(first_law(plain), name).value, getattr(first_law(scaled), name).value, scale)
    same(first_law(plain).alignment.value, first_law(scaled).alignment.value)
    (estimator, a), (_, b) = ledger(plain, plain.eta), ledger(scaled, scaled.eta)
    same(estimator.result(a).ito.value, estimator.result(b).ito.value, scale)
    same(estimator.result(a).alignment.value, estimator.result(b).alignment.value)
    for name in ("js", "angle", "js_ends", "angle_ends"):
        same(getattr(length_of(plain), name).value, getattr(length_of(scaled), name).value)
    a, b = noise(plain), noise(scaled)
    same(a.trace_cov.value / a.grad_sq.value, b.trace_cov.value / b.grad_sq.value)
    parameters = plain.moves.shape[1]
    if optimizer in ("SGD", "momentum", "Nesterov"):
        momentum = 0.0 if optimizer == "SGD" else 0.9
        hot, hotter = (
            noise_temperature(path.eta, found.trace_cov.value, BATCH, parameters, momentum)
            for path, found in ((plain, a), (scaled, b))
        )
        same(hot, hotter, scale)
    if optimizer.startswith("Adam"):
        same(*(path.eta * noise(path, path.precision).trace_cov.value for path in (plain, scaled)), scale)


@few
@given(path=networks)
def test_reversing_a_step_on_its_own_batch_flips_midpoint_work_and_heat_but_not_the_ito_reading(path: TrainedPath):
    there = eq.displacement_work(path.gradients, path.moves, path.next_gradients)
    back = eq.displacement_work(path.next_gradients, -path.moves, path.gradients)
    assert np.array_equal(back, -there)
    ito, ito_back = (
        eq.displacement_work(g, move) for g, move in ((path.gradients, path.moves), (path.next_gradients, -path.moves))
    )
    curvature = np.sum((path.next_gradients - path.gradients) * path.moves, axis=1)
    np.testing.assert_allclose(ito + ito_back, curvature, rtol=1e-9, atol=1e-14)
    assert np.any(curvature != 0.0)


def test_the_learning_rate_has_no_say_in_joules_per_step():
    """The books do not read it: every joule stays where it was, bit for bit, and the work in loss units does not."""
    run = with_counts(synthetic_run(), language_model(), FOUND)
    table = run.table(LEARNING_RATES)
    faster = Table(table.columns, table.rows * np.array([1.0, 1.0, 1.0, 7.0]))
    other = replace(run, tables={**run.tables, LEARNING_RATES.name: faster})
    a, b = accounts(run), accounts(other)
    assert a.rates["j_per_step"].value and a.rates["j_per_step"] == b.rates["j_per_step"]
    for books in ("by_component", "by_phase", "by_domain", "by_module", "by_op"):
        assert getattr(a, books) == getattr(b, books)
    slow, fast = (entries(r, books)["1.3"]["as_written"]["W_diss"] for r, books in ((run, a), (other, b)))
    assert fast["value"] == pytest.approx(7.0 * slow["value"], rel=ROUNDING)


def streamed(labels: torch.Tensor, inputs: torch.Tensor, store: Path) -> tuple[Run, torch.Tensor]:
    """Record one epoch of softmax regression, each example seen once; return the run and the last parameters."""
    model = torch.nn.Linear(inputs.shape[1], 3).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with record(model, optimizer, store=store, physics="off") as recording:
        for x, y in zip(inputs.split(16), labels.split(16), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return recording.run(), torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def test_permuted_labels_kill_the_prequential_gain_and_not_the_work_that_is_paid_for(tmp_path):
    stream = torch.Generator().manual_seed(4)
    inputs = torch.randn(640, 6, generator=stream, dtype=torch.float64)
    labels = (inputs @ torch.randn(6, 3, generator=stream, dtype=torch.float64)).argmax(1)
    permuted = labels[torch.randperm(len(labels), generator=stream)]
    (true, learned), (false, other) = (streamed(y, inputs, tmp_path) for y in (labels, permuted))
    assert not torch.equal(learned, other)
    gain, none = read_information(true), read_information(false)
    assert gain.value > 0.4 * len(labels) * math.log(3.0)
    assert none.value < 0.05 * gain.value
    columns = [name for name in WORK.columns if name != "uncounted"]
    for name in columns:
        assert np.array_equal(true.table(WORK)[name], false.table(WORK)[name]), name
    assert true.table(WORK)["forward_flops"][0] > 0


@given(seed=seeds, noise_std=positive)
def test_labels_have_no_say_in_the_information_that_a_linear_regression_holds(seed, noise_std):
    """½logdet(1 + F/λ) depends on the inputs alone: of the actual model's Fisher information, at either fit."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12) * noise_std
    found = []
    for targets in (y, rng.permutation(y)):
        fit = torch.tensor(np.linalg.lstsq(x, targets, rcond=None)[0], requires_grad=True)
        inputs = torch.from_numpy(x)
        factor = fisher(lambda p, inputs=inputs: inputs @ p[0], [fit], "gaussian")
        found.append(information(factor, 0.3, method="exact").value)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(0.5 * np.linalg.slogdet(np.eye(3) + x.T @ x / 0.3)[1], rel=1e-10)
