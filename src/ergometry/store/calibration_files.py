"""Calibration files: where they are kept, whose they are, and what they hold as JSON. Standard library only.

The recorder puts what is stored for its machine among a run's labels, so that a report needs nothing but the run;
:mod:`ergometry.work.coefficients` reads the objects.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "ERGOMETRY_CALIBRATION"
"""Names the folder of calibrations; else ``$XDG_DATA_HOME/ergometry/calibration``, else below ``~/.local/share``."""

CALIBRATIONS = "calibrations"
"""The key of ``Run.meta`` that holds the calibrations of the machine that ran: device -> JSON object."""

UNREADABLE = "unreadable"
"""The one key of what stands for a file that could not be read: why."""

MAX_BYTES = 4 << 20
"""A file that is larger is no calibration."""


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder where calibrations are kept."""
    if stated := environ.get(VARIABLE):
        return Path(stated)
    base = environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(base) / "ergometry" / "calibration"


@cache
def machine_identity() -> str:
    """Return a short name of this machine that tells it from others, and tells others nothing of it."""
    for file in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text:
            break
    else:
        text = socket.gethostname()
    return hashlib.sha256(f"ergometry {text}".encode()).hexdigest()[:12]


def file_of(where: Path, machine: str, device: str) -> Path:
    """Return the file that keeps the calibration of one device of one machine."""
    return where / f"{machine}-{device.replace(':', '')}.json"


def stored(environ: Mapping[str, str] = os.environ) -> dict[str, dict[str, Any]]:
    """Return this machine's calibrations, device -> JSON object without the kernels that it was fitted to.

    Never raises: a file that cannot be read stands there as ``{"unreadable": why}`` under the device of its name, so
    that a report of the run can say so.
    """
    found: dict[str, dict[str, Any]] = {}
    machine = machine_identity()
    try:
        files = sorted(folder(environ).glob(f"{machine}-*.json"))
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return found
    for file in files:
        device = _device_of(file.stem.removeprefix(f"{machine}-"))
        try:
            found[device] = _read(file)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            found[device] = {UNREADABLE: f"{why} in {file}"}
    return found


def _read(file: Path) -> dict[str, Any]:
    """Return a file's object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON object.
    """
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
    kept = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(kept, dict):
        raise ValueError("no JSON object")
    if isinstance(kept.get("conditions"), dict):
        kept["conditions"].pop("kernels", None)
    return kept


def _device_of(stem: str) -> str:
    """Return the device that a file's name stands for.

    >>> [_device_of(stem) for stem in ("cpu", "cuda0", "xpu12")]
    ['cpu', 'cuda:0', 'xpu:12']
    """
    kind = stem.rstrip("0123456789")
    return f"{kind}:{stem[len(kind) :]}" if kind != stem else stem
