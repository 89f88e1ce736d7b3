"""Small networks of the kinds that scripts train, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Batch = tuple[torch.Tensor, torch.Tensor]


class Tokens(nn.Module):
    """A transformer of tokens: embedding, causal self-attention (SDPA), feed-forward, dropout."""

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.feed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.register_buffer("positions", torch.randn(6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x) + self.positions[: x.shape[1]]
        parts = (part.view(*part.shape[:2], 2, 4).transpose(1, 2) for part in self.qkv(self.norm(h)).chunk(3, -1))
        p = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(*parts, is_causal=True, dropout_p=p)
        h = h + self.out(attended.transpose(1, 2).flatten(2))
        return self.head(h + self.feed(h))


class Recurrent(nn.Module):
    """Two layers of LSTM with dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


class Checkpointed(nn.Module):
    """An MLP whose body is recomputed in the backward."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(checkpoint(self.body, self.first(x), use_reentrant=self.reentrant))


def mlp() -> nn.Module:
    """Return an MLP with batch norm and dropout."""
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.2),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )


def cnn() -> nn.Module:
    """Return a CNN with batch norm, dropout of channels and pooling."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.2),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def points(dtype: torch.dtype = torch.float32) -> Callable[[], Batch]:
    """Return what makes batches of 12 vectors and their classes."""
    return lambda: (torch.randn(12, 6, dtype=dtype), torch.randint(0, 3, (12,)))


def images(dtype: torch.dtype = torch.float32) -> Callable[[], Batch]:
    """Return what makes batches of 6 images and their classes."""
    return lambda: (torch.randn(6, 2, 8, 8, dtype=dtype), torch.randint(0, 3, (6,)))


def texts(_: torch.dtype = torch.float32) -> Callable[[], Batch]:
    """Return what makes batches of 4 texts of 6 tokens and what follows them."""
    return lambda: (torch.randint(0, 11, (4, 6)), torch.randint(0, 11, (4, 6)))


def series(dtype: torch.dtype = torch.float32) -> Callable[[], Batch]:
    """Return what makes batches of 4 time series and the class of each moment."""
    return lambda: (torch.randn(4, 5, 5, dtype=dtype), torch.randint(0, 3, (4, 5)))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Callable[[], Batch]]]] = {
    "mlp": (mlp, points),
    "cnn": (cnn, images),
    "transformer": (Tokens, texts),
    "lstm": (Recurrent, series),
    "checkpointing": (lambda: Checkpointed(reentrant=False), points),
    "reentrant checkpointing": (lambda: Checkpointed(reentrant=True), points),
}


def of_kind(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return ``make`` and ``batch`` of a kind of network, in a precision."""
    make, batch = KINDS[name]
    return {"make": lambda: make().to(dtype), "batch": batch(dtype)}
