"""The training process's handle on its recorder: starts it, writes rows, asks for samples. Standard library only."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ergometry.core.errors import RecorderError
from ergometry.core.masking import mask_secrets
from ergometry.core.series import Series
from ergometry.meter import shared
from ergometry.meter.ring import RING_BYTES, RingWriter
from ergometry.meter.shared import SharedMemory
from ergometry.store.liveness import identify, is_alive

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from ergometry.meter.recorder import main; main(sys.argv[2])"
READY_S = 5.0

_started: list[RecorderClient] = []


def current() -> RecorderClient | None:
    """Return this process's recorder, the one of a run before that of mere windows; None if none is running."""
    running = [client for client in _started if not client.finished]
    return next((client for client in running if not client.ephemeral), running[0] if running else None)


class RecorderClient:
    """A running recorder, seen from the process it measures. Its methods never block and never raise while training.

    After a fork the child's copy is silent: only the process that started the recorder writes.
    """

    def __init__(self, memory: SharedMemory, origin_s: float, file: Path, *, ephemeral: bool = False) -> None:
        self.memory = memory
        self.ephemeral = ephemeral
        self.origin_s = origin_s
        self.file = file
        self._ring = RingWriter(memory)
        self.write: Callable[..., None] = self._ring.write
        self.finished = False
        self._windows: dict[str, int] = {}
        os.register_at_fork(after_in_child=self.silence)

    @classmethod
    def start(cls, folder: Path, **options: Any) -> RecorderClient:
        """Start a recorder that writes into ``folder``, which exists.

        Options: ``sampling_hz``, ``live`` (progress line on standard error), ``token`` (what a token is called
        there), ``ephemeral`` (the folder goes when this process ends), ``path`` (folders of vendors' bindings).

        Raises:
            RecorderError: it could not be started, with its own reason.
        """
        memory, descriptor = SharedMemory.create(RING_BYTES)
        origin_s = time.perf_counter()
        pidfd = -1
        with contextlib.suppress(AttributeError, OSError):
            pidfd = shared.above_the_streams(os.pidfd_open(os.getpid()))
        file = folder.absolute() / f"process-{os.getpid()}.sqlite"  # the recorder works in another folder
        config = {
            "sampling_hz": 1.0,
            "path": [entry for entry in sys.path if entry],
            **options,
            "file": str(file),
            "origin_s": origin_s,
            "memory": descriptor,
            "pidfd": pidfd,
            "pid": os.getpid(),
        }
        inherited = [fd for fd in (descriptor, pidfd) if fd >= 0]
        closed = sys.stderr is None  # what the recorder opened would take its place
        command = [sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGE_ROOT, json.dumps(config)]
        try:
            subprocess.run(
                command,
                pass_fds=inherited,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if closed else 2,
                stderr=subprocess.DEVNULL if closed else None,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RecorderError(
                expected="a recorder process", got=str(error), remedy="check the limit on processes"
            ) from None
        finally:
            for fd in inherited:
                os.close(fd)
        client = cls(memory, origin_s, file, ephemeral=bool(options.get("ephemeral")))
        client._await_ready()
        _started.append(client)
        return client

    def _await_ready(self) -> None:
        end = time.monotonic() + READY_S
        while self.memory.word(shared.STATE) == shared.STARTING and time.monotonic() < end:
            time.sleep(0.001)
        if self.memory.word(shared.STATE) == shared.FAILED:
            raise RecorderError(
                expected="a recorder", got=self.memory.error, remedy="see that the store can be written"
            )

    def silence(self) -> None:
        """Write nothing from here on (in a forked child, whose rows are not the run's)."""
        self.write = _nothing
        self.finished = True

    def now(self) -> float:
        """Return seconds since the run's origin."""
        return time.perf_counter() - self.origin_s

    def meta(self, **values: Any) -> None:
        """Keep labels of the run."""
        if not self.finished:
            self._ring.text({"meta": values})

    def notice(self, code: str, detail: str = "") -> None:
        """Keep a warning of the run, by its code in the catalogue."""
        if not self.finished:
            self._ring.text({"notice": [code, detail]})

    def window_number(self, name: str) -> int:
        """Return the number that stands for a window's name in its rows."""
        if name not in self._windows:
            self._windows[name] = len(self._windows)
            self.meta(windows=dict(self._windows))
        return self._windows[name]

    def sample(self) -> None:
        """Ask for a sample now (the edge of a window); returns at once."""
        if not self.finished:
            self.memory.bump(shared.SAMPLE_REQUEST)
            self.memory.wake()

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until all that was written and sampled is in the file; say whether it is."""
        if self.finished:
            return self.memory.word(shared.STATE) == shared.FINISHED
        wanted = self.memory.bump(shared.FLUSH_REQUEST)
        self.memory.wake()
        end = time.monotonic() + timeout_s
        while not self._flushed(wanted) and time.monotonic() < end:
            time.sleep(0.0005)
        return self._flushed(wanted)

    def _flushed(self, wanted: int) -> bool:
        # Another thread may have asked after us: what was done for it is done for us. The numbers wrap at 32 bits.
        return (self.memory.word(shared.FLUSH_DONE) - wanted) & 0xFFFFFFFF < 1 << 31

    def finish(self, status: str, exit_status: int | None, timeout_s: float = 10.0) -> bool:
        """End the run; wait until the file is whole, and say whether it is."""
        if self.finished:
            return True
        self._ring.text({"end": {"status": status, "exit_status": exit_status, "t_s": self.now()}})
        self.silence()
        self.memory.wake()
        end = time.monotonic() + timeout_s
        pid = self.memory.word(shared.RECORDER_PID)
        while self.memory.word(shared.STATE) != shared.FINISHED and time.monotonic() < end:
            if not is_alive(identify(pid)):  # a zombie, which a container's first process may leave, is not
                break
            # The recorder looks at the end message when it next drains; asking makes that now.
            self.memory.bump(shared.FLUSH_REQUEST)
            self.memory.wake()
            time.sleep(0.002)
        return self.memory.word(shared.STATE) == shared.FINISHED


def run_labels(run_id: str, command: list[str], sampling_hz: float) -> dict[str, Any]:
    """Return the labels that every run of this process carries."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "id": run_id,
        "command": mask_secrets(command),  # what is not stored cannot be shown to anyone
        "cwd": working_folder(),
        "started": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "host": platform.node(),
        "python": platform.python_version(),
        "pid": os.getpid(),
        "sampling_hz": sampling_hz,
    }


def working_folder() -> str | None:
    """Return the working folder, as it is known to the system; None if it is there no more."""
    with contextlib.suppress(OSError):
        return os.getcwd()  # noqa: PTH109
    return None


def _nothing(_series: Series, *_values: float) -> None:
    pass
