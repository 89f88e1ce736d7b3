"""What is followed of an optimizer's step: learning rates, and the ledger of its gradient work."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

from ergometry.core import series
from ergometry.integrations.ledger import Ledger, Sample, SparseSample, estimates
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.apart import apart

_ERRORS = (1, 3, 5, 10)  # columns of a ledger row (after its step) that are standard errors


class OptimizerWatch:
    """Follows optimizers' steps between ``begin`` and ``end``, as often as the ledger's share of time allows."""

    def __init__(self, emit: Callable[..., None], pending: Pending, *, follows: bool = True) -> None:
        """Write through ``emit``; ``follows``: gradient work, and not learning rates alone."""
        self._emit, self._pending, self._follows = emit, pending, follows
        self.ledger = Ledger()
        self.ledger_s = 0.0
        """Seconds spent so far."""
        self._rates: dict[tuple[int, int], float] = {}
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._sample: Sample | None = None
        self._sparse: list[SparseSample] = []
        self._began_s = math.nan
        self._before_s = 0.0
        self._decided_for, self._deciders, self._due = -1, set[int](), False
        self._row: tuple[int, list[float]] | None = None

    def begin(self, optimizer: Any, *, step: int, step_s: float, closure: bool) -> None:
        """Copy what must be known before the optimizer's step; with a closure the gradient comes later."""
        self._learning_rates(optimizer, step)
        self._sample, self._sparse = None, []
        # The optimizers of one step are followed together, or its row would tell of some of them only.
        if step != self._decided_for or id(optimizer) in self._deciders:
            self._decided_for, self._deciders = step, set()
            self._due = self._follows and self.ledger.due(step_s)
        self._deciders.add(id(optimizer))
        if not self._due:
            return
        began = time.perf_counter()
        with apart(), torch.no_grad():
            self._sample, self._sparse = self.ledger.begin(optimizer.param_groups)
            if self._sample is not None and not closure:
                self._sample.take_gradient()
        self._before_s = time.perf_counter() - began

    def closure_backward(self) -> None:
        """Copy the gradient that a closure's first backward has made."""
        if self._sample is not None and self._sample.gradient is None:
            with apart(), torch.no_grad():
                self._sample.take_gradient()

    def end(self, optimizer: Any, step: int) -> None:
        """Make the ledger's row of this step."""
        sample, sparse = self._sample, self._sparse
        self._sample, self._sparse = None, []
        if sample is not None and sample.gradient is None:
            sample = None  # the closure never ran a backward
        if sample is None and not sparse:
            return
        began = time.perf_counter()
        scale = getattr(optimizer, "grad_scale", None)
        with apart(), torch.no_grad():
            sums = self._sums(sample, sparse, scale)
            self._weigh(sample)
        width = sums.shape[1] - len(sparse)
        cost_s = self._before_s + time.perf_counter() - began
        scaled = scale is not None
        self._pending.read(sums, lambda rows: self._write(step, rows, sample, width, cost_s, scaled=scaled))
        cost_s = self._before_s + time.perf_counter() - began
        self.ledger.spent(cost_s)
        self.ledger_s += cost_s

    def _weigh(self, sample: Sample | None) -> None:
        """Have the plan told where the gradient is, before the sums of this step are read."""
        if sample is None or sample.plan is None or sample.squares is None:
            return
        plan = sample.plan

        def read(squares: list[float]) -> None:
            plan.weigh(squares)
            sample.grad_sq = math.fsum(squares)

        self._pending.read(sample.squares, read)

    @staticmethod
    def _sums(sample: Sample | None, sparse: list[SparseSample], scale: Any) -> torch.Tensor:
        parts = ([sample.sums()] if sample is not None else []) + [s.sums() for s in sparse]
        sums = torch.cat([part.to(parts[0].device, parts[0].dtype) for part in parts], 1)
        if isinstance(scale, torch.Tensor):
            # Fused optimizers unscale inside their step: the gradients that were copied are still scaled.
            unscale = (1.0 / scale.to(sums.device, sums.dtype)).reshape(())
            sums = sums * torch.stack((unscale**2, torch.ones_like(unscale), unscale)).reshape(3, 1)
        return sums

    def _write(
        self, step: int, rows: list[list[float]], sample: Sample | None, width: int, cost_s: float, *, scaled: bool
    ) -> None:
        found = [(0.0, 0.0)] * 4
        sampled = total = 0.0
        if sample is not None:
            found = list(
                estimates(
                    [row[:width] for row in rows],
                    sample.blocks,
                    sample.total,
                    exact=sample.exact,
                    probabilities=sample.probabilities,
                )
            )
            sampled, total = float(sum(b - a for _, a, b in sample.blocks)), float(sample.total)
        (g2, g2e), (d2, d2e), (work, worke), (path, pathe) = found
        if sample is not None and sample.grad_sq is not None and not (sample.exact or scaled):
            # Every gradient was looked at: only |Δθ| of the path is still an estimate.
            g2, g2e, path = sample.grad_sq, 0.0, math.sqrt(max(sample.grad_sq * d2, 0.0))
            pathe = 0.5 * path * d2e / d2 if d2 > 0 else 0.0
        sparse = [math.fsum(row[width:]) for row in rows]
        if any(sparse):
            g2, d2, work = g2 + sparse[0], d2 + sparse[1], work + sparse[2]
            path = math.sqrt(max(g2 * d2, 0.0))
        if not all(map(math.isfinite, (g2, d2, work))):
            return
        row = [g2, g2e, d2, d2e, work, worke, sampled, total, cost_s, path, pathe]
        if self._row is not None and self._row[0] == step:
            row = joined(self._row[1], row)
        self._row = (step, row)
        self._emit(series.LEDGER, step, *row)

    def _learning_rates(self, optimizer: Any, step: int) -> None:
        number = self._numbers.setdefault(optimizer, len(self._numbers))
        for group, options in enumerate(optimizer.param_groups):
            lr = options.get("lr")
            if isinstance(lr, torch.Tensor) and lr.device.type != "cpu":
                continue  # reading it would wait for the device
            try:
                lr = float(lr)
            except (TypeError, ValueError, RuntimeError):
                continue  # None, or whatever an optimizer of the user's own calls so
            if self._rates.get((number, group)) != lr:
                self._rates[number, group] = lr
                self._emit(series.LEARNING_RATES, step, number, group, lr)


def joined(one: list[float], other: list[float]) -> list[float]:
    """Return the ledger row of two optimizers of one step: sums add, their independent errors in quadrature."""
    pairs = enumerate(zip(one, other, strict=True))
    row = [math.hypot(x, y) if i in _ERRORS else x + y for i, (x, y) in pairs]
    row[9] = math.sqrt(max(row[0] * row[2], 0.0))
    return row
