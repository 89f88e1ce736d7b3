"""One table of where the joules went, in each format and at each width."""

from __future__ import annotations

import json
import math
import re

import pytest

from ergometry.core.errors import UsageError
from ergometry.report.by import FORMATS, by
from ergometry.report.spending import BY
from ergometry.work import accounts
from support.odd_runs import ODD_RUNS, attributed, modelled, uncalibrated


@pytest.mark.parametrize("kind", ODD_RUNS)
@pytest.mark.parametrize("what", BY)
def test_every_run_has_its_tables(kind, what):
    run = ODD_RUNS[kind]()
    for form in FORMATS:
        told = by(run, what, form)
        assert not re.search(r"\bnan\b|None", told.replace("NaN", "")), form
    json.loads(by(run, what, "json"), parse_constant=lambda word: pytest.fail(word))


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("what", BY)
def test_text_keeps_within_its_columns(what, width):
    for run in (attributed(), modelled(), uncalibrated()):
        assert max(map(len, by(run, what, width=width).splitlines())) <= width


def test_a_wide_table_has_every_column_and_a_narrow_one_the_joules():
    header = by(attributed(), "module", width=80).splitlines()[2].split()
    assert header == ["module", "energy", "share", "FLOP", "bytes", "roofline", "J/FLOP", "FLOP/B"]
    assert by(attributed(), "module", width=50).splitlines()[2].split()[:3] == ["module", "energy", "share"]


def test_modules_stand_within_those_that_hold_them():
    lines = by(attributed(), "module").splitlines()
    indent = {line.split()[0]: len(line) - len(line.lstrip()) for line in lines if line}
    assert indent["Language"] == 0
    assert indent["blocks"] == indent["head"] == 2
    assert indent["attention"] == 6


def test_json_has_every_row_and_sums_to_the_total():
    books = accounts(attributed())
    for what, shares in (("module", books.by_module), ("op", books.by_op)):
        told = json.loads(by(attributed(), what, "json"))
        assert told["schema"] == "ergometry.by/1"
        assert {row["name"] for row in told["rows"]} == {share.name for share in shares}
        joules = [row["energy"]["value"] for row in told["rows"]]
        assert math.fsum([*joules, told["rest"]["value"]]) == pytest.approx(told["total"]["value"])


def test_phases_come_with_their_components():
    told = json.loads(by(attributed(), "phase", "json"))
    for phase, parts in told["components"].items():
        (row,) = [row for row in told["rows"] if row["name"] == phase]
        assert math.fsum(q["value"] for q in parts.values()) == pytest.approx(row["energy"]["value"], abs=1e-6), phase
    text = by(attributed(), "phase")
    assert re.search(r"^phase +static +compute +memory +residual$", text, re.MULTILINE)
    assert re.search(r"^run .*kJ", text, re.MULTILINE)
    assert "## Components" in by(attributed(), "phase", "markdown")


def test_what_is_not_known_is_one_line_with_the_remedy():
    told = " ".join(by(uncalibrated(), "op").split())
    assert "Energy by op is not known: needs a calibration of cuda:0: erg calibrate --device cuda:0." in told
    assert "share" not in told
    assert json.loads(by(uncalibrated(), "op", "json"))["why"]


def test_markdown_rows_have_a_cell_for_each_column_whatever_a_module_is_called():
    for line in by(ODD_RUNS["little work"](), "module", "markdown").splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 9


def test_other_tables_and_formats_are_refused():
    with pytest.raises(UsageError, match="expected --by module, op or phase, got colour"):
        by(attributed(), "colour")
    with pytest.raises(UsageError, match="expected --format text, markdown or json, got html"):
        by(attributed(), "op", "html")
