"""Sums over the ledger: by hand, under sampling of steps and parameters, and on odd tables."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.run import Table
from ergometry.estimators.displacement import (
    Displacement,
    learning_rates_at,
    read_gradient_work,
    read_module_work,
    read_unbiased_work,
)
from ergometry.estimators.sampling import sample_steps
from support.synthetic import synthetic_run

COLUMNS = series.LEDGER.columns


def ledger(step, grad_sq, dtheta_sq, work, **stderr):
    """Return a ledger table; ``path`` is |g||Δθ|."""
    n = len(step)
    values = {
        "step": step,
        "grad_sq": grad_sq,
        "dtheta_sq": dtheta_sq,
        "work": work,
        "path": np.sqrt(np.multiply(grad_sq, dtheta_sq)),
        "given": 1.0,
        "given_cosine": 1.0,
        **stderr,
    }
    return Table(COLUMNS, np.column_stack([np.broadcast_to(values.get(c, 0.0), n) for c in COLUMNS]).astype(float))


def rates(*rows):
    return Table(series.LEARNING_RATES.columns, np.array(rows, dtype=float).reshape(-1, 4))


def run_with(table, *, steps=4, learning_rates=None, flags=0.0):
    run = synthetic_run(steps)
    rows = run.tables["steps"].rows.copy()
    rows[:, series.STEPS.columns.index("flags")] = flags
    tables = {
        "steps": Table(series.STEPS.columns, rows),
        "losses": run.tables["losses"],
        "ledger": table,
        "learning_rates": rates((0, 0, 0, 0.1)) if learning_rates is None else learning_rates,
    }
    return replace(run, tables=tables)


def test_the_sums_by_hand():
    table = ledger([0, 1, 2, 3], [4.0, 9.0, 1.0, 1.0], [0.04, 0.01, 0.0, 0.25], [0.3, -0.1, 0.0, 0.4])
    found = read_gradient_work(run_with(table, learning_rates=rates((0, 0, 0, 0.1), (2, 0, 0, 0.5))))
    assert found.flow.value == pytest.approx(0.1 * 4 + 0.1 * 9 + 0.5 + 0.5)
    assert found.ito.value == pytest.approx(0.6)
    assert found.path.value == pytest.approx(2 * 0.2 + 3 * 0.1 + 0.0 + 0.5)
    assert found.alignment.value == pytest.approx(0.6 / 1.2)
    assert found.path_cost.value == pytest.approx(0.4 + 0.1 + 0.0 + 0.5)
    assert found.mean_grad_sq.value == pytest.approx(15 / 4)
    assert found.learning_rate.value == 0.5
    every = (found.flow, found.ito, found.path, found.alignment, found.path_cost, found.mean_grad_sq)
    assert [e.unit for e in every] == ["loss", "loss", "loss", "", "loss", "loss^2"]
    assert [e.stderr for e in every] == pytest.approx([0.0] * 6, abs=1e-12)


def test_the_error_of_sampled_parameters_adds_in_quadrature():
    table = ledger(
        [0, 1, 2, 3], [4.0] * 4, [0.04] * 4, [0.3] * 4, work_stderr=[0.03, 0.04, 0.0, 0.12], grad_sq_stderr=0.5
    )
    found = read_gradient_work(run_with(table))
    assert found.ito.stderr == pytest.approx(0.13)
    assert found.flow.stderr == pytest.approx(0.1 * 0.5 * 2)
    assert found.mean_grad_sq.stderr == pytest.approx(0.5 * 2 / 4)
    # the ratio's error is that of work alone here: path has none
    assert found.alignment.stderr == pytest.approx(0.13 / found.path.value)


def test_plain_sgd_closes():
    """Δθ = −ηg: three readings of the work are one number, and the motion is all along the gradient."""
    g2 = np.array([4.0, 9.0, 1.0, 2.0])
    found = read_gradient_work(run_with(ledger(range(4), g2, 0.01 * g2, 0.1 * g2)))
    assert found.ito.value == pytest.approx(found.flow.value)
    assert found.path_cost.value == pytest.approx(found.flow.value)
    assert found.alignment.value == pytest.approx(1.0)


def test_clipped_gradients_flow_as_far_as_they_were_let():
    """Δθ = −ηcg: the work −g·Δθ is ηc|g|², and neither η|g|² nor ηc²|g|²."""
    g2, c = np.array([4.0, 9.0, 1.0, 2.0]), np.array([0.5, 0.1, 1.0, 0.2])
    found = read_gradient_work(run_with(ledger(range(4), g2, 0.01 * c**2 * g2, 0.1 * c * g2, given=c)))
    assert found.flow.value == pytest.approx(found.ito.value) == pytest.approx(np.sum(0.1 * c * g2))
    assert found.mean_grad_sq.value == pytest.approx(4.0)
    assert "clipped" in found.flow.method and "before any clipping" in found.ito.why


def test_a_row_of_the_clipped_gradient_alone_is_left_out_where_others_tell_of_clipping():
    nan = math.nan
    table = ledger(range(4), [1e-4, 4.0, 4.0, 4.0], 1e-6, [1e-4, 2e-3, 2e-3, 2e-3], given=[nan, 0.005, 0.005, 0.005])
    found = read_gradient_work(run_with(table))
    assert (
        found.ito.value == pytest.approx(4 * 2e-3)
        and "for 1 step of which only the clipped gradient was seen those nearest stand" in found.ito.why
    )
    assert found.mean_grad_sq.value == pytest.approx(4.0)
    none = read_gradient_work(run_with(ledger(range(4), [1.0, 4.0, 4.0, 4.0], 1e-6, 1.0, given=nan)))
    assert none.ito.value == pytest.approx(4.0) and "as the optimizer had it" in none.ito.why


def test_steps_whose_gradient_is_not_finite_are_counted():
    table = ledger(range(4), [4.0, math.nan, 4.0, 4.0], [0.04, math.nan, 0.04, 0.04], [0.3, math.nan, 0.3, 0.3])
    found = read_gradient_work(run_with(table))
    assert found.ito.value == pytest.approx(0.9)
    assert "1 of the 4 steps recorded are not finite and add nothing" in found.ito.why


def test_a_rate_of_zero_is_skipped():
    table = ledger([0, 1, 2, 3], [4.0] * 4, [0.0, 0.04, 0.04, 0.04], [0.0, 0.3, 0.3, 0.3])
    found = read_gradient_work(run_with(table, learning_rates=rates((0, 0, 0, 0.0), (1, 0, 0, 0.1))))
    assert found.path_cost.value == pytest.approx(3 * 0.4)
    assert found.flow.value == pytest.approx(3 * 0.4)


def test_every_step_has_the_rate_last_written_for_it():
    table = rates((0, 0, 0, 0.1), (5, 0, 0, 0.2), (5, 0, 1, 0.2), (0, 0, 1, 0.1))
    eta, why = learning_rates_at(np.array([0.0, 4.0, 5.0, 9.0]), table)
    assert eta.tolist() == [0.1, 0.1, 0.2, 0.2] and why == ""


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (rates((0, 0, 0, 0.1), (0, 0, 1, 0.2)), "groups have different ones"),
        (rates((0, 0, 0, 0.1), (0, 1, 0, 0.2)), "groups have different ones"),
        (rates((2, 0, 0, 0.1)), "not recorded before"),
        (rates(), "not recorded before"),
    ],
    ids=["groups", "optimizers", "late", "none"],
)
def test_without_one_rate_only_what_needs_none_is_known(table, why):
    found = read_gradient_work(run_with(ledger(range(4), [4.0] * 4, [0.04] * 4, [0.3] * 4), learning_rates=table))
    assert found.flow.value is None and why in found.flow.why
    assert found.path_cost.value is None and why in found.path_cost.why
    assert found.ito.value == pytest.approx(1.2) and found.path.known and found.alignment.known


def test_sampled_steps_stand_for_those_nearest_to_them():
    sampling = sample_steps(np.array([1.0, 10.0, 12.0]), np.arange(20.0))
    assert sampling.weights.tolist() == [6.0, 6.0, 8.0] and sampling.steps == 20
    first = sample_steps(np.array([0.0, 10.0, 12.0]), np.arange(20.0))
    assert first.weights.tolist() == [1.0, 11.0, 8.0]  # the first step is like no other
    whole = sample_steps(np.arange(7.0), np.arange(7.0))
    assert whole.weights.tolist() == [1.0] * 7


def test_a_constant_is_scaled_up_by_steps_over_rows_without_error():
    table = ledger([0, 10, 20, 30], [4.0] * 4, [0.04] * 4, [0.3] * 4)
    found = read_gradient_work(run_with(table, steps=40))
    assert found.ito.value == pytest.approx(40 * 0.3) and found.ito.stderr == 0.0
    assert found.mean_grad_sq.value == pytest.approx(4.0)
    assert "4 of 40 steps" in found.ito.why


def test_an_uneven_cadence_does_not_bias_the_sum():
    """Every step at first, when there is much work, then every tenth: the plain mean would be far too high."""
    step = np.concatenate((np.arange(50), np.arange(50, 1000, 10))).astype(float)
    work = np.exp(-np.arange(1000) / 100)
    some = work[step.astype(int)]
    found = read_gradient_work(run_with(ledger(step, some, some, some), steps=1000))
    assert found.ito.value == pytest.approx(work.sum(), rel=0.01)
    assert some.mean() * 1000 > 2.5 * work.sum()


@pytest.mark.parametrize("every", [2, 10])
def test_the_stated_error_is_the_error_made(every):
    """Over many runs of noisy steps: root mean square error over root mean square stated."""
    rng, errors, stated = np.random.default_rng(5), [], []
    steps, parameters_stderr = 400, 0.3
    for _ in range(300):
        work = 1.0 + rng.exponential(size=steps)
        step = np.arange(every // 2, steps, every)
        seen = work[step] + parameters_stderr * rng.normal(size=len(step))
        sampling = sample_steps(step.astype(float), np.arange(float(steps)))
        value, stderr = sampling.total(seen, np.full(len(step), parameters_stderr**2))
        errors.append(value - work.sum())
        stated.append(stderr)
    ratio = np.sqrt(np.mean(np.square(errors))) / np.sqrt(np.mean(np.square(stated)))
    assert 0.78 < ratio < 1.05  # 300 runs tell it to about 4 %; what is skewed is widened
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(len(errors))


def test_one_sampled_step_of_many_has_no_known_error():
    found = read_gradient_work(run_with(ledger([2], [4.0], [0.04], [0.3])))
    assert found.ito.value == pytest.approx(1.2) and found.ito.stderr is None


def test_skipped_and_diverged_steps_are_not_scaled_to():
    table = ledger([0, 2], [4.0] * 2, [0.04] * 2, [0.3] * 2)
    skipped = run_with(table, flags=[0.0, 0.0, 0.0, series.SKIPPED])
    assert read_gradient_work(skipped).ito.value == pytest.approx(0.9)
    run = run_with(table)
    losses = Table(series.LOSSES.columns, run.tables["losses"].rows[:3])  # the fourth was NaN: it has no row
    assert read_gradient_work(replace(run, tables={**run.tables, "losses": losses})).ito.value == pytest.approx(0.9)


def test_rows_that_are_not_finite_add_nothing_and_are_counted():
    table = ledger(range(4), [4.0] * 4, [0.04] * 4, [0.3, math.nan, math.inf, 0.3])
    found = read_gradient_work(run_with(table)).ito
    assert found.value == pytest.approx(0.6) and "2 of the 4 steps" in found.why
    none = read_gradient_work(run_with(ledger(range(4), [math.nan] * 4, [0.04] * 4, [math.nan] * 4)))
    assert none.ito.value is None and "there is none" in none.ito.why
    assert none.alignment.value is None and none.mean_grad_sq.value is None


def test_parameters_that_do_not_move_have_no_alignment():
    found = read_gradient_work(run_with(ledger(range(4), [4.0] * 4, [0.0] * 4, [0.0] * 4)))
    assert found.path.value == 0.0
    assert found.alignment.value is None and found.alignment.why == "the parameters did not move"


def test_without_a_ledger_it_says_so():
    found = read_gradient_work(run_with(Table.empty(COLUMNS)))
    assert found.ito.value is None and "ledger" in found.ito.why


@given(c=st.floats(1e-6, 1e6), seed=st.integers(0, 2**32 - 1), every=st.integers(1, 4))
def test_rescaling_the_loss_scales_the_work_and_leaves_the_alignment(c, seed, every):
    """Loss × c under SGD at η/c: Δθ is unchanged, g is c times as large."""
    rng = np.random.default_rng(seed)
    step = np.arange(0, 40, every).astype(float)
    g2, d2, cosine = rng.exponential(size=(3, len(step)))
    work = np.tanh(cosine - 0.5) * np.sqrt(g2 * d2)
    errors = {"work_stderr": 0.1 * np.sqrt(g2 * d2), "path_stderr": 0.05 * np.sqrt(g2 * d2), "grad_sq_stderr": 0.2 * g2}
    scaled = {name: e * (c**2 if name == "grad_sq_stderr" else c) for name, e in errors.items()}
    a = read_gradient_work(run_with(ledger(step, g2, d2, work, **errors), steps=40))
    b = read_gradient_work(
        run_with(ledger(step, c**2 * g2, d2, c * work, **scaled), steps=40, learning_rates=rates((0, 0, 0, 0.1 / c)))
    )
    for one, other in ((a.flow, b.flow), (a.ito, b.ito), (a.path, b.path), (a.path_cost, b.path_cost)):
        assert other.value == pytest.approx(c * one.value, rel=1e-9, abs=1e-12 * c)
        assert other.stderr == pytest.approx(c * one.stderr, rel=1e-6, abs=1e-12 * c)
    assert b.alignment.value == pytest.approx(a.alignment.value, rel=1e-9, abs=1e-12)
    assert b.alignment.stderr == pytest.approx(a.alignment.stderr, rel=1e-6, abs=1e-12)
    assert abs(a.alignment.value) <= 1 + 1e-12


# The state machine


def folded(estimator, xs):
    state = estimator.init()
    for x in xs:
        state = estimator.update(state, x)
    return state


def steps_seen(n, seed=0):
    random = np.random.default_rng(seed)
    return [(float(k), 0.1, g2, d2, w, math.sqrt(g2 * d2)) for k, (g2, d2, w) in enumerate(random.uniform(size=(n, 3)))]


def test_of_no_step_nothing_is_known():
    estimator = Displacement()
    found = estimator.result(estimator.init())
    assert found.ito.value is None and "ledger" in found.ito.why


def test_one_step_alone_is_exact_and_of_many_has_no_error():
    (x,) = steps_seen(1)
    alone = Displacement()
    assert (alone.result(folded(alone, [x])).ito.value, alone.result(folded(alone, [x])).ito.stderr) == (x[4], 0.0)
    many = Displacement(np.arange(10.0))
    found = many.result(folded(many, [x])).ito
    assert found.value == pytest.approx(10 * x[4]) and found.stderr is None


@given(cut=st.integers(0, 10), order=st.permutations(range(10)))
def test_updating_equals_merging_in_any_order(cut, order):
    estimator, xs = Displacement(np.arange(30.0)), steps_seen(10)
    whole = folded(estimator, xs)
    a, b = folded(estimator, [xs[i] for i in order[:cut]]), folded(estimator, [xs[i] for i in order[cut:]])
    for merged in (estimator.merge(a, b), estimator.merge(b, a), estimator.merge(estimator.init(), whole)):
        assert estimator.result(merged) == estimator.result(whole)


def test_a_step_without_a_known_rate_has_work_but_no_flow():
    estimator = Displacement()
    found = estimator.result(folded(estimator, [(0.0, math.nan, 4.0, 0.04, 0.3, 0.4)]))
    assert found.ito.value == 0.3 and found.flow.value is None and "learning rate" in found.flow.why


# The unbiased gradient


def noisy(steps, *, every=1, how=3.0, seed=0):
    """Return a run whose |G|² falls along it, seen through the halves of one batch of 8, and Σ η|G|²."""
    random = np.random.default_rng(seed)
    step = np.arange(0, steps, every, dtype=float)
    squared, d = np.exp(-np.arange(steps) / steps), 40
    gradient = np.sqrt(squared[:: every or 1])[:, None] * np.eye(1, d)
    halves = gradient + random.normal(scale=0.5, size=(2, len(step), d))
    small, big = np.mean(np.sum(halves**2, -1), 0), np.sum(np.mean(halves, 0) ** 2, -1)
    columns = {"step": step, "how": how, "small_batch": 4.0, "big_batch": 8.0, "small_sq": small, "big_sq": big}
    rows = [np.broadcast_to(columns.get(name, math.nan), len(step)) for name in series.NOISE.columns]
    run = run_with(Table.empty(COLUMNS), steps=steps)
    return replace(
        run, tables={**run.tables, "noise": Table(series.NOISE.columns, np.column_stack(rows))}
    ), 0.1 * squared.sum()


@pytest.mark.parametrize("every", [1, 4])
def test_the_unbiased_work_is_right_within_its_error(every):
    inside = 0
    for seed in range(60):
        run, truth = noisy(200, every=every, seed=seed)
        found = read_unbiased_work(run)
        inside += abs(found.value - truth) < 1.645 * found.stderr
    assert 0.8 < inside / 60 <= 1.0
    assert found.value < 0.5 * 0.1 * np.sum(run.table(series.NOISE)["big_sq"]) * every, "|g|² is biased by trΣ/B"


def test_two_looks_at_one_step_count_as_one():
    run, _ = noisy(50)
    twice = np.repeat(run.table(series.NOISE).rows, 2, axis=0)
    again = replace(run, tables={**run.tables, "noise": Table(series.NOISE.columns, twice)})
    assert read_unbiased_work(again).value == pytest.approx(read_unbiased_work(run).value)


def test_a_part_of_the_parameters_is_not_the_gradient():
    run, _ = noisy(50, how=5.0)
    found = read_unbiased_work(run)
    assert found.value is None and "whole model" in found.why


def test_without_noise_or_rate_there_is_no_unbiased_work():
    run, _ = noisy(50)
    assert (
        "two batch sizes"
        in read_unbiased_work(replace(run, tables={**run.tables, "noise": Table.empty(series.NOISE.columns)})).why
    )
    run = replace(run, tables={**run.tables, "learning_rates": rates()})
    assert "learning rate" in read_unbiased_work(run).why


# By module


def test_of_each_module_the_last_row_counts():
    rows = np.array([[1.0, 0, 5, 0.5, 0.1, 0, 0, 0], [1.0, 1, 5, -0.2, 0.0, 0, 0, 0], [2.0, 0, 9, 0.9, 0.2, 0, 0, 0]])
    run = synthetic_run(3, physics_modules=["stem", "head"])
    run = replace(run, tables={**run.tables, "module_work": Table(series.MODULE_WORK.columns, rows)})
    found = read_module_work(run)
    assert {name: q.value for name, q in found.items()} == {"stem": 0.9, "head": -0.2}
    assert found["stem"].stderr == 0.2 and "9 sampled steps" in found["stem"].why
    assert read_module_work(replace(run, meta={})) == {} and read_module_work(synthetic_run(3)) == {}


def test_steps_whose_loss_is_not_finite_are_left_out_and_counted():
    run = run_with(ledger([0, 1, 2], [4.0, 4.0, 4.0], 0.04, 0.3), steps=6)
    losses = run.tables["losses"].rows.copy()
    losses[3:, 2] = math.nan
    run = replace(run, tables={**run.tables, "losses": Table(series.LOSSES.columns, losses)})
    found = read_gradient_work(run)
    assert found.ito.value == pytest.approx(0.9)
    for estimate in (found.flow, found.ito, found.path, found.mean_grad_sq):
        assert "3 steps whose loss was not finite, from step 3 on, are left out" in estimate.why


def test_unbiased_work_of_clipped_gradients_is_of_what_clipping_left():
    noise = np.full((4, len(series.NOISE.columns)), math.nan)
    for name, values in {
        "step": range(4), "how": 3, "small_batch": 4, "big_batch": 8, "small_sq": 6.0, "big_sq": 5.0,
        "sampled": 9, "parameters": 9, "cost_s": 0.0,
    }.items():  # fmt: skip
        noise[:, series.NOISE.columns.index(name)] = values  # |G|² = 4

    def work(**given):
        run = run_with(ledger(range(4), [5.0] * 4, 1e-4, 1e-2, **given))
        return read_unbiased_work(replace(run, tables={**run.tables, "noise": Table(series.NOISE.columns, noise)}))

    assert work().value == pytest.approx(4 * 0.1 * 4.0)
    clipped = work(given=[0.5, 0.5, 0.25, 0.25])
    assert clipped.value == pytest.approx(0.1 * 4.0 * 1.5)
    assert "c is what clipping left" in clipped.why
    turned = work(given=[0.5, 0.5, 0.25, 0.25], given_cosine=[1.0, 0.9, 1.0, 1.0])
    assert turned.value is None and "another direction" in turned.why
