"""Storing a run that exists as plain data, and changing what is stored: what tests of the store begin with."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ergometry.core.run import Run
from ergometry.store.writer import Writer, create_run_folder, process_file

NOBODY = 65534


def store_run(run: Run, store: Path, *, pid: int = 1, commits: int = 1, finished: bool = True) -> Path:
    """Write a run to ``store`` as its recorder would, in so many transactions, and return its folder."""
    folder = create_run_folder(store, run.id)
    writer = Writer(process_file(folder, pid))
    for key, value in run.meta.items():
        writer.put_meta(key, value)
    for samples in run.samples:
        writer.declare_samples(samples.source, samples.signals)
    for k in range(commits):
        for samples in run.samples:
            for row in _part(samples.table.rows, k, commits):
                writer.add_sample(samples.source, row[0], row[1:])
        for name, table in run.tables.items():
            writer.add_rows(name, table.columns, _part(table.rows, k, commits))
        writer.commit()
    for notice in run.notices:
        writer.notice(notice.code, notice.detail, notice.t_s)
    writer.put_meta("dropped", run.dropped)
    if finished:
        writer.finish(run.status, run.exit_status, run.duration_s)
    else:
        writer.commit()
        writer.close()
    return folder


def set_meta(file: Path, **values: Any) -> None:
    """Overwrite labels of a stored file; None removes one."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        for key, value in values.items():
            connection.execute("DELETE FROM meta WHERE key = ?", (key,))
            if value is not None:
                connection.execute("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Drop root's rights for a while, if we have them: permissions mean nothing to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _part(rows: Any, k: int, parts: int) -> Any:
    return rows[len(rows) * k // parts : len(rows) * (k + 1) // parts].tolist()
