"""Figures: what is drawn is what was measured, and never more points than a screen can show."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Estimate
from ergometry.report import thermodynamics
from ergometry.report.book import Book
from ergometry.report.figures import figures, power_over_time
from ergometry.report.plots import MOST_BINS, energy_unit, paired, rounded, time_unit
from support.odd_runs import ODD_RUNS, attributed, memory_and_core, modelled, wave, with_table
from support.synthetic import synthetic_run

STYLE = files("ergometry.report").joinpath("templates/style.css").read_text(encoding="utf-8")


def drawn(run):
    return {figure.name: figure for figure in figures(Book.of(run))}


def lines(figure, view=0):
    return {t["name"]: t for t in figure.views[view].plot["data"] if not t["meta"].get("band")}


def area_j(layer) -> float:
    """Return the area under a layer that is drawn in steps, J (its time axis in seconds)."""
    return float(np.sum(np.diff(layer["x"]) * np.array(layer["y"][:-1])))


def test_a_layer_s_area_is_its_phase_s_energy():
    book = Book.of(synthetic_run(power_w=wave))
    layers = lines(drawn(book.run)["power"])
    for phase, energy in book.accounts.by_phase.items():
        assert area_j(layers[phase]) == pytest.approx(energy.value, rel=2e-3, abs=0.5), phase


@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_layers_of_each_view_stack_to_the_total(view):
    book = Book.of(memory_and_core())
    layers = lines(drawn(book.run)["power"], view)
    assert sum(map(area_j, layers.values())) == pytest.approx(book.accounts.total.value, rel=1e-4)


def test_the_components_drawn_are_those_that_are_known():
    assert set(lines(drawn(modelled())["power"], 1)) == {"static", "residual, not yet split"}
    assert set(lines(drawn(memory_and_core())["power"], 1)) == {"memory", "residual, not yet split"}


def test_the_components_of_a_calibrated_run_have_the_area_of_their_joules():
    book = Book.of(attributed())
    layers = lines(drawn(book.run)["power"], 1)
    areas = {name: area_j(layer) for name, layer in layers.items()}
    assert sum(areas.values()) == pytest.approx(book.accounts.total.value, rel=1e-4)
    for component, energy in book.accounts.by_component.items():
        if component != "communication":
            assert areas[component] == pytest.approx(energy.value, rel=0.02), component
    for phase, layer in lines(drawn(book.run)["power"]).items():
        assert area_j(layer) == pytest.approx(book.accounts.by_phase[phase].value, rel=5e-3), phase
    assert "communication" not in layers


def test_a_residual_below_zero_is_not_drawn_and_the_rest_still_stacks_to_the_total():
    book = Book.of(attributed())
    parts = {p: {**of, "residual": Estimate(-50.0, 1.0, "J")} for p, of in book.accounts.components_by_phase.items()}
    changed = replace(book, accounts=replace(book.accounts, components_by_phase=parts))
    layers = {t["name"]: t for t in power_over_time(changed).views[1].plot["data"]}
    assert sum(map(area_j, layers.values())) == pytest.approx(book.accounts.total.value, rel=1e-4)
    assert "residual" not in layers
    assert all(min(layer["y"]) >= 0 for layer in layers.values())


def test_the_roofline_and_the_icicle_are_drawn_of_a_calibrated_run_alone():
    assert {"roofline", "modules"} <= set(drawn(attributed()))
    assert not {"roofline", "modules"} & set(drawn(synthetic_run()))


def test_cumulative_energy_ends_at_the_total():
    book = Book.of(synthetic_run(power_w=wave))
    (line,) = lines(drawn(book.run)["energy"]).values()
    assert line["y"][0] == 0
    assert 1e3 * line["y"][-1] == pytest.approx(book.accounts.total.value, rel=1e-5)


def test_loss_is_drawn_against_joules_and_without_them_against_time():
    run = synthetic_run(100, power_w=50.0)
    figure = drawn(run)["loss"]
    (line,) = lines(figure).values()
    assert figure.title == "Loss against joules"
    at_s = run.table(series.LOSSES)["t_s"]
    np.testing.assert_allclose(line["x"], 50.0 * at_s, rtol=1e-5)
    without = drawn(replace(run, samples=()))
    assert without["loss"].title == "Loss over time"
    assert "power" not in without


def test_energy_per_example_is_that_of_the_steps():
    (line,) = lines(drawn(synthetic_run(100, power_w=50.0, evaluate_every=1000))["per_example"]).values()
    np.testing.assert_allclose(line["y"], 1e3 * 50.0 * 0.1 / 32, rtol=1e-4)


def test_energy_is_not_told_apart_within_a_sampling_interval():
    (line,) = lines(drawn(synthetic_run(100, sampling_hz=1.0, evaluate_every=1000))["per_example"]).values()
    assert len(line["x"]) == 5  # ten seconds of steps, two intervals a block
    assert "per_example" not in drawn(synthetic_run(20, sampling_hz=1.0))


def test_learning_rates_are_drawn_to_the_last_step():
    (line,) = lines(drawn(synthetic_run(200))["learning_rate"]).values()
    assert line["x"] == [0, 100, 199]
    assert line["y"] == [0.01, 0.001, 0.001]


def test_long_runs_are_decimated():
    n = 30_000
    run = synthetic_run(2000, sampling_hz=100.0)
    k = np.arange(n)
    ledger = np.column_stack([k] + [np.ones(n)] * (len(series.LEDGER.columns) - 1))
    run = with_table(run, series.LEDGER, ledger)
    run = with_table(run, series.LEARNING_RATES, np.column_stack((k, 0 * k, 0 * k, 1 / (1 + k))))
    for figure in drawn(run).values():
        for view in figure.views:
            assert all(len(trace["x"]) <= 2 * (MOST_BINS + 1) for trace in view.plot["data"])
            assert all(len(trace["x"]) == len(trace["y"]) for trace in view.plot["data"])


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_every_figure_is_json(kind):
    for figure in drawn(ODD_RUNS[kind]()).values():
        assert figure.views
        for view in figure.views:
            json.dumps(view.plot, allow_nan=False)


def test_modelled_joules_are_hatched_and_measured_ones_are_not():
    for name in ("power", "energy"):
        for weak, run in ((True, modelled()), (False, synthetic_run())):
            data = drawn(run)[name].views[0].plot["data"]
            assert any("fillpattern" in trace for trace in data) is weak
            assert all(hatched is weak for _, _, hatched in drawn(run)[name].views[0].legend)
    assert not any("fillpattern" in trace for trace in drawn(modelled())["loss"].views[0].plot["data"])


def test_every_role_has_a_colour_in_light_and_in_dark():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    runs = [make() for make in ODD_RUNS.values()]
    roles = {role for run in runs for f in drawn(run).values() for view in f.views for role, _, _ in view.legend}
    nested = [t for run in runs for f in drawn(run).values() for t in f.views[0].plot["data"] if "roles" in t["meta"]]
    assert nested
    roles |= {role for trace in nested for role in trace["meta"]["roles"]}
    roles |= {
        t["meta"]["role"] for run in runs for f in drawn(run).values() for t in f.views[0].plot["data"] if "x" in t
    }
    roles |= set(series.PHASES) | {"static", "compute", "memory", "communication", "residual"}
    for role in roles:
        for scheme in (light, dark):
            # The page's script reads six hexadecimal digits.
            assert re.search(rf"--{role}: #[0-9a-f]{{6}};", scheme), role


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_figures_of_half_the_width_come_in_pairs(kind):
    book = Book.of(ODD_RUNS[kind]())
    halves = [figure for figure in paired([*figures(book), *thermodynamics.figures(book)[0]]) if not figure.wide]
    assert len(halves) % 2 == 0


def test_units_fit_what_they_measure():
    assert [time_unit(t)[1] for t in (10, 1000, 50_000, 1e6)] == ["s", "min", "h", "d"]
    assert [energy_unit(e)[1] for e in (5e9, 2e6, 3e3, 5.0, 0.2, 1e-5, 0.0)] == ["GJ", "MJ", "kJ", "J", "mJ", "µJ", "J"]
    assert rounded([1.23456789, float("nan"), float("inf")]) == [1.23457, None, None]
