"""What every estimator keeps to: E1 to E7 of none, one and two observations, and that states merge."""

import math

import numpy as np
import pytest

from ergometry.core.estimate import Estimate
from ergometry.core.series import CURVATURE, EQUILIBRIUM, INFORMATION, LENGTH, NOISE
from ergometry.estimators.codelength import read_information
from ergometry.estimators.curvature import read_curvature
from ergometry.estimators.displacement import Displacement
from ergometry.estimators.equilibration import EquilibrationEstimator
from ergometry.estimators.first_law import StochasticFirstLaw
from ergometry.estimators.information import read_logdet
from ergometry.estimators.noise_scale import NoiseScaleEstimator, Pair, read_noise
from ergometry.estimators.path_cost import PathCostEstimator
from ergometry.estimators.path_length import PathLength, read_length
from ergometry.estimators.prequential import Chunk, Prequential
from ergometry.estimators.temperatures import read_temperatures
from support.told import table, told

STEPS = np.arange(9.0)
RISES, LOSSES = np.full(9, -0.1), np.linspace(2.0, 1.2, 9)
HALF = np.array([[0.5, 0.5], [0.5, 0.5]])

# Name -> estimator of 9 steps of which two are seen, the two observations, what is sampled and so has an error.
MACHINES = {
    "E1": (
        StochasticFirstLaw(STEPS, RISES, losses=LOSSES),
        ((2, 2.0, 1.5, 1.9, 0.4, 0.0, 0.5, 0.0), (6, 1.8, 1.4, 1.7, 0.3, 0.0, 0.5, 0.0)),
        ("heat", "work", "midpoint", "alignment"),
    ),
    "E2": (
        Displacement(STEPS, losses=LOSSES),
        ((2.0, 0.1, 4.0, 0.04, 0.4, 0.41), (6.0, 0.1, 1.0, 0.01, 0.1, 0.12)),
        ("flow", "ito", "path", "alignment", "path_cost", "mean_grad_sq"),
    ),
    "E3": (
        NoiseScaleEstimator(population=STEPS, losses=LOSSES),
        (Pair(2, 1.0, 2.0, 3.0, 2.0), Pair(6, 1.0, 2.0, 4.0, 2.9)),
        ("grad_sq", "trace_cov"),
    ),
    "E4": (EquilibrationEstimator(), ((2.0, 2.0, 1.0), (6.0, 4.0, 1.5)), ("theta_g", "dissipation", "ratio")),
    "4.2": (
        PathCostEstimator(),
        ((3, 1.0, 3.0, 0, 3.0, 2.5, 0, 0), (7, 2.0, 10.0, 0, 9.0, 6.0, 0, 0)),
        ("cost", "optimality"),
    ),
    "E6": (PathLength(), (HALF, np.array([[0.4, 0.6], [0.2, 0.8]])), ("js", "angle", "energy")),
    "E7": (Prequential(classes=3), (Chunk(4, 3.0, 2.0), Chunk(5, 2.5, 2.0)), ("total", "excess", "gain")),
}
EXACT = {"E7"}  # a definition: what was coded is known


def errors(found, names):
    """Return the errors of what is known, by name."""
    return {name: getattr(found, name).stderr for name in names if getattr(found, name).value is not None}


def same(a, b, names):
    """Say whether two results are alike to rounding."""
    pairs = [(getattr(getattr(a, n), k), getattr(getattr(b, n), k)) for n in names for k in ("value", "stderr")]
    return all(x == y or (None not in (x, y) and math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)) for x, y in pairs)


@pytest.mark.parametrize("name", MACHINES)
def test_of_none_nothing_is_known_and_it_says_what_is_needed(name):
    estimator, _, names = MACHINES[name]
    found = estimator.result(estimator.init())
    for quantity in names:
        e = getattr(found, quantity)
        assert isinstance(e, Estimate) and e.value is None and e.stderr is None and len(e.why) > 10


@pytest.mark.parametrize("name", MACHINES)
def test_one_of_several_steps_has_no_error_and_never_one_of_zero(name):
    estimator, (one, _), names = MACHINES[name]
    known = errors(estimator.result(estimator.update(estimator.init(), one)), names)
    assert (not known) == (name == "E6")  # a length is between two
    assert set(known.values()) <= ({0.0} if name in EXACT else {None})


@pytest.mark.parametrize("name", MACHINES)
def test_two_have_a_value_and_an_error_each(name):
    estimator, (one, two), names = MACHINES[name]
    known = errors(estimator.result(estimator.update(estimator.update(estimator.init(), one), two)), names)
    assert set(known) == set(names)
    for error in known.values():
        assert error is not None and math.isfinite(error) and (error == 0.0 if name in EXACT else error > 0.0)


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_neutral_and_parts_merge_to_the_whole(name):
    estimator, observations, names = MACHINES[name]
    none = estimator.init()
    one, two = (estimator.update(none, x) for x in observations)
    whole = estimator.result(estimator.update(one, observations[1]))
    assert same(estimator.result(estimator.merge(one, two)), whole, names)
    assert same(estimator.result(estimator.merge(none, estimator.merge(one, two))), whole, names)
    assert same(estimator.result(estimator.merge(estimator.merge(one, two), none)), whole, names)


# E5, E7 and curvature are read from tables


def rows(kind, n, **columns):
    return kind, table(kind, n, **columns)


def stationary(n):
    """Return a run with n looks of everything that the temperatures need."""
    up = np.arange(n) * 0.1
    pairs = {"how": 1, "small_batch": 1.0, "big_batch": 4.0, "small_sq": 5.0 + up, "big_sq": 2.0, "dataset": np.nan}
    sides = {"theta_g": 1.0, "dtheta_sq": 0.01, "virial": 1.0 + up, "momentum": 0.0, "eligible": 1.0}
    sizes = {"sampled": 9, "parameters": 9}
    return told(
        rows(NOISE, n, **pairs, **sizes),
        rows(EQUILIBRIUM, n, **sides, **sizes),
        rows(CURVATURE, n, trace=3.0 + up, trace_stderr=0.1, largest=1.0, how=1, **sizes),
    )


def test_temperatures_of_none_one_and_two_looks():
    for n in (0, 1, 2):
        found = read_temperatures(stationary(n))
        known = errors(found, ("noise", "virial", "configurational"))
        assert set(known) == ({"noise", "configurational"} if n == 1 else set() if n == 0 else set(known))
        if n == 1:
            assert set(known.values()) == {None}
        if n == 2:
            assert {"noise", "configurational"} <= set(known) and all(
                known[k] > 0 for k in ("noise", "configurational")
            )
        for name in {"noise", "virial", "configurational"} - set(known):
            assert len(getattr(found, name).why) > 10


def test_noise_as_a_run_has_it_of_none_one_and_two_looks():
    none, one, two = (read_noise(stationary(n)) for n in (0, 1, 2))
    assert none.grad_sq.value is None and len(none.grad_sq.why) > 10 and math.isnan(none.b_noise_interval[0])
    assert one.grad_sq.value == 1.0 and one.grad_sq.stderr is None and math.isnan(one.b_noise_interval[0])
    low, high = two.b_noise_interval
    assert two.grad_sq.stderr > 0 and low < two.b_noise.value < high


def test_curvature_of_none_one_and_two_looks():
    none, one, two = (read_curvature(stationary(n)) for n in (0, 1, 2))
    assert none.largest.value is None and len(none.largest.why) > 10
    assert one.largest.value == two.largest.value == 1.0


def test_lengths_and_information_of_no_row_say_what_they_need():
    run = told(rows(LENGTH, 0), rows(INFORMATION, 0))
    for e in (read_length(run).js, read_logdet(run).whole, read_information(run)):
        assert e.value is None and len(e.why) > 10
