"""Memory shared between a training process and its recorder: preallocated, without a descriptor kept open.

The mapping is made with the C library's ``mmap``, since Python's own keeps a duplicate of the descriptor: after a
user's ``os.closerange`` that number may be a file of theirs. Waking the recorder is a futex on a word of this
memory, for the same reason. Linux has both; elsewhere a temporary file and polling serve.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import tempfile
import time

from ergometry.core.errors import RecorderError

HEADER_BYTES = 4096
_MAGIC = b"ergoring"
_VERSION = 1

# Words of the header, by offset. The training process writes the first group, the recorder the second.
WAKE, FLUSH_REQUEST, SAMPLE_REQUEST = 64, 68, 72
STATE, FLUSH_DONE, RECORDER_PID = 128, 132, 136
LIVE = 144  # three float64: seconds, joules, watts
_ERROR, _ERROR_BYTES = 512, 1024

STARTING, READY, FAILED, FINISHED = range(4)

_WORD = struct.Struct("<I")
_LIVE = struct.Struct("<ddd")
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(platform.machine())
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1


def above_the_streams(descriptor: int) -> int:
    """Return the descriptor as one that is none of 0 to 2, which a closed standard stream leaves to the next opened."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class SharedMemory:
    """A block of memory that several processes map. Never unmapped: it goes with the process."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map ``size`` bytes of an open descriptor, which the caller may close at once."""
        self.size = size
        if platform.system() == "Linux":
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = (
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_int,
                ctypes.c_int,
                ctypes.c_int,
                ctypes.c_long,
            )
            address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
            if address is None or address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), "mmap failed")
            self._address = address
            self.buffer = memoryview((ctypes.c_char * size).from_address(address)).cast("B")
            self._syscall = libc.syscall if _FUTEX else None
        else:
            self._mapping = mmap.mmap(descriptor, size)
            self.buffer = memoryview(self._mapping)
            self._syscall = None

    @classmethod
    def create(cls, size: int) -> tuple[SharedMemory, int]:
        """Return new memory and its descriptor, to be passed to the other process and then closed.

        Raises:
            RecorderError: there is not that much memory; free some.
        """
        descriptor = -1
        try:
            if hasattr(os, "memfd_create"):
                descriptor = above_the_streams(os.memfd_create("ergometry", os.MFD_CLOEXEC))
            else:
                descriptor, path = tempfile.mkstemp(prefix="ergometry-")
                os.unlink(path)  # noqa: PTH108 - pathlib would be one more import before the user's script
            # Preallocated: writing to a hole of a full file system would end the user's process by SIGBUS.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.write(descriptor, bytes(size))
            memory = cls(descriptor, size)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise RecorderError(
                expected=f"{size} bytes of shared memory", got=str(error), remedy="free some memory"
            ) from None
        memory.buffer[: len(_MAGIC)] = _MAGIC
        _WORD.pack_into(memory.buffer, len(_MAGIC), _VERSION)
        return memory, descriptor

    @classmethod
    def attach(cls, descriptor: int) -> SharedMemory:
        """Map the memory that another process created."""
        memory = cls(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)
        if bytes(memory.buffer[: len(_MAGIC)]) != _MAGIC:
            raise RecorderError(expected="a ring of ergometry's", got="something else", remedy="report this as a bug")
        return memory

    def word(self, offset: int) -> int:
        """Return an unsigned 32-bit word of the header."""
        return int(_WORD.unpack_from(self.buffer, offset)[0])

    def set_word(self, offset: int, value: int) -> None:
        """Set a word of the header."""
        _WORD.pack_into(self.buffer, offset, value & 0xFFFFFFFF)

    def bump(self, offset: int) -> int:
        """Increase a word by one and return it."""
        value = (self.word(offset) + 1) & 0xFFFFFFFF
        self.set_word(offset, value)
        return value

    def wake(self) -> None:
        """Wake whoever waits in :meth:`wait`."""
        self.bump(WAKE)
        if self._syscall is not None:
            self._syscall(_FUTEX, ctypes.c_void_p(self._address + WAKE), _FUTEX_WAKE, 1, None, None, 0)

    def wait(self, seen: int, timeout_s: float) -> None:
        """Return when the wake word differs from ``seen``, or after ``timeout_s``."""
        if timeout_s <= 0:
            return
        if self._syscall is not None:
            timeout = _Timespec(int(timeout_s), int(timeout_s % 1 * 1e9))
            self._syscall(
                _FUTEX,
                ctypes.c_void_p(self._address + WAKE),
                _FUTEX_WAIT,
                ctypes.c_uint32(seen),
                ctypes.byref(timeout),
                None,
                0,
            )
            return
        end = time.monotonic() + timeout_s
        while self.word(WAKE) == seen and time.monotonic() < end:
            time.sleep(min(0.05, timeout_s))

    @property
    def live(self) -> tuple[float, float, float]:
        """The recorder's latest (run time s, energy so far J, power W); NaN until it has sampled twice."""
        t_s, energy_j, power_w = _LIVE.unpack_from(self.buffer, LIVE)
        return t_s, energy_j, power_w

    @live.setter
    def live(self, values: tuple[float, float, float]) -> None:
        _LIVE.pack_into(self.buffer, LIVE, *values)

    @property
    def error(self) -> str:
        """What the recorder last failed at, in one line; empty if nothing."""
        raw = bytes(self.buffer[_ERROR : _ERROR + _ERROR_BYTES])
        return raw.rstrip(b"\0").decode("utf-8", "replace")

    @error.setter
    def error(self, text: str) -> None:
        raw = text.encode("utf-8", "replace")[: _ERROR_BYTES - 1].decode("utf-8", "ignore").encode()  # whole characters
        self.buffer[_ERROR : _ERROR + _ERROR_BYTES] = raw.ljust(_ERROR_BYTES, b"\0")
