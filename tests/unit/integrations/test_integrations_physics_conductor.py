"""The conductor: who is told what and when, what a failing tap costs the others, and what is told of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from ergometry.core.series import NOISE, OVERHEAD, STEPS
from ergometry.integrations import torch_hooks
from ergometry.integrations.physics import conductor as conductor_module
from ergometry.integrations.physics import first_law, taps
from ergometry.integrations.physics.conductor import EVENTS, Conductor
from ergometry.integrations.physics.purse import ALLOWED
from ergometry.integrations.physics.tap import Cadence, Pace, Tap
from ergometry.integrations.physics.tape import Unreplayable
from support.checkpoints import Script, rows, watched
from support.clients import Kept
from support.networks import mlp, of_kind, points


class Listens(Tap):
    """Writes down what it is told."""

    def __init__(self, name: str = "listens") -> None:
        self.name, self.told = name, list[tuple[Any, ...]]()
        self.cadence = Cadence(0.01, every=1)

    def __getattribute__(self, name: str) -> Any:
        if name in EVENTS:
            return lambda *args, **kwargs: self.hear(name, *args, **kwargs)
        return super().__getattribute__(name)

    def hear(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.told.append((name, *args, *kwargs.values()))


for _event in EVENTS:  # what is not overridden is not told
    setattr(Listens, _event, lambda self, *args, **kwargs: None)


class Fails(Listens):
    """Fails at one event."""

    def __init__(self, event: str, error: type[Exception] = ValueError) -> None:
        super().__init__("fails")
        self.event, self.error = event, error

    def hear(self, name: str, *args: Any, **kwargs: Any) -> None:
        super().hear(name, *args, **kwargs)
        if name == self.event:
            raise self.error("of its own making")


def conductor(*taps: Tap) -> tuple[Conductor, Kept]:
    client = Kept()
    return Conductor(taps, meta=client.meta, notice=client.notice, level="light"), client


class Optimizer:
    """Steps nothing."""


OPTIMIZER = Optimizer()


def a_step(one: Conductor, step: int = 0) -> None:
    one.forward_begin(step, 0.1, "module", (), {})
    one.forward_end("module", "out")
    one.backward_begin("loss")
    one.backward_end("loss")
    one.optimizer_begin(OPTIMIZER, closure=False)
    one.optimizer_end(OPTIMIZER, step, skipped=False)


STEP = [
    ("step_begin", 0, 0.1),
    ("forward_begin", "module", (), {}),
    ("forward_end", "module", "out"),
    ("backward_begin", "loss"),
    ("backward_end", "loss"),
    ("optimizer_begin", OPTIMIZER, False),
    ("optimizer_end", OPTIMIZER, 0),
]


def test_a_step_begins_with_its_first_forward_and_everything_is_passed_on_in_order() -> None:
    tap = Listens()
    one, _ = conductor(tap)
    a_step(one)
    assert tap.told == STEP
    one.forward_begin(0, 0.1, "again", (), {})
    assert [event[0] for event in tap.told[len(STEP) :]] == ["forward_begin"]
    one.forward_begin(1, 0.1, "next", (), {})
    assert [event[0] for event in tap.told[len(STEP) + 1 :]] == ["step_end", "step_begin", "forward_begin"]


def test_a_skipped_step_and_one_that_raised_are_told_apart_from_one_that_ended() -> None:
    tap = Listens()
    one, _ = conductor(tap)
    a_step(one)
    one.optimizer_end(OPTIMIZER, 3, skipped=True)
    one.unwound()
    assert tap.told[len(STEP) :] == [("skipped",), ("unwound",)]
    a_step(one)
    assert [event[0] for event in tap.told].count("step_begin") == 2, "what raised begins its step anew"


def test_a_step_that_no_tap_is_used_in_is_told_to_none_of_them() -> None:
    tap, other = Listens(), Listens("other")
    tap.cadence, other.cadence = Cadence(0.01, every=3), Cadence(0.01, every=6)
    one, _ = conductor(tap, other)
    for step in range(7):
        a_step(one, step)
        assert bool(one.heard) == (step % 3 == 0)
    whole = ["step_begin", *(event[0] for event in STEP[1:]), "step_end"]
    assert [event[0] for event in tap.told] == [*whole, *whole, *whole[:-1]]
    assert [event[1] for event in tap.told if event[0] == "step_begin"] == [0, 3, 6]
    assert [event[1] for event in other.told if event[0] == "step_begin"] == [0, 6]


def test_a_tap_that_looks_at_steps_in_a_row_is_told_of_the_next_ones_too() -> None:
    tap = Listens()
    tap.cadence = Cadence(0.01, every=5)
    goes_on = [True, True, False]
    tap.__class__ = type("Again", (Listens,), {"again": property(lambda _: bool(goes_on) and goes_on.pop(0))})
    one, _ = conductor(tap)
    for step in range(6):
        a_step(one, step)
    assert [event[1] for event in tap.told if event[0] == "step_begin"] == [0, 1, 5]
    assert tap.told[-1][0] != "step_end"


def test_a_use_that_comes_to_nothing_is_due_again_before_its_whole_price_is_saved_but_not_at_once() -> None:
    cadence = Cadence(0.01, guess_steps=1.0)
    pace, used = Pace(), []
    for step in range(400):
        pace = Pace(step + 1, float(step), 1.0)
        if cadence.due(pace):
            used.append(step)
            cadence.lapse()
    assert used == [100, 125, 150, 175, 200, 225, 250, 275, 300, 325, 350, 375]


@pytest.mark.parametrize("event", [event for event in EVENTS if event not in ("skipped", "unwound", "finish", "stop")])
def test_a_tap_that_fails_ends_alone_and_says_why(event: str) -> None:
    fails, listens = Fails(event), Listens()
    one, client = conductor(fails, listens)
    for step in range(2):
        a_step(one, step)
    one.finish()
    assert [name for name, *_ in listens.told].count("step_begin") == 2
    assert [name for name, *_ in fails.told].count(event) == 1
    assert fails.told[-1] == ("stop",)
    assert client.notices == [("physics.failed", "fails: ValueError: of its own making")]
    assert client.labels["physics"]["taps"]["fails"]["why"] == "ValueError: of its own making"
    assert client.labels["physics"]["taps"]["listens"]["why"] == ""


def test_a_tap_whose_tape_cannot_be_replayed_has_a_reason_and_gives_no_warning() -> None:
    one, client = conductor(Fails("optimizer_end", Unreplayable))
    a_step(one)
    one.finish()
    assert client.notices == []
    assert client.labels["physics"]["taps"]["fails"]["why"] == "of its own making"


def test_a_failure_in_stopping_is_said_too() -> None:
    class Twice(Fails):
        def hear(self, name: str, *args: Any, **kwargs: Any) -> None:
            if name == "stop":
                raise RuntimeError("nor does it stop")
            super().hear(name, *args, **kwargs)

    one, client = conductor(Twice("forward_begin"))
    a_step(one)
    one.tell()
    assert client.labels["physics"]["taps"]["fails"]["why"] == "ValueError: of its own making (nor does it stop)"


def test_what_taps_cost_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(10.0, 2.0)
    monkeypatch.setattr(conductor_module.time, "perf_counter", lambda: next(now))
    tap = Listens()
    one, client = conductor(tap)
    told: list[float] = []
    for _ in range(6):
        client.labels.clear()
        one.housekeep()
        told.append("physics" in client.labels)
    assert told == [True, False, False, True, False, False]
    a_step(one)
    tap.cadence.spent(0.25)
    one.clocked_s += 100.0
    one.tell()
    label = client.labels["physics"]
    assert label["taps"] == {"listens": {"uses": 1, "steps": 1, "cost_s": 0.25, "share": 0.01, "why": ""}}
    assert (label["level"], label["allowed"]) == ("light", ALLOWED)
    assert label["events_s"] == one.clocked_s - one._within_s > 0


# In a training


def test_every_tap_is_there_and_together_they_leave_the_training_as_it_is() -> None:
    one = Script(**of_kind("cnn"), optimizer=lambda p: torch.optim.Adam(p, 0.01), steps=8)
    alone = one.train()
    names = ("first_law", "noise", "equilibrium", "length", "curvature", "information")
    with watched(*names) as client:
        together = one.train()
    assert all(torch.equal(a, b) for a, b in zip(alone.bits, together.bits, strict=True))
    assert client.notices == []
    assert set(client.labels["physics"]["taps"]) == set(names)
    assert client.labels["physics"]["level"] == "light"
    assert rows(client)
    assert rows(client, NOISE)


@pytest.mark.parametrize("event", ["step_begin", "forward_begin", "backward_begin", "backward_end", "optimizer_end"])
def test_a_tap_that_fails_is_no_fault_of_the_instrument(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    one = Script(**of_kind("mlp"), optimizer=lambda p: torch.optim.SGD(p, 0.1))
    alone = one.train()
    monkeypatch.setattr(first_law.FirstLaw, event, fail)
    with watched("first_law", "noise") as client:
        measured = one.train()
    assert all(torch.equal(a, b) for a, b in zip(alone.bits, measured.bits, strict=True))
    assert client.notices == [("physics.failed", "first_law: RuntimeError: a fault of ours")]
    assert rows(client, NOISE), "the others go on"
    assert len(client.table(STEPS)) == one.steps


def test_the_time_of_taps_is_in_no_phase_and_in_the_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves only in a tap: every phase of the script then takes no time, but ``other``."""
    now = [0.0]

    class Slow(Tap):
        name = "slow"

        def __init__(self, site: Any, tapes: Any) -> None:
            self.cadence = None

    def work(self: Any, *args: Any, **kwargs: Any) -> None:
        now[0] += 1.0

    events = ("forward_begin", "forward_end", "backward_begin", "backward_end", "optimizer_begin", "optimizer_end")
    for event in events:
        setattr(Slow, event, work)
    monkeypatch.setattr(taps, "TAPS", (("first_law", Slow),))
    with watched() as client:
        tracer = torch_hooks._active
        assert tracer is not None
        tracer._clock, tracer._origin_s = (lambda: now[0]), 0.0
        Script(make=mlp, batch=points(), optimizer=lambda p: torch.optim.SGD(p, 0.1), accumulate=2).train()
    steps = client.table(STEPS)
    for row in steps:
        assert [row[f"{phase}_s"] for phase in ("data", "forward", "backward", "optimizer")] == [0.0] * 4
    # Two forwards, two backwards and one optimizer of two calls each; the optimizer's end belongs to the next step.
    assert [row["other_s"] for row in steps] == [9.0] + [10.0] * 5
    assert client.table(OVERHEAD)[-1]["ledger_s"] >= now[0]
    assert abs(client.table(OVERHEAD)[-1]["hook_s"]) < 1e-9


def test_modules_that_taps_call_are_not_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Calls(Tap):
        name = "calls"

        def __init__(self, site: Any, tapes: Any) -> None:
            self.inner = nn.Linear(3, 3)

        def optimizer_end(self, optimizer: Any, step: int) -> None:
            self.inner(torch.ones(2, 3)).sum().backward()

    plain = Script(make=mlp, batch=points(), optimizer=lambda p: torch.optim.SGD(p, 0.1))
    with watched(physics="off") as off:
        plain.train()
    monkeypatch.setattr(taps, "TAPS", (("first_law", Calls),))
    with watched() as on:
        plain.train()
    for column in ("examples", "backwards", "flops"):
        assert [row[column] for row in on.table(STEPS)] == [row[column] for row in off.table(STEPS)]
    assert on.labels["parameters"] == off.labels["parameters"]


def test_the_training_set_is_known_where_it_is_drawn_without_replacement() -> None:
    data = TensorDataset(torch.randn(20, 6), torch.randint(0, 3, (20,)))
    loaders = {
        20.0: DataLoader(data, 5, shuffle=True),
        7.0: DataLoader(torch.utils.data.Subset(data, range(7)), 5),
        None: DataLoader(data, 5, sampler=RandomSampler(data, replacement=True)),
    }
    weighted = DataLoader(data, 5, sampler=WeightedRandomSampler([1.0] * 20, 20))
    with watched():
        tracer = torch_hooks._active
        assert tracer is not None
        assert tracer.loaders.drawn_from() is None
        for known, loader in [*loaders.items(), (None, weighted)]:
            next(iter(loader))
            assert tracer.loaders.drawn_from() == known
