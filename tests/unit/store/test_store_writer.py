"""What the writer keeps, when it reaches the disk, and what it does when there is no room."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.errors import StoreError
from ergometry.core.ports import Signal
from ergometry.store.reader import load
from ergometry.store.writer import CHUNK_BYTES, Writer, create_run_folder, process_file
from support.stored import store_run
from support.synthetic import MODELLED, PACKAGE, synthetic_run

COLUMNS = ("step", "t_s", "loss")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(process_file(tmp_path, 1))
    yield writer
    writer.close()


def stored_steps(path: Path) -> list[float]:
    run = load(path)
    return run.tables["losses"]["step"].tolist() if "losses" in run.tables else []


def chunks(path: Path) -> list[tuple[int, int, int]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT kind, n, length(data) FROM chunks ORDER BY kind, seq").fetchall()


def test_a_run_comes_back_as_it_was_written(tmp_path):
    run = synthetic_run(200, meta_key=[1, {"a": None}])
    back = load(store_run(run, tmp_path, commits=37))
    assert (back.status, back.exit_status, back.duration_s, back.id) == ("completed", 0, run.duration_s, run.id)
    assert back.meta == run.meta
    assert back.tables.keys() == run.tables.keys()
    for name, table in run.tables.items():
        assert back.tables[name].columns == table.columns
        np.testing.assert_array_equal(back.tables[name].rows, table.rows)
    (samples,) = back.samples
    assert (samples.source, samples.signals) == ("rapl", (PACKAGE,))
    np.testing.assert_array_equal(samples.table.rows, run.samples[0].table.rows)
    assert back.disk_bytes == sum(p.stat().st_size for p in back.path.iterdir())
    assert back.notices == ()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(width=64), min_size=3, max_size=3), max_size=60),
    commit_after=st.sets(st.integers(0, 60)),
)
def test_any_float64_comes_back_with_its_bits_whenever_it_is_committed(rows, commit_after):
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(process_file(Path(folder), 1))
        for k, row in enumerate(rows):
            writer.add_row("evaluations", COLUMNS, row)
            if k in commit_after:
                writer.commit()
        writer.finish("completed", 0, 1.0)
        run = load(Path(folder))
    expected = np.array(rows, dtype=np.float64).reshape(-1, 3)
    back = run.tables["evaluations"].rows if rows else np.empty((0, 3))
    # NaN payloads included: the bits, not the values.
    np.testing.assert_array_equal(back.view(np.uint64), expected.view(np.uint64))
    assert run.duration_s == 1.0


def test_nothing_is_stored_before_a_commit_and_all_of_it_after(writer, tmp_path):
    writer.add_row("losses", COLUMNS, (0, 0.5, 1.0))
    writer.put_meta("name", "first")
    assert stored_steps(tmp_path) == []
    writer.commit(0.75)
    run = load(tmp_path)
    assert (stored_steps(tmp_path), run.meta["name"], run.status, run.duration_s) == ([0.0], "first", "running", 0.75)


def test_a_run_in_progress_lasts_to_the_largest_time_seen(writer, tmp_path):
    writer.commit(0.75)
    writer.add_rows("steps", ("step", "t0_s", "t1_s"), [(0, 1.0, 2.0), (1, 2.0, 3.5), (2, float("nan"), float("inf"))])
    writer.commit(3.0)
    assert load(tmp_path).duration_s == 3.5


def test_many_small_commits_make_few_chunks(writer):
    for k in range(3000):
        writer.add_rows("losses", COLUMNS, [(10 * k + i, k, 1.0) for i in range(10)])
        writer.commit()
    found = chunks(writer.path)
    full = [size for _, _, size in found if size > CHUNK_BYTES / 2]
    assert max(size for _, _, size in found) <= CHUNK_BYTES
    assert len(found) - len(full) <= np.log2(3000)
    assert stored_steps(writer.path) == [float(k) for k in range(30000)]


def test_a_table_of_another_rate_does_not_disturb_the_merging(writer):
    for k in range(100):
        writer.add_row("losses", COLUMNS, (k, k, 1.0))
        if k % 10 == 0:
            writer.add_row("learning_rates", ("step", "optimizer", "group", "lr"), (k, 0, 0, 0.1))
        writer.commit()
    run = load(writer.path)
    assert run.tables["losses"]["step"].tolist() == list(range(100))
    assert run.tables["learning_rates"]["step"].tolist() == list(range(0, 100, 10))
    assert len(chunks(writer.path)) < 20


def test_a_finished_run_is_one_file_without_a_log(tmp_path):
    folder = store_run(synthetic_run(20), tmp_path)
    assert [p.name for p in folder.iterdir()] == ["process-1.sqlite"]
    with contextlib.closing(sqlite3.connect(folder / "process-1.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_finishing_while_someone_reads_loses_nothing(writer, tmp_path):
    writer.add_row("losses", COLUMNS, (0, 0.5, 1.0))
    writer.commit()
    with contextlib.closing(sqlite3.connect(writer.path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM chunks").fetchone() == (1,)
        writer.add_row("losses", COLUMNS, (1, 1.0, 1.0))
        writer.finish("failed", 3, 1.0)
        run = load(tmp_path)
    assert (run.status, run.exit_status, len(run.tables["losses"])) == ("failed", 3, 2)


@contextlib.contextmanager
def file_size_limit(writer: Writer, spare_bytes: int) -> Iterator[None]:
    """No file may grow beyond the present log and a little: a write fails, as on a full or failing disk."""
    log = writer.path.with_name(writer.path.name + "-wal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + spare_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def page_limit(writer: Writer, spare_bytes: int) -> Iterator[None]:
    """SQLite itself says that the disk is full."""
    connection = writer._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + spare_bytes // 4096}")
    yield
    with contextlib.suppress(sqlite3.ProgrammingError):  # closed by now
        connection.execute("PRAGMA max_page_count = 1000000")


Full = Callable[[Writer, int], contextlib.AbstractContextManager[None]]
both = pytest.mark.parametrize("full", [file_size_limit, page_limit])


@both
def test_what_finds_no_room_is_kept_and_stored_later(writer, full: Full):
    writer.add_row("losses", COLUMNS, (0, 0.0, 1.0))
    writer.commit()
    with full(writer, 0):
        for attempt in range(3):
            writer.add_rows("losses", COLUMNS, [(1 + 1000 * attempt + i, 0.0, 1.0) for i in range(1000)])
            writer.put_meta("name", "kept")
            writer.notice("store.unwritable", "full", 1.0)
            with pytest.raises(StoreError, match="free some space"):
                writer.commit()
        assert stored_steps(writer.path) == [0.0]
    writer.commit()
    run = load(writer.path)
    assert stored_steps(writer.path) == [float(k) for k in range(3001)]
    assert (run.meta["name"], [n.code for n in run.notices], run.dropped) == ("kept", ["store.unwritable"], 0)


@both
def test_beyond_the_bound_the_oldest_rows_go_and_are_counted(tmp_path, full: Full):
    writer = Writer(process_file(tmp_path, 1), keep_bytes=24 * 1000)
    writer.add_row("overhead", ("t_s",), (0.0,))
    writer.commit()
    with full(writer, 0):
        for k in range(10_000):
            writer.add_row("losses", COLUMNS, (k, 0.0, 1.0))
        with pytest.raises(StoreError):
            writer.commit()
    writer.finish("completed", 0, 1.0)
    run, steps = load(tmp_path), stored_steps(tmp_path)
    assert 500 <= len(steps) <= 1000
    assert steps == [float(k) for k in range(10_000 - len(steps), 10_000)]
    assert run.dropped == writer.lost_rows == 10_000 - len(steps)


@both
def test_without_room_for_the_rest_the_end_alone_is_stored(writer, full: Full):
    writer.add_row("losses", COLUMNS, (0, 0.0, 1.0))
    writer.commit()
    with full(writer, 60_000):
        writer.add_rows("losses", COLUMNS, [(k, 0.0, 1.0) for k in range(100_000)])
        writer.finish("completed", 0, 9.0)
    run = load(writer.path)
    assert (run.status, run.duration_s, len(run.tables["losses"]), run.dropped) == ("completed", 9.0, 1, 100_000)
    assert [notice.code for notice in run.notices] == ["store.unwritable"]


def test_without_room_for_the_end_the_run_stays_without_one(writer):
    writer.add_row("losses", COLUMNS, (0, 0.0, 1.0))
    writer.commit()
    with file_size_limit(writer, 0), pytest.raises(StoreError, match="free some space"):
        writer.finish("completed", 0, 9.0)
    run = load(writer.path)
    assert (run.status, len(run.tables["losses"])) == ("running", 1)
    with pytest.raises(StoreError, match="closed"):
        writer.commit()


def test_closing_twice_is_harmless_and_keeps_what_was_committed(writer, tmp_path):
    writer.add_row("losses", COLUMNS, (0, 0.0, 1.0))
    writer.commit()
    writer.add_row("losses", COLUMNS, (1, 0.0, 1.0))
    writer.close()
    writer.close()
    assert stored_steps(tmp_path) == [0.0]


def test_a_row_must_fit_its_table(writer):
    writer.add_row("losses", COLUMNS, (0, 0.0, 1.0))
    with pytest.raises(StoreError, match="expected 3 values for a row of losses, got 2"):
        writer.add_row("losses", COLUMNS, (0, 0.0))
    with pytest.raises(StoreError, match="declare_samples"):
        writer.add_sample("nvml", 0.0, (1.0,))
    writer.declare_samples("nvml", [PACKAGE])
    with pytest.raises(StoreError, match="expected 2 values"):
        writer.add_sample("nvml", 0.0, (1.0, 2.0))


def test_other_signals_of_a_source_begin_a_table_of_their_own(writer):
    writer.declare_samples("cpu", [PACKAGE])
    writer.add_sample("cpu", 0.0, (1.0,))
    writer.declare_samples("cpu", [PACKAGE])
    writer.add_sample("cpu", 1.0, (2.0,))
    writer.commit()
    writer.declare_samples("cpu", [PACKAGE, MODELLED])
    writer.add_sample("cpu", 2.0, (3.0, float("nan")))
    writer.commit()
    first, second = load(writer.path).samples
    assert (first.source, first.signals, first.table.rows.tolist()) == ("cpu", (PACKAGE,), [[0.0, 1.0], [1.0, 2.0]])
    assert (second.source, second.signals) == ("cpu", (PACKAGE, MODELLED))
    np.testing.assert_array_equal(second.table.rows, [[2.0, 3.0, np.nan]])


def test_the_same_notice_is_stored_once_with_its_first_time(writer):
    for t in (1.0, 2.0):
        writer.notice("sensor.failed", "gpu0", t)
        writer.notice("sensor.failed", "gpu1", t)
        writer.commit()
    assert [(n.detail, n.t_s) for n in load(writer.path).notices] == [("gpu0", 1.0), ("gpu1", 1.0)]


def test_names_that_are_not_unicode_are_stored(writer):
    odd = os.fsdecode(b"data-\xff.py")
    writer.put_meta("command", [odd, Path("a")])
    writer.notice("torch.unsupported", odd)
    writer.commit()
    run = load(writer.path)
    assert run.meta["command"] == [odd, "a"]
    assert [notice.detail for notice in run.notices] == ["data-\\udcff.py"]


def test_a_file_is_never_written_twice(writer):
    with pytest.raises(StoreError, match="File exists"):
        Writer(writer.path)
    with pytest.raises(StoreError, match="--store"):
        Writer(writer.path.parent / "absent" / "process-1.sqlite")


def test_a_failed_creation_leaves_no_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(StoreError, match="free some space"):
            Writer(process_file(tmp_path, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_the_recorder_loads_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import ergometry.store.writer\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print(*sorted(m for m in new if m not in sys.stdlib_module_names and m != 'ergometry'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_signals_keep_every_field(writer):
    signal = Signal("n/gpu0", "power_w", "measured", "nvml", 1e-3, 0.1, 0.05, None, 700.0, 60.0, 0.1, "cuda:0")
    writer.declare_samples("nvml", [signal])
    writer.add_sample("nvml", 0.0, (300.0,))
    writer.commit()
    assert load(writer.path).samples[0].signals == (signal,)


def test_the_last_row_of_a_step_counts_in_the_tables_that_are_restated(tmp_path):
    writer = Writer(process_file(create_run_folder(tmp_path, "a"), 1))
    for step, loss in ((0, 1.0), (1, 5.0), (1, 6.0), (2, 2.0), (0, 9.0)):
        writer.add_row("losses", COLUMNS, (step, 0.5, loss))
        writer.add_row("evaluations", COLUMNS, (step, 0.5, loss))
        writer.commit()
    writer.finish("completed", 0, 1.0)
    tables = load(tmp_path / "a").tables
    assert tables["losses"].rows[:, [0, 2]].tolist() == [[0, 9], [1, 6], [2, 2]]
    assert len(tables["evaluations"]) == 5
