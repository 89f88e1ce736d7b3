"""The steps down to a loss, read off losses that scatter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ergometry.planning.descent import descent

STEPS = np.arange(2000)
TRUE = 1 + 3 * (10 + STEPS / 4) ** -0.5


def losses(sigma: float, seed: int = 0) -> np.ndarray:
    return TRUE + sigma * np.random.default_rng(seed).normal(size=len(STEPS))


def test_without_noise_the_crossing_is_that_of_the_curve() -> None:
    found = descent(TRUE)
    assert found is not None
    for step in (40, 300, 1500):
        assert found.steps_to(float(TRUE[step])) == pytest.approx(step, rel=0.03)
    assert found.steps_to(0.5) == math.inf


@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_the_crossing_has_no_bias_and_the_error_that_it_states(sigma: float) -> None:
    z, errors = [], []
    for seed in range(40):
        found = descent(losses(sigma, seed))
        assert found is not None
        target = float(TRUE[800])
        errors.append(found.log_error(target))
        z.append(math.log(found.steps_to(target) / 800) / errors[-1])
    assert abs(np.mean(z)) < 0.6  # 3 of its own standard errors, and what interpolation is off by
    assert 0.6 < np.std(z) < 1.5
    assert np.median(errors) < (0.03 if sigma < 0.1 else 0.3)


def test_one_lucky_batch_is_no_arrival() -> None:
    loss = np.full(1000, 2.0)
    loss[500] = 0.1
    found = descent(loss)
    assert found is not None
    assert found.steps_to(1.0) == math.inf
    loss[700:] = 0.9
    found = descent(loss)
    assert found is not None
    assert 600 < found.steps_to(1.0) < 850  # its stretch is that wide


def test_a_loss_that_ends_as_no_number_or_far_above_its_best_diverged() -> None:
    for tail, diverged in ((math.nan, True), (30.0, True), (float(TRUE[-1]), False)):
        loss = losses(0.02)
        loss[-400:] = tail
        found = descent(loss)
        assert found is not None
        assert found.diverged is diverged


def test_too_few_losses_tell_nothing() -> None:
    assert descent(np.full(100, np.nan)) is None
    assert descent(np.array([1.0, 0.5])) is None


def test_a_loss_that_explodes_at_the_end_diverged_however_large_its_own_scatter() -> None:
    steps = np.arange(700)
    loss = 0.3 + 2.0 * np.exp(-steps / 100.0) + 0.05 * np.random.default_rng(0).normal(size=700)
    loss[-60:] *= np.geomspace(1.0, 1e36, 60)
    found = descent(loss)
    assert found is not None
    assert found.diverged


def test_a_few_last_losses_that_were_no_number_are_a_divergence_and_a_few_unknown_ones_are_not() -> None:
    for tail, diverged in ((math.inf, True), (math.nan, False)):
        loss = losses(0.02)
        loss[-5:] = tail
        found = descent(loss)
        assert found is not None
        assert found.diverged is diverged
