"""Minibatches in place of the whole data set: their temperature is exact on a quadratic, and nothing is certified."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import ergometry as erg
from ergometry.core import units
from ergometry.core.errors import UsageError
from ergometry.equations.catalogue import CATALOGUE
from ergometry.langevin.networks import Network

torch.set_num_threads(1)


class Place(nn.Module):
    """θ in N dimensions; the loss ½|θ − x|² pulls to the mean of the data, with the gradient θ − x of each example."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.theta - x


def half_squares(out):
    return 0.5 * out.square().sum(-1).mean()


def points(count, n, seed=0):
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * torch.arange(
        1.0, n + 1
    )


def build(**changes):
    arguments = {"loss": half_squares, "data": (points(20, 3),), "temperature": 0.05, "replicas": 800}
    arguments |= {"learning_rate": 0.09, "batch": 4, "prior_std": 5.0}
    return erg.certified(Place(3), **(arguments | changes))


@pytest.fixture(scope="module")
def ensemble():
    made = build()
    made.run(60)
    return made


def test_the_stationary_variance_is_that_of_the_temperature_which_is_reported(ensemble):
    """Of each direction T + η·Σ_ii/(2B), Σ the covariance of the data; exact for the chain with 1 − ηa/2."""
    q, data = ensemble.summary(), points(20, 3).numpy()
    sigma = np.var(data, axis=0)
    a, eta = 1.0 + 0.05 / 25.0, 0.09
    exact = (0.05 + eta * sigma / (2 * 4)) / (a * (1.0 - 0.5 * eta * a))
    end = ensemble.run(60).end
    found = end.var(axis=0, ddof=1)
    assert np.all(np.abs(found - exact) < 4 * exact * math.sqrt(2 / 800))
    assert q["trace_cov"].value == pytest.approx(sigma.sum(), abs=4 * q["trace_cov"].stderr)
    assert 0 < q["trace_cov"].stderr < 0.03 * sigma.sum()
    temperature = 0.05 + eta * sigma.sum() / (2 * 4 * 3)
    assert q["temperature"].value == pytest.approx(temperature, abs=4 * q["temperature"].stderr)
    assert q["temperature"].value > 1.5 * 0.05  # the noise of the minibatches is not negligible here
    assert end.mean(0) == pytest.approx(data.mean(0) / a, abs=4 * np.sqrt(exact / 800).max())


def test_half_the_control_has_a_quarter_of_the_noise():
    half = build(protocol=lambda _: 0.5, replicas=300)
    q = (half.run(20), half.summary())[1]
    added = 0.09 * 0.25 * q["trace_cov"].value / (2 * 4 * 3)
    assert q["temperature"].value == pytest.approx(0.05 + added, rel=1e-12)


def test_every_value_says_that_it_is_not_certified_and_the_first_law_closes(ensemble):
    q = ensemble.summary()
    assert all(x.why.startswith("not certified") for x in q.values())
    known = {name for name, x in q.items() if x.known}
    measured = {"W", "Q_first_law", "delta_U", "first_law_residual", "loss_first", "loss_last", "eta_lambda_max"}
    assert known == measured | {"trace_cov", "temperature"}
    whole = build(batch=None, replicas=8)
    whole.run(2)
    assert set(q) == set(whole.summary()) | {"trace_cov", "temperature"}
    residual = q["first_law_residual"]  # the midpoint rule is exact on a quadratic, whatever moved θ
    assert residual.value == pytest.approx(0.0, abs=1e-9)
    assert q["W"].value - q["Q_first_law"].value == pytest.approx(q["delta_U"].value, rel=1e-9)


def test_the_catalogue_gets_the_first_law_alone(ensemble):
    found = ensemble.equations()
    assert set(found) == {"1.1", "7.2"}
    for section, values in found.items():
        assert set(values) == {"W_first_law", "Q_first_law", "delta_U"}
        for name, q in values.items():
            units.factor(q.unit, CATALOGUE[section].names[name])
            assert q.why.startswith("not certified")


def test_a_recording_keeps_nothing_of_it(tmp_path):
    one = build(replicas=8)
    with erg.record(store=tmp_path) as recording:
        one.run(3)
    assert "certified" not in recording.run().meta


def test_the_reverse_is_refused(ensemble):
    with pytest.raises(UsageError, match=r"expected full-batch gradients to reverse, got minibatches of 4; leave"):
        ensemble.reverse()


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"batch": -3}, {"data": (points(20, 3), torch.zeros(5)), "loss": lambda out, _: half_squares(out)}],
)
def test_a_batch_that_cannot_be_drawn_is_refused(changes):
    with pytest.raises(UsageError, match=r"expected a batch of one example or more, .*; leave batch= out"):
        build(replicas=8, **changes)


@pytest.mark.parametrize("batched", [True, False])
def test_every_replica_goes_down_examples_of_its_own_data_set(batched):
    sets = [(points(6, 3, seed),) for seed in range(2)]
    network = Network(Place(3), half_squares, sets, 4)
    network.batched = batched
    theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    chosen = torch.tensor([[0, 1], [2, 2], [3, 4], [5, 0]])
    losses, gradients = network.on_examples(theta, chosen)
    for r in range(4):
        batch = sets[r // 2][0][chosen[r]]
        assert torch.allclose(gradients[r], theta[r] - batch.mean(0), rtol=1e-12)
        assert float(losses[r]) == pytest.approx(float(half_squares(theta[r] - batch)), rel=1e-12)


def test_the_users_streams_are_untouched_and_a_seed_repeats_the_run():
    stream = torch.get_rng_state()
    runs = [build(replicas=8, seed=seed).run(5).end for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), stream)
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
