"""Which batch size to run next: the one whose run is worth most, counting what it teaches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
REPEATS = (1, 2, 4)
"""One run may be too noisy to change a choice that several would: the best of these plans counts, per run."""


@dataclass(frozen=True)
class Choice:
    """The size chosen, the best on expectation, and for every size its expected log cost and worth in best runs."""

    pick: int
    best: int
    expected_log_cost: Array
    worth: Array


@dataclass(frozen=True)
class Outcomes:
    """Beliefs about the log cost of one run at each of n sizes.

    ``mean`` (n,) and ``cov`` (n, n) of its expectation, ``noise_var`` from run to run; ``floor``, the log cost of one
    epoch (n,); ``failure``, the chance that a run fails (n,), and ``failure_cost`` of one in runs.
    """

    mean: Array
    cov: Array
    noise_var: float
    floor: Array
    failure: Array
    failure_cost: float

    @cached_property
    def log_retry(self) -> Array:
        """What failures add to the log of the expected cost, retried until a run succeeds."""
        return np.log1p(self.failure_cost * self.failure / (1 - self.failure))

    @cached_property
    def expected(self) -> Array:
        """Log of the expected cost of a run with its retries."""
        return self.mean + 0.5 * (np.diag(self.cov) + self.noise_var) + self.log_retry


def chance_better(belief: Outcomes, best: int) -> Array:
    """The chance that each size is expected to cost less than ``best`` if all were known, shape (n,); 0 for itself."""
    expected, var = belief.expected, np.diag(belief.cov)
    sd = np.sqrt(np.maximum(var + var[best] - 2 * belief.cov[best], 1e-12))
    z = (expected - expected[best]) / sd
    chance = np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in z])
    chance[best] = 0.0
    return chance


def knowledge_gradient(belief: Outcomes, *, horizon: float, spend: float) -> Choice:
    """Choose by the knowledge gradient with correlated beliefs.

    A run at i shifts the mean of every j by cov_ij/√(cov_ii + σ²/m) standard normals (m runs); knowing better lowers
    the expected cost of the best choice, in each of the ``horizon`` runs to come. Against it stands what the run
    costs beyond the best one, or what is spent until it is given up.

    Args:
        belief: What is believed of each size.
        horizon: Runs that will profit.
        spend: Share of the best run's cost after which a trial is expected to be given up.

    Source: Frazier, Powell, Dayanik (2009), the knowledge gradient for correlated normal beliefs.
    """
    var, noise_var = np.diag(belief.cov), belief.noise_var
    expected = belief.expected
    best = int(np.argmin(expected))
    # In units of the best run, so that neither joules nor kilowatt hours overflow.
    shift = float(expected[best])
    expected = expected - shift
    run = (belief.mean + belief.log_retry - shift)[:, None] + np.sqrt(var + noise_var)[:, None] * _NODES
    given_up = np.maximum(spend, np.exp(np.minimum(belief.floor - shift, 50.0)))
    extra = np.minimum(np.exp(np.minimum(run, 50.0)) - 1.0, given_up[:, None]) @ _WEIGHTS
    extra[best] = 0.0
    worth = np.full(len(expected), -np.inf)
    for runs in REPEATS:
        move = belief.cov / np.sqrt(var + noise_var / runs)[:, None]
        after = expected[None, :, None] + move[:, :, None] * _NODES - 0.5 * (move * move)[:, :, None]
        low = np.exp(np.minimum(after.min(1), 50.0)) @ _WEIGHTS
        worth = np.maximum(worth, horizon * (1.0 - low) / runs - extra)
    return Choice(int(np.argmax(worth)), best, expected + shift, worth)
