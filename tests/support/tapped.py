"""A small training with one tap on it: events are told in the order in which the tracer tells them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ergometry.core.series import Series
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.conductor import Conductor
from ergometry.integrations.physics.tap import Site, Tap
from ergometry.integrations.schedules import Schedules
from ergometry.integrations.steps import StepMachine


class Training:
    """Steps of a model under a tap of a kind, which is used every ``every`` steps."""

    def __init__(
        self, kind: Callable[[Site], Tap], every: int | None = 1, *, watched: bool = True, **site: Any
    ) -> None:
        self.sent: list[tuple[Series, tuple[float, ...]]] = []
        self.notices: list[tuple[Any, ...]] = []
        self._now_s = 0.0
        self.machine = StepMachine(lambda *_: None)
        self.schedules = Schedules(lambda *_: None)
        self.tap = kind(
            Site(
                emit=lambda series, *values: self.sent.append((series, values)),
                pending=Pending(),
                machine=self.machine,
                now=lambda: self._now_s,
                schedule=self.schedules.of,
                meta=lambda **_: None,
                notice=lambda *said: self.notices.append(said),
                every=every,
                **site,
            )
        )
        taps = [self.tap] if watched else []
        self.conductor = Conductor(taps, meta=lambda **_: None, notice=self._notice, level="light")

    def _notice(self, *said: Any) -> None:
        self.notices.append(said)

    def _tick(self) -> float:
        self._now_s += 1e-3
        return self._now_s

    def backward(self, model: Any, x: torch.Tensor, loss: Callable[..., Any], *, examples: float | None = None) -> None:
        """Run a forward and its backward."""
        self.machine.forward_begin(training=True, starts_step=True, now_s=self._tick())
        self.conductor.forward_begin(self.machine.index, 1.0, model, (x,), {})
        out = model(x)
        self.conductor.forward_end(model, out)
        self.machine.forward_end(self._tick(), evaluation=False)
        self.again(loss(out), len(x) if examples is None else examples)

    def again(self, loss: torch.Tensor, examples: float | None = None, **options: Any) -> None:
        """Run a backward; of ``examples`` new ones, None of none."""
        self.machine.backward_begin(self._tick())
        self.conductor.backward_begin(loss)
        loss.backward(**options)
        self.conductor.backward_end(loss)
        if examples is not None:
            self.machine.add_examples(examples, float("nan"))
        self.machine.backward_end(self._tick())

    def optimize(self, *optimizers: Any, skipped: bool = False, scaler: Any = None) -> None:
        """Run optimizers' steps, and zero their gradients."""
        for optimizer in optimizers:
            self.machine.optimizer_begin(self._tick(), who=id(optimizer))
            if not skipped:
                self.begin(optimizer)
                optimizer.step()
            self.machine.optimizer_end(self._tick(), who=id(optimizer), skipped=skipped)
            if not skipped:
                self.schedules.of(optimizer).end()
            self.conductor.optimizer_end(optimizer, self.machine.index, skipped=skipped)
        for optimizer in optimizers:
            optimizer.zero_grad()

    def begin(self, optimizer: Any) -> None:
        """Tell that an optimizer's step is about to run."""
        self.schedules.of(optimizer).begin(optimizer.param_groups, self.machine.index)
        self.conductor.optimizer_begin(optimizer, closure=False)

    def step(self, model: Any, optimizer: Any, batches: Sequence[torch.Tensor], loss: Any) -> None:
        """Run a whole step of so many micro-batches."""
        for x in batches:
            self.backward(model, x, loss)
        self.optimize(optimizer)

    def rows(self) -> list[dict[str, float]]:
        """Return the rows sent so far; the tap must not have failed."""
        assert not self.conductor.failed, self.conductor.failed
        return [dict(zip(series.columns, values, strict=True)) for series, values in self.sent]
