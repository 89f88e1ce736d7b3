"""The benchmark of the ledger's cost: runs compared bit by bit, clocks that stand still, a census of tensors."""

from __future__ import annotations

import gc
import math
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from benchmarks import ledger_runs, physics
from benchmarks.ledger_runs import CASES, Arm, Case, between, excess, held, interleave, same_bits, scripts, sgd
from benchmarks.physics import cost_of, verdict
from torch import nn

from ergometry.integrations.physics.noise import Noise


def tiny(rounds: int = 2) -> Case:
    return Case(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)),
        lambda: (torch.randn(8, 4), torch.randint(3, (8,))),
        sgd,
        rounds=rounds,
        steps=2,
        price_rounds=2,
        price_steps=2,
    )


def test_runs_at_every_level_come_to_the_same_bits_and_pay_for_what_they_use():
    case = tiny()
    off, light, full = Arm(case, "off"), Arm(case, "light", every=1), Arm(case, "full", every=3)
    interleave((off, light, full), 3, 2)
    assert len(off.cpu_s) == len(light.cpu_s) == 3
    uses = {name: tap["uses"] for name, tap in light.account().items()}
    assert 3 <= uses["first_law"] <= 5  # of six steps the first ones were counted, which nothing is recorded under
    assert uses["equilibrium"] == 6
    assert uses["curvature"] > 0
    cost = cost_of(light, off, off)
    assert 0.0 < cost.taps["equilibrium"]["taken"] < cost.account
    assert cost.taps["first_law"]["taken"] == cost.taps["first_law"]["cost_s"] / sum(off.wall_s)


def test_a_tap_that_draws_from_the_stream_of_the_script_is_found(monkeypatch):
    def step_begin(self, step, step_s):
        torch.rand(())

    monkeypatch.setattr(Noise, "step_begin", step_begin)
    case = tiny()
    with pytest.raises(AssertionError, match="training at level light gave other bits than at level off"):
        interleave((Arm(case, "off"), Arm(case, "light", every=1)), 1, 2)


@pytest.mark.parametrize("where", ["0.weight", "1.running_var", "1.num_batches_tracked"])
def test_one_bit_of_a_parameter_or_a_buffer_is_found(where):
    case = tiny()
    first, second = Arm(case, "off"), Arm(case, "off")
    same_bits(first, second)
    tensor = second.model.state_dict()[where]
    tensor.view(-1)[:1].view(torch.uint8)[0] ^= 1
    with pytest.raises(AssertionError, match="other bits"):
        same_bits(first, second)


def test_nothing_is_patched_between_two_stretches():
    call = nn.Module.__call__
    arm = Arm(tiny(), "light")
    assert nn.Module.__call__ is call
    with arm.watched():
        assert nn.Module.__call__ is not call
    assert nn.Module.__call__ is call


def test_time_in_which_others_train_is_not_taken_for_that_of_a_step(monkeypatch):
    arm = Arm(tiny(), "light")
    arm.stretch(3)
    later = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 3600.0, thread_time=time.thread_time)
    monkeypatch.setattr(ledger_runs, "time", later)
    arm.stretch(3)
    assert 0.0 < arm.tracer.steps.step_s < 60.0
    assert arm.tracer.now() < 60.0


def test_a_run_with_one_tap_has_that_one_alone():
    case = tiny()
    arm = Arm(case, "light", taps=["noise"])
    assert [tap.name for tap in arm.tracer.physics.taps] == ["noise"]
    assert len(Arm(case, "light").tracer.physics.taps) == len(physics.TAPS) + 1  # and information


def test_a_price_is_that_of_a_use_and_not_of_a_step(monkeypatch):
    monkeypatch.setattr(physics, "TAPS", ("equilibrium",))
    price = physics.prices(tiny())["equilibrium"]
    assert 0.0 < price.account <= price.clocked
    assert price.low <= price.outside <= price.high


def test_the_excess_is_that_of_sums_and_its_interval_holds_it():
    off = [1.0] * 40
    seldom = [1.0] * 39 + [5.0]  # one use in forty rounds: a median would miss it
    value, low, high = excess(seldom, off)
    assert value == pytest.approx(0.1)
    assert low <= value <= high
    assert excess(off, off) == (0.0, 0.0, 0.0)
    assert excess([3.0, 3.3], [2.0, 2.2]) == pytest.approx((0.5, 0.5, 0.5))


def test_identical_runs_are_averaged_round_by_round():
    case = tiny()
    first, second = Arm(case, "off"), Arm(case, "off")
    first.cpu_s, second.cpu_s = [1.0, 2.0], [3.0, 6.0]
    assert between(first, second, "cpu_s") == [2.0, 4.0]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.05, "holds"), (0.051, 0.2, "exceeded"), (0.04, 0.06, "not resolved by this machine")],
)
def test_a_verdict_needs_the_whole_interval(low, high, said):
    assert verdict(low, high) == said


def test_held_counts_a_storage_once_and_follows_what_a_function_closes_over():
    x, y = torch.zeros(10), torch.zeros(3, dtype=torch.float64)

    def closing():
        return y

    assert held([x, x[2:5], x.view(2, 5), {"f": closing}], set()) == 40 + 24


def test_held_counts_neither_the_scripts_own_nor_what_is_held_weakly():
    case = tiny()
    arm = Arm(case, "off")
    arm.stretch(2)
    own = scripts(arm)
    everything = [*arm.model.parameters(), *arm.model.buffers(), *(p.grad for p in arm.model.parameters())]
    state = [x for values in arm.optimizer.state.values() for x in values.values()]
    assert held([everything, state], own) == 0
    assert held([everything], set()) > 0
    assert held([arm.model, arm.optimizer], set()) == 0  # modules and optimizers are the script's
    loose = torch.zeros(5)
    assert held([weakref.ref(loose)], set()) == 0


def test_a_tensor_kept_by_a_tap_is_seen():
    arm = Arm(tiny(), "light")
    arm.stretch(3)
    before = held(arm.tracer.physics, scripts(arm))
    arm.tracer.physics.taps[0].kept = torch.zeros(1000)
    gc.collect()
    assert held(arm.tracer.physics, scripts(arm)) == before + 4000


def test_models_have_the_sizes_that_they_are_said_to_have():
    sizes = {name: sum(p.numel() for p in case.build().parameters()) for name, case in CASES.items()}
    assert sizes["mlp"] == 134_154
    assert sizes["cnn"] == 131_754
    assert math.log10(sizes["transformer"]) == pytest.approx(7.0, abs=0.05)


def test_a_run_whose_watching_or_a_tap_has_ended_is_no_measurement(monkeypatch):
    def step_begin(self, step, step_s):
        raise ValueError("broken")

    arm = Arm(tiny(), "light")
    arm.tracer.die()
    with pytest.raises(AssertionError, match="nothing is measured"):
        arm.stretch(1)
    monkeypatch.setattr(Noise, "step_begin", step_begin)
    with pytest.raises(AssertionError, match=r"taps have failed: .*broken"):
        Arm(tiny(), "light", every=1).stretch(1)
