"""Replay: a stored trace played as a sensor, in step with the clock from the first reading on.

``ERGOMETRY_REPLAY`` names a run's folder, one process's file in it, what ``erg export --to csv`` wrote (a folder or
one file), or the JSON of a trace (``Trace.to_json``) or of a list of them. As a sensor would, it gives
the newest value that there was at the time, not one in between; it plays once, and after its end every reading is NaN.
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ergometry.core.errors import ErgError, SensorError
from ergometry.core.ports import Availability, Machine, Signal

VARIABLE = "ERGOMETRY_REPLAY"

_GRAIN_S = 1e-6
"""Times closer than this are one: what taking the clock's own zero off them may round away."""

_REMEDY = f"set {VARIABLE} to a run's folder, to what erg export --to csv wrote, or to a trace as JSON"


class Recording(NamedTuple):
    """Readings of one source: signals, times (s, increasing), and one column of values per signal."""

    signals: tuple[Signal, ...]
    t_s: Sequence[float]
    columns: tuple[Sequence[float], ...]


class Replay:
    """Recordings as a sensor: their signals, of a domain and quantity each the longest recording's.

    Args:
        recordings: what to play.
        name: what it is, for the method.
    """

    source = "replay"
    min_period_s = 0.0
    may_block = False

    def __init__(self, recordings: Sequence[Recording], name: str) -> None:
        self._origin_s: float | None = None
        self._first_s = min(recording.t_s[0] for recording in recordings)
        tracks: dict[tuple[str, str], tuple[Signal, Sequence[float], Sequence[float]]] = {}
        for recording in sorted(recordings, key=lambda recording: -len(recording.t_s)):
            for signal, column in zip(recording.signals, recording.columns, strict=True):
                tracks.setdefault((signal.domain, signal.quantity), (signal, recording.t_s, column))
        self._tracks: list[tuple[Sequence[float], Sequence[float]]] | None
        self._tracks = [(t_s, column) for _, t_s, column in tracks.values()]
        self.signals = tuple(
            replace(
                signal,
                method=f"replay of {name}: {signal.method}",
                # What is between two stored readings is as old as the first.
                update_period_s=max(signal.update_period_s, _interval_s(t_s)),
            )
            for signal, t_s, _ in tracks.values()
        )

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return what each signal read at this time of the recording; NaN where it had failed, or is over."""
        if self._tracks is None:
            return (math.nan,) * len(self.signals)
        if self._origin_s is None:
            self._origin_s = now_s - self._first_s
        at_s = now_s - self._origin_s + _GRAIN_S
        return tuple(_at(t_s, column, at_s) for t_s, column in self._tracks)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: the state of boards is not replayed."""
        return ()

    def close(self) -> None:
        """Let go of the recording; again is harmless."""
        self._tracks = None


def _at(t_s: Sequence[float], column: Sequence[float], at_s: float) -> float:
    return column[bisect_right(t_s, at_s) - 1] if t_s[0] <= at_s <= t_s[-1] + 2 * _GRAIN_S else math.nan


def _interval_s(t_s: Sequence[float]) -> float:
    """Return the median time between readings."""
    intervals = sorted(b - a for a, b in pairwise(t_s))
    return intervals[len(intervals) // 2] if intervals else 0.0


def open_replay(machine: Machine) -> tuple[Replay | None, Availability]:
    """Open the recording that ``ERGOMETRY_REPLAY`` names.

    Returns:
        The sensor (None where there is no recording) and its availability.
    """
    path = Path(machine.environ.get(VARIABLE, ""))
    if path == Path():
        return None, Availability("replay", present=False, why=f"{VARIABLE} is not set", remedy=_REMEDY)
    try:
        recordings = recordings_of(path)
    except ErgError as error:
        return None, Availability("replay", present=False, why=error.got, remedy=error.remedy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, Availability("replay", present=False, why=f"{path} holds no recording: {error}", remedy=_REMEDY)
    return Replay(recordings, path.name), Availability("replay", present=True, why=f"plays {path}")


def recordings_of(path: Path) -> list[Recording]:
    """Return the recordings in a folder or file, those with at least one reading.

    Raises:
        ErgError: there are none, or the file is not one of ours; what to do.
        OSError: it cannot be read.
        ValueError, KeyError, TypeError: it is not what its name says.
    """
    if path.suffix == ".json":
        found = list(_of_json(json.loads(path.read_text(encoding="utf-8"))))
    elif path.suffix == ".csv":
        found = [_of_csv(path)]
    elif path.is_dir() and (exported := sorted(path.glob("samples-*.csv"))):
        found = [_of_csv(file) for file in exported]
    else:
        found = list(_of_store(path))
    found = [recording for recording in map(_in_order, found) if len(recording.t_s) and recording.signals]
    if not found:
        raise SensorError(expected="a recording with readings", got=f"none in {path}", remedy=_REMEDY)
    return found


def _in_order(recording: Recording) -> Recording:
    """Leave out readings whose time is not known or does not increase."""
    kept: list[int] = []
    last_s = -math.inf
    for i, t_s in enumerate(recording.t_s):
        if last_s < t_s < math.inf:
            kept.append(i)
            last_s = t_s
    if len(kept) == len(recording.t_s):
        return recording
    columns = tuple(array("d", [column[i] for i in kept]) for column in recording.columns)
    return recording._replace(t_s=array("d", [recording.t_s[i] for i in kept]), columns=columns)


def _of_json(stored: Any) -> Iterator[Recording]:
    for trace in stored if isinstance(stored, list) else [stored]:
        t_s, e_j = array("d", trace["t_s"]), array("d", trace["e_j"])
        if len(t_s) != len(e_j):
            raise ValueError(f"{len(t_s)} times and {len(e_j)} values")
        # A trace is unwrapped, calibrated and integrated: whatever its signal was, this is a counter of its own.
        signal = replace(Signal.from_json(trace["signal"]), quantity="energy_j", wrap_j=None, gain=1.0, board="")
        yield Recording((signal,), t_s, (e_j,))


def _of_csv(path: Path) -> Recording:
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header[:1] != ["t_s"] or len(header) < 2:
            raise ValueError("its first line is not 't_s,<domain> <quantity>,…'")
        columns = [array("d") for _ in header]
        try:
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    column.append(float(value))
        except csv.Error as error:
            raise ValueError(error) from error
    known = _labelled(path).get(path.stem.removeprefix("samples-"), [])
    if len(known) == len(header) - 1:
        signals = tuple(Signal.from_json(signal) for signal in known)
    else:
        signals = tuple(_plain_signal(label) for label in header[1:])
    return Recording(signals, columns[0], tuple(columns[1:]))


def _labelled(path: Path) -> Mapping[str, list[dict[str, Any]]]:
    """Return the signals by source that were exported beside a table, if they were."""
    try:
        labels = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
        return dict(labels["samples"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _plain_signal(label: str) -> Signal:
    domain, _, quantity = label.partition(" ")
    quantity = quantity.partition(" ")[0]
    if quantity not in ("energy_j", "power_w"):
        raise ValueError(f"the column {label!r} is not '<domain> energy_j' or '<domain> power_w'")
    return Signal(domain, quantity, "assumed", "of which no more is known")


def _of_store(path: Path) -> Iterator[Recording]:
    # Imported when a run is played: reading files costs a recorder's start more than it may take.
    from ergometry.store.opening import first_process, opened

    with opened(first_process(path) if path.is_dir() else path) as stored:
        kinds = stored.connection.execute("SELECT id, signals FROM kinds WHERE source IS NOT NULL ORDER BY id")
        for kind, listed in kinds.fetchall():
            signals = tuple(Signal.from_json(signal) for signal in json.loads(listed))
            rows = _rows(stored.connection, kind)
            width = 1 + len(signals)
            yield Recording(signals, rows[::width], tuple(rows[i::width] for i in range(1, width)))


def _rows(connection: Any, kind: int) -> array[float]:
    """Return the values of one table, row by row; chunks that are not what was written are left out."""
    import sys
    import zlib

    rows = array("d")
    query = "SELECT crc, data FROM chunks WHERE kind = ? ORDER BY seq"
    for crc, data in connection.execute(query, (kind,)):
        if isinstance(data, bytes) and zlib.crc32(data) == crc and len(data) % rows.itemsize == 0:
            rows.frombytes(data)
    if sys.byteorder == "big":
        rows.byteswap()
    return rows
