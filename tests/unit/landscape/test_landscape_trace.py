"""Traces: unbiased, with errors that repetition bears out; with a Krylov space taken out; of the gradient noise."""

import math

import pytest
import torch
from scipy import stats

from ergometry.landscape.lanczos import largest_eigenvalue
from ergometry.landscape.point import LandscapeError
from ergometry.landscape.products import Operator, hessian
from ergometry.landscape.trace import few, noise_trace, quadratic_form, trace
from support.landscapes import language, perceptron

NET = perceptron(0, widths=(4, 10, 10, 3), examples=12)
DENSE = NET.hessian()


def scores_of(take, true, repetitions=100):
    found = [take(seed) for seed in range(repetitions)]
    return torch.tensor([(r.value - true) / r.stderr for r in found]), found


def check(scores):
    n = len(scores)
    assert 0.82 < float((scores.abs() < 1.645).double().mean()) < 0.985
    assert abs(float(scores.mean())) < 4 / n**0.5


@pytest.mark.parametrize("probes", [1, 6])
def test_stated_errors_of_a_trace_cover_as_they_say(probes):
    h = Operator.of(DENSE)
    scores, _ = scores_of(lambda seed: trace(h, probes=probes, seed=seed), float(DENSE.trace()))
    check(scores)


@pytest.mark.parametrize("probes", [2, 8])
def test_beside_a_krylov_space_the_trace_stays_unbiased_and_is_less_noisy(probes):
    h = Operator.of(DENSE)

    def beside(seed):
        return trace(h, probes=probes, krylov=largest_eigenvalue(h, steps=8, tolerance=0.0, seed=seed)[1], seed=seed)

    scores, found = scores_of(beside, float(DENSE.trace()))
    check(scores)
    plain = [trace(h, probes=probes, seed=seed).stderr for seed in range(20)]
    assert sum(r.stderr for r in found) / len(found) < 0.75 * sum(plain) / len(plain)


def test_a_krylov_space_of_everything_is_the_trace_itself():
    a = torch.diag(torch.tensor([1.0, -2.0, 7.0], dtype=torch.float64))
    _, krylov = largest_eigenvalue(Operator.of(a), tolerance=0.0)
    found = trace(Operator.of(a), krylov=krylov)
    assert found.value == pytest.approx(6.0) and found.stderr == 0.0


def test_a_multiple_of_one_has_no_scatter():
    found = trace(Operator.of(3.0 * torch.eye(7, dtype=torch.float64)), probes=2)
    assert found.value == pytest.approx(21.0) and found.stderr < 1e-6
    _, krylov = largest_eigenvalue(Operator.of(3.0 * torch.eye(7, dtype=torch.float64)))
    assert krylov.steps == 1
    beside = trace(Operator.of(3.0 * torch.eye(7, dtype=torch.float64)), probes=2, krylov=krylov)
    assert beside.value == pytest.approx(21.0) and beside.stderr < 1e-6


def test_curvature_along_the_gradient_is_exact_and_needs_no_further_product():
    h = hessian(NET.loss, NET.parameters)
    g = h.gradient
    again, known = quadratic_form(h, g), quadratic_form(h, g, h.gradient_product)
    assert again.value == pytest.approx(float(g @ DENSE @ g), rel=1e-10) == known.value
    assert (again.products, known.products) == (1, 0) and again.stderr == 0.0
    rough = hessian(NET.loss, NET.parameters, how="differences")
    found = quadratic_form(rough, rough.gradient, rough.gradient_product)
    assert abs(found.value - again.value) < 10 * found.stderr and found.stderr > 0.0


@pytest.mark.parametrize("net", [NET, language()], ids=["perceptron", "words"])
def test_the_noise_trace_is_that_of_the_examples_gradients(net):
    dense, g = net.hessian(), net.gradients()
    d = g - g.mean(0)
    true = float(((d @ dense) * d).sum() / len(g))
    h = Operator.of(dense)
    scores, _ = scores_of(lambda seed: noise_trace(h, net.losses, net.parameters, probes=5, seed=seed), true)
    check(scores)
    assert noise_trace(h, net.losses, net.parameters, probes=300).value == pytest.approx(true, rel=0.3)


def test_few_widens_to_students_t():
    for n in (2, 3, 4, 5, 8, 20, 100):
        assert few(n) == pytest.approx(stats.t.ppf(0.95, n - 1) / stats.norm.ppf(0.95), rel=4e-3)


@pytest.mark.parametrize(
    ("losses", "probes", "expected"),
    [
        (NET.losses, 1, "at least 2 probes, got 1"),
        (NET.loss, 3, r"losses of at least 2 examples, \(n,\), got shape \(\)"),
        (NET.outputs, 3, r"got shape \(12, 3\)"),
        (lambda p: NET.losses(p) * math.nan, 3, "finite losses"),
    ],
    ids=["one probe", "mean", "logits", "nan"],
)
def test_bad_losses_are_refused(losses, probes, expected):
    with pytest.raises(LandscapeError, match=expected):
        noise_trace(hessian(NET.loss, NET.parameters), losses, NET.parameters, probes=probes)
