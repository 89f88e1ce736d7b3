"""Adds passes to the step they belong to and to the uses of their profiles, at the least cost for those that repeat."""

from __future__ import annotations

from collections import deque

from ergometry.integrations.counting.profiles import Book, Count, Totals
from ergometry.integrations.step_work import Entry
from ergometry.integrations.steps import StepMachine

FORWARD, BACKWARD, OPTIMIZER, EVALUATION = "forward", "backward", "optimizer", "evaluation"

_MAX_TENTATIVE = 256

Addition = tuple[Count | None, Totals | None, float]


class Adder:
    """Puts the numbers of known passes into the step's list; what else there is it adds at once."""

    def __init__(self, machine: StepMachine) -> None:
        self._machine = machine
        self.book = Book()
        self.passes = machine.work.passes
        """Numbers of the known passes of the step: whoever knows one appends it."""
        self._counts: list[Count] = []
        self._tentative: deque[Addition] = deque()
        self.taken_back: list[Addition] = []
        """What seemed an evaluation and was the beginning of a step: to be flushed when it has opened."""
        machine.on_tentative = self._settle

    def add(self, phase: str, count: Count | None, totals: Totals | None, uses: float = 1.0) -> None:
        """Add a pass; ``totals`` are its count's or were estimated, None where they are not known.

        Of an evaluation it is not known yet whether it is one.
        """
        if phase == EVALUATION:
            self._tentative.append((count, totals, uses))
            if len(self._tentative) > _MAX_TENTATIVE:  # no step begins with so many
                self._evaluated(self._tentative.popleft())
        elif count is not None and totals is count.totals:
            number = count.entries.get(phase)
            if number is None:
                number = count.entries[phase] = self._enter(count, phase)
            self.passes.append(number)
        else:
            self._machine.work.add(phase, totals, uncounted=count is None or count.uncounted)
            if count is not None:
                self.book.use(count, phase, uses)

    def _enter(self, count: Count, phase: str) -> int:
        entries = self._machine.work.entries
        entries.append(Entry(phase, count.totals, count.uncounted))
        self._counts.append(count)
        return len(entries) - 1

    def incomplete(self) -> None:
        """Take note that something of the step was not counted."""
        self._machine.work.incomplete()

    def _settle(self, evaluation: bool) -> None:
        """Have the evaluation since the last step be one, or the beginning of the step that opens."""
        if not evaluation:
            self.taken_back += self._tentative
        else:
            for addition in self._tentative:
                self._evaluated(addition)
        self._tentative.clear()

    def _evaluated(self, addition: Addition) -> None:
        count, _, uses = addition
        if count is not None:
            self.book.use(count, EVALUATION, uses)

    def flush(self) -> None:
        """Add to the step, which has opened, what seemed an evaluation and was its beginning."""
        pending, self.taken_back = self.taken_back, []
        for count, totals, uses in pending:
            self.add(FORWARD, count, totals, uses)

    def rows(self, now_s: float, *, last: bool = False) -> list[tuple[float, ...]]:
        """Return rows of the uses of profiles that have changed; with the ``last`` step's."""
        work = self._machine.work
        if last:
            work.settle()
        for numbers, times in work.steps.items():
            for number in numbers:
                self.book.use(self._counts[number], work.entries[number].phase, times)
        work.steps.clear()
        return [(now_s, float(number), uses, float(self._machine.index)) for number, uses in self.book.changed()]
