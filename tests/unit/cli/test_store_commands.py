"""``erg ls``, ``erg rm`` and ``erg export``: words, streams and exit statuses."""

import json
import sys
from pathlib import Path

import pytest

from ergometry.cli import main
from ergometry.store.reader import load
from support.stored import store_run
from support.synthetic import synthetic_run


@pytest.fixture
def erg(capsys, monkeypatch, tmp_path):
    """Run ``erg`` as a shell would in a folder with two runs; return (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("ERGOMETRY_STORE", raising=False)
    store_run(synthetic_run(3, path=Path("20260101-000000-aaaa")), tmp_path / "erg-runs")
    long = {"name": "a name of some length", "tags": ["[red]", "sweep"], "started": "2026-01-03T00:00:00Z"}
    store_run(synthetic_run(900, path=Path("20260102-000000-bbbb"), **long), tmp_path / "erg-runs")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["erg", *words])
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_ls_fits_eighty_columns_and_cuts_only_what_is_long(erg):
    status, out, err = erg("ls")
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 3)
    assert max(map(len, lines)) <= 80
    for word in ("20260101-000000-aaaa", "completed", "1.0 s", "01-02 03:04"):
        assert word in lines[1]
    for word in ("20260102-000000-bbbb", "a na", "[red", "0:01:39", "01-03 00:00"):
        assert word in lines[2]


def test_ls_shows_all_where_there_is_room_and_no_empty_columns(erg, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "a name of some length  [red] sweep" in erg("ls")[1]
    assert erg("rm", "last")[0] == 0
    assert erg("ls")[1].split("\n")[0].split() == ["id", "started", "status", "duration", "command"]


def test_ls_by_tag_and_as_json(erg, tmp_path):
    status, out, err = erg("ls", "--tag", "sweep", "--format", "json")
    (run,) = json.loads(out)
    assert (status, err, run["id"], run["tags"]) == (0, "", "20260102-000000-bbbb", ["[red]", "sweep"])
    assert run["duration_s"] == load(Path(run["path"])).duration_s
    assert json.loads(erg("ls", "--store", "absent", "--format", "json")[1]) == []


def test_ls_of_nothing_says_so_beside_the_output(erg, tmp_path):
    assert erg("ls", "--store", "absent") == (0, "", f"erg: no runs in {Path('absent')}\n")
    assert erg("ls", "--tag", "none") == (0, "", f"erg: no runs in {tmp_path / 'erg-runs'} with tag none\n")


def test_ls_lists_a_damaged_run_with_its_error_beside_the_output(erg, tmp_path):
    (tmp_path / "erg-runs" / "20260101-000000-aaaa" / "process-1.sqlite").write_bytes(b"x")
    status, out, err = erg("ls")
    assert status == 0
    assert "unreadable" in out
    assert err.startswith("erg: 20260101-000000-aaaa: expected a run of ergometry's, got ")
    assert err.count("\n") == 1


def test_the_store_of_the_environment_is_used(erg, tmp_path, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_STORE", str(tmp_path / "other"))
    assert erg("ls")[2] == f"erg: no runs in {tmp_path / 'other'}\n"


def test_rm_deletes_the_runs_that_are_named_once_each(erg, tmp_path):
    status, out, err = erg("rm", "last", "20260102", "20260101")
    assert (status, out) == (0, "")
    assert [line.split("/")[-1] for line in err.splitlines()] == ["20260102-000000-bbbb", "20260101-000000-aaaa"]
    assert list((tmp_path / "erg-runs").iterdir()) == []


def test_rm_deletes_nothing_if_one_is_not_found(erg, tmp_path):
    status, out, err = erg("rm", "20260101", "absent")
    store = tmp_path / "erg-runs"
    assert (status, out) == (1, "")
    assert err == f"erg: expected a run of {store}, got 'absent'; erg ls lists them; --store names another store\n"
    assert len(list(store.iterdir())) == 2


def test_rm_refuses_a_run_in_progress_unless_forced(erg, tmp_path):
    running = store_run(synthetic_run(3, path=Path("c")), tmp_path / "erg-runs", finished=False)
    status, _, err = erg("rm", "c")
    assert (status, err) == (1, "erg: expected a run that has ended, got c, in progress; stop it, or use --force\n")
    assert erg("rm", "c", "--force")[0] == 0
    assert not running.exists()


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_export_prints_the_files_and_writes_them(erg, tmp_path, to):
    status, out, err = erg("export", "last", "--to", to, "-o", "out")
    assert (status, err) == (0, "")
    assert sorted(out.split()) == sorted(f"out/{path.name}" for path in (tmp_path / "out").iterdir())
    assert f"out/steps.{to}" in out.split()
    status, out, err = erg("export", "last", "--to", to, "-o", "out")
    assert (status, out) == (1, "")
    assert err == f"erg: expected no files of these names yet, got out/steps.{to}; choose another -o, or use --force\n"
    assert erg("export", "last", "--to", to, "-o", "out", "--force")[0] == 0


def test_export_goes_to_a_folder_named_after_the_run(erg, tmp_path):
    assert erg("export", "20260101", "--to", "csv")[0] == 0
    assert (tmp_path / "20260101-000000-aaaa" / "steps.csv").exists()


def test_a_wrong_use_has_status_two(erg):
    for words in (("export", "last"), ("export", "last", "--to", "xlsx"), ("rm",), ("ls", "--format", "html")):
        status, out, err = erg(*words)
        assert (status, out) == (2, "")
        assert err
