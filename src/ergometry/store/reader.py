"""Reader: a stored run as plain data. What can be read is read; what cannot becomes a notice."""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ergometry.core.errors import ForeignFile
from ergometry.core.notices import Notice
from ergometry.core.ports import Signal
from ergometry.core.run import Run, SampleTable, Table
from ergometry.core.series import RESTATED
from ergometry.store import schema
from ergometry.store.opening import StoredFile, disk_bytes, first_process, heartbeat_s, opened, status_of

_ITEM_BYTES = 8
_RESTATED = {series.name for series in RESTATED}


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    columns: tuple[str, ...]
    signals: tuple[Signal, ...]
    source: str | None
    n: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    rowid: int
    seq: int
    n: int
    size_bytes: int


def load(path: Path) -> Run:
    """Return the run stored at ``path``, as it stands now: a run in progress may be read at any time.

    Times are run time in seconds. Without a stored end, ``status`` is ``running`` while the recorder lives, else
    ``interrupted``, and ``duration_s`` is the largest time seen. Unreadable parts are left out, with the notice
    ``store.damaged``. Of a run with several processes, the one that started first is read.

    Args:
        path: the run's folder, or one process's file in it.

    Raises:
        RunNotFound: there is no run there; ``erg ls`` lists the runs.
        ForeignFile: not a run of ergometry's, nothing in it is readable, or its schema is newer: upgrade.
        StoreError: it may not be read; give read permission.
    """
    file = first_process(path) if path.is_dir() else path
    with opened(file) as stored:
        return _read(stored, path if path.is_dir() else path.parent, disk_bytes(path))


def _read(stored: StoredFile, folder: Path, size_bytes: int) -> Run:
    damage: list[str] = []
    if stored.truncated:
        damage.append("the end of the file is missing")
    meta = stored.meta()
    if meta is None:
        damage.append("labels")
    kinds = _read_kinds(stored.connection, damage)
    if meta is None and not kinds:
        raise ForeignFile(
            expected="a run of ergometry's",
            got=f"{stored.path}, in which nothing is readable",
            remedy="restore it from a copy, or remove it with erg rm --force",
        )
    meta = meta or {}
    chunks, last_s = _list_chunks(stored.connection, damage)
    tables: dict[str, Table] = {}
    samples: list[SampleTable] = []
    for kind_id, kind in kinds.items():
        table = _read_table(stored, kind, chunks.get(kind_id, []), damage)
        if kind.source is None:
            tables[kind.name] = _latest(table) if kind.name in _RESTATED else table
        else:
            samples.append(SampleTable(kind.source, kind.signals, table))
    status = status_of(meta, stored.path)
    duration_s = heartbeat_s(meta) if "duration_s" in meta else max(heartbeat_s(meta), last_s)
    notices = _read_notices(stored.connection, damage)
    if status == "interrupted" and "status" not in meta:
        notices.append(Notice("run.interrupted", f"its last word was at {duration_s:.1f} s", duration_s))
    if damage:
        notices.append(Notice("store.damaged", ", ".join(dict.fromkeys(damage))))
    exit_status = meta.get("exit_status")
    return Run(
        path=folder,
        status=status,
        duration_s=duration_s,
        meta={key: value for key, value in meta.items() if key not in schema.OWN_KEYS},
        tables=tables,
        samples=tuple(samples),
        notices=tuple(notices),
        dropped=_count(meta, "dropped") + _count(meta, "lost_rows"),
        exit_status=exit_status if isinstance(exit_status, int) else None,
        disk_bytes=size_bytes,
        absent=tuple(source for source in _sources(meta) if not source.get("present")),
    )


def _count(meta: dict[str, Any], key: str) -> int:
    value = meta.get(key)
    return value if isinstance(value, int) else 0


def _sources(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the power sources that were looked for: ``source``, ``present``, ``why``, ``remedy``."""
    found = meta.get("sources")
    return [source for source in found if isinstance(source, dict)] if isinstance(found, list) else []


def _read_kinds(connection: sqlite3.Connection, damage: list[str]) -> dict[int, _Kind]:
    kinds: dict[int, _Kind] = {}
    try:
        for kind_id, name, columns, signals, source, n in connection.execute(
            "SELECT id, name, columns, signals, source, n FROM kinds ORDER BY id"
        ):
            try:
                named = tuple(str(column) for column in json.loads(columns))
                meters = tuple(Signal.from_json(signal) for signal in json.loads(signals or "[]"))
                if not named or (source is not None and len(named) != 1 + len(meters)):
                    raise ValueError(name)
                kinds[int(kind_id)] = _Kind(str(name), named, meters, source, int(n))
            except (TypeError, ValueError):
                damage.append(f"the columns of {name}")
    except schema.UNREADABLE:
        damage.append("the list of tables")
    return kinds


def _list_chunks(connection: sqlite3.Connection, damage: list[str]) -> tuple[dict[int, list[_Chunk]], float]:
    """Return the chunks of every kind in order, and the largest time in them; the blobs stay on the disk.

    The table is walked from both ends, so that one bad page does not hide all that lies behind it; not by
    its index, which may be what is damaged.
    """
    found: dict[int, tuple[int, _Chunk]] = {}
    last_s = 0.0
    for order in ("ASC", "DESC"):
        try:
            for rowid, kind, seq, n, t1_s, size_bytes in connection.execute(
                f"SELECT rowid, kind, seq, n, t1_s, length(data) FROM chunks NOT INDEXED ORDER BY rowid {order}"
            ):
                if all(isinstance(value, int) for value in (kind, seq, n, size_bytes)):
                    found[rowid] = kind, _Chunk(rowid, seq, n, size_bytes)
                if isinstance(t1_s, float) and math.isfinite(t1_s):
                    last_s = max(last_s, t1_s)
            break
        except schema.UNREADABLE:
            if order == "ASC":
                damage.append("the list of chunks")
    chunks: dict[int, list[_Chunk]] = {}
    for kind, chunk in found.values():
        chunks.setdefault(kind, []).append(chunk)
    for listed in chunks.values():
        listed.sort(key=lambda chunk: chunk.seq)
    return chunks, last_s


def _read_table(stored: StoredFile, kind: _Kind, chunks: list[_Chunk], damage: list[str]) -> Table:
    """Fill one preallocated array from the chunks: the rows are held once, and one chunk beside them."""
    width = len(kind.columns)
    row_bytes = width * _ITEM_BYTES
    # A damaged length must not ask for more memory than there is file.
    room = disk_bytes(stored.path) // row_bytes
    sound = [chunk for chunk in chunks if chunk.n * row_bytes == chunk.size_bytes and chunk.n <= room]
    rows = np.empty((min(sum(chunk.n for chunk in sound), room), width))
    filled = 0
    for chunk in sound:
        data = _read_blob(stored.connection, chunk.rowid)
        if len(data) == chunk.size_bytes and filled + chunk.n <= len(rows):
            rows[filled : filled + chunk.n] = np.frombuffer(data, dtype="<f8").reshape(chunk.n, width)
            filled += chunk.n
    if filled != kind.n:
        damage.append(f"{kind.n - filled} of {kind.n} rows of {kind.source or kind.name}")
    return Table(kind.columns, rows[:filled])


def _latest(table: Table) -> Table:
    """Return the table with the last row of each step alone."""
    steps = table.rows[:, 0]
    if len(steps) < 2 or np.all(np.diff(steps) > 0):
        return table
    last = len(steps) - 1 - np.unique(steps[::-1], return_index=True)[1]
    return Table(table.columns, table.rows[last])


def _read_blob(connection: sqlite3.Connection, rowid: int) -> bytes:
    """Return a chunk's bytes, none if they are unreadable or not what was written."""
    try:
        crc, data = connection.execute("SELECT crc, data FROM chunks WHERE rowid = ?", (rowid,)).fetchone()
    except (*schema.UNREADABLE, TypeError):
        return b""
    return data if isinstance(data, bytes) and zlib.crc32(data) == crc else b""


def _read_notices(connection: sqlite3.Connection, damage: list[str]) -> list[Notice]:
    notices: list[Notice] = []
    try:
        for code, detail, t_s in connection.execute("SELECT code, detail, t_s FROM notices ORDER BY rowid"):
            notices.append(Notice(str(code), str(detail), t_s if isinstance(t_s, float) else None))
    except schema.UNREADABLE:
        damage.append("warnings")
    return notices
