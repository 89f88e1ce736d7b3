"""Comparison: differences, ratios and their errors, in every format."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ergometry.core.errors import UsageError
from ergometry.report.compare import compare
from ergometry.work import accounts
from support.odd_runs import ODD_RUNS, attributed
from support.synthetic import MODELLED, synthetic_run

FIRST = synthetic_run(100, power_w=50.0, name="first")
SECOND = synthetic_run(200, power_w=80.0, name="second | run", path=Path("erg-runs/second"))


def quantities(*runs):
    return {q["name"]: q for q in json.loads(compare(runs, "json"))["quantities"]}


def test_differences_and_ratios_carry_both_errors():
    a, b = accounts(FIRST).total, accounts(SECOND).total
    energy = quantities(FIRST, SECOND)["energy.total"]
    (difference,), (ratio,) = energy["differences"], energy["ratios"]
    assert difference["value"] == pytest.approx(b.value - a.value)
    assert difference["stderr"] == pytest.approx(math.hypot(a.stderr, b.stderr))
    assert ratio["value"] == pytest.approx(b.value / a.value)
    assert ratio["stderr"] == pytest.approx(b.value / a.value * math.hypot(a.stderr / a.value, b.stderr / b.value))
    assert (difference["unit"], ratio["unit"]) == ("J", "")


def test_everything_that_was_asked_for_is_compared():
    names = set(quantities(FIRST, SECOND))
    assert names >= {"energy.total", "run.duration_s", "rates.j_per_example", "loss.last", "energy.by_phase.forward"}


def test_components_are_compared_where_both_runs_know_them():
    components = {name for name in quantities(attributed(), attributed()) if "by_component" in name}
    assert components == {f"energy.by_component.{c}" for c in ("static", "compute", "memory", "residual")}
    assert not [name for name in quantities(attributed(), FIRST) if "by_component" in name]
    assert not [name for name in quantities(FIRST, SECOND) if "by_component" in name]


def test_each_run_is_compared_with_the_first():
    third = synthetic_run(50, path=Path("erg-runs/third"))
    energy = quantities(FIRST, SECOND, third)["energy.total"]
    assert [len(energy[key]) for key in ("values", "differences", "ratios")] == [3, 2, 2]
    assert energy["differences"][1]["value"] < 0


def test_a_run_does_not_differ_from_itself():
    for q in quantities(FIRST, FIRST).values():
        (difference,) = q["differences"]
        assert difference["value"] in (0, None), q["name"]


def test_differences_that_only_rounding_makes_are_none():
    step_s = quantities(FIRST, SECOND)["rates.step_s"]
    assert (step_s["differences"][0]["value"], step_s["differences"][0]["stderr"]) == (0, 0)


def test_runs_metered_otherwise_are_said_to_be():
    other = synthetic_run(100, signal=MODELLED)
    notes = json.loads(compare([FIRST, other], "json"))["notes"]
    assert any("not metered in the same domains" in note for note in notes)
    assert any("not known in the same way" in note for note in notes)
    assert not any("not " in note for note in json.loads(compare([FIRST, SECOND], "json"))["notes"])


def test_text_fits_its_columns():
    told = compare([FIRST, SECOND], width=80)
    assert max(map(len, told.splitlines())) <= 80
    assert "energy (J)" in told
    assert "±" in told


def test_markdown_has_one_row_a_quantity():
    lines = [line for line in compare([FIRST, SECOND], "markdown").splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(quantities(FIRST, SECOND))
    assert r"second \| run" in lines[0]


@pytest.mark.parametrize("kind", ODD_RUNS)
@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_any_two_runs_can_be_compared(kind, form):
    odd = ODD_RUNS[kind]()
    for runs in ([odd, FIRST], [FIRST, odd]):
        assert "energy" in compare(runs, form) or odd.duration_s == 0


def test_it_takes_two():
    with pytest.raises(UsageError, match="expected two runs or more, got 1"):
        compare([FIRST])
    with pytest.raises(UsageError, match="expected a format"):
        compare([FIRST, SECOND], "html")


def test_a_run_without_energy_has_no_difference_and_says_why():
    energy = quantities(FIRST, replace(SECOND, samples=()))["energy.total"]
    assert energy["differences"][0]["value"] is None
    assert "no power source" in energy["differences"][0]["why"]


def test_losses_are_said_to_be_of_single_minibatches():
    assert "single minibatches" in compare([synthetic_run(50), synthetic_run(60)])
