"""Files cut short, overwritten, foreign, of another schema or forbidden: one line or a part, never a traceback."""

import contextlib
import os
import random
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.errors import ErgError, ForeignFile, RunNotFound, StoreError
from ergometry.core.run import Run
from ergometry.store import schema
from ergometry.store.catalog import list_runs
from ergometry.store.reader import load
from ergometry.store.writer import create_run_folder
from support.stored import ordinary_user, set_meta, store_run
from support.synthetic import synthetic_run

RUN = synthetic_run(600)


class Content(bytes):
    """Bytes that a failing test does not print."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Content:
    """A finished run, in several chunks a table."""
    folder = store_run(RUN, tmp_path_factory.mktemp("whole"), commits=50)
    return Content((folder / "process-1.sqlite").read_bytes())


def damaged(folder: Path, content: bytes) -> Path:
    file = create_run_folder(folder, "a") / "process-1.sqlite"
    file.write_bytes(content)
    return file


def rows_of(run: Run) -> int:
    return sum(len(table) for table in run.tables.values()) + sum(len(s.table) for s in run.samples)


def check_part(file: Path) -> Run | None:
    """Load what is left: an error of ours in one line, or a run of rows that were written, with a notice if not all."""
    (info,) = list_runs(file.parent.parent)
    try:
        run = load(file)
    except ErgError as error:
        assert "\n" not in str(error)
        assert info.error is None or str(file) in info.error
        return None
    known = {tuple(row) for table in RUN.tables.values() for row in table.rows.tolist()}
    known |= {tuple(row) for row in RUN.samples[0].table.rows.tolist()}
    for table in [*run.tables.values(), *(s.table for s in run.samples)]:
        assert {tuple(row) for row in table.rows.tolist()} <= known
    if rows_of(run) < rows_of(RUN):
        assert "store.damaged" in [notice.code for notice in run.notices]
    return run


def test_cut_at_many_lengths_the_rest_is_read(tmp_path, content):
    pages = range(0, len(content), 4096)
    lengths = {*range(0, 700, 50), *pages, *(p + 1 for p in pages), *(p - 1 for p in pages if p), len(content) - 1}
    kept = {}
    for length in sorted(lengths):
        run = check_part(damaged(tmp_path, content[:length]))
        kept[length] = 0 if run is None else rows_of(run)
    assert kept[0] == 0
    assert min(n for length, n in kept.items() if length > 0.8 * len(content)) > 0.5 * rows_of(RUN)
    assert max(n for length, n in kept.items() if length < len(content)) < rows_of(RUN)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_bytes_change_no_wrong_row_is_read(content, data):
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        check_part(damaged(Path(folder), bytes(changed)))


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_a_lost_page_costs_only_what_was_on_it(tmp_path, content, fill):
    lost = []
    for page in range(1, len(content) // 4096):
        new = bytes(4096) if fill == "zeros" else random.Random(page).randbytes(4096)
        run = check_part(damaged(tmp_path, content[: page * 4096] + new + content[(page + 1) * 4096 :]))
        lost.append(rows_of(RUN) if run is None else rows_of(RUN) - rows_of(run))
    assert np.median(lost) < 0.2 * rows_of(RUN)
    # Only two pages name all the others: the list of tables, and the root of the chunks.
    assert lost.count(rows_of(RUN)) <= 2


@pytest.mark.parametrize("page_bytes", [b"", b"a text, no run of ours\n" * 1000, b"SQLite format 3\0" + bytes(84)])
def test_a_file_of_another_kind_is_refused(tmp_path, page_bytes):
    file = damaged(tmp_path, page_bytes)
    with pytest.raises(ForeignFile, match=r"expected a run of ergometry's, got .*process-1.sqlite"):
        load(file)


def test_a_database_of_another_program_is_refused(tmp_path):
    file = tmp_path / "bookmarks.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    with pytest.raises(ForeignFile, match="of another program"):
        load(file)


def test_a_file_of_ours_without_tables_is_refused(tmp_path):
    file = tmp_path / "process-1.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    with pytest.raises(ForeignFile, match="nothing is readable"):
        load(file)


@pytest.mark.parametrize(
    ("version", "words"), [(schema.VERSION + 1, "upgrade ergometry"), (0, "schema 0"), (-7, "schema -7")]
)
def test_a_schema_that_is_not_known_is_refused(tmp_path, content, version, words):
    file = damaged(tmp_path, content)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(ForeignFile, match=words):
        load(file)


def test_an_older_schema_is_migrated_in_a_copy(tmp_path, content, monkeypatch):
    file = damaged(tmp_path, content)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE notices RENAME COLUMN code TO word")
    before = file.read_bytes()

    def rename(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE notices RENAME COLUMN word TO code")

    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: rename, 2: lambda connection: None})
    run = load(file)
    assert rows_of(run) == rows_of(RUN)
    assert run.notices == ()
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("UPDATE kinds SET columns = '[1' WHERE name = 'losses'", "losses"),
        ("UPDATE kinds SET columns = '[]' WHERE name = 'losses'", "losses"),
        ("UPDATE kinds SET columns = '[\"step\", \"t_s\"]' WHERE name = 'losses'", "losses"),
        ("UPDATE kinds SET signals = '[{\"volts\": 1}]' WHERE source = 'rapl'", "rapl"),
        ("UPDATE kinds SET signals = '[]' WHERE source = 'rapl'", "rapl"),
        ("DROP TABLE notices", "warnings"),
        ("DROP TABLE meta", "labels"),
        ("DROP TABLE chunks", "chunks"),
        ("UPDATE chunks SET n = n * 1000000000", "600 of 600 rows of steps"),
        ("UPDATE chunks SET data = 'text', n = 0", "664 of 664 rows of rapl"),
        ("UPDATE chunks SET kind = 'x', seq = rowid", "rows of ledger"),
    ],
)
def test_what_is_wrong_in_a_sound_file_is_named(tmp_path, content, statement, lost):
    file = damaged(tmp_path, content)
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)
    run = check_part(file)
    assert run is not None
    (notice,) = (notice for notice in run.notices if notice.code == "store.damaged")
    assert lost in notice.detail
    assert "could not be read" in notice.text


def test_labels_of_the_wrong_type_do_no_harm(tmp_path, content):
    file = damaged(tmp_path, content)
    set_meta(file, status=3, exit_status="x", duration_s=[], dropped="many", sources={"a": 1}, recorder=[], heartbeat=5)
    run = check_part(file)
    assert run is not None
    assert (run.status, run.exit_status, run.dropped, run.absent) == ("interrupted", None, 0, ())
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE meta SET value = 'no JSON' WHERE key = 'started'")
    assert "started" not in load(file).meta


def test_absent_sources_are_told_from_present_ones(tmp_path, content):
    file = damaged(tmp_path, content)
    absent = {"source": "nvml", "present": False, "why": "no driver", "remedy": "install one"}
    set_meta(file, sources=[{"source": "rapl", "present": True}, absent])
    assert load(file).absent == (absent,)


def test_a_file_that_may_not_be_read_is_said_so(content):
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        file = damaged(Path(top), content)
        file.chmod(0)
        with ordinary_user(), pytest.raises(StoreError, match=r"Permission denied.*give read permission"):
            load(file)


def test_no_run_at_a_path(tmp_path):
    with pytest.raises(RunNotFound, match="erg ls"):
        load(tmp_path)
    with pytest.raises(RunNotFound, match="erg ls"):
        load(tmp_path / "absent")
