"""Networks as potentials: many replicas at once give what each gives alone, and the user's model is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ergometry.core.errors import UsageError
from ergometry.langevin.curvature import parabola, steepest_curvature
from ergometry.langevin.networks import Layout, LossPotential, Network, own_streams

torch.set_num_threads(1)


def batch(seed=0, n=12, inputs=3, outputs=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=g, dtype=torch.float64)
    return x, torch.randn(n, outputs, generator=g, dtype=torch.float64)


def points(replicas, n, seed=0):
    return torch.randn(replicas, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net():
    with own_streams(torch.device("cpu")):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 1)).double()


class Looped(nn.Linear):
    """A model that vmap cannot run: it looks at a number."""

    def forward(self, x):
        scale = 2.0 if self.weight.sum().item() > 0 else 1.0
        return scale * super().forward(x)


def alone(model, theta, data):
    """Load one replica into the model itself and differentiate there."""
    import copy

    own = copy.deepcopy(model)
    nn.utils.vector_to_parameters(theta.clone(), own.parameters())
    loss = F.mse_loss(own(data[0]), data[1])
    loss.backward()
    return loss.detach(), torch.cat([p.grad.reshape(-1) for p in own.parameters()])


@pytest.mark.parametrize("make", [net, lambda: Looped(3, 1).double()], ids=["together", "one by one"])
@pytest.mark.parametrize("sets", [1, 3])
def test_each_replica_has_the_loss_and_gradient_that_it_has_alone(make, sets):
    model = make()
    data = [batch(i) for i in range(sets)]
    network = Network(model, F.mse_loss, data, 6)
    theta = points(6, sum(network.layout.sizes))
    losses, gradients = network.losses_and_gradients(theta)
    assert network.batched is not isinstance(model, Looped)
    for r in range(6):
        loss, gradient = alone(model, theta[r], data[r * sets // 6])
        torch.testing.assert_close(losses[r], loss)
        torch.testing.assert_close(gradients[r], gradient)
    crossed = network.crossed(theta, list(range(sets)))
    for i, m, j in ((0, 1, sets - 1), (sets - 1, 0, 0)):
        torch.testing.assert_close(crossed[i, m, j], alone(model, theta[i * (6 // sets) + m], data[j])[0])


def test_the_potential_adds_the_prior_and_switches_the_loss():
    network = Network(net(), F.mse_loss, [batch()], 2)
    n = sum(network.layout.sizes)
    theta, stiffness = points(2, n), torch.linspace(0.1, 1.0, n, dtype=torch.float64)
    local = LossPotential(network, stiffness)(theta)
    losses, gradients = network.losses_and_gradients(theta)
    energy, force = local(0.3)
    torch.testing.assert_close(energy, 0.3 * losses + 0.5 * (stiffness * theta**2).sum(1))
    torch.testing.assert_close(force, 0.3 * gradients + stiffness * theta)


def test_the_users_model_and_random_stream_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    network = Network(model, F.mse_loss, [batch()], 2)
    network.losses_and_gradients(points(2, sum(network.layout.sizes)))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)


def test_frozen_parameters_stay_as_the_user_set_them():
    model = net()
    model[0].weight.requires_grad_(False)
    network = Network(model, F.mse_loss, [batch()], 2)
    assert "0.weight" not in network.layout.names
    assert sum(network.layout.sizes) == sum(p.numel() for p in model.parameters()) - 12


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1).double()

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5, training=True)


@pytest.mark.parametrize(
    ("model", "loss", "data", "message"),
    [
        (net(), lambda out, y: (out - y) ** 2, batch(), r"expected a scalar loss, got \(12, 1\); return the mean"),
        (net(), lambda out, y: 1.0, batch(), "expected a scalar loss, got float; return"),
        (
            net(),
            lambda out, y: out.mean() * float("nan"),
            batch(),
            "expected a finite loss at .*, got nan; look for NaN",
        ),
        (Noisy(), F.mse_loss, batch(), "expected the same loss each time, .*; take out what is random"),
        (nn.Tanh(), F.mse_loss, batch(), "expected trainable parameters, .*, got none; move or convert"),
        (net().half(), F.mse_loss, batch(), "got torch.float16 on cpu; move or convert"),
    ],
)
def test_what_is_no_potential_is_refused(model, loss, data, message):
    with pytest.raises(UsageError, match=message):
        Network(model, loss, [data], 2)


def test_a_prior_by_name_reaches_the_numbers_it_names():
    layout = Layout.of(nn.Linear(3, 1).double())
    assert layout.spread({"weight": 2.0, "bias": 0.5}).tolist() == [2.0, 2.0, 2.0, 0.5]
    assert layout.spread(0.1).tolist() == [0.1] * 4
    for wrong, got in (({"weight": 1.0}, "none for bias"), (0.0, "0.0 for weight"), (float("inf"), "inf for weight")):
        expected = "0.0 for bias" if wrong == {"weight": 1.0} else got
        with pytest.raises(UsageError, match=f"expected a positive prior_std .*, got {expected}|got {got}"):
            layout.spread(wrong)


# curvature


def test_the_steepest_curvature_is_the_largest_eigenvalue():
    network = Network(net(), F.mse_loss, [batch()], 3)
    n = sum(network.layout.sizes)
    theta = points(3, n)
    stiffness = torch.full((n,), 0.2, dtype=torch.float64)
    potential = LossPotential(network, stiffness)

    def energy(flat):
        return network._value(flat, *network.data_sets[0]) + 0.1 * (flat**2).sum()

    largest = max(float(torch.linalg.eigvalsh(torch.func.hessian(energy)(t)).abs().max()) for t in theta)
    found = steepest_curvature(potential, theta, 1.0)
    assert 0.97 * largest < found < 1.0001 * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_model_with_squared_loss_is_a_parabola(dtype):
    x, y = (part.to(dtype) for part in batch())
    network = Network(nn.Linear(3, 1).to(dtype), F.mse_loss, [(x, y), (2.0 * x, y)], 2)
    found = parabola(network, network.layout.spread(0.7))
    assert found is not None
    design = torch.cat((2.0 * x, torch.ones(12, 1, dtype=dtype)), 1).double()
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(found.hessian[1], 2.0 * design.T @ design / 12, **tolerance)
    torch.testing.assert_close(found.linear[1], 2.0 * (design.T @ y.double())[:, 0] / 12, **tolerance)
    torch.testing.assert_close(found.constant[1], (y.double() ** 2).mean(), **tolerance)


@pytest.mark.parametrize(
    "model",
    [
        net(),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double(),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double(),
    ],
    ids=["tanh", "deep linear", "relu"],
)
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_what_is_not_a_parabola_is_not_taken_for_one_however_small_the_weights(model, scale):
    network = Network(model, F.mse_loss, [batch()], 2)
    assert parabola(network, network.layout.spread(scale)) is None


def test_weights_too_small_to_show_their_curvature_are_probed_further_out():
    """Near 0 a deep linear model is a saddle, quadratic to single precision; where training ends it is not."""
    with own_streams(torch.device("cpu")):
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False))
        data = tuple(part.float() for part in batch())
        network = Network(model, F.mse_loss, [data], 2)
    assert parabola(network, network.layout.spread(0.001)) is None


def test_large_models_are_not_tried():
    network = Network(nn.Linear(3, 1).double(), F.mse_loss, [batch()], 2)
    assert parabola(network, network.layout.spread(1.0), most=3) is None
