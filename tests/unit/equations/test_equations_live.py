"""Live values: all there, in the catalogue's units, right for a run of known truth, and calm about odd runs."""

import json
import math
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.run import Table
from ergometry.equations import entries, readings
from ergometry.equations.catalogue import CATALOGUE
from ergometry.equations.live import values
from ergometry.equations.readings import read
from ergometry.work import accounts
from support.synthetic import MODELLED, synthetic_run

KT = 1.380649e-23 * 300.0
Q_KEYS = {"value", "stderr", "unit", "provenance", "method", "why"}


def live(run):
    return entries(run, accounts(run))


def number(found, section_id, name):
    entry = found[section_id]
    return {**entry["as_written"], **entry["repair"]}[name]["value"]


def with_rows(run, name, **columns):
    """Return the run with columns of one of its tables replaced."""
    table = run.tables[name]
    rows = table.rows.copy()
    for column, new in columns.items():
        rows[:, table.columns.index(column)] = new
    return replace(run, tables={**run.tables, name: Table(table.columns, rows)})


def check_contract(found):
    """Hold the JSON contract: every id, every name with its unit, a reason beside every null."""
    assert list(found) == list(CATALOGUE)
    for section_id, entry in CATALOGUE.items():
        got = found[section_id]
        assert set(got) == {"title", "verdict", "why", "as_written", "repair"}
        assert (got["title"], got["verdict"], got["why"]) == (entry.title, entry.verdict_json(), entry.why)
        for part, names in (("as_written", entry.as_written_names), ("repair", entry.repair_names)):
            assert {name: q["unit"] for name, q in got[part].items()} == dict(names)
            for name, q in got[part].items():
                assert set(q) == Q_KEYS
                assert q["value"] is not None or q["why"], f"{section_id} {name} is null without a reason"
    json.dumps(found, allow_nan=False)


def test_every_name_is_read_of_the_run_or_the_catalogue_says_what_it_needs():
    run = synthetic_run()
    filled = values(read(run, accounts(run)))
    for section_id, entry in CATALOGUE.items():
        got = set(filled.get(section_id, {}))
        assert got <= set(entry.names), f"{section_id} fills a name that it does not list"
        assert got | set(entry.needs) == set(entry.names), section_id


def test_a_whole_run_holds_the_contract():
    check_contract(live(synthetic_run()))


def test_the_values_of_a_run_of_known_truth():
    run = with_rows(synthetic_run(100, power_w=50.0), "losses", loss=2.5)
    found = live(run)
    joules, seconds = 50.0 * run.duration_s, run.duration_s
    nats = 100 * 2048 * (math.log(256) - 2.5)
    bits = nats / math.log(2)
    expected = {
        ("1.1", "W_total"): joules,
        ("1.1", "W_useful"): KT * nats,
        ("1.1", "W_dissipative"): joules,
        ("1.1", "useful_fraction"): KT * nats / joules,
        ("1.1", "delta_U"): 0.0,
        ("1.2", "W_bit"): KT * math.log(2),
        ("1.2", "W_useful"): KT * nats,
        ("1.2", "information_nat"): nats,
        ("1.2", "information_bit"): bits,
        ("2.1", "P_communication"): 0.0,
        ("2.1", "P_measured"): 50.0,
        ("2.2", "nu_0"): 100 / seconds,
        ("2.2", "flop_per_step"): 6e9,
        ("2.2", "shortfall"): 6e4,
        ("3.1", "eta_thermo"): KT * nats / joules,
        ("3.2", "eta_power"): nats / joules,
        ("3.2", "eta_power_bit"): bits / joules,
        ("3.2", "joules_per_bit"): joules / bits,
        ("5.1", "nu_0"): 100 / seconds,
        ("5.1", "P_max"): 50.0,
        ("5.2", "t_min"): KT * nats / 50.0,
        ("5.2", "t_actual"): seconds,
        ("6.1", "E_used"): joules,
        ("6.1", "B_opt"): math.sqrt(nats / 100),
        ("6.1", "B_actual"): 32.0,
        ("6.2", "throughput"): 3200 / seconds,
        ("6.3", "P_min"): KT * nats / seconds,
        ("6.3", "P_mean"): 50.0,
        ("8.1", "P_mean_scheduled"): 100.0 / 3,
        ("8.1", "E_scheduled"): 100.0 / 3 * seconds,
        ("8.1", "P_constant"): 50.0,
        ("8.2", "eta_used"): 0.01,  # the next rate is of step 100
        ("8.3", "B_actual"): 32.0,
        ("9.1", "I_max"): joules / (KT * math.log(2)),
        ("9.1", "I"): bits,
        ("9.1", "margin"): joules / (KT * nats),
        ("9.3", "I_rate_max"): 50.0 / (KT * math.log(2)),
        ("9.3", "I_rate"): bits / seconds,
    }
    for (section_id, name), value in expected.items():
        assert number(found, section_id, name) == pytest.approx(value, rel=1e-6, abs=0.0), (section_id, name)


def test_what_is_exact_by_definition_has_no_error():
    found = live(synthetic_run())
    for section_id, part, name in (("1.2", "repair", "information_nat"), ("6.1", "as_written", "B_opt")):
        assert found[section_id][part][name]["stderr"] == 0.0
    worst = found["8.1"]["repair"]["speed_factor_worst"]
    assert worst["value"] == pytest.approx(0.97970528, abs=1e-8) and worst["stderr"] == 0.0


def test_the_ledgers_values():
    run = synthetic_run(200)
    found, ledger = live(run), run.tables["ledger"]
    eta = np.where(np.arange(200) < 100, 0.01, 0.001)
    work, path, g2 = ledger["work"].sum(), ledger["path"].sum(), ledger["grad_sq"]
    assert number(found, "1.3", "W_diss") == pytest.approx(np.sum(eta * g2), rel=1e-12)
    assert number(found, "1.3", "W_ito") == number(found, "7.1", "W_ito") == pytest.approx(work, rel=1e-12)
    assert number(found, "7.1", "W_gradient") == pytest.approx(path, rel=1e-12)
    assert number(found, "7.1", "alignment_ito") == pytest.approx(0.9, rel=1e-12)
    assert number(found, "4.2", "path_cost") == pytest.approx(np.sum(ledger["dtheta_sq"] / eta), rel=1e-12)
    losses = run.tables["losses"]["loss"]
    assert number(found, "7.1", "delta_L") == pytest.approx(losses[-1] - losses[0], rel=1e-12)
    rate = 200 / run.duration_s
    assert number(found, "8.2", "power_term") == pytest.approx(50.0 / (rate * 1e5 * g2.mean()), rel=1e-6)
    stderr = found["1.3"]["as_written"]["W_diss"]["stderr"]
    assert stderr == pytest.approx(math.sqrt(np.sum((eta * 0.1 * g2) ** 2)), rel=1e-9)


def test_what_is_missing_says_truly_what_it_needs():
    found = live(synthetic_run())

    def why(section_id, part, name):
        q = found[section_id][part][name]
        assert q["value"] is None
        return q["why"]

    assert "same batch" in why("7.1", "repair", "alignment")
    assert "certified mode only" in why("3.1", "repair", "eta_certified")
    assert "B_noise stands in" in why("6.1", "repair", "B_star")
    assert "calibrated device" in why("5.1", "as_written", "nu_max")
    assert "initial snapshot" in why("4.2", "repair", "optimality")
    assert "two batch sizes" in why("1.3", "repair", "W_unbiased")


def test_unknown_information_carries_its_reason_everywhere():
    found = live(synthetic_run(classes=None))
    for section_id, name in (("1.1", "W_dissipative"), ("3.2", "eta_power"), ("6.1", "B_opt"), ("9.3", "I_rate")):
        q = {**found[section_id]["as_written"], **found[section_id]["repair"]}[name]
        assert q["value"] is None and q["why"].startswith("needs the number of classes"), (section_id, name)
    assert number(found, "1.1", "W_total") is not None


def test_what_was_assumed_or_modelled_says_so():
    found = live(synthetic_run(signal=MODELLED))
    assert found["1.1"]["as_written"]["W_total"]["provenance"] == "modelled"
    assert found["1.2"]["as_written"]["W_useful"]["provenance"] == "assumed"
    assert found["3.2"]["as_written"]["eta_power"]["provenance"] == "modelled"
    assert "not certified" in found["3.1"]["as_written"]["eta_thermo"]["why"]
    assert found["3.2"]["as_written"]["eta_power"]["stderr"] > 0


def test_the_largest_power_is_that_of_the_busiest_second():
    def power(t):
        return np.where((t >= 5.0) & (t < 6.0), 120.0, 40.0)

    found = live(synthetic_run(200, power_w=power, sampling_hz=20.0))
    assert number(found, "5.2", "P_max") == pytest.approx(120.0, rel=0.01)
    assert number(found, "6.3", "P_mean") < 50.0
    assert found["5.2"]["as_written"]["P_max"]["stderr"] > 0


@pytest.mark.parametrize("second", range(9))
def test_every_whole_second_is_looked_at_also_across_blocks(monkeypatch, second):
    monkeypatch.setattr(readings, "_BLOCK", 4)

    def power(t):
        return np.where((t >= second) & (t < second + 1), 120.0, 40.0)

    run = replace(synthetic_run(100, power_w=power, sampling_hz=20.0), duration_s=9.0)
    assert number(live(run), "5.1", "P_max") == pytest.approx(120.0, rel=0.01)


def test_a_run_too_short_for_seconds_has_its_mean_power():
    q = live(synthetic_run(5, power_w=40.0))["5.2"]["as_written"]["P_max"]
    assert q["value"] == pytest.approx(40.0, rel=1e-6) and "too short" in q["why"]


@settings(max_examples=20)
@given(c=st.floats(0.01, 100.0))
def test_joules_scale_what_is_in_joules_and_nothing_else(c):
    one, other = live(synthetic_run(60, power_w=50.0)), live(synthetic_run(60, power_w=50.0 * c))
    powers = {"J": 1, "W": 1, "J/bit": 1, "nat/J": -1, "bit/J": -1}
    for section_id, name in (("1.1", "W_total"), ("3.2", "eta_power"), ("3.2", "joules_per_bit"), ("5.1", "P_max")):
        unit = CATALOGUE[section_id].names[name]
        ratio = number(other, section_id, name) / number(one, section_id, name)
        assert ratio == pytest.approx(c ** powers[unit], rel=1e-4), (section_id, name)
    for section_id, name in (("1.2", "information_nat"), ("1.3", "W_diss"), ("7.1", "alignment_ito"), ("6.1", "B_opt")):
        assert number(other, section_id, name) == pytest.approx(number(one, section_id, name), rel=1e-12)


def odd_runs():
    base = synthetic_run(20)
    nothing = replace(base, tables={}, samples=(), meta={})
    empty = {name: Table.empty(table.columns) for name, table in base.tables.items()}
    diverged = with_rows(base, "losses", loss=np.where(np.arange(20) < 5, 2.0, math.nan))
    return {
        "no steps": synthetic_run(0),
        "one step": synthetic_run(1),
        "no tables, samples or labels": nothing,
        "empty tables": replace(base, tables=empty),
        "no duration": replace(base, duration_s=0.0),
        "NaN losses": with_rows(base, "losses", loss=math.nan),
        "diverged": with_rows(diverged, "ledger", grad_sq=math.inf, work=math.nan, path=math.nan),
        "huge losses": with_rows(base, "losses", loss=1e308),
        "huge gradients": with_rows(base, "ledger", grad_sq=1e308, grad_sq_stderr=1e308, dtheta_sq=1e308),
        "no step numbers": with_rows(with_rows(base, "steps", step=math.nan), "ledger", step=math.nan),
        "one step number": with_rows(with_rows(base, "steps", step=3.0), "losses", step=3.0),
        "unknown sizes": with_rows(base, "steps", examples=math.nan, tokens=math.nan, flops=math.nan, flags=math.nan),
        "rates of zero": with_rows(base, "learning_rates", lr=0.0),
        "rates that are NaN": with_rows(base, "learning_rates", lr=math.nan),
        "no power": replace(base, samples=()),
        "zero parameters": synthetic_run(20, parameters=0),
    }


@pytest.mark.parametrize("run", odd_runs().values(), ids=odd_runs())
def test_odd_runs_neither_raise_nor_warn_and_hold_the_contract(run):
    books = accounts(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_contract(entries(run, books))


def test_a_million_steps_take_a_few_seconds():
    n, base = 1_000_000, synthetic_run(100)
    tables = dict(base.tables)
    for name in ("steps", "losses", "ledger"):
        rows = np.tile(base.tables[name].rows, (n // 100, 1))
        rows[:, 0] = np.arange(n)
        tables[name] = Table(base.tables[name].columns, rows)
    decay = np.column_stack((np.arange(n), np.zeros(n), np.zeros(n), 0.1 / (1 + np.arange(n))))
    tables["learning_rates"] = Table(series.LEARNING_RATES.columns, decay)
    run, books = replace(base, tables=tables), accounts(base)
    began = time.process_time()
    found = entries(run, books)
    # processor time, with room for a slow machine: a loop over steps takes ten times as long
    assert time.process_time() - began < 4.0
    assert number(found, "1.3", "W_ito") == pytest.approx(1e4 * base.tables["ledger"]["work"].sum(), rel=1e-9)
