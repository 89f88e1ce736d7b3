"""What is followed of an optimizer's step: learning rates, and the ledger of its gradient work."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

from ergometry.core import series
from ergometry.integrations.ledger import Ledger, Sample, SparseSample, estimates, is_sparse
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.schedules import Schedules

_ERRORS = (1, 3, 5, 10)  # columns of a ledger row (after its step) that are standard errors
_TURNS = 8


class OptimizerWatch:
    """Follows optimizers' steps between ``begin`` and ``end``, as often as the ledger's share of time allows."""

    def __init__(self, emit: Callable[..., None], pending: Pending, *, follows: bool = True) -> None:
        """Write through ``emit``; ``follows``: gradient work, and not learning rates alone."""
        self._emit, self._pending, self._follows = emit, pending, follows
        self.ledger = Ledger()
        self.ledger_s = 0.0
        """Seconds spent so far."""
        self.schedules = Schedules(emit)
        self._sample: Sample | None = None
        self._sparse: list[SparseSample] = []
        self._began_s = math.nan
        self._before_s = 0.0
        self._decided_for, self._deciders, self._due = -1, set[int](), False
        self._last: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # step of each optimizer
        self._brought: dict[int, Sample] = {}  # by optimizer: the gradient, as the step's backwards have left it
        self._scaled: bool | None = None
        self._row: tuple[int, list[float]] | None = None

    def _decide(self, step: int, step_s: float) -> None:
        """Settle whether the optimizers of a step are followed: together, or its row would tell of some of them."""
        self._decided_for, self._deciders = step, set()
        self._brought.clear()
        self._scaled = None
        self._due = self._follows and self.ledger.due(step_s)

    def backward_end(self, *, step: int, step_s: float, scale: Any) -> None:
        """Copy the gradient that a step's backward has left, before the script makes another of it.

        Args:
            step: its number.
            step_s: what steps take.
            scale: what a gradient scaler has multiplied the loss by; None: nothing did.
        """
        if not self._follows:
            return
        if step != self._decided_for:
            self._decide(step, step_s)
        if not self._due:
            return
        began = time.perf_counter()
        scaled, self._scaled = self._scaled, scale is not None
        mixed = scaled is not None and scaled != self._scaled  # their sum is a multiple of no loss's gradient
        with apart(), torch.no_grad():
            for optimizer, last in list(self._last.items()):
                # Those of some steps before, as they may take turns: nothing tells of others in time.
                if step - last > _TURNS or id(optimizer) in self._deciders:
                    continue
                sample = self._brought.pop(id(optimizer), None) or self.ledger.sample(optimizer.param_groups)
                if sample is not None and not mixed:
                    sample.take_gradient(scale)
                    self._brought[id(optimizer)] = sample
        self._before_s += time.perf_counter() - began

    def begin(self, optimizer: Any, *, step: int, step_s: float, closure: bool) -> None:
        """Copy what must be known before the optimizer's step; with a closure the gradient comes later."""
        self.schedules.of(optimizer).begin(optimizer.param_groups, step)
        self._sample, self._sparse = None, []
        if step != self._decided_for or id(optimizer) in self._deciders:
            self._decide(step, step_s)
        self._deciders.add(id(optimizer))
        self._last[optimizer] = step
        if not self._due:
            return
        began, scale = time.perf_counter(), getattr(optimizer, "grad_scale", None)
        with apart(), torch.no_grad():
            sparse = [p for group in optimizer.param_groups for p in group["params"] if is_sparse(p)]
            self._sparse = [SparseSample(p, scale) for p in sparse]
            self._sample = self._dense(optimizer, scale, closure=closure)
            if self._sample is not None:
                self._sample.take_parameters()
        self._before_s += time.perf_counter() - began

    def _dense(self, optimizer: Any, scale: Any, *, closure: bool) -> Sample | None:
        """Return the sample of a step that begins, with its gradient where that is known already."""
        brought = self._brought.pop(id(optimizer), None)
        if brought is not None and not closure:
            groups = optimizer.param_groups
            dense = {id(p) for group in groups for p in group["params"] if p.requires_grad and not is_sparse(p)}
            # Beside those of another device, which are not followed.
            if dense.issuperset(map(id, brought.tensors)) and len(dense) == brought.offered:
                brought.compare(scale)
                return brought
        sample = self.ledger.sample(optimizer.param_groups)
        if sample is not None and not closure:
            # Fused optimizers unscale inside their step: the gradients that they are given are still scaled.
            sample.take_gradient(scale)
        return sample

    def closure_backward(self) -> None:
        """Copy the gradient that a closure's first backward has made."""
        if self._sample is not None and self._sample.gradient is None:
            with apart(), torch.no_grad():
                self._sample.take_gradient()

    def end(self, optimizer: Any, step: int) -> None:
        """Make the ledger's row of this step."""
        self.schedules.of(optimizer).end()
        sample, sparse = self._sample, self._sparse
        self._sample, self._sparse = None, []
        if sample is not None and sample.gradient is None:
            sample = None  # the closure never ran a backward
        if sample is None and not sparse:
            return
        began = time.perf_counter()
        with apart(), torch.no_grad():
            parts = ([sample.sums()] if sample is not None else []) + [s.sums() for s in sparse]
            sums = torch.cat([part.to(parts[0].device, parts[0].dtype) for part in parts], 1)
            self._weigh(sample)
        width = sums.shape[1] - len(sparse)
        before_s, self._before_s = self._before_s, 0.0
        cost_s = before_s + time.perf_counter() - began
        self._pending.read(sums, lambda rows: self._write(step, rows, sample, width, cost_s))
        cost_s = before_s + time.perf_counter() - began
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

    def _write(self, step: int, rows: list[list[float]], sample: Sample | None, width: int, cost_s: float) -> None:
        if all(math.isfinite(x) for sums in rows[:3] for x in sums):
            row = _row(rows, sample, width, cost_s)
        else:  # the step is kept, and counts as one left out
            looked = (math.nan,) * 2 if sample is None else (float(sample.sampled), float(sample.total))
            row = [math.nan] * 6 + [*looked, cost_s] + [math.nan] * 4
        if self._row is not None and self._row[0] == step:
            row = joined(self._row[1], row)
        self._row = (step, row)
        self._emit(series.LEDGER, step, *row)


def _row(rows: list[list[float]], sample: Sample | None, width: int, cost_s: float) -> list[float]:
    """Return a ledger row, after its step, from the sums of ``width`` blocks and of sparse gradients beside them."""
    found, given, looked = [(0.0, 0.0)] * 4, (math.nan, math.nan), (0.0, 0.0)
    if sample is not None:
        dense, looked = [row[:width] for row in rows], (float(sample.sampled), float(sample.total))
        exact, probabilities = sample.exact, sample.probabilities
        found = list(estimates(dense[:3], sample.blocks, sample.total, exact=exact, probabilities=probabilities))
        weights = [1.0] * width if sample.exact else [1.0 / p for p in sample.probabilities]
        given = _given(*(math.fsum(w * x for w, x in zip(weights, dense[i], strict=True)) for i in (0, 3, 4)))
    (g2, g2e), (d2, d2e), (work, worke), (path, pathe) = found
    if sample is not None and sample.grad_sq is not None and not sample.exact:
        # Every gradient was looked at: only |Δθ| of the path is still an estimate.
        g2, g2e, path = sample.grad_sq, 0.0, math.sqrt(max(sample.grad_sq * d2, 0.0))
        pathe = 0.5 * path * d2e / d2 if d2 > 0 else 0.0
    sparse = [math.fsum(row[width:]) for row in rows[:3]]
    if any(sparse):
        g2, d2, work = g2 + sparse[0], d2 + sparse[1], work + sparse[2]
        path = math.sqrt(max(g2 * d2, 0.0))
    return [g2, g2e, d2, d2e, work, worke, *looked, cost_s, path, pathe, *given]


def _given(own: float, shared: float, given: float) -> tuple[float, float]:
    """Return g·ĝ/|g|² and g·ĝ/(|g||ĝ|) from |g|², g·ĝ and |ĝ|² on the same blocks, NaN where there is none.

    Where all of the gradient was multiplied by one number, the first is that number and the second 1, whatever was
    drawn.
    """
    if not (own > 0 and given > 0 and math.isfinite(own * given)):
        return (0.0, math.nan) if own > 0 and given == 0 else (math.nan, math.nan)
    return shared / own, shared / math.sqrt(own * given)


def joined(one: list[float], other: list[float]) -> list[float]:
    """Return the ledger row of two optimizers of one step: sums add, their independent errors in quadrature."""
    pairs = enumerate(zip(one, other, strict=True))
    row = [math.hypot(x, y) if i in _ERRORS else x + y for i, (x, y) in pairs]
    row[9] = math.sqrt(max(row[0] * row[2], 0.0)) if math.isfinite(row[0] * row[2]) else math.nan
    had = [x for x in (one, other) if x[0] != 0.0]
    if len(had) == 1:
        row[11:] = had[0][11:]
        return row
    # g·ĝ and |ĝ|² of both together.
    shared = math.fsum(x[0] * x[11] for x in had)
    row[11:] = _given(row[0], shared, math.fsum(x[0] * (x[11] / x[12]) ** 2 if x[12] else math.nan for x in had))
    return row
