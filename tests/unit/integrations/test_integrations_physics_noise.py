"""The tap of gradient noise against brute force in float64, and the training that it must not disturb."""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ergometry.integrations.physics import blocks as blocks_module
from ergometry.integrations.physics import layers as layers_module
from ergometry.integrations.physics.layers import Layers
from ergometry.integrations.physics.looks import CONSECUTIVE, HALVES, MICRO_BATCHES, NORM_LAYERS
from ergometry.integrations.physics.noise import Noise
from ergometry.integrations.physics.owned_loss import OwnedLoss
from ergometry.integrations.physics.preconditioner import Preconditioner
from support.tapped import Training

INPUTS = 6


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()


class Bare(nn.Module):
    """A network without layers: its parameters tell no examples apart."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Parameter(torch.randn(INPUTS, hidden, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(hidden, 3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.a).tanh() @ self.b


def data(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean_square(out: torch.Tensor) -> torch.Tensor:
    return (out - 1.0).square().sum(-1).mean()


def gradient(model: nn.Module, x: torch.Tensor, loss=mean_square) -> torch.Tensor:
    """Return the whole gradient, apart from the training."""
    found = torch.autograd.grad(loss(model(x)), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def of(rows, how):
    return [row for row in rows if row["how"] == how]


# What the rows say


@pytest.mark.parametrize("divided", [True, False], ids=["loss divided by their number", "not divided"])
def test_micro_batches_give_the_mean_square_of_each_and_the_square_of_the_whole(divided):
    model, training = network(), Training(Noise)
    optimizer = sgd(model)
    parts = data(12).split(3)
    loss = (lambda out: mean_square(out) / 4) if divided else mean_square
    training.step(model, optimizer, parts, loss)
    each = [gradient(model, x, loss) * 4 for x in parts]
    training.step(model, optimizer, parts, loss)
    (row,) = training.rows()
    assert (row["step"], row["how"], row["small_batch"], row["big_batch"]) == (1, MICRO_BATCHES, 3, 12)
    assert row["small_sq"] == pytest.approx(sum(float(g @ g) for g in each) / 4, rel=1e-12)
    whole = sum(each) / 4
    assert row["big_sq"] == pytest.approx(float(whole @ whole), rel=1e-12)
    assert row["sampled"] == row["parameters"] == sum(p.numel() for p in model.parameters())
    assert math.isnan(row["small_preconditioned_sq"]) and math.isnan(row["dataset"])


def test_consecutive_steps_give_their_gradients_and_those_of_the_one_after():
    model, training = Bare(), Training(Noise)
    optimizer = sgd(model)
    gradients = []
    for step in range(4):
        x = data(5, step)
        gradients.append(gradient(model, x))
        training.step(model, optimizer, [x], mean_square)
    (row,) = training.rows()
    _, a, b, c = gradients  # the first step shows which optimizer is there
    assert (row["step"], row["how"], row["small_batch"], row["big_batch"]) == (1, CONSECUTIVE, 5, 10)
    assert row["small_sq"] == pytest.approx(float(a @ a + b @ b) / 2, rel=1e-12)
    assert row["big_sq"] == pytest.approx(float((a + b) @ (a + b)) / 4, rel=1e-12)
    assert row["lag2_sq"] == pytest.approx(float((c - a) @ (c - a)), rel=1e-12)


def test_a_shorter_batch_after_a_pair_leaves_the_pair_and_one_within_it_leaves_nothing():
    model, training = Bare(), Training(Noise)
    optimizer = sgd(model)
    for n in (5, 5, 5, 3):
        training.step(model, optimizer, [data(n)], mean_square)
    (row,) = training.rows()
    assert math.isnan(row["lag2_sq"]) and row["big_sq"] > 0
    for n in (5, 3, 5):
        training.step(model, optimizer, [data(n)], mean_square)
    assert len(of(training.rows(), CONSECUTIVE)) == 1
    assert "unequal sizes" in training.tap.why()


def test_another_term_of_the_loss_belongs_to_its_batch():
    """Two backwards of one forward are one batch's gradient, not two batches."""
    model, training = network(), Training(Noise)
    optimizer = sgd(model)
    whole = []
    for step in range(4):
        x = data(6, step)
        whole.append(gradient(model, x, lambda out: mean_square(out) + out.square().mean()))
        training.machine.forward_begin(training=True, starts_step=True, now_s=step)
        training.conductor.forward_begin(training.machine.index, 1.0, model, (x,), {})
        out = model(x)
        training.conductor.forward_end(model, out)
        training.machine.forward_end(step, evaluation=False)
        training.again(mean_square(out), 6, retain_graph=True)
        training.again(out.square().mean())
        training.optimize(optimizer)
    (row,) = training.rows()
    assert row["how"] == CONSECUTIVE and row["small_batch"] == 6
    assert row["small_sq"] == pytest.approx(float(whole[1] @ whole[1] + whole[2] @ whole[2]) / 2, rel=1e-12)


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), lr=0.01, **options)


@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (adam, lambda s: (s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).sqrt() + 1e-8),
        (
            lambda model: adam(model, amsgrad=True),
            lambda s: (s["max_exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).sqrt() + 1e-8,
        ),
        (
            lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-3),
            lambda s: (s["exp_avg_sq"] / (1 - 0.9 ** float(s["step"]))).sqrt() + 1e-3,
        ),
        (
            lambda model: torch.optim.RMSprop(model.parameters(), centered=True),
            lambda s: (s["square_avg"] - s["grad_avg"] ** 2).sqrt() + 1e-8,
        ),
    ],
    ids=["Adam", "amsgrad", "AdamW", "RMSprop"],
)
def test_the_preconditioned_squares_are_by_the_optimizers_own_v_of_the_past(make, scale):
    model, training = network(), Training(Noise)
    optimizer = make(model)
    parts = data(8).split(4)
    for _ in range(3):
        before = copy.deepcopy([optimizer.state[p] for p in model.parameters()]) if optimizer.state else []
        each = [gradient(model, x) for x in parts]
        training.step(model, optimizer, parts, lambda out: mean_square(out) / 2)
    weights = 1.0 / torch.cat([scale(state).reshape(-1) for state in before]).double()
    row = training.rows()[-1]
    assert row["small_preconditioned_sq"] == pytest.approx(sum(float(g @ (weights * g)) for g in each) / 2, rel=1e-5)
    whole = sum(each) / 2
    assert row["big_preconditioned_sq"] == pytest.approx(float(whole @ (weights * whole)), rel=1e-5)


def test_blocks_of_parameters_stand_for_all_of_them(monkeypatch):
    monkeypatch.setattr(blocks_module, "WHOLE_BYTES", 0)
    model = Bare(300)
    training, x = Training(Noise), data(4)
    optimizer = sgd(model, lr=0.0)
    g = gradient(model, x)
    for _ in range(900):
        training.step(model, optimizer, [x], mean_square)
    rows = training.rows()
    found = torch.tensor([row["small_sq"] for row in rows], dtype=torch.float64)
    stderr = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - float(g @ g)) < 4 * stderr and stderr < 0.05 * float(g @ g)
    assert all(row["sampled"] <= 0.02 * row["parameters"] for row in rows)
    assert [row["big_sq"] for row in rows] == pytest.approx([row["small_sq"] for row in rows])  # lr = 0, one batch
    assert [row["lag2_sq"] for row in rows] == pytest.approx([0.0] * len(rows), abs=1e-20)


@pytest.mark.parametrize("c", [1e-3, 7.0])
def test_rescaling_the_loss_leaves_the_noise_scale(c):
    """Loss × c with SGD at η/c: the same path, and every |g|² is c² as large, so that their ratios stay."""
    found = []
    for factor in (1.0, c):
        model, training = Bare(), Training(Noise)
        optimizer = sgd(model, lr=0.05 / factor)
        for step in range(8):
            training.step(model, optimizer, [data(6, step)], lambda out, f=factor: f * mean_square(out))
        found.append(training.rows())
    assert len(found[0]) == len(found[1]) == 2
    for one, other in zip(*found, strict=True):
        for name in ("small_sq", "big_sq"):
            assert other[name] == pytest.approx(c**2 * one[name], rel=1e-9)


# Layers that tell examples apart


class Every(nn.Module):
    """Every kind of layer, over vectors, tokens and images; and some that cannot be told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.tokens = nn.Linear(4, 4)
        self.a, self.b, self.c = nn.LayerNorm(4), nn.RMSNorm((3, 4), eps=1e-5), nn.GroupNorm(2, 6)
        self.image = nn.Conv2d(2, 6, (2, 3), stride=(1, 2), padding=(1, 0))
        self.grouped = nn.Conv1d(6, 6, 3, groups=3, bias=False)
        self.frozen = nn.Linear(4, 4)
        self.frozen.weight.requires_grad_(False)
        self.bare = nn.LayerNorm(4, elementwise_affine=False)
        self.twice, self.tied = nn.LayerNorm(4), nn.Linear(4, 4, bias=False)
        self.shared = nn.Linear(4, 4, bias=False)
        self.shared.weight = self.tied.weight
        self.head = nn.Linear(6, 3)
        self.left_out = [self.twice, self.tied, self.shared]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (n, 3)
        x = self.tokens(self.embedding(ids))
        x = self.b(self.a(self.frozen(x).tanh()))
        x = self.shared(self.tied(self.twice(self.bare(self.twice(x)))))
        x = self.c(self.image(torch.stack((x, x.cos()), 1)))  # (n, 6, 4, 1)
        return self.head(self.grouped(x[..., 0]).relu().mean(2))


def each_example(model: nn.Module, x: torch.Tensor, parameters) -> torch.Tensor:
    """Return (n, parameters): every example's own gradient."""
    found = []
    for i in range(len(x)):
        grads = torch.autograd.grad(mean_square(model(x[i : i + 1])), parameters)
        found.append(torch.cat([g.reshape(-1) for g in grads]))
    return torch.stack(found)


def square(x: torch.Tensor) -> float:
    return float((x * x).sum())


@pytest.mark.parametrize("n", [6, 7], ids=["even", "odd"])
def test_layers_give_the_gradients_of_half_batches(n):
    torch.manual_seed(0)
    model = Every().double()
    ids = torch.randint(7, (n, 3))
    layers = Layers(n, Preconditioner([]), random.Random(0))
    layers.watch(model)
    out = model(ids)
    layers.leave()
    assert not any(m._forward_hooks for m in model.modules())
    mean_square(out).backward()
    left_out = {id(p) for m in model.left_out for p in m.parameters()}
    kept = [p for p in model.parameters() if p.requires_grad and id(p) not in left_out]
    g = each_example(model, ids, kept)
    one, other = g[:3].mean(0), g[3:6].mean(0)
    small, small_weighed, big, big_weighed = layers.halves().tolist()
    assert small == pytest.approx((square(one) + square(other)) / 2, rel=1e-10)
    assert big == pytest.approx(square((one + other) / 2), rel=1e-10)
    assert math.isnan(small_weighed) and math.isnan(big_weighed)
    assert layers.half == 3 and layers.parameters == layers.sampled == g.shape[1]
    norms = [*model.a.parameters(), *model.b.parameters(), *model.c.parameters()]
    of_norms = each_example(model, ids, norms)
    squares, parameters = layers.norms()
    assert parameters == of_norms.shape[1]
    assert squares.tolist() == pytest.approx([square(of_norms) / n, square(of_norms.mean(0))], rel=1e-10)


def test_a_layer_that_also_sees_what_is_no_example_is_left_out():
    layer = nn.Linear(4, 2).double()
    layers = Layers(6, Preconditioner([]), random.Random(0))
    layers.watch(layer)
    out = layer(torch.randn(6, 4, dtype=torch.float64)) + layer(torch.randn(1, 4, dtype=torch.float64))
    layers.leave()
    out.square().mean().backward()
    assert layers.halves() is None


def test_rows_of_a_large_layer_stand_for_all_of_them(monkeypatch):
    monkeypatch.setattr(layers_module, "MOST", 40)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(9, 13), nn.Linear(13, 10), nn.Unflatten(1, (2, 5)), nn.Conv1d(2, 30, 2), nn.Flatten()
    ).double()
    ids, stream, found = torch.randint(9, (4,)), random.Random(1), []
    g = each_example(model, ids, list(model.parameters()))
    for _ in range(300):
        layers = Layers(4, Preconditioner([]), stream)
        layers.watch(model)
        out = model(ids)
        layers.leave()
        mean_square(out).backward()
        found.append(layers.halves()[[0, 2]])
    assert layers.sampled < 0.6 * layers.parameters == 0.6 * g.shape[1]
    found = torch.stack(found)
    one, other = g[:2].mean(0), g[2:].mean(0)
    truth = torch.tensor([(square(one) + square(other)) / 2, square((one + other) / 2)], dtype=torch.float64)
    stderr = found.std(0) / math.sqrt(len(found))
    assert torch.all((found.mean(0) - truth).abs() < 4 * stderr) and torch.all(stderr < 0.05 * truth)


def test_a_sequence_first_batch_is_told_by_its_size_and_an_ambiguous_one_is_left_alone():
    layer = nn.Linear(4, 2).double()
    for shape, halves in (((3, 6, 4), True), ((6, 6, 4), False), ((4, 5, 4), False)):
        x = torch.randn(*shape, dtype=torch.float64)
        layers = Layers(6, Preconditioner([]), random.Random(0))
        layers.watch(layer)
        layer(x).square().mean().backward()
        layers.leave()
        assert (layers.halves() is not None) is halves
        if halves:
            parts = (x[:, :3], x[:, 3:])
            each = [gradient(layer, part, lambda out: out.square().mean()) for part in parts]
            assert float(layers.halves()[2]) == pytest.approx(square(sum(each) / 2), rel=1e-10)


def test_an_ordinary_step_is_read_in_halves_layer_by_layer():
    model, training = network(), Training(Noise)
    optimizer = adam(model)
    for step in range(3):
        x = data(6, step)
        g = each_example(model, x, list(model.parameters()))
        weights = torch.cat([
            1 / ((s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).sqrt() + 1e-8).reshape(-1)
            for s in (optimizer.state[p] for p in model.parameters())
        ]) if step else None  # fmt: skip
        training.step(model, optimizer, [x], mean_square)
    row = of(training.rows(), HALVES)[-1]
    assert (row["step"], row["small_batch"], row["big_batch"]) == (2, 3, 6)
    one, other = g[:3].mean(0), g[3:].mean(0)
    assert row["small_sq"] == pytest.approx((square(one) + square(other)) / 2, rel=1e-10)
    assert row["big_preconditioned_sq"] == pytest.approx(float((((one + other) / 2) ** 2 * weights).sum()), rel=1e-5)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    norms = of(training.rows(), NORM_LAYERS)[-1]
    assert (norms["step"], norms["small_batch"], norms["big_batch"], norms["parameters"]) == (2, 1, 6, 16)
    assert norms["small_sq"] == pytest.approx(square(g[:, 56:72]) / 6, rel=1e-10)  # after the first layer's 56
    assert not any(m._forward_hooks for m in model.modules())


def test_layers_that_hold_little_of_the_model_do_not_stand_for_it():
    class Mostly(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(INPUTS).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.norm(x))

    model, training = Mostly(), Training(Noise)
    optimizer = sgd(model)
    for step in range(4):
        training.step(model, optimizer, [data(6, step)], mean_square)
    assert [row["how"] for row in training.rows()] == [NORM_LAYERS, CONSECUTIVE]


# Halves of a batch, where the loss is the user's own function


def test_halves_of_the_batch_are_evaluated_apart_and_leave_no_trace():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    loss = OwnedLoss(lambda m, batch: (m(batch[0]) - batch[1]).square().sum(-1).mean(), model)
    training, optimizer = Training(Noise, loss=loss), sgd(model)
    batch = (data(6), data(6, 9)[:, :3])

    def step():
        training.machine.forward_begin(training=True, starts_step=True, now_s=0.0)
        training.conductor.forward_begin(training.machine.index, 1.0, model, (batch[0],), {})
        value = loss(batch)
        training.conductor.forward_end(model, value)
        training.machine.forward_end(0.0, evaluation=False)
        training.again(value, 6)
        kept = [p.grad.clone() for p in model.parameters()], [b.clone() for b in model.buffers()]
        stream = torch.get_rng_state()
        training.conductor.optimizer_begin(optimizer, closure=False)
        assert torch.equal(stream, torch.get_rng_state())
        assert all(map(torch.equal, kept[0], [p.grad for p in model.parameters()]))
        assert all(map(torch.equal, kept[1], model.buffers()))
        training.machine.optimizer_end(1.0)
        optimizer.zero_grad()

    step()
    stream = torch.get_rng_state()
    step()
    (row,) = training.rows()
    assert (row["how"], row["small_batch"], row["big_batch"]) == (HALVES, 3, 6)
    each = []
    for part in (slice(0, 3), slice(3, 6)):
        torch.set_rng_state(stream)  # each half is evaluated with the streams as the step's own call had them
        found = torch.autograd.grad(loss.function(model, (batch[0][part], batch[1][part])), list(model.parameters()))
        each.append(torch.cat([g.reshape(-1) for g in found]))
    whole = (each[0] + each[1]) / 2
    assert row["small_sq"] == pytest.approx(sum(float(g @ g) for g in each) / 2, rel=1e-9)
    assert row["big_sq"] == pytest.approx(float(whole @ whole), rel=1e-9)
    assert not loss.taking and not loss.tapes


# The training is not disturbed


def trained(watched: bool, make) -> list[torch.Tensor]:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.LayerNorm(8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer, training = make(model), Training(Noise, watched=watched)
    for step in range(9):
        parts = data(8, step).float().split(4 if step % 4 == 3 else 8)
        training.step(model, optimizer, parts, mean_square)
    assert bool(training.rows()) is watched
    return [*(p.detach() for p in model.parameters()), torch.get_rng_state()]


@pytest.mark.parametrize("make", [sgd, adam], ids=["SGD", "Adam"])
def test_training_has_the_same_bits_with_the_tap(make):
    assert all(map(torch.equal, trained(True, make), trained(False, make)))


def test_between_looks_and_at_the_end_no_hook_is_left():
    model, training = network(), Training(Noise, every=4)
    optimizer = sgd(model)
    for step in range(8):
        training.step(model, optimizer, [data(6, step)], mean_square)
        if step == 7:
            assert not any(p._backward_hooks for p in model.parameters())
    training.backward(model, data(6), mean_square)
    training.conductor.finish()
    assert not any(p._backward_hooks for p in model.parameters())


def test_a_deleted_model_is_not_kept_alive():
    import gc
    import weakref

    model, training = Bare(), Training(Noise)
    optimizer = sgd(model)
    for step in range(3):  # in the middle of a window
        training.step(model, optimizer, [data(6, step)], mean_square)
    refs = [weakref.ref(p) for p in model.parameters()]
    del model, optimizer
    gc.collect()
    assert not any(ref() is not None for ref in refs)
    other = network(1)
    optimizer = sgd(other)
    for step in range(5):
        training.step(other, optimizer, [data(6, step)], mean_square)
    assert training.rows()


# What cannot be read


def test_gradients_that_are_not_finite_are_counted_and_not_written():
    model, training = network(), Training(Noise)
    optimizer = sgd(model, lr=0.0)
    for step in range(7):
        parts = (data(6, step) * (math.inf if step == 2 else 1.0)).split(3)
        training.step(model, optimizer, parts, mean_square)
        with torch.no_grad():
            for p in model.parameters():
                p.nan_to_num_(nan=0.1)
    assert [row["step"] for row in training.rows()] == [1, 3, 4, 5, 6]
    assert "not finite (1 times)" in training.tap.why()


def test_skipped_steps_and_steps_that_raised_are_dropped():
    model, training = network(), Training(Noise)
    optimizer = sgd(model)
    parts = data(6).split(3)
    training.step(model, optimizer, parts, mean_square)
    for x in parts:
        training.backward(model, x, mean_square)
    training.optimize(optimizer, skipped=True)
    training.conductor.unwound()
    assert training.rows() == []
    for _ in range(2):
        training.step(model, optimizer, parts, mean_square)
    assert training.rows()


def test_a_gradient_scaler_is_divided_out():
    model, training = network(), Training(Noise, loss_scale=lambda tensors: torch.tensor(1024.0))
    optimizer = sgd(model, lr=0.0)
    parts = data(8).split(4)
    whole = gradient(model, data(8))
    for _ in range(2):
        training.step(model, optimizer, parts, lambda out: 1024.0 * mean_square(out) / 2)
    (row,) = training.rows()
    assert row["big_sq"] == pytest.approx(float(whole @ whole), rel=1e-12)


def sparse() -> nn.Module:
    return nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize(
    ("told", "run"),
    [
        ("number of examples", lambda t, m, o: [t.backward(m, data(4), mean_square, examples=math.nan), t.optimize(o)]),
        ("unequal", lambda t, m, o: t.step(m, o, (data(4), data(3)), mean_square)),
        ("same batch", lambda t, m, o: t.step(m, o, [data(4)] * 2, mean_square)),
        ("no backward", lambda t, m, o: t.optimize(o)),
        (
            "closure",
            lambda t, m, o: [t.backward(m, data(4), mean_square), t.conductor.optimizer_begin(o, closure=True)],
        ),
    ],
    ids=["examples", "micro-batches", "one batch twice", "no backward", "closure"],
)
def test_what_cannot_be_read_is_said(told, run):
    model, training = network(), Training(Noise)
    optimizer = sgd(model)
    training.step(model, optimizer, [data(4)], mean_square)
    if told == "no backward":
        training.machine.forward_begin(training=True, starts_step=True, now_s=0.0)
        training.conductor.forward_begin(training.machine.index, 1.0, model, (data(4),), {})
    if told == "same batch":
        x = data(4)
        training.step(model, optimizer, [x, x], mean_square)
    else:
        run(training, model, optimizer)
    assert training.rows() == []
    assert told in training.tap.why()


def test_optimizers_that_take_turns_are_not_compared_with_each_other():
    models, training = (network(), network(1)), Training(Noise)
    optimizers = [sgd(model) for model in models]
    for step in range(6):
        training.step(models[step % 2], optimizers[step % 2], [data(4, step)], mean_square)
    assert training.rows() == [] and "take turns" in training.tap.why()


def test_a_sparse_gradient_is_said():
    model, training = sparse(), Training(Noise)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        x = torch.randint(10, (4, 2), generator=torch.Generator().manual_seed(step))
        training.step(model, optimizer, [x], mean_square)
    assert training.rows() == [] and "sparse" in training.tap.why()


# Ranks


def test_ranks_write_their_local_and_the_averaged_gradient_and_keep_their_bits(tmp_path):
    """Two processes, joined by gloo: each is compared with brute force, and its parameters with those unwatched."""
    script = Path(__file__).parents[2] / "support" / "two_ranks.py"
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, _ = rank.communicate(timeout=120)
        assert rank.returncode == 0 and out.strip() == "as it must be"
