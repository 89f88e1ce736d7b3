"""The learning rate that a run ended with, against a loop over the rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.series import EQUILIBRIUM
from ergometry.estimators.tapped import last_rate
from support.told import table, told

rows = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.1, 0.2, 0.0])), min_size=1
)


def run_of(rates):
    return told((EQUILIBRIUM, table(EQUILIBRIUM, 1)), rates=rates)


@given(rows)
def test_it_is_the_last_row_of_every_group_where_they_agree(rates):
    last = {}
    for _, optimizer, group, lr in sorted(rates, key=lambda row: row[0]):
        last[optimizer, group] = lr
    found, ended = last_rate(run_of(rates)), set(last.values())
    assert found.since == max(row[0] for row in rates)
    if len(ended) > 1:
        assert np.isnan(found.eta) and "different ones" in found.why
    elif ended == {0.0}:
        assert np.isnan(found.eta) and "positive" in found.why
    else:
        assert {found.eta} == ended and not found.why


def test_a_schedule_of_a_million_steps_is_read():
    k = np.arange(1e6)
    run = run_of(np.column_stack((k, 0 * k, 0 * k, 1.0 / (1.0 + k))))
    assert last_rate(run).eta == pytest.approx(1e-6) and last_rate(run).since == 999_999
