"""The parts of the policy for recurring jobs, against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ergometry.planning.recurring.belief import LEVEL_SD, LawBelief, epoch_cost_laws, epoch_laws
from ergometry.planning.recurring.choice import Outcomes, chance_better, knowledge_gradient
from ergometry.planning.recurring.outlook import LearningCurves, Outlook
from ergometry.planning.recurring.settings import Settings

X = np.arange(5.0)
FLAT = (np.zeros((1, 5)), np.zeros(1))


def belief(laws=FLAT, noises=(0.5,), sd: float = 0.3) -> LawBelief:
    return LawBelief(X, laws, noises, origin=0, sd=sd, length=1.5, own_sd=0.1)


def test_with_one_law_and_ordinary_readings_it_is_gaussian_regression() -> None:
    got = belief()
    seen, y = [1, 3, 1], np.array([0.2, -0.1, 0.3])
    for i, v in zip(seen, y, strict=True):
        got.update(i, float(v))
    prior = LEVEL_SD**2 + 0.3**2 * np.exp(-0.5 * ((X[:, None] - X) / 1.5) ** 2) + 0.1**2 * np.eye(5)
    inverse = np.linalg.inv(prior[np.ix_(seen, seen)] + 0.5**2 * np.eye(3))
    mean, cov, noise_var = got.moments()
    np.testing.assert_allclose(mean, prior[:, seen] @ inverse @ y, atol=1e-9)
    np.testing.assert_allclose(cov, prior - prior[:, seen] @ inverse @ prior[seen], atol=1e-9)
    assert noise_var == 0.25


def test_a_single_outlier_moves_it_less_than_its_share() -> None:
    calm, upset = belief(noises=(0.1,)), belief(noises=(0.1,))
    for b in (calm, upset):
        for _ in range(5):
            b.update(2, 0.0)
    calm.update(2, 0.1)
    upset.update(2, 2.0)
    assert calm.moments()[0][2] == pytest.approx(0.1 / 6, rel=0.05)
    assert upset.moments()[0][2] < 2.0 / 6 / 3


def test_runs_along_one_law_tell_it_from_the_others() -> None:
    laws = np.vstack([np.zeros(5), 0.7 * X])
    got = belief((laws, np.zeros(2)), noises=(0.05,), sd=0.1)
    for i in (0, 2, 4):
        got.update(i, 0.7 * i + 1.0)
    np.testing.assert_allclose(got.moments()[0], 0.7 * X + 1.0, atol=0.1)


def test_the_runs_choose_how_much_they_differ() -> None:
    rng = np.random.default_rng(0)
    for truth in (0.1, 0.4):
        got = belief(noises=(0.1, 0.4))
        for _ in range(30):
            got.update(2, float(truth * rng.standard_normal()))
        assert got.moments()[2] == pytest.approx(truth**2, rel=0.05)


def test_the_laws_are_those_of_the_text() -> None:
    x = np.array([3.0, 5.0, 7.0])
    laws, weights = epoch_laws(x, 5.0, knee=2.0, knee_sd=4.0, no_floor=6.0)
    assert len(laws) == len(weights)
    knee, floor = 2.0**1, 2.0 ** (5 - 3)
    epochs = (1 + 2**x / knee) / (1 - floor / 2**x)
    assert any(np.allclose(law, np.log(epochs)) for law in laws)
    assert np.exp(weights).max() == pytest.approx(6.0)
    assert any(np.allclose(law, np.log(1 + 4.0 / 2**x)) for law in epoch_cost_laws(x))


def outcomes(mean, sd, noise: float = 0.1, **changes) -> Outcomes:
    n = len(mean)
    values = {"floor": np.full(n, -5.0), "failure": np.zeros(n), "failure_cost": 2.0}
    return Outcomes(np.asarray(mean), np.diag(np.square(sd)), noise**2, **{**values, **changes})


def test_nothing_is_tried_that_is_known_to_be_worse() -> None:
    choice = knowledge_gradient(outcomes([0.0, 0.2], [0.001, 0.001]), horizon=100.0, spend=0.4)
    assert choice.pick == choice.best == 0


def test_the_worth_of_a_trial_is_the_gain_less_its_cost() -> None:
    """Two sizes, the second unknown: E[max(0, 1 − C)] of a log-normal, by brute force."""
    rng = np.random.default_rng(1)
    sd, noise, horizon = 0.3, 0.2, 40.0
    belief = outcomes([0.0, 0.05], [0.0, sd], noise)
    choice = knowledge_gradient(belief, horizon=horizon, spend=0.4)
    shift = 0.5 * noise**2
    best = []
    for runs in (1, 2, 4):
        move = sd**2 / math.sqrt(sd**2 + noise**2 / runs)
        after = 0.05 + 0.5 * sd**2 + move * rng.standard_normal(400_000) - 0.5 * move**2
        cost = np.exp(0.05 - shift + math.hypot(sd, noise) * rng.standard_normal(400_000)) - 1
        best.append(horizon * np.mean(np.maximum(0, 1 - np.exp(after))) / runs - np.mean(np.minimum(cost, 0.4)))
    assert choice.worth[1] == pytest.approx(max(best), rel=0.03)


def test_more_recurrences_to_come_make_a_trial_worth_more() -> None:
    belief = outcomes([0.0, 0.3], [0.0, 0.3])
    worth = [knowledge_gradient(belief, horizon=h, spend=0.4).worth[1] for h in (1.0, 10.0, 100.0)]
    assert worth[0] < 0 < worth[2]
    assert worth == sorted(worth)


def test_a_size_that_often_fails_is_worth_less_and_costs_more() -> None:
    sure, shaky = (outcomes([0.0, 0.0], [0.0, 0.3], failure=np.array([0.0, q])) for q in (0.0, 0.5))
    assert shaky.expected[1] - sure.expected[1] == pytest.approx(math.log1p(2.0 * 0.5 / 0.5))
    a, b = (knowledge_gradient(o, horizon=30.0, spend=0.4) for o in (sure, shaky))
    assert b.worth[1] < a.worth[1]


def test_the_chance_of_being_better_is_that_of_correlated_normals() -> None:
    belief = outcomes([0.0, 0.1, 0.3], [0.0, 0.0, 0.0], 0.0)
    cov = np.array([[0.04, 0.02, 0.0], [0.02, 0.05, 0.01], [0.0, 0.01, 0.02]])
    draws = np.random.default_rng(2).multivariate_normal(belief.mean, cov, 200_000)
    # The expectation of a log-normal cost, not its median, is compared.
    draws = draws + 0.5 * np.diag(cov)
    got = chance_better(Outcomes(**{**vars(belief), "cov": cov}), 0)
    assert got[0] == 0
    np.testing.assert_allclose(got[1:], [np.mean(draws[:, j] < draws[:, 0]) for j in (1, 2)], atol=0.005)


def curves() -> LearningCurves:
    known = LearningCurves(X, 4, Settings())
    for _ in range(5):
        known.add(2, [2, 5, 10, 20], 20)
    return known


def test_a_run_that_repeats_an_earlier_curve_ends_when_that_one_did() -> None:
    outlook = Outlook(100, Settings())
    weights, never = outlook.posterior(math.log(40), 1.0, 0.05, 11, [2, 5, 10], curves().at(2))
    assert weights.sum() + never == pytest.approx(1.0)
    middle = outlook.grid[np.searchsorted(np.cumsum(weights), 0.5)]
    assert 18 <= middle <= 23
    assert weights[outlook.grid <= 11].sum() == 0


def test_a_known_size_ends_when_its_runs_end_whatever_an_odd_curve_says() -> None:
    outlook = Outlook(100, Settings())
    slow = [8, 20, 20]
    known, _ = outlook.posterior(math.log(20), 0.005, 0.01, 20, slow, curves().at(2))
    unknown, _ = outlook.posterior(math.log(20), 1.0, 0.01, 20, slow, curves().at(2))
    mean = lambda w: float(w @ np.minimum(outlook.grid, 100) / w.sum())  # noqa: E731
    assert mean(known) < 25 < mean(unknown)


def test_a_run_that_is_long_overdue_has_probably_failed() -> None:
    outlook = Outlook(100, Settings())
    chances = [outlook.posterior(math.log(20), 0.02, 0.1, e, [2, 5, 10], curves().at(2))[1] for e in (15, 30, 60)]
    assert chances == sorted(chances)
    assert chances[0] < 0.12
    assert chances[2] > 0.5


def test_deadlines_are_weighed_as_by_hand() -> None:
    outlook = Outlook(10, Settings())
    ends = np.zeros_like(outlook.grid)
    ends[outlook.grid == 4] = 0.5
    ends[outlook.grid == 9] = 0.5
    again, none = np.full_like(ends, 3.0), np.zeros_like(ends)
    # After 3 epochs: deadline 4 costs 1 + ½·3 = 2.5, deadline 9 ½·1 + ½·6 = 3.5, starting again 3.
    assert outlook.continues((ends, 0.0), 3, 1.0, again, 3.0, none)
    # After 4 of them one ends at 9 for sure: 5 against 3.
    late = np.where(outlook.grid == 9, 1.0, 0.0)
    assert not outlook.continues((late, 0.0), 4, 1.0, again, 3.0, none)
    assert outlook.continues((late, 0.0), 4, 0.5, again, 3.0, none)
    # What finishing teaches may be worth the difference of 2.
    assert not outlook.continues((late, 0.0), 4, 1.0, again, 3.0, none + 1.9)
    assert outlook.continues((late, 0.0), 4, 1.0, again, 3.0, none + 2.1)
    assert not outlook.continues((none, 1.0), 4, 1.0, again, 3.0, none)


def test_curves_of_far_sizes_are_trusted_less_than_of_near_ones() -> None:
    near, far = curves().at(2)[1], curves().at(4)[1]
    assert np.all(far[:-1] > near[:-1])
    assert far[-1] == near[-1]


def test_a_curve_read_before_a_run_is_read_anew_after_it() -> None:
    known = curves()
    before = known.at(2)[0].copy()
    known.add(2, [18, 19, 19, 20], 20)
    assert np.all(known.at(2)[0][:-1] > before[:-1])
