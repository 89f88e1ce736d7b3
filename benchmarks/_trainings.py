"""Short trainings with nothing hidden: a perceptron in NumPy, many replicas at once, every step's truth kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Task(NamedTuple):
    """A perceptron and its examples.

    Attributes:
        inputs: their number.
        hidden: units of the one hidden layer.
        classes: their number.
        examples: of one training.
        spread: how far examples lie from the centre of their class, in the centres' own spread.
        flipped: share of the labels that are drawn at random.
    """

    inputs: int
    hidden: int
    classes: int
    examples: int
    spread: float
    flipped: float = 0.0


LEARNT = Task(8, 10, 4, 128, 0.8)
"""Learnt by heart: the loss ends near 0, and the last gradients come from few examples."""
NOISY = Task(12, 16, 3, 512, 1.2, 0.2)
"""One label in five is wrong: the loss stays well above 0."""

_STEEP, _EVERY = 48, 4
"""Steps in which |G|² falls by a factor of a hundred; and how often it is taken after them."""


@dataclass(frozen=True)
class Trainings:
    """R trainings of S steps, all (R, S) float64; what a tap could see of each step, and what no tap can.

    Attributes:
        before: ℓ_B(θ) of the step's batch.
        after: ℓ_B(θ + Δθ) of the same batch.
        midpoint: −½(g+g⁺)·Δθ.
        midpoint_path: ½(|g|+|g⁺|)|Δθ|.
        work: −g·Δθ.
        path: |g||Δθ|.
        grad_sq: |g|² of the batch.
        half_sq: mean |g|² of its two halves.
        dtheta_sq: |Δθ|².
        pair_sq: |½(g_k + g_k+1)|² of this step's batch and the next's, NaN of the last.
        true_grad_sq: |G|² of all examples at θ.
        true_trace: trΣ there.
        rate: η.
        batch: B.
    """

    before: Array
    after: Array
    midpoint: Array
    midpoint_path: Array
    work: Array
    path: Array
    grad_sq: Array
    half_sq: Array
    dtheta_sq: Array
    pair_sq: Array
    true_grad_sq: Array
    true_trace: Array
    rate: Array
    batch: int


class _Net:
    """R perceptrons of one hidden layer, tanh, softmax cross-entropy; parameters (R, P) float64."""

    def __init__(self, task: Task, replicas: int, rng: np.random.Generator) -> None:
        self.r, self.task, self.cut = replicas, task, task.inputs * task.hidden
        first = rng.normal(size=(replicas, self.cut)) / np.sqrt(task.inputs)
        second = rng.normal(size=(replicas, task.hidden * task.classes)) / np.sqrt(task.hidden)
        self.theta = np.concatenate((first, second), 1)

    def look(self, theta: Array, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
        """Return losses (R, n), ∂/∂logits (R, n, C), ∂/∂hidden (R, n, H) and hidden (R, n, H)."""
        w1 = theta[:, : self.cut].reshape(self.r, self.task.inputs, self.task.hidden)
        w2 = theta[:, self.cut :].reshape(self.r, self.task.hidden, self.task.classes)
        hidden = np.tanh(x @ w1)
        scores = hidden @ w2
        scores -= scores.max(-1, keepdims=True)
        p = np.exp(scores)
        total = p.sum(-1, keepdims=True)
        losses = np.log(total[..., 0]) - np.take_along_axis(scores, y[..., None], -1)[..., 0]
        p /= total
        np.put_along_axis(p, y[..., None], np.take_along_axis(p, y[..., None], -1) - 1.0, -1)
        return losses, p, (p @ w2.swapaxes(1, 2)) * (1.0 - hidden**2), hidden

    def gradient(self, x: Array, seen: tuple[Array, Array, Array, Array]) -> Array:
        """Return the gradient (R, P) of the mean loss."""
        _, scores, inner, hidden = seen
        n = x.shape[1]
        parts = (x.swapaxes(1, 2) @ inner / n, hidden.swapaxes(1, 2) @ scores / n)
        return np.concatenate([part.reshape(self.r, -1) for part in parts], 1)

    @staticmethod
    def squares(x: Array, seen: tuple[Array, Array, Array, Array]) -> Array:
        """Return |∇ℓ_i|² of every example, (R, n)."""
        _, scores, inner, hidden = seen

        def sq(a: Array) -> Array:
            return np.asarray(np.einsum("rni,rni->rn", a, a))

        return sq(x) * sq(inner) + sq(hidden) * sq(scores)


def train(
    how: str,
    *,
    steps: int = 400,
    replicas: int = 200,
    rate: float = 0.3,
    batch: int = 16,
    task: Task = LEARNT,
    seed: int = 0,
) -> Trainings:
    """Train by ``sgd``, ``momentum`` (0.9) or ``adam``, batches drawn with replacement.

    |G|² and trΣ are taken of each of the first steps, then of every fourth, and stand for those between.
    """
    rng, examples = np.random.default_rng(seed), task.examples
    centres = rng.normal(size=(replicas, task.classes, task.inputs))
    y = rng.integers(task.classes, size=(replicas, examples))
    spread = task.spread * rng.normal(size=(replicas, examples, task.inputs))
    x = np.take_along_axis(centres, y[..., None], 1) + spread
    y = np.where(rng.random(y.shape) < task.flipped, rng.integers(task.classes, size=y.shape), y)
    net, rows, zero = _Net(task, replicas, rng), np.arange(replicas)[:, None], np.zeros(1)
    theta, first, second = net.theta, zero, zero
    kept: dict[str, list[Any]] = {name: [] for name in Trainings.__annotations__ if name != "batch"}
    last = None

    def norm(a: Array) -> Array:
        return np.asarray(np.sqrt(np.einsum("rp,rp->r", a, a)))

    for k in range(steps):
        at = rng.integers(examples, size=(replicas, batch))
        bx, by = x[rows, at], y[rows, at]
        seen = net.look(theta, bx, by)
        g = net.gradient(bx, seen)
        halves = [
            net.gradient(bx[:, part], tuple(a[:, part] for a in seen))
            for part in (slice(0, None, 2), slice(1, None, 2))
        ]
        if k < _STEEP or k % _EVERY == 0:
            whole = net.look(theta, x, y)
            expected = norm(net.gradient(x, whole)) ** 2
            trace = net.squares(x, whole).mean(1) - expected
        if how == "adam":
            first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
            step = -rate * first / (1 - 0.9 ** (k + 1)) / (np.sqrt(second / (1 - 0.99 ** (k + 1))) + 1e-8)
        else:
            first = (0.9 if how == "momentum" else 0.0) * first - rate * g
            step = first
        theta = theta + step
        then = net.look(theta, bx, by)
        g2 = net.gradient(bx, then)
        if last is not None:
            kept["pair_sq"].append(norm(0.5 * (last + g)) ** 2)
        last = g
        found = {
            "before": seen[0].mean(1),
            "after": then[0].mean(1),
            "midpoint": -0.5 * np.einsum("rp,rp->r", g + g2, step),
            "midpoint_path": 0.5 * (norm(g) + norm(g2)) * norm(step),
            "work": -np.einsum("rp,rp->r", g, step),
            "path": norm(g) * norm(step),
            "grad_sq": norm(g) ** 2,
            "half_sq": 0.5 * (norm(halves[0]) ** 2 + norm(halves[1]) ** 2),
            "dtheta_sq": norm(step) ** 2,
            "true_grad_sq": expected,
            "true_trace": trace,
            "rate": np.full(replicas, rate),
        }
        for name, value in found.items():
            kept[name].append(value)
    kept["pair_sq"].append(np.full(replicas, np.nan))
    return Trainings(**{name: np.array(values).T for name, values in kept.items()}, batch=batch)
