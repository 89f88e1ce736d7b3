"""The law of level light: whatever steps and uses take, all taps together keep to their share after any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.integrations.physics import conductor as conductor_module
from ergometry.integrations.physics import taps
from ergometry.integrations.physics.conductor import Conductor
from ergometry.integrations.physics.purse import ALLOWED, Purse
from ergometry.integrations.physics.tap import Cadence, Pace, Site, Tap

PROMISED = 0.05


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Kind:
    """A tap that costs something: its share, what a use takes and is guessed to take (steps, seconds)."""

    share: float
    cost_s: float
    guess_steps: float
    ready_s: float = 0.0
    first_s: float = 0.0
    fruitless: bool = False


class Costs(Tap):
    """Takes time by the clock in the steps that it is used in."""

    def __init__(self, clock: Clock, number: int, kind: Kind) -> None:
        self.name, self._clock, self._kind = f"tap {number}", clock, kind
        self.cadence: Cadence = Cadence(kind.share, guess_steps=kind.guess_steps, ready_s=kind.ready_s)
        self.steps: list[int] = []
        self.surprise_s = 0.0

    def step_begin(self, step: int, step_s: float) -> None:
        self.steps.append(step)

    def optimizer_end(self, optimizer: Any, step: int) -> None:
        cost_s = self._kind.cost_s if self.cadence.uses else self._kind.first_s or self._kind.cost_s
        self._clock.now_s += cost_s
        self.surprise_s = max(self.surprise_s, cost_s)
        if not self._kind.fruitless:
            self.cadence.spent(cost_s)


class Training:
    """Steps of a known time under a conductor, whose calls take ``event_s`` each beside what taps take."""

    def __init__(self, clock: Clock, kinds: Sequence[Kind], *, event_s: float = 0.0) -> None:
        self.clock, self._event_s = clock, event_s
        self.taps = [Costs(clock, i, kind) for i, kind in enumerate(kinds)]
        self.labels: dict[str, Any] = {}
        self.conductor = Conductor(
            self.taps, meta=lambda **said: self.labels.update(said), notice=lambda *_: None, level="light"
        )
        self.trained_s = 0.0
        self.step = 0

    def _told(self, call: Any, *args: Any, **kwargs: Any) -> None:
        began = self.clock.now_s
        self.clock.now_s += self._event_s
        call(*args, **kwargs)
        self.conductor.clocked_s += self.clock.now_s - began

    def train(self, step_s: float) -> None:
        """Train a step; what the very first one took is not known to the conductor."""
        one = self.conductor
        if one.begins(self.step, step_s if self.step > 1 else 0.0, step_s if self.step > 1 else 0.0):
            self._told(one.step_begin)
        if "optimizer_end" in one.heard:
            self._told(one.optimizer_end, self, self.step, skipped=False)
        self.trained_s += step_s
        self.step += 1

    @property
    def share(self) -> float:
        return self.conductor.spent_s / self.trained_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(conductor_module, "time", made)
    return made


def kinds(step_s: float) -> tuple[Kind, ...]:
    """Return taps as those of this package are: by shares, and by what they cost of a step."""
    usual = ((0.012, 2.5), (0.004, 1.0), (0.003, 1.0), (0.003, 0.5), (0.003, 1.0), (0.005, 14.0))
    return tuple(Kind(share, steps * step_s, steps) for share, steps in usual)


@pytest.mark.parametrize("step_s", [2e-4, 1.6e-3, 11e-3, 1.0])
def test_no_share_is_exceeded_after_any_number_of_steps_and_none_goes_to_waste(clock: Clock, step_s: float) -> None:
    training = Training(clock, kinds(step_s))
    for n in range(1, 20_001):
        training.train(step_s)
        assert training.share <= ALLOWED, n
        if n in (1, 10):
            assert training.conductor.spent_s == 0.0
        if n == 200:
            assert sum(tap.cadence.uses > 0 for tap in training.taps) >= 3, "a short run has what it can"
    for tap in training.taps:
        spent, allowed = tap.cadence.cost_s / training.trained_s, tap.cadence.share
        assert 0.75 * allowed <= spent <= 1.05 * allowed


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-5, 10.0),
    st.lists(
        st.tuples(st.floats(1e-4, 0.03), st.floats(0.0, 30.0), st.floats(0.1, 30.0), st.floats(0.0, 0.05)),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.floats(0.3, 3.0), min_size=1, max_size=20),
    st.floats(0.0, 0.01),
)
def test_whatever_uses_cost_nothing_is_used_until_what_was_spent_is_paid(
    step_s: float, drawn: list[tuple[float, float, float, float]], pace: list[float], event_steps: float
) -> None:
    """Where a use costs more than was thought, that much may be owed; and no more than that of one step's uses."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conductor_module, "time", clock)
        found = [Kind(share, cost * step_s, guess, ready) for share, cost, guess, ready in drawn]
        training = Training(clock, found, event_s=event_steps * step_s)
        for n in range(400):
            before_s, uses = training.conductor.spent_s, [tap.cadence.uses for tap in training.taps]
            training.train(step_s * pace[n % len(pace)])
            spent_s = training.conductor.spent_s
            used = [tap for tap, k in zip(training.taps, uses, strict=True) if tap.cadence.uses > k]
            if used:
                assert before_s <= ALLOWED * training.conductor.pace.trained_s
                most_s = sum(tap.surprise_s for tap in used)
                events_s = 3 * event_steps * step_s
                assert spent_s - before_s <= most_s + events_s + 1e-12


def test_a_first_use_dearer_than_was_thought_is_repaid_by_all(clock: Clock) -> None:
    step_s = 1e-3
    training = Training(clock, [Kind(0.01, step_s, 1.0, first_s=0.1), Kind(0.01, step_s, 1.0)])
    over = []
    for n in range(1, 20_001):
        training.train(step_s)
        if training.share > PROMISED:
            over.append(n)
    first = training.taps[0].steps[0]
    assert over[0] == first + 1
    repaid = 0.1 / ALLOWED / step_s
    assert over[-1] < repaid + 1
    assert not [step for tap in training.taps for step in tap.steps if first < step < repaid - 100]
    assert training.taps[0].cadence.price_s(step_s) == pytest.approx(step_s), "what it made ready is no price"
    assert training.share <= ALLOWED


def test_uses_that_come_to_nothing_do_not_take_every_step(clock: Clock) -> None:
    step_s = 1e-3
    training = Training(clock, [Kind(0.01, 0.1 * step_s, 1.0, fruitless=True)], event_s=0.05 * step_s)
    for _ in range(4000):
        training.train(step_s)
        assert training.share <= PROMISED
    assert 40 <= len(training.taps[0].steps) <= 170
    assert training.share < 0.02


def test_what_the_ledger_of_gradient_work_has_spent_is_not_spent_again(clock: Clock) -> None:
    beside = [0.0]
    training = Training(clock, kinds(1e-3))
    training.conductor._purse = Purse(training.conductor.pace, "light", lambda: training.conductor.spent_s + beside[0])
    beside[0] = 0.2
    repaid = int(beside[0] / ALLOWED / 1e-3)
    for _ in range(repaid - 100):
        training.train(1e-3)
    assert training.conductor.spent_s == 0.0
    for _ in range(600):
        training.train(1e-3)
    assert 0.0 < training.conductor.spent_s <= ALLOWED * training.trained_s - beside[0]


def test_level_full_and_a_fixed_cadence_are_not_bound() -> None:
    pace, tap = Pace(), Tap()
    tap.cadence = Cadence(0.1, guess_steps=1.0)
    full = Purse(pace, "full", lambda: 1e9)
    pace.steps, pace.trained_s, pace.step_s = 20, 20.0, 1.0
    assert full.choose([tap]) == [tap]
    assert full.affords(1.0)
    fixed = Tap()
    fixed.cadence = Cadence(0.01, every=4)
    light = Purse(pace, "light", lambda: 1e9)
    chosen = []
    for pace.steps in range(1, 10):
        if light.asks() and light.choose([fixed]):
            chosen.append(pace.steps)
    assert chosen == [1, 5, 9]
    assert not light.affords(0.0)


def test_a_tap_that_was_never_due_says_so_with_what_a_use_takes_and_the_remedy(clock: Clock) -> None:
    training = Training(clock, [Kind(0.01, 1.0, 5.0, 0.02), Kind(0.01, 1e-3, 1.0)])
    for _ in range(200):
        training.train(2e-3)
    training.conductor.tell()
    told = training.labels["physics"]["taps"]
    assert told["tap 0"]["why"] == (
        "its cadence never came due (a use takes about 30 ms, its share of 200 steps is 4 ms): --physics full or "
        "--physics-every N takes one anyway"
    )
    assert told["tap 1"]["why"] == ""
    assert (told["tap 0"]["uses"], told["tap 0"]["cost_s"]) == (0, 0.0)


def test_the_shares_of_the_taps_leave_room_for_what_passing_events_on_costs() -> None:
    site: Any = Site(*[lambda *_, **__: None] * 7, level="light")  # type: ignore[arg-type]
    made = [make(site, None) for _, make in taps.TAPS]  # type: ignore[arg-type]
    shares = [tap.cadence.share for tap in made if tap.cadence is not None]
    gradient_work = 0.003
    assert sum(shares) + gradient_work <= ALLOWED - 0.002
    assert made[0].cadence is not None
    assert made[0].cadence.share <= 0.015


def test_of_two_that_are_due_at_once_the_one_waits_that_cannot_be_paid_any_more() -> None:
    pace, spent = Pace(1000, 1000.0, 1.0), [0.0]
    purse, made = Purse(pace, "light", lambda: spent[0]), [Tap(), Tap()]
    for tap in made:
        tap.cadence = Cadence(0.04, guess_steps=30.0)
    made[0].name = "other"
    assert purse.choose(made) == made[:1]
    assert [tap.use for tap in made] == [True, False]
    spent[0] = 40.0
    assert purse.choose(made) == []
    assert not purse.asks()
    pace.trained_s = (spent[0] + 30.0) / ALLOWED + 1.0
    assert purse.asks()
    assert purse.choose(made) == made[:1]
