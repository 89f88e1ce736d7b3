"""Runs to measure the ledger's cost on: interleaved in one process, the same bits in all; and what a tap keeps."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from benchmarks.counting import Kept
from ergometry.integrations import torch_hooks
from ergometry.integrations.physics import taps as rooms
from ergometry.integrations.tracer import Tracer

_LEAST_ROUNDS = 6
_MISSED = (ModuleType, type, FrameType, CodeType, nn.Module, torch.optim.Optimizer, Kept)

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A model, where its batches come from, and how long it is trained here: rounds of so many steps of each run."""

    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    rule: Callable[[Any], torch.optim.Optimizer]
    rounds: int
    steps: int
    price_rounds: int
    price_steps: int


def perceptron() -> nn.Module:
    """Return 134 794 parameters; a step takes about a millisecond."""
    return nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def convolutions() -> nn.Module:
    """Return 131 754 parameters, with BatchNorm; a step takes about ten milliseconds."""

    def block(a: int, b: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

    body = (block(3, 32, 2), block(32, 64, 2), block(64, 64, 1), block(64, 128, 2))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Transformer(nn.Module):
    """About 10^7 parameters, with dropout; a step takes about a hundred milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True, norm_first=True, dropout=0.1)
        self.embed = nn.Embedding(256, 384)
        self.body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(384, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the module."""
        return self.head(self.body(self.embed(x))).flatten(0, 1)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.01, momentum=0.9)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 1e-4)


CASES = {
    "mlp": Case(
        perceptron, lambda: (torch.randn(64, 256), torch.randint(10, (64,))), sgd,
        rounds=40, steps=40, price_rounds=12, price_steps=4,
    ),
    "cnn": Case(
        convolutions, lambda: (torch.randn(16, 3, 32, 32), torch.randint(10, (16,))), sgd,
        rounds=30, steps=10, price_rounds=8, price_steps=2,
    ),
    "transformer": Case(
        Transformer, lambda: (torch.randint(256, (2, 32)), torch.randint(256, (64,))), adamw,
        rounds=10, steps=4, price_rounds=3, price_steps=2,
    ),
}  # fmt: skip


class Arm:
    """One of the runs: a model, an optimizer and a random stream of its own, watched at a level by a tracer of its own.

    While the others train its clock stands still, so that their time is not taken for that of its steps.
    """

    def __init__(self, case: Case, level: str, *, taps: Sequence[str] | None = None, every: int | None = None) -> None:
        """Watch with these ``taps`` alone (None: all)."""
        self.case, self.level = case, level
        torch.manual_seed(0)
        self.model = case.build()
        self.optimizer = case.rule(self.model.parameters())
        self.stream = torch.get_rng_state()
        self.client = Kept()
        with _only(taps):
            tracer = torch_hooks.instrument(torch, self.client, physics=level, physics_every=every)  # type: ignore[arg-type]
        assert tracer is not None
        self.tracer: Tracer = tracer
        torch_hooks.remove()
        self._away_s, self._left_s = 0.0, time.perf_counter()
        self.tracer._clock = lambda: time.perf_counter() - self._away_s
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []
        self.end_s = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have torch watched for this run."""
        torch_hooks.install(self.tracer)
        self._away_s += time.perf_counter() - self._left_s
        try:
            yield
        finally:
            self._left_s = time.perf_counter()
            torch_hooks.remove()

    def step(self) -> None:
        """Train one step as a script does."""
        x, y = self.case.batch()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def stretch(self, steps: int) -> None:
        """Train a stretch, timed."""
        torch.set_rng_state(self.stream)
        with self.watched():
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(steps):
                self.step()
            self.cpu_s.append(time.thread_time() - cpu)
            self.wall_s.append(time.perf_counter() - wall)
        self.stream = torch.get_rng_state()
        assert not self.tracer.dead, "the watching has ended: nothing is measured"
        assert not self.tracer.physics.failed, f"taps have failed: {self.tracer.physics.failed}"

    def forget(self) -> None:
        """Forget the times so far."""
        self.cpu_s, self.wall_s = [], []

    def finish(self) -> None:
        """End the run: taps may compute once more."""
        with self.watched():
            began = time.thread_time()
            self.tracer.finish()
            self.end_s = time.thread_time() - began

    def account(self) -> dict[str, dict[str, Any]]:
        """Return what the taps say of themselves, by name."""
        self.tracer.physics.tell()
        told: dict[str, dict[str, Any]] = self.client.labels["physics"]["taps"]
        return {name: dict(tap) for name, tap in told.items()}

    def state(self) -> list[torch.Tensor]:
        """Return all that training has made: parameters, buffers, the optimizer's state, the random stream."""
        kept = [x for s in self.optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor)]
        return [*self.model.state_dict().values(), *kept, self.stream]


@contextmanager
def _only(taps: Sequence[str] | None) -> Iterator[None]:
    every = rooms.TAPS
    if taps is not None:
        rooms.TAPS = tuple(tap for tap in every if tap[0] in taps)  # type: ignore[assignment]
    try:
        yield
    finally:
        rooms.TAPS = every


def same_bits(first: Arm, second: Arm) -> None:
    """Raise AssertionError where two runs have not come to the same bits."""
    for a, b in zip(first.state(), second.state(), strict=True):
        whole = a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
        assert whole, f"training at level {second.level} gave other bits than at level {first.level}"


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


def interleave(arms: Sequence[Arm], rounds: int, steps: int, budget_s: float = math.inf) -> int:
    """Train every run in turn, each round in another order, and compare the bits after each.

    None is trained twice in a row: it would find its caches as it left them. Return the rounds: fewer than ``rounds``,
    but a few, where they take longer than ``budget_s``.
    """
    began, stream, order = time.perf_counter(), random.Random(0), list(arms)
    for i in range(rounds):
        last = order[-1]
        stream.shuffle(order)
        while len(order) > 1 and order[0] is last:
            stream.shuffle(order)
        if i >= _LEAST_ROUNDS and time.perf_counter() - began > budget_s:
            return i
        for arm in order:
            arm.stretch(steps)
        for arm in arms[1:]:
            same_bits(arms[0], arm)
    return rounds


def excess(on: Sequence[float], off: Sequence[float], draws: int = 1000) -> tuple[float, float, float]:
    """Return Σon/Σoff − 1 and its 95 % bootstrap interval over rounds.

    Of sums, not a median of ratios: what is dear and seldom lies in few rounds.

    >>> excess([2.2, 1.1], [2.0, 1.0])[0]  # doctest: +ELLIPSIS
    0.10...
    """
    stream, n = random.Random(0), len(on)
    found = []
    for _ in range(draws):
        chosen = stream.choices(range(n), k=n)
        found.append(sum(on[i] for i in chosen) / sum(off[i] for i in chosen) - 1)
    found.sort()
    return sum(on) / sum(off) - 1, found[int(0.025 * draws)], found[int(0.975 * draws)]


def between(off: Arm, again: Arm, clock: str) -> list[float]:
    """Return the mean of two identical runs, by round."""
    return [0.5 * (a + b) for a, b in zip(getattr(off, clock), getattr(again, clock), strict=True)]


# What is kept


def held(root: object, own: set[int]) -> int:
    """Return the bytes of all tensors that an object keeps alive, less storages whose addresses are the script's own.

    >>> held([torch.zeros(3), {"a": torch.zeros(2)}], set())
    20
    """
    seen, pending, found = {id(root)}, [root], dict[int, int]()
    while pending:
        one = pending.pop()
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
        if isinstance(one, FunctionType):  # what it closes over, and not all that its module knows
            after: list[Any] = [*(one.__closure__ or ()), *(one.__defaults__ or ())]
        else:
            after = gc.get_referents(one)
        for other in after:
            if id(other) not in seen and not isinstance(other, _MISSED):
                seen.add(id(other))
                pending.append(other)
    return sum(found.values())


def scripts(arm: Arm) -> set[int]:
    """Return the addresses of the script's own storages: parameters, gradients, buffers, the optimizer's state."""
    grads = [p.grad for p in arm.model.parameters() if p.grad is not None]
    return {x.untyped_storage().data_ptr() for x in (*arm.model.state_dict().values(), *grads, *arm.state())}
