"""Polling: reading every open source for a few seconds, to see what it really does on this machine."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ergometry.core.ports import OpenSource, Sensor, Signal

SHORTEST_S = 0.5e-3
"""The time between two readings of a source that sets no longer one. A counter that moves every millisecond is seen
to, at a few per cent of a core."""

GRACE_S = 5.0
"""A source that has not answered for so long, after the look should have ended, hangs."""

Clock = Callable[[], float]
Sleep = Callable[[float], None]


class Poll(NamedTuple):
    """The readings of one source: when (s), what (one value per signal), and how long each took (s)."""

    every_s: float
    t_s: tuple[float, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()
    took_s: tuple[float, ...] = ()
    why: str = ""

    def of(self, column: int) -> tuple[list[float], list[float]]:
        """Return the times and values of one signal, less its failed readings."""
        good = [(t, row[column]) for t, row in zip(self.t_s, self.values, strict=True) if math.isfinite(row[column])]
        return [t for t, _ in good], [x for _, x in good]


class Updates(NamedTuple):
    """How often a value changed: the mean time between two changes (s; None where fewer than two were seen).

    ``at_most``: nearly every reading was a new one, so that the source may be faster than it was read.
    """

    period_s: float | None = None
    at_most: bool = False


def poll(sensor: Sensor, seconds: float, now: Clock = time.perf_counter, sleep: Sleep = time.sleep) -> Poll:
    """Read one source for so long, twice at least, and no faster than it allows."""
    every_s = max(sensor.min_period_s, SHORTEST_S)
    times: list[float] = []
    values: list[tuple[float, ...]] = []
    took: list[float] = []
    end_s = now() + seconds
    while True:
        before_s = now()
        try:
            row = sensor.read(before_s)
        except Exception as error:  # a port's promise broken, which is what a doctor should find
            return Poll(every_s, tuple(times), tuple(values), tuple(took), f"reading it raised {error!r}")
        after_s = now()
        times.append((before_s + after_s) / 2)
        values.append(row)
        took.append(after_s - before_s)
        if len(times) > 1 and after_s + every_s > end_s:
            return Poll(every_s, tuple(times), tuple(values), tuple(took))
        sleep(max(every_s - took[-1], 0.0))


def poll_all(sources: Sequence[OpenSource], seconds: float, grace_s: float = GRACE_S) -> list[Poll]:
    """Read every source at once, each in a thread of its own, so that one that hangs holds up no other.

    Its thread is then left behind, and its poll says so.
    """
    polls: list[Poll | None] = [None] * len(sources)

    def look(number: int) -> None:
        polls[number] = poll(sources[number].sensor, seconds)

    threads = [threading.Thread(target=look, args=(number,), daemon=True) for number in range(len(sources))]
    for thread in threads:
        thread.start()
    longest_s = max([seconds, *(source.sensor.min_period_s for source in sources)])
    end_s = time.monotonic() + longest_s + grace_s
    for thread in threads:
        thread.join(max(end_s - time.monotonic(), 0.0))
    hangs = f"it did not answer within {grace_s:g} s"
    return [
        found or Poll(source.sensor.min_period_s, why=hangs)
        for found, source in zip(tuple(polls), sources, strict=True)
    ]


def updates(t_s: Sequence[float], x: Sequence[float]) -> Updates:
    """Return how often a value changes.

    The mean between the first change and the last: each is seen late by a part of the reading's interval, which
    a mean over many forgets.

    >>> updates([0, 1, 2, 3, 4, 5, 6], [5, 5, 6, 6, 7, 7, 8])
    Updates(period_s=2.0, at_most=False)
    """
    changes = [t_s[i] for i in range(1, len(x)) if x[i] != x[i - 1]]
    if len(changes) < 2:
        return Updates()
    return Updates((changes[-1] - changes[0]) / (len(changes) - 1), len(changes) >= 0.95 * (len(x) - 1))


def mean_power_w(t_s: Sequence[float], x: Sequence[float], signal: Signal) -> float | None:
    """Return the mean power over the readings, calibrated, W; None where they cannot tell.

    Of a counter it is what was counted between its first change and its last, so that what its updates are late
    by is in neither; wraps are carried, falls and jumps beyond ``max_power_w`` left out.
    """
    if signal.quantity == "power_w":
        return signal.gain * math.fsum(x) / len(x) if x else None
    changes = [i for i in range(1, len(x)) if x[i] != x[i - 1]]
    if len(changes) < 2:
        return None
    first, last = changes[0], changes[-1]
    energy_j = seconds = 0.0
    for i in range(first + 1, last + 1):
        step_j, step_s = x[i] - x[i - 1], t_s[i] - t_s[i - 1]
        if step_j < 0 and signal.wrap_j is not None:
            step_j += signal.wrap_j
        # A second of allowance: counters update late, so one interval may carry a little of the last.
        if step_j < 0 or (signal.max_power_w is not None and step_j > signal.max_power_w * (step_s + 1.0)):
            continue
        energy_j, seconds = energy_j + step_j, seconds + step_s
    return signal.gain * energy_j / seconds if seconds > 0 else None
