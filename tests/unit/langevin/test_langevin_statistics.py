"""Statistics over replicas, against brute force, known distributions, and repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ergometry.langevin.statistics import (
    Blocks,
    Jackknife,
    bennett,
    contrast,
    cross_entropy,
    jarzynski,
    squared_mean,
    uncertainty_bound,
)


def alone(n):
    return Blocks.of(n, 1)


# blocks and the jackknife


def test_blocks_are_whole_data_sets_of_nearly_equal_number():
    blocks = Blocks.of(300, 150)
    assert blocks.count == 64
    assert len(np.unique(blocks.label)) == 64
    assert np.array_equal(blocks.label[0::2], blocks.label[1::2])
    assert set(blocks.sizes / 2) == {2.0, 3.0}
    assert np.all(np.diff(blocks.label) >= 0)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=40)
    mean = alone(40).mean(x)
    assert mean.value == pytest.approx(x.mean())
    assert mean.stderr == pytest.approx(x.std(ddof=1) / math.sqrt(40))
    assert mean.bias == pytest.approx(0.0, abs=1e-12)


def test_what_replicas_of_one_data_set_share_is_in_the_error():
    rng = np.random.default_rng(1)
    shared = np.repeat(rng.normal(size=12), 4) + 0.01 * rng.normal(size=48)
    together, apart = Blocks.of(48, 12).mean(shared), Blocks.of(48, 1).mean(shared)
    assert together.stderr == pytest.approx(np.std(shared[::4], ddof=1) / math.sqrt(12), rel=0.05)
    assert together.stderr > 1.9 * apart.stderr


def test_a_function_of_quantities_keeps_what_they_share():
    rng = np.random.default_rng(2)
    x = rng.normal(5.0, 1.0, 60)
    one = alone(60).mean(x)
    assert one.with_(lambda a, b: a / b, one * 2.0).stderr == pytest.approx(0.0, abs=1e-12)
    assert (one - one).stderr == pytest.approx(0.0, abs=1e-12)
    by_hand = alone(60).left_out(lambda kept: x[kept].mean() ** 2)
    assert one.with_(lambda a: a**2).stderr == pytest.approx(by_hand.stderr)


def test_the_correction_takes_the_bias_of_a_square_away():
    rng = np.random.default_rng(3)
    raw, corrected = [], []
    for _ in range(2000):
        square = alone(10).mean(rng.normal(1.0, 2.0, 10)).with_(lambda m: m**2)
        raw.append(square.value)
        corrected.append(square.corrected.value)
    stderr = np.std(corrected) / math.sqrt(2000)
    assert abs(np.mean(corrected) - 1.0) < 3 * stderr
    assert np.mean(raw) - 1.0 == pytest.approx(0.4, abs=4 * stderr)


# entropy from above


def test_the_cross_entropy_is_that_of_a_density_fitted_without_the_point():
    points = np.random.default_rng(4).normal(size=(9, 3)) * [1.0, 2.0, 0.5]
    found = cross_entropy(points, alone(9))
    for r in range(9):
        rest = np.delete(points, r, 0)
        scale = rest.std(0, ddof=1) * math.sqrt(1 + 1 / 8)
        expected = -stats.t(df=7, loc=rest.mean(0), scale=scale).logpdf(points[r]).sum()
        assert found[r] == pytest.approx(expected, rel=1e-12)


def test_with_many_points_the_whole_covariance_is_fitted_block_by_block():
    points = np.random.default_rng(5).normal(size=(60, 2)) @ np.array([[1.0, 0.9], [0.0, 0.2]])
    found = cross_entropy(points, Blocks.of(60, 20))
    for b in (0, 7, 19):
        mine = slice(3 * b, 3 * b + 3)
        rest = np.delete(points, mine, 0)
        dof = 57 - 2
        shape = np.cov(rest.T) * 56 / dof * (1 + 1 / 57)
        expected = -stats.multivariate_t(loc=rest.mean(0), shape=shape, df=dof).logpdf(points[mine])
        assert found[mine] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "dimensions"), [(4, 1), (8, 3), (16, 40), (64, 3)])
def test_the_bound_on_the_entropy_holds_in_the_mean_at_any_number_of_points(n, dimensions):
    rng = np.random.default_rng(6)
    std = rng.uniform(0.1, 3.0, dimensions)
    entropy = 0.5 * dimensions * math.log(2 * math.pi * math.e) + np.log(std).sum()
    means = [cross_entropy(rng.normal(size=(n, dimensions)) * std, alone(n)).mean() for _ in range(200)]
    excess, stderr = np.mean(means) - entropy, np.std(means) / math.sqrt(200)
    assert excess > 0
    parameters = 5 if n >= 10 * dimensions and dimensions > 1 else 2
    assert excess < parameters / 2 * dimensions / (n - 2.5) * 1.6 + 3 * stderr


def test_of_what_is_not_gaussian_the_bound_lies_above_too():
    rng = np.random.default_rng(7)
    uniform = rng.uniform(size=(4000, 1))
    assert cross_entropy(uniform, alone(4000)).mean() == pytest.approx(
        0.5 * math.log(2 * math.pi * math.e / 12), abs=0.02
    )  # a Gaussian of its variance, above the 0 of the uniform density


# information from below


def test_the_contrast_is_the_log_share_of_the_own_data_set():
    scores = np.random.default_rng(8).normal(size=(5, 3, 5))
    share = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    expected = np.mean([[math.log(5 * share[i, m, i]) for m in range(3)] for i in range(5)])
    assert contrast(scores).value == pytest.approx(expected, rel=1e-12)
    assert contrast(np.zeros((5, 3, 5))).value == pytest.approx(0.0, abs=1e-12)
    sure = np.where(np.eye(5)[:, None, :] > 0, 0.0, -1e3) * np.ones((5, 3, 5))
    assert contrast(sure).value == pytest.approx(math.log(5))


def test_the_contrast_stays_below_the_information_and_comes_near_it():
    rng = np.random.default_rng(9)
    noise, found = 0.5, []
    for _ in range(100):
        data = rng.normal(size=32)
        theta = data[:, None] + noise * rng.normal(size=(32, 2))
        found.append(contrast(-((theta[:, :, None] - data) ** 2) / (2 * noise**2)).value)
    information = 0.5 * math.log1p(1 / noise**2)
    mean, stderr = np.mean(found), np.std(found) / 10
    assert mean < information + 3 * stderr
    assert mean > 0.9 * information


# displacement


@pytest.mark.parametrize("data_sets", [1, 6])
def test_the_squared_mean_is_the_mean_over_pairs_of_different_blocks(data_sets):
    vectors = np.random.default_rng(10).normal(size=(12, 4)) + 1.0
    blocks = Blocks.of(12, data_sets)

    def pairs(kept):
        chosen = [(a, b) for a in kept for b in kept if blocks.label[a] != blocks.label[b]]
        return np.mean([vectors[a] @ vectors[b] for a, b in chosen])

    found = squared_mean(vectors, blocks)
    assert found.value == pytest.approx(pairs(range(12)))
    assert found.left_out[3] == pytest.approx(pairs(np.flatnonzero(blocks.label != 3)))


# free energy: Gaussian work obeys Crooks' relation if its mean is ΔF + σ²/2T

FREE, SPREAD, T = 0.7, 1.1, 0.9


def works(rng, n, direction=1):
    return rng.normal(direction * FREE + SPREAD**2 / (2 * T), SPREAD, n)


def test_jarzynski_is_high_by_the_bias_that_it_states():
    rng = np.random.default_rng(11)
    found = [jarzynski(works(rng, 32), T, alone(32)) for _ in range(1500)]
    excess = np.mean([free.value for free in found]) - FREE
    stderr = np.std([free.value for free in found]) / math.sqrt(1500)
    assert excess > 3 * stderr
    assert np.mean([free.bias for free in found]) == pytest.approx(excess, abs=3 * stderr)


def test_jarzynski_does_not_overflow():
    work = np.array([1e5, 1e5 + 1.0, 1e5 + 2.0])
    expected = 1e5 - math.log(np.mean(np.exp([0.0, -1.0, -2.0])))
    assert jarzynski(work, 1.0, alone(3)).value == pytest.approx(expected, rel=1e-12)


def test_bennett_is_the_maximum_likelihood_of_crooks_relation():
    rng = np.random.default_rng(12)
    forward, reverse = works(rng, 80), works(rng, 50, -1)
    value, stderr = bennett(forward, reverse, T, (alone(80), alone(50)))
    grid = value + np.linspace(-0.5, 0.5, 2001)
    offset = math.log(80 / 50)
    likelihood = [
        -np.logaddexp(0, -(offset + (forward - f) / T)).sum() - np.logaddexp(0, offset - (reverse + f) / T).sum()
        for f in grid
    ]
    assert grid[int(np.argmax(likelihood))] == pytest.approx(value, abs=6e-4)
    assert abs(value - FREE) < 4 * stderr


def test_bennett_finds_free_energies_far_from_zero():
    rng = np.random.default_rng(13)
    value, _ = bennett(works(rng, 50) + 1e4, works(rng, 70, -1) - 1e4, T, (alone(50), alone(70)))
    assert value == pytest.approx(1e4 + FREE, abs=0.5)


# error bars, by repetition


def covered(found: list[tuple[float, float]], truth: float) -> float:
    quantile = stats.t(df=40).ppf(0.95)
    return float(np.mean([abs(value - truth) < quantile * stderr for value, stderr in found]))


def bars(quantity: Jackknife) -> tuple[float, float]:
    return quantity.value, quantity.stderr


def test_error_bars_cover_the_truth_nine_times_in_ten():
    rng = np.random.default_rng(14)
    n, repeats = 48, 300
    drawn = [rng.normal(1.5, 1.0, n) for _ in range(repeats)]
    vectors = [rng.normal(0.5, 1.0, (n, 5)) for _ in range(repeats)]
    free = [jarzynski(works(rng, n), T, alone(n)).corrected for _ in range(repeats)]
    back = [bennett(works(rng, n), works(rng, n, -1), T, (alone(n), alone(n))) for _ in range(repeats // 3)]
    current = [rng.normal(3.0, 1.0, n) for _ in range(repeats)]
    cases = {
        "ratio": ([bars(alone(n).mean(x).with_(lambda a, b: a / b, alone(n).mean(x**2))) for x in drawn], 1.5 / 3.25),
        "squared mean": ([bars(squared_mean(v, alone(n))) for v in vectors], 1.25),
        "Jarzynski": ([bars(f) for f in free], FREE),
        "Bennett": (back, FREE),
        "uncertainty bound": ([bars(uncertainty_bound(x, alone(n)).corrected) for x in current], 18.0),
    }
    for name, (found, truth) in cases.items():
        assert 0.85 <= covered(found, truth) <= 0.97, name
