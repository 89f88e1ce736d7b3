"""R6: the first law of a recorded training, every heat of it against an independent replay.

The same training is done twice: once recorded, as any user's would be, and once alone, where each step is repeated
from a checkpoint of parameters, buffers and random state. The two share nothing but the training itself.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ergometry.core.series import FIRST_LAW
from ergometry.verification.check import Array, Check, needed_torch

STEPS, BATCH, WIDTH, CLASSES = 12, 16, 6, 3
"""Steps are those after the first, whose operators are counted and which is therefore not taken again."""
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
"""Loss units, for each precision of the training."""

Torch: TypeAlias = Any


class Losses(NamedTuple):
    """Of each step k after the first, (STEPS,): ℓ_Bk(θ_k) and ℓ_Bk(θ_k+1), loss units."""

    before: Array
    after: Array


def first_law(rng: np.random.Generator) -> Iterator[Check]:
    """R6: for each optimizer in each precision, ΔU = ΣW − ΣQ, and each Q_k as a replay finds it."""
    torch = needed_torch()
    seed, moved, threads = int(rng.integers(2**31)), 0.0, torch.get_num_threads()
    torch.set_num_threads(1)  # threads that share a network this small only wait for each other
    try:
        for dtype, tolerance in TOLERANCES.items():
            for name, optimizer in _optimizers(torch).items():
                training = Training(torch, seed, getattr(torch, dtype), optimizer)
                recorded, end, why = training.recorded()
                replayed, end_alone = training.replayed()
                moved = max(moved, float((end - end_alone).abs().max()))
                yield from _compared(f"{name} {dtype}", recorded, replayed, tolerance, why)
    finally:
        torch.set_num_threads(threads)
    yield Check(
        quantity="parameters moved by recording",
        expected=0.0,
        value=moved,
        tolerance=0.0,
        why="recorded and alone, the training ends in the same bits",
    )


def _compared(words: str, recorded: Losses, replayed: Losses, tolerance: float, why: str) -> Iterator[Check]:
    complete = not why
    heat, heat_replayed = (losses.before - losses.after for losses in (recorded, replayed))
    work = recorded.before[1:] - recorded.after[:-1]
    yield Check(
        quantity=f"ΣW − ΣQ, {words}",
        expected=float(replayed.after[-1] - replayed.before[0]),
        value=float(work.sum() - heat.sum()) if complete else float("nan"),
        tolerance=tolerance,
        why=why or "against the loss of the last batch at the end less that of the first at the start, replayed",
    )
    yield Check(
        quantity=f"Q − replay, {words}",
        expected=0.0,
        value=float(np.max(np.abs(heat - heat_replayed))) if complete else float("nan"),
        tolerance=tolerance,
        why=why or f"the largest of {STEPS} steps",
    )


@dataclass(frozen=True)
class Training:
    """A small classifier with batch normalisation and dropout, trained on random labels; the same whenever it is run.

    Attributes:
        torch: the module.
        seed: of the parameters, the data and the dropout.
        dtype: of the parameters and the data.
        optimizer: makes the optimizer of the parameters.
    """

    torch: Torch
    seed: int
    dtype: Any
    optimizer: Callable[[Any], Any]

    def recorded(self) -> tuple[Losses, Any, str]:
        """Train once, recorded; return what the stored run says, the last parameters, and why a step is missing."""
        from ergometry.session import record

        with self.torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory(prefix="ergometry-") as folder:
            model, optimizer, batches = self._begin()
            with record(model, optimizer, store=folder, classes=CLASSES, physics="full", physics_every=1) as recording:
                for inputs, labels in batches:
                    self._step(model, optimizer, inputs, labels)
            run = recording.run()
            rows = run.table(FIRST_LAW)
        tap = (run.meta.get("physics") or {}).get("taps", {}).get("first_law") or {}
        wanted = np.arange(1.0, STEPS + 1.0)
        why = "" if np.array_equal(rows["step"], wanted) else f"rows of steps {rows['step']}; {tap.get('why', '')}"
        return Losses(rows["loss_before"], rows["loss_after"]), self._parameters(model), why.rstrip("; ")

    def replayed(self) -> tuple[Losses, Any]:
        """Train once, alone; take each step's loss again after it, from a checkpoint. Return these and the end."""
        torch, before, after = self.torch, [], []
        with torch.random.fork_rng(devices=[]):
            model, optimizer, batches = self._begin()
            for inputs, labels in batches:
                checkpoint, state = copy.deepcopy(model), torch.get_rng_state()
                before.append(self._step(model, optimizer, inputs, labels))
                torch.set_rng_state(state)  # the replay then draws what the step drew, and ends where it ended
                with torch.no_grad():
                    for old, new in zip(checkpoint.parameters(), model.parameters(), strict=True):
                        old.copy_(new)
                    after.append(float(self._loss(checkpoint, inputs, labels)))
        return Losses(np.array(before[1:]), np.array(after[1:])), self._parameters(model)

    def _begin(self) -> tuple[Any, Any, list[tuple[Any, Any]]]:
        torch, nn = self.torch, self.torch.nn
        torch.manual_seed(self.seed)
        layers = (nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, CLASSES))
        model = nn.Sequential(*layers).to(self.dtype)
        batches = [
            (torch.randn(BATCH, WIDTH, dtype=self.dtype), torch.randint(CLASSES, (BATCH,))) for _ in range(STEPS + 1)
        ]
        return model, self.optimizer(model.parameters()), batches

    def _loss(self, model: Any, inputs: Any, labels: Any) -> Any:
        return self.torch.nn.functional.cross_entropy(model(inputs), labels)

    def _step(self, model: Any, optimizer: Any, inputs: Any, labels: Any) -> float:
        optimizer.zero_grad()
        loss = self._loss(model, inputs, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def _parameters(self, model: Any) -> Any:
        return self.torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def _optimizers(torch: Torch) -> dict[str, Callable[[Any], Any]]:
    optim = torch.optim
    return {
        "SGD": lambda p: optim.SGD(p, lr=0.2),
        "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
        "Adam": lambda p: optim.Adam(p, lr=0.02),
        "AdamW": lambda p: optim.AdamW(p, lr=0.02, weight_decay=0.1),
    }
