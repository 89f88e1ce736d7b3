"""The catalogue: its 23 sections, their verdicts, and that what it says of names and units is so."""

import json

import pytest

from ergometry.core import units
from ergometry.core.errors import UsageError
from ergometry.equations.catalogue import CATALOGUE, FILES, section
from ergometry.equations.section import Verdict

SPLIT = {"physical": "vacuous", "algorithmic": "false"}
VERDICTS = {
    "1.1": "exact",
    "1.2": "model",
    "1.3": "model",
    "2.1": "exact",
    "2.2": "model",
    "2.3": "model",
    "3.1": "exact",
    "3.2": "exact",
    "4.1": "vacuous",
    "4.2": "model",
    "5.1": "model",
    "5.2": SPLIT,
    "6.1": "inconsistent",
    "6.2": "model",
    "6.3": SPLIT,
    "7.1": "exact",
    "7.2": "false",
    "8.1": "false",
    "8.2": "inconsistent",
    "8.3": "inconsistent",
    "9.1": SPLIT,
    "9.2": "model",
    "9.3": SPLIT,
}

every_section = pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)


def test_the_ids_and_verdicts_are_those_of_the_contract_in_order():
    assert {entry.id: entry.verdict_json() for entry in CATALOGUE.values()} == VERDICTS
    assert list(CATALOGUE) == sorted(VERDICTS)


def test_each_file_holds_one_section_of_the_list():
    assert [{entry.id[0] for entry in module.SECTIONS} for module in FILES] == [{str(n)} for n in range(1, 10)]


@every_section
def test_units_are_units_and_names_occur_once(entry):
    for unit in [*entry.names.values(), *(symbol.unit for symbol in entry.symbols)]:
        assert units.factor(unit, unit) == 1.0 and units.product(unit, "")[0] > 0
    assert not set(entry.as_written_names) & set(entry.repair_names)
    assert set(entry.needs) <= set(entry.names)
    assert all(name.isidentifier() for name in entry.names)


@every_section
def test_every_text_is_there(entry):
    assert all((entry.title, entry.as_written, entry.why, entry.repair, entry.tells, entry.symbols))
    assert len({symbol.symbol for symbol in entry.symbols}) == len(entry.symbols)


@every_section
def test_a_section_survives_json(entry):
    again = json.loads(json.dumps(entry.to_json(), allow_nan=False))
    assert again["as_written_names"] == dict(entry.as_written_names)
    assert [tuple(symbol.values()) for symbol in again["symbols"]] == list(entry.symbols)
    assert again["verdict"] == VERDICTS[entry.id]


def test_the_two_scales_stay_apart():
    for name, unit in ((n, u) for entry in CATALOGUE.values() for n, u in entry.names.items()):
        if "loss" in unit and "J" in unit:
            assert name == "power_term", "only 8.2's inconsistent term mixes joules and loss"


def test_an_unknown_id_is_a_usage_error_that_says_where_to_look():
    with pytest.raises(UsageError, match=r"one of 1\.1, .*9\.3, got '10\.1'; list them with `erg equations`"):
        section("10.1")


def test_verdicts_in_words():
    assert section("9.1").verdict_text == "vacuous (physical), false (algorithmic)"
    assert section("7.2").verdict is Verdict.FALSE and section("7.2").verdict_text == "false"
