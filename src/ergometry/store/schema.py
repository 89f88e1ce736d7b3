"""The schema of a stored process: tables, version and migrations. Standard library only.

A file is SQLite with ``PRAGMA application_id`` = :data:`APPLICATION_ID` and ``PRAGMA user_version`` =
:data:`VERSION`. Its four tables:

``meta(key, value)``
    One JSON value per key. The labels of :class:`~ergometry.core.run.Run` and, for the store itself, those of
    :data:`OWN_KEYS`: ``recorder`` (who writes: pid, start time, host, boot), ``heartbeat`` (``{"t_s": run time}``
    of the newest transaction), ``status``, ``exit_status`` and ``duration_s`` (present once finished),
    ``dropped`` (records that the ring refused) and ``lost_rows`` (rows given up while nothing could be written).
``kinds(id, name, columns, signals, source, n)``
    One table of ``n`` rows each: ``columns`` a JSON list of names, ``signals`` a JSON list of
    :class:`~ergometry.core.ports.Signal` and ``source`` for a sensor's samples, NULL for the other tables.
``chunks(kind, seq, t0_s, t1_s, n, crc, data)``
    ``n`` rows of one kind: ``data`` is row-major little-endian float64, ``crc`` its CRC-32 (SQLite itself does
    not notice a changed byte in a blob), ``t0_s`` and ``t1_s`` the first and last run time in it, if it has any.
``notices(code, detail, t_s)``
    Warnings, once for each code and detail.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

APPLICATION_ID = 0x6572676F
"""Marks a SQLite file as ours: the bytes of ``ergo``."""

VERSION = 1
"""The schema that is written. Any older one is read through :data:`MIGRATIONS`."""

MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""Version v -> the function that turns a copy of a file of version v into one of version v + 1.

It changes a private copy, never the user's file: a run stays readable by the ergometry that made it.
"""

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises: the second when SQLite's own message quotes damaged bytes."""

OWN_KEYS = frozenset({"recorder", "heartbeat", "status", "exit_status", "duration_s", "dropped", "lost_rows", "absent"})
"""The keys of ``meta`` that are the store's own and not labels of the run."""

DDL = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, columns TEXT NOT NULL, signals TEXT, source TEXT, n INTEGER NOT NULL
);
CREATE TABLE chunks (
    kind INTEGER NOT NULL, seq INTEGER NOT NULL, t0_s REAL, t1_s REAL,
    n INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (kind, seq)
);
CREATE TABLE notices (code TEXT NOT NULL, detail TEXT NOT NULL, t_s REAL, PRIMARY KEY (code, detail));
"""


def create(connection: sqlite3.Connection) -> None:
    """Make the empty tables, in one transaction."""
    connection.executescript(f"BEGIN IMMEDIATE; {DDL} COMMIT;")


def write_meta(connection: sqlite3.Connection, values: Mapping[str, str]) -> None:
    """Set keys of ``meta``; the values are JSON text already."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return ``meta`` as plain values; a value that is not JSON is left out."""
    found: dict[str, Any] = {}
    for key, text in connection.execute("SELECT key, value FROM meta"):
        try:
            found[str(key)] = json.loads(text)
        except (TypeError, ValueError):
            continue
    return found


def migrated(connection: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Return a connection that shows the file in the present schema: itself, or a migrated copy in memory.

    Args:
        connection: an open file of ours; closed when a copy takes its place.
        version: the file's ``user_version``, at most :data:`VERSION`.
    """
    if version == VERSION:
        return connection
    copy = sqlite3.connect(":memory:", isolation_level=None)
    connection.backup(copy)
    connection.close()
    for step in range(version, VERSION):
        MIGRATIONS[step](copy)
    return copy
