"""Information: closed forms, brute force, the inequalities, and which method is taken when."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.landscape.fisher import GAUSSIAN, Factor, fisher
from ergometry.landscape.information import METHODS, Effort, information, information_by_group, module_groups
from ergometry.landscape.point import LandscapeError, generator
from support.landscapes import convolutional, half_logdet, language, perceptron


def groups_of(net):
    return module_groups(net.names, net.parameters)


def block(dense, ranges):
    index = torch.cat([torch.arange(i, j) for i, j in ranges])
    return dense[index][:, index]


@pytest.mark.parametrize("examples", [4, 60], ids=["gram", "parameters"])
def test_exact_values_are_those_of_the_dense_matrix(examples):
    net, precision = perceptron(0, examples=examples), 0.3
    factor, dense = fisher(net.outputs, net.parameters), net.fisher()
    found = information(factor, precision)
    assert found.value == pytest.approx(half_logdet(dense, precision), rel=1e-11)
    assert found.stderr == 0.0 and found.why == ""
    assert found.method == (f"exact, Gram matrix of {4 * 3} rows" if examples == 4 else f"exact, {net.size} parameters")
    groups = groups_of(net)
    apart = information_by_group(factor, precision, groups)
    for name, ranges in groups.items():
        assert apart[name].value == pytest.approx(half_logdet(block(dense, ranges), precision), rel=1e-11)
        assert apart[name].method == "exact block"
    blocks = information(factor, precision, method="blocks", groups=groups)
    assert blocks.value == pytest.approx(sum(r.value for r in apart.values())) and blocks.method == "exact blocks"
    diagonal = information(factor, precision, method="diagonal")
    assert diagonal.value == pytest.approx(0.5 * float(torch.log1p(dense.diagonal() / precision).sum()), rel=1e-11)
    assert diagonal.method == "exact diagonal"


def test_of_linear_regression_it_is_the_evidence_and_labels_do_not_matter():
    """−log evidence = ½ Σ residuals² + ½λ|m|² + ½ logdet + n/2·ln 2π at the posterior mean m."""
    stream = torch.Generator().manual_seed(11)
    x = torch.randn(20, 4, generator=stream, dtype=torch.float64)
    found = []
    for precision in (0.5, 7.0):
        y = torch.randn(20, generator=stream, dtype=torch.float64)
        w = torch.linalg.solve(x.T @ x + precision * torch.eye(4), x.T @ y).requires_grad_()
        found = information(fisher(lambda p: x @ p[0], [w], GAUSSIAN), precision).value
        covariance = torch.eye(20, dtype=torch.float64) + x @ x.T / precision
        evidence = torch.distributions.MultivariateNormal(torch.zeros(20, dtype=torch.float64), covariance).log_prob(y)
        fit = 0.5 * float(((y - x @ w.detach()) ** 2).sum() + precision * (w.detach() ** 2).sum()) + 10 * math.log(
            2 * math.pi
        )
        assert found == pytest.approx(-float(evidence) - fit, rel=1e-10)


@given(
    seed=st.integers(0, 10**6),
    examples=st.integers(1, 30),
    width=st.integers(1, 7),
    depth=st.integers(1, 3),
    precision=st.floats(-8, 4).map(lambda x: 10.0**x),
    scale=st.floats(0.1, 10.0),
)
@settings(max_examples=50, deadline=None)
def test_diagonal_is_at_least_blocks_is_at_least_full(seed, examples, width, depth, precision, scale):
    """A theorem of exact values; 1e-12 is rounding alone."""
    net = perceptron(seed, examples, (3, *([width] * depth), 3))
    with torch.no_grad():
        for p in net.parameters:
            p.mul_(scale)
    factor, groups = fisher(net.outputs, net.parameters), groups_of(net)
    exact, blocks, diagonal = (
        information(factor, precision, method=method, groups=groups).value for method in ("exact", "blocks", "diagonal")
    )
    assert diagonal >= blocks * (1 - 1e-12) and blocks >= exact * (1 - 1e-12) and exact >= -1e-12


@pytest.mark.parametrize("net", [convolutional(), language()], ids=["convolutions", "words"])
def test_the_inequalities_hold_of_other_networks(net):
    factor, groups = fisher(net.outputs, net.parameters), groups_of(net)
    found = [information(factor, 0.1, method=m, groups=groups).value for m in ("diagonal", "blocks", "exact")]
    assert found == sorted(found, reverse=True) and found[0] > 1.1 * found[2]


@pytest.mark.parametrize("examples", [4, 60], ids=["gram", "parameters"])
def test_lanczos_agrees_within_its_error(examples):
    net = perceptron(0, examples=examples)
    factor, true = fisher(net.outputs, net.parameters), half_logdet(net.fisher(), 0.3)
    found = [information(factor, 0.3, method="lanczos", effort=Effort(seed=seed)) for seed in range(10)]
    scores = torch.tensor([(r.value - true) / r.stderr for r in found])
    assert float(scores.abs().max()) < 3.5 and float(scores.square().mean()) < 2.0
    assert "stochastic Lanczos quadrature, 10 probes" in found[0].method and found[0].why == ""


def test_rows_that_do_not_fit_are_not_held():
    """The Gram matrix is then made of products, and says what their rounding may have added."""
    net = perceptron(0, examples=4)
    factor, true = fisher(net.outputs, net.parameters), half_logdet(net.fisher(), 0.3)
    held = 12 * net.size * 8
    found = information(factor, 0.3, effort=Effort(memory_bytes=2 * held - 1))
    assert found.value == pytest.approx(true, rel=1e-10) and 0.0 < found.stderr < 1e-10
    many = fisher(perceptron(0, examples=60).outputs, perceptron(0).parameters)
    few = information(many, 0.3, effort=Effort(products=85))  # 180 rows are dearer than 83 products
    assert few.products == 83 and few.method == "exact, 83 parameters" and 0.0 < few.stderr < 1e-10
    assert few.value == pytest.approx(information(many, 0.3).value, rel=1e-10)
    narrow = Factor.of(torch.randn(500, 4, generator=generator(0), dtype=torch.float64))
    small = information(narrow, 1.0, effort=Effort(memory_bytes=4096))
    assert small.value == pytest.approx(half_logdet(narrow.fisher().dense(), 1.0)) and small.stderr == 0.0
    groups = {"a": [(0, 1), (3, 4)], "b": [(1, 3)]}
    apart = information_by_group(narrow, 1.0, groups, effort=Effort(memory_bytes=4096))
    dense = narrow.fisher().dense()
    assert apart["a"].value == pytest.approx(half_logdet(block(dense, groups["a"]), 1.0))


def test_a_method_too_dear_gives_the_next_cheaper_one_with_the_reason():
    net = perceptron(0, examples=60)
    factor, groups = fisher(net.outputs, net.parameters), groups_of(net)
    by_products = information(factor, 0.3, effort=Effort(products=80, probes=4))
    assert by_products.method.startswith("stochastic Lanczos")
    assert "exact is too dear: a matrix of 83 by 83 from 83 products, of 80 allowed" in by_products.why
    by_memory = information(factor, 0.3, method="exact", effort=Effort(memory_bytes=4 * 8 * 83 * 83 - 1))
    assert by_memory.method.startswith("stochastic Lanczos") and "MiB of matrices" in by_memory.why
    kronecker = information(factor, 0.3, groups=groups, layers=net.layers, effort=Effort(products=30))
    assert kronecker.method.startswith("EKFAC")
    assert "lanczos is too dear: 10 probes of 8 products each, of 30 allowed" in kronecker.why
    diagonal = information(factor, 0.3, effort=Effort(products=30))
    assert diagonal.method == "diagonal, 28 random passes"
    assert "kronecker is too dear: it needs the modules" in diagonal.why and "180 rows" in diagonal.why
    no_room = information(factor, 0.3, method="lanczos", effort=Effort(memory_bytes=2000))
    assert no_room.method == "exact diagonal" and "room for" in no_room.why
    blocks = information(factor, 0.3, method="blocks")
    assert blocks.method == "exact diagonal" and "blocks is too dear: it needs the blocks" in blocks.why
    apart = information_by_group(factor, 0.3, groups, layers=net.layers, effort=Effort(products=40))
    assert {r.method for r in apart.values()} == {"EKFAC, 3 passes"}
    assert all("blocks is too dear" in r.why for r in apart.values())


def test_the_sampled_diagonal_is_a_bound_within_what_its_signs_move_it_by():
    net = perceptron(0, examples=60)
    factor = fisher(net.outputs, net.parameters)
    for precision in (0.1, 10.0):
        true = information(factor, precision, method="diagonal").value
        for seed in range(5):
            found = information(factor, precision, method="diagonal", effort=Effort(products=32, seed=seed))
            moved = float(found.why.rpartition("± ")[2])
            assert math.isnan(found.stderr) and -3 * moved < found.value - true < 3 * moved + 0.1 * true < true


def test_what_is_a_bound_has_no_error_and_says_so():
    net = perceptron(0)
    factor, groups = fisher(net.outputs, net.parameters), groups_of(net)
    for method in ("blocks", "diagonal", "kronecker"):
        found = information(factor, 0.1, method=method, groups=groups, layers=net.layers)
        assert math.isnan(found.stderr) and "upper bound" in found.why
    each = information_by_group(factor, 0.1, groups)
    assert all(r.method == "exact block" and r.stderr == 0.0 and r.why == "" for r in each.values())
    whole = information(factor, 0.1, method="blocks", groups={"": [(0, factor.columns)]})
    assert whole.stderr == 0.0 and whole.value == pytest.approx(information(factor, 0.1, method="exact").value)


def test_the_order_of_methods_is_that_of_the_stored_codes():
    text = " ".join(Path(series.__file__).read_text(encoding="utf-8").split())
    codes = "1 exact, 2 stochastic Lanczos, 3 Kronecker-factored, 4 exact blocks, 5 exact diagonal"
    assert codes in text and METHODS == ("exact", "lanczos", "kronecker", "blocks", "diagonal")


def test_groups_follow_modules():
    net = convolutional()
    groups = groups_of(net)
    assert list(groups) == ["0", "2", "5", "7", "8"]
    covered = sorted(r for ranges in groups.values() for r in ranges)
    assert covered[0][0] == 0 and covered[-1][1] == net.size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(covered))


@pytest.mark.parametrize("precision", [0.0, -1.0, math.inf, math.nan])
def test_a_precision_that_is_not_positive_is_refused(precision):
    with pytest.raises(LandscapeError, match="a prior precision λ > 0"):
        information(Factor.of(torch.ones(1, 1)), precision)


def test_an_unknown_method_is_refused():
    with pytest.raises(LandscapeError, match="method auto, exact, lanczos"):
        information(Factor.of(torch.ones(1, 1)), 1.0, method="slq")
