"""IPMI: the whole machine's power, as its management controller (BMC) reads it, by the tools that speak DCMI.

``ipmitool dcmi power reading`` or FreeIPMI's ``ipmi-dcmi --get-system-power-statistics``: whole watts, from the
supplies, of everything in the box (DCMI 1.5, Get Power Reading). The controller has a new value about once a second,
some only every few. It is slow to ask (a tenth of a second to a second) and may hang, so it is asked with a time-out.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ergometry.core.ports import Availability, Machine, Signal

if TYPE_CHECKING:
    import subprocess  # and where there is a controller: importing it costs a recorder's start more than it may take

COMMANDS = {
    "ipmitool": ("dcmi", "power", "reading"),
    "ipmi-dcmi": ("--get-system-power-statistics",),
}
"""The tools, in the order in which they are looked for, and how each is asked."""

TIMEOUT_S = 3.0
"""The tool is given this long; a controller that is busy answers late."""

MIN_PERIOD_S = 1.0
"""One reading a second at best."""

MAX_PERIOD_S = 60.0
"""A longer sampling period is no such thing: FreeIPMI prints how long the statistics have been kept, months often."""

RESOLUTION_W = 1.0
MAX_POWER_W = 100_000.0

REL_STDERR = 0.03
"""Assumed standard uncertainty of the supplies' metering: ±5 %, taken as uniform; few data sheets promise better."""

_POWER = re.compile(r"^\s*(?:Instantaneous power reading|Current Power)\s*:\s*(\d+)\s*Watts\s*$", re.I | re.M)
_PERIOD = re.compile(r"(?:Sampling period|Statistics reporting time period)\s*:\s*(\d+)\s*(Sec|milliseconds|ms)", re.I)
_INACTIVE = re.compile(r"(?:Power reading state is\s*:\s*(?:de|not )activ|Power Measurement\s*:\s*Not)", re.IGNORECASE)

_GRANT = "run as root, or give your group access to the device: chgrp and chmod g+rw, for good by a udev rule"


class Reading(NamedTuple):
    """A power, W, and how often the controller says it looks, s (None where it does not)."""

    power_w: float
    period_s: float | None


class Ipmi:
    """The management controller as a sensor: W, one signal, of the whole machine.

    Args:
        command: the tool and what it is asked.
        first: what it said when it was opened.
    """

    source = "ipmi"
    may_block = True

    def __init__(self, command: tuple[str, ...], first: Reading) -> None:
        self._command = command
        self._asked_s = -math.inf
        self._last = math.nan
        self._tool: subprocess.Popen[str] | None = None
        self._closed = False
        self.min_period_s = max(first.period_s or MIN_PERIOD_S, MIN_PERIOD_S)
        self.signals = (
            Signal(
                domain="node0",
                quantity="power_w",
                provenance="measured",
                method=f"the management controller's DCMI power reading ({Path(command[0]).name}), integrated",
                update_period_s=self.min_period_s,
                rel_stderr=REL_STDERR,
                max_power_w=MAX_POWER_W,
                averaging_s=self.min_period_s,
                resolution_w=RESOLUTION_W,
            ),
        )

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return the power, W; NaN where the tool fails. Asked sooner than there can be news, the last one again."""
        if not self._closed and now_s - self._asked_s >= self.min_period_s:
            self._asked_s = now_s
            said = self._ask()
            self._last = said.power_w if isinstance(said, Reading) else math.nan
        return (math.nan if self._closed else self._last,)

    def _ask(self) -> Reading | str:
        try:
            self._tool = _start(self._command)
        except OSError as error:
            return str(error.strerror)
        if self._closed:  # meanwhile, by another thread
            self._tool.kill()
        return _answer(self._tool)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: there is no accelerator."""
        return ()

    def close(self) -> None:
        """Stop a tool that runs; again is harmless."""
        self._closed = True
        if self._tool is not None and self._tool.poll() is None:
            self._tool.kill()
            self._tool.wait()


def open_ipmi(machine: Machine) -> tuple[Ipmi | None, Availability]:
    """Look for a management controller and a tool to ask it with, and ask once.

    The controller's devices are those of ``class/ipmi``; ``/dev`` is taken to stand beside ``/sys``.

    Returns:
        The sensor (None where there is no reading) and its availability.
    """

    def absent(why: str, remedy: str) -> tuple[None, Availability]:
        return None, Availability("ipmi", present=False, why=why, remedy=remedy)

    dev = machine.sysfs.parent / "dev"
    devices = sorted(
        path for pattern in ("ipmi[0-9]*", "ipmi/[0-9]*", "ipmidev/[0-9]*") for path in _glob(dev, pattern)
    )
    if not devices:
        return absent(f"no {dev / 'ipmi*'}", "a server has one: modprobe ipmi_si ipmi_devintf; other machines do not")
    if not os.access(devices[0], os.R_OK | os.W_OK):
        return absent(f"{devices[0]}: permission denied", _GRANT)
    import shutil

    path = machine.environ.get("PATH", os.defpath)
    tools = [(tool, *words) for name, words in COMMANDS.items() if (tool := shutil.which(name, path=path))]
    if not tools:
        return absent(f"none of {', '.join(COMMANDS)} is installed", "install ipmitool or freeipmi-tools")
    refusals = []
    for command in tools:
        try:
            said = _answer(_start(command))
        except OSError as error:
            said = str(error.strerror)
        if isinstance(said, Reading):
            return Ipmi(command, said), Availability("ipmi", present=True)
        refusals.append(f"{Path(command[0]).name}: {said}")
    why = "; ".join(refusals)
    return absent(why, _GRANT if "permission" in why.lower() else "the controller gives no power by DCMI")


def parse(text: str) -> Reading | str:
    r"""Return the reading in what either tool printed, or in words why there is none.

    Nothing that runs draws 0 W: controllers that know DCMI's command but not the power say so.

    >>> parse("Instantaneous power reading:   332 Watts\nSampling period:   00000005 Seconds.")
    Reading(power_w=332.0, period_s=5.0)
    >>> parse("Current Power                        : 0 Watts")
    'the controller reads 0 W'
    """
    power, period = _POWER.search(text), _PERIOD.search(text)
    if power is None:
        return (" ".join(text.split()) or "said nothing")[:200]
    if _INACTIVE.search(text):
        return "the controller's power measurement is not active"
    power_w = float(power[1])
    if not 0.0 < power_w <= MAX_POWER_W:
        return f"the controller reads {power_w:g} W"
    period_s = None
    if period:
        stated_s = float(period[1]) * (1.0 if period[2].lower() == "sec" else 1e-3)
        period_s = stated_s if MIN_PERIOD_S <= stated_s <= MAX_PERIOD_S else None
    return Reading(power_w, period_s)


def _start(command: tuple[str, ...]) -> subprocess.Popen[str]:
    import subprocess

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},  # in English, with points in numbers
    )


def _answer(tool: subprocess.Popen[str]) -> Reading | str:
    import subprocess

    with tool:
        try:
            said, _ = tool.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            tool.kill()
            return f"no answer within {TIMEOUT_S:g} s"
    return parse(said)


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []
