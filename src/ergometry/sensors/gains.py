"""Gains: what a calibration found each board's readings must be multiplied by. Standard library only.

A board's own sensor is off by a factor that hardly moves: about ±5 % on A100 and H100, the same for all readings of
one board (Yang et al., "Part-time Power Measurements", arXiv 2312.02741). Who knows the truth once, from a meter, can
write the factor down, and every later reading of that board uses it. One JSON file holds those of all boards, by their
identity (a GPU's UUID, say), so that the file may follow its user from machine to machine::

    {"schema": "ergometry.gains/1",
     "boards": {"GPU-8f5d…": {"gain": 1.043, "rel_stderr": 0.01, "date": "2026-11-22",
                              "reference": "wall meter", "readings": {…}}}}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ergometry.core.errors import StoreError, UsageError
from ergometry.core.ports import Signal

SCHEMA = "ergometry.gains/1"

VARIABLE = "ERGOMETRY_GAINS"
"""Names the file; by default ``ergometry/gains.json`` in ``$XDG_CONFIG_HOME``, else in ``~/.config``."""

SMALLEST, LARGEST = 0.5, 2.0
"""A board that is off by more is broken, or another board was calibrated."""


class Gain(NamedTuple):
    """What a board's readings are multiplied by, and the relative standard error that is left.

    ``date`` is the day it was found (ISO 8601), ``reference`` what it was compared with, ``readings`` the numbers
    it was computed from.
    """

    gain: float
    rel_stderr: float
    date: str = ""
    reference: str = ""
    readings: Mapping[str, Any] = {}


class GainsFile(NamedTuple):
    """What a look at the file found: the gains that are used, and why it, or some of it, is not."""

    path: Path
    exists: bool
    gains: dict[str, Gain]
    why: str = ""


def path(environ: Mapping[str, str]) -> Path:
    """Return the file's path, whether or not there is one.

    >>> path({"XDG_CONFIG_HOME": "/home/a/.config"}).as_posix()
    '/home/a/.config/ergometry/gains.json'
    """
    if named := environ.get(VARIABLE):
        return Path(named)
    config = environ.get("XDG_CONFIG_HOME", "")
    if not config.startswith("/"):  # relative ones are to be ignored, says the XDG base directory specification
        home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
        config = f"{home}/.config"
    return Path(config) / "ergometry/gains.json"


def look(environ: Mapping[str, str]) -> GainsFile:
    """Read the file and say what was found. Never raises: a file that cannot be read holds no gains."""
    file = path(environ)
    try:
        document = _load(file)
    except FileNotFoundError:
        return GainsFile(file, False, {})
    except (OSError, ValueError) as error:
        return GainsFile(file, True, {}, _reason(error))
    gains: dict[str, Gain] = {}
    refused: list[str] = []
    for board, entry in document["boards"].items():
        try:
            gains[board] = _gain(entry)
        except ValueError as error:
            refused.append(f"{board}: {error}")
    return GainsFile(file, True, gains, "; ".join(refused))


def read(environ: Mapping[str, str]) -> dict[str, Gain]:
    """Return the gain of each board that was calibrated, by its identity; a file that cannot be read holds none."""
    return look(environ).gains


def apply(signal: Signal, gains: Mapping[str, Gain]) -> Signal:
    """Return the signal with its board's gain, if there is one and the signal is the board's own reading.

    The gain's error takes the place of the one that an uncalibrated board has. A modelled signal keeps its own:
    nothing was measured that a meter could correct.

    >>> board = Signal("node0/gpu0", "energy_j", "measured", "NVML energy counter", rel_stderr=0.05, board="GPU-1")
    >>> known = apply(board, {"GPU-1": Gain(1.043, 0.01)})
    >>> known.gain, known.rel_stderr, known.provenance
    (1.043, 0.01, 'measured')
    """
    known = gains.get(signal.board) if signal.board and signal.provenance == "measured" else None
    return signal if known is None else replace(signal, gain=known.gain, rel_stderr=known.rel_stderr)


def checked(gain: float, rel_stderr: float) -> tuple[float, float]:
    """Return both, if they can be a board's.

    Raises:
        ValueError: the gain is not between :data:`SMALLEST` and :data:`LARGEST`, or the error not between 0 and 1.
    """
    if not SMALLEST <= gain <= LARGEST:
        raise ValueError(f"a gain of {gain:g}, not one from {SMALLEST:g} to {LARGEST:g}")
    if not 0.0 < rel_stderr < 1.0:
        raise ValueError(f"a relative standard error of {rel_stderr:g}, not one between 0 and 1")
    return float(gain), float(rel_stderr)


def write(environ: Mapping[str, str], board: str, gain: Gain) -> Path:
    """Write one board's gain, in place of an earlier one, and return the file's path.

    The file is replaced as a whole, so that a reader sees the old one or the new. Fields that this version does not
    know are kept.

    Raises:
        UsageError: gain or error cannot be a board's; see :func:`checked`.
        StoreError: the file is damaged, and is left as it is, or cannot be written.
    """
    try:
        checked(gain.gain, gain.rel_stderr)
    except ValueError as error:
        raise UsageError(
            expected="a gain that a sound board may have",
            got=str(error),
            remedy="check the meter, and which board it was",
        ) from None
    entry = gain._asdict() | {
        "readings": dict(gain.readings),
        "date": gain.date or time.strftime("%Y-%m-%d"),
    }
    with _editing(environ) as document:
        before = document["boards"].get(board)
        document["boards"][board] = (before if isinstance(before, dict) else {}) | entry
    return path(environ)


def remove(environ: Mapping[str, str], board: str) -> bool:
    """Forget a board's gain; say whether there was one.

    Raises:
        StoreError: as :func:`write`.
    """
    if not look(environ).exists:
        return False
    with _editing(environ) as document:
        return document["boards"].pop(board, None) is not None


def _load(file: Path) -> dict[str, Any]:
    """Return the file's document, its ``boards`` a dict.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or not of this schema.
    """
    try:
        document = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"not a JSON object whose schema is {SCHEMA}")
    if not isinstance(document.setdefault("boards", {}), dict):
        raise ValueError("its boards are no JSON object")
    return document


def _gain(entry: Any) -> Gain:
    """Return a stored entry.

    Raises:
        ValueError: it is not one that can be used.
    """
    if not isinstance(entry, dict):
        raise ValueError("its entry is no JSON object")
    gain, rel_stderr = entry.get("gain"), entry.get("rel_stderr")
    if isinstance(gain, bool) or not isinstance(gain, (int, float)):
        raise ValueError("its gain is no number")
    if isinstance(rel_stderr, bool) or not isinstance(rel_stderr, (int, float)):
        raise ValueError("its rel_stderr is no number")
    readings = entry.get("readings")
    return Gain(
        *checked(gain, rel_stderr),
        date=str(entry.get("date") or ""),
        reference=str(entry.get("reference") or ""),
        readings=readings if isinstance(readings, dict) else {},
    )


@contextlib.contextmanager
def _editing(environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Give the file's document to be changed, and put it in place of the file afterwards."""
    file = path(environ)
    try:
        file = Path(os.path.realpath(file))  # a link stays one; resolve() raises for one that leads to itself
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(file.parent):
            try:
                document = _load(file)
            except FileNotFoundError:
                document = {"schema": SCHEMA, "boards": {}}
            yield document
            _replace(file, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except ValueError as error:
        raise StoreError(
            expected="a file of gains",
            got=f"{file} ({_reason(error)})",
            remedy=f"mend it or move it away; it was left as it is, and ${VARIABLE} can name another",
        ) from None
    except OSError as error:
        raise StoreError(
            expected="a file of gains that can be written",
            got=f"{file} ({error.strerror})",
            remedy=f"check its permissions, or name another with ${VARIABLE}",
        ) from None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other writers of ours out of the folder, where its file system can: of two, neither's board is lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    try:
        with beside.open("x", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileNotFoundError):
            beside.chmod(file.stat().st_mode & 0o7777)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"no JSON: {error}"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
