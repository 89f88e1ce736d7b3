"""Knots: where in time a counter's readings belong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.knots import place

U = 0.1


def placed(t: list[float], e: list[float], period_s: float = U) -> tuple[list[float], list[float], list[float]]:
    at, joules, widths = place(np.array(t, dtype=float), np.array(e, dtype=float), period_s)
    return at.tolist(), joules.tolist(), [] if widths is None else widths.tolist()


def test_a_reading_shows_an_update_of_the_last_period() -> None:
    at, joules, widths = placed([1, 2, 3], [0, 5, 9])
    assert at == pytest.approx([0.95, 1.95, 2.95])
    assert joules == [0, 5, 9]
    assert widths == pytest.approx([U] * 3)


def test_without_an_update_period_readings_are_knots() -> None:
    assert placed([1, 2, 3], [0, 5, 9], 0.0) == ([1, 2, 3], [0, 5, 9], [])


def test_equal_readings_show_one_update_that_all_of_them_saw() -> None:
    at, joules, widths = placed([1, 2, 2.03, 2.06, 3], [0, 5, 5, 5, 9])
    assert at == pytest.approx([0.95, (1.96 + 2.0) / 2, 2.95])
    assert joules == [0, 5, 9]
    assert widths == pytest.approx([0.1, 0.04, 0.1])


def test_two_close_readings_that_differ_are_a_period_apart() -> None:
    """Read 30 ms apart: the second update came between them, the first a period before that."""
    at, _, widths = placed([1, 2, 2.03, 3], [0, 5, 9, 20])
    assert at == pytest.approx([0.95, 1.915, 2.015, 2.95])
    assert widths == pytest.approx([0.1, 0.03, 0.03, 0.1])


def test_readings_that_stay_equal_for_longer_than_a_period_stay_apart() -> None:
    at, joules, widths = placed([1, 1.06, 1.12, 2], [5, 5, 5, 9])
    assert at == pytest.approx([0.95, 1.01, 1.07, 1.95])
    assert joules == [5, 5, 5, 9]
    assert widths == pytest.approx([0.1] * 4)


@given(
    st.floats(0, 1),
    st.lists(st.floats(0.003, 0.7), min_size=1, max_size=40),
    st.floats(1.0, 500.0),
)
def test_the_true_update_lies_where_a_knot_may_lie(phase: float, gaps: list[float], power_w: float) -> None:
    """Known truth: a counter of a steady power that is brought up to date every period, to the microsecond."""
    t = 1.0 + np.concatenate(([0.0], np.cumsum(gaps)))
    updates = (np.floor(t / U - phase) + phase) * U
    at, joules, widths = place(t.copy(), np.round(power_w * updates, 9), U)
    truth = joules / power_w
    assert np.all(np.diff(at) > 0)
    assert np.all(np.abs(at - truth) <= 0.5 * widths + 1e-6)
    assert np.all(np.isin(np.round(power_w * updates, 9), joules))
