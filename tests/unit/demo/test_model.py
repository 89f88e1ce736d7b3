"""The model: causal, of the size asked for, and able to learn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ergometry.demo.model import BYTES, ByteTransformer


@pytest.fixture
def model() -> ByteTransformer:
    torch.manual_seed(1)
    model = ByteTransformer(context=16, width=32, layers=2)
    for parameter in model.parameters():  # large weights, so that a leak would show
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_logits_for_every_byte_at_every_position(model: ByteTransformer) -> None:
    assert model(torch.zeros(3, 16, dtype=torch.int64)).shape == (3, 16, BYTES)
    assert model(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, BYTES)


def test_a_position_sees_the_past_and_never_the_future(model: ByteTransformer) -> None:
    text = torch.randint(0, BYTES, (2, 16), generator=torch.Generator().manual_seed(0))
    changed = text.clone()
    changed[:, 9] = (changed[:, 9] + 1) % BYTES
    with torch.no_grad():
        before, after = model(text), model(changed)
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-5)
    for position in range(9, 16):
        assert not torch.allclose(before[:, position], after[:, position], atol=1e-3)


def test_every_parameter_has_a_gradient(model: ByteTransformer) -> None:
    model(torch.randint(0, BYTES, (2, 16))).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_new_model_knows_nothing_and_twenty_steps_teach_it_something() -> None:
    torch.manual_seed(0)
    text = torch.tensor(list(b"def add(a, b): return a + b\n" * 20))
    x, y = text[:512].view(32, 16), text[1:513].view(32, 16)
    model = ByteTransformer(context=16, width=32, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(x).reshape(-1, BYTES), y.reshape(-1))
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(torch.tensor(float(BYTES)).log().item(), abs=0.1)
    assert losses[-1] < losses[0] - 2
