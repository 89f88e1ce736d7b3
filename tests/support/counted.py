"""Models whose work is known, and counting them as a training step is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ergometry.core.series import PROFILE_USES, STEPS, WORK
from ergometry.integrations import torch_hooks
from ergometry.integrations.counting.mode import CountingMode
from ergometry.integrations.counting.profiles import Count, tally
from ergometry.integrations.counting.scopes import Scopes
from support.clients import Kept

Loss = Callable[[Any], torch.Tensor]


def squares(out: Any) -> torch.Tensor:
    """Return the sum of squares of a model's (first) output."""
    out = out[0] if isinstance(out, tuple) else out
    return out.float().square().sum()


def mlp() -> nn.Module:
    """Return a model of two layers."""
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 7))


def cnn(groups: int = 1) -> nn.Module:
    """Return two convolutions with normalisation."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=groups), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, groups=groups)
    )


class Attention(nn.Module):
    """Causal attention of four heads over a width of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend."""
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A block of a GPT, its width 16."""

    def __init__(self, *, checkpoint: bool | None = None) -> None:
        """With ``checkpoint`` its feed-forward part is computed again in the backward (reentrant where it is True)."""
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(16), Attention(), nn.LayerNorm(16)
        self.feed = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.checkpoint = checkpoint

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what attention and the feed-forward part make of x to it."""
        x = x + self.attention(self.norm1(x))
        if self.checkpoint is None:
            return x + self.feed(self.norm2(x))
        inner = torch.utils.checkpoint.checkpoint(self.feed, self.norm2(x), use_reentrant=self.checkpoint)
        return x + inner


class Language(nn.Module):
    """A small GPT: embeddings, blocks, and a head that shares the embedding's weight."""

    def __init__(self, blocks: int = 2, *, checkpoint: bool | None = None, vocabulary: int = 50) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 16)
        self.blocks = nn.ModuleList(Block(checkpoint=checkpoint) for _ in range(blocks))
        self.head = nn.Linear(16, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def counted(model: nn.Module, *args: Any, loss: Loss = squares, **kwargs: Any) -> tuple[Count, Count]:
    """Return the counts of a forward with its loss, and of its backward."""
    scopes = Scopes()
    parameters = [*model.parameters(), *model.buffers()]
    scopes.enter_root(model)
    with CountingMode(scopes, parameters) as forward:
        out = model(*args, **kwargs)
    scopes.leave(0)
    with forward:
        value = loss(out)
    with CountingMode(scopes, parameters, backward=True) as backward:
        value.backward()
    return tally(forward), tally(backward)


def by_torch(model: nn.Module, *args: Any, loss: Loss = squares) -> tuple[int, int]:
    """Return what torch's own counter counts of the same."""
    with FlopCounterMode(display=False) as forward:
        value = loss(model(*args))
    with FlopCounterMode(display=False) as backward:
        value.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def by_operator(count: Count) -> dict[str, list[float]]:
    """Return a count's items summed by operator."""
    found: dict[str, list[float]] = {}
    for part in count.parts:
        for (_, name, _), values in part.items.items():
            found[name] = [a + b for a, b in zip(found.get(name, [0.0] * 7), values, strict=True)]
    return found


@dataclass
class Trained:
    """What was told of a training."""

    client: Kept

    @property
    def work(self) -> list[dict[str, float]]:
        """Rows of the work table, one a step."""
        return self.client.table(WORK)

    @property
    def product_flops(self) -> list[float]:
        """``steps.flops``."""
        return [row["flops"] for row in self.client.table(STEPS)]

    @property
    def profiles(self) -> list[dict[str, Any]]:
        """The profiles, each with the uses told last."""
        uses = {row["profile"]: row["uses"] for row in self.client.table(PROFILE_USES)}
        return [{**profile, "uses": uses.get(i, 0.0)} for i, profile in enumerate(self.client.labels["profiles"])]

    def by_path(self, phase: str, column: int = 4) -> dict[str, float]:
        """Return Σ uses × a column of the items (FLOP, unless told otherwise) by module path."""
        found: dict[str, float] = {}
        for profile in self.profiles:
            if profile["phase"] == phase:
                for item in profile["items"]:
                    found[item[0]] = found.get(item[0], 0.0) + profile["uses"] * item[column]
        return found


def train(steps: Callable[[], Any], **options: Any) -> Trained:
    """Run a training while it is watched."""
    client = Kept()
    assert torch_hooks.instrument(torch, client, **options) is not None  # type: ignore[arg-type]
    try:
        steps()
    finally:
        torch_hooks.finish()
    assert "torch.unsupported" not in [code for code, _ in client.notices], client.notices
    return Trained(client)


def loop(
    model: nn.Module, batches: list[Any], *, loss: Loss = squares, optimizer: Any = None, accumulate: int = 1
) -> Callable[[], None]:
    """Return a training loop."""
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)

    def steps() -> None:
        for i, x in enumerate(batches):
            loss(model(x)).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()

    return steps
