"""Path cost as it is read from looks at a path; against brute force over trainings in the tap's own tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.series import LEARNING_RATES, LEDGER, PATH, STEPS
from ergometry.equations.live import values
from ergometry.equations.readings import read as readings
from ergometry.estimators.path_cost import PathCostEstimator, read_path
from ergometry.work.attribution import accounts
from support.told import table, told


def run_of(rows):
    return told((PATH, table(PATH, len(rows), **{name: [row[name] for row in rows] for name in PATH.columns})))


def read(rows):
    return read_path(run_of(rows))


def look(steps, **columns):
    return {
        **dict.fromkeys(PATH.columns, 0.0),
        "steps": steps,
        "step": steps - 1,
        "sampled": 9,
        "parameters": 9,
    } | columns


def test_an_estimate_below_what_is_known_gives_way_to_the_bound():
    """The two steps looked at were short, and θ went far between them."""
    rows = [
        look(1, step_cost=1.0, cost=1.0, coarse_cost=1.0, least_cost=1.0),
        look(9, step_cost=1.0, cost=9.0, coarse_cost=20.0, least_cost=15.0),
    ]
    found = read(rows)
    assert found.optimality.value == pytest.approx(15.0 / 20.0) and found.optimality.why.startswith("from above")
    assert found.cost.value == 20.0 and "the true cost is more" in found.cost.why


def test_one_look_at_several_steps_has_no_error():
    found = read([look(5, step_cost=1.0, cost=5.0, coarse_cost=4.0, least_cost=2.0)])
    assert found.cost.stderr is None and found.optimality.stderr is None and found.least.stderr == 0.0


def test_it_says_where_the_path_that_was_seen_ends():
    rows = [look(1, step_cost=2.0, cost=2.0), look(3, step_cost=2.0, cost=6.0)]
    assert "up to" not in read(rows).least.why  # the run ends there
    run = run_of(rows)
    longer = replace(run, tables={**run.tables, STEPS.name: table(STEPS, 9)})
    assert "up to step 2, the last that was looked at" in read_path(longer).least.why


def test_without_rows_it_says_what_it_needs():
    run = told((LEARNING_RATES, table(LEARNING_RATES, 1)))
    assert "initial snapshot" in read_path(run).optimality.why and "physics off?" in read_path(run).least.why


def test_the_equations_have_all_three_of_one_path_and_else_the_ledgers_cost():
    rows = [
        look(1, step_cost=2.0, cost=2.0, coarse_cost=2.0, least_cost=2.0),
        look(2, step_cost=2.0, cost=4.0, coarse_cost=4.0, least_cost=1.0),
    ]
    run = run_of(rows)
    found = values(readings(run, accounts(run)))["4.2"]
    assert [found[name].value for name in ("path_cost", "path_cost_least", "optimality")] == [4.0, 1.0, 0.25]
    ledger = {"grad_sq": 1.0, "dtheta_sq": 0.3, "sampled": 9, "parameters": 9}
    without = replace(run, tables={**run.tables, PATH.name: table(PATH, 0), LEDGER.name: table(LEDGER, 4, **ledger)})
    found = values(readings(without, accounts(without)))["4.2"]
    assert found["path_cost"].value == pytest.approx(4 * 0.3 / 0.1)
    for name in ("path_cost_least", "optimality"):
        assert found[name].value is None and "initial snapshot" in found[name].why


looks = st.lists(st.tuples(*[st.floats(0.1, 10.0)] * 7), min_size=2, max_size=6).map(
    lambda rows: [(k + 1.0, *row) for k, row in enumerate(rows)]
)


@given(looks, st.randoms())
def test_looks_merge_in_any_order(rows, order):
    estimator = PathCostEstimator()
    one = estimator.init()
    for row in rows:
        one = estimator.update(one, row)
    parts = [estimator.update(estimator.init(), row) for row in rows]
    order.shuffle(parts)
    other = estimator.init()
    for part in parts:
        other = estimator.merge(other, part)
    assert estimator.result(one) == estimator.result(other)


def test_the_error_of_the_ratio_of_two_paths_is_that_of_their_blocks():
    """Costs and least costs of 200 draws each, which rise and fall together, by the delta method on the ratio."""
    rng = np.random.default_rng(0)
    states, draws = [], []
    estimator = PathCostEstimator()
    for scale in (1.0, 2.0):
        c = scale * rng.uniform(0.8, 1.2, 200)
        least = 0.3 * c + 0.02 * rng.standard_normal(200)
        error = lambda x: float(np.std(x, ddof=1) / np.sqrt(200))  # noqa: E731
        ratio = least.mean() / c.mean()
        row = (2, 1.0, c.mean(), error(c), 0.5, least.mean(), error(least), error(least - ratio * c) / c.mean())
        first = (1, 1.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0)
        states.append(estimator.update(estimator.update(estimator.init(), first), row))
        draws.append((c, least))
    found = estimator.together(states).optimality
    (c1, l1), (c2, l2) = draws
    whole = (l1.mean() + l2.mean()) / (c1.mean() + c2.mean())
    parts = [np.std(least - whole * c, ddof=1) / np.sqrt(200) for c, least in draws]
    assert found.value == pytest.approx(whole, rel=1e-12)
    assert found.stderr == pytest.approx(np.hypot(*parts) / (c1.mean() + c2.mean()), rel=1e-9)
