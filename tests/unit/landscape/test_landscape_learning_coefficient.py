"""The local learning coefficient: exact cases regular and singular, and what a step and a localisation do to it."""

import math

import pytest
import torch

from ergometry.landscape.learning_coefficient import Sampler, learning_coefficient
from ergometry.landscape.point import LandscapeError


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("step", "localisation"), [(1e-3, 0.0), (3e-3, 40.0)])
def test_a_regular_minimum_of_known_curvature(step, localisation):
    """Exactly ½ Σ nβh/[(nβh + γ)(1 − ¼ε(nβh + γ))], which is d/2 for small γ and ε."""
    n = 1000
    h = torch.tensor([0.5, 1.0, 2.0, 4.0] * 5, dtype=torch.float64)
    nb = n / math.log(n)
    a = nb * h + localisation
    true = 0.5 * float((nb * h / (a * (1 - 0.25 * step * a))).sum())
    found = learning_coefficient(
        [lambda p: 7.0 + 0.5 * (h * p[0] ** 2).sum()],
        [zeros(20)],
        examples=n,
        sampler=Sampler(step, localisation, burn_in=100, draws=500, chains=5),
    )
    assert abs(found.value - true) < 3 * found.stderr and found.stderr < 0.1 * true
    assert abs(true - 10.0) < (0.8 if localisation == 0.0 else 3.0)
    assert found.products == 5 * 600 and found.why == ""


def test_a_singular_minimum_has_less_than_half_its_dimension():
    """L = Σ w⁴ has ¼ a dimension: under exp(−nβw⁴), E[nβw⁴] = ¼ by scaling, whatever nβ."""
    found = learning_coefficient(
        [lambda p: (p[0] ** 4).sum()],
        [zeros(40)],
        examples=100,
        inverse_temperature=1.0,
        sampler=Sampler(2e-3, 0.0, burn_in=300, draws=900, chains=4),
    )
    assert abs(found.value - 10.0) < 3 * found.stderr + 0.3  # the step's own bias, εa/4 with a ~ nβ·12w² ~ 60
    assert found.stderr < 1.0


def test_a_ridge_of_minima_against_quadrature():
    """L = (ab)² under a localising Gaussian: λ̂ is an integral in the plane, near ½ and far from d/2 = 1."""
    nb, gamma, pairs = 100.0, 4.0, 20
    x = torch.linspace(-5.0, 5.0, 2001, dtype=torch.float64)
    a, b = x[:, None], x[None, :]
    weight = torch.exp(-nb * (a * b) ** 2 - 0.5 * gamma * (a**2 + b**2))
    true = float((weight * nb * (a * b) ** 2).sum() / weight.sum())
    assert 0.2 < true < 0.5
    found = learning_coefficient(
        [lambda p: (p[0] * p[1]).square().sum()],
        [zeros(pairs), zeros(pairs)],
        examples=100,
        inverse_temperature=1.0,
        sampler=Sampler(2e-3, gamma, burn_in=300, draws=1200, chains=4),
    )
    assert abs(found.value / pairs - true) < (3 * found.stderr) / pairs + 0.03 * true
    assert found.stderr / pairs < 0.1 * true


def test_batches_are_drawn_and_each_is_compared_with_itself():
    """Batches that differ by a constant alone have the same gradient: their mean rise has no offset."""
    losses = [lambda p, c=c: c + 0.5 * p[0].square().sum() for c in (0.0, 100.0, -50.0)]
    sampler = Sampler(1e-3, 0.0, burn_in=50, draws=150, chains=3)
    many = learning_coefficient(losses, [zeros(10)], examples=1000, sampler=sampler)
    assert abs(many.value - 5.0) < 4 * many.stderr and many.stderr < 1.5


def test_it_is_reproducible_and_leaves_everything_alone():
    w = zeros(5)
    state = torch.get_rng_state()
    sampler = Sampler(1e-3, 1.0, burn_in=5, draws=20, chains=2)
    first, again, other = (
        learning_coefficient([lambda p: p[0].square().sum()], [w], examples=50, sampler=sampler, seed=s)
        for s in (1, 1, 2)
    )
    assert first == again != other
    assert not w.detach().any() and w.grad is None and torch.equal(state, torch.get_rng_state())


def test_lower_ground_nearby_is_said():
    found = learning_coefficient(
        [lambda p: -p[0].sum() * 5.0],
        [zeros(3)],
        examples=100,
        sampler=Sampler(1e-3, 1.0, burn_in=5, draws=20, chains=2),
    )
    assert found.value < 0 and "w* is no minimum" in found.why


def test_a_step_too_large_is_refused_with_the_remedy():
    with pytest.raises(LandscapeError, match=r"stays finite for 250 steps, got .* after .*smaller step than 1"):
        learning_coefficient(
            [lambda p: (p[0] ** 4).sum()], [zeros(3)], examples=100, sampler=Sampler(1.0, 0.0, burn_in=50, draws=200)
        )


@pytest.mark.parametrize(
    ("losses", "examples", "beta", "sampler"),
    [
        ([], 10, None, Sampler(1.0, 1.0)),
        ([torch.sum], 1, None, Sampler(1.0, 1.0)),
        ([torch.sum], 10, -1.0, Sampler(1.0, 1.0)),
        ([torch.sum], 10, None, Sampler(0.0, 1.0)),
        ([torch.sum], 10, None, Sampler(1.0, -1.0)),
        ([torch.sum], 10, None, Sampler(1.0, 1.0, chains=1)),
        ([torch.sum], 10, None, Sampler(1.0, 1.0, draws=0)),
        ([torch.sum], 10, None, Sampler(1.0, 1.0, burn_in=-1)),
    ],
)
def test_arguments_out_of_range_are_refused(losses, examples, beta, sampler):
    with pytest.raises(LandscapeError, match="start with step"):
        learning_coefficient(losses, [zeros(1)], examples=examples, inverse_temperature=beta, sampler=sampler)
