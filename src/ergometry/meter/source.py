"""One power source while a run is recorded: when it is read, and what is done when it does not answer.

A sensor that may block is called by a thread of its own. A sample waits for its answer for :data:`PATIENCE_S` at
most, and not at all for one whose last answer took longer. An answer that comes later is stored when it comes, at
the middle of the time that the call itself took: that is when it was read, to half of that time. A call that has
not returned after :data:`HUNG_S` hangs. From then on a row of NaN marks the gap at each regular sample, and what
the call may yet return is left out, since nobody can tell when it was true; a counter loses nothing by that, its
next reading carries the whole difference.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from ergometry.core.ports import OpenSource, Sensor, Signal
from ergometry.core.series import HEALTH
from ergometry.meter.tally import Tally
from ergometry.meter.worker import AtOnce, InThread, Worker
from ergometry.sensors import reopen
from ergometry.store.writer import Writer

PATIENCE_S = 0.05
"""A sample waits at most this long for sensors that may block: longer than a healthy driver takes."""

HUNG_S = 5.0
"""A call that takes longer hangs. Busy management controllers take up to three seconds."""

LOST_SAMPLES = 3
"""After so many regular samples in a row without a reading a signal counts as failed."""

REOPEN_S = 10.0
"""A source of which nothing can be read any more is opened anew no sooner than this after the last time."""

HEALTH_S = 1.0
"""The state of boards is asked for no more often."""

SUSPENDED_S = 0.1
"""A suspension is at least this long: less may be the processor's time between reading two clocks."""

_EARLY = 0.9  # a sample is now and then a little sooner after the last than the period between them


class Clocks(NamedTuple):
    """Monotonic seconds, those at the run's origin, and for how many seconds the machine has been suspended so far."""

    monotonic_s: Callable[[], float]
    origin_s: float
    suspended_s: Callable[[], float]

    def now(self) -> float:
        """Return seconds since the run's origin."""
        return self.monotonic_s() - self.origin_s


Pids = Callable[[], Iterable[int]]


@runtime_checkable
class WantsPids(Protocol):
    """A sensor that tells processes apart: ``pids``, once it is set, returns those that are measured."""

    pids: Pids | None


class Reading(NamedTuple):
    """What a sensor gave: at which run time, and how long the call took."""

    t_s: float
    took_s: float
    values: tuple[float, ...]


class Health(NamedTuple):
    """Rows of :data:`ergometry.core.series.HEALTH`."""

    rows: Sequence[tuple[float, ...]]


class Reopened(NamedTuple):
    """The source as it was opened anew, None if it could not be."""

    source: OpenSource | None


class Closed(NamedTuple):
    """The sensor has let go of what it held."""


Answer = Reading | Health | Reopened | Closed


class Restart:
    """A column that, where it is a counter, starts anew after a suspension, as one does that was reset.

    What a counter rose by while the machine slept was used outside the run's time, and is not known apart from what
    was used awake since the reading before; some counters start at zero when the machine wakes, which may look like a
    wrap. So the values stored from then on are less by a constant, chosen so that no wrap explains the step: it falls
    to zero, or by half of its range. Readers take that for what it is, a reset across which nothing is known: at most
    one sampling period for each suspension.
    """

    __slots__ = ("_counts", "_less_j", "_stored_j", "_suspended_s", "_wrap_j")

    def __init__(self, signal: Signal) -> None:
        self._counts, self._wrap_j = signal.quantity == "energy_j", signal.wrap_j
        self._less_j, self._stored_j, self._suspended_s = 0.0, 0.0, math.inf

    def __call__(self, x: float, suspended_s: float) -> float:
        """Return the value to be stored for a reading that was made after so many suspended seconds."""
        if not self._counts or not math.isfinite(x):
            return x
        if suspended_s - self._suspended_s > SUSPENDED_S:
            self._less_j = x - (self._stored_j - 0.5 * self._wrap_j if self._wrap_j else 0.0)
        self._suspended_s = suspended_s
        if self._less_j:
            x = (x - self._less_j) % self._wrap_j if self._wrap_j else x - self._less_j
        self._stored_j = x
        return x


class Source:
    """A power source of a run.

    Attributes:
        name: the sensor's own.
        opened: the sensor, with the signals under which it is recorded.
        has_thread: whether the sensor is called by a thread of its own.
        late: whether it did not answer in time when last waited for.
        hung: whether a call of it has not returned for :data:`HUNG_S`.

    Args:
        opened: the source.
        writer: takes its rows and warnings.
        tally: takes its readings.
        clocks: the time.
        beside: returns all the sources that are open, among which its signals are placed when it is opened anew.
        pids: for sensors that tell processes apart.
    """

    def __init__(
        self,
        opened: OpenSource,
        writer: Writer,
        tally: Tally,
        clocks: Clocks,
        *,
        beside: Callable[[], list[OpenSource]] = list,
        pids: Pids | None = None,
    ) -> None:
        self.name = opened.sensor.source
        self.hung = False
        self.late = False
        self._writer, self._tally, self._clocks, self._beside, self._pids = writer, tally, clocks, beside, pids
        self.has_thread = opened.sensor.may_block
        self._worker: Worker[Answer] = InThread(f"sensor {self.name}") if self.has_thread else AtOnce()
        self._under_way: dict[type, float] = {}  # what was asked for and not answered, and since when
        self._regular = True  # whether the reading under way is one of the schedule
        self._suspended_s = 0.0
        self._asked_s = self._health_s = self._reopened_s = self._row_s = -math.inf
        self._declare(opened)

    def _declare(self, opened: OpenSource) -> None:
        self._hold(opened)
        self._writer.declare_samples(self.name, opened.signals)
        self._tally.declare(self.name, opened.signals)
        self._restarts = [Restart(signal) for signal in opened.signals]
        self._missed = [0] * len(opened.signals)

    def _hold(self, opened: OpenSource) -> None:
        self.opened = opened
        self._sensor: Sensor | None = opened.sensor
        if isinstance(opened.sensor, WantsPids):
            opened.sensor.pids = self._pids

    @property
    def busy(self) -> bool:
        """Say whether something asked of the sensor has not been answered."""
        return bool(self._under_way)

    def ask(self, t_s: float, suspended_s: float, *, regular: bool, last: bool = False) -> None:
        """Have the sensor read, unless that was a moment ago, or it has not come back from an earlier call.

        Args:
            t_s: run time.
            suspended_s: for how long the machine has been suspended so far.
            regular: whether the sample is one of the schedule, not one asked for at the edge of a window.
            last: whether none will follow: it is then taken however soon it comes, as the joules since the one before
                would be guessed.
        """
        if t_s - min(self._under_way.values(), default=t_s) > HUNG_S:
            self._hang(t_s)
            self._gap(t_s, regular)
        elif Reading in self._under_way:
            return  # it is slow: what it answers is stored when it comes
        elif Reopened in self._under_way:
            self._gap(t_s, regular)
        elif regular and min(self._missed, default=0) >= LOST_SAMPLES and t_s - self._reopened_s >= REOPEN_S:
            self._gap(t_s, regular)
            self._reopened_s = t_s
            beside = [source for source in self._beside() if source is not self.opened]
            self._start(Reopened, t_s, partial(_reopen, self._sensor, self.opened, beside))
            self._sensor = None
        elif self._sensor is None:
            self._gap(t_s, regular)
        elif last or t_s - self._asked_s >= _EARLY * self._sensor.min_period_s:
            self._regular, self._asked_s, self._suspended_s = regular, t_s, suspended_s
            self._start(Reading, t_s, partial(_read, self._sensor, len(self._missed), self._clocks))
            if regular and t_s - self._health_s >= _EARLY * HEALTH_S and Health not in self._under_way:
                self._health_s = t_s
                self._start(Health, t_s, partial(_health, self._sensor))

    def _start(self, kind: type, t_s: float, job: Callable[[], Answer]) -> None:
        self._under_way[kind] = t_s
        self._worker.ask(job)

    def take(self, until_s: float = -math.inf) -> None:
        """Store what the sensor has answered.

        Args:
            until_s: the run time until which a reading that is under way, or the end of closing, is waited for; no
                sensor that hangs is.
        """
        while (answer := self._worker.answer(self._wait_s(until_s))) is not None:
            del self._under_way[type(answer)]
            if self.hung:
                self.hung = False
                if answer != Reopened(None):
                    self._writer.notice("sensor.back", self.name, self._clocks.now())
            match answer:
                case Reading():
                    self._take_reading(answer)
                case Health():
                    t_s = self._clocks.now()
                    for row in answer.rows:
                        self._writer.add_row(HEALTH.name, HEALTH.columns, (t_s, *row))
                case Reopened(source) if source is not None:
                    self._go_on(source)
        self.late = self.late or (until_s > -math.inf and Reading in self._under_way)

    def _wait_s(self, until_s: float) -> float:
        waits = until_s > -math.inf and not self.hung and not self._under_way.keys().isdisjoint((Reading, Closed))
        return until_s - self._clocks.now() if waits else 0.0

    def end(self, t_s: float) -> None:
        """Say what is failing at the end of the run."""
        if Reading in self._under_way:
            self._hang(t_s)
        self._say_failed([j for j, n in enumerate(self._missed) if 0 < n < LOST_SAMPLES], t_s)

    def close(self, t_s: float) -> None:
        """Have the sensor let go of what it holds, once it has come back from what it does."""
        if self._sensor is not None:
            self._start(Closed, t_s, partial(_close, self._sensor))
        self._sensor = None

    def _take_reading(self, reading: Reading) -> None:
        self.late = reading.took_s > PATIENCE_S
        if reading.took_s > HUNG_S or reading.t_s <= self._row_s:
            return
        if self.late and self._clocks.suspended_s() - self._suspended_s > SUSPENDED_S:
            return  # on which side of the suspension it was made nobody knows
        stored = [restart(x, self._suspended_s) for restart, x in zip(self._restarts, reading.values, strict=True)]
        self._row(reading.t_s, stored)
        if any(self._missed) or not all(map(math.isfinite, reading.values)):
            self._follow(reading)

    def _row(self, t_s: float, values: Sequence[float]) -> None:
        self._row_s = t_s
        self._writer.add_sample(self.name, t_s, values)
        self._tally.update(self.name, t_s, values)

    def _gap(self, t_s: float, regular: bool) -> None:
        if regular:
            self._row(t_s, [math.nan] * len(self._missed))

    def _hang(self, t_s: float) -> None:
        if not self.hung:
            self.hung = True
            self._writer.notice("sensor.hung", self.name, t_s)

    def _follow(self, reading: Reading) -> None:
        """Count what each signal has missed, and say when it has failed or come back."""
        failed, back = [], []
        for j, x in enumerate(reading.values):
            before = self._missed[j]
            self._missed[j] = 0 if math.isfinite(x) else before + self._regular
            if before < LOST_SAMPLES <= self._missed[j]:
                failed.append(j)
            elif self._missed[j] < LOST_SAMPLES <= before:
                back.append(j)
        self._say_failed(failed, reading.t_s)
        if back:
            self._writer.notice("sensor.back", self._named(back), reading.t_s)

    def _say_failed(self, columns: Sequence[int], t_s: float) -> None:
        if columns:
            self._writer.notice("sensor.failed", self._named(columns), t_s)

    def _named(self, columns: Sequence[int]) -> str:
        if len(columns) == len(self._missed):
            return self.name
        return f"{self.name} ({', '.join(self.opened.signals[j].domain for j in columns)})"

    def _go_on(self, again: OpenSource) -> None:
        """Take up a source that was opened anew: under its signals if it has the same, else under others."""
        if list(map(_identity, again.signals)) == list(map(_identity, self.opened.signals)):
            self._hold(again)
        else:
            self._declare(again)
            self._writer.notice("sensor.back", f"{self.name}, with other signals", self._clocks.now())


def _identity(signal: Signal) -> tuple[object, ...]:
    return signal.domain, signal.quantity, signal.board, signal.wrap_j


# What a worker does, perhaps in a thread of its own: none of these raises, whatever the sensor does.


def _read(sensor: Sensor, width: int, clocks: Clocks) -> Reading:
    began_s = clocks.monotonic_s()
    try:
        values = tuple(sensor.read(began_s))
    except Exception:
        values = ()
    took_s = clocks.monotonic_s() - began_s
    if len(values) != width:
        values = (math.nan,) * width
    return Reading(began_s + 0.5 * took_s - clocks.origin_s, took_s, values)


def _health(sensor: Sensor) -> Health:
    try:
        return Health([tuple(row) for row in sensor.health() if len(row) == len(HEALTH.columns) - 1])
    except Exception:
        return Health(())


def _reopen(sensor: Sensor | None, source: OpenSource, beside: Sequence[OpenSource]) -> Reopened:
    if sensor is not None:
        _close(sensor)
    try:
        return Reopened(reopen(source, beside))
    except Exception:
        return Reopened(None)


def _close(sensor: Sensor) -> Closed:
    with contextlib.suppress(Exception):
        sensor.close()
    return Closed()
