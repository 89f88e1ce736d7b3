"""What the joules went to: rows whose sums are the run's, whichever way it is divided."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from ergometry.core.estimate import Estimate
from ergometry.report.rows import HEADER, OTHER, Row, cells, merged_name, summed
from ergometry.report.spending import BY, root_name, spending
from ergometry.report.summary import MOST_ROWS, summary, to_plain
from ergometry.work import accounts
from support.odd_runs import ODD_RUNS, attributed, modelled, uncalibrated
from support.synthetic import language_model, synthetic_run, with_counts

BOOKS = accounts(attributed())


def j(rows) -> float:
    return math.fsum(row.energy.value for row in rows)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_rows_and_rest_sum_to_the_total(by, most):
    spent = spending(BOOKS, by)
    assert spent.why == ""
    assert len(spent.top(most)) == min(most, len(spent.rows))
    assert j([*spent.top(most), spent.rest]) == pytest.approx(BOOKS.total.value, rel=1e-12)
    for quantity in ("flops", "bytes"):
        if by != "phase":
            mine = math.fsum(getattr(row, quantity) for row in spent.top(most))
            assert mine == pytest.approx(math.fsum(getattr(item, quantity) for item in BOOKS.items))


@pytest.mark.parametrize("most", [1, 7, 100])
def test_the_lines_of_a_table_end_with_the_rest_and_the_total(most):
    *lines, (_, rest), (_, whole) = spending(BOOKS, "module").lines(most, "Net")
    assert whole.energy == BOOKS.total
    assert rest.name == "not divided (data, evaluation, other)"
    assert lines[0][1].name == "Net"
    assert lines[0][1].energy.value + rest.energy.value == pytest.approx(BOOKS.total.value)
    assert len(lines) <= most


def test_the_dearest_comes_first():
    for by in BY:
        joules = [row.energy.value for row in spending(BOOKS, by).rows]
        assert joules == sorted(joules, reverse=True)


def test_phases_have_the_work_that_was_counted_in_them():
    rows = {row.name: row for row in spending(BOOKS, "phase").rows}
    assert rows["forward"].energy == BOOKS.by_phase["forward"]
    forward = [item for item in BOOKS.items if item.phase == "forward"]
    assert rows["forward"].flops == pytest.approx(math.fsum(item.flops for item in forward))
    assert rows["optimizer"].intensity.value == pytest.approx(300 * 1e9 / (300 * 2e10))
    assert math.isnan(rows["data"].flops)


def test_what_is_not_known_says_why_and_what_to_do():
    spent = spending(accounts(uncalibrated()), "module")
    assert spent.rows == ()
    assert "erg calibrate" in spent.why
    phases = {row.name: row for row in spending(accounts(uncalibrated()), "phase").rows}
    assert phases["forward"].flops > 0
    assert math.isnan(phases["forward"].roofline_s)


def test_where_the_rows_are_one_device_s_the_rest_names_the_others():
    half = tuple(replace(share, energy=share.energy * 0.5) for share in BOOKS.by_module)
    rest = spending(replace(BOOKS, by_module=half), "module").rest
    assert "other devices" in rest.name
    assert rest.energy.value + 0.5 * j(spending(BOOKS, "module").rows) == pytest.approx(BOOKS.total.value)


def test_a_sum_of_rows_has_no_wider_error_than_the_others_leave_it():
    spent = spending(BOOKS, "module")
    linear = math.fsum(row.energy.stderr for row in spent.rows)
    (whole,) = spent.top(1)
    assert whole.energy.stderr == pytest.approx(min(linear, BOOKS.total.stderr + spent.rest.energy.stderr))


def test_numbers_follow_from_energy_and_work():
    row = Row("a", Estimate(6.0, 0.6, "J"), 3e12, 1.5e11, 0.25)
    assert (row.j_per_flop.value, row.j_per_flop.stderr) == (pytest.approx(2e-12), pytest.approx(2e-13))
    assert row.intensity.value == pytest.approx(20.0)
    assert row.share(Estimate(24.0, 1.0, "J")).value == pytest.approx(0.25)
    assert cells(row, Estimate(24.0, 1.0, "J")) == {
        "energy": "6.0 ± 0.6 J",
        "share": "25 %",
        "flops": "3 T",
        "bytes": "150 GB",
        "roofline_s": "250 ms",
        "j_per_flop": "2 pJ",
        "intensity": "20",
    }
    assert list(cells(row, Estimate(24.0, 1.0, "J"))) == list(HEADER)


def test_nothing_is_divided_by_nothing():
    row = Row("a", Estimate(6.0, None, "J"), 0.0, 0.0)
    assert row.j_per_flop.value is row.intensity.value is None
    assert row.share(Estimate(0.0, None, "J")).value is None
    assert row.share(Estimate.unknown("J", "no sensor")).why == "no sensor"


def test_a_sum_says_how_many_it_holds():
    assert (
        merged_name(summed([Row("a", Estimate(1.0, None, "J")), Row("b", Estimate(1.0, None, "J"))], OTHER))
        == "other (2)"
    )
    assert merged_name(Row("", Estimate(1.0, None, "J"))) == "(the model itself)"


def test_a_row_is_quantities():
    for by in BY:
        for row in spending(BOOKS, by).rows:
            plain = to_plain(row.to_json(BOOKS.total), [])
            json.dumps(plain, allow_nan=False)
            for name, q in plain.items():
                assert name in ("name", "merged") or q["value"] is not None or q["why"], (by, row.name, name)


def test_the_outermost_module_is_named_by_its_class():
    assert root_name(attributed()) == "Language"
    assert root_name(modelled()) == "model"
    several = [*language_model(), language_model()[0] | {"root": "Critic"}]
    assert root_name(with_counts(synthetic_run(3), several)) == "model"


def test_the_summary_s_tables_sum_to_its_total():
    many = language_model(blocks=40)
    run = with_counts(attributed(), many)
    energy = summary(run)["energy"]
    for by in ("by_module", "by_op"):
        rows = energy[by]["rows"]
        assert len(rows) <= MOST_ROWS
        left = energy[by]["rest"]["value"]
        assert math.fsum(r["energy"]["value"] for r in rows) + left == pytest.approx(energy["total"]["value"])
    assert energy["by_module"]["rows"][-1]["name"] == OTHER
    assert sum(r["merged"] for r in energy["by_module"]["rows"]) == len(accounts(run).by_module)


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_any_run_can_be_divided(kind):
    books = accounts(ODD_RUNS[kind]())
    for by in BY:
        spent = spending(books, by)
        assert bool(spent.why) == (not spent.rows)
        if books.total.value is not None and spent.rows:
            assert j([*spent.rows, spent.rest]) == pytest.approx(books.total.value, rel=1e-9, abs=1e-9)


def test_operators_worth_nothing_are_one_line_of_a_table():
    tiny = tuple(replace(BOOKS.by_op[0], name=f"tiny{i}", energy=Estimate(1e-6, None, "J")) for i in range(5))
    spent = spending(replace(BOOKS, by_op=(*BOOKS.by_op, *tiny)), "op")
    *_, (_, other), _, _ = lines = spent.lines(100)
    assert (other.name, other.merged) == (OTHER, 5)
    assert math.fsum(row.energy.value for _, row in lines[:-1]) == pytest.approx(BOOKS.total.value)
