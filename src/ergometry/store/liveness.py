"""Liveness: whether the recorder that writes a file still lives, told from a new process with the same number.

A process is a pid, its start time (a pid comes back, the pair does not), a host and a boot of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FRESH_S = 30.0
"""A file of another host counts as being written for this long after its last change: the recorder commits every
second, and network file systems and the clocks of two hosts may lag by several."""


def identify(pid: int) -> dict[str, Any]:
    """Return what tells this process from every other: ``pid``, ``start_ticks``, ``host``, ``boot``."""
    state = _state_and_start(pid)
    return {"pid": pid, "start_ticks": state[1] if state else None, "host": os.uname().nodename, "boot": _boot()}


def is_alive(identity: Mapping[str, Any]) -> bool | None:
    """Say whether the process that :func:`identify` described lives; None if it is of another host."""
    pid = identity.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if identity.get("host") != os.uname().nodename:
        return None
    if identity.get("boot") != _boot():
        return False
    state = _state_and_start(pid)
    if state is not None:
        return state[0] not in "ZX" and state[1] == identity.get("start_ticks")
    return not Path("/proc/self/stat").exists() and _answers(pid)


def is_fresh(path: Path) -> bool:
    """Say whether a file or its write-ahead log changed within :data:`FRESH_S`."""
    log = path.with_name(path.name + "-wal")
    states = [p.stat() for p in (path, log) if p.exists()]
    # Reading makes an empty log: it is no sign of a writer.
    changes = [state.st_mtime for state in states if state.st_size]
    return bool(changes) and time.time() - max(changes) < FRESH_S


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # there, but another user's
    return True


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Return (state letter, start time in ticks since boot) from /proc, None where there is no such entry."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command before may hold spaces and brackets
    return fields[0], int(fields[19])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
