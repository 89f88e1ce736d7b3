"""``erg report`` and ``erg compare``, on a store with two runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ergometry.cli import app
from ergometry.core.errors import RunNotFound, UsageError
from support.stored import store_run
from support.synthetic import synthetic_run

FIRST, SECOND = "20260102-030405-aaaa", "20260102-030406-bbbb"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with two runs."""
    folder = tmp_path / "runs"
    store_run(synthetic_run(20, path=Path(FIRST)), folder)
    store_run(synthetic_run(30, power_w=70.0, path=Path(SECOND), started="2026-01-02T03:04:06Z"), folder)
    return folder


def erg(*words: object) -> str:
    """Run a command that must succeed and return what it printed."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def fails(*words: object) -> BaseException:
    """Run a command that must fail and return its error, which ``main`` would print as one line."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is not None
    return done.exception


def test_a_report_is_text_unless_told_otherwise(store):
    assert FIRST in erg("report", FIRST[:-2], "--store", store)
    assert "Energy by phase" in erg("report", "last", "--store", store)


def test_json_is_the_summary_and_nothing_else(store):
    document = json.loads(erg("report", "last", "--format", "json", "--store", store))
    assert document["run"]["id"] == SECOND
    assert document["energy"]["total"]["value"] == pytest.approx(70.0 * document["run"]["duration_s"], rel=1e-3)


def test_markdown_goes_to_standard_output(store):
    assert erg("report", "last", "--format", "markdown", "--store", store).startswith(f"# {SECOND}\n")


def test_a_page_goes_into_the_run_s_folder_and_its_path_is_printed(store):
    printed = erg("report", "last", "--format", "html", "--store", store)
    page = Path(printed.strip())
    assert page == store / SECOND / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("form", ["text", "json", "html", "markdown"])
def test_a_report_can_be_written_to_a_file(store, tmp_path, form):
    file = tmp_path / "out"
    assert erg("report", "last", "--format", form, "-o", file, "--store", store) == f"{file}\n"
    assert SECOND in file.read_text(encoding="utf-8")


def test_a_file_that_cannot_be_written_is_a_wrong_use(store, tmp_path):
    error = fails("report", "last", "-o", tmp_path / "missing" / "out", "--store", store)
    assert isinstance(error, UsageError)
    assert "name another" in str(error)


def test_the_store_may_come_from_the_environment(store, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_STORE", str(store))
    assert SECOND in erg("report", "last")


def test_a_run_that_is_not_there(store):
    assert isinstance(fails("report", "nothing", "--store", store), RunNotFound)


def test_another_format_is_refused(store):
    assert CliRunner().invoke(app, ["report", "last", "--format", "pdf", "--store", str(store)]).exit_code == 2


def test_one_table_of_where_the_joules_went(store):
    told = json.loads(erg("report", "last", "--by", "phase", "--format", "json", "--store", store))
    assert told["by"] == "phase"
    assert sum(row["energy"]["value"] for row in told["rows"]) == pytest.approx(told["total"]["value"])
    assert "is not known" in erg("report", "last", "--by", "module", "--store", store)
    assert erg("report", "last", "--by", "op", "--format", "markdown", "--store", store).startswith("# ")


def test_a_table_is_no_page(store):
    assert "text, markdown or json" in str(fails("report", "last", "--by", "op", "--format", "html", "--store", store))
    assert CliRunner().invoke(app, ["report", "last", "--by", "colour", "--store", str(store)]).exit_code == 2


def test_runs_are_compared_with_the_first(store):
    told = json.loads(erg("compare", FIRST, "last", "--format", "json", "--store", store))
    assert [run["id"] for run in told["runs"]] == [FIRST, SECOND]
    assert "difference" in erg("compare", FIRST, SECOND, "--store", store)
    assert "| difference |" in erg("compare", FIRST, SECOND, "--format", "markdown", "--store", store)


def test_one_run_cannot_be_compared(store):
    assert isinstance(fails("compare", FIRST, "--store", store), UsageError)
