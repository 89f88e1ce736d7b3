"""The thermodynamic ledger in reports: what is known is told and drawn, what is not has its reason, once."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.estimators.series import TITLES
from ergometry.estimators.series import series as read_series
from ergometry.report import render
from ergometry.report.book import Book
from ergometry.report.plots import MOST_BINS
from ergometry.report.thermodynamics import FIGURES, _figure, figures, ledger, shown
from support.odd_runs import ODD_RUNS, with_table
from support.synthetic import synthetic_run


def filled(kind, n, **columns):
    rows = np.full((n, len(kind.columns)), np.nan)
    for name, value in {"step": np.arange(n), **columns}.items():
        rows[:, kind.columns.index(name)] = value
    return rows


def trained(n=400, **noise):
    """Return a run of which the first law, the noise and the path of the outputs were recorded at every step."""
    run = synthetic_run(n, evaluate_every=10**6)
    loss = run.table(series.LOSSES)["loss"]
    physics = {"level": "full", "taps": {"first_law": {"uses": n, "steps": n, "cost_s": 0.004 * n, "why": ""}}}
    run.meta["physics"] = physics
    run = with_table(
        run, series.FIRST_LAW, filled(series.FIRST_LAW, n, loss_before=loss, loss_after=loss - 0.05, how=1.0)
    )
    stream = np.random.default_rng(0)
    small, big = 3.0 + 0.1 * stream.standard_normal(n), 2.0 + 0.1 * stream.standard_normal(n)
    columns = {"how": 3.0, "small_batch": 16.0, "big_batch": 32.0, "small_sq": small, "big_sq": big}
    columns |= {"sampled": 1e5, "parameters": 1e5, **noise}
    return with_table(run, series.NOISE, filled(series.NOISE, n, **columns))


def lines(figure):
    return {t["name"]: t for t in figure.views[0].plot["data"] if not t["meta"].get("band")}


def test_every_series_has_a_figure():
    assert {name for _, parts in FIGURES.values() for name in parts} == set(TITLES)


def test_the_ledger_is_the_run_s_work_and_heat():
    told = {line.name: line for line in ledger(Book.of(trained()))}
    run = trained()
    losses = run.table(series.LOSSES)["loss"]
    assert told["heat"].value.value == pytest.approx(0.05 * 399, rel=0.01)
    assert told["loss change"].value.value == pytest.approx(losses[-1] - losses[0], rel=1e-9)
    assert told["work"].value.value == pytest.approx(
        told["loss change"].value.value + told["heat"].value.value, rel=1e-9
    )
    assert "closes" in told["loss change"].note
    assert told["noise scale"].value.value == pytest.approx(32.0, rel=0.1)  # trΣ/32 = 1, |G|² = 1
    assert "32 examples" in told["noise scale"].note
    assert shown(told["cost of these"]) == "4.0 %"


def test_what_is_not_known_is_not_in_the_ledger():
    names = [line.name for line in ledger(Book.of(trained()))]
    assert "stability" not in names
    assert "path length" not in names
    assert ledger(Book.of(ODD_RUNS["no steps"]())) == []


def test_what_is_drawn_is_the_series_over_time_with_its_error():
    book = Book.of(trained())
    drawn = {figure.name: figure for figure in figures(book)[0]}
    heat = read_series(book.run, book.accounts)["heat"]
    both = lines(drawn["work_and_heat"])
    assert both["heat Q"]["y"] == pytest.approx(heat.value, rel=1e-5)
    assert both["heat Q"]["x"] == pytest.approx(heat.t_s, rel=1e-5)
    noise = read_series(book.run, book.accounts)["b_noise"]
    band = next(t for t in drawn["b_noise"].views[0].plot["data"] if t["meta"].get("band"))
    n = len(noise)
    assert np.array(band["y"][:n]) - np.array(lines(drawn["b_noise"])["B_noise"]["y"]) == pytest.approx(
        np.nan_to_num(noise.stderr), rel=1e-3, abs=1e-4
    )
    assert lines(drawn["b_noise"])["batch size used"]["y"] == [32.0, 32.0]


def test_each_figure_says_how_to_read_it_and_each_absence_why():
    drawn, absent = figures(Book.of(trained()))
    for figure in drawn:
        for name in FIGURES[figure.name][1]:
            assert TITLES[name][2] in figure.reading
    titles = [title for one in absent for title in one.titles]
    assert TITLES["length_js"][0] in titles
    assert len(titles) + sum(len(FIGURES[f.name][1]) for f in drawn) >= len(TITLES)
    assert all(one.why for one in absent)
    assert len({one.why for one in absent}) == len(absent)


def test_one_vague_point_does_not_flatten_the_others():
    book = Book.of(trained())
    heat = read_series(book.run, book.accounts)["heat"]
    vague = replace(heat, value=heat.value + np.linspace(0.0, 1.0, len(heat)), stderr=np.full(len(heat), 0.01))
    vague.stderr[3] = 1000.0
    figure = _figure(book, "work_and_heat", "", {"heat": ("accent", "Q", vague)})
    low, high = figure.views[0].plot["layout"]["yaxis"]["range"]
    assert low < vague.value.min() < vague.value.max() < high
    assert high - low < 2.5 * (vague.value.max() - vague.value.min())


def test_a_scale_that_changes_by_decades_is_logarithmic_and_its_band_stays_above_zero():
    n = 400
    g2 = np.geomspace(1.0, 1e-3, n)
    stream = np.random.default_rng(2)
    small = (g2 + 2.0) * (1 + 0.02 * stream.standard_normal(n))
    run = trained(n, small_sq=small, big_sq=(g2 + 1.0) * (1 + 0.002 * stream.standard_normal(n)))
    drawn = {figure.name: figure for figure in figures(Book.of(run))[0]}
    plot = drawn["b_noise"].views[0].plot
    assert plot["layout"]["yaxis"]["type"] == "log"
    assert all(y is None or y > 0 for t in plot["data"] for y in t["y"])


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_any_run_has_figures_that_a_screen_can_show(kind):
    drawn, absent = figures(Book.of(ODD_RUNS[kind]()))
    assert all(len(t["x"]) <= 2 * MOST_BINS for f in drawn for view in f.views for t in view.plot["data"])
    assert drawn or absent


def test_text_and_markdown_tell_the_ledger_within_eighty_columns():
    run = trained()
    text = render(run, "text")
    part = text[text.index("Thermodynamic ledger") : text.index("Energy by module")]
    assert all(len(line) <= 80 for line in part.splitlines())
    assert re.search(r"^heat +\S+.*loss +ΣQ", part, re.M)
    assert "## Thermodynamic ledger" in render(run, "markdown")
    assert "hermodynamic ledger" not in render(ODD_RUNS["no steps"](), "text")


def test_the_page_has_the_ledger_the_figures_and_the_reasons():
    page = render(trained(), "html")
    assert 'id="ledger"' in page
    assert 'data-figure="work_and_heat"' in page
    assert "settles where noise drives it" in page
    assert "Not drawn" in page
