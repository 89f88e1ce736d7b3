"""Small real trainings, watched by the taps of the thermodynamic ledger or not: same data, same seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ergometry.core.series import Series
from ergometry.integrations import torch_hooks
from ergometry.integrations.physics.owned_loss import OwnedLoss
from support.clients import Kept


def mlp() -> nn.Module:
    """12 numbers to 4 classes."""
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def convolutional() -> nn.Module:
    """Images 1×6×6 to 4 classes, by BatchNorm (whose statistics a replay must not move)."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(96, 4)
    )


class Transformer(nn.Module):
    """Token ids (B, 7) to scores (B, 7, 11), with dropout and fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        return self.head(self.layer(self.embedding(tokens)))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "convolutional": convolutional, "transformer": Transformer}


def batches(kind: str, n: int, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return n batches, always the same."""
    stream = torch.Generator().manual_seed(5)
    if kind == "transformer":
        tokens = torch.randint(11, (n, size, 8), generator=stream)
        return [(x[:, :-1], x[:, 1:]) for x in tokens]
    shape = (12,) if kind == "mlp" else (1, 6, 6)
    x = torch.randn(n, size, *shape, generator=stream)
    y = (x.flatten(2).sum(-1) * 2).round().long().abs() % 4
    return list(zip(x, y, strict=True))


def cross_entropy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the mean cross-entropy over the last dimension."""
    scores = model(batch[0])
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), batch[1].reshape(-1))


@dataclass
class Trained:
    """What a training left: every number that it could have changed, and what was told of it."""

    model: nn.Module
    state: dict[str, torch.Tensor]
    streams: tuple[Any, ...]
    losses: list[float]
    client: Kept
    parameters: list[list[torch.Tensor]] = field(default_factory=list)
    """θ before each step, and after the last."""

    def rows(self, series: Series) -> list[dict[str, float]]:
        """Return the rows of a table."""
        return self.client.table(series)

    def tap(self, name: str) -> dict[str, Any]:
        """Return what was said of a tap."""
        return self.client.labels["physics"]["taps"][name]

    def same_as(self, other: Trained) -> bool:
        """Say whether two trainings ended in the same bits, of parameters, buffers, losses and random streams."""
        equal = all(torch.equal(a, b) for a, b in zip(self.state.values(), other.state.values(), strict=True))
        random_equal = torch.equal(self.streams[0], other.streams[0]) and self.streams[1:] == other.streams[1:]
        return equal and random_equal and self.losses == other.losses


def train(
    kind: str = "mlp",
    *,
    steps: int = 4,
    physics: str | None = None,
    every: int | None = 1,
    loss: Callable[[Any, Any], torch.Tensor] = cross_entropy,
    owned: bool = False,
    probe: Any = None,
    accumulate: int = 1,
    lr: float = 0.3,
    dtype: torch.dtype = torch.float32,
    size: int = 8,
    repeated: bool = False,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    **options: Any,
) -> Trained:
    """Train for a few steps, watched at a level of ``physics`` or (None) not at all; ``repeated``: on one batch."""
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    model = MODELS[kind]().to(dtype)
    data = [(x.to(dtype) if x.is_floating_point() else x, y) for x, y in batches(kind, steps * accumulate, size)]
    if repeated:
        data = data[:1] * len(data)
    moved = optimizer(model.parameters(), lr=lr, **options)
    client = Kept()
    call: Callable[[Any], torch.Tensor] = lambda batch: loss(model, batch)  # noqa: E731
    given = None
    if owned:
        call = given = OwnedLoss(loss, model, full=physics == "full")
    if physics is not None:
        torch_hooks.instrument(
            torch, client, models=[model], physics=physics, physics_every=every, loss=given, probe=probe
        )
    losses, parameters = [], []
    try:
        for k in range(steps):
            parameters.append([p.detach().clone() for p in model.parameters()])
            for batch in data[k * accumulate : (k + 1) * accumulate]:
                value = call(batch) / accumulate
                value.backward()
                losses.append(value.item())
            moved.step()
            moved.zero_grad()
        parameters.append([p.detach().clone() for p in model.parameters()])
    finally:
        if physics is not None:
            torch_hooks.finish()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    numpy_state = np.random.get_state()
    streams = (torch.get_rng_state(), random.getstate(), numpy_state[1].tolist(), numpy_state[2:])
    return Trained(model, state, streams, losses, client, parameters)
