"""The sampler: owns a run's power sources, has them read when the recorder says so, and stores what they say.

Whatever a source does, the others are read on time and the recorder goes on: sensors that may block, and opening the
sources, have threads of their own (:mod:`ergometry.meter.source` has what happens to one that does not answer).
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import asdict
from typing import NamedTuple

from ergometry.core.ports import Availability, Machine, OpenSource
from ergometry.meter.source import PATIENCE_S, SUSPENDED_S, Clocks, Pids, Source
from ergometry.meter.tally import Tally
from ergometry.meter.worker import InThread
from ergometry.sensors import MODELS, SELECTION, open_sensors
from ergometry.store.writer import Writer

OPENING_S = 2.0
"""The script waits at most this long for power sources that open slowly; they are read once they are open."""

GIVE_UP_S = 30.0
"""Sources that are not open by then are done without. Boards whose driver must first be loaded take seconds each."""

LAST_S = 0.5
"""The end of a run waits at most this long for the last readings, and as long again for sensors to close."""

ELSEWHERE = frozenset({"powermetrics"})
"""Sources of other systems than Linux: nobody misses them."""

_REFUSED = re.compile("permission|cannot be read|cannot read", re.IGNORECASE)


class Opened(NamedTuple):
    """What looking for power sources found."""

    sources: list[OpenSource]
    found: list[Availability]


def suspended_s() -> float:
    """Return for how long the machine has been suspended since it booted, s; constant where that cannot be told.

    Linux counts suspended time in CLOCK_BOOTTIME and not in CLOCK_MONOTONIC, which is the clock of runs. Steps of
    the wall clock move neither.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    for _ in range(5):
        before_s = time.monotonic()
        boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        after_s = time.monotonic()
        if after_s - before_s < 0.01 * SUSPENDED_S:
            break  # else the processor was taken away in between
    return boot_s - after_s


class Sampler:
    """The power sources of a run, and the ``tally`` of what they read.

    Args:
        writer: takes the rows and the warnings; it is used only where a method of the sampler is called.
        clocks: the time.
        pids: returns the measured processes, for sensors that tell processes apart.
    """

    def __init__(self, writer: Writer, clocks: Clocks, pids: Pids | None = None) -> None:
        self.tally = Tally()
        self._writer, self._clocks, self._pids = writer, clocks, pids
        self._sources: list[Source] = []
        self._opening: InThread[Opened] | None = None
        self._opening_s = 0.0
        self._gave_up = False
        self._suspended_s = clocks.suspended_s()

    def open(self) -> None:
        """Open the machine's power sources; those not open after :data:`OPENING_S` are taken up when they are."""
        self._opening, self._opening_s = InThread("opening"), self._clocks.now()
        self._opening.ask(_open)
        self._take_opened(OPENING_S)

    def sample(self, *, regular: bool = True) -> None:
        """Have every source read that may be read now, and store what answers within :data:`PATIENCE_S`.

        Args:
            regular: whether the sample is one of the schedule, not one asked for at the edge of a window.
        """
        self._ask(regular=regular)
        until_s = self._clocks.now() + PATIENCE_S
        for source in self._sources:
            source.take(-math.inf if source.late else until_s)

    def collect(self) -> None:
        """Store what has come late; never waits."""
        if self._opening is not None:
            self._take_opened(0.0)
        for source in self._sources:
            if source.has_thread:
                source.take()

    def finish(self) -> None:
        """Take the last readings, and say what is failing; waits up to :data:`LAST_S` for slow sources."""
        self._ask(regular=True, last=True)
        until_s = self._clocks.now() + LAST_S
        for source in self._sources:
            source.take(until_s)
            source.end(self._clocks.now())
        if self._opening is not None:
            self._say_not_open()

    def close(self) -> bool:
        """Close the sources, all within :data:`LAST_S`; say whether they are, so that no thread is left in a call."""
        for source in self._sources:
            source.close(self._clocks.now())
        until_s = self._clocks.now() + LAST_S
        for source in self._sources:
            source.take(until_s)
        return self._opening is None and not any(source.busy for source in self._sources)

    def _ask(self, *, regular: bool, last: bool = False) -> None:
        self.collect()
        suspended_s = self._clocks.suspended_s()
        if suspended_s - self._suspended_s > SUSPENDED_S:
            self._writer.notice("machine.suspended", f"for {suspended_s - self._suspended_s:.0f} s", self._clocks.now())
        self._suspended_s = suspended_s
        for source in self._sources:
            source.ask(self._clocks.now(), suspended_s, regular=regular, last=last)

    def _take_opened(self, wait_s: float) -> None:
        if self._opening is None or self._gave_up:
            return
        opened = self._opening.answer(wait_s)
        if opened is not None:
            self._opening = None
        elif self._clocks.now() - self._opening_s > GIVE_UP_S:
            self._gave_up = True
            self._say_not_open()
            environ = {**os.environ, SELECTION: ",".join(MODELS)}
            opened = Opened(*open_sensors(Machine.here()._replace(environ=environ)))
        else:
            return
        self._take_up(opened)

    def _say_not_open(self) -> None:
        self._writer.notice("sensor.hung", "looking for power sources", self._clocks.now())

    def _take_up(self, opened: Opened) -> None:
        """Read these sources from here on."""
        self._say_found(opened)
        for source in opened.sources:
            self._sources.append(
                Source(
                    source,
                    self._writer,
                    self.tally,
                    self._clocks,
                    beside=lambda: [other.opened for other in self._sources],
                    pids=self._pids,
                )
            )
        # Those with a thread are asked first: they are read while the others are.
        self._sources.sort(key=lambda source: not source.has_thread)

    def _say_found(self, opened: Opened) -> None:
        now_s = self._clocks.now()
        self._writer.put_meta("sources", [asdict(availability) for availability in opened.found])
        for source in opened.found:
            if source.remedy and _REFUSED.search(source.why):
                self._writer.notice("sensor.unreadable", f"{source.why}; {source.remedy}", now_s)
        modelled = all(signal.provenance == "modelled" for source in opened.sources for signal in source.signals)
        hardware = (a for a in opened.found if not a.present and a.source not in {*MODELS, *ELSEWHERE})
        whys = [f"{a.source}: {a.why}" for a in hardware]
        if modelled and whys:
            self._writer.notice("sensor.absent", "; ".join(whys), now_s)


def _open() -> Opened:
    try:
        return Opened(*open_sensors())
    except Exception as error:  # a fault of ours: the run goes on without joules
        return Opened([], [Availability("sensors", False, f"looking for them failed: {error!r}", "report this")])
