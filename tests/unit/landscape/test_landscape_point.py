"""Readings of none, one and two: parameters, examples and probes."""

import math

import pytest
import torch

from ergometry.landscape.fisher import Factor
from ergometry.landscape.information import Effort, information
from ergometry.landscape.lanczos import largest_eigenvalue, spectral_trace
from ergometry.landscape.learning_coefficient import Sampler, learning_coefficient
from ergometry.landscape.point import LandscapeError
from ergometry.landscape.products import Operator, hessian
from ergometry.landscape.trace import noise_trace, trace

D = torch.float64


def diagonal(n):
    """Return an operator with the eigenvalues 1 to n."""
    return Operator.of(torch.diag(torch.arange(1.0, n + 1, dtype=D)))


@pytest.mark.parametrize(
    "read",
    [
        lambda: trace(diagonal(3), probes=0),
        lambda: spectral_trace(diagonal(3), torch.log1p, probes=0),
        lambda: information(Factor.of(torch.ones(2, 3, dtype=D)), 1.0, method="lanczos", effort=Effort(probes=0)),
        lambda: largest_eigenvalue(diagonal(0)),
        lambda: largest_eigenvalue(diagonal(2), steps=0),
        lambda: spectral_trace(diagonal(0), torch.log1p),
        lambda: information(Factor.of(torch.zeros(0, 3, dtype=D)), 1.0),
        lambda: information(Factor.of(torch.zeros(3, 0, dtype=D)), 1.0),
        lambda: hessian(lambda w: w[0].sum(), []),
        lambda: noise_trace(diagonal(1), lambda w: w[0] * torch.ones(2), [torch.ones(1)], probes=1),
        lambda: noise_trace(diagonal(1), lambda w: w[0], [torch.ones(1)]),
        lambda: learning_coefficient([], [torch.ones(1)], examples=10, sampler=Sampler(1e-3, 1.0)),
        lambda: learning_coefficient(
            [lambda w: w[0].sum()], [torch.ones(1)], examples=10, sampler=Sampler(1e-3, 1.0, chains=1)
        ),
    ],
)
def test_what_cannot_be_read_of_so_few_is_refused_in_one_line_with_a_remedy(read):
    with pytest.raises(LandscapeError) as refused:
        read()
    said = str(refused.value)
    assert "expected" in said and "got" in said and ";" in said and "\n" not in said


def test_of_no_parameters_the_trace_is_zero_without_error():
    found = trace(diagonal(0))
    assert (found.value, found.stderr, found.products) == (0.0, 0.0, 0)


def test_of_one_parameter_everything_is_exact_from_one_probe():
    one = diagonal(1)
    read = trace(one, probes=1)
    assert (read.value, read.stderr) == (1.0, 0.0)
    top, krylov = largest_eigenvalue(one)
    assert (top.value, top.stderr, top.products) == (1.0, 0.0, 1)
    assert trace(one, krylov=krylov).value == 1.0
    assert spectral_trace(one, torch.log1p, probes=1).value == pytest.approx(math.log(2.0))
    for method in ("exact", "lanczos", "diagonal"):
        nats = information(Factor.of(torch.ones(1, 1, dtype=D)), 1.0, method=method).value
        assert nats == pytest.approx(0.5 * math.log(2.0), rel=1e-12)


def test_probes_of_two_parameters_have_an_error_that_covers_as_stated():
    """On the circle the variance is known from the same product, so that no second probe is needed for it."""
    held = sum(
        abs(read.value - 3.0) <= 1.645 * read.stderr for read in (trace(diagonal(2), seed=s) for s in range(300))
    )
    assert trace(diagonal(2), probes=1).stderr > 0
    assert 0.83 < held / 300 < 0.97
    both = largest_eigenvalue(diagonal(2))[0]
    assert both.value == pytest.approx(2.0) and both.stderr < 1e-12


def test_two_examples_and_two_probes_have_a_trace_of_the_noise_with_a_wide_error():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=D)
    theta = [torch.zeros(2, dtype=D, requires_grad=True)]
    matrix = rows.T @ rows
    true = float(((rows @ matrix) * rows).sum()) / 2 - float(rows.mean(0) @ matrix @ rows.mean(0))
    reads = [noise_trace(Operator.of(matrix), lambda w: rows @ w[0], theta, probes=2, seed=s) for s in range(200)]
    mean = sum(read.value for read in reads) / 200
    scatter = math.sqrt(sum((read.value - mean) ** 2 for read in reads) / 199 / 200)
    assert abs(mean - true) < 4 * scatter
