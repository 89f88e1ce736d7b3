"""Opening a stored process for reading: in use, read-only, cut short, of an older schema or not ours at all.

No NumPy here: listing a thousand runs reads their labels alone.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ergometry.core.errors import ErgError, ForeignFile, RunNotFound, StoreError
from ergometry.store import schema
from ergometry.store.folders import PROCESS_PATTERN
from ergometry.store.liveness import is_alive, is_fresh

_COPY_TRIES = 3
_LOGS = ("-wal", "-journal")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An open file: a connection that reads one moment of it, and whether its end is missing."""

    path: Path
    connection: sqlite3.Connection
    truncated: bool

    def meta(self) -> dict[str, Any] | None:
        """Return the file's ``meta``, None if it cannot be read."""
        try:
            return schema.read_meta(self.connection)
        except schema.UNREADABLE:
            return None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[StoredFile]:
    """Open one process's file for reading and close it afterwards. It is never changed, whoever is writing it.

    Where it cannot be opened in place (a write-ahead log left in a read-only folder, which SQLite would have to
    index), a temporary copy is read.

    Raises:
        RunNotFound: there is no such file; ``erg ls`` lists the runs.
        ForeignFile: it is not a run of ergometry's, or too damaged to tell, or of a newer schema: upgrade.
        StoreError: it may not be read; give read permission.
    """
    if not path.is_file():
        raise RunNotFound(expected="a run's file", got=str(path), remedy="erg ls lists the runs")
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(contextlib.closing(_connect(path, "ro")))
            truncated, version = _probe(connection, path)
        except sqlite3.OperationalError:
            connection, truncated, version = _open_copy(path, stack)
        connection = stack.enter_context(contextlib.closing(schema.migrated(connection, version)))
        yield StoredFile(path, connection, truncated)


def process_files(run_folder: Path) -> list[Path]:
    """Return the files of a run's processes, by name; empty if the folder is not a run."""
    try:
        return sorted(path for path in run_folder.glob(PROCESS_PATTERN) if path.is_file())
    except OSError:
        return []


def first_process(run_folder: Path) -> Path:
    """Return the file of the run's process that started first.

    Raises:
        RunNotFound: the folder holds none; ``erg ls`` lists the runs.
        ForeignFile: none of them can be read.
    """
    files = process_files(run_folder)
    if len(files) == 1:
        return files[0]
    started: list[tuple[str, Path]] = []
    refusal: ErgError = RunNotFound(
        expected=f"a run's folder, with {PROCESS_PATTERN} in it", got=str(run_folder), remedy="erg ls lists the runs"
    )
    for path in files:
        try:
            with opened(path) as stored:
                started.append((str((stored.meta() or {}).get("started", "~")), path))
        except StoreError as error:
            refusal = error
    if not started:
        raise refusal
    return min(started)[1]


def status_of(meta: Mapping[str, Any], path: Path) -> str:
    """Return the run's status: as finished, else ``running`` while its recorder lives, else ``interrupted``."""
    if isinstance(meta.get("status"), str):
        return str(meta["status"])
    recorder = meta.get("recorder")
    alive = is_alive(recorder) if isinstance(recorder, dict) else False
    if alive is None:  # of another host, whose processes cannot be seen from here
        alive = is_fresh(path)
    return "running" if alive else "interrupted"


def heartbeat_s(meta: Mapping[str, Any]) -> float:
    """Return how long the run lasted at least, in seconds: its duration once finished, else the last heartbeat."""
    duration_s = meta.get("duration_s")
    if not isinstance(duration_s, int | float):
        heartbeat = meta.get("heartbeat")
        duration_s = heartbeat.get("t_s") if isinstance(heartbeat, dict) else None
    return float(duration_s) if isinstance(duration_s, int | float) else 0.0


def disk_bytes(path: Path) -> int:
    """Return the size of a run's folder, or of one process's file with its log, in bytes."""
    parts = path.rglob("*") if path.is_dir() else (path.with_name(path.name + log) for log in ("", *_LOGS))
    total = 0
    for part in parts:
        with contextlib.suppress(OSError):  # a log may be folded in as we look
            total += part.stat().st_size if part.is_file() else 0
    return total


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=1.0)
    connection.text_factory = _text
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _open_copy(path: Path, stack: contextlib.ExitStack) -> tuple[sqlite3.Connection, bool, int]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ergometry-")))
    try:
        copy = _copy(path, folder)
        connection = stack.enter_context(contextlib.closing(_connect(copy, "rw")))
        truncated, version = _probe(connection, path)
    except (OSError, sqlite3.OperationalError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(
            expected="a run that can be read", got=f"{path} ({reason})", remedy="give read permission, or free space"
        ) from error
    return connection, truncated, version


def _copy(path: Path, folder: Path) -> Path:
    """Copy a file and its logs. Log before file, and again if the file changed meanwhile: never a torn pair."""
    for _ in range(_COPY_TRIES):
        before = path.stat()
        for suffix in _LOGS:
            log = path.with_name(path.name + suffix)
            if log.exists():
                shutil.copyfile(log, folder / log.name)
        shutil.copyfile(path, folder / path.name)
        after = path.stat()
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            break
    return folder / path.name


def _probe(connection: sqlite3.Connection, path: Path) -> tuple[bool, int]:
    """Begin reading; return (whether the end is missing, schema version), or refuse what is not ours."""
    truncated = False
    try:
        application, version = _identity(connection)
    except sqlite3.OperationalError:
        raise
    except schema.UNREADABLE as error:
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise _foreign(f"{path}, which is not a SQLite file") from None
        # SQLite opens no file shorter than its header says, unless told that its schema is under repair.
        truncated = True
        try:
            connection.execute("PRAGMA writable_schema = ON")
            application, version = _identity(connection)
        except schema.UNREADABLE:
            raise _foreign(f"{path}, which is damaged") from None
    if application != schema.APPLICATION_ID:
        empty = path.stat().st_size == 0
        raise _foreign(f"{path}, " + ("which is empty" if empty else "a SQLite file of another program"))
    if version > schema.VERSION:
        raise ForeignFile(
            expected=f"schema {schema.VERSION} or older", got=f"schema {version} in {path}", remedy="upgrade ergometry"
        )
    if version != schema.VERSION and version not in schema.MIGRATIONS:
        raise _foreign(f"schema {version} in {path}")
    return truncated, version


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    if not connection.in_transaction:
        connection.execute("BEGIN")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return int(application), int(version)


def _foreign(got: str) -> ForeignFile:
    return ForeignFile(expected="a run of ergometry's", got=got, remedy="erg ls lists the runs")
