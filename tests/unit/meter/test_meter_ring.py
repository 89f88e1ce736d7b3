"""The ring under fire: a writer in another process, several threads, half-written slots, and a reader that is late."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ergometry.core.clock import FakeClock
from ergometry.core.series import LOSSES, SENT, STEPS, WINDOWS
from ergometry.meter import ring
from ergometry.meter.ring import RING_BYTES, SLOTS, RingReader, RingWriter
from ergometry.meter.shared import SharedMemory

WRITER = """
import sys, threading
from ergometry.core.series import STEPS
from ergometry.meter.ring import RingWriter
from ergometry.meter.shared import SharedMemory

sys.setswitchinterval(1e-4)  # many turns, each far shorter than a lap
memory = SharedMemory.attach(int(sys.argv[1]))
threads, rows, texts = map(int, sys.argv[2:])
writer = RingWriter(memory)

def work(thread):
    for k in range(rows):
        writer.write(STEPS, thread, k, *[float(thread * rows + k)] * 12)
        if texts and k % texts == 0:
            writer.text({"thread": thread, "k": k, "filler": "é" * (k % 500)})

workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
"""


def new() -> SharedMemory:
    memory, descriptor = SharedMemory.create(RING_BYTES)
    os.close(descriptor)
    return memory


def numbers(items: Iterable[Any]) -> list[int]:
    return [int(values[0]) for _, values in items]


def write(writer: RingWriter, numbers: Iterable[int]) -> None:
    for n in numbers:
        writer.write(LOSSES, n, 0.0, 0.0)


def test_each_table_comes_back_with_its_own_columns() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    rows = [(series, tuple(float(i + series.code) for i in range(len(series.columns)))) for series in SENT]
    for series, values in rows:
        writer.write(series, *values)
    assert list(reader.drain()) == rows
    assert list(reader.drain()) == []
    assert reader.dropped == 0


@pytest.mark.parametrize("n", [SLOTS - 1, SLOTS, SLOTS + 1, 2 * SLOTS, 3 * SLOTS + 17])
@pytest.mark.parametrize("last", [False, True])
def test_a_lapped_reader_loses_the_oldest_and_counts_them_exactly(n: int, last: bool) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    write(writer, range(n))
    assert numbers(reader.drain(last=last)) == list(range(max(0, n - SLOTS), n))
    assert reader.dropped == max(0, n - SLOTS)


def test_laps_between_readings_add_up() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    count = itertools.count()
    read: list[int] = []
    for burst in (10, SLOTS + 5, 3, SLOTS, 2 * SLOTS + 1, 0):
        write(writer, itertools.islice(count, burst))
        read += numbers(reader.drain())
    assert reader.dropped == 5 + SLOTS + 1
    assert len(read) + reader.dropped == next(count)
    assert all(a < b for a, b in itertools.pairwise(read))


def test_a_reader_that_is_lapped_while_it_reads_goes_on_with_the_oldest() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    write(writer, range(SLOTS))
    items = reader.drain()
    read = numbers(itertools.islice(items, 10))
    write(writer, range(SLOTS, 2 * SLOTS + 100))
    read += numbers(items)
    assert read == [*range(10), *range(SLOTS + 100, 2 * SLOTS + 100)]
    assert reader.dropped == SLOTS + 100 - 10


def test_a_reader_that_is_attached_late_begins_with_the_oldest_there_is() -> None:
    memory = new()
    writer = RingWriter(memory)
    write(writer, range(5))
    writer.text({"a": "b" * 300})  # three slots
    assert len(list(RingReader(memory).drain())) == 6
    write(writer, range(5, SLOTS + 3))
    late = RingReader(memory)
    # Six slots are overwritten, the head of the text among them: what is left of it is not read.
    assert numbers(late.drain()) == list(range(5, SLOTS + 3))
    assert late.dropped == 6


def reading(threads: int, rows: int, texts: int, take: Callable[[Any], None]) -> RingReader:
    """Start a writing process, read all the while it writes, and return the reader."""
    memory, descriptor = SharedMemory.create(RING_BYTES)
    command = [sys.executable, "-c", WRITER, *map(str, (descriptor, threads, rows, texts))]
    reader = RingReader(memory)
    with subprocess.Popen(command, pass_fds=[descriptor]) as process:
        os.close(descriptor)
        while process.poll() is None:
            for item in reader.drain():
                take(item)
    for item in reader.drain(last=True):
        take(item)
    assert process.returncode == 0
    return reader


@pytest.mark.parametrize(("threads", "rows"), [(1, 300_000), (3, 60_000)])
def test_rows_of_a_writer_at_full_speed_are_never_torn_nor_read_twice(threads: int, rows: int) -> None:
    newest = dict.fromkeys(range(threads), -1)
    read = 0

    def take(item: Any) -> None:
        nonlocal read
        series, (thread, k, *rest) = item
        assert series is STEPS
        assert rest == [thread * rows + k] * 12, "a row of two writings"
        assert k > newest[thread], "read twice, or out of order"
        newest[thread] = k
        read += 1

    reader = reading(threads, rows, 0, take)
    assert max(newest.values()) == rows - 1, "the newest row is there"
    assert read + reader.dropped == threads * rows


@pytest.mark.parametrize(("threads", "rows"), [(1, 60_000), (3, 20_000)])
def test_texts_of_a_writer_at_full_speed_are_whole_or_not_read(threads: int, rows: int) -> None:
    newest = dict.fromkeys(range(threads), -1)

    def take(item: Any) -> None:
        if isinstance(item, dict):
            assert item["filler"] == "é" * (item["k"] % 500)
            assert item["k"] > newest[item["thread"]]
            newest[item["thread"]] = item["k"]

    reading(threads, rows, 7, take)
    assert max(newest.values()) > rows - 2 * 7, "the newest text is there"


def half_written(writer: RingWriter, values: int) -> None:
    """Do what a writer does that is stopped in the middle of a row."""
    with pytest.raises(Exception, match="pack"):
        writer.write(STEPS, *[1.0] * values)


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_what_a_killed_writer_left_half_written_is_passed_over_at_the_end(at: int) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    write(writer, range(at))
    half_written(writer, 3)
    write(writer, range(at, 10))
    assert numbers(reader.drain()) == list(range(at)), "it may still be written"
    assert numbers(reader.drain()) == []
    assert numbers(reader.drain(last=True)) == list(range(at, 10))
    assert numbers(reader.drain(last=True)) == []
    assert reader.dropped == 0


def test_several_half_written_slots_of_several_threads_are_passed_over_at_the_end() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    write(writer, range(2 * SLOTS))  # every slot holds a row of an earlier lap
    for part in ([1, 2, 3], [4], [5, 6]):
        half_written(writer, 1)
        half_written(writer, 13)
        write(writer, part)
    assert numbers(reader.drain(last=True))[-6:] == [1, 2, 3, 4, 5, 6]
    write(writer, [7])
    assert numbers(reader.drain(last=True)) == [7], "where the reader stands is not lost"


def test_a_row_that_its_writer_abandoned_holds_the_others_up_for_a_second_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # A script that catches Ctrl-C in the middle of our write goes on training.
    clock = FakeClock()
    monkeypatch.setattr(ring.time, "monotonic", clock.now)
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    write(writer, [0])
    half_written(writer, 5)
    assert numbers(reader.drain()) == [0]
    clock.advance(100.0)
    assert numbers(reader.drain()) == [], "nothing after it: it may be under way"
    write(writer, [1, 2])
    assert numbers(reader.drain()) == []
    clock.advance(0.9)
    assert numbers(reader.drain()) == []
    clock.advance(0.2)
    assert numbers(reader.drain()) == [1, 2]
    assert reader.dropped == 1
    write(writer, [3])
    assert numbers(reader.drain()) == [3]
    assert reader.dropped == 1


LONG = {"meta": {"name": 'é…😀\\"\n\x00' * 300, "path": "\udcff", "n": [1, None, 2.5, {"a": True}]}}


def test_a_text_over_many_slots_comes_back_as_it_was() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    for message in (LONG, {}, {"": ""}, {"x": "y" * 112 * 100}):
        writer.text(message)
        write(writer, [1])
        text, row = reader.drain()
        assert text == message
        assert row == (LOSSES, (1.0, 0.0, 0.0))


@pytest.mark.parametrize("length", range(100, 125))
def test_a_text_at_the_edge_of_a_slot_is_whole(length: int) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    message = {"k": "v" * (length - len('{"k": ""}'))}
    writer.text(message)
    assert list(reader.drain()) == [message]


def test_what_json_cannot_hold_is_said_in_words() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    writer.text({"meta": {"device": STEPS}})
    assert list(reader.drain()) == [{"meta": {"device": str(STEPS)}}]


def test_texts_that_wait_in_pieces_do_not_mix() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    items = []
    for k in range(50):
        writer.text({"k": k, "filler": "f" * 1000})
        writer.write(WINDOWS, k, 0.0, 0.0)
        if k % 3 == 0:
            items += list(reader.drain())
    items += list(reader.drain())
    assert items[::2] == [{"k": k, "filler": "f" * 1000} for k in range(50)]


@pytest.mark.parametrize("read_before", [0, 1, 2])
def test_a_text_that_misses_its_middle_is_not_read_at_all(read_before: int) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    parts, reserve = itertools.count(), writer._reserve

    def reserved() -> int:
        if next(parts) == read_before:
            assert list(reader.drain()) == []
        return reserve()

    writer._reserve = reserved  # type: ignore[method-assign]
    writer.text({"k": "a" * 112 * 4})  # five slots; the same letter everywhere, so that JSON misses nothing
    assert next(parts) == 5
    write(writer, range(SLOTS - 2))  # the first three are overwritten
    assert not [item for item in reader.drain() if isinstance(item, dict)]
    assert reader.dropped == 3 - read_before


def test_the_number_of_a_text_that_was_never_ended_may_come_again() -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    writer._text_ids = iter([7, 7]).__next__  # as 65536 texts later
    writer._reserve = iter([0]).__next__
    with pytest.raises(StopIteration):
        writer.text({"k": "a" * 500})
    writer._reserve = itertools.count(1).__next__
    writer.text(LONG)
    assert list(reader.drain()) == [LONG]
