"""Files of numbers in sysfs, and what names this machine and its boards. Standard library only."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from ergometry.core.ports import Machine

REOPEN_S = 10.0
"""A file that fails is opened again by its path, at most so often: a zone that vanished may be back."""


class NumberFile:
    """A file that holds one whole number, kept open so that a reading costs one ``pread``.

    After a failed reading it is opened anew by its path, at most every :data:`REOPEN_S`: a driver that was reloaded
    has other files behind the same names.

    Args:
        path: the file.
        scale: what its number is multiplied by, such as 1e-6 for µJ.

    Raises:
        OSError: it cannot be opened or read; grant read permission on it.
        ValueError: it holds no number.
    """

    def __init__(self, path: Path, scale: float = 1.0) -> None:
        self.path, self.scale = path, scale
        self._closed = False
        self._tried_s = -math.inf
        self._fd = _open(path)
        try:
            self.first = self._number()
        except BaseException:
            self.close()
            raise

    def read(self, now_s: float) -> float:
        """Return the number in SI, NaN where the read fails; ``now_s`` is monotonic time."""
        try:
            return self._number()
        except (OSError, ValueError):
            return math.nan if self._closed or now_s - self._tried_s < REOPEN_S else self._reopened(now_s)

    def _number(self) -> float:
        return float(int(os.pread(self._fd, 32, 0))) * self.scale

    def _reopened(self, now_s: float) -> float:
        self._tried_s = now_s
        try:
            fd = _open(self.path)
        except OSError:
            return math.nan
        self._drop()
        self._fd = fd
        try:
            return self._number()
        except (OSError, ValueError):
            return math.nan

    def _drop(self) -> None:
        # Forgotten first: another thread may be reading, and the number may be another file's at once.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close the file; again is harmless."""
        self._closed = True
        self._drop()


def text(path: Path, limit: int = 256) -> str:
    """Return what a small file says, stripped; ``""`` where there is none, or nothing that can be read.

    >>> text(Path("/nowhere"))
    ''
    """
    try:
        fd = _open(path)
    except OSError:
        return ""
    try:
        return os.read(fd, limit).decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return ""
    finally:
        os.close(fd)


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, by name with numbers in order; none where it cannot be listed."""
    try:
        return sorted((entry for entry in path.iterdir() if entry.is_dir()), key=lambda entry: _natural(entry.name))
    except OSError:
        return []


def exists(path: Path) -> bool:
    """Say whether there is something at a path, as far as may be seen: ``Path.exists`` raises where it may not look."""
    try:
        return path.exists()
    except OSError:
        return False


def reason(error: OSError | ValueError) -> str:
    """Return in words why a file gave no number.

    >>> reason(PermissionError(13, "Permission denied")), reason(ValueError())
    ('permission denied', 'holds no number')
    """
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "holds no number"


def machine_name(machine: Machine) -> str:
    """Return what tells this machine from others, to name its boards by: a hash of its machine-id, else its host name.

    The machine-id itself is confidential (machine-id(5)): programs are to show no more than a keyed hash of it.
    """
    known = text(machine.proc.parent / "etc/machine-id")
    if known:
        import hashlib  # here, as its start costs the recorder's a millisecond

        return hashlib.blake2b(known.encode(), key=b"ergometry", digest_size=6).hexdigest()
    return text(machine.proc / "sys/kernel/hostname") or "unnamed"


def _open(path: Path) -> int:
    # Without waiting: whatever stands there (a pipe, say) must not hold up the recorder.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
