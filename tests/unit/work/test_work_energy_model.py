"""The energy model: refined by a run's windows as Gaussian knowledge is, and joules divided by it conserved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.estimate import Estimate
from ergometry.work.energy_model import EnergyModel, components, divided, work_matrix
from support.calibrations import FOUND

NAMES = ("static_w", "e_flop:bf16", "e_byte")
TRUTH = np.array([60.0, 0.6e-12, 3e-11])


def windows(n: int, seed: int = 0, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return work, joules and variances of windows of differing intensity."""
    random = np.random.default_rng(seed)
    seconds = random.uniform(0.5, 2.0, n)
    work = np.stack([seconds, seconds * random.uniform(0, 3e14, n), seconds * random.uniform(0, 1.5e12, n)], axis=1)
    exact = work @ TRUTH
    return work, exact * (1 + noise * random.standard_normal(n)), (noise * exact) ** 2


def prior(rel: float = 0.2, seed: int = 1) -> EnergyModel:
    random = np.random.default_rng(seed)
    return EnergyModel(NAMES, TRUTH * (1 + rel * random.standard_normal(3)), np.diag((rel * TRUTH) ** 2))


def test_many_windows_of_differing_work_find_the_truth_whatever_the_prior() -> None:
    found = prior(0.5).refined(*windows(2000))
    assert found.values == pytest.approx(TRUTH, rel=0.01)


def test_refinement_is_the_gaussian_posterior() -> None:
    start, (work, joules, variance) = prior(), windows(7)
    precision = np.linalg.inv(start.covariance) + work.T @ (work / variance[:, None])
    covariance = np.linalg.inv(precision)
    values = covariance @ (np.linalg.inv(start.covariance) @ start.values + work.T @ (joules / variance))
    found = start.refined(work, joules, variance)
    assert found.values == pytest.approx(values, rel=1e-6)
    assert found.covariance == pytest.approx(covariance, rel=1e-6)


def test_windows_of_one_kind_tell_the_sum_and_leave_the_proportions() -> None:
    start = EnergyModel(NAMES, TRUTH * 0.5, np.diag((0.5 * TRUTH) ** 2))
    work = np.tile(np.array([1.0, 1e14, 1e12]), (50, 1))
    joules = work @ TRUTH
    found = start.refined(work, joules, (0.001 * joules) ** 2)
    assert work[0] @ found.values == pytest.approx(joules[0], rel=1e-3)
    assert found.stderr_j(work[0]) < 0.01 * joules[0]
    assert np.sqrt(np.diag(found.covariance))[1] > 0.3 * found.values[1]


def test_ninety_percent_intervals_of_refined_coefficients_hold_the_truth() -> None:
    inside = np.zeros(3)
    for seed in range(300):
        found = prior(0.2, seed).refined(*windows(5, seed + 1000, 0.05))
        inside += np.abs(found.values - TRUTH) <= 1.645 * np.sqrt(np.diag(found.covariance))
    assert np.all((inside / 300 >= 0.85) & (inside / 300 <= 0.97))


def test_no_coefficient_falls_below_zero() -> None:
    work = np.array([[1.0, 1e14, 0.0], [1.0, 0.0, 0.0], [1.0, 1e14, 1e12]])
    joules = np.array([10.0, 100.0, 20.0])
    found = prior().refined(work, joules, np.full(3, 0.01))
    assert np.all(found.values >= 0)
    assert np.all(np.diag(found.covariance) >= 0)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_windows_that_are_not_numbers_are_left_out(spoilt: float) -> None:
    work, joules, variance = windows(10)
    bad = joules.copy()
    bad[3] = spoilt
    expected = prior().refined(np.delete(work, 3, 0), np.delete(joules, 3), np.delete(variance, 3))
    assert prior().refined(work, bad, variance).values == pytest.approx(expected.values)


def test_without_windows_it_is_the_calibration() -> None:
    start = prior()
    assert start.refined(np.empty((0, 3)), np.empty(0), np.empty(0)) is start


def test_a_calibration_becomes_the_prior_with_the_error_of_applying_it() -> None:
    model = EnergyModel.prior(FOUND, ["bf16"], rel_model=0.1)
    assert model.names == NAMES
    assert model.values == pytest.approx([60.0, 0.6e-12, 3e-11])
    assert np.sqrt(np.diag(model.covariance)) == pytest.approx(np.hypot([1.0, 0.02e-12, 1e-12], 0.1 * model.values))


def test_correlations_of_the_calibration_are_kept() -> None:
    matrix = np.diag([1.0, 4e-28, 1e-24])
    matrix[0, 2] = matrix[2, 0] = -0.9e-12
    model = EnergyModel.prior(replace(FOUND, covariance=matrix), ["bf16"])
    assert model.covariance[0, 2] == -0.9e-12


def test_a_dtype_that_was_not_calibrated_is_as_uncertain_as_it_is_dear() -> None:
    fp32 = Estimate(8e-12, 0.1e-12, "J/flop")
    model = EnergyModel.prior(replace(FOUND, e_flop={**FOUND.e_flop, "fp32": fp32}), ["fp64"], rel_model=0.0)
    assert model.values[1] == 8e-12
    assert model.covariance[1, 1] == pytest.approx((8e-12) ** 2)


def test_components_are_the_parts_of_the_work() -> None:
    model = EnergyModel(NAMES, TRUTH, np.diag((0.1 * TRUTH) ** 2))
    found = components(model, np.array([2.0, 1e14, 1e12]))
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(
        {"static": 120, "compute": 60, "memory": 30}
    )
    assert {name: error for name, (_, error) in found.items()} == pytest.approx(
        {"static": 12, "compute": 6, "memory": 3}
    )


def test_joules_are_divided_as_the_model_says() -> None:
    model = EnergyModel(NAMES, TRUTH, np.zeros((3, 3)))
    work = np.array([[[1.0, 1e14, 0.0], [0.5, 0.0, 1e12]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    joules, errors = divided(np.array([360.0, 7.0]), work, model, rel_model=0.0)
    assert joules == pytest.approx([360 * 120 / 180 + 7, 360 * 60 / 180])
    assert errors == pytest.approx([0, 0])


def test_errors_of_the_division_are_those_of_resampled_coefficients() -> None:
    covariance = np.diag((0.02 * TRUTH) ** 2)
    model = EnergyModel(NAMES, TRUTH, covariance)
    random = np.random.default_rng(3)
    work = random.uniform(0, 1, (20, 4, 3)) * np.array([1.0, 1e14, 1e12])
    spent = random.uniform(10, 20, 20)
    _, errors = divided(spent, work, model, rel_model=0.0)
    again = [
        divided(spent, work, EnergyModel(NAMES, TRUTH * (1 + 0.02 * random.standard_normal(3)), covariance), 0.0)[0]
        for _ in range(3000)
    ]
    assert np.std(again, axis=0) == pytest.approx(errors, rel=0.06)


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 6))
def test_whatever_is_divided_is_conserved(seed: int, stretches: int, parts: int) -> None:
    random = np.random.default_rng(seed)
    work = random.uniform(0, 1, (stretches, parts, 3)) * (random.uniform(size=(stretches, parts, 1)) > 0.3) * TRUTH**-1
    spent = random.uniform(0, 100, stretches)
    joules, errors = divided(spent, work, prior())
    assert joules.sum() == pytest.approx(spent.sum(), rel=1e-12)
    assert np.all(joules >= 0)
    assert np.all(np.isfinite(errors))


def test_work_follows_the_order_of_the_coefficients() -> None:
    model = EnergyModel(("static_w", "e_flop:bf16", "e_flop:fp32", "e_byte"), np.ones(4), np.eye(4))
    made = work_matrix(np.array([1.0, 2.0]), {"fp32": np.array([3.0, 4.0])}, np.array([5.0, 6.0]), model)
    assert made.tolist() == [[1, 0, 3, 5], [2, 0, 4, 6]]
