"""Shared memory: what one process writes the other reads, waking is prompt, and no descriptor stays behind."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ergometry.core.errors import RecorderError
from ergometry.meter import shared
from ergometry.meter.shared import HEADER_BYTES, SharedMemory

SIZE = HEADER_BYTES + 4096
WORDS = (
    shared.WAKE,
    shared.FLUSH_REQUEST,
    shared.SAMPLE_REQUEST,
    shared.STATE,
    shared.FLUSH_DONE,
    shared.RECORDER_PID,
)
LONG_S = 60.0  # far above what any of these waits takes, far below a hang

ATTACH = "import sys\nfrom ergometry.meter.shared import SharedMemory\nmemory = SharedMemory.attach(int(sys.argv[1]))\n"


def child(code: str, descriptor: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ATTACH + code, str(descriptor)]
    return subprocess.Popen(
        command, pass_fds=[descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def new() -> SharedMemory:
    memory, descriptor = SharedMemory.create(SIZE)
    os.close(descriptor)
    return memory


def descriptors() -> set[str]:
    # The one that the listing itself needs is gone again by then.
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def test_two_processes_see_the_same_words_live_block_error_and_bytes() -> None:
    memory, descriptor = SharedMemory.create(SIZE)
    for i, offset in enumerate(WORDS):
        memory.set_word(offset, 0xFFFFFF00 + i)
    code = f"""
assert [memory.word(at) for at in {WORDS}] == [0xFFFFFF00 + i for i in range({len(WORDS)})]
for i, at in enumerate({WORDS}):
    memory.set_word(at, i + 1)
memory.live = (1.5, 2.5, float("nan"))
memory.error = "no space: é"
memory.buffer[{SIZE - 3}:] = b"end"
"""
    process = child(code, descriptor)
    os.close(descriptor)
    assert process.wait(LONG_S) == 0
    assert [memory.word(at) for at in WORDS] == list(range(1, len(WORDS) + 1))
    assert memory.live[:2] == (1.5, 2.5)
    assert math.isnan(memory.live[2])
    assert memory.error == "no space: é"
    assert bytes(memory.buffer[SIZE - 3 :]) == b"end"
    assert len(memory.buffer) == memory.size == SIZE


def test_a_word_wraps_at_32_bits() -> None:
    memory = new()
    memory.set_word(shared.SAMPLE_REQUEST, 0xFFFFFFFF)
    assert memory.bump(shared.SAMPLE_REQUEST) == 0 == memory.word(shared.SAMPLE_REQUEST)
    memory.set_word(shared.FLUSH_REQUEST, -1)
    assert memory.word(shared.FLUSH_REQUEST) == 0xFFFFFFFF


def asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_waking_ends_a_wait_in_another_process() -> None:
    memory, descriptor = SharedMemory.create(SIZE)
    code = f"""
import time
from ergometry.meter import shared
seen, began = memory.word(shared.WAKE), time.monotonic()
print("waiting", flush=True)
memory.wait(seen, {2 * LONG_S})
print(memory.word(shared.WAKE) - seen, time.monotonic() - began, flush=True)
"""
    with child(code, descriptor) as process:
        os.close(descriptor)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        end = time.monotonic() + LONG_S
        while not asleep(process.pid) and time.monotonic() < end:
            pass
        memory.wake()
        bumps, seconds = map(float, process.stdout.readline().split())
    assert bumps == 1
    assert seconds < LONG_S, "woken, not timed out"


def test_a_wait_that_was_overtaken_by_its_wake_does_not_sleep() -> None:
    memory = new()
    seen = memory.word(shared.WAKE)
    memory.wake()
    began = time.monotonic()
    memory.wait(seen, 2 * LONG_S)
    assert time.monotonic() - began < LONG_S


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 0.002, 1.002])
def test_a_wait_that_nobody_ends_times_out(timeout_s: float) -> None:
    memory = new()
    began = time.monotonic()
    memory.wait(memory.word(shared.WAKE), timeout_s)
    assert max(timeout_s, 0.0) * 0.9 <= time.monotonic() - began < LONG_S


@pytest.mark.parametrize("filler", ["é", "…", "😀", "x"])
@pytest.mark.parametrize("shift", range(4))
def test_a_long_error_is_cut_between_characters(filler: str, shift: int) -> None:
    memory = new()
    text = "y" * shift + filler * 2000
    memory.error = text
    assert text.startswith(memory.error)
    assert 1020 <= len(memory.error.encode()) < 1024


def test_an_error_takes_the_place_of_a_longer_one() -> None:
    memory = new()
    assert memory.error == ""
    memory.error = "a" * 3000
    memory.error = "short \udcff"  # as from a file name that is not UTF-8
    assert memory.error == "short ?"
    memory.error = ""
    assert memory.error == ""


def test_the_header_has_room_for_all_of_it() -> None:
    memory = new()
    memory.live = (1.0, 2.0, 3.0)
    memory.error = "e" * 3000
    for i, offset in enumerate(WORDS):
        memory.set_word(offset, i + 10)
    assert memory.live == (1.0, 2.0, 3.0)
    assert memory.error == "e" * 1023
    assert [memory.word(offset) for offset in WORDS] == [i + 10 for i in range(len(WORDS))]
    assert not any(memory.buffer[HEADER_BYTES:])


def test_no_descriptor_is_kept() -> None:
    before = descriptors()
    memory, descriptor = SharedMemory.create(SIZE)
    other = SharedMemory.attach(os.dup(descriptor))
    os.close(descriptor)
    assert descriptors() == before
    memory.set_word(shared.STATE, 7)
    assert other.word(shared.STATE) == 7


def test_the_memory_is_there_before_it_is_written() -> None:
    # A hole in a full file system would end the user's process by SIGBUS at the first write.
    _, descriptor = SharedMemory.create(1 << 20)
    assert os.fstat(descriptor).st_blocks * 512 >= 1 << 20
    os.close(descriptor)


def test_too_little_memory_is_an_error_that_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = descriptors()
    with pytest.raises(RecorderError, match=r"No space left.*free some memory"):
        SharedMemory.create(SIZE)
    assert descriptors() == before


def test_what_is_not_a_ring_is_refused() -> None:
    descriptor = os.memfd_create("other")
    os.posix_fallocate(descriptor, 0, SIZE)
    before = descriptors()
    with pytest.raises(RecorderError, match="something else"):
        SharedMemory.attach(descriptor)
    assert descriptors() == before - {str(descriptor)}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without memfd, futex and fallocate."""
    monkeypatch.setattr(shared.platform, "system", lambda: "Darwin")
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.delattr(os, "posix_fallocate")


def test_elsewhere_a_file_and_polling_serve(elsewhere: None) -> None:
    memory, descriptor = SharedMemory.create(SIZE)
    other = SharedMemory.attach(descriptor)
    other.set_word(shared.STATE, shared.READY)
    assert memory.word(shared.STATE) == shared.READY
    seen = other.word(shared.WAKE)
    waiter = threading.Thread(target=other.wait, args=(seen, 2 * LONG_S))
    waiter.start()
    memory.wake()
    waiter.join(LONG_S)
    assert not waiter.is_alive()
