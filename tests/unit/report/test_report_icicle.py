"""The icicle: every joule of the run is drawn, once, within the module that spent it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from ergometry.report.book import Book
from ergometry.report.icicle import MOST, RUN, icicle
from support.odd_runs import ODD_RUNS, attributed, uncalibrated
from support.synthetic import language_model, with_counts


def drawn(run):
    figure = icicle(Book.of(run))
    return figure.views[0].plot["data"][0]


def test_what_is_drawn_sums_to_the_run():
    book = Book.of(attributed())
    trace = icicle(book).views[0].plot["data"][0]
    assert math.fsum(trace["values"]) == pytest.approx(book.accounts.total.value, rel=1e-5)
    assert trace["branchvalues"] == "remainder"


def test_a_module_s_parts_hold_its_joules():
    trace = drawn(attributed())
    own = dict(zip(trace["ids"], trace["values"], strict=True))
    parents = set(trace["parents"])
    opened = [path for path in trace["ids"] if path in parents]
    assert len(opened) > 5
    assert all(own[path] == 0 for path in opened)


def test_every_node_is_in_one_that_is_drawn():
    trace = drawn(attributed())
    assert len(set(trace["ids"])) == len(trace["ids"])
    assert set(trace["parents"]) <= {"", *trace["ids"]}
    assert trace["parents"].count("") == 1
    (first, second, *_), labels = trace["ids"], trace["labels"]
    assert (first, second) == (RUN, f"{RUN}.Language")
    assert "not divided" in labels
    assert {len(trace[key]) for key in ("labels", "values", "text", "parents")} == {len(trace["ids"])}
    assert {len(trace["meta"][key]) for key in ("roles", "depths")} == {len(trace["ids"])}


def test_a_large_model_is_folded():
    trace = drawn(with_counts(attributed(), language_model(blocks=96)))
    assert len(trace["ids"]) <= MOST + 2


def test_what_is_in_one_part_of_the_model_has_one_colour():
    trace = drawn(attributed())
    roles = dict(zip(trace["ids"], trace["meta"]["roles"], strict=True))
    blocks = {role for path, role in roles.items() if path.startswith(f"{RUN}.Language.blocks")}
    assert len(blocks) == 1
    assert roles[f"{RUN}.Language.head"] not in blocks


def test_modelled_joules_are_hatched():
    assert "marker" not in drawn(attributed())
    assert drawn(ODD_RUNS["little work"]())["marker"]["pattern"]["shape"] == "/"


def test_without_joules_by_module_there_is_none():
    assert icicle(Book.of(uncalibrated())) is None
    assert icicle(Book.of(replace(attributed(), samples=()))) is None


def test_it_is_json():
    for kind in ("attributed", "little work"):
        json.dumps(drawn(ODD_RUNS[kind]()), allow_nan=False)
