"""Trainings that can be watched or checkpointed: what a step did to its own batch's loss, by the script's code."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ergometry.core.series import FIRST_LAW, Series
from ergometry.integrations import torch_hooks
from ergometry.integrations.physics import taps
from support.clients import Kept

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[nn.Module, Batch], torch.Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of a classifier of examples or tokens."""
    x, y = batch
    return nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())


@dataclass
class Script:
    """A training script: what it trains, on what, and how a step goes.

    Attributes:
        make: makes the model.
        batch: makes a batch.
        optimizer: makes the optimizer from the parameters.
        loss: of a model and a batch.
        accumulate: micro-batches a step.
        clip: norm that gradients are clipped to.
        scaler: whether losses are scaled.
        closure: whether the optimizer calls the loss.
        scale: what losses are multiplied by.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    loss: Loss = cross_entropy
    accumulate: int = 1
    clip: float | None = None
    scaler: bool = False
    closure: bool = False
    scale: float = 1.0
    steps: int = 6
    seed: int = 0

    def train(self, *, checkpoints: bool = False) -> Done:
        """Train; with ``checkpoints`` compute what a watched training is to find, from copies taken on the way."""
        torch.manual_seed(self.seed)
        model = self.make()
        optimizer = self.optimizer(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if self.scaler else None
        done = Done(model, optimizer)
        for _ in range(self.steps):
            batches = [self.batch() for _ in range(self.accumulate)]
            saved: list[Saved] = []
            own: list[float] = []

            def backwards(batches: list[Batch] = batches, saved: list[Saved] = saved, own: list[float] = own) -> Any:
                optimizer.zero_grad()
                total: Any = 0.0
                for batch in batches:
                    if len(saved) < len(batches):
                        saved.append(Saved(model) if checkpoints else None)  # type: ignore[arg-type]
                    loss = self.scale * self.loss(model, batch) / self.accumulate
                    (loss if scaler is None else scaler.scale(loss)).backward()
                    total = total + loss.detach()
                    if len(own) < len(batches):
                        own.append(loss.item())
                return total

            if self.closure:
                optimizer.step(backwards)
            else:
                backwards()
                if scaler is not None:
                    scaler.unscale_(optimizer)
                if self.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
            if checkpoints:
                after = [one.again(self, model, batch) for one, batch in zip(saved, batches, strict=True)]
                done.losses.append((sum(own), sum(after)))
        done.stream = torch.get_rng_state()
        return done


@dataclass
class Done:
    """A training that is over."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[tuple[float, float]] = field(default_factory=list)
    """ℓ_Bk(θ_k) and ℓ_Bk(θ_k+1) of each step."""
    stream: Any = None

    @property
    def bits(self) -> list[torch.Tensor]:
        """Return all that training changed: parameters, buffers, the optimizer's state, the random stream."""
        state = [x for one in self.optimizer.state.values() for x in one.values() if isinstance(x, torch.Tensor)]
        return [*self.model.state_dict().values(), *state, self.stream]


class Saved:
    """A checkpoint from before a forward: buffers and the random stream."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = copy.deepcopy(list(model.buffers()))
        self.stream = torch.get_rng_state()

    def again(self, script: Script, model: nn.Module, batch: Batch) -> float:
        """Return the batch's loss with the parameters as they are now."""
        moved, now = copy.deepcopy(model), torch.get_rng_state()
        for buffer, before in zip(moved.buffers(), self.buffers, strict=True):
            buffer.data.copy_(before)
        torch.set_rng_state(self.stream)
        loss = script.scale * script.loss(moved, batch) / script.accumulate
        torch.set_rng_state(now)
        return loss.item()


@contextlib.contextmanager
def watched(*only: str, **options: Any) -> Iterator[Kept]:
    """Watch what is trained within; by default the first law of every step. ``only``: these taps instead."""
    client = Kept()
    options = {"physics": "light", "physics_every": 1} | options
    every = taps.TAPS
    taps.TAPS = tuple(tap for tap in every if tap[0] in (only or ("first_law",)))
    try:
        assert torch_hooks.instrument(torch, client, **options) is not None  # type: ignore[arg-type]
        yield client
    finally:
        taps.TAPS = every
        torch_hooks.finish()


def rows(client: Kept, series: Series = FIRST_LAW) -> dict[int, dict[str, float]]:
    """Return the rows of a table by their step."""
    return {int(row["step"]): row for row in client.table(series)}


def why(client: Kept, tap: str = "first_law") -> str:
    """Return what a tap says of why it has nothing, or not all."""
    return str(client.labels["physics"]["taps"][tap]["why"])
