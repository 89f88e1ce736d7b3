"""The equations that need prices, on a training whose work and joules are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.equations import entries
from ergometry.equations.live import values
from ergometry.equations.priced import combined, read_priced
from ergometry.equations.readings import read
from ergometry.sensors.accelerator import Work
from ergometry.work import accounts
from support.attributed import COUNTER, MODELS, UNITS, calibrate, training
from support.odd_runs import with_table

KNOWN = {"cuda:0": calibrate(COUNTER, seed=1)}
RUN, TRUTH = training(MODELS["mixed"], seed=2)
BOOKS = accounts(RUN, calibrations=KNOWN)
OPS = MODELS["mixed"]
WORK = RUN.table(series.WORK)
STEPS = len(WORK)


def quantity(section: str, name: str) -> Estimate:
    return values(read(RUN, BOOKS))[section][name]


def trained(component: str) -> float:
    return sum(TRUTH.by_both.get((phase, component), 0.0) for phase in ("forward", "backward", "optimizer"))


def test_the_powers_of_the_parts_are_the_true_ones():
    for component in ("compute", "memory", "static"):
        true = TRUTH.by_component[component] / RUN.duration_s
        assert quantity("2.1", f"P_{component}").value == pytest.approx(true, rel=0.05)
    parts = [quantity("2.1", f"P_{p}").value for p in ("compute", "memory", "communication", "static", "residual")]
    assert sum(parts) == pytest.approx(quantity("2.1", "P_measured").value, rel=1e-9)


def test_counted_work_at_its_price_is_the_power_of_training():
    assert quantity("2.2", "P_counted").value == pytest.approx(trained("compute") / RUN.duration_s, rel=0.05)
    assert quantity("2.3", "P_bytes").value == pytest.approx(trained("memory") / RUN.duration_s, rel=0.05)
    assert quantity("2.2", "P_counted").stderr > 0


def test_as_written_the_power_is_short_by_the_flop_per_parameter():
    flop_per_step = (WORK["forward_flops"] + WORK["backward_flops"]).mean()
    ratio = quantity("2.2", "P_counted").value / quantity("2.2", "P_compute").value
    assert ratio == pytest.approx(flop_per_step / 1e9, rel=1e-9)
    assert quantity("2.3", "P_memory").value < quantity("2.3", "P_bytes").value


def test_energies_per_step_and_example_are_the_true_ones():
    priced = read_priced(RUN, BOOKS)
    update = TRUTH.by_both["optimizer", "memory"] / STEPS
    passes = sum(TRUTH.by_both[p, c] for p in ("forward", "backward") for c in ("compute", "memory"))
    assert priced.e0d.value == pytest.approx(update, rel=0.05)
    assert priced.e1d.value == pytest.approx(passes / (32 * STEPS), rel=0.05)
    whole = priced.e0d.value * STEPS + priced.e1d.value * 32 * STEPS
    assert whole == pytest.approx(trained("compute") + trained("memory"), rel=0.05)


def test_weights_that_are_read_for_every_micro_batch_go_with_the_examples():
    told = [dict(profile) for profile in RUN.meta["profiles"]]
    told[0]["items"] = [[*i[:5], i[7], 0.0, 0.0, i[8], i[9]] for i in told[0]["items"]]  # half of it is of weights
    run = replace(RUN, meta={**RUN.meta, "profiles": told})
    once = read_priced(run, accounts(run, calibrations=KNOWN))
    rows = run.table(series.STEPS).rows.copy()
    rows[:, series.STEPS.columns.index("backwards")] = 4.0
    again = with_table(run, series.STEPS, rows)
    accumulated = read_priced(again, accounts(again, calibrations=KNOWN))
    weights = 0.5 * WORK["forward_bytes"].sum() * once.e_byte.value
    assert (once.e0d.value - accumulated.e0d.value) * STEPS == pytest.approx(weights, rel=1e-6)
    assert (accumulated.e1d.value - once.e1d.value) * 32 * STEPS == pytest.approx(weights, rel=1e-6)


def test_rates_stay_below_what_roofline_and_power_allow():
    roofline, rate = quantity("5.1", "nu_roofline").value, quantity("5.1", "nu_0").value
    least_s = sum(UNITS[op.dtype].do(Work(op.flops, op.bytes)).seconds for op in OPS)
    assert rate < roofline
    # The mean length of a batch is about one, a backward twice a forward.
    assert 1 / roofline == pytest.approx(3 * least_s + 4 * sum(o.parameter_bytes for o in OPS) / 2e12, rel=0.1)
    assert quantity("6.2", "throughput").value < quantity("6.2", "throughput_allowed").value
    assert quantity("5.1", "nu_max").value == quantity("6.2", "throughput_max").value > roofline


def test_the_contract_holds_and_without_a_calibration_says_what_it_needs():
    found, plain = entries(RUN, BOOKS), entries(RUN, accounts(RUN))
    for section, part, name in (
        ("2.2", "as_written", "P_compute"),
        ("2.2", "repair", "P_counted"),
        ("2.3", "as_written", "P_memory"),
        ("2.3", "repair", "P_bytes"),
        ("5.1", "as_written", "nu_max"),
        ("5.1", "repair", "nu_roofline"),
        ("6.2", "as_written", "throughput_max"),
        ("6.2", "repair", "throughput_allowed"),
    ):
        assert found[section][part][name]["value"] > 0
        assert plain[section][part][name]["value"] is None and "calibrated" in plain[section][part][name]["why"]


def test_errors_follow_the_formula():
    a, b = Estimate(3.0, 0.3, "W", Provenance.MODELLED), Estimate(2.0, 0.1, "s")
    found = combined(lambda x, y: x**2 / y, [a, b], "J", "m")
    assert (found.value, found.provenance, found.method) == (4.5, Provenance.MODELLED, "m")
    assert found.stderr == pytest.approx(((2 * 3 / 2 * 0.3) ** 2 + (9 / 4 * 0.1) ** 2) ** 0.5, rel=0.01)
    assert combined(lambda x: 1 / x, [Estimate(0.0, 0.0)], "", "").value is None
    assert combined(lambda x: x, [Estimate.unknown("", "because")], "", "").why == "because"
