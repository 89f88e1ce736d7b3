"""What the command-line library rejects is said in the house's form, by every command, on one line."""

from __future__ import annotations

import sys

import pytest

from ergometry import cli

CASES = {
    "run": "expected SCRIPT [ARGS]..., got nothing; see erg run --help",
    "run --nope x.py": "expected an option of erg run, got --nope; did you mean --name or --store? "
    "erg run --help lists all",
    "run -z": "expected an option of erg run, got -z; see erg run --help",
    "run --sampling-hz often x.py": "expected --sampling-hz to be a number, got 'often'; see erg run --help",
    "run --live=3 x.py": "expected --live without a value, got one; see erg --help",
    "predict --devices two": "expected --devices to be a whole number, got 'two'; see erg predict --help",
    "plan": "expected RUN [RUN...], got nothing; see erg plan --help",
    "plan x --batch 1.5": "expected --batch to be a whole number, got '1.5'; see erg plan --help",
    "plan x --format pdf": "expected --format to be one of text, json, got 'pdf'; see erg plan --help",
    "plan x --energy": "expected a value after --energy, got none; see erg --help",
    "plan-power jobs.csv": "expected --power, got nothing; see erg plan-power --help",
    "export x": "expected --to (parquet, csv), got nothing; see erg export --help",
    "report a b": "expected no more words after those of erg report, got b; see erg report --help",
    "pln x": "expected a command of erg, got pln; did you mean 'plan'? erg --help lists all",
    "qqq x": "expected a command of erg, got qqq; erg --help lists all",
    "--nope": "expected an option of erg, got --nope; see erg --help",
}


def outcome(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["erg", *words.split()])
    # `python -m pytest` would be taken for the program, by its __main__.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("words", CASES)
def test_a_wrong_call_is_told_as_expected_got_remedy(words, monkeypatch, capsys):
    assert outcome(words, monkeypatch, capsys) == (2, f"erg: {CASES[words]}\n")


def test_no_word_at_all_shows_the_help_and_no_error(monkeypatch, capsys):
    status, told = outcome("", monkeypatch, capsys)
    assert (status, told) == (2, "")


def test_words_that_are_not_known_are_passed_on_whole():
    error = cli.in_house_form(Exception("Something  new\nwent wrong."))
    assert str(error) == "expected a call that erg understands, got Something new went wrong; see erg --help"
