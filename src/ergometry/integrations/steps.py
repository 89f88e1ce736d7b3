"""The phase and step machine: events of a training script in, rows of the run's tables out. Pure but for ``emit``.

Time is exclusive: at any moment the script is in one phase. A step opens with a training forward (or a backward, where
the forward was not seen) and ends with the last optimizer step before the next one opens. Forwards without
gradient are evaluation, unless they belong to a step: between its forward and backward, or on the very batch that
the training forward takes next (no data were fetched in between: a teacher, a generator).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ergometry.core import series
from ergometry.integrations.step_work import StepWork

DATA, FORWARD, BACKWARD, OPTIMIZER, OTHER, EVALUATION = range(6)
_FLUSH_S = 0.5

Emit = Callable[..., None]


class StepMachine:
    """Turns phase events, each with its time in seconds, into rows of ``steps``, ``losses`` and ``evaluations``."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.on_switch: Callable[[int], None] | None = None
        """Told which phase has ended, at every change."""
        self.on_tentative: Callable[[bool], None] | None = None
        """Told whether forwards that seemed an evaluation were one (True) or belong to the step that opens."""
        self.work = StepWork()
        """The work of the step."""
        self.index = 0
        """Number of the step that is open, or of the next one to open."""
        self.open = False
        self.skipped = 0
        """Optimizer steps that were skipped so far."""
        self.loader_pass = 0
        self._stack: list[int] = []
        self._stepping: dict[int, int] = {}  # optimizers in their step, and the depth at which it began
        self._closure = False
        self._phase, self._since_s = OTHER, 0.0
        self._gap = [0.0] * 6  # since the last backward or optimizer step: belongs to what comes next
        self._gap_t0_s = 0.0
        self._start_s: float | None = None  # when what may be the first step began
        self._data_seen = False
        self._tail_t0_s: float | None = None
        self._awaiting_backward = False
        self._stepped = False
        self._step = [0.0] * 6
        self._t0_s = self._t1_s = 0.0
        self._tentative: list[float] | None = None
        self._tentative_t0_s = 0.0
        self._tentative_counts = [0.0, 0.0]
        self._evaluated = [math.nan, math.nan, 0.0, 0.0]  # t0, t1, forwards, examples not yet emitted
        self._reset_counts()

    def _reset_counts(self) -> None:
        self.examples = self.tokens = self.loss = math.nan
        self.backwards = 0
        self.flags = 0
        self._closure_done = False
        self.work.reset()

    @property
    def steps(self) -> int:
        """Number of steps that an optimizer has ended."""
        return self.index + self._stepped

    # Phases

    def enter(self, phase: int, now_s: float) -> None:
        """Begin a phase; it may interrupt another."""
        self._stack.append(self._phase)
        self._switch(phase, now_s)

    def leave(self, now_s: float) -> None:
        """End the phase begun last."""
        self._switch(self._stack.pop() if self._stack else OTHER, now_s)

    def _switch(self, phase: int, now_s: float) -> None:
        self._gap[self._phase] += now_s - self._since_s
        if self.on_switch is not None:
            self.on_switch(self._phase)
        self._phase, self._since_s = phase, now_s

    @property
    def between_steps(self) -> bool:
        """Say whether nothing is under way: no phase, and no step that an optimizer has not ended."""
        return not self._stack and (not self.open or self._stepped)

    @property
    def in_optimizer(self) -> bool:
        """Say whether an optimizer's step is under way (a closure runs inside it)."""
        return bool(self._stepping)

    @property
    def in_data(self) -> bool:
        """Say whether a batch is being waited for (a loader inside a data set waits within it)."""
        return self._phase == DATA

    # Events

    def data_begin(self, now_s: float) -> None:
        """Begin waiting for a batch."""
        self._tail_t0_s = None
        if self._tentative is not None:
            self._confirm_evaluation()
        self._data_seen = True
        self._end_raised_optimizer(now_s)
        outermost = self._phase != DATA
        self.enter(DATA, now_s)
        if outermost:
            self._start(now_s, anew=True)

    def data_end(self, now_s: float) -> None:
        """Have the batch."""
        self.leave(now_s)

    def forward_begin(self, *, training: bool, starts_step: bool, now_s: float) -> bool:
        """Begin an outermost module call; return whether it counts as evaluation.

        Args:
            training: gradients are recorded.
            starts_step: a training forward of a module with parameters.
            now_s: time.
        """
        self._tail_t0_s = None
        if training:
            self._end_raised_optimizer(now_s)
        evaluation = not training and not self._awaiting_backward and not self.in_optimizer
        self.enter(EVALUATION if evaluation else FORWARD, now_s)
        if starts_step or evaluation:  # a module without parameters may be called long before, in the set-up
            self._start(now_s)
        if starts_step:
            self._open(now_s)
            self._awaiting_backward = True
        return evaluation

    def forward_end(self, now_s: float, *, evaluation: bool, counts: tuple[float, float] = (0.0, 0.0)) -> None:
        """End it; ``counts`` are (forwards, examples) of an evaluation."""
        self.leave(now_s)
        if evaluation:
            self._add_tentative(counts)
        elif self._phase == OTHER:
            self._tail_t0_s = now_s

    def evaluation_trains(self) -> None:
        """Take back what was taken for an evaluation: its backward comes."""
        if self._tentative is not None:
            self._take_back_tentative()

    def backward_begin(self, now_s: float) -> None:
        """Begin a backward; what ran since the last forward was the loss, and is counted as forward."""
        self._end_raised_optimizer(now_s)
        self.enter(BACKWARD, now_s)
        self._start(now_s)
        if self._tail_t0_s is not None:
            tail = now_s - self._tail_t0_s
            moved = min(tail, self._gap[OTHER])
            self._gap[OTHER] -= moved
            self._gap[FORWARD] += moved
        self._tail_t0_s = None
        if not self.open or self._stepped:
            self._open(now_s)

    def backward_end(self, now_s: float, loss: float = math.nan) -> None:
        """End it; ``loss`` is the unscaled scalar, NaN if it is read later or not at all."""
        self.leave(now_s)
        self.backwards += 1
        self._awaiting_backward = False
        self._take_gap(now_s)
        if not self._closure_done and not math.isnan(loss):
            self.add_loss(loss)
        if self.in_optimizer:
            self._closure_done = True

    @property
    def counting(self) -> bool:
        """Say whether examples and losses count: of a closure only the first call does."""
        return not self._closure_done

    def add_loss(self, loss: float) -> None:
        """Add a scalar that ``backward`` was called on to the step's loss."""
        self.loss = loss if math.isnan(self.loss) else self.loss + loss

    def add_examples(self, examples: float, tokens: float) -> None:
        """Add examples and tokens to the step's; NaN is not known."""
        self.examples = examples if math.isnan(self.examples) else self.examples + examples
        self.tokens = tokens if math.isnan(self.tokens) else self.tokens + tokens

    def optimizer_begin(self, now_s: float, *, who: int = 0, closure: bool = False) -> None:
        """Begin an optimizer's step; ``who`` tells optimizers apart, of which one may step inside another's step."""
        self._tail_t0_s = None
        if who in self._stepping:
            self._raised(now_s)
        if not self._stepping:
            self._closure = closure
        self._stepping[who] = len(self._stack)
        self.enter(OPTIMIZER, now_s)
        self._start(now_s)

    def _end_raised_optimizer(self, now_s: float) -> None:
        """Notice that an optimizer's step raised: without a closure it calls nothing that we would see."""
        if self._stepping and not self._closure:
            self._raised(now_s)

    def _raised(self, now_s: float) -> None:
        """End an optimizer's step that raised: the script begins anew, and so do the step's examples and loss."""
        self._stepping.clear()
        self.unwind(0, now_s)
        self.loss = self.examples = self.tokens = math.nan

    def optimizer_end(self, now_s: float, *, who: int = 0, skipped: bool = False) -> None:
        """End it: the step may be complete (another optimizer's step still joins it), so its rows are emitted."""
        depth = self._stepping.pop(who, 0)
        while len(self._stack) > depth:
            self.leave(now_s)
        if not self.open:
            self._open(now_s)
        self._take_gap(now_s)
        self._awaiting_backward = False
        if skipped:
            self.flags |= series.SKIPPED
            self.skipped += 1
        self._stepped = True
        self._t1_s = now_s
        self._emit_step()
        self._closure_done = False

    def restate(self) -> None:
        """Emit the step again, if an optimizer has ended it: more is known of it now."""
        if self.open and self._stepped:
            self._emit_step()

    def unwind(self, depth: int, now_s: float) -> None:
        """Return to a depth of phases seen before, after an exception that left some open."""
        self.flags |= series.EXCEPTION
        self._awaiting_backward = False  # of a call that raised no backward follows
        while len(self._stack) > depth:
            self.leave(now_s)

    @property
    def depth(self) -> int:
        """Number of phases that are open."""
        return len(self._stack)

    def finish(self, now_s: float) -> None:
        """End the run: emit what has not been."""
        self._switch(OTHER, now_s)
        if self._tentative is not None:
            self._confirm_evaluation()
        self._emit_evaluation()

    # Bookkeeping

    def _open(self, now_s: float) -> None:
        """Open a step, unless one is open that no optimizer has ended yet."""
        if self._tentative is not None:
            if self._data_seen:
                self._take_back_tentative()
            else:
                self._confirm_evaluation()
        self._emit_evaluation()
        if self.open and not self._stepped:
            return
        if self._stepped:
            self.index += 1
            self._t0_s = self._gap_t0_s
        else:
            self._start(now_s)
            self._t0_s = self._start_s if self._start_s is not None else now_s
        self._step = [0.0] * 6
        self._reset_counts()
        self.open, self._stepped = True, False

    def _start(self, now_s: float, *, anew: bool = False) -> None:
        """Begin what may be the first step: what came before its first batch was setting up, not training."""
        if not self.open and (anew or self._start_s is None):
            self._start_s = now_s
            self._gap = [0.0] * 6

    def _take_gap(self, now_s: float) -> None:
        if self._tentative is not None:
            self._confirm_evaluation()
        self._emit_evaluation()  # one that comes later must not cover what the step takes here
        for phase, seconds in enumerate(self._gap):
            self._step[OTHER if phase == EVALUATION else phase] += seconds  # of an evaluation that raised
        self._gap = [0.0] * 6
        self._gap_t0_s = now_s

    def _add_tentative(self, counts: tuple[float, float]) -> None:
        now_s = self._since_s
        if self._tentative is None:
            self._tentative = [0.0] * 6
            start_s = None if self.open else self._start_s
            self._tentative_t0_s = self._gap_t0_s if start_s is None else start_s
            self._tentative_counts = [0.0, 0.0]
        for phase, seconds in enumerate(self._gap):
            self._tentative[phase] += seconds
        self._tentative_counts[0] += counts[0]
        self._tentative_counts[1] += counts[1]
        self._gap = [0.0] * 6
        self._gap_t0_s = now_s

    def _take_back_tentative(self) -> None:
        assert self._tentative is not None
        for phase, seconds in enumerate(self._tentative):
            self._gap[FORWARD if phase == EVALUATION else phase] += seconds
        self._gap_t0_s = self._tentative_t0_s
        self._tentative = None
        if self.on_tentative is not None:
            self.on_tentative(False)

    def _confirm_evaluation(self) -> None:
        waiting = self._evaluated
        if math.isnan(waiting[0]):
            waiting[0] = self._tentative_t0_s
        waiting[1] = self._gap_t0_s
        waiting[2] += self._tentative_counts[0]
        waiting[3] += self._tentative_counts[1]
        self._tentative = self._start_s = None
        if self.on_tentative is not None:
            self.on_tentative(True)
        if waiting[1] - waiting[0] >= _FLUSH_S:
            self._emit_evaluation()

    def _emit_evaluation(self) -> None:
        if math.isnan(self._evaluated[0]):
            return
        last_step = self.index if self._stepped else self.index - 1
        self._emit(series.EVALUATIONS, *self._evaluated, float(last_step))
        self._evaluated = [math.nan, math.nan, 0.0, 0.0]

    def _emit_step(self) -> None:
        flags = self.flags if self.backwards else self.flags | series.NO_BACKWARD
        self._emit(
            series.STEPS,
            self.index,
            self._t0_s,
            self._t1_s,
            *self._step[:5],
            self.examples,
            self.tokens,
            self.backwards,
            self.work.product_flops,
            self.loader_pass,
            flags,
        )
        self._emit(series.WORK, self.index, *self.work.row())
        if not math.isnan(self.loss):
            loss = self.loss if math.isfinite(self.loss) else math.nan
            self._emit(series.LOSSES, self.index, self._t1_s, loss)
