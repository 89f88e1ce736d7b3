"""The same products, traces and Kronecker factors by curvlinops, an implementation that shares no line with ours.

It is installed for the tests alone, without its dependencies (requirements/test-no-deps.txt).
"""

import pytest
import torch
from torch import nn

from ergometry.landscape.fisher import GAUSSIAN, fisher
from ergometry.landscape.information import module_groups
from ergometry.landscape.kronecker import kronecker
from ergometry.landscape.products import hessian
from ergometry.landscape.trace import trace
from support.landscapes import Net, half_logdet, perceptron

curvlinops = pytest.importorskip(
    "curvlinops", reason="needs curvlinops: pip install --no-deps -r requirements/test-no-deps.txt"
)
PRECISION = 0.2


def image_net():
    stream = torch.Generator().manual_seed(8)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)).double()
    inputs = torch.randn(6, 2, 5, 4, generator=stream, dtype=torch.float64)
    return Net(model, inputs, torch.randint(3, (6,), generator=stream))


NETS = {"perceptron": perceptron(0), "convolution": image_net()}


def theirs(kind, net, **options):
    data = [(net.inputs, net.labels)]
    return getattr(curvlinops, kind)(net.model, nn.CrossEntropyLoss(), net.parameters, data, **options)


@pytest.mark.parametrize("name", NETS)
def test_hessian_products_agree(name):
    net = NETS[name]
    v = torch.randn(net.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(hessian(net.loss, net.parameters)(v), theirs("HessianLinearOperator", net) @ v, rtol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_fisher_products_agree(name):
    """Theirs is of the mean over examples."""
    net, n = NETS[name], len(NETS[name].labels)
    v = torch.randn(net.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = fisher(net.outputs, net.parameters).fisher()(v) / n
    assert torch.allclose(ours, theirs("GGNLinearOperator", net) @ v, rtol=1e-9, atol=1e-12)
    ours = fisher(net.losses, net.parameters, GAUSSIAN).fisher()(v) / n
    assert torch.allclose(ours, theirs("EFLinearOperator", net) @ v, rtol=1e-9, atol=1e-12)


def test_traces_agree_within_their_errors():
    net = NETS["perceptron"]
    ours = trace(hessian(net.loss, net.parameters), probes=60)
    torch.manual_seed(0)
    other = float(curvlinops.hutchinson_trace(theirs("HessianLinearOperator", net), num_matvecs=60))
    assert abs(ours.value - other) < 3 * 2**0.5 * ours.stderr


@pytest.mark.parametrize("name", NETS)
def test_kronecker_factored_information_agrees(name):
    net, n = NETS[name], len(NETS[name].labels)
    groups = module_groups(net.names, net.parameters)
    found = kronecker(fisher(net.outputs, net.parameters), PRECISION, groups, net.layers)
    operator = theirs("EKFACLinearOperator", net, fisher_type="type-2", separate_weight_and_bias=False)
    dense = n * (operator @ torch.eye(net.size, dtype=torch.float64))
    assert sum(r.value for r in found.values()) == pytest.approx(half_logdet(dense, PRECISION), rel=1e-6)
    for name_, ranges in groups.items():
        index = torch.cat([torch.arange(i, j) for i, j in ranges])
        assert found[name_].value == pytest.approx(half_logdet(dense[index][:, index], PRECISION), rel=1e-6)
