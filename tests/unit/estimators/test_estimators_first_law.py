"""The stochastic first law: exact where every step was seen, within its error where some were, honest elsewhere."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.run import Table
from ergometry.estimators.displacement import read_gradient_work
from ergometry.estimators.first_law import StochasticFirstLaw, read_first_law, standing_in
from ergometry.estimators.sampling import Observations, widening
from support.physics import simulate, with_physics
from support.synthetic import synthetic_run

STEPS = 80


def near(value, rel=1e-12):
    return pytest.approx(value, rel=rel, abs=1e-12)


def physical(every=1, **how):
    return with_physics(synthetic_run(STEPS), every=every, **how)


def with_rows(run, kind, change):
    rows = run.table(kind).rows.copy()
    return replace(run, tables={**run.tables, kind.name: Table(kind.columns, change(rows))})


def column(kind, name):
    return kind.columns.index(name)


# Exact


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_where_every_step_was_seen_the_sums_are_those_of_the_training(momentum):
    run, truth = physical(momentum=momentum)
    found = read_first_law(run)
    assert found.heat.value == near(truth.heat[:-1].sum())
    assert found.work.value == near(truth.work[:-1].sum())
    assert found.energy_change.value == near(truth.before[-1] - truth.before[0])
    assert found.midpoint.value == near(truth.midpoint.sum())
    assert found.midpoint_path.value == near(truth.midpoint_path.sum())
    assert found.alignment.value == near(truth.midpoint.sum() / truth.midpoint_path.sum())
    assert abs(found.closure.value) < 1e-10
    assert [e.stderr for e in (found.heat, found.work, found.closure, found.midpoint)] == [0.0] * 4
    assert [e.unit for e in (found.heat, found.work, found.closure, found.alignment)] == ["loss", "loss", "loss", ""]


def test_on_a_quadratic_loss_midpoint_work_is_the_heat_of_each_step():
    truth = simulate(STEPS, momentum=0.5)
    np.testing.assert_allclose(truth.midpoint, truth.heat, rtol=1e-9, atol=1e-12)


@given(c=st.floats(0.01, 100.0))
def test_a_loss_times_c_scales_heat_and_work_by_c_and_leaves_the_alignment(c):
    truth = simulate(20)
    one, other = StochasticFirstLaw(), StochasticFirstLaw()
    columns = [truth.before, truth.after, truth.following, truth.midpoint, 0 * truth.before, truth.midpoint_path]
    rows = np.column_stack([np.arange(20.0), *columns, 0 * truth.before])
    scaled = np.column_stack([rows[:, :1], c * rows[:, 1:]])
    a, b = one.result(Observations(rows)), other.result(Observations(scaled))
    assert b.heat.value == pytest.approx(c * a.heat.value) and b.work.value == pytest.approx(c * a.work.value)
    assert b.alignment.value == pytest.approx(a.alignment.value, rel=1e-12)


@given(seed=st.integers(0, 2**31), every=st.integers(1, 9))
def test_the_law_holds_whatever_was_sampled_and_the_alignment_is_within_one(seed, every):
    random = np.random.default_rng(seed)
    n = 40
    before, after, following = random.normal(size=(3, n))
    path = random.uniform(0.1, 1.0, n)
    midpoint = path * random.uniform(-1.0, 1.0, n)
    step, zero = np.arange(float(n)), np.zeros(n)
    rows = np.column_stack((step, before, after, following, midpoint, zero, path, zero))[::every]
    found = StochasticFirstLaw(step, following - before).result(Observations(rows))
    assert found.work.value - found.heat.value == pytest.approx(found.energy_change.value, abs=1e-9)
    assert found.energy_change.value == pytest.approx(np.sum(following - before), abs=1e-9)
    assert abs(found.alignment.value) <= 1.0 + 1e-12
    if every == 1:
        assert abs(found.closure.value) < 1e-10


# The state machine's laws


def observations(n, seed=0):
    return [(float(k), *x) for k, x in enumerate(np.random.default_rng(seed).normal(size=(n, 3)))]


def folded(estimator, xs):
    state = estimator.init()
    for x in xs:
        state = estimator.update(state, x)
    return state


def test_of_nothing_nothing_is_known_and_it_says_what_is_needed():
    law = StochasticFirstLaw()
    found = law.result(law.init())
    assert found.heat.value is None and "one more forward" in found.heat.why
    assert found.energy_change.value is None and "θ+Δθ" in found.alignment.why


def test_one_step_of_one_is_exact_and_of_several_has_no_error():
    x = (0.0, 2.0, 1.5, 1.8)
    alone = StochasticFirstLaw()
    found = alone.result(folded(alone, [x]))
    assert (found.heat.value, found.heat.stderr) == (0.5, 0.0)
    assert found.work.value == near(0.3) and found.energy_change.value == near(-0.2)
    of_three = StochasticFirstLaw(np.arange(3.0), np.full(3, -0.2))
    found = of_three.result(folded(of_three, [x]))
    assert found.heat.value == near(1.5) and found.heat.stderr is None
    assert found.work.value == near(0.9) and found.work.stderr is None


def test_two_steps_of_many_have_an_error():
    law = StochasticFirstLaw(np.arange(10.0), np.zeros(10))
    found = law.result(folded(law, [(2.0, 2.0, 1.0, 1.0), (7.0, 2.0, 1.2, 1.0)]))
    assert found.heat.value == near(5 * 1.0 + 5 * 0.8)
    # two strata of five: Σ w(w−1)·½(0.2)², of one difference
    assert found.heat.stderr == near(math.sqrt(2 * 5 * 4 * 0.5 * 0.2**2) * widening(1.0))


@given(cut=st.integers(0, 12), order=st.permutations(range(12)))
def test_updating_equals_merging_in_any_order(cut, order):
    law, xs = StochasticFirstLaw(), observations(12)
    whole = folded(law, xs)
    a, b = folded(law, [xs[i] for i in order[:cut]]), folded(law, [xs[i] for i in order[cut:]])
    for merged in (law.merge(a, b), law.merge(b, a), law.merge(law.merge(law.init(), a), b)):
        np.testing.assert_array_equal(merged.rows, whole.rows)


# Sampled steps


def test_nine_tenths_of_the_intervals_hold_the_truth():
    """Coverage of the 90 % intervals over stretches of one long training, of each of which every fifth step was seen.

    They hold a little less than nine tenths where a quantity is skewed, as heat is, and an alignment close to 1.
    """
    stretches, length, every = 200, 200, 5
    whole = simulate(50 + stretches * length, momentum=0.9, seed=3)
    step, zero = np.arange(float(length)), np.zeros(length)
    inside = {"heat": 0, "work": 0, "midpoint": 0, "alignment": 0}
    for i in range(stretches):
        at = slice(50 + i * length, 50 + (i + 1) * length)
        before, after, following, midpoint, path = (
            x[at] for x in (whole.before, whole.after, whole.following, whole.midpoint, whole.midpoint_path)
        )
        following = np.nan_to_num(following)
        rows = np.column_stack((step, before, after, following, midpoint, zero, path, zero))[i % every :: every]
        found = StochasticFirstLaw(step, following - before).result(Observations(rows))
        expected = {
            "heat": np.sum(before - after),
            "work": np.sum(following - after),
            "midpoint": midpoint.sum(),
            "alignment": midpoint.sum() / path.sum(),
        }
        for name, value in expected.items():
            q = getattr(found, name)
            inside[name] += abs(q.value - value) < 1.645 * q.stderr
    assert all(0.85 < hits / stretches < 0.97 for hits in inside.values()), inside


def test_the_closure_tells_when_the_sampled_steps_are_unlike_the_rest():
    run, _ = physical(every=4)
    fair = read_first_law(run).closure
    assert abs(fair.value) < 3 * fair.stderr

    def tampered(rows):
        rows[:, column(series.FIRST_LAW, "loss_before")] += 30.0  # another loss than the one that was trained on
        return rows

    odd = read_first_law(with_rows(run, series.FIRST_LAW, tampered)).closure
    assert abs(odd.value) > 5 * odd.stderr


def test_the_error_of_sampled_blocks_is_in_midpoint_work():
    run, truth = physical()

    def sampled(rows):
        rows[:, column(series.FIRST_LAW, "midpoint_stderr")] = 0.03
        return rows

    found = read_first_law(with_rows(run, series.FIRST_LAW, sampled))
    assert found.midpoint.stderr == near(0.03 * math.sqrt(STEPS))
    assert found.alignment.stderr == near(0.03 * math.sqrt(STEPS) / truth.midpoint_path.sum())
    assert found.heat.stderr == 0.0


def test_steps_without_a_midpoint_are_stood_for_by_those_with_one():
    run, truth = physical()

    def thinned(rows):
        rows[1::2, column(series.FIRST_LAW, "midpoint")] = math.nan
        return rows

    found = read_first_law(with_rows(run, series.FIRST_LAW, thinned))
    assert abs(found.midpoint.value - truth.midpoint.sum()) < 3 * found.midpoint.stderr
    assert f"from {STEPS // 2} of {STEPS} steps" in found.midpoint.why
    assert found.heat.value == near(truth.heat[:-1].sum())


# Odd steps


def test_a_step_with_a_loss_that_is_not_finite_is_left_out_and_counted():
    run, truth = physical()

    def diverged(rows):
        rows[[10, 20], column(series.FIRST_LAW, "loss_after")] = [math.inf, math.nan]
        return rows

    found = read_first_law(with_rows(run, series.FIRST_LAW, diverged))
    kept = np.setdiff1d(np.arange(STEPS - 1), [10, 20])
    assert found.heat.value == near(truth.heat[kept].sum()) and found.work.value == near(truth.work[kept].sum())
    assert "2 sampled steps whose losses are not finite" in found.heat.why
    assert abs(found.closure.value) < 1e-10


def test_a_loss_that_was_not_read_breaks_the_chain_where_it_is():
    run, truth = physical()

    def unread(rows):
        rows[30, column(series.LOSSES, "loss")] = math.nan
        return rows

    found = read_first_law(with_rows(run, series.LOSSES, unread))
    kept = np.setdiff1d(np.arange(STEPS - 1), [29, 30])
    assert found.work.value == near(truth.work[kept].sum())
    assert found.work.value - found.heat.value == near(found.energy_change.value, 1e-9)


def test_a_skipped_step_has_no_heat_and_its_work_is_known():
    """Batch 40 is not learned from: θ_41 = θ_40, and ℓ_41 − ℓ_40 is all work."""
    run, truth = physical(every=1)

    def skip(rows):
        rows[40, column(series.STEPS, "flags")] = series.SKIPPED
        return rows

    run = with_rows(run, series.STEPS, skip)
    run = with_rows(run, series.FIRST_LAW, lambda rows: np.delete(rows, 40, axis=0))
    found = read_first_law(run)
    kept = np.setdiff1d(np.arange(STEPS - 1), [40])
    assert found.heat.value == near(truth.heat[kept].sum())
    assert found.work.value == near(truth.work[kept].sum() + truth.following[40] - truth.before[40])
    assert found.energy_change.value == near(truth.before[-1] - truth.before[0])
    assert abs(found.closure.value) < 1e-10


def test_a_run_of_one_step_has_no_next_batch():
    run, _ = with_physics(synthetic_run(1))
    found = read_first_law(run)
    assert found.heat.value is None and "next batch" in found.heat.why
    assert found.energy_change.value is None and found.midpoint.value is not None


# Without a replay


def without_replay(**physics):
    run, truth = with_physics(synthetic_run(STEPS), drop=["first_law"])
    return replace(run, meta={**run.meta, "physics": physics}), truth


def test_without_a_replay_the_tap_says_why():
    run, truth = without_replay(level="light", taps={"first_law": {"why": "the model is compiled"}})
    found = read_first_law(run)
    for q in (found.heat, found.work, found.closure, found.midpoint, found.alignment):
        assert q.value is None and q.why.endswith("the model is compiled")
    assert found.energy_change.value == near(truth.before[-1] - truth.before[0])


def test_displacement_work_stands_in_and_its_bias_is_the_curvature_term():
    run, truth = without_replay(level="light", taps={"first_law": {"why": "the model is compiled"}})
    law = standing_in(read_first_law(run), read_gradient_work(run))
    assert str(law.heat.provenance) == "modelled" and "stands in" in law.heat.method
    assert "½Σ ΔθᵀHΔθ" in law.heat.why and "compiled" in law.heat.why
    curvature = np.sum((truth.gradient_after - truth.gradient) * truth.moves)
    assert law.heat.value - truth.heat.sum() == near(0.5 * curvature, 1e-9)
    assert law.work.value == near(law.heat.value + truth.before[-1] - truth.before[0])


def test_midpoint_work_is_the_better_stand_in():
    run, truth = physical()

    def unreplayed(rows):
        rows[:, [column(series.FIRST_LAW, name) for name in ("loss_before", "loss_after")]] = math.nan
        return rows

    run = with_rows(run, series.FIRST_LAW, unreplayed)
    law = standing_in(read_first_law(run), read_gradient_work(run))
    assert law.heat.value == near(truth.heat.sum(), 1e-9) and "third order" in law.heat.why


def test_with_neither_replay_nor_ledger_there_is_no_stand_in():
    run, _ = without_replay(level="off", taps={})
    run = replace(run, tables={name: table for name, table in run.tables.items() if name != "ledger"})
    law = standing_in(read_first_law(run), read_gradient_work(run))
    assert law.heat.value is None and law.work.value is None and law.heat.why


def test_a_replay_needs_no_stand_in():
    run, _ = physical()
    law = read_first_law(run)
    assert standing_in(law, read_gradient_work(run)) is law


def test_parameters_that_did_not_move_tell_no_midpoint_work_of_a_step_that_changed_the_loss():
    law = StochasticFirstLaw()
    state = law.init()
    for k in range(4):
        state = law.update(state, (k, 2.0, 1.5, 1.8, 0.0, 0.0, 0.0, 0.0))
    found = law.result(state)
    assert found.heat.value == 2.0
    for quantity in (found.midpoint, found.midpoint_path, found.alignment):
        assert quantity.value is None and "take turns" in quantity.why


def test_sampled_steps_that_are_unlike_the_rest_do_not_stand_for_them():
    n = 40
    rng = np.random.default_rng(0)
    rises = np.where(np.arange(n) % 2 == 0, 0.5, -0.6) + 0.001 * rng.normal(size=n)  # two networks' losses in turn
    law = StochasticFirstLaw(population=np.arange(float(n)), rises=rises)
    state = law.init()
    for k in range(0, n, 2):
        state = law.update(state, (float(k), 1.0, 0.9, 1.0 + rises[k]))
    found = law.result(state)
    assert found.heat.value is None and found.work.value is None
    assert "unlike the rest" in found.heat.why
    assert found.energy_change.value == pytest.approx(rises.sum())


def test_a_first_step_that_was_not_looked_at_is_left_out_since_no_other_is_like_it():
    """As with LBFGS, whose first step may do most of the work: on one batch, ΣW is then 0, and not that step's Q."""
    losses = np.array([1.3, 0.36, 0.1, 0.03, 0.01, 0.002])
    run = synthetic_run(len(losses))
    steps = np.arange(1.0, len(losses) - 1)
    law = np.full((len(steps), len(series.FIRST_LAW.columns)), math.nan)
    law[:, :1], law[:, 2], law[:, 3] = steps[:, None], losses[1:-1], losses[2:]
    tables = {
        **run.tables,
        "losses": Table(series.LOSSES.columns, np.column_stack((np.arange(6.0), np.arange(6.0), losses))),
        "first_law": Table(series.FIRST_LAW.columns, law),
    }
    found = read_first_law(replace(run, tables=tables))
    assert found.work.value == pytest.approx(0.0, abs=1e-12)
    assert found.heat.value == pytest.approx(losses[1] - losses[-1]) == pytest.approx(-found.energy_change.value)
    for estimate in (found.heat, found.work, found.energy_change):
        assert "from the second step on" in estimate.why
