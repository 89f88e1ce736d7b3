"""Laws of the ring that hold for any order of rows, texts and readings."""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.series import LOSSES, SENT, Series
from ergometry.meter import ring
from ergometry.meter.ring import SLOT_BYTES, RingReader, RingWriter
from ergometry.meter.shared import HEADER_BYTES, SharedMemory

SLOTS = 16


@pytest.fixture(scope="module", autouse=True)
def small_ring() -> Iterator[None]:
    """Make laps short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "SLOTS", SLOTS)
        yield


def new() -> SharedMemory:
    memory, descriptor = SharedMemory.create(HEADER_BYTES + SLOTS * SLOT_BYTES)
    os.close(descriptor)
    return memory


def bits(item: Any) -> Any:
    """Return what can be compared where NaN is a value like any other."""
    return item if isinstance(item, dict) else (item[0].name, struct.pack(f"{len(item[1])}d", *item[1]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=120),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
messages = st.dictionaries(st.text(max_size=8), json_values, max_size=4)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Series, tuple[float, ...]]:
    series = draw(st.sampled_from(SENT))
    n = len(series.columns)
    return series, tuple(draw(st.lists(st.floats(), min_size=n, max_size=n)))


def write(writer: RingWriter, item: Any) -> None:
    if isinstance(item, dict):
        writer.text(item)
    else:
        writer.write(item[0], *item[1])


def slots(item: Any) -> int:
    return -(-len(json.dumps(item)) // (SLOT_BYTES - 16)) if isinstance(item, dict) else 1


@given(st.lists(st.tuples(rows() | messages.filter(lambda message: slots(message) <= SLOTS), st.booleans())))
def test_what_is_read_in_time_comes_back_whole_and_in_order(doings: list[tuple[Any, bool]]) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    read: list[Any] = []
    waiting = 0
    for item, read_before in doings:
        if read_before or waiting + slots(item) > SLOTS:
            read += list(reader.drain())
            waiting = 0
        write(writer, item)
        waiting += slots(item)
    read += list(reader.drain())
    assert list(map(bits, read)) == [bits(item) for item, _ in doings]
    assert reader.dropped == 0


def memory_sequence(memory: SharedMemory) -> int:
    """Return how many slots have been written."""
    ends = range(HEADER_BYTES + SLOT_BYTES - 8, memory.size, SLOT_BYTES)
    return max(int.from_bytes(memory.buffer[at : at + 8], "little") for at in ends)


@given(st.lists(st.integers(0, 3 * SLOTS), max_size=20), st.booleans())
def test_every_row_is_read_or_counted_as_dropped(bursts: list[int], last: bool) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    count = itertools.count()
    read: list[int] = []
    for burst in bursts:
        for n in itertools.islice(count, burst):
            writer.write(LOSSES, n, 0.0, 0.0)
        read += [int(values[0]) for _, values in reader.drain()]
    read += [int(values[0]) for _, values in reader.drain(last=last)]
    assert len(read) + reader.dropped == sum(bursts)
    assert all(a < b for a, b in itertools.pairwise(read))
    kept = min(bursts[-1], SLOTS) if bursts else 0
    assert read[len(read) - kept :] == list(range(sum(bursts) - kept, sum(bursts)))


@given(st.lists(st.one_of(st.integers(0, 400), st.just("row"), st.just("read")), max_size=60))
def test_a_text_is_read_as_it_was_written_or_not_at_all(doings: list[Any]) -> None:
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    written: list[Any] = []
    read: list[Any] = []
    for doing in doings:
        if doing == "read":
            read += list(reader.drain())
            continue
        n = len(written)
        # One letter only: a text that missed a part would be JSON all the same.
        written.append({"n": n, "x": "x" * doing} if doing != "row" else (LOSSES, (float(n), 0.0, 0.0)))
        write(writer, written[-1])
    read += list(reader.drain())
    assert [item for item in written if item in read] == read
    assert reader.dropped <= memory_sequence(memory)
    if not reader.dropped:
        assert read == written


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sets(st.integers(0, 40), max_size=2))
def test_a_reader_that_comes_between_any_two_slots_loses_whole_texts_only(sizes: list[int], pauses: set[int]) -> None:
    """The writer is paused before any slot, in the middle of a text as well, and the reader comes along."""
    memory = new()
    writer, reader = RingWriter(memory), RingReader(memory)
    reserve, written, read = itertools.count().__next__, [], []

    def reserved() -> int:
        n = reserve()
        if n in pauses:
            read.extend(reader.drain())
        return n

    writer._reserve = reserved
    for i, size in enumerate(sizes):
        written.append({"n": i, "x": "x" * 112 * (size - 1)})
        writer.text(written[-1])
    read += list(reader.drain())
    assert [message for message in written if message in read] == read
    assert len(written) - len(read) <= reader.dropped
