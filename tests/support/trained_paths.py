"""Real trainings of small random networks in float64, with all that an estimator may ask of each step kept."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch

Array = np.ndarray
OPTIMIZERS = ("SGD", "momentum", "Nesterov", "Adam", "AdamW", "RMSprop")
CLASSES, BATCH = 3, 8


@dataclass(frozen=True)
class TrainedPath:
    """K steps of N parameters. Losses and gradients are of each step's own batch of ``BATCH`` examples.

    ``before``, ``after``, ``following`` (K,): the loss before and after the step, and of the next batch after it.
    ``halves`` (K, 2, N) are gradients of its two halves, ``precision`` (K, N) what Adam divides by (NaN elsewhere).
    ``outputs`` (K+1, n, C) are of a probe batch.
    """

    eta: float
    gradients: Array
    next_gradients: Array
    moves: Array
    before: Array
    after: Array
    following: Array
    halves: Array
    precision: Array
    outputs: Array


@functools.cache
def trained(seed: int, optimizer: str, scale: float = 1.0, steps: int = 8) -> TrainedPath:
    """Train a random network; with the loss times ``scale`` and the hyperparameters such that it moves the same way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other, with so few numbers
    try:
        with torch.random.fork_rng(devices=[]):
            return _trained(seed, optimizer, scale, steps)
    finally:
        torch.set_num_threads(threads)


def _trained(seed: int, name: str, c: float, steps: int) -> TrainedPath:
    torch.manual_seed(seed)
    inputs, hidden = (int(n) for n in torch.randint(2, 7, (2,)))
    layers = (torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, CLASSES))
    model = torch.nn.Sequential(*layers).double()
    eta = float(torch.rand(()) * 0.3 + 0.01) * (1.0 if name in ("SGD", "momentum", "Nesterov") else 0.1)
    data = [
        (torch.randn(BATCH, inputs, dtype=torch.float64), torch.randint(CLASSES, (BATCH,))) for _ in range(steps + 1)
    ]
    probe = torch.randn(5, inputs, dtype=torch.float64)
    parameters = list(model.parameters())
    opt, lr = _optimizer(name, parameters, eta, c)

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return c * torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    def gradient(batch: tuple[torch.Tensor, torch.Tensor]) -> Array:
        return _flat(torch.autograd.grad(loss(batch), parameters))

    def outputs() -> Array:
        with torch.no_grad():
            return torch.softmax(model(probe), 1).numpy().copy()

    rows: list[tuple[Array, ...]] = []
    seen = [outputs()]
    for batch, following in itertools.pairwise(data):
        halves = [
            gradient((batch[0][part], batch[1][part])) for part in (slice(None, BATCH // 2), slice(BATCH // 2, None))
        ]
        start, value = _flat(parameters), loss(batch)
        opt.zero_grad()
        value.backward()
        g = _flat([p.grad for p in parameters])
        if seed % 2:
            torch.nn.utils.clip_grad_value_(parameters, 0.05 * c)
        opt.step()
        with torch.no_grad():
            after, ahead = float(loss(batch)), float(loss(following))
        rows.append(
            (
                g,
                gradient(batch),
                _flat(parameters) - start,
                float(value.detach()),
                after,
                ahead,
                np.array(halves),
                _precision(opt, parameters),
            )
        )
        seen.append(outputs())
    return TrainedPath(lr, *(np.array(column) for column in zip(*rows, strict=True)), np.array(seen))


def _optimizer(name: str, parameters: list[torch.Tensor], eta: float, c: float) -> tuple[torch.optim.Optimizer, float]:
    optim, decay, epsilon = torch.optim, 1e-2, 1e-4
    if name in ("SGD", "momentum", "Nesterov"):
        kind = {"momentum": 0.0 if name == "SGD" else 0.9, "nesterov": name == "Nesterov"}
        return optim.SGD(parameters, lr=eta / c, weight_decay=decay * c, **kind), eta / c
    if name == "RMSprop":
        return optim.RMSprop(parameters, lr=eta, eps=epsilon * c, weight_decay=decay * c), eta
    if name == "Adam":
        return optim.Adam(parameters, lr=eta, eps=epsilon * c, weight_decay=decay * c), eta
    return optim.AdamW(parameters, lr=eta, eps=epsilon * c, weight_decay=decay), eta


def _precision(opt: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> Array:
    if not isinstance(opt, torch.optim.Adam | torch.optim.AdamW):
        return np.full(sum(p.numel() for p in parameters), np.nan)
    epsilon = opt.param_groups[0]["eps"]
    return _flat([opt.state[p]["exp_avg_sq"].sqrt() + epsilon for p in parameters])


def _flat(tensors: object) -> Array:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy().copy()  # type: ignore[attr-defined]
