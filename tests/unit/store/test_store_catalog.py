"""Which runs a store has, which one a word means, and what may be deleted."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ergometry.core.errors import AmbiguousRun, ErgError, ForeignFile, RunNotFound, StoreError
from ergometry.store.catalog import list_runs, remove, resolve
from ergometry.store.reader import load
from support.stored import ordinary_user, set_meta, store_run
from support.synthetic import synthetic_run


def stored(store: Path, run_id: str, *, finished: bool = True, pid: int = 1, **meta) -> Path:
    return store_run(synthetic_run(3, path=Path(run_id), **meta), store, finished=finished, pid=pid)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Four runs: the third one is the last started, the fourth is damaged."""
    folder = tmp_path / "runs"
    stored(folder, "20260101-000000-aaaa", started="2026-01-01T00:00:00Z", name="base", tags=["a", "b"])
    stored(folder, "20260102-000000-bbbb", started="2026-01-02T00:00:00Z", name="wide", tags=["b"])
    stored(folder, "20260102-000000-cccc", started="2026-01-03T00:00:00Z", finished=False)
    (folder / "20260102-000000-dddd").mkdir()
    (folder / "20260102-000000-dddd" / "process-1.sqlite").write_bytes(b"damaged" * 1000)
    (folder / "notes").mkdir()
    (folder / "notes.txt").write_text("not a run")
    return folder


def test_runs_are_listed_by_their_labels(store):
    runs = list_runs(store)
    assert [run.id[-4:] for run in runs] == ["aaaa", "bbbb", "dddd", "cccc"]
    first = runs[0]
    assert (first.name, first.tags, first.started, first.status) == (
        "base",
        ("a", "b"),
        "2026-01-01T00:00:00Z",
        "completed",
    )
    assert (first.duration_s, first.command) == (load(first.path).duration_s, ("train.py", "--lr", "0.01"))
    assert first.disk_bytes == sum(p.stat().st_size for p in first.path.iterdir())
    assert [run.status for run in runs] == ["completed", "completed", "unreadable", "running"]
    assert "not a SQLite file" in (runs[2].error or "")
    assert first.to_json()["path"] == str(first.path)


def test_a_run_that_has_not_said_its_start_yet_is_placed_by_its_id(store):
    stored(store, "20260102-120000-eeee", started=None, finished=False)
    assert [run.id[-4:] for run in list_runs(store)] == ["aaaa", "bbbb", "dddd", "eeee", "cccc"]


def test_runs_are_listed_by_tag(store):
    assert [run.name for run in list_runs(store, "b")] == ["base", "wide"]
    assert list_runs(store, "c") == []


def test_a_store_that_is_not_there_has_no_runs_and_a_file_is_no_store(store):
    assert list_runs(store / "absent") == []
    with pytest.raises(StoreError, match=r"notes.txt \(Not a directory\); choose another with --store"):
        list_runs(store / "notes.txt")


def test_a_run_whose_labels_are_lost_is_listed_with_its_error(store):
    file = store / "20260101-000000-aaaa" / "process-1.sqlite"
    content = bytearray(file.read_bytes())
    content[4096:8192] = bytes(4096)  # the page of the labels
    file.write_bytes(content)
    (run,) = (run for run in list_runs(store) if run.id == "20260101-000000-aaaa")
    assert (run.status, run.error) == ("unreadable", f"the labels in {file} are damaged")
    assert len(load(file).tables["steps"]) == 3


def test_listing_loads_no_numpy():
    code = "import sys, ergometry.store.catalog; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("reference", "run_id"),
    [
        ("20260101-000000-aaaa", "20260101-000000-aaaa"),
        ("20260101", "20260101-000000-aaaa"),
        ("20260102-000000-b", "20260102-000000-bbbb"),
        ("wide", "20260102-000000-bbbb"),
        ("last", "20260102-000000-cccc"),
    ],
)
def test_a_run_is_found_by_id_prefix_name_or_last(store, reference, run_id):
    assert resolve(reference, store) == store / run_id


def test_a_run_is_found_by_its_path(store, monkeypatch):
    run = store / "20260101-000000-aaaa"
    elsewhere = store / "absent"
    assert resolve(str(run), elsewhere) == run
    assert resolve(str(run / "process-1.sqlite"), elsewhere) == run / "process-1.sqlite"
    monkeypatch.chdir(run.parent)
    assert resolve("./20260101-000000-aaaa/", elsewhere) == run


def test_several_runs_of_one_beginning_are_named(store):
    with pytest.raises(AmbiguousRun, match="20260102-000000-bbbb, 20260102-000000-cccc, 20260102-000000-dddd; "):
        resolve("20260102", store)


def test_at_most_five_candidates_are_named(tmp_path):
    for k in range(7):
        stored(tmp_path, f"x{k}", name="same")
    for word in ("x", "same"):
        with pytest.raises(AmbiguousRun, match="x0, x1, x2, x3, x4 and 2 more; use an id"):
            resolve(word, tmp_path)


def test_no_run_answers(store):
    with pytest.raises(RunNotFound, match=f"expected a run of {store}, got '2025'; erg ls lists them"):
        resolve("2025", store)
    with pytest.raises(RunNotFound, match="erg ls"):
        resolve(str(store / "notes"), store)
    with pytest.raises(RunNotFound, match="record one with erg run"):
        resolve("last", store / "absent")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
@example("")
@example("\0")
@example("x" * 5000)
@example("..")
@example("*")
def test_any_word_is_a_run_or_one_line(word):
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = resolve(word, Path(folder))
        except ErgError as error:
            assert "\n" not in str(error)
        else:
            assert found.exists()


def test_a_finished_run_is_deleted_and_no_other(store):
    remove(store / "20260101-000000-aaaa")
    assert sorted(p.name for p in store.iterdir()) == [
        "20260102-000000-bbbb",
        "20260102-000000-cccc",
        "20260102-000000-dddd",
        "notes",
        "notes.txt",
    ]


def test_a_run_in_progress_is_deleted_only_by_force(store):
    run = store / "20260102-000000-cccc"
    with pytest.raises(StoreError, match="cccc, in progress; stop it, or use --force"):
        remove(run)
    assert load(run).status == "running"
    remove(run, force=True)
    assert not run.exists()


def test_a_damaged_run_is_deleted_only_by_force(store):
    run = store / "20260102-000000-dddd"
    with pytest.raises(ForeignFile):
        remove(run)
    assert run.exists()
    remove(run, force=True)
    assert not run.exists()


def test_what_is_no_run_is_never_deleted(store):
    run = store / "20260101-000000-aaaa"
    (run / "notes").mkdir()
    for path in (store, store / "notes", store / "notes.txt", store / "absent", run, run / "process-1.sqlite"):
        with pytest.raises(RunNotFound):
            remove(path, force=True)
    assert (run / "process-1.sqlite").exists()


def test_a_folder_that_the_system_protects_stays():
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        run = stored(Path(top), "a")
        run.chmod(0o555)
        with ordinary_user(), pytest.raises(StoreError, match="Permission denied"):
            remove(run)
        run.chmod(0o755)
        assert len(load(run).tables["steps"]) == 3


def test_of_several_processes_the_first_started_is_read(tmp_path):
    for pid, second in ((7, 30), (8, 10), (9, 20)):
        run = stored(tmp_path, "a", pid=pid, started=f"2026-01-01T00:00:{second}Z", host=f"of {pid}")
    assert load(run).meta["host"] == "of 8"
    (info,) = list_runs(tmp_path)
    assert info.started == "2026-01-01T00:00:10Z"
    (run / "process-8.sqlite").write_bytes(b"damaged")
    assert load(run).meta["host"] == "of 9"
    for pid in (7, 9):
        (run / f"process-{pid}.sqlite").write_bytes(b"damaged")
    with pytest.raises(ForeignFile, match="not a SQLite file"):
        load(run)


def test_a_run_goes_on_while_one_of_its_processes_does(tmp_path):
    run = stored(tmp_path, "a", pid=1)
    stored(tmp_path, "a", pid=2, finished=False)
    with pytest.raises(StoreError, match="in progress"):
        remove(run)
    set_meta(run / "process-2.sqlite", recorder=None)
    remove(run)
    assert not run.exists()


WRITER = """
import sys
from pathlib import Path
from ergometry.store.writer import Writer, create_run_folder, process_file

store, run, pid = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
writer = Writer(process_file(create_run_folder(store, run), pid))
print("ready", flush=True)
sys.stdin.readline()
for k in range(200):
    writer.add_row("losses", ("step", "t_s", "loss"), (k, k, pid))
    writer.commit(k)
writer.finish("completed", 0, 200.0)
"""


def test_writers_of_one_store_do_not_disturb_each_other(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), run, pid],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for run, pid in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("go\n")
        assert process.returncode == 0
    for name, pid in (("a", 1), ("a", 2), ("b", 1)):
        losses = load(tmp_path / name / f"process-{pid}.sqlite").tables["losses"]
        assert losses["step"].tolist() == [float(k) for k in range(200)]
        assert set(losses["loss"]) == {float(pid)}
