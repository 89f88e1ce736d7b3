"""Coefficients: what a calibration found of one machine and board, and the file that keeps it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import InvalidCalibration
from ergometry.core.estimate import Estimate
from ergometry.core.run import Run
from ergometry.store import calibration_files
from ergometry.store.calibration_files import UNREADABLE, VARIABLE, file_of, folder, machine_identity

__all__ = ["Coefficients", "Found", "file_of", "folder", "load", "machine_identity", "of", "parse", "save"]

SCHEMA = "ergometry.calibration/1"


@dataclass(frozen=True)
class Coefficients:
    """What one board costs and can do, each with its error and provenance.

    Attributes:
        machine: identity of the machine, from :func:`machine_identity`.
        device: torch's name of it, ``cpu`` or ``cuda:0``.
        board: its product name, or its identity.
        date: when, ISO 8601.
        static_w: power without work, W.
        e_flop: J/flop by dtype (``fp32``, ``bf16``, …).
        e_byte: J/byte of memory traffic.
        e_link: J/byte between devices; None where never measured.
        peak_flop_per_s: flop/s by dtype.
        peak_byte_per_s: byte/s.
        names: of the coefficients in ``covariance`` (k, k): ``static_w``, ``e_flop:<dtype>``, ``e_byte``, ``e_link``.
        conditions: how it was measured: seconds, sensor, busy share of the machine by others, misfit, kernels.
    """

    machine: str
    device: str
    board: str
    date: str
    static_w: Estimate
    e_flop: Mapping[str, Estimate]
    e_byte: Estimate
    e_link: Estimate | None
    peak_flop_per_s: Mapping[str, Estimate]
    peak_byte_per_s: Estimate
    names: tuple[str, ...] = ()
    covariance: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def ridge(self, dtype: str) -> float:
        """Return the arithmetic intensity at which memory and arithmetic take equally long, flop/byte; NaN unknown."""
        peak = self.peak_flop_per_s.get(dtype)
        if peak is None or not peak.value or not self.peak_byte_per_s.value:
            return math.nan
        return peak.value / self.peak_byte_per_s.value

    def to_json(self) -> dict[str, Any]:
        """Return the file's JSON object."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "device": self.device,
            "board": self.board,
            "date": self.date,
            "static_w": self.static_w.to_json(),
            "e_flop": {dtype: q.to_json() for dtype, q in self.e_flop.items()},
            "e_byte": self.e_byte.to_json(),
            "e_link": None if self.e_link is None else self.e_link.to_json(),
            "peak_flop_per_s": {dtype: q.to_json() for dtype, q in self.peak_flop_per_s.items()},
            "peak_byte_per_s": self.peak_byte_per_s.to_json(),
            "covariance": {"names": list(self.names), "matrix": self.covariance.tolist()},
            "conditions": dict(self.conditions),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Coefficients:
        """Return what :meth:`to_json` wrote.

        Raises:
            InvalidCalibration: it is not such an object, or of another schema; calibrate again.
        """
        try:
            if stored["schema"] != SCHEMA:
                raise InvalidCalibration(
                    expected=SCHEMA,
                    got=repr(stored["schema"]),
                    remedy="use the ergometry that wrote it, or erg calibrate",
                )
            link, covariance = stored["e_link"], stored["covariance"]
            names = tuple(map(str, covariance["names"]))
            matrix = np.array(covariance["matrix"], dtype=np.float64).reshape(len(names), len(names))
            found = cls(
                machine=str(stored["machine"]),
                device=str(stored["device"]),
                board=str(stored["board"]),
                date=str(stored["date"]),
                static_w=Estimate.from_json(stored["static_w"]),
                e_flop={str(d): Estimate.from_json(q) for d, q in stored["e_flop"].items()},
                e_byte=Estimate.from_json(stored["e_byte"]),
                e_link=None if link is None else Estimate.from_json(link),
                peak_flop_per_s={str(d): Estimate.from_json(q) for d, q in stored["peak_flop_per_s"].items()},
                peak_byte_per_s=Estimate.from_json(stored["peak_byte_per_s"]),
                names=names,
                covariance=matrix,
                conditions=dict(stored["conditions"]),
            )
            found._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidCalibration(
                expected="a calibration that erg calibrate wrote",
                got=f"{type(error).__name__}: {error}",
                remedy="calibrate again: erg calibrate",
            ) from None
        return found

    def _check(self) -> None:
        """Pass if every coefficient is a number that is not below zero.

        Raises:
            ValueError: one is not, or the covariance is not finite.
        """
        links = [] if self.e_link is None else [self.e_link]
        for one in (self.static_w, *self.e_flop.values(), self.e_byte, *links):
            if one.value is None or not 0 <= one.value < math.inf:
                raise ValueError(f"a coefficient of {one.value} {one.unit}")
        if not np.isfinite(self.covariance).all():
            raise ValueError("a covariance that is not finite")


def save(found: Coefficients, where: Path) -> Path:
    """Write a calibration, whole or not at all, and return its file.

    Raises:
        InvalidCalibration: the folder cannot be written; name another in ``$ERGOMETRY_CALIBRATION``.
    """
    file = file_of(where, found.machine, found.device)
    try:
        where.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps(found.to_json(), indent=1) + "\n")
        draft.replace(file)
    except OSError as error:
        raise InvalidCalibration(
            expected=f"a folder to write to, {where}", got=error.strerror or str(error), remedy=f"set ${VARIABLE}"
        ) from None
    return file


def load(where: Path, machine: str, device: str, board: str | None = None) -> Coefficients | None:
    """Return the calibration of a device, None if there is none.

    Args:
        where: the folder, :func:`folder`.
        machine: :func:`machine_identity` of the machine that ran.
        device: torch's name of the device.
        board: its product name, where known: a calibration of another board is refused.

    Raises:
        InvalidCalibration: the file is damaged, or of another machine or board; calibrate again.
    """
    file = file_of(where, machine, device)
    try:
        text = file.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidCalibration(
            expected=f"a readable file {file}", got=error.strerror or str(error), remedy="mend its permissions"
        ) from None
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise InvalidCalibration(
            expected="JSON", got=f"{error} in {file}", remedy="calibrate again: erg calibrate"
        ) from None
    if not isinstance(stored, dict):
        raise InvalidCalibration(expected="a JSON object", got=f"another in {file}", remedy="erg calibrate")
    found = Coefficients.from_json(stored)
    if found.machine != machine or (board and found.board and found.board != board):
        raise InvalidCalibration(
            expected=f"a calibration of {board or machine}",
            got=f"one of {found.board} in {file}",
            remedy="calibrate this board: erg calibrate",
        )
    return found


Found = Coefficients | InvalidCalibration
"""A calibration, or why the one that there is cannot be used."""


def parse(kept: Mapping[str, Any]) -> dict[str, Found]:
    """Return calibrations from JSON objects by device, as a run or a folder keeps them: each, or why it is none."""
    found: dict[str, Found] = {}
    for device, one in kept.items():
        try:
            if not isinstance(one, Mapping) or UNREADABLE in one:
                raise InvalidCalibration(
                    expected=f"a calibration of {device}",
                    got=str(one[UNREADABLE]) if isinstance(one, Mapping) else type(one).__name__,
                    remedy=f"calibrate again: erg calibrate --device {device}",
                )
            found[str(device)] = Coefficients.from_json(one)
        except InvalidCalibration as error:
            found[str(device)] = error
    return found


def of(run: Run, environ: Mapping[str, str] = os.environ) -> dict[str, Found]:
    """Return the calibrations for a run, by device: those that it holds, else those that its machine has got since.

    The folder is looked into where the run was recorded on this machine (``machine["identity"]`` of its labels).
    """
    held = run.meta.get(calibration_files.CALIBRATIONS)
    found = parse(held) if isinstance(held, Mapping) else {}
    machine = run.meta.get("machine")
    if isinstance(machine, Mapping) and machine.get("identity") == machine_identity():
        later = parse(calibration_files.stored(environ))
        found = {**found, **later, **{device: one for device, one in found.items() if isinstance(one, Coefficients)}}
    return found
