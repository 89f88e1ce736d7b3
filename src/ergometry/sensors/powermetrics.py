r"""Apple: the chip's power as macOS's ``powermetrics`` estimates it, which only root may run.

It runs beside the training and writes a property list every second, the next after a NUL (powermetrics(1), ``-f
plist``): means over ``elapsed_ns`` of the processors', the GPU's and the neural engine's power, mW. Here they become
counters: each sample adds power × elapsed time, so that none is lost between readings. Apple calls the figures
estimates, not to be compared between machines; memory and the rest of the board are not among them.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ergometry.core.ports import Availability, Machine, Signal

PERIOD_S = 1.0
"""One sample a second."""

COMMAND = ("-i", "1000", "--samplers", "cpu_power,gpu_power", "-f", "plist")

FIRST_S = 5.0
"""The first sample is waited for this long when it is opened."""

REL_STDERR = 0.1
"""Assumed standard uncertainty: Apple states none, and warns that the figures are estimates."""

MAX_POWER_W = 2000.0
RESOLUTION_J = 1e-3
"""Older systems print whole mJ; newer ones mW with decimals."""

PARTS = {"node0/package0": "combined", "node0/package0/core": "cpu", "node0/package0/gpu0": "gpu"}
"""Where the chip's and its parts' energy belongs, and powermetrics' names of them."""

_MAX_BYTES = 16 * 1024 * 1024


class Sample(NamedTuple):
    """One property list: the energy used in its time, J, of the whole chip and of its parts (NaN where not stated)."""

    elapsed_s: float
    combined_j: float
    cpu_j: float
    gpu_j: float


class Powermetrics:
    """A running ``powermetrics`` as a sensor: J since it was opened, of the chip, its processors and its GPU.

    Args:
        command: the program and its arguments.

    Raises:
        OSError: it cannot be run.
        ValueError: it gave no sample in time; what it said.
    """

    source = "powermetrics"
    min_period_s = 0.0
    may_block = False

    def __init__(self, command: Sequence[str]) -> None:
        import subprocess  # here and below, where it is used: importing it costs every recorder's start

        self._tool = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        assert self._tool.stdout is not None
        self._out = self._tool.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self._ended = False
        self._energy_j = [0.0] * len(PARTS)
        try:
            first = self._first()
        except BaseException:
            self.close()
            raise
        self._stated = [math.isfinite(getattr(first, f"{name}_j")) for name in PARTS.values()]
        self.signals = tuple(
            Signal(
                domain=domain,
                quantity="energy_j",
                provenance="modelled",
                method=f"macOS powermetrics, {name} power, an estimate of Apple's",
                resolution_j=RESOLUTION_J,
                update_period_s=PERIOD_S,
                rel_stderr=REL_STDERR,
                max_power_w=MAX_POWER_W,
                device="mps" if name == "gpu" else "",
            )
            for (domain, name), stated in zip(PARTS.items(), self._stated, strict=True)
            if stated
        )

    def _first(self) -> Sample:
        import subprocess

        deadline_s = time.monotonic() + FIRST_S
        while time.monotonic() < deadline_s and not self._ended:
            if samples := self._take():
                return samples[-1]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._tool.wait(0.02)  # it ends where it is refused; else this is a pause
        said = " ".join(self._rest.decode("utf-8", "replace").split())[:200]
        raise ValueError(said or f"no sample within {FIRST_S:g} s")

    def _take(self) -> list[Sample]:
        """Return the samples that have come, and add them up."""
        while not self._ended:
            try:
                data = self._out.read(65536)
            except (OSError, ValueError):
                data = b""
            if data is None:
                break
            self._ended = not data
            self._rest = (self._rest + data)[-_MAX_BYTES:]
        samples, self._rest = split(self._rest)
        for sample in samples:
            for i, name in enumerate(PARTS.values()):
                used_j = getattr(sample, f"{name}_j")
                if 0.0 <= used_j <= MAX_POWER_W * sample.elapsed_s:
                    self._energy_j[i] += used_j
        return samples

    def read(self, now_s: float) -> tuple[float, ...]:  # noqa: ARG002 - the samples keep their own time
        """Return the joules of all samples so far; NaN once the program has ended."""
        self._take()
        values = zip(self._energy_j, self._stated, strict=True)
        return tuple(math.nan if self._ended else value for value, stated in values if stated)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """End the program; again is harmless."""
        self._ended = True
        if self._tool.poll() is None:
            self._tool.kill()
        self._tool.wait()
        self._out.close()


def split(stream: bytes) -> tuple[list[Sample], bytes]:
    r"""Return the samples in a stream of property lists with NULs between, and the bytes of one not yet complete.

    What is no sample (a warning, a list without power) is passed over.

    >>> split(b"<plist><dict/></plist>\n\0<plist><di")
    ([], b'<plist><di')
    """
    *whole, rest = stream.split(b"\0")
    if rest.rstrip().endswith(b"</plist>"):
        whole, rest = [*whole, rest], b""
    found = [_sample(text) for text in whole]
    return [sample for sample in found if sample is not None], rest


def _sample(text: bytes) -> Sample | None:
    import plistlib

    begin = text.find(b"<?xml") if b"<?xml" in text else text.find(b"<plist")
    try:
        listed = plistlib.loads(text[max(begin, 0) :], fmt=plistlib.FMT_XML)
        elapsed_s = float(listed["elapsed_ns"]) / 1e9
        chip: dict[str, Any] = listed.get("processor") or {}
        board: dict[str, Any] = listed.get("gpu") or {}
    except Exception:  # whatever was printed: plistlib lets its parser's own errors through
        return None
    if not (isinstance(chip, dict) and isinstance(board, dict) and 0.0 < elapsed_s < math.inf):
        return None
    cpu_j = _energy_j(chip, "cpu", elapsed_s)
    gpu_j = _energy_j(chip, "gpu", elapsed_s)
    if math.isnan(gpu_j):
        gpu_j = _energy_j(board, "gpu", elapsed_s)
    combined_j = _energy_j(chip, "combined", elapsed_s)
    for name, scale in (("package_energy", 1e-3), ("package_joules", 1.0), ("package_watts", elapsed_s)):
        if math.isnan(combined_j):
            combined_j = _number(chip, name) * scale
    if math.isnan(combined_j):
        return None
    return Sample(elapsed_s, combined_j, cpu_j, gpu_j)


def _energy_j(listed: dict[str, Any], name: str, elapsed_s: float) -> float:
    power_mw = _number(listed, f"{name}_power")
    return power_mw * 1e-3 * elapsed_s if math.isfinite(power_mw) else _number(listed, f"{name}_energy") * 1e-3


def _number(listed: dict[str, Any], key: str) -> float:
    value = listed.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def open_powermetrics(machine: Machine) -> tuple[Powermetrics | None, Availability]:
    """Run ``powermetrics`` where this is macOS and the user is root, and say what was found.

    Returns:
        The sensor (None elsewhere) and its availability.
    """

    def absent(why: str, remedy: str) -> tuple[None, Availability]:
        return None, Availability("powermetrics", present=False, why=why, remedy=remedy)

    if sys.platform != "darwin":
        return absent("this is not macOS", "none is needed: it reads Apple's chips only")
    import shutil

    program = shutil.which("powermetrics", path=machine.environ.get("PATH", os.defpath))
    if program is None:
        return absent("powermetrics is not on PATH", "it is macOS's own: add /usr/bin to PATH")
    if os.geteuid() != 0:
        return absent("permission denied: powermetrics is for root", "run with sudo")
    try:
        return Powermetrics((program, *COMMAND)), Availability("powermetrics", present=True)
    except (OSError, ValueError) as error:
        return absent(f"powermetrics gave no power: {error}", "see what sudo powermetrics -n 1 says")
