"""A training script in slow motion: what the step machine would be told, by a clock that moves only when told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ergometry.core.series import EVALUATIONS, LOSSES, STEPS, Series
from ergometry.integrations.steps import StepMachine


class Script:
    """Tells a step machine what a script does; each doing takes the seconds that it is given."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rows: list[tuple[Series, tuple[float, ...]]] = []
        self.machine = StepMachine(self._emit)

    def _emit(self, series: Series, *values: float) -> None:
        assert len(values) == len(series.columns)
        self.rows.append((series, values))

    # What a script does

    def other(self, seconds: float) -> None:
        """Do something that is not watched."""
        self.now_s += seconds

    def data(self, seconds: float) -> None:
        """Wait for a batch."""
        self.machine.data_begin(self.now_s)
        self.other(seconds)
        self.machine.data_end(self.now_s)

    def forward(self, seconds: float, *, fails: bool = False) -> None:
        """Call a model that trains."""
        self._forward(seconds, training=True, starts=True, fails=fails)

    def evaluate(self, seconds: float, examples: float = 0.0, *, fails: bool = False) -> bool:
        """Call a model without gradients; return whether it was taken for an evaluation."""
        return self._forward(seconds, training=False, starts=False, examples=examples, fails=fails)

    def loss(self, seconds: float) -> None:
        """Call a module that has no parameters, with gradients."""
        self._forward(seconds, training=True, starts=False)

    def _forward(
        self, seconds: float, *, training: bool, starts: bool, examples: float = 0.0, fails: bool = False
    ) -> bool:
        evaluation = self.machine.forward_begin(training=training, starts_step=starts, now_s=self.now_s)
        depth = self.machine.depth
        self.other(seconds)
        if fails:
            self.machine.unwind(depth - 1, self.now_s)
        else:
            self.machine.forward_end(self.now_s, evaluation=evaluation, counts=(1.0, examples))
        return evaluation

    def backward(self, seconds: float, loss: float = math.nan, *, fails: bool = False) -> None:
        """Call backward on a loss."""
        self.machine.backward_begin(self.now_s)
        depth = self.machine.depth
        self.other(seconds)
        if fails:
            self.machine.unwind(depth - 1, self.now_s)
        else:
            self.machine.backward_end(self.now_s, loss)

    def optimizer(
        self, seconds: float, *, closure: Callable[[], Any] | None = None, skipped: bool = False, fails: bool = False
    ) -> None:
        """Let an optimizer step, with a closure within it if there is one."""
        self.machine.optimizer_begin(self.now_s, closure=closure is not None)
        self.other(seconds / 2)
        if closure is not None:
            closure()
        self.other(seconds / 2)
        if not fails:
            self.machine.optimizer_end(self.now_s, skipped=skipped)

    def finish(self) -> None:
        """End the run."""
        self.machine.finish(self.now_s)

    # What was told

    def steps(self) -> list[dict[str, float]]:
        """Return the steps as a report sees them: of a step that was told again, the last."""
        told = {values[0]: values for series, values in self.rows if series is STEPS}
        return [dict(zip(STEPS.columns, values, strict=True)) for values in told.values()]

    def evaluations(self) -> list[dict[str, float]]:
        """Return the evaluations, in the order in which they were told."""
        rows = [values for series, values in self.rows if series is EVALUATIONS]
        return [dict(zip(EVALUATIONS.columns, values, strict=True)) for values in rows]

    def losses(self) -> dict[float, float]:
        """Return the loss of each step that has one."""
        return {values[0]: values[2] for series, values in self.rows if series is LOSSES}
