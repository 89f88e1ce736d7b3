"""``erg verify``: the table, JSON, exit status, what goes where, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from ergometry import equations as eq
from ergometry.cli import app, main
from ergometry.core.errors import UsageError

QUICK = ("R8", "R11")


def erg(*words: str, status: int = 0):
    done = CliRunner().invoke(app, ["verify", *words])
    assert done.exit_code == status, done.output
    return done


def test_the_table_names_case_quantity_numbers_and_verdict_in_eighty_columns():
    out = erg(*QUICK).stdout
    assert max(map(len, out.splitlines())) <= 80
    lines = out.splitlines()
    assert lines[0].split() == ["expected", "here", "tolerance"]
    assert [line.split()[0] for line in lines if line.startswith("R")] == list(QUICK)
    (best,) = (line for line in lines if "B* =" in line)
    assert best.split()[-4:] == ["244.949", "244.949", "0.024", "pass"]
    assert lines[-1].startswith("9 of 9 checks passed; ")


def test_progress_goes_nowhere_but_to_a_terminals_standard_error(monkeypatch, capsys):
    assert erg(*QUICK).stderr == ""
    monkeypatch.setattr(sys, "argv", ["erg", "verify", *QUICK, "--format", "json"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        main()
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in err.splitlines()] == [["erg:", "R8"], ["erg:", "R11"]]
    assert len(json.loads(out)) == 9


def test_json_is_a_list_of_checks():
    rows = json.loads(erg("--format", "json", *QUICK).stdout)
    assert [row["case"] for row in rows] == ["R8"] * 3 + ["R11"] * 6
    assert all(row["passed"] is True and row["source"] == "exact" for row in rows)
    assert all(abs(row["value"] - row["expected"]) <= row["tolerance"] for row in rows)


def test_a_failed_check_is_shown_explained_and_told_by_the_exit_status(monkeypatch):
    monkeypatch.setattr(eq, "optimal_batch", lambda *_: 245.9)
    out = erg("R11", status=1).stdout
    (line,) = (line for line in out.splitlines() if "245.9" in line)
    assert line.endswith("FAIL")
    assert "FAILED: B* = √(B_c·e0/e1): 1e-4 of the least found by search" in out
    assert "5 of 6 checks passed, 1 failed; " in out
    rows = json.loads(erg("R11", "--format", "json", status=1).stdout)
    assert [row["passed"] for row in rows].count(False) == 1


def test_failures_of_one_reason_are_told_once(monkeypatch):
    for name in ("optimal_batch", "least_energy", "roofline_batch", "energy_optimal_power"):
        monkeypatch.setattr(eq, name, lambda *_: float("nan"))
    out = erg("R11", status=1).stdout
    assert out.count("FAIL\n") == 6 and out.count("FAILED: 6 checks: ") == 1
    assert erg("R11", "--format", "json", status=1).stdout.count("null") == 12  # value and stderr


def test_what_cannot_be_run_is_no_pass(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    out = erg("R8", status=1).stdout
    assert "not run: the case as a whole: cannot be run here: expected torch" in " ".join(out.split())
    assert "2 of 3 checks passed, 1 could not be run; " in out


def test_the_seed_changes_what_is_sampled_and_nothing_else():
    first, again, other = (
        json.loads(erg("r10", "--format", "json", *seed).stdout) for seed in ((), (), ("--seed", "3"))
    )
    for rows in (first, again, other):
        for row in rows:
            del row["seconds"]
    assert first == again
    assert first[-1]["value"] != other[-1]["value"]


def test_a_wrong_case_or_seed_is_one_line_and_status_two(monkeypatch, capsys):
    for words in (["R99"], ["--seed", "-1"]):
        done = CliRunner().invoke(app, ["verify", *words])
        assert isinstance(done.exception, UsageError) and done.stdout == ""
    monkeypatch.setattr(sys, "argv", ["erg", "verify", "R99"])
    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and "expected cases among R1, R2" in err


def test_the_exit_status_reaches_the_shell(monkeypatch, capsys):
    monkeypatch.setattr(eq, "optimal_batch", lambda *_: 0.0)
    monkeypatch.setattr(sys, "argv", ["erg", "verify", "R11"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "FAIL" in capsys.readouterr().out
