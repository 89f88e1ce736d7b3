"""Names of runs, and stores that cannot be used."""

import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import StoreError
from ergometry.store.folders import create_run_folder, default_store, new_run_id
from support.stored import ordinary_user


@given(st.integers(0, 4_000_000_000), st.binary(min_size=4, max_size=4))
def test_an_id_has_one_form_and_sorts_by_time(now_s, noise):
    run_id = new_run_id(now_s, lambda n: noise[:n])
    assert re.fullmatch(r"\d{8}-\d{6}-[a-km-z2-9]{4}", run_id)
    assert "o" not in run_id
    assert run_id[:15] < new_run_id(now_s + 1, lambda n: noise[:n])[:15]


def test_two_ids_of_one_second_differ():
    assert len({new_run_id(1e9) for _ in range(50)}) >= 49


def test_the_store_is_named_by_the_environment_else_beside_the_script(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERGOMETRY_STORE", "elsewhere")
    assert default_store() == tmp_path / "elsewhere"
    for unset in ("", None):
        monkeypatch.setenv("ERGOMETRY_STORE", unset) if unset is not None else monkeypatch.delenv("ERGOMETRY_STORE")
        assert default_store() == tmp_path / "erg-runs"


def test_the_folder_is_made_with_the_store_around_it_and_kept(tmp_path):
    folder = create_run_folder(tmp_path / "a" / "b", "run")
    (folder / "process-1.sqlite").touch()
    assert create_run_folder(tmp_path / "a" / "b", "run") == folder
    assert (folder / "process-1.sqlite").exists()


@pytest.mark.parametrize("store", ["file", "file/below"])
def test_a_file_is_no_store(tmp_path, store):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="which is a file or lies inside one; choose another with --store"):
        create_run_folder(tmp_path / store, "run")


def test_a_name_that_the_system_refuses_is_said_so(tmp_path):
    with pytest.raises(StoreError, match="File name too long"):
        create_run_folder(tmp_path / ("x" * 300), "run")


def test_a_folder_without_permission_is_no_store():
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        closed = Path(top) / "closed"
        (closed / "run").mkdir(parents=True)
        (closed / "run").chmod(0o555)
        closed.chmod(0o555)
        with ordinary_user():
            for run in ("run", "new"):
                with pytest.raises(StoreError, match=r"\([Pp]ermission denied\); choose another with --store"):
                    create_run_folder(closed, run)
        closed.chmod(0o755)
        (closed / "run").chmod(0o755)
