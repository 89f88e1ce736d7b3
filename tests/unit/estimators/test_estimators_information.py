"""½logdet from the rows of a run: named by its method, by module, with what it assumes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.run import Table
from ergometry.estimators.information import read_logdet
from support.synthetic import synthetic_run

#  step t how part nat stderr parameters examples prior cost
WHOLE = (100, 9.0, 2, -1, 40.0, 2.0, 500, 640, 3.0, 0.1)
PARTS = [(100, 9.0, 5, 0, 30.0, 0.0, 300, 640, 3.0, 0.1), (100, 9.0, 1, 2, 20.0, 0.0, 200, 640, 3.0, 0.1)]


def run_with(rows, **meta):
    run = synthetic_run(2)
    table = Table(series.INFORMATION.columns, np.array(rows, dtype=float).reshape(-1, len(series.INFORMATION.columns)))
    return replace(run, tables={**run.tables, "information": table}, meta={**run.meta, **meta})


def test_the_whole_and_the_modules_by_name():
    found = read_logdet(
        run_with([WHOLE, *PARTS], information={"prior": "λ = 1/Var(θ_0)", "modules": ["encoder", "x", "head"]})
    )
    assert (found.whole.value, found.whole.stderr, found.whole.unit) == (40.0, 2.0, "nat")
    assert found.whole.method == "½logdet by stochastic Lanczos (E7 i)"
    assert "640 examples, prior precision 3" in found.whole.why
    assert "1/Var(θ_0)" in found.whole.why
    assert {name: e.value for name, e in found.modules.items()} == {"encoder": 30.0, "head": 20.0}
    assert "upper bound" in found.modules["encoder"].why
    assert "upper bound" not in found.modules["head"].why
    assert (found.prior_precision, found.examples) == (3.0, 640.0)


def test_a_later_look_replaces_an_earlier_one():
    assert read_logdet(run_with([WHOLE, (200, *WHOLE[1:4], 55.0, *WHOLE[5:])])).whole.value == 55.0


def test_modules_without_the_whole_do_not_add_up_to_it():
    found = read_logdet(run_with(PARTS, information={"modules": ["a", "b", "c"]}))
    assert found.whole.value is None
    assert "too dear" in found.whole.why
    assert sorted(found.modules) == ["a", "c"]


@pytest.mark.parametrize("rows", [[], [(*WHOLE[:4], math.nan, *WHOLE[5:])]])
def test_none_says_what_the_tap_said(rows):
    assert "--physics full" in read_logdet(run_with(rows)).whole.why
    told = {"taps": {"information": {"why": "the probe does not replay"}}}
    assert read_logdet(run_with(rows, physics=told)).whole.why == "the probe does not replay"


def test_a_bound_has_no_error_whatever_an_older_run_stored():
    rows = [(100, 9.0, how, part, 30.0, 1.5, 300, 640, 3.0, 0.1) for part, how in ((0, 3), (1, 4), (2, 5), (3, 1))]
    found = read_logdet(run_with([(*WHOLE[:2], 4, *WHOLE[3:]), *rows], information={"modules": ["a", "b", "c", "d"]}))
    assert found.whole.stderr is None and "upper bound of the whole" in found.whole.why
    assert {name: e.stderr for name, e in found.modules.items()} == {"a": None, "b": 1.5, "c": None, "d": 1.5}
    assert ["upper bound" in e.why for e in found.modules.values()] == [True, False, True, False]
