"""What a step takes by itself: the instrument's own time, the first step and evaluations are not in it."""

from __future__ import annotations

import pytest

from ergometry.integrations.step_clock import StepClock


def run(clock: StepClock, lasts: list[float], own: list[float] | None = None) -> list[float]:
    """Begin steps that last so long, of which so much is the instrument's own; return what each was found to take."""
    now_s = own_s = 0.0
    found = []
    own = own or [0.0] * len(lasts)
    for index, (last, ours) in enumerate(zip(lasts, own, strict=True)):
        found.append(clock.begins(index, now_s, own_s))
        now_s, own_s = now_s + last + ours, own_s + ours
    return found


def test_the_first_step_tells_nothing_of_the_others() -> None:
    clock = StepClock()
    assert run(clock, [100.0, 1.0, 1.0, 1.0]) == [0.0, 0.0, 1.0, 1.0]
    assert clock.step_s == 1.0


def test_what_the_instrument_took_is_not_the_steps() -> None:
    clock = StepClock()
    found = run(clock, [5.0, *[2.0] * 30], [9.0, *[0.7, 0.0, 40.0] * 10])
    assert found[2:] == pytest.approx([2.0] * 29)
    assert clock.step_s == pytest.approx(2.0)


def test_the_first_ones_count_alike_and_it_follows_a_change_later() -> None:
    clock = StepClock()
    run(clock, [9.0, 1.0, 2.0, 3.0, 0.0])
    assert clock.step_s == pytest.approx(2.0)
    clock = StepClock()
    run(clock, [9.0, *[1.0] * 40, *[2.0] * 8])
    assert clock.step_s == pytest.approx(2.0 - 0.9**7)


def test_of_a_step_with_an_evaluation_in_it_no_more_counts_than_three() -> None:
    clock = StepClock()
    found = run(clock, [9.0, *[1.0] * 20, 500.0, 1.0, 1.0])
    assert max(found) == pytest.approx(3.0)
    assert clock.step_s < 1.3


def test_further_forwards_of_a_step_begin_none() -> None:
    clock = StepClock()
    run(clock, [1.0, 1.0, 1.0])
    assert clock.begins(2, 100.0, 0.0) == 0.0
    assert clock.step_s == 1.0
    assert clock.begins(3, 3.0, 0.0) == 1.0, "the step has begun with its first one"
