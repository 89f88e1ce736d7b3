"""Learning rates by optimizer: told when they change, and summed over the steps that ended, against plain sums."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ergometry.core.series import LEARNING_RATES
from ergometry.integrations.schedules import Schedules

RATES = st.sampled_from([0.0, 0.1, 0.05, 1e-3])


def started(*groups: float):
    told: list[tuple[float, ...]] = []

    def emit(kind, *row):
        assert kind is LEARNING_RATES
        told.append(row)

    parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": eta} for eta in groups]
    return Schedules(emit), torch.optim.SGD(parameters), told


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.tuples(RATES, RATES, st.sampled_from(["ends", "skipped", "tensor"])), max_size=30),
    looks=st.sets(st.integers(0, 29)),
)
def test_sums_are_those_of_the_steps_that_ended_whenever_they_are_asked_for(steps, looks):
    schedules, optimizer, told = started(0.5, 0.5)
    sums, ended, last = [0.0, 0.0], 0, [math.nan, math.nan]
    changes = []
    for k, (one, other, how) in enumerate(steps):
        for group, eta in zip(optimizer.param_groups, (one, other), strict=True):
            group["lr"] = torch.tensor(eta, dtype=torch.float64) if how == "tensor" else eta
        schedule = schedules.of(optimizer)
        schedule.begin(optimizer.param_groups, k)
        changes += [(k, 0, g, eta) for g, eta in enumerate((one, other)) if eta != last[g]]
        last = [one, other]
        assert schedule.rates == last
        if how != "skipped":
            schedule.end()
            sums, ended = [x + eta for x, eta in zip(sums, last, strict=True)], ended + 1
        if k in looks:
            at = schedule.told()
            assert at.sums == pytest.approx(sums, rel=1e-12)
            assert (at.begun, at.steps, at.unread) == (k + 1, ended, 0)
    assert told == changes


@pytest.mark.parametrize("eta", [None, -0.1, math.nan, math.inf, "fast", torch.ones(2), torch.tensor(0.1).to("meta")])
def test_a_rate_that_is_no_number_or_lies_on_a_device_is_counted_and_not_summed(eta):
    schedules, optimizer, told = started(0.1)
    schedule = schedules.of(optimizer)
    for rate in (0.1, eta, eta, 0.2, 0.2):
        optimizer.param_groups[0]["lr"] = rate
        schedule.begin(optimizer.param_groups, 0)
        assert (schedule.rates is None) == (rate is eta)
        schedule.end()
    at = schedule.told()
    assert (at.unread, at.steps) == (2, 5)
    assert at.sums == pytest.approx((0.5,))
    assert [row[3] for row in told if math.isfinite(row[3]) and row[3] >= 0] == [0.1, 0.2]


def test_a_tensor_that_is_changed_in_place_is_read_again():
    schedules, optimizer, told = started(0.1)
    eta = optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    for _ in range(3):
        schedules.of(optimizer).begin(optimizer.param_groups, 0)
        schedules.of(optimizer).end()
        eta.mul_(0.5)
    assert [row[3] for row in told] == [0.25, 0.125, 0.0625]
    assert schedules.of(optimizer).told().sums == (0.4375,)


def test_groups_that_join_are_summed_from_then_on():
    schedules, optimizer, told = started(0.5)
    schedule = schedules.of(optimizer)
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.25})
        schedule.begin(optimizer.param_groups, step)
        schedule.end()
    assert schedule.told().sums == (2.0, 0.5)
    assert told == [(0, 0, 0, 0.5), (2, 0, 1, 0.25)]


def test_optimizers_are_numbered_as_they_come_and_not_kept_alive():
    schedules, one, told = started(0.1)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    for optimizer in (one, other, one):
        schedules.of(optimizer).begin(optimizer.param_groups, 0)
    assert [(row[1], row[3]) for row in told] == [(0, 0.1), (1, 0.2)]
    gone = weakref.ref(other)
    del other, optimizer
    gc.collect()
    assert gone() is None
