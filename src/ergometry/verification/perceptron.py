"""R3: a Hebbian perceptron that learns random labels (Goldt & Seifert 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ergometry import equations as eq
from ergometry.verification.check import Check, stderr_of_mean

WEIGHTS, PERCEPTRONS = 1000, 200


def perceptron(rng: np.random.Generator) -> Iterator[Check]:
    """R3: accuracy and efficiency at load α and learning strength ν, and the supremum of the efficiency."""
    accuracy = eq.hebbian_accuracy(1.0, 1.0)
    for quantity, expected, value in (
        ("accuracy p_C, closed form", 0.7602, accuracy),
        ("efficiency η, closed form", 0.1682, eq.hebbian_efficiency(1.0, 1.0)),
    ):
        yield Check(
            quantity=quantity,
            expected=expected,
            value=value,
            tolerance=5e-5,
            source="published",
            why="the formula of Goldt & Seifert 2017, to four digits",
        )
    share = correct_share(1.0, 1.0, rng)
    yield Check(
        quantity="p_C, sampled",
        expected=accuracy,
        value=float(share.mean()),
        tolerance=0.003,
        stderr=stderr_of_mean(share),
        source="published",
        why="finite perceptrons differ from the limit of many weights",
    )
    grid = [eq.hebbian_efficiency(load, strength) for load in _powers(-3, 6) for strength in _powers(-4, 2)]
    yield Check(
        quantity=f"largest η of {len(grid)} pairs (α, ν)",
        expected=math.nextafter(1.0 / math.pi, 0.0),
        value=max(grid),
        tolerance=0.0,
        relation="≤",
        why="the supremum 1/π is not attained",
    )
    yield Check(
        quantity="η at α = 1e4, ν = 1e-3",
        expected=1.0 / math.pi,
        value=eq.hebbian_efficiency(1e4, 1e-3),
        tolerance=1e-6,
        why="from the supremum it is short by ¾ν²/π",
    )


def correct_share(load: float, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return for each perceptron the share of its learned examples that it classifies correctly, (PERCEPTRONS,).

    Weights are ν times the Hebbian sum over the αN examples, normalised by √(αN), plus unit noise of the bath.
    """
    examples = round(load * WEIGHTS)
    shares = []
    for _ in range(PERCEPTRONS):
        # An input times its label is as random as the input: the labels need not be drawn.
        labelled = 2.0 * rng.integers(0, 2, (examples, WEIGHTS), dtype=np.int8).astype(np.float32) - 1.0
        weights = strength * labelled.sum(0) / math.sqrt(examples) + rng.normal(size=WEIGHTS)
        shares.append(np.mean(labelled @ weights.astype(np.float32) > 0))
    return np.array(shares)


def _powers(low: int, high: int) -> list[float]:
    return [10.0**exponent for exponent in range(low, high + 1)]
