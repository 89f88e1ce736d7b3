"""EKFAC: exact where two factors are exact, an upper bound of the block elsewhere, and honest about sampling."""

import math

import pytest
import torch
from torch import nn

from ergometry.landscape.fisher import GAUSSIAN, fisher
from ergometry.landscape.information import information_by_group, module_groups
from ergometry.landscape.kronecker import kronecker, upper_bound
from ergometry.landscape.point import generator
from support.landscapes import Net, convolutional, language, perceptron

NETS = {"perceptron": perceptron(0), "convolutions": convolutional(), "words": language()}


def ekfac(net, precision=0.1, **options):
    factor, groups = fisher(net.outputs, net.parameters), module_groups(net.names, net.parameters)
    return kronecker(factor, precision, groups, net.layers, **options), information_by_group(factor, precision, groups)


@pytest.mark.parametrize("name", NETS)
def test_it_is_an_upper_bound_of_each_block(name):
    found, exact = ekfac(NETS[name])
    factored = [n for n, r in found.items() if r.method.startswith("EKFAC")]
    assert len(factored) == {"perceptron": 3, "convolutions": 4, "words": 3}[name]
    for n in factored:
        assert exact[n].value <= found[n].value < 4 * exact[n].value
        assert math.isnan(found[n].stderr) and "upper bound" in found[n].why


@pytest.mark.parametrize("name", NETS)
def test_its_squares_add_up_to_the_trace_of_the_block(name):
    """In any basis; at a large λ the information is tr F_b/2λ."""
    net = NETS[name]
    precision, dense = 1e9, net.fisher()
    found, _ = ekfac(net, precision)
    for n, ranges in module_groups(net.names, net.parameters).items():
        trace = sum(float(dense.diagonal()[i:j].sum()) for i, j in ranges)
        if found[n].method.startswith("EKFAC"):
            assert 2 * precision * found[n].value == pytest.approx(trace, rel=1e-5)


def test_it_is_exact_where_the_block_is_a_product_of_its_factors():
    """One linear layer with unit noise: F = 1 ⊗ Σ aaᵀ. One example: F of the layer has the two factors themselves."""
    stream = torch.Generator().manual_seed(4)
    model = nn.Linear(5, 3).double()
    net = Net(model, torch.randn(20, 5, generator=stream, dtype=torch.float64), torch.zeros(20, dtype=torch.long))
    factor, groups = fisher(net.outputs, net.parameters, GAUSSIAN), module_groups(net.names, net.parameters)
    found = kronecker(factor, 0.3, groups, net.layers)[""]
    assert found.value == pytest.approx(information_by_group(factor, 0.3, groups)[""].value, rel=1e-10)
    single, exact = ekfac(perceptron(1, examples=1))
    for n, r in single.items():
        assert r.value == pytest.approx(exact[n].value, rel=1e-10)


@pytest.mark.parametrize("name", ["convolutions", "words"])
def test_random_passes_give_a_bound_of_every_block_that_is_not_much_looser_than_all_rows_do(name):
    """Of few passes the basis is a worse one, and the tangents lie higher: either makes the bound looser."""
    rows, exact = ekfac(NETS[name], passes=64)
    found = [ekfac(NETS[name], passes=2, seed=seed)[0] for seed in range(15)]
    for n, r in rows.items():
        if r.method.startswith("EKFAC"):
            assert all(f[n].method == "EKFAC, 4 random passes" for f in found)
            assert all(math.isnan(f[n].stderr) and "rows an example" in f[n].why for f in found)
            mean = sum(f[n].value for f in found) / len(found)
            assert exact[n].value < mean and 0.98 * r.value < mean < 1.2 * r.value


def test_a_basis_from_few_passes_makes_the_bound_looser_and_never_tighter():
    net = perceptron(1, examples=6, widths=(6, 20, 20, 12))
    exact = sum(r.value for r in ekfac(net, passes=64)[0].values())
    found = [sum(r.value for r in ekfac(net, passes=2, seed=seed)[0].values()) for seed in range(8)]
    assert 1.0 < sum(found) / len(found) / exact < 1.12


@pytest.mark.parametrize("precision", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("squares", [1, 8])
def test_the_tangents_bound_it_from_above_in_expectation_whatever_the_scatter(precision, squares):
    """s of 20000 weights, each the mean of so many squares of normal numbers: in truth 1."""
    n, stream = 20000, generator(5)
    samples = [torch.randn(squares, n, generator=stream, dtype=torch.float64).square().mean(0) for _ in range(4)]
    true = 0.5 * n * math.log1p(1.0 / precision)
    found = upper_bound(samples, precision, "", "few rows", 0)
    plain = 0.5 * float(torch.log1p(torch.stack(samples).mean(0) / precision).sum())
    assert plain < true < found.value < true + 0.5 * n * {1: 1.2, 8: 0.06}[squares]
    assert math.isnan(found.stderr) and found.why.startswith("few rows; an upper bound in expectation, which")


def test_the_scatter_that_is_said_is_that_of_repetition():
    stream = generator(6)
    values, said = [], []
    for _ in range(300):
        samples = [torch.randn(8, 50, generator=stream, dtype=torch.float64).square().mean(0) for _ in range(4)]
        found = upper_bound(samples, 0.5, "", "", 0)
        values.append(found.value)
        said.append(float(found.why.rpartition("± ")[2]))
    values = torch.tensor(values)
    inside = (values - values.mean()).abs() < 1.645 * torch.tensor(said)
    assert 0.85 < float(inside.double().mean()) < 0.97


def test_what_has_no_two_factors_is_read_by_its_diagonal():
    found, _ = ekfac(NETS["convolutions"], passes=64)
    dense = NETS["convolutions"].fisher()
    (ranges,) = [
        r for n, r in module_groups(NETS["convolutions"].names, NETS["convolutions"].parameters).items() if n == "7"
    ]
    true = sum(0.5 * float(torch.log1p(dense.diagonal()[i:j] / 0.1).sum()) for i, j in ranges)
    assert found["7"].method == "diagonal, 64 random passes"
    assert abs(found["7"].value - true) < 3 * float(found["7"].why.rpartition("± ")[2])


class Odd(nn.Module):
    """A weight used twice, a weight tied to another, a layer that is never called, and one called by position."""

    def __init__(self):
        super().__init__()
        self.twice, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.idle, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(torch.tanh(self.first(torch.tanh(self.twice(torch.tanh(self.twice(x))))))))


def test_shared_tied_and_idle_weights():
    model = Odd().double()
    torch.manual_seed(3)
    net = Net(model, torch.randn(7, 4, dtype=torch.float64), torch.randint(3, (7,)))
    found, exact = ekfac(net)
    assert found["twice"].method.startswith("EKFAC") and found["head"].method.startswith("EKFAC")
    assert exact["twice"].value <= found["twice"].value < 2.5 * exact["twice"].value
    assert found["first"].method.startswith("diagonal") and found["first"].value > 0
    assert found["idle"].value == 0.0
    assert set(found) == {"twice", "first", "idle", "head"}


def test_hooks_are_taken_off_again_and_nothing_else_changes():
    net = convolutional()
    before, state = {k: v.clone() for k, v in net.model.state_dict().items()}, torch.get_rng_state()
    ekfac(net)
    assert all(not m._forward_hooks for m in net.model.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.model.state_dict().items())
    assert all(p.grad is None for p in net.parameters) and torch.equal(state, torch.get_rng_state())
    broken = Net(net.model, net.inputs[:, :1], net.labels)
    factor = fisher(net.outputs, net.parameters)
    bad = type(factor)(**{**factor.__dict__, "source": (broken.outputs, net.parameters, "categorical")})
    with pytest.raises(RuntimeError):
        kronecker(bad, 1.0, module_groups(net.names, net.parameters), net.layers)
    assert all(not m._forward_hooks for m in net.model.modules())


def test_outputs_flattened_over_positions_count_each_as_an_example():
    net = language()
    factor = fisher(lambda p: net.outputs(p).flatten(0, 1), net.parameters)
    found = kronecker(factor, 0.1, module_groups(net.names, net.parameters), net.layers)
    apart, _ = ekfac(net)
    assert all(r.method == "EKFAC, 5 passes" for r in found.values())
    for n, r in found.items():
        assert 0.5 * apart[n].value < r.value < 2 * apart[n].value


def test_frozen_biases_are_left_out_and_examples_that_are_not_first_are_not_guessed():
    stream = generator(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    model[0].bias.requires_grad_(False)
    x = torch.randn(8, 4, generator=stream, dtype=torch.float64)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    names, parameters = [n for n, _ in named], [p for _, p in named]

    def outputs(p):
        return torch.func.functional_call(model, dict(zip(names, p, strict=True)), (x,))

    factor, groups = fisher(outputs, parameters), module_groups(names, parameters)
    found, exact = (
        kronecker(factor, 0.1, groups, dict(model.named_modules())),
        information_by_group(factor, 0.1, groups),
    )
    assert exact["0"].value <= found["0"].value < 2 * exact["0"].value and found["0"].method == "EKFAC, 3 passes"

    def turned(p):  # layers see (position, example, …), outputs are by example
        y = torch.func.functional_call(model, dict(zip(names, p, strict=True)), (x.view(4, 2, 4),))
        return y.transpose(0, 1)

    factor = fisher(turned, parameters)
    found = kronecker(factor, 0.1, groups, dict(model.named_modules()))
    assert {r.method for r in found.values()} == {"diagonal, 32 random passes"}
