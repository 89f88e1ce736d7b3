"""R10: the noise scale from halves of batches that are drawn without replacement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ergometry.estimators.noise_scale import NoiseScale, NoiseScaleEstimator
from ergometry.verification.check import Array, Check, sampled

EXAMPLES, BATCH, DRAWS = 400, 20, 20_000


def noise_scale(rng: np.random.Generator) -> Iterator[Check]:
    """R10: from batches of n examples |G|² is short by trΣ/(n−1), and n corrects it; enumerated, and sampled."""
    n, batch = 7, 4
    gradients = rng.normal(size=(n, 3)) + 0.8
    squares, trace = moments(gradients)
    wholes = [(*half, *rest) for half, rest in _halvings(n, batch)]
    for words, dataset, expected, expected_trace in (
        ("not told n", math.nan, squares - trace / (n - 1), trace * n / (n - 1)),
        ("told n", float(n), squares, trace),
    ):
        found = estimated(gradients, np.array(wholes), dataset)
        for symbol, estimate, exact in (
            ("|G|²", found.grad_sq, expected),
            ("trΣ", found.trace_cov, expected_trace),
        ):
            yield Check(
                quantity=f"mean {symbol}, {words}",
                expected=exact,
                value=estimate.value,
                tolerance=1e-12,
                why=f"all {len(wholes)} ways to draw {batch} of {n} examples and to halve them",
            )
    gradients = rng.normal(size=(EXAMPLES, 3)) + 0.5
    squares, trace = moments(gradients)
    batches = np.array([rng.choice(EXAMPLES, BATCH, replace=False) for _ in range(DRAWS)])
    ratio = estimated(gradients, batches, float(EXAMPLES)).b_noise
    value, stderr = (math.nan if x is None else x for x in (ratio.value, ratio.stderr))
    yield sampled("B_noise, sampled", trace / squares, value, stderr, errors=2.0)


def moments(gradients: Array) -> tuple[float, float]:
    """Return |G|² and trΣ of per-example gradients (n, N), Σ normalised by 1/n."""
    mean = gradients.mean(0)
    return float(mean @ mean), float(np.sum((gradients - mean) ** 2)) / len(gradients)


def estimated(gradients: Array, batches: Array, dataset: float) -> NoiseScale:
    """Return what E3 says of batches (k, B) of examples, from the halves and the whole of each.

    Args:
        gradients: (n, N) float64, per example.
        batches: (k, B) int, the examples of each batch.
        dataset: n as the estimator is told it; NaN for a stream.
    """
    batch = batches.shape[1]
    halves = gradients[batches].reshape(len(batches), 2, batch // 2, -1).mean(2)
    small = np.sum(halves**2, axis=2).mean(1)
    big = np.sum(halves.mean(1) ** 2, axis=1)
    columns = [np.arange(len(batches)), *(np.full(len(batches), size) for size in (batch / 2, batch)), small, big]
    estimator = NoiseScaleEstimator()
    return estimator.result(estimator.of(np.column_stack([*columns, np.full(len(batches), dataset)])))


def _halvings(n: int, batch: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for drawn in itertools.combinations(range(n), batch):
        for half in itertools.combinations(drawn, batch // 2):
            yield half, tuple(example for example in drawn if example not in half)
