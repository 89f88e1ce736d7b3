"""The tap of equilibration against brute force in float64, and against the exact stationary state of SGD."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from ergometry.equations.work_loss import stationary_variance
from ergometry.integrations.physics import equilibrium as equilibrium_module
from ergometry.integrations.physics.equilibrium import Equilibrium
from support.tapped import Training


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def data(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean_square(out: torch.Tensor) -> torch.Tensor:
    return (out - 1.0).square().sum(-1).mean()


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


@pytest.mark.parametrize("decay", [0.0, 0.03], ids=["plain", "coupled decay"])
def test_a_row_is_the_products_of_what_the_optimizer_uses(decay):
    """θ·g, |Δθ|² and (θ−θ̄)·g, of the clipped gradient and its coupled weight decay."""
    model, training = network(), Training(Equilibrium)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
    expected, visited = [], []
    for step in range(4):
        training.backward(model, data(5, step), mean_square)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        theta = flat(model.parameters())
        g = flat(p.grad for p in model.parameters()) + decay * theta
        around = theta - sum(visited) / len(visited) if visited else torch.full_like(theta, math.nan)
        visited.append(theta)
        training.optimize(optimizer)
        moved = flat(model.parameters()) - theta
        expected.append((float(theta @ g), float(moved @ moved), float(around @ g)))
    rows = training.rows()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row, (theta_g, dtheta_sq, virial) in zip(rows, expected, strict=True):
        assert row["theta_g"] == pytest.approx(theta_g, rel=1e-10)
        assert row["dtheta_sq"] == pytest.approx(dtheta_sq, rel=1e-10)
        assert row["virial"] == pytest.approx(virial, rel=1e-6, nan_ok=True)
        assert row["theta_g_stderr"] == row["dtheta_sq_stderr"] == 0.0
        assert (row["momentum"], row["eligible"]) == (0.9, 1.0)
        assert row["sampled"] == row["parameters"] == flat(model.parameters()).numel()


class Quadratic(nn.Module):
    """N independent parameters in the loss Σ ½θ² + ξθ: the gradient is θ + ξ."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return (0.5 * self.theta**2 + noise * self.theta).sum()


def test_in_the_stationary_state_both_sides_are_the_exact_variance():
    """R5 on torch's own SGD: η = 0.1, μ = 0.9, curvature and noise 1."""
    n, eta, momentum = 500, 0.1, 0.9
    model, training = Quadratic(n), Training(Equilibrium)
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, momentum=momentum)
    noise = torch.Generator().manual_seed(3)
    for _ in range(900):
        training.backward(model, torch.randn(n, generator=noise, dtype=torch.float64), lambda out: out)
        training.optimize(optimizer)
    rows = training.rows()[200:]
    exact = float(stationary_variance(eta, 1.0, 1.0, momentum))
    assert exact == pytest.approx(0.5135, abs=5e-5)
    left = sum(row["theta_g"] for row in rows) / len(rows) / n
    right = (1 + momentum) / (2 * eta) * sum(row["dtheta_sq"] for row in rows) / len(rows) / n
    virial = sum(row["virial"] for row in rows) / len(rows) / n
    assert left == pytest.approx(exact, rel=0.02)  # of 500 parameters over 700 steps that forget in about 20
    assert right == pytest.approx(exact, rel=0.02)
    assert virial == pytest.approx(exact, rel=0.05)  # θ̄ is itself of the few hundred steps before


def test_blocks_are_drawn_once_and_their_error_is_stated(monkeypatch):
    monkeypatch.setattr(equilibrium_module, "KEPT_BYTES", 0)
    torch.manual_seed(0)
    errors = []
    for seed in range(60):
        model, training = nn.Linear(100, 20).double(), Training(Equilibrium)
        training.tap._drawer.stream.seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(5, 100, dtype=torch.float64)
        for _ in range(2):
            training.backward(model, x, mean_square)
            theta, g = flat(model.parameters()), flat(p.grad for p in model.parameters())
            training.optimize(optimizer)
        first, last = training.rows()
        assert last["sampled"] == first["sampled"] <= 0.01 * last["parameters"]
        errors.append((last["theta_g"] - float(theta @ g), last["theta_g_stderr"]))
    made, stated = (torch.tensor(column) for column in zip(*errors, strict=True))
    assert abs(float(made.mean())) < 4 * float(made.std()) / math.sqrt(len(made))
    assert 0.7 < float(made.std()) / float(stated.square().mean().sqrt()) < 1.4


def test_the_mean_begins_anew_at_another_learning_rate():
    model, training = network(), Training(Equilibrium)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        if step == 3:
            optimizer.param_groups[0]["lr"] = 0.05
        training.step(model, optimizer, [data(5, step)], mean_square)
    assert [math.isnan(row["virial"]) for row in training.rows()] == [True, False, False, True, False]


def two_rates(model):
    return torch.optim.SGD([{"params": [p], "lr": 0.1 / (1 + i)} for i, p in enumerate(model.parameters())])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda m: torch.optim.Adam(m.parameters(), lr=0.01), "this is Adam"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True), "Nesterov"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, dampening=0.1), "dampening"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1, maximize=True), "maximize"),
        (two_rates, "one learning rate"),
    ],
    ids=["Adam", "Nesterov", "dampening", "maximize", "two rates"],
)
def test_an_optimizer_of_which_the_relation_is_not_stated_is_marked(make, why):
    model, training = network(), Training(Equilibrium)
    optimizer = make(model)
    for step in range(3):
        training.step(model, optimizer, [data(5, step)], mean_square)
    assert [row["eligible"] for row in training.rows()] == [0.0] * 3
    assert why in training.tap.why()


def test_the_decay_of_adam_is_in_g_and_that_of_adamw_is_not():
    for kind, decay in ((torch.optim.Adam, 0.1), (torch.optim.AdamW, 0.0)):
        model, training = network(), Training(Equilibrium)
        optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1)
        training.backward(model, data(5), mean_square)
        theta, g = flat(model.parameters()), flat(p.grad for p in model.parameters())
        training.optimize(optimizer)
        (row,) = training.rows()
        assert row["theta_g"] == pytest.approx(float(theta @ (g + decay * theta)), rel=1e-10)


def test_the_optimizer_with_most_parameters_is_followed():
    small, large, training = nn.Linear(6, 1).double(), network(), Training(Equilibrium)
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (small, large))
    for step in range(3):
        training.step(small, one, [data(5, step)], mean_square)
        training.step(large, other, [data(5, step)], mean_square)
    assert [row["parameters"] for row in training.rows()] == [7.0] + [flat(large.parameters()).numel()] * 3


def test_gradients_that_are_not_finite_are_counted_and_not_written():
    model, training = network(), Training(Equilibrium)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training.step(model, optimizer, [data(5)], mean_square)
    training.backward(model, data(5) * math.inf, mean_square)
    training.conductor.optimizer_begin(optimizer, closure=False)
    training.conductor.optimizer_end(optimizer, 1, skipped=True)
    optimizer.zero_grad()
    training.step(model, optimizer, [data(5) * math.inf], mean_square)
    assert len(training.rows()) == 1
    assert "not finite (2 times)" in training.tap.why()


def test_a_closure_is_said():
    model, training = network(), Training(Equilibrium)
    optimizer = torch.optim.LBFGS(model.parameters())
    training.backward(model, data(5), mean_square)
    training.conductor.optimizer_begin(optimizer, closure=True)
    assert training.rows() == [] and "closure" in training.tap.why()


def test_a_fused_optimizers_scale_is_divided_out():
    model, training = network(), Training(Equilibrium)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    theta = flat(model.parameters())
    training.backward(model, data(5), lambda out: scaler.scale(mean_square(out)))
    g = flat(p.grad for p in model.parameters()) / 512.0 + 0.1 * theta
    handles = [
        optimizer.register_step_pre_hook(lambda o, *_: training.conductor.optimizer_begin(o, closure=False)),
        optimizer.register_step_post_hook(lambda o, *_: training.conductor.optimizer_end(o, 0, skipped=False)),
    ]
    scaler.step(optimizer)
    (row,) = training.rows()
    assert len(handles) == 2
    assert row["theta_g"] == pytest.approx(float(theta @ g), rel=1e-10)
    assert row["dtheta_sq"] == pytest.approx(0.01 * float(g @ g), rel=1e-10)


@pytest.mark.parametrize("c", [1e-3, 7.0])
def test_rescaling_the_loss_rescales_theta_g_and_keeps_the_path(c):
    """Loss × c with SGD at η/c: θ·g and (1+μ)/(2η)|Δθ|² are both c times as large."""
    found = []
    for factor in (1.0, c):
        model, training = network(), Training(Equilibrium)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05 / factor, momentum=0.9)
        for step in range(6):
            training.step(model, optimizer, [data(6, step)], lambda out, f=factor: f * mean_square(out))
        found.append(training.rows())
    for one, other in zip(*found, strict=True):
        assert other["theta_g"] == pytest.approx(c * one["theta_g"], rel=1e-9)
        assert other["dtheta_sq"] == pytest.approx(one["dtheta_sq"], rel=1e-9)


def test_the_training_has_the_same_bits_and_no_model_is_kept_alive():
    found = []
    for watched in (True, False):
        model, training = network(), Training(Equilibrium, watched=watched)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
        for step in range(5):
            training.step(model, optimizer, [data(5, step)], mean_square)
        found.append([p.detach().clone() for p in model.parameters()])
        refs = [weakref.ref(p) for p in model.parameters()]
        del model, optimizer
        gc.collect()
        assert not any(ref() is not None for ref in refs)
    assert all(map(torch.equal, *found))
