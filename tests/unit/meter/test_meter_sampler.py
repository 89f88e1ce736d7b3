"""The sampler with sensors that misbehave, in this process, by a clock that moves only when told."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import ergometry.meter
from ergometry.core.clock import FakeClock
from ergometry.core.ports import Availability, Machine, OpenSource, Signal
from ergometry.core.run import Run
from ergometry.core.series import HEALTH
from ergometry.core.trace import Trace
from ergometry.meter import sampler as sampler_module
from ergometry.meter import source as source_module
from ergometry.meter.sampler import Sampler, suspended_s
from ergometry.meter.source import HUNG_S, PATIENCE_S, Clocks, Source
from ergometry.meter.worker import InThread
from ergometry.store.reader import load
from ergometry.store.writer import Writer

NAN = math.nan
ORIGIN_S = 1000.0
ROW = tuple(float(i) for i in range(len(HEALTH.columns) - 1))


def counter(domain: str, **more: Any) -> Signal:
    return Signal(domain, "energy_j", "measured", "counter", **more)


class Fake:
    """A sensor that does what it is told at each reading; by default a counter of 10 W."""

    def __init__(
        self,
        source: str = "fake",
        *signals: Signal,
        read: Callable[[float], tuple[float, ...]] | None = None,
        may_block: bool = False,
        min_period_s: float = 0.0,
    ) -> None:
        self.source, self.may_block, self.min_period_s = source, may_block, min_period_s
        self.signals = signals or (counter(f"node0/{source}"),)
        self.reads = read or (lambda t_s: (10.0 * t_s,) * len(self.signals))
        self.rows: Callable[[], Iterable[tuple[float, ...]]] = tuple
        self.closed = 0

    def read(self, now_s: float) -> tuple[float, ...]:
        return self.reads(now_s - ORIGIN_S)

    def health(self) -> Iterable[tuple[float, ...]]:
        return self.rows()

    def close(self) -> None:
        self.closed += 1


class Gate:
    """Holds up calls that pass it while it is shut, as a driver does that hangs."""

    #: The names of the threads that one holds up.
    holds: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def __call__(self, value: Any = None) -> Any:
        thread = threading.current_thread().name
        self.holds.add(thread)
        assert self.open.wait(60), "the test left it shut"
        self.holds.discard(thread)
        return value


class Prompt(InThread[Any]):
    """A worker whose thread is late only where a gate holds it up, however busy this machine is."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def answer(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + 30
        while timeout_s > 0.0 and self._answers.empty() and self.name not in Gate.holds and time.monotonic() < deadline:
            time.sleep(0.0002)
        return super().answer(timeout_s)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


class World:
    """A sampler, the file that it writes, and a clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock(ORIGIN_S)
        self.slept_s = 0.0
        self.file = folder / "process-1.sqlite"
        self.writer = Writer(self.file)
        self.found: list[Availability] = []
        self.sources: list[OpenSource] = []
        self.again: dict[str, list[Fake | None]] = {}
        self.opened_at: list[float] = []
        self.pids: Callable[[], Iterable[int]] = lambda: (1, 2)
        monkeypatch.setattr(sampler_module, "open_sensors", lambda *_: (self.sources, self.found))
        monkeypatch.setattr(source_module, "InThread", Prompt)
        monkeypatch.setattr(Gate, "holds", set())
        clocks = Clocks(self.clock.now, ORIGIN_S, lambda: self.slept_s)
        self.sampler = Sampler(self.writer, clocks, pids=lambda: self.pids())

    def now(self) -> float:
        return self.clock.now() - ORIGIN_S

    def use(self, *sensors: Fake, again: Iterable[Fake | None] = (), **signals: tuple[Signal, ...]) -> None:
        """Open the sensors; those that are opened again are, one after another, those of ``again``."""
        left = list(again)

        def opener(machine: Machine) -> tuple[Fake | None, Availability]:
            self.opened_at.append(self.now())
            sensor = left.pop(0) if left else None
            return sensor, Availability("fake", sensor is not None)

        self.sources = [OpenSource(s, signals.get(s.source, s.signals), opener) for s in sensors]  # type: ignore[arg-type]
        self.found = self.found or [Availability(s.source, True) for s in sensors]
        self.sampler.open()

    def sample_at(self, *times: float, regular: bool = True) -> None:
        for t_s in times:
            self.clock.advance(t_s - self.now())
            self.sampler.sample(regular=regular)

    def settle(self) -> None:
        """Wait until no call of a sensor is under way."""
        deadline = time.monotonic() + 30
        while any(source.busy for source in self.sampler._sources) and time.monotonic() < deadline:
            self.sampler.collect()
            threading.Event().wait(0.0005)

    def run(self) -> Run:
        """End the run as the recorder does, and return what was stored."""
        began = time.monotonic()
        self.sampler.finish()
        self.writer.finish("completed", 0, self.now())
        self.all_closed = self.sampler.close()
        assert time.monotonic() - began < 5.0, "the end waited for a sensor"
        return load(self.file)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def said(run: Run) -> list[tuple[str, str]]:
    return [(notice.code, notice.detail) for notice in run.notices]


def column(run: Run, source: str, name: str = "c0") -> list[float]:
    (table,) = [samples.table for samples in run.samples if samples.source == source]
    return [float(x) for x in table[name]]


def gaps(values: Iterable[float]) -> str:
    """Return a dot for each reading and a dash for each gap."""
    return "".join("-" if math.isnan(x) else "." for x in values)


# What is read, and when


def test_rows_are_raw_under_the_signals_that_were_placed_and_calibrated(world: World) -> None:
    placed = counter("node0/psys/package0", gain=1.5)
    world.use(Fake("a", counter("node0/package0")), a=(placed,))
    world.sample_at(0, 1, 2)
    assert (world.sampler.tally.energy_j, world.sampler.tally.power_w) == (30.0, 15.0)
    run = world.run()
    (samples,) = run.samples
    assert samples.signals == (placed,)
    assert samples.table.rows.tolist() == [[0, 0], [1, 10], [2, 20]]
    assert said(run) == []


def test_a_source_is_not_read_before_its_time_and_no_row_stands_for_it(world: World) -> None:
    slow, quick = Fake("slow", min_period_s=1.0), Fake("quick")
    world.use(slow, quick)
    world.sample_at(0)
    world.sample_at(0.3, 0.6, regular=False)
    world.sample_at(1.004)
    world.sample_at(1.99)  # a little early, as clocks are
    world.sample_at(2.5, regular=False)
    world.sample_at(3.0)
    run = world.run()
    assert column(run, "slow", "t_s") == pytest.approx([0, 1.004, 1.99, 3.0])
    assert column(run, "quick", "t_s") == pytest.approx([0, 0.3, 0.6, 1.004, 1.99, 2.5, 3.0])


def test_a_long_period_is_kept_between_regular_samples_but_for_the_last(world: World) -> None:
    world.use(Fake("bmc", min_period_s=5.0))
    world.sample_at(*range(13))
    world.clock.advance(0.5)
    assert column(world.run(), "bmc", "t_s") == [0, 5, 10, 12.5]


def test_a_reading_is_dated_at_the_middle_of_the_call(world: World) -> None:
    def read(t_s: float) -> tuple[float, ...]:
        world.clock.advance(0.25)
        return (t_s,)

    world.use(Fake("a", read=read))
    world.sample_at(1)
    assert column(world.run(), "a", "t_s")[0] == 1.125


@pytest.mark.parametrize("may_block", [False, True])
@pytest.mark.parametrize("fault", ["raises", "too few", "too many", "not a number"])
def test_a_sensor_that_breaks_its_word_has_no_reading_and_harms_nobody(
    world: World, fault: str, may_block: bool
) -> None:
    def read(t_s: float) -> tuple[float, ...]:
        if t_s != 1:
            return (t_s, t_s)
        if fault == "raises":
            raise RuntimeError("the library's own bug")
        return {"too few": (1.0,), "too many": (1.0, 2.0, 3.0), "not a number": (NAN, NAN)}[fault]

    world.use(Fake("bad", counter("n/a"), counter("n/b"), read=read, may_block=may_block), Fake("good"))
    world.sample_at(0, 1, 2, 3)
    run = world.run()
    assert gaps(column(run, "bad")) == gaps(column(run, "bad", "c1")) == ".-.."
    assert column(run, "good") == [0, 10, 20, 30]
    assert said(run) == [], "one failed reading is bridged, and no news"


# Sensors that hang


def test_a_sensor_that_hangs_for_ever_holds_up_nothing(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "LAST_S", 30.0)  # no end waits for a sensor that is known to hang
    bad = Fake("bad", may_block=True, read=lambda t_s: gate((10.0 * t_s,)))
    world.use(bad, Fake("good"), Fake("other", may_block=True))
    world.sample_at(0, 1)
    gate.open.clear()
    hanging, take, waited = world.sampler._sources[0], Source.take, []

    def taken(source: Source, until_s: float = -math.inf) -> None:
        if source is hanging and until_s > world.now():
            waited.append(world.now())
        take(source, until_s)

    monkeypatch.setattr(Source, "take", taken)
    world.sample_at(*range(2, 12))
    assert waited == [2], "waited for once only"
    run = world.run()
    assert world.all_closed is False
    assert column(run, "good") == column(run, "other") == [10.0 * t for t in range(12)]
    # Asked at 2 s; that it hangs is known after HUNG_S, and from then on each sample that it owes is a gap.
    times, values = column(run, "bad", "t_s"), column(run, "bad")
    assert times == [0, 1, *(t for t in range(2, 12) if t - 2 > HUNG_S), 11][: len(times)]
    assert gaps(values) == ".." + "-" * (len(values) - 2)
    assert said(run) == [("sensor.hung", "bad")]
    assert bad.closed == 0, "closing it from here might hang as well"


def test_what_a_call_that_hung_returns_is_left_out_and_the_next_reading_carries_all(world: World, gate: Gate) -> None:
    world.use(Fake("bad", may_block=True, read=lambda t_s: gate((10.0 * t_s,))))
    world.sample_at(0)
    gate.open.clear()
    world.sample_at(1, 4, 7, 8)
    gate.open.set()
    world.settle()
    world.sample_at(9)
    world.settle()
    world.sample_at(10)
    run = world.run()
    assert column(run, "bad", "t_s") == [0, 7, 8, 9, 10]
    assert gaps(column(run, "bad")) == ".--.."
    assert said(run) == [("sensor.hung", "bad"), ("sensor.back", "bad")]
    assert world.sampler.tally.energy_j == 100.0


def test_a_call_that_took_too_long_has_no_reading_even_where_no_sample_was_due(world: World, gate: Gate) -> None:
    world.use(Fake("bad", may_block=True, read=lambda t_s: gate((10.0 * t_s,))))
    world.sample_at(0)
    gate.open.clear()
    world.sample_at(60)
    world.clock.advance(HUNG_S + 1)
    gate.open.set()
    world.settle()
    world.sample_at(120)
    world.settle()
    assert column(world.run(), "bad", "t_s") == [0, 120]


def test_a_late_answer_is_stored_with_the_time_at_which_it_was_read(world: World, gate: Gate) -> None:
    world.use(Fake("late", may_block=True, read=lambda t_s: gate((10.0 * t_s,))), Fake("good"))
    world.sample_at(0)
    gate.open.clear()
    world.sample_at(1)
    world.sample_at(1.2, regular=False)
    world.clock.advance(0.2)
    gate.open.set()
    world.settle()
    world.sample_at(2)
    run = world.run()
    assert column(run, "late", "t_s") == pytest.approx([0, 1.2, 2]), "the call went from 1.0 to 1.4"
    assert column(run, "late") == [0, 10, 20]
    assert column(run, "good", "t_s") == pytest.approx([0, 1, 1.2, 2])
    assert said(run) == []


def test_who_was_late_is_not_waited_for_until_it_is_in_time_again(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.use(Fake("late", may_block=True, read=lambda t_s: gate((t_s,))))
    waited: list[float] = []
    answer = InThread.answer
    monkeypatch.setattr(
        InThread, "answer", lambda self, timeout_s: (waited.append(timeout_s), answer(self, timeout_s))[1]
    )
    gate.open.clear()
    world.sample_at(1)
    assert max(waited) == pytest.approx(PATIENCE_S)
    waited.clear()
    world.sample_at(2, 3)
    assert max(waited) <= 0.0
    gate.open.set()
    world.settle()
    waited.clear()
    world.sample_at(4)
    assert max(waited) <= 0.0, "its last answer took two seconds"
    world.settle()
    waited.clear()
    world.sample_at(5)
    assert max(waited) == pytest.approx(PATIENCE_S)
    world.run()


def test_the_end_waits_a_little_for_an_answer_that_is_late(world: World, gate: Gate) -> None:
    world.use(Fake("late", may_block=True, read=lambda t_s: gate((t_s,))))
    world.sample_at(0)
    gate.open.clear()
    world.sample_at(1)
    threading.Timer(0.1, gate.open.set).start()
    run = world.run()
    assert column(run, "late", "t_s") == [0, 1]
    assert world.all_closed
    assert said(run) == []


def test_a_sensor_that_hangs_as_the_run_ends_is_said(world: World, gate: Gate) -> None:
    world.use(Fake("bad", may_block=True, read=lambda t_s: gate((t_s,))))
    gate.open.clear()
    world.sample_at(0)
    assert said(world.run()) == [("sensor.hung", "bad")]


def test_closing_that_hangs_does_not_hold_up_the_end(world: World, gate: Gate) -> None:
    bad = Fake("bad", may_block=True)
    bad.close = gate  # type: ignore[method-assign, assignment]
    world.use(bad)
    world.sample_at(0)
    gate.open.clear()
    assert column(world.run(), "bad") == [0]
    assert world.all_closed is False


# Sensors that go and come back


class Lost(Fake):
    """A counter that cannot be read from a time on."""

    def __init__(self, *signals: Signal, from_s: float, **more: Any) -> None:
        super().__init__("lost", *signals, **more)
        self.reads = lambda t_s: (NAN if t_s >= from_s else 10.0 * t_s,) * len(self.signals)


@pytest.mark.parametrize("may_block", [False, True])
def test_a_source_that_comes_back_goes_on_under_its_signals(world: World, may_block: bool) -> None:
    signal, placed = counter("node0/package0", wrap_j=1e4), counter("node0/psys/package0", wrap_j=1e4)
    gone, back = Lost(signal, from_s=2, may_block=may_block), Fake("lost", signal, may_block=may_block)
    # The machine's psys is what places the package in it, the second time as well.
    world.use(gone, Fake("psys", counter("node0/psys")), again=[None, back], lost=(placed,))
    for t_s in range(20):
        world.sample_at(t_s)
        world.settle()
    run = world.run()
    # Read in vain at 2, 3 and 4; then opened anew at 5, in vain, and at 15.
    assert world.opened_at == [5, 15]
    (samples,) = [samples for samples in run.samples if samples.source == "lost"]
    assert samples.signals == (placed,)
    assert gaps(column(run, "lost")) == ".." + "-" * 14 + "...."
    assert said(run) == [("sensor.failed", "lost"), ("sensor.back", "lost")]
    assert (gone.closed, back.closed) == (1, 1)
    assert Trace.from_samples(column(run, "lost", "t_s"), column(run, "lost"), placed).e_j[-1] == 190.0


@pytest.mark.parametrize(
    "others",
    [
        [counter("node0/gpu0", board="GPU-2")],
        [counter("node0/gpu1", board="GPU-1")],
        [counter("node0/gpu0", board="GPU-1", wrap_j=1e6)],
        [counter("node0/gpu0", board="GPU-1"), counter("node0/gpu0/memory")],
    ],
    ids=["board", "place", "range", "number"],
)
def test_a_source_that_comes_back_with_other_signals_begins_another_table(world: World, others: list[Signal]) -> None:
    one = counter("node0/gpu0", board="GPU-1")
    world.use(Lost(one, from_s=2), again=[Fake("lost", *others)])
    world.sample_at(*range(10))
    run = world.run()
    first, second = run.samples
    assert (first.signals, second.signals) == ((one,), tuple(others))
    assert gaps(first.table["c0"]) == "..----"
    assert second.table["t_s"].tolist() == [6, 7, 8, 9]
    assert second.table.rows[:, -1].tolist() == [60, 70, 80, 90]
    assert said(run) == [("sensor.failed", "lost"), ("sensor.back", "lost, with other signals")]
    assert world.sampler.tally.energy_j == 10 + 30, "what lies between is not known to this counter"


def test_a_signal_that_fails_alone_is_named_and_its_source_stays_open(world: World) -> None:
    fake = Fake("rapl", counter("n/a"), counter("n/b"))
    fake.reads = lambda t_s: (t_s, NAN if 2 <= t_s < 7 else t_s)
    world.use(fake)
    world.sample_at(*range(12))
    run = world.run()
    assert said(run) == [("sensor.failed", "rapl (n/b)"), ("sensor.back", "rapl (n/b)")]
    assert [notice.t_s for notice in run.notices] == [4, 7]
    assert world.opened_at == []


def test_samples_at_edges_do_not_make_a_source_lost(world: World) -> None:
    world.use(Lost(from_s=1))
    world.sample_at(0)
    world.sample_at(*(1 + i / 100 for i in range(50)), regular=False)
    assert world.opened_at == []
    world.sample_at(2, 3, 4)
    world.sample_at(4.5, regular=False)
    assert world.opened_at == []
    world.sample_at(5)
    assert world.opened_at == [5]
    world.run()


def test_a_sensor_that_fails_as_the_run_ends_is_said(world: World) -> None:
    world.use(Lost(from_s=3))
    world.sample_at(0, 1, 2, 3)
    assert said(world.run()) == [("sensor.failed", "lost")]


@pytest.mark.parametrize("comes_back", [False, True])
def test_opening_anew_that_hangs_holds_up_nothing(world: World, gate: Gate, comes_back: bool) -> None:
    world.use(Lost(from_s=1, may_block=True), Fake("good"))
    gate.open.clear()
    world.sources[0] = world.sampler._sources[0].opened = world.sources[0]._replace(
        open=lambda machine: gate((None, Availability("lost", False)))
    )
    world.sample_at(*range(15))
    if comes_back:
        gate.open.set()
        world.settle()
    run = world.run()
    assert column(run, "good")[:15] == [10.0 * t for t in range(15)]
    assert [code for code, _ in said(run)] == ["sensor.failed", "sensor.hung"], (
        "and not that it is back: it was not there"
    )
    assert world.all_closed is comes_back


# Suspension


@pytest.mark.parametrize("wrap_j", [None, 65536.0, 262144.0])
@pytest.mark.parametrize("after_j", [600.0, 0.0, -1e9], ids=["went on", "stood still", "reset"])
def test_what_is_used_while_the_machine_is_suspended_is_not_the_runs(
    world: World, wrap_j: float | None, after_j: float
) -> None:
    """10 W awake; a night of suspension between 9 and 10 s, after which the counter is higher, the same, or at zero."""
    signal = counter("node0/package0", wrap_j=wrap_j, max_power_w=2000.0)
    start_j = 65000.0

    def read(t_s: float) -> tuple[float, ...]:
        x = start_j + 10 * t_s
        if t_s > 9.5:
            x = 10 * (t_s - 9.5) if after_j < 0 else x + after_j
        return (x % wrap_j if wrap_j else x,)

    world.use(Fake("rapl", signal, read=read))
    world.sample_at(*range(10))
    world.slept_s += 30000.0
    world.sample_at(*range(10, 20))
    run = world.run()
    assert said(run) == [("machine.suspended", "for 30000 s")]
    assert 175 <= world.sampler.tally.energy_j <= 195
    energy = Trace.from_samples(column(run, "rapl", "t_s"), column(run, "rapl"), signal).energy(0.0, 19.0)
    assert energy.value == pytest.approx(185, abs=10), "the second of the suspension is bridged, or left out"
    stored = np.array(column(run, "rapl"))
    rises = np.diff(stored) % (wrap_j or math.inf)
    assert np.delete(rises, 9) == pytest.approx(10.0), "and nothing else is changed"
    assert rises[9] > 4000 if wrap_j else stored[10] < stored[9], "no wrap explains the step"


def test_suspensions_are_said_each_and_powers_left_as_they_are(world: World) -> None:
    world.use(Fake("bmc", Signal("node0", "power_w", "measured", "BMC"), read=lambda t_s: (100.0 + t_s,)))
    for t_s in range(4):
        world.slept_s += {1: 50.0, 3: 70.0}.get(t_s, 0.0) + 0.001  # two clocks are never read at once
        world.sample_at(t_s)
    run = world.run()
    assert said(run) == [("machine.suspended", "for 50 s"), ("machine.suspended", "for 70 s")]
    assert column(run, "bmc") == [100, 101, 102, 103]


def test_a_call_with_a_suspension_within_has_no_reading(world: World, gate: Gate) -> None:
    world.use(Fake("slow", may_block=True, read=lambda t_s: gate((10.0 * t_s,))))
    world.sample_at(0)
    gate.open.clear()
    world.sample_at(1)
    world.slept_s = 100.0
    world.clock.advance(0.3)
    gate.open.set()
    world.settle()
    world.sample_at(2)
    world.settle()
    world.sample_at(3)
    run = world.run()
    assert column(run, "slow", "t_s") == [0, 2, 3]
    assert world.sampler.tally.energy_j == 10.0


def test_this_machine_was_not_suspended_in_the_last_moment() -> None:
    assert suspended_s() == pytest.approx(suspended_s(), abs=0.01)


def test_a_processor_taken_away_between_two_clocks_is_no_suspension(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = iter([10.0, 15.0, 20.0, 20.0001, 99.0])  # five seconds between the first two
    boot = iter([1014.9, 1020.00005])
    fake = SimpleNamespace(monotonic=lambda: next(monotonic), CLOCK_BOOTTIME=7, clock_gettime=lambda _: next(boot))
    monkeypatch.setattr(sampler_module, "time", fake)
    assert suspended_s() == pytest.approx(1000.0, abs=1e-3)


def test_where_the_system_has_no_such_clock_nothing_was_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "time", SimpleNamespace(monotonic=time.monotonic))
    assert suspended_s() == 0.0


def test_nothing_here_is_measured_by_the_wall_clock() -> None:
    """It steps: time.time may only be a label, and the meter has no use for one."""
    files = sorted(Path(ergometry.meter.__file__).parent.glob("*.py"))
    assert len(files) > 8
    wall = re.compile(r"\btime\.time(_ns)?\(|CLOCK_REALTIME|from time import|\bgettimeofday")
    assert [file.name for file in files if wall.search(file.read_text())] == []
    dated = [file.name for file in files if "datetime.now(" in file.read_text()]
    assert dated == ["client.py"], "the date that a run was started is a label"


# The state of boards


def test_the_state_of_boards_is_stored_once_a_second_at_regular_samples(world: World) -> None:
    fake = Fake("nvml", may_block=True)
    fake.rows = lambda: [ROW, (1.0, *ROW[1:])]
    world.use(fake)
    for i in range(31):
        world.sample_at(i / 10)
        world.settle()
    world.sample_at(3.95, regular=False)
    world.settle()
    world.writer.commit()
    table = load(world.file).table(HEALTH)
    assert table["t_s"].tolist() == pytest.approx([0, 0, 1, 1, 2, 2, 3, 3], abs=0.31)
    assert np.diff(table["t_s"][::2]).min() >= 0.9 - 1e-9
    assert table.rows[1, 1:].tolist() == [1.0, *ROW[1:]]


@pytest.mark.parametrize("may_block", [False, True])
def test_states_that_cannot_be_stored_are_passed_over(world: World, may_block: bool) -> None:
    fake = Fake("nvml", may_block=may_block)
    fake.rows = lambda: [ROW[:-1], ROW, (*ROW, 1.0)] if world.now() < 1.5 else [][1]
    world.use(fake)
    for t_s in range(4):
        world.sample_at(t_s)
        world.settle()
    run = world.run()
    assert run.table(HEALTH)["t_s"].tolist() == [0, 1]
    assert column(run, "nvml") == [0, 10, 20, 30]


def test_asking_for_the_state_of_boards_delays_no_reading(world: World, gate: Gate) -> None:
    fake = Fake("nvml", may_block=True)
    fake.rows = lambda: gate([ROW])
    world.use(fake)
    gate.open.clear()
    world.sample_at(0)
    assert world.sampler._sources[0].busy
    world.writer.commit()
    assert column(load(world.file), "nvml") == [0], "stored while the state is still asked for"
    gate.open.set()
    world.settle()
    assert len(world.run().table(HEALTH)) == 1


def test_sensors_that_tell_processes_apart_are_given_them(world: World) -> None:
    asks, other = Fake("nvml"), Fake("rapl")
    asks.pids = None  # type: ignore[attr-defined]
    seen: list[tuple[int, ...]] = []
    asks.rows = lambda: seen.append(tuple(asks.pids())) or ()  # type: ignore[attr-defined, func-returns-value]
    world.use(asks, other)
    world.sample_at(0)
    world.pids = lambda: (1, 2, 3)
    world.sample_at(1)
    assert seen == [(1, 2), (1, 2, 3)]
    assert not hasattr(other, "pids")
    world.run()


# Looking for sources


def test_looking_for_sources_that_takes_long_is_not_waited_for(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "OPENING_S", 0.02)
    fake = Fake("nvml")
    gate.open.clear()
    monkeypatch.setattr(
        sampler_module,
        "open_sensors",
        lambda: gate(([OpenSource(fake, fake.signals, None)], [Availability("nvml", True)])),
    )
    world.sampler.open()
    world.sample_at(0, 1)
    gate.open.set()
    deadline = time.monotonic() + 30
    while not world.sampler._sources and time.monotonic() < deadline:
        world.sampler.collect()
    world.sample_at(2, 3)
    run = world.run()
    assert column(run, "nvml") == [20, 30]
    assert said(run) == []


def test_where_looking_for_sources_hangs_models_take_their_place(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "OPENING_S", 0.02)
    model = Fake("cpu_model", Signal("node0/cpu", "energy_j", "modelled", "load"))
    selected: list[str] = []

    def open_sensors(machine: Machine | None = None) -> tuple[list[OpenSource], list[Availability]]:
        if machine is None:
            return gate(([], []))  # type: ignore[no-any-return]
        selected.append(machine.environ["ERGOMETRY_SENSORS"])
        return [OpenSource(model, model.signals, None)], [Availability("cpu_model", True)]  # type: ignore[arg-type]

    monkeypatch.setattr(sampler_module, "open_sensors", open_sensors)
    gate.open.clear()
    world.sampler.open()
    world.sample_at(*range(0, 40, 10))
    assert selected == []
    world.sample_at(40, 50)
    gate.open.set()
    world.sample_at(60)
    run = world.run()
    assert selected == ["cpu_model,memory_model"]
    assert column(run, "cpu_model", "t_s") == [40, 50, 60]
    assert said(run) == [("sensor.hung", "looking for power sources")]


def test_a_run_that_ends_before_its_sources_are_open_says_so(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "OPENING_S", 0.02)
    monkeypatch.setattr(sampler_module, "open_sensors", lambda: gate(([], [])))
    gate.open.clear()
    world.sampler.open()
    world.sample_at(0)
    assert said(world.run()) == [("sensor.hung", "looking for power sources")]
    assert world.all_closed is False


def test_a_fault_in_looking_for_sources_does_not_stop_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "open_sensors", lambda: {}["nothing"])
    world.sampler.open()
    world.sample_at(0)
    run = world.run()
    assert said(run) == [("sensor.absent", "sensors: looking for them failed: KeyError('nothing')")]


RAPL_REFUSED = Availability("rapl", False, "cannot read energy_uj: permission denied", "chmod it")
RAPL_PARTLY = Availability("rapl", True, "cannot read energy_uj (package-1): permission denied", "chmod it")
RAPL_ABSENT = Availability("rapl", False, "no RAPL zone", "modprobe")
NVML = Availability("nvml", True)
MODEL = Availability("cpu_model", True, "used where no counter can be read", "state the TDP")


@pytest.mark.parametrize(
    ("found", "measured", "codes"),
    [
        ([RAPL_ABSENT, MODEL], False, {"sensor.absent": "rapl: no RAPL zone"}),
        (
            [RAPL_REFUSED, MODEL],
            False,
            {
                "sensor.unreadable": "cannot read energy_uj: permission denied; chmod it",
                "sensor.absent": "rapl: cannot read energy_uj: permission denied",
            },
        ),
        ([RAPL_PARTLY], True, {"sensor.unreadable": "cannot read energy_uj (package-1): permission denied; chmod it"}),
        (
            [RAPL_REFUSED, NVML, MODEL],
            True,
            {"sensor.unreadable": "cannot read energy_uj: permission denied; chmod it"},
        ),
        ([RAPL_ABSENT, NVML, MODEL], True, {}),
        (
            [RAPL_ABSENT, Availability("cpu_model", False, "no /proc/stat")],
            False,
            {"sensor.absent": "rapl: no RAPL zone"},
        ),
        ([MODEL], False, {}),
        ([Availability("simulated", True)], False, {}),
    ],
    ids=[
        "none",
        "refused",
        "one of two",
        "a GPU alone",
        "no RAPL but a GPU",
        "no model",
        "models asked for",
        "simulated",
    ],
)
def test_what_could_not_be_read_is_said_once_with_the_remedy(
    world: World, found: list[Availability], measured: bool, codes: dict[str, str]
) -> None:
    world.found = found
    kind = "measured" if measured else "modelled"
    world.use(Fake("x", Signal("node0/x", "energy_j", kind, "…")))
    world.sample_at(0, 1)
    run = world.run()
    assert dict(said(run)) == codes
    assert len(run.notices) == len(codes)
