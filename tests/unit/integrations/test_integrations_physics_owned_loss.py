"""The user's own loss, evaluated again as it was: the same bits, and nothing else changed."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ergometry.integrations.physics.owned_loss import OwnedLoss, streams
from support.physics_runs import MODELS, batches, cross_entropy

KINDS = sorted(MODELS)


def noisy(model, batch):
    """A loss that draws from every stream, and changes the containers that it is given."""
    x, y = batch["x"], batch.pop("y")
    if x.is_floating_point():
        x = x + 0.1 * torch.randn_like(x) * random.random() * float(np.random.rand())
    return cross_entropy(model, (x, y))


def state_of(model):
    told = [t.clone() for t in model.state_dict().values()]
    return told, [m.training for m in model.modules()], streams(), [p.grad for p in model.parameters()]


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1] == other[1]
    assert torch.equal(one[2]["torch"], other[2]["torch"])
    assert one[2]["python"] == other[2]["python"]
    assert one[2]["numpy"][1].tolist() == other[2]["numpy"][1].tolist()
    assert all(a is b for a, b in zip(one[3], other[3], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_evaluated_again_to_the_bit_and_leaves_no_trace(kind):
    torch.manual_seed(0)
    np.random.seed(0)
    model = MODELS[kind]()
    owned = OwnedLoss(noisy, model)
    owned.take("test")
    (x, y), *_ = batches(kind, 1)
    value = owned({"x": x, "y": y})
    value.backward()
    with torch.no_grad():  # what comes after must not matter
        torch.randn(5)
        model.eval()
        for b in model.buffers():
            b.add_(1)
    before = state_of(model)
    (tape,) = owned.tapes
    again = tape.loss()
    assert again.item() == value.item()
    gradients = torch.autograd.grad(again, tape.parameters)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, tape.parameters, strict=True))
    scores = tape.outputs()
    assert scores.shape[-1] == (11 if kind == "transformer" else 4)
    assert_same(before, state_of(model))
    assert not model._forward_hooks


def test_other_parameters_and_their_derivatives():
    """At θ − ηg the tape gives the loss of the model moved there; twice differentiable in the replacements."""
    torch.manual_seed(0)
    model = MODELS["mlp"]().double()
    (x, y), *_ = batches("mlp", 1)
    owned = OwnedLoss(cross_entropy, model)
    tape = owned.tape((x.double(), y))
    moved = {p: (p.detach() * 0.9).requires_grad_() for p in tape.parameters}
    value = tape.loss(moved)
    first = torch.autograd.grad(value, list(moved.values()), create_graph=True)
    torch.autograd.grad(sum(g.square().sum() for g in first), list(moved.values()))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
        assert cross_entropy(model, (x.double(), y)).item() == value.item()


def test_autocast_around_the_call_is_that_of_the_replay():
    model = MODELS["mlp"]()
    owned = OwnedLoss(cross_entropy, model)
    owned.take("test")
    (batch,) = batches("mlp", 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = owned(batch).item()
    assert owned.tapes[0].loss().item() == rounded != cross_entropy(model, batch).item()


def test_a_probe_is_evaluated_in_evaluation_mode():
    torch.manual_seed(0)
    model = MODELS["convolutional"]().train()
    (batch,) = batches("convolutional", 1)
    tape = OwnedLoss(cross_entropy, model).tape(batch, training=False)
    found = tape.outputs()
    assert model.training
    assert torch.equal(found, model.eval()(batch[0]))


def test_parts_of_a_batch_average_to_the_whole():
    model = MODELS["mlp"]().double()
    (x, y), *_ = batches("mlp", 1, 9)
    tape = OwnedLoss(cross_entropy, model).tape((x.double(), y))
    parts = tape.parts(4)
    assert [part.examples for part in parts] == [2.0] * 4
    mean = torch.stack([part.loss() for part in parts]).mean()
    torch.testing.assert_close(mean, cross_entropy(model, (x[:8].double(), y[:8])), rtol=1e-12, atol=0)
    assert tape.parts(10) == []
    assert OwnedLoss(cross_entropy, model).tape((x, y[:3])).parts(2) == []  # no dimension in common


def test_several_takers_and_a_call_under_way():
    """A step begins within the call: the outermost forward tells the taps, and the call is kept from its start."""
    model = MODELS["mlp"]()
    (batch,) = batches("mlp", 1)
    drawn = []

    def loss(model, batch):
        drawn.append(torch.rand(()).item())
        owned.take("late")  # as a tap does when the forward begins
        return cross_entropy(model, batch) * drawn[-1]

    owned = OwnedLoss(loss, model)
    value = owned(batch).item()
    assert len(owned.tapes) == 1
    owned.take("other")
    owned.release("late")
    assert owned.tapes[0].loss().item() == value
    assert len(owned.tapes) == 1  # the replay's own take keeps nothing
    owned.release("late")
    owned.release("other")
    assert not owned.taking
    assert owned.tapes == []
    model(batch[0])
    assert owned.tapes == []


def test_a_batch_changed_in_place_is_refused():
    model = MODELS["mlp"]()
    (x, y), *_ = batches("mlp", 1)
    tape = OwnedLoss(cross_entropy, model).tape((x.clone().requires_grad_(False), y))
    tape.loss()
    tape.batch[0].add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        tape.loss()
    assert "changed in place" in tape.why


def test_buffers_too_large_to_copy_are_refused_at_level_light_only():
    model = MODELS["mlp"]()
    model.register_buffer("table", torch.zeros(3 << 20))  # 12 MiB
    (batch,) = batches("mlp", 1)
    assert "12582912 bytes" in OwnedLoss(cross_entropy, model).tape(batch).why
    assert OwnedLoss(cross_entropy, model, full=True).tape(batch).why == ""


def test_what_cannot_be_kept_does_not_end_the_training():
    class Odd(list):
        def __init__(self, *, only):
            super().__init__(only)

    model = MODELS["mlp"]()
    owned = OwnedLoss(lambda model, batch: cross_entropy(model, tuple(batch)), model)
    owned.take("test")
    (batch,) = batches("mlp", 1)
    assert owned(Odd(only=batch)).item() == cross_entropy(model, batch).item()
    assert owned.tapes == []
    assert "could not be kept" in owned.why


def test_a_loss_that_is_no_scalar_and_outputs_that_are_no_scores():
    model = MODELS["mlp"]()
    (batch,) = batches("mlp", 1)
    vector = OwnedLoss(lambda model, b: F.cross_entropy(model(b[0]), b[1], reduction="none"), model)
    with pytest.raises(TypeError, match="not a scalar"):
        vector.tape(batch).loss()
    alone = OwnedLoss(lambda model, b: sum(p.sum() for p in model.parameters()), model)
    with pytest.raises(TypeError, match="no tensor of scores"):
        alone.tape(batch).outputs()


def test_tied_and_frozen_parameters():
    model = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 4))
    model[2].weight = model[0].weight
    model[3].weight.requires_grad_(False)
    (batch,) = batches("mlp", 1)
    tape = OwnedLoss(cross_entropy, model).tape(batch)
    assert len(tape.parameters) == 4  # one tied weight, three biases
    tied = {model[0].weight: torch.zeros(12, 12)}
    zeroed = nn.Sequential(*model)
    value = tape.loss(tied).item()
    with torch.no_grad():
        model[0].weight.zero_()
    assert cross_entropy(zeroed, batch).item() == value


def test_a_buffer_that_the_forward_changes_is_each_time_what_it_was():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(12, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * self.calls

    model = Counting()
    (batch,) = batches("mlp", 1)
    owned = OwnedLoss(cross_entropy, model)
    owned(batch)
    owned.take("test")
    value = owned(batch).item()
    owned(batch)
    assert [owned.tapes[0].loss().item() for _ in range(2)] == [value, value]
    assert model.calls == 3
