"""``erg equations``: the list, one section, JSON, the manual's page, and a wrong id."""

import json
import sys
from pathlib import Path

import pytest

from ergometry.cli import main
from ergometry.equations.catalogue import CATALOGUE

MANUAL = Path(__file__).parents[3]


@pytest.fixture
def erg(capsys, monkeypatch):
    """Run ``erg equations`` as a shell would, 80 columns wide; return (exit status, output, error)."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["erg", "equations", *words])
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_the_list_has_every_section_in_eighty_columns(erg):
    status, out, err = erg()
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert [line.split()[0] for line in out.splitlines()[1:] if line[0].isdigit()] == list(CATALOGUE)
    for entry in CATALOGUE.values():
        # Wrapped lines share their row with the verdict's column: only formulas of one line can be looked for.
        if len(entry.as_written) < 45:
            assert f"\n     {entry.as_written}" in out
    assert "…" not in out


@pytest.mark.parametrize("section_id", CATALOGUE)
def test_one_section_in_full(erg, section_id):
    entry = CATALOGUE[section_id]
    status, out, err = erg(section_id)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    found = squeezed(out)
    for words in (entry.title, entry.as_written, f"Verdict: {entry.verdict_text}", entry.why[1:], entry.repair[1:]):
        assert squeezed(words) in found
    for name in (*entry.names, *(symbol.symbol for symbol in entry.symbols), *entry.references):
        assert squeezed(name) in found


def test_json_is_the_catalogue(erg):
    assert json.loads(erg("--format", "json")[1]) == [entry.to_json() for entry in CATALOGUE.values()]
    assert json.loads(erg("6.1", "--format", "json")[1]) == CATALOGUE["6.1"].to_json()


@pytest.mark.parametrize("section_id", CATALOGUE)
def test_the_manuals_page_has_what_the_command_writes(erg, section_id):
    """If this fails: the rows of the page's table are those of `erg equations ID --format markdown`."""
    name, _, heading = CATALOGUE[section_id].page.partition("#")
    page = (MANUAL / name).read_text(encoding="utf-8")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert heading in {"".join(c for c in h[3:].lower() if c.isalnum() or c == " ").replace(" ", "-") for h in headings}
    written = erg(section_id, "--format", "markdown")[1]
    assert [line for line in written.splitlines() if line.startswith(("|", "## ")) and line not in page] == []


def test_no_cell_of_the_manual_is_cut_by_a_bar(erg):
    rows = [line for line in erg("--format", "markdown")[1].splitlines() if line.startswith("|")]
    assert rows and {line.replace(r"\|", "").count("|") for line in rows} == {5}


@pytest.mark.parametrize("word", ["10.1", "6", ""])
def test_an_unknown_id_exits_with_two_and_one_line(erg, word):
    status, out, err = erg(word)
    assert (status, out) == (2, "")
    assert err.startswith("erg: expected one of 1.1, 1.2") and err.endswith("list them with `erg equations`\n")
    assert len(err.splitlines()) == 1
