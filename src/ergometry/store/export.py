"""Export: a run as one Parquet or CSV file per table, and its labels as ``run.json``."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ergometry.core.errors import MissingExtra, StoreError, UsageError
from ergometry.core.run import Run, SampleTable, Table

if TYPE_CHECKING:
    from types import ModuleType

FORMATS = ("parquet", "csv")

_BLOCK_ROWS = 65536
"""Rows are converted so many at a time: the memory beside the run stays small."""


def export(run: Run, to: str, folder: Path, *, force: bool = False) -> list[Path]:
    """Write every table of a run to a file of its own, named after it, and return the files.

    Samples of a sensor go to ``samples-<source>``; their columns are ``t_s`` and ``<domain> <quantity>``, such as
    ``node0/package0 energy_j``. Everything is float64 and comes back with the same bits (CSV in the shortest
    decimals that do so; NaN as ``nan``). ``run.json`` holds the labels, the signals and the warnings.

    Args:
        run: the run.
        to: ``parquet`` or ``csv``.
        folder: where; made if need be.
        force: write over files that exist.

    Raises:
        UsageError: another format; choose one of the two.
        MissingExtra: pyarrow is not installed: ``pip install 'ergometry[parquet]'``.
        StoreError: a file exists (``--force`` writes over it), or cannot be written.
    """
    if to not in FORMATS:
        raise UsageError(expected=" or ".join(FORMATS), got=repr(to), remedy="choose one with --to")
    tables = {folder / f"{name}.{to}": table for name, table in _named(run).items()}
    labels = folder / "run.json"
    existing = [path for path in (*tables, labels) if path.exists()]
    if existing and not force:
        raise StoreError(
            expected="no files of these names yet", got=str(existing[0]), remedy="choose another -o, or use --force"
        )
    write = _parquet_writer() if to == "parquet" else _write_csv
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, table in tables.items():
            _whole(path, table, write)
        path = labels
        path.write_text(json.dumps(_labels(run), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            expected="a folder that can be written to",
            got=f"{path} ({error.strerror or error})",
            remedy="choose another with -o, or free some space",
        ) from error
    return [*tables, labels]


def _named(run: Run) -> dict[str, Table]:
    tables = dict(run.tables)
    for samples in run.samples:
        base = name = f"samples-{re.sub(r'[^A-Za-z0-9_.-]', '_', samples.source)}"
        k = 2
        while name in tables:  # a source whose signals changed has two tables
            name, k = f"{base}-{k}", k + 1
        tables[name] = Table(_sample_columns(samples), samples.table.rows)
    return tables


def _sample_columns(samples: SampleTable) -> tuple[str, ...]:
    labels = [f"{signal.domain} {signal.quantity}" for signal in samples.signals]
    unique = len(set(labels)) == len(labels)
    return ("t_s", *(label if unique else f"{label} {i}" for i, label in enumerate(labels)))


def _labels(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "status": run.status,
        "duration_s": run.duration_s,
        "exit_status": run.exit_status,
        "dropped": run.dropped,
        "meta": dict(run.meta),
        "samples": {samples.source: [signal.to_json() for signal in samples.signals] for samples in run.samples},
        "warnings": [notice.to_json() for notice in run.notices],
    }


def _whole(path: Path, table: Table, write: Callable[[Path, Table], None]) -> None:
    """Write beside the file and rename: a file of the right name is never half a table."""
    part = path.with_name(path.name + ".part")
    try:
        write(part, table)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _blocks(table: Table) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
    for begin in range(0, len(table), _BLOCK_ROWS):
        yield table.rows[begin : begin + _BLOCK_ROWS]


def _write_csv(path: Path, table: Table) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(table.columns)
        for block in _blocks(table):
            out.writerows(block.tolist())


def _parquet_writer() -> Callable[[Path, Table], None]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(
            expected="pyarrow, to write Parquet",
            got="no such module",
            remedy="pip install 'ergometry[parquet]', or use --to csv",
        ) from None
    return lambda path, table: _write_parquet(path, table, pyarrow)


def _write_parquet(path: Path, table: Table, pyarrow: ModuleType) -> None:
    schema = pyarrow.schema([(column, pyarrow.float64()) for column in table.columns])
    with pyarrow.parquet.ParquetWriter(path, schema) as out:
        for block in _blocks(table):
            columns = [pyarrow.array(np.ascontiguousarray(column)) for column in block.T]
            out.write_batch(pyarrow.record_batch(columns, schema=schema))
