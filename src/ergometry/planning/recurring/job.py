"""A job that recurs: which batch size and power limit to run it at, learnt from its own runs.

Cost of a run = epochs(B) × cost of an epoch(B, power limit). The second factor is read in seconds and obeys a law, so
only the first must be learnt by running: from a law of epochs over batch size plus a Gaussian process
(``knowledge``), the worth of what a run teaches (``choice``), and giving a run up as soon as a restart is worth more
(``outlook``).
Power limits are tried inside the runs, where a stretch at another limit costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from ergometry.core.errors import UsageError
from ergometry.planning import power_limit
from ergometry.planning.recurring import records
from ergometry.planning.recurring.choice import chance_better
from ergometry.planning.recurring.knowledge import Knowledge
from ergometry.planning.recurring.records import Attempt, Elsewhere, Meter
from ergometry.planning.recurring.settings import Settings
from ergometry.planning.recurring.spec import JobSpec, checked_spec


class RecurringJob:
    """Chooses batch size and power limit of each recurrence of a job, and learns from what they cost.

    One attempt goes: ``next_batch_size``; for each stretch of an epoch ``next_segment`` and ``observe_segment``; after
    each epoch that did not reach the target ``keep_going``; at last ``end_attempt``. An attempt that did not reach the
    target is followed by another. Between recurrences the state is kept by ``save`` and ``load``. The same state
    gives the same decisions: nothing is drawn at random.

    Args:
        batch_sizes: Sizes that can be run, in any order.
        power_limits_w: Limits that can be set, W.
        default_batch_size: The size run today: the first recurrence runs it, unless there is history from elsewhere.
        max_power_w: The board's highest limit P_max; by default the highest of ``power_limits_w``.
        energy_weight: w of the cost w·J + (1 − w)·P_max·s.
        max_epochs: Epochs at which an attempt ends unreached.
        metric_levels: Levels of the metric that are told to ``keep_going``, the target being the last.
        limits_at: For each batch size the limits that can be set there; by default all.
        name: Of the job; histories of another name are refused.
        settings: Priors and attitudes.
        seed: Taken for the protocol's sake; nothing is drawn.

    Raises:
        UsageError: If the description of the job is impossible.

    >>> job = RecurringJob(batch_sizes=(32, 64), power_limits_w=(150.0, 250.0), default_batch_size=32, max_epochs=50)
    >>> job.next_batch_size()
    32
    """

    def __init__(  # noqa: PLR0913 - what a user tells of a job, all by keyword
        self,
        *,
        batch_sizes: Sequence[int],
        power_limits_w: Sequence[float],
        max_epochs: int,
        default_batch_size: int | None = None,
        max_power_w: float | None = None,
        energy_weight: float = 0.5,
        metric_levels: int = 1,
        limits_at: Sequence[Sequence[float]] | None = None,
        name: str = "",
        settings: Settings | None = None,
        seed: int = 0,  # noqa: ARG002 - the protocol's
    ) -> None:
        spec = checked_spec(
            batch_sizes, default_batch_size, power_limits_w, max_power_w, energy_weight, max_epochs, metric_levels,
            limits_at, name,
        )  # fmt: skip
        self._begin(spec, settings or Settings(), None)

    def _begin(self, spec: JobSpec, settings: Settings, elsewhere: Elsewhere | None) -> None:
        self.spec, self.settings = spec, settings
        self._known = Knowledge(spec, settings, elsewhere)
        self._meters: dict[int, dict[float, Meter]] = {}
        self._attempts: list[Attempt] = []
        self._running: Attempt | None = None
        self._tries = 0
        self._due = np.zeros(len(spec.batch_sizes))

    @property
    def running(self) -> Attempt | None:
        """The attempt under way, or left by a process that died: its ``batch_size`` and the ``epochs`` it did."""
        return self._running

    def probes(self) -> list[tuple[int, float, float]]:
        """None: what an epoch costs is told by its law and read in the first epoch, cheaper than by starting up."""
        return []

    def observe_probe(
        self, batch_size: int, power_limit_w: float, seconds: float, joules: float, fraction: float
    ) -> None:
        """Take in a probe that was made for other reasons.

        Raises:
            UsageError: If it is of a size or limit that the job does not have, or not metered.
        """
        self.spec.limits(batch_size, power_limit_w)
        self._known.probe(batch_size, self.spec.log_epoch_cost(seconds, joules, fraction))

    def next_batch_size(self) -> int:
        """The size to run the next attempt at."""
        if self._running is not None:
            raise UsageError(
                expected="the running attempt to be ended first",
                got=f"one at batch size {self._running.batch_size}, {self._running.epochs} epochs done",
                remedy="call end_attempt(running.epochs, reached=False) if its process is gone",
            )
        if not self._known.successes and not self._attempts:
            size = self.spec.default_batch_size
        else:
            size = self.spec.batch_sizes[self._pick()]
        self._running = Attempt(size, 0, False)
        return size

    def _pick(self) -> int:
        """Index of the size worth most, or of one that a second look is due at."""
        choice = self._known.choice()
        pick = choice.best if self._patient() else choice.pick
        if self._tries == 0:
            self._due += self.settings.second_looks * chance_better(self._known.outcomes(), choice.best)
            if pick == choice.best and self._due.max() >= 1:
                pick = int(np.argmax(self._due))
        self._due[pick] = 0.0
        return pick

    def _patient(self) -> bool:
        """Whether this recurrence has had its share of trials."""
        return self._tries >= self.settings.attempts - 1

    def _need(self) -> Attempt:
        if self._running is None:
            raise UsageError(expected="a running attempt", got="none", remedy="call next_batch_size() first")
        return self._running

    def _readings(self, batch_size: int) -> dict[float, power_limit.Reading]:
        noise = self.settings.stretch_noise
        return {
            p: power_limit.Reading(
                math.log(self.spec.cost(m.seconds, m.joules) / m.epochs), noise / math.sqrt(max(m.seconds, 1.0))
            )
            for p, m in self._meters.get(batch_size, {}).items()
        }

    def _start_share(self) -> float:
        """Where to begin at a new size: at the best share of P_max of the size last measured."""
        if self._known.log_cost:
            last = next(reversed(self._known.log_cost))
            return self._best_limit(last).limit_w / self.spec.max_power_w
        far = self._known.elsewhere
        return power_limit.START if far is None or far.limit_share is None else far.limit_share

    def _best_limit(
        self, batch_size: int, readings: Mapping[float, power_limit.Reading] | None = None
    ) -> power_limit.Found:
        limits, readings = self.spec.limits(batch_size), readings or self._readings(batch_size)
        return power_limit.best_limit(limits, readings, max_power_w=self.spec.max_power_w)

    def next_segment(self, epoch: int, fraction_done: float) -> tuple[float, float | None]:
        """Power limit in W for the next stretch, and its longest duration in s (None: the rest of the epoch).

        Limits are tried in the first epoch of an attempt; at a size that reached the target before also those that
        were ruled out unread, one an attempt: a board need not be as smooth as the search takes it to be, and a
        stretch costs nothing beside the recurrences to come.
        """
        size = self._need().batch_size
        limits, readings, board = self.spec.limits(size), self._readings(size), self.spec.max_power_w
        if not readings:
            first = power_limit.next_limit(limits, {}, max_power_w=board, start=self._start_share())
            return first or limits[-1], self.settings.stretch_s
        best = self._best_limit(size, readings).limit_w
        if epoch == 1:
            limit = power_limit.next_limit(limits, readings, max_power_w=board, tolerance=self.settings.limit_tolerance)
            unread = [p for p in limits if p not in readings]
            if limit is None and unread and fraction_done == 0 and self._reached(size):
                limit = min(unread, key=lambda p: abs(math.log(p / best)))
            if limit is not None:
                return limit, self.settings.stretch_s
        return best, None

    def _reached(self, batch_size: int) -> bool:
        return any(a.reached and a.batch_size == batch_size for a in self._attempts)

    def observe_segment(self, power_limit_w: float, seconds: float, joules: float, fraction: float) -> None:
        """Take in a stretch of the running attempt: s, J, and the fraction of an epoch it did.

        Raises:
            UsageError: If it was not metered, or at a limit that the job does not have.
        """
        attempt = self._need()
        self.spec.limits(attempt.batch_size, power_limit_w)
        if 0 <= fraction < 1e-6 and seconds >= 0:
            return
        self.spec.log_epoch_cost(seconds, joules, fraction)
        meter = self._meters.setdefault(attempt.batch_size, {}).setdefault(power_limit_w, Meter())
        meter.epochs += fraction
        meter.seconds += seconds
        meter.joules += joules

    def _note(self, epoch: int, levels: int) -> None:
        attempt = self._need()
        if not attempt.epochs < epoch <= self.spec.max_epochs or not 0 <= levels <= self.spec.metric_levels:
            raise UsageError(
                expected=f"an epoch after {attempt.epochs} and up to {self.spec.max_epochs}, and at most "
                f"{self.spec.metric_levels} levels",
                got=f"epoch {epoch}, {levels} levels",
                remedy="count epochs from 1 and levels as in metric_levels",
            )
        attempt.epochs = epoch
        attempt.crossed += [epoch] * (levels - len(attempt.crossed))

    def keep_going(self, epoch: int, levels_reached: int) -> bool:
        """Whether the attempt is worth going on with, after an epoch that did not reach the target.

        Args:
            epoch: Epochs done, from 1.
            levels_reached: How many of the metric's levels have been passed.
        """
        attempt = self._need()
        self._note(epoch, levels_reached)
        size = attempt.batch_size
        if size in self._meters and (epoch == 1 or size not in self._known.log_cost):
            self._known.read(size, self._best_limit(size).log_cost)
        if not self._known.successes or self._patient() or size not in self._known.log_cost:
            return True
        return self._known.worth_continuing(attempt)

    def end_attempt(self, epochs: int, reached: bool) -> None:
        """The attempt has ended after so many epochs, with or without the target.

        An attempt whose process died is ended with the epochs it did; 0 forgets it.
        """
        attempt = self._need()
        if epochs == 0 and not reached:
            self._running = None
            return
        if epochs > attempt.epochs:
            self._note(epochs, len(attempt.crossed))
        if epochs != attempt.epochs:
            raise UsageError(expected=f"{attempt.epochs} epochs", got=str(epochs), remedy="end it where it ended")
        attempt.reached = bool(reached)
        if attempt.reached:
            attempt.crossed += [epochs] * (self.spec.metric_levels - len(attempt.crossed))
        if attempt.batch_size in self._meters:
            self._known.read(attempt.batch_size, self._best_limit(attempt.batch_size).log_cost)
        self._running = None
        self._tries = 0 if attempt.reached else self._tries + 1
        self._attempts.append(attempt)
        self._known.learn(attempt)

    def to_json(self) -> str:
        """The whole state, also in the middle of an attempt; ``from_json`` gives the same decisions from it."""
        known = self._known
        state = records.State(
            self.spec, self.settings, self._attempts, self._meters, known.log_cost, known.probed, known.elsewhere,
            self._due.tolist(), self._running,
        )  # fmt: skip
        return records.dump(state)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back a state.

        Raises:
            UsageError: If it is damaged or of another version.
        """
        return cls.from_state(records.load(text))

    @classmethod
    def from_state(cls, state: records.State) -> Self:
        """The job that knows this."""
        job = cls.__new__(cls)
        job._begin(state.spec, state.settings, state.elsewhere)
        for attempt in state.attempts:
            job._known.learn(attempt)
            job._tries = 0 if attempt.reached else job._tries + 1
        job._attempts, job._meters, job._running = state.attempts, state.meters, state.running
        job._due = np.array(state.due)
        job._known.restore(state.log_cost, state.probed)
        return job

    def save(self, path: str | Path) -> None:
        """Write the state; a kill leaves the old file or the new one."""
        records.write_atomically(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            UsageError: If there is none, or it is damaged or of another version.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(expected="a saved recurring job", got=str(error), remedy="save() it first") from None
        except ValueError as error:
            raise UsageError(
                expected="the JSON of a recurring job", got=f"{error} in {path}", remedy="restore it from a copy"
            ) from None
        try:
            return cls.from_json(text)
        except UsageError as error:
            raise UsageError(expected=error.expected, got=f"{error.got} in {path}", remedy=error.remedy) from None

    def warm_start(self, history: str) -> Self:
        """Begin with what the same job learnt on another machine.

        Epochs to the target do not depend on the machine and are taken over; what an epoch costs does, and is taken
        as one of the laws it may follow.

        Args:
            history: ``to_json()`` of the job there; weight, batch sizes and limits may differ.

        Returns:
            This job.

        Raises:
            UsageError: If the history is empty or of another job, or this job has begun.
        """
        other = records.load(history)
        mine = (self.spec.name, self.spec.max_epochs, self.spec.metric_levels)
        theirs = (other.spec.name, other.spec.max_epochs, other.spec.metric_levels)
        if self._attempts or self._running or self._meters:
            raise UsageError(expected="a job that has not begun", got="one with history", remedy="warm-start it first")
        if mine != theirs:
            raise UsageError(
                expected=f"a history of the job with (name, max_epochs, metric_levels) = {mine}",
                got=f"one of {theirs}",
                remedy="give the history of the same job on another machine",
            )
        there = RecurringJob.from_state(other)
        if not there._known.successes:
            raise UsageError(
                expected="a history with a run that reached the target",
                got=f"{len(other.attempts)} attempts without one",
                remedy="start cold, without a history",
            )
        read = bool(there._known.log_cost)
        costs, share = (there._known.epoch_costs(), there._start_share()) if read else ({}, None)
        before = other.elsewhere.attempts if other.elsewhere else ()
        self._begin(self.spec, self.settings, Elsewhere((*before, *other.attempts), costs, share))
        return self

    def explain(self) -> str:
        """What would be run next, why, and what is still uncertain."""
        known = self._known
        if not known.successes and not self._attempts:
            size = self.spec.default_batch_size
            return f"Nothing has run yet: the first recurrence runs your default, batch size {size}."
        choice, outcomes, sizes = known.choice(), known.outcomes(), self.spec.batch_sizes
        percent = 100 * np.sqrt(np.diag(outcomes.cov))
        times = np.exp(np.minimum(choice.expected_log_cost - choice.expected_log_cost[choice.best], 20.0))
        best, pick = choice.best, choice.pick
        reached = sum(a.reached for a in self._attempts)
        missed = len(self._attempts) - reached
        lines = [
            f"{reached} {'run has' if reached == 1 else 'runs have'} reached the target, "
            f"{missed} {'attempt has' if missed == 1 else 'attempts have'} not."
        ]
        if known.elsewhere:
            told = len(known.elsewhere.attempts)
            lines.append(f"{told} attempts were taken over, from elsewhere or from before the job was changed.")
        if not known.successes:
            lines.append("No attempt has reached the target yet: what a run costs is a guess from how far they came.")
        lines.append(
            f"Batch size {sizes[best]} is expected to cost least: {known.epochs(sizes[best]):.3g} epochs; "
            f"its cost is known to {percent[best]:.0f} % and differs by {100 * math.sqrt(outcomes.noise_var):.0f} % "
            "from run to run."
        )
        if sizes[best] in self._meters:
            found, limits = self._best_limit(sizes[best]), self.spec.limits(sizes[best])
            lines.append(f"Its power limit: {found.limit_w:g} W ({found.probes} of {len(limits)} limits read there).")
        if pick == best:
            lines.append("Next is the same: no other size is worth a trial now.")
        else:
            lines.append(
                f"Next is {sizes[pick]}: expected at {times[pick]:.2f} of that cost, "
                f"give or take {percent[pick]:.0f} %; a trial is worth {choice.worth[pick]:.2g} runs."
            )
        rivals = [j for j in np.argsort(times) if j not in (best, pick)][:3]
        if rivals:
            lines.append(
                "Others: " + "; ".join(f"{sizes[j]} at {times[j]:.2f} ± {percent[j]:.0f} %" for j in rivals) + "."
            )
        return "\n".join(lines)
