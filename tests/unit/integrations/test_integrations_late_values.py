"""What an accelerator tells late, by a device that is told how fast it is: its values, and its own time."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ergometry.core.series import LOSSES
from ergometry.integrations import pending as pending_module
from ergometry.integrations.device_time import DeviceTimer
from ergometry.integrations.losses import LossReader
from ergometry.integrations.pending import Pending
from ergometry.integrations.steps import BACKWARD, DATA, EVALUATION, FORWARD, OPTIMIZER, OTHER, StepMachine


class Stream:
    """A device that does its work in order, behind the host."""

    def __init__(self) -> None:
        self.queued_s = 0.0  # work given to it so far
        self.done_s = 0.0  # of which it has done so much
        self.events = 0
        self.waits = 0

    def work(self, seconds: float) -> None:
        self.queued_s += seconds

    def advance(self, seconds: float) -> None:
        self.done_s = min(self.queued_s, self.done_s + seconds)

    def event(self, **_: Any) -> Event:
        self.events += 1
        return Event(self)


class Event:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.at_s = float("nan")

    def record(self) -> None:
        self.at_s = self._stream.queued_s

    def query(self) -> bool:
        return self._stream.done_s >= self.at_s

    def synchronize(self) -> None:
        self._stream.waits += 1
        self._stream.done_s = max(self._stream.done_s, self.at_s)

    def elapsed_time(self, end: Event) -> float:
        assert self.query(), "asked before it has passed"
        assert end.query(), "asked before it has passed"
        return (end.at_s - self.at_s) * 1e3


class Late:
    """A tensor on the device: its copy on the host is not right before the device has come to it."""

    def __init__(self, stream: Stream, value: torch.Tensor) -> None:
        self._stream, self._value = stream, value
        self.device = SimpleNamespace(type="fake")

    def to(self, device: str, *, non_blocking: bool) -> torch.Tensor:
        assert device == "cpu"
        assert non_blocking, "it would wait for the device"
        return self._value


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    stream = Stream()
    module = SimpleNamespace(Event=stream.event)
    monkeypatch.setattr(pending_module.torch, "get_device_module", lambda device: module)
    return stream


# Values


def test_values_on_the_cpu_are_read_at_once() -> None:
    read: list[Any] = []
    pending = Pending()
    pending.read(torch.tensor([1.0, 2.0]), read.append)
    pending.read(torch.tensor(3.0), read.append)
    assert read == [[1.0, 2.0], 3.0]
    pending.poll()
    pending.drain()
    assert len(read) == 2


def test_values_of_a_device_are_read_when_they_are_there_in_their_order(stream: Stream) -> None:
    read: list[Any] = []
    pending = Pending()
    for value in (1.0, 2.0, 3.0):
        stream.work(1.0)
        pending.read(Late(stream, torch.tensor(value)), read.append)  # type: ignore[arg-type]
    pending.poll()
    assert read == []
    stream.advance(1.0)
    pending.poll()
    pending.poll()
    assert read == [1.0]
    stream.advance(1.5)
    pending.poll()
    assert read == [1.0, 2.0]
    assert stream.waits == 0, "nothing waits for the device while the run goes on"
    pending.drain()
    assert read == [1.0, 2.0, 3.0]
    assert stream.waits == 1
    pending.drain()
    pending.poll()
    assert len(read) == 3


def test_a_reader_that_asks_for_more_is_served_next(stream: Stream) -> None:
    read: list[Any] = []
    pending = Pending()

    def again(value: float) -> None:
        read.append(value)
        if value < 3.0:
            pending.read(Late(stream, torch.tensor(value + 1.0)), again)  # type: ignore[arg-type]

    pending.read(Late(stream, torch.tensor(1.0)), again)  # type: ignore[arg-type]
    pending.drain()
    assert read == [1.0, 2.0, 3.0]


class Later(Pending):
    """Reads everything late, as from a device."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def read(self, tensor: torch.Tensor, then: Any) -> None:
        self.waiting.append((tensor, then))

    def arrive(self) -> None:
        for tensor, then in self.waiting:
            then(tensor.tolist())
        self.waiting.clear()


def test_late_losses_of_one_step_are_added_and_belong_to_their_step() -> None:
    told: list[tuple[int, float]] = []
    machine, pending = StepMachine(lambda *_: None), Later()
    reader = LossReader(machine, pending, lambda step, loss: told.append((step, loss)))
    for step, losses in enumerate(([1.5, 2.5], [4.0])):
        machine.index = step
        for loss in losses:
            reader._read_late(torch.tensor(loss), step)
    pending.arrive()
    assert told == [(0, 1.5), (0, 4.0), (1, 4.0)], "the last of a step counts"
    reader._read_late(torch.tensor(float("nan")), 2)
    pending.arrive()
    assert told[3][0] == 2
    assert math.isnan(told[3][1])
    assert reader.unreadable == 1


def test_losses_that_are_no_finite_scalar_are_counted() -> None:
    rows: list[Any] = []
    machine = StepMachine(lambda series, *values: rows.append((series, values)))
    reader = LossReader(machine, Pending(), lambda *_: None)
    machine.forward_begin(training=True, starts_step=True, now_s=0.0)
    machine.forward_end(1.0, evaluation=False)
    for loss in (torch.tensor([1.0, 2.0]), torch.tensor(float("inf")), "no tensor", [torch.tensor([[2.0]]), None]):
        reader.read(loss)
    assert reader.unreadable == 4
    machine.optimizer_end(2.0)
    (loss,) = [values[2] for series, values in rows if series is LOSSES]
    assert math.isnan(loss), "a step of which one loss was infinite has none"


# The device's own time


class Timed:
    """A timer, the stream that it times, and what it has told."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.told: list[tuple[int, list[float]]] = []
        self.timer = DeviceTimer(self.stream.event, lambda step, sums: self.told.append((step, list(sums))))

    def phase(self, phase: int, seconds: float, step: int) -> None:
        self.stream.work(seconds)
        self.timer.mark(phase, step)

    def sums(self) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for step, sums in self.told:
            before = found.setdefault(step, [0.0] * 6)
            found[step] = [a + b for a, b in zip(before, sums, strict=True)]
        return found


PLAIN = ((DATA, 0.125), (FORWARD, 1.0), (BACKWARD, 2.0), (OPTIMIZER, 0.5), (OTHER, 0.25), (EVALUATION, 0.0))


def in_order(plain: Any) -> list[float]:
    return [seconds for _, seconds in sorted(plain)]


@pytest.mark.parametrize("lag_s", [0.0, 0.3, 5.0, 1e9])
def test_phases_have_the_devices_time_however_far_it_is_behind(lag_s: float) -> None:
    timed = Timed()
    timed.timer.mark(OTHER, 0)  # the beginning
    for step in range(4):
        for phase, seconds in PLAIN:
            timed.phase(phase, seconds, step)
            timed.stream.advance(max(timed.stream.queued_s - timed.stream.done_s - lag_s, 0.0))
            timed.timer.poll()
    timed.stream.advance(1e12)
    timed.timer.poll()
    timed.timer.flush()
    assert [step for step, _ in timed.told] == [0, 1, 2, 3], "each step once"
    for _, sums in timed.told:
        assert sums == pytest.approx(in_order(PLAIN))


def test_what_the_device_has_not_done_is_not_told() -> None:
    timed = Timed()
    timed.timer.mark(OTHER, 0)
    for step in range(3):
        for phase, seconds in PLAIN:
            timed.phase(phase, seconds, step)
    timed.stream.advance(2.0)  # into the first backward
    timed.timer.poll()
    assert timed.told == []
    timed.timer.flush()
    assert timed.told == [(0, pytest.approx([0.125, 1.0, 0.0, 0.0, 0.0, 0.0]))]
    timed.stream.advance(1e9)
    timed.timer.poll()
    timed.timer.flush()
    whole = timed.sums()
    assert [whole[step] for step in range(3)] == [pytest.approx(in_order(PLAIN))] * 3, "nothing is lost or told twice"


def test_a_phase_that_comes_again_in_a_step_is_added() -> None:
    timed = Timed()
    timed.timer.mark(OTHER, 0)
    for _ in range(3):
        timed.phase(FORWARD, 1.0, 0)
        timed.phase(BACKWARD, 2.0, 0)
    timed.phase(OPTIMIZER, 0.5, 0)
    timed.stream.advance(1e9)
    timed.timer.poll()
    timed.timer.flush()
    assert timed.told == [(0, pytest.approx([0.0, 3.0, 6.0, 0.5, 0.0, 0.0]))]


def test_events_are_used_again() -> None:
    timed = Timed()
    for step in range(1000):
        for phase, seconds in PLAIN:
            timed.phase(phase, seconds, step)
        timed.stream.advance(1e9)
        timed.timer.poll()
    assert timed.stream.events <= 2 * len(PLAIN)


def test_nothing_is_told_of_nothing() -> None:
    timed = Timed()
    timed.timer.poll()
    timed.timer.flush()
    timed.timer.mark(OTHER, 0)
    timed.timer.poll()
    timed.timer.flush()
    assert timed.told == []


def test_the_machine_marks_each_phase_once_and_the_timer_sums_to_the_devices_whole_time() -> None:
    timed = Timed()
    machine = StepMachine(lambda *_: None)
    machine.on_switch = lambda phase: timed.timer.mark(phase, machine.index)
    now_s = 0.0
    timed.timer.mark(OTHER, 0)
    for _ in range(5):
        machine.data_begin(now_s)
        machine.data_end(now_s)
        machine.forward_begin(training=True, starts_step=True, now_s=now_s)
        timed.stream.work(1.0)
        machine.forward_end(now_s, evaluation=False)
        machine.backward_begin(now_s)
        timed.stream.work(2.0)
        machine.backward_end(now_s)
        machine.optimizer_begin(now_s)
        timed.stream.work(0.5)
        machine.optimizer_end(now_s)
        timed.timer.poll()
    machine.finish(now_s)
    timed.stream.advance(1e9)
    timed.timer.poll()
    timed.timer.flush()
    for _, sums in timed.told:
        assert sums == pytest.approx([0.0, 1.0, 2.0, 0.5, 0.0, 0.0])
    assert len(timed.told) == 5
