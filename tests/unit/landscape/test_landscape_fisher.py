"""The Fisher information and gradients of examples: against the definition, class by class and example by example."""

import math

import pytest
import torch
from torch import nn

from ergometry.landscape.examples import example_gradients
from ergometry.landscape.fisher import GAUSSIAN, Factor, fisher
from ergometry.landscape.point import LandscapeError, generator, sphere
from ergometry.landscape.products import DIFFERENCES, EXACT
from support.landscapes import convolutional, language, perceptron

NETS = {"perceptron": perceptron(0), "convolutions": convolutional(), "words": language()}
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", NETS)
def test_products_rows_and_gram_matrix_are_those_of_the_definition(name):
    net = NETS[name]
    factor = fisher(net.outputs, net.parameters)
    assert factor.how == EXACT and (factor.rows, factor.columns) == (net.outputs(net.parameters).numel(), net.size)
    dense = net.fisher()
    rows = torch.cat(list(factor.chunks(3 * (factor.rows + factor.columns) * 8)))
    assert torch.allclose(rows.T @ rows, dense, rtol=1e-9, atol=1e-12)
    v = sphere(net.size, generator(0), torch.float64, CPU)
    u = sphere(factor.rows, generator(1), torch.float64, CPU)
    assert torch.allclose(factor.fisher()(v), dense @ v, rtol=1e-9, atol=1e-11)
    assert torch.allclose(factor.forward(v), rows @ v, rtol=1e-9, atol=1e-11)
    assert torch.allclose(factor.adjoint(u), u @ rows, rtol=1e-9, atol=1e-11)
    small = factor.smaller()
    gram = rows @ rows.T if factor.rows < factor.columns else rows.T @ rows
    assert small.size == factor.side and torch.allclose(small.dense(), gram, rtol=1e-9, atol=1e-11)


def test_of_a_squared_error_it_is_the_gauss_newton_matrix():
    net = perceptron(1)
    factor = fisher(net.outputs, net.parameters, GAUSSIAN)
    j = torch.autograd.functional.jacobian(net.of_flat(net.outputs), net.flat()).flatten(0, 1)
    assert torch.allclose(factor.fisher().dense(), j.T @ j, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_of_the_examples_losses_it_is_the_empirical_fisher(name):
    net = NETS[name]
    g = net.gradients()
    factor = fisher(net.losses, net.parameters, GAUSSIAN)
    assert factor.rows == len(g) and torch.allclose(factor.chunk(0, len(g)), g, rtol=1e-9, atol=1e-12)


def test_without_double_backward_only_the_forward_side_is_by_differences():
    torch.manual_seed(5)
    layer, head = nn.Linear(8, 24).double(), nn.Linear(8, 3).double()
    x = torch.randn(4, 6, 8, dtype=torch.float64)

    def outputs_with(backend):
        def outputs(p):
            q, k, v = nn.functional.linear(x, p[0], p[1]).view(4, 6, 2, 12).transpose(1, 2).chunk(3, -1)
            with torch.nn.attention.sdpa_kernel(backend):
                mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return nn.functional.linear(mixed.transpose(1, 2).reshape(4, 6, 8).mean(1), p[2], p[3])

        return outputs

    parameters = [*layer.parameters(), *head.parameters()]
    backends = torch.nn.attention.SDPBackend
    found = fisher(outputs_with(backends.FLASH_ATTENTION), parameters)
    exact = fisher(outputs_with(backends.MATH), parameters)
    assert found.how == DIFFERENCES and "flash" in found.why and exact.how == EXACT
    v = sphere(found.columns, generator(2), torch.float64, CPU)
    assert torch.allclose(found.fisher()(v), exact.fisher()(v), rtol=1e-6, atol=1e-8)
    assert torch.allclose(found.chunk(2, 5), exact.chunk(2, 5), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_examples_are_those_of_a_loop(name):
    net = NETS[name]
    rows, how = example_gradients(net.example_loss, net.parameters, [net.inputs, net.labels], chunk=2)
    assert how == "vmap" and torch.allclose(rows, net.gradients(), rtol=1e-9, atol=1e-12)


def test_a_loss_whose_flow_depends_on_the_data_is_looped_over():
    net = perceptron(3)

    def loss(parameters, x, y):
        return net.example_loss(parameters, x, y) * (2.0 if float(x.sum()) > 0 else 1.0)

    rows, how = example_gradients(loss, net.parameters, [net.inputs, net.labels])
    weights = 1.0 + (net.inputs.sum(1) > 0).double()
    assert how == "loop" and torch.allclose(rows, weights[:, None] * net.gradients(), rtol=1e-9)
    assert all(p.grad is None for p in net.parameters)


NET = perceptron(4)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: fisher(NET.outputs, NET.parameters, "poisson"), "likelihood categorical or gaussian, got 'poisson'"),
        (lambda: fisher(lambda p: NET.outputs(p) * math.nan, NET.parameters), "finite outputs"),
        (lambda: fisher(lambda p: NET.outputs(NET.parameters).detach(), NET.parameters), "computes from the param"),
        (lambda: Factor.of(torch.ones(3)), r"finite rows \(m, N\), got shape \(3,\)"),
        (lambda: Factor.of(torch.full((2, 2), math.nan)), "finite rows"),
        (lambda: example_gradients(NET.example_loss, NET.parameters, [NET.inputs, NET.labels[1:]]), "got 8, 9"),
        (lambda: example_gradients(NET.example_loss, NET.parameters, []), "got none"),
        (lambda: example_gradients(lambda p, x: NET.outputs(p)[0], NET.parameters, [NET.inputs]), "a scalar loss"),
        (
            lambda: example_gradients(lambda p, x: p[0].sum() * x.sum(), NET.parameters, [NET.inputs / 0.0]),
            "finite gradients, got 9 of 9",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(call, expected):
    with pytest.raises(LandscapeError, match=expected) as caught:
        call()
    assert "\n" not in str(caught.value)
