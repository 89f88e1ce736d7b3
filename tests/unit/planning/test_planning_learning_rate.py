"""The rules for a learning rate at another batch size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.equations import optimal_learning_rate
from ergometry.planning.learning_rate import rescaled


@given(b=st.floats(1, 1e5), to=st.floats(1, 1e5), noise=st.floats(0.1, 1e6))
def test_the_noise_scale_rule_follows_the_rate_of_greatest_descent(b: float, to: float, noise: float) -> None:
    def best(batch: float) -> float:
        return optimal_learning_rate(1.0, 1.0, noise, batch)

    assert rescaled(best(b), b, to, b_noise=noise).value == pytest.approx(best(to))


@given(b=st.floats(1, 1e4), to=st.floats(1, 1e4))
def test_every_rule_is_undone_by_going_back(b: float, to: float) -> None:
    for options in ({"optimizer": "sgd"}, {"optimizer": "AdamW"}, {"b_noise": 50.0}):
        there = rescaled(0.1, b, to, **options).value
        assert rescaled(there, to, b, **options).value == pytest.approx(0.1)


def test_far_below_the_noise_scale_the_rule_is_linear_and_far_above_constant() -> None:
    assert rescaled(0.1, 10, 20, b_noise=1e9).value == pytest.approx(0.2)
    assert rescaled(0.1, 1e6, 2e6, b_noise=1.0).value == pytest.approx(0.1, rel=1e-5)


def test_the_rule_is_that_of_the_optimizer_and_the_others_are_shown() -> None:
    found = rescaled(1e-3, 32, 512, optimizer="Adam", b_noise=100.0)
    assert found.rule == "square root"
    assert found.value == pytest.approx(4e-3)
    assert set(found.others) == {"linear", "noise scale"}


def test_a_rate_beyond_the_stability_limit_is_held_and_said() -> None:
    found = rescaled(0.1, 32, 512, limit=0.5)
    assert found.value == 0.25
    assert "stability limit" in found.remark
    assert rescaled(0.1, 32, 64, limit=0.5).value == pytest.approx(0.2)


def test_the_linear_rule_without_a_noise_scale_says_what_it_takes_for_granted() -> None:
    assert "noise scale" in rescaled(0.1, 32, 64).remark


@pytest.mark.parametrize("words", [(0.0, 1, 1), (0.1, -1, 1), (0.1, 1, float("nan"))])
def test_what_is_not_positive_is_refused(words) -> None:
    with pytest.raises(UsageError, match="positive"):
        rescaled(*words)


def test_an_optimizer_whose_rule_is_not_known_is_said_to_follow_sgds() -> None:
    assert "Muon is none of" in rescaled(0.1, 32, 64, optimizer="Muon").remark
    assert "it was not seen" in rescaled(0.1, 32, 64, optimizer="", b_noise=50.0).remark
    assert (
        "which rule"
        not in rescaled(0.1, 32, 64, optimizer="SGD").remark + rescaled(0.1, 32, 64, optimizer="AdamW").remark
    )
    assert rescaled(0.1, 32, 64).scale == pytest.approx(2.0)


def test_an_optimizer_that_compares_gradients_of_one_batch_is_given_no_rule() -> None:
    found = rescaled(0.5, 100, 400, optimizer="LBFGS")
    assert (found.value, found.rule) == (0.5, "unchanged")
    assert "one batch" in found.remark
