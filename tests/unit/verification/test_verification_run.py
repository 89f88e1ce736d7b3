"""``verify``: every case passes on this machine, each can fail, and what cannot be run says so."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from ergometry import equations as eq
from ergometry.core.errors import UsageError
from ergometry.verification import first_law, noise, perceptron, regression, rotation, stationary, trap
from ergometry.verification.check import Case, Check, sampled, stderr_of_mean
from ergometry.verification.run import CASES, chosen, verify

pytest.importorskip("torch")

CASE_IDS = [f"R{n}" for n in range(1, 12)]


@pytest.fixture(scope="module")
def rows():
    """Run everything once, as ``erg verify`` does."""
    return list(verify(chosen([])))


@pytest.fixture
def small(monkeypatch):
    """Sample fewer paths: enough to see what is broken."""
    monkeypatch.setattr(trap, "PATHS", 20_000)
    monkeypatch.setattr(perceptron, "PERCEPTRONS", 10)
    monkeypatch.setattr(stationary, "CHAINS", 500)
    monkeypatch.setattr(rotation, "PATHS", 500)
    monkeypatch.setattr(regression, "PATHS", 500)
    monkeypatch.setattr(noise, "DRAWS", 500)


def failing(case: str) -> list[str]:
    return [row.check.quantity for row in verify(chosen([case])) if row.check.passed is False]


@pytest.mark.parametrize("case", CASE_IDS)
def test_the_case_passes_here(rows, case):
    mine = [row for row in rows if row.case == case]
    assert mine and {row.title for row in mine} == {CASES[case].title}
    assert [(row.check.quantity, row.check.value, row.check.expected) for row in mine if not row.check.passed] == []


def test_every_line_fits_a_terminal_of_80_columns(rows):
    assert max(len(f"{row.case}  {row.title}") for row in rows) <= 80
    assert max(len(row.check.quantity) for row in rows) <= 32  # longer ones are folded


def test_the_numbers_of_the_reference_table_are_among_those_checked(rows):
    expected = [(row.case, row.check.expected) for row in rows]
    for case, number, digits in (
        ("R1", 0.1800, 4),
        ("R1", 0.4816, 4),
        ("R1", 0.6516, 4),
        ("R2", 0.4094, 4),
        ("R3", 0.7602, 4),
        ("R3", 0.1682, 4),
        ("R3", 1.0 / math.pi, 4),
        ("R4", 3.0, 4),
        ("R5", 0.5135, 4),
    ):
        assert (case, round(number, digits)) in [(c, round(e, digits)) for c, e in expected], (case, number)


def test_every_sampled_number_has_an_error_and_is_off_by_some_of_it(rows):
    counted = [row.check for row in rows if "sampled" in row.check.quantity]
    assert len(counted) >= 15
    assert all(check.stderr > 0.0 and check.value != check.expected for check in counted)


BROKEN = [
    ("R1", "trap_drag_work", 1.02),
    ("R1", "trap_drag_heat", 1.02),
    ("R1", "drag_information", 1.02),
    ("R1", "trap_optimal_work", 1.001),
    ("R2", "quench_efficiency", 1.0 + 1e-9),
    ("R2", "quench_heat", 1.0 + 1e-9),
    ("R2", "quench_speed_ratio", 1.0 + 1e-9),
    ("R2", "certified_efficiency", 1.1),
    ("R2", "least_entropy_production", 1.0 + 1e-9),
    ("R3", "hebbian_accuracy", 1.001),
    ("R3", "hebbian_efficiency", 1.001),
    ("R4", "stationary_variance", 1.0 + 1e-9),
    ("R5", "stationary_variance", 1.001),
    ("R9", "heat", 1.001),
    ("R9", "heat_as_written", 20.0),
    ("R11", "optimal_batch", 1.001),
    ("R11", "least_energy", 1.001),
    ("R11", "roofline_batch", 1.001),
    ("R11", "energy_optimal_power", 1.001),
]


@pytest.mark.parametrize(("case", "formula", "factor"), BROKEN, ids=lambda x: str(x))
def test_a_broken_formula_fails_its_case(case, formula, factor, monkeypatch, small):
    whole = getattr(eq, formula)
    monkeypatch.setattr(eq, formula, lambda *args: whole(*args) * factor)
    assert failing(case)


@pytest.mark.parametrize(
    ("case", "module", "function", "factor"),
    [
        ("R7", rotation, "entropy_production", 1.1),
        ("R7", rotation, "uncertainty_bound", 4.0),
        ("R9", regression, "jarzynski", 1.01),
        ("R8", regression, "information_of", 1.0 + 1e-6),
    ],
)
def test_a_broken_estimator_or_closed_form_fails_its_case(case, module, function, factor, monkeypatch, small):
    whole = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args: whole(*args) * factor)
    assert failing(case)


@pytest.mark.parametrize("name", ["grad_sq", "trace_cov", "of_training_set"])
def test_a_broken_noise_scale_fails_r10(name, monkeypatch):
    from ergometry.estimators import noise_scale

    whole = getattr(noise_scale, name)
    broken = (lambda a, b, _n: (a, b)) if name == "of_training_set" else lambda *args: whole(*args) * (1.0 + 1e-9)
    monkeypatch.setattr(noise_scale, name, broken)
    monkeypatch.setattr(noise, "DRAWS", 200)
    assert failing("R10")


def test_a_step_that_is_not_the_stated_one_fails_r4_and_r5(monkeypatch):
    """Momentum of the step, not of the formula: the stationary state is another."""
    steps = stationary.steps
    monkeypatch.setattr(stationary, "CHAINS", 2000)
    monkeypatch.setattr(stationary, "steps", lambda eta, momentum, rng: steps(1.1 * eta, momentum, rng))
    assert len(failing("R4")) == 3
    assert len(failing("R5")) == 2


def test_paths_that_do_not_start_in_equilibrium_fail_r7(monkeypatch):
    covariance = rotation.stationary_covariance
    monkeypatch.setattr(rotation, "PATHS", 1000)
    monkeypatch.setattr(rotation, "stationary_covariance", lambda a, d: covariance(a, 1.2 * d))
    assert any("sampled" in quantity for quantity in failing("R7"))


@pytest.mark.parametrize("field", ["before", "after"])
def test_one_heat_that_is_off_by_a_billionth_fails_r6(field, monkeypatch):
    recorded = first_law.Training.recorded

    def off(training):
        losses, end, why = recorded(training)
        changed = getattr(losses, field).copy()
        changed[5] += 1e-9
        return losses._replace(**{field: changed}), end, why

    monkeypatch.setattr(first_law.Training, "recorded", off)
    monkeypatch.setattr(first_law, "TOLERANCES", {"float64": 1e-10})
    assert [quantity for quantity in failing("R6") if quantity.startswith("Q")] == [
        f"Q − replay, {name} float64" for name in ("SGD", "momentum", "Adam", "AdamW")
    ]


def test_a_run_without_the_rows_fails_r6_and_says_how_many_there_were(monkeypatch):
    training = first_law.Training.recorded
    monkeypatch.setattr(first_law, "TOLERANCES", {"float64": 1e-10})

    def short(self):
        losses, end, _ = training(self)
        return first_law.Losses(*(column[:3] for column in losses)), end, "the run holds 3 of 12 steps"

    monkeypatch.setattr(first_law.Training, "recorded", short)
    rows = list(verify(chosen(["R6"])))
    assert len(rows) == 9 and sum(row.check.passed is False for row in rows) == 8
    assert {row.check.why for row in rows if not row.check.passed} == {"the run holds 3 of 12 steps"}
    assert rows[0].to_json()["value"] is None and rows[0].to_json()["passed"] is False


def test_without_torch_the_cases_that_need_it_say_so_and_do_not_pass(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = list(verify(chosen(["R6", "R8"])))
    assert [(row.case, row.check.passed) for row in rows] == [
        ("R6", None), ("R8", True), ("R8", True), ("R8", None)
    ]  # fmt: skip
    assert all("pip install 'ergometry[torch]'" in row.check.why for row in rows if row.check.passed is None)
    assert rows[0].to_json()["value"] is None and rows[0].to_json()["passed"] is None


def test_a_case_that_raises_fails_and_the_others_are_run():
    def raising(_rng):
        yield Check(quantity="first", expected=1.0, value=1.0, tolerance=0.0)
        raise ZeroDivisionError("by\nzero")

    rows = list(verify([Case("R1", "broken", raising), CASES["R11"]]))
    assert [row.check.passed for row in rows[:2]] == [True, False]
    assert rows[1].check.why == "raised ZeroDivisionError: by zero"
    assert {row.case for row in rows[2:]} == {"R11"} and all(row.check.passed for row in rows[2:])


def values(ids: list[str], seed: int) -> list[float | None]:
    return [row.check.value for row in verify(chosen(ids), seed) if row.case == "R9"]


def test_a_seed_gives_the_same_numbers_whichever_cases_are_run_and_another_seed_others(small):
    assert values(["R9"], 0) == values(["R8", "R9"], 0)
    assert not set(values(["R9"], 0)) & set(values(["R9"], 1))


def test_cases_are_chosen_in_any_spelling_each_once_and_in_order():
    assert [case.id for case in chosen([])] == CASE_IDS
    assert [case.id for case in chosen(["r11", "R2", "r2"])] == ["R2", "R11"]
    with pytest.raises(UsageError, match=r"expected cases among R1, .*R11, got R12"):
        chosen(["R1", "R12"])


def test_progress_is_told_before_each_case():
    told = []
    list(verify(chosen(["R8", "R11"]), progress=lambda case: told.append(case.id)))
    assert told == ["R8", "R11"]


@pytest.mark.parametrize(
    ("relation", "value", "passed"),
    [
        ("=", 1.1, True),
        ("=", 0.9, True),
        ("=", 1.11, False),
        ("=", 0.89, False),
        ("≤", -9.0, True),
        ("≤", 1.1, True),
        ("≤", 1.11, False),
        ("≥", 9.0, True),
        ("≥", 0.9, True),
        ("≥", 0.89, False),
        ("=", math.nan, False),
        ("≤", math.nan, False),
        ("≥", math.nan, False),
        ("=", math.inf, False),
        ("=", None, None),
    ],
)
def test_what_passes(relation, value, passed):
    check = Check(quantity="q", expected=1.0, value=value, tolerance=0.1 + 1e-15, relation=relation)
    assert check.passed is passed


def test_an_unknown_error_passes_nothing():
    assert sampled("q", 1.0, 1.0, math.nan).passed is False


def test_rows_survive_json(rows):
    again = json.loads(json.dumps([row.to_json() for row in rows], allow_nan=False))
    keys = "case title quantity relation expected source value stderr tolerance passed seconds why"
    assert all(list(row) == keys.split() for row in again)
    assert {row["source"] for row in again} == {"exact", "published"}
    assert all(row["seconds"] >= 0.0 for row in again)


def test_standard_error_of_the_mean():
    assert stderr_of_mean(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(math.sqrt(5.0 / 3.0 / 4.0), rel=1e-12)
