"""Writer: one process's file, written by its recorder. Standard library only: it opens within the recorder's 15 ms.

Rows are kept in memory until :meth:`Writer.commit`, which stores all of them in one transaction, a chunk per
table. What cannot be stored (a full disk) stays in memory and is tried again. So that a long run at a low rate
does not become a million little chunks, a commit merges the newest chunks as a binary counter carries: a chunk
that is no larger than what follows it joins it, up to :data:`CHUNK_BYTES`; each byte is rewritten log2(n) times.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ergometry.core.errors import StoreError
from ergometry.core.ports import Signal
from ergometry.store import schema
from ergometry.store.folders import create_run_folder, new_run_id, process_file
from ergometry.store.liveness import identify

__all__ = ["CHUNK_BYTES", "KEEP_BYTES", "Writer", "create_run_folder", "new_run_id", "process_file"]

CHUNK_BYTES = 64 * 1024
"""Chunks are merged up to this size; one commit may write a larger one."""

KEEP_BYTES = 64 * 1024 * 1024
"""Rows that cannot be stored are kept up to this many bytes; then the oldest go, and are counted."""

_BUSY_S = 0.5  # how long a reader may hold up a transaction before it is put off to the next


class _Kind:
    """One table of rows: its declaration, and the rows that are not stored yet."""

    __slots__ = ("columns", "id", "name", "rows", "signals", "source", "stored", "times")

    def __init__(self, kind_id: int, name: str, columns: Sequence[str]) -> None:
        self.id, self.name, self.columns = kind_id, name, tuple(columns)
        self.signals: tuple[Signal, ...] | None = None
        self.source: str | None = None
        self.stored = False
        self.rows = array("d")
        # The columns that bound a row in time, if the table has such.
        self.times = tuple(i for i, column in enumerate(self.columns) if column in ("t_s", "t0_s", "t1_s"))

    def declaration(self) -> tuple[int, str, str, str | None, str | None]:
        signals = None if self.signals is None else json.dumps([signal.to_json() for signal in self.signals])
        return self.id, self.name, json.dumps(self.columns), signals, self.source

    def pack(self) -> tuple[int, float | None, float | None, bytes]:
        """Return (rows, first time, last time, bytes) of what is not stored yet."""
        width = len(self.columns)
        times = [t for i in self.times for t in self.rows[i::width] if math.isfinite(t)]
        rows = self.rows
        if sys.byteorder == "big":
            rows = array("d", rows)
            rows.byteswap()
        return len(rows) // width, min(times, default=None), max(times, default=None), rows.tobytes()


class Writer:
    """The file of one process, open for writing from one thread.

    Nothing reaches the disk before :meth:`commit`. After :meth:`finish` the main file alone is complete, and opens
    from a read-only folder. ``lost_rows`` counts the rows that had to be given up.

    Raises:
        StoreError: the file exists already or cannot be created; choose another folder with ``--store``.
    """

    def __init__(self, path: Path, *, keep_bytes: int = KEEP_BYTES) -> None:
        self.path = path
        self.lost_rows = 0
        self._keep_bytes, self._kept_bytes = keep_bytes, 0
        self._kinds: dict[str, _Kind] = {}
        self._sources: dict[str, _Kind] = {}
        self._meta: dict[str, str] = {}
        self._notices: dict[tuple[str, str], float | None] = {}
        self._connection: sqlite3.Connection | None = self._create()

    def _create(self) -> sqlite3.Connection:
        connection = None
        try:
            self.path.open("xb").close()
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            # Where a file system cannot map shared memory, SQLite keeps its rollback journal: as safe, slower.
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            schema.create(connection)
            schema.write_meta(connection, {"recorder": json.dumps(identify(os.getpid()))})
        except (OSError, sqlite3.Error) as error:
            if connection is not None:
                connection.close()
                self.path.unlink(missing_ok=True)
            raise self._refusal(error) from error
        return connection

    def put_meta(self, key: str, value: Any) -> None:
        """Set a label of the run, such as ``name`` or ``tags``; a later value takes its place.

        Args:
            key: one of those of :class:`~ergometry.core.run.Run` or :mod:`ergometry.store.schema`.
            value: anything JSON can hold; what it cannot is stored as its ``str``.
        """
        self._meta[key] = json.dumps(value, default=str)

    def add_row(self, series_name: str, columns: Sequence[str], values: Sequence[float]) -> None:
        """Add one row to the table ``series_name``.

        Args:
            series_name: of :mod:`ergometry.core.series`.
            columns: its columns; they count at the first row of the table.
            values: (columns,) float64, NaN where not known.

        Raises:
            StoreError: not one value per column; pass the whole row.
        """
        kind = self._kinds.get(series_name)
        if kind is None:
            kind = self._kinds[series_name] = self._declare(series_name, columns)
        self._keep(kind, values)

    def add_rows(self, series_name: str, columns: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
        """Add several rows, as :meth:`add_row` does."""
        for values in rows:
            self.add_row(series_name, columns, values)

    def declare_samples(self, source: str, signals: Sequence[Signal]) -> None:
        """Say what a sensor's columns are. Saying the same again changes nothing; other signals begin a new table."""
        known = self._sources.get(source)
        if known is not None and known.signals == tuple(signals):
            return
        columns = ("t_s", *(f"c{i}" for i in range(len(signals))))
        kind = self._sources[source] = self._declare(f"samples-{source}", columns)
        kind.signals, kind.source = tuple(signals), source
        self._kinds[f"{kind.name}#{kind.id}"] = kind

    def add_sample(self, source: str, t_s: float, values: Sequence[float]) -> None:
        """Add one reading of a sensor.

        Args:
            source: as declared by :meth:`declare_samples`.
            t_s: run time in seconds.
            values: (signals,) SI values, NaN where the read failed.

        Raises:
            StoreError: the source was not declared, or not one value per signal; declare it first.
        """
        if source not in self._sources:
            raise StoreError(expected="a declared source", got=source, remedy="call declare_samples first")
        self._keep(self._sources[source], (t_s, *values))

    def notice(self, code: str, detail: str = "", t_s: float | None = None) -> None:
        """Add a warning of :mod:`ergometry.core.notices` at run time ``t_s``; the same one again changes nothing."""
        printable = detail.encode("utf-8", "backslashreplace").decode()  # file names may hold lone surrogates
        self._notices.setdefault((code, printable), t_s)

    def commit(self, t_s: float | None = None) -> None:
        """Store everything added since the last time, in one transaction.

        Args:
            t_s: run time in seconds, stored as the heartbeat: a run that is cut off lasted at least so long.

        Raises:
            StoreError: it could not be written (full disk, say). Everything is kept, within
                :data:`KEEP_BYTES`, and a later commit may succeed: free some space.
        """
        if t_s is not None:
            self.put_meta("heartbeat", {"t_s": t_s})
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for kind in self._kinds.values():
                self._store(connection, kind)
            schema.write_meta(connection, self._meta)
            notices = [(code, detail, t) for (code, detail), t in self._notices.items()]
            connection.executemany("INSERT OR IGNORE INTO notices VALUES (?, ?, ?)", notices)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # SQLite may have done so itself
            raise self._refusal(error) from error
        for kind in self._kinds.values():
            kind.stored = True
            kind.rows = array("d")
        self._meta.clear()
        self._notices.clear()
        self._kept_bytes = 0

    def finish(self, status: str, exit_status: int | None, duration_s: float) -> None:
        """Store the rest and the run's end, fold the write-ahead log into the main file, and close.

        If there is no room for the rest, the end alone is stored, with the count of rows lost and a notice.

        Args:
            status: one of :data:`ergometry.core.run.STATUSES`.
            exit_status: the script's own.
            duration_s: the run's length in seconds.

        Raises:
            StoreError: not even the end could be written; the run will read as interrupted.
        """
        for key, value in (("status", status), ("exit_status", exit_status), ("duration_s", duration_s)):
            self.put_meta(key, value)
        try:
            try:
                self.commit(duration_s)
            except StoreError as error:
                self._give_up_rows()
                self.notice("store.unwritable", error.got, duration_s)
                self.commit(duration_s)
            connection = self._open()
            # A reader may hold the log; it is complete all the same, and readers know to look for it.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            self.close()

    def close(self) -> None:
        """Close the file without storing what is not committed; calling it twice is harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(expected="an open file", got=f"{self.path}, closed", remedy="start a new run")
        return self._connection

    def _refusal(self, error: OSError | sqlite3.Error) -> StoreError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return StoreError(
            expected="a file that can be written to",
            got=f"{self.path} ({reason})",
            remedy="free some space or choose another folder with --store",
        )

    def _declare(self, name: str, columns: Sequence[str]) -> _Kind:
        return _Kind(len(self._kinds) + 1, name, columns)

    def _keep(self, kind: _Kind, values: Sequence[float]) -> None:
        if len(values) != len(kind.columns):
            raise StoreError(
                expected=f"{len(kind.columns)} values for a row of {kind.name}",
                got=str(len(values)),
                remedy="pass one per column",
            )
        kind.rows.extend(values)
        self._kept_bytes += 8 * len(values)
        if self._kept_bytes > self._keep_bytes:
            self._drop(max(self._kinds.values(), key=lambda k: len(k.rows)), half=True)

    def _give_up_rows(self) -> None:
        for kind in self._kinds.values():
            self._drop(kind, half=False)

    def _drop(self, kind: _Kind, *, half: bool) -> None:
        width = len(kind.columns)
        n = len(kind.rows) // width
        n = (n + 1) // 2 if half else n  # halves, so that dropping costs little per row
        if not n:
            return
        del kind.rows[: n * width]
        self._kept_bytes -= 8 * n * width
        self.lost_rows += n
        self.put_meta("lost_rows", self.lost_rows)

    @staticmethod
    def _store(connection: sqlite3.Connection, kind: _Kind) -> None:
        """Write the kind's declaration and rows, merged with the chunks before them that are no larger."""
        if not kind.stored:
            connection.execute("INSERT INTO kinds VALUES (?, ?, ?, ?, ?, 0)", kind.declaration())
        if not kind.rows:
            return
        n, t0_s, t1_s, data = kind.pack()
        connection.execute("UPDATE kinds SET n = n + ? WHERE id = ?", (n, kind.id))
        seq = 0
        newest = "SELECT seq, n, t0_s, t1_s, length(data) FROM chunks WHERE kind = ? ORDER BY seq DESC LIMIT 1"
        while before := connection.execute(newest, (kind.id,)).fetchone():
            if before[4] > len(data) or before[4] + len(data) > CHUNK_BYTES:
                seq = before[0] + 1
                break
            seq = before[0]
            (older,) = connection.execute(
                "SELECT data FROM chunks WHERE kind = ? AND seq = ?", (kind.id, seq)
            ).fetchone()
            connection.execute("DELETE FROM chunks WHERE kind = ? AND seq = ?", (kind.id, seq))
            n, data = n + before[1], older + data
            t0_s, t1_s = _extreme(min, before[2], t0_s), _extreme(max, before[3], t1_s)
        row = (kind.id, seq, t0_s, t1_s, n, zlib.crc32(data), data)
        connection.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _extreme(of: Any, a: float | None, b: float | None) -> float | None:
    return of(a, b) if a is not None and b is not None else (b if a is None else a)
