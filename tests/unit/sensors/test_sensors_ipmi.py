"""IPMI through real programs that print what the tools print (tests/data/ipmi)."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ergometry.core.ports import Availability, Machine
from ergometry.sensors import ipmi
from ergometry.sensors.ipmi import MAX_PERIOD_S, Ipmi, Reading, open_ipmi, parse

RECORDED = Path(__file__).parents[2] / "data/ipmi"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("ipmitool-active.txt", Reading(332.0, 5.0)),
        ("ipmitool-one-line.txt", Reading(195.0, 1.0)),
        ("freeipmi-active.txt", Reading(332.0, None)),
        ("ipmitool-deactivated.txt", "the controller's power measurement is not active"),
        ("freeipmi-inactive.txt", "the controller's power measurement is not active"),
        ("ipmitool-unsupported.txt", "DCMI request failed because: Invalid command (c1)"),
    ],
)
def test_what_the_tools_print(file, expected):
    assert parse((RECORDED / file).read_text()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\0\x7fELF",
        "Instantaneous power reading: 332",
        "Instantaneous power reading: 3,5 Watts",  # a number of another language is none
        "Instantaneous power reading: 1e6 Watts",
        "Instantaneous power reading: -40 Watts",
        "Instantaneous power reading: 212garbage Watts",
        "Lecture de puissance instantanée : 332 Watts",
        "Instantaneous power reading: 999999999 Watts",
        "Average power reading over sample period: 348 Watts",
    ],
)
def test_anything_else_is_no_reading(text):
    assert isinstance(parse(text), str)


def test_a_controller_that_reads_nothing_is_not_believed():
    active = (RECORDED / "ipmitool-active.txt").read_text()
    assert parse(active.replace("   332 Watts", "     0 Watts")) == "the controller reads 0 W"


@pytest.mark.parametrize(("seconds", "believed"), [(0, None), (1, 1.0), (60, 60.0), (61, None), (2685198, None)])
def test_a_sampling_period_is_believed_within_reason(seconds, believed):
    said = parse(f"Instantaneous power reading: 7 Watts\n Sampling period: {seconds:08d} Seconds.\n")
    assert said == Reading(7.0, believed)
    assert MAX_PERIOD_S == 60.0


Tool = Callable[..., Path]


@pytest.fixture
def tool(tmp_path) -> Tool:
    """Make a program that prints a recorded file (or runs a line of shell), and a device to ask."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ipmi0").touch()

    def make(file: str = "", *, name: str = "ipmitool", line: str = "") -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$LC_ALL $@" >> {tmp_path}/asked\n{line or f"cat {RECORDED / file}"}\n')
        program.chmod(0o755)
        return program

    return make


def looked(tmp_path: Path) -> tuple[Ipmi | None, Availability]:
    return open_ipmi(Machine(tmp_path / "sys", tmp_path / "proc", {"PATH": str(tmp_path / "bin")}))


def test_the_tool_is_asked_in_english_and_read(tool, tmp_path):
    tool("ipmitool-active.txt")
    sensor, availability = looked(tmp_path)
    assert sensor is not None
    assert availability.present
    assert sensor.read(10.0) == (332.0,)
    assert (tmp_path / "asked").read_text() == "C dcmi power reading\n" * 2
    (signal,) = sensor.signals
    assert (signal.domain, signal.quantity, signal.resolution_w) == ("node0", "power_w", 1.0)
    assert signal.update_period_s == signal.averaging_s == sensor.min_period_s == 5.0
    assert sensor.may_block
    sensor.close()


def test_asked_sooner_than_there_is_news_it_does_not_ask(tool, tmp_path):
    tool("ipmitool-active.txt")
    sensor, _ = looked(tmp_path)
    assert sensor is not None
    for now_s in (0.0, 1.0, 4.9):
        assert sensor.read(now_s) == (332.0,)
    tool("ipmitool-one-line.txt")
    assert sensor.read(4.99) == (332.0,)
    assert sensor.read(5.0) == (195.0,)
    assert (tmp_path / "asked").read_text().count("\n") == 3  # with the one at opening
    sensor.close()


def test_freeipmi_serves_where_ipmitool_does_not(tool, tmp_path):
    tool("ipmitool-unsupported.txt")
    tool("freeipmi-active.txt", name="ipmi-dcmi")
    sensor, _ = looked(tmp_path)
    assert sensor is not None
    assert "ipmi-dcmi" in sensor.signals[0].method
    assert sensor.min_period_s == 1.0
    assert "--get-system-power-statistics" in (tmp_path / "asked").read_text()
    sensor.close()


def test_a_failure_in_between_is_a_gap(tool, tmp_path):
    tool("ipmitool-active.txt")
    sensor, _ = looked(tmp_path)
    assert sensor is not None
    program = tool("ipmitool-unsupported.txt")
    assert math.isnan(sensor.read(0.0)[0])
    program.unlink()
    assert math.isnan(sensor.read(5.0)[0])
    tool("ipmitool-active.txt")
    assert sensor.read(10.0) == (332.0,)
    sensor.close()


def test_a_tool_that_hangs_is_given_up(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(ipmi, "TIMEOUT_S", 0.05)
    tool(line="exec sleep 60")
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "no answer within 0.05 s" in availability.why
    assert not children()


def test_closing_stops_a_tool_that_hangs(tool, tmp_path):
    tool("ipmitool-active.txt")
    sensor, _ = looked(tmp_path)
    assert sensor is not None
    tool(line=f"touch {tmp_path}/running; exec sleep 60")
    values: list[tuple[float, ...]] = []
    thread = threading.Thread(target=lambda: values.append(sensor.read(0.0)))
    thread.start()
    while not (tmp_path / "running").exists():
        assert thread.is_alive()
    sensor.close()
    thread.join(10.0)
    assert not thread.is_alive()
    assert math.isnan(values[0][0])
    assert not children()
    sensor.close()
    assert math.isnan(sensor.read(99.0)[0])


def test_without_a_device_no_tool_is_run(tool, tmp_path):
    tool("ipmitool-active.txt")
    (tmp_path / "dev/ipmi0").unlink()
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "no " in availability.why
    assert "modprobe" in availability.remedy
    assert not (tmp_path / "asked").exists()


def test_a_device_that_is_not_ours_is_named_with_the_remedy(tool, tmp_path, monkeypatch):
    tool("ipmitool-active.txt")
    monkeypatch.setattr(os, "access", lambda *args: False)  # as for all but root, as which tests may run
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert availability.why == f"{tmp_path / 'dev/ipmi0'}: permission denied"
    assert "udev" in availability.remedy


def test_what_the_tool_itself_is_refused_is_said(tool, tmp_path):
    tool("ipmitool-denied.txt")
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "Permission denied" in availability.why
    assert "root" in availability.remedy


def test_a_controller_without_dcmi_and_a_machine_without_tools(tool, tmp_path):
    assert "is installed" in looked(tmp_path)[1].why
    tool("ipmitool-unsupported.txt")
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "Invalid command (c1)" in availability.why
    assert "DCMI" in availability.remedy


def children() -> list[str]:
    return (Path("/proc/self/task") / str(threading.get_native_id()) / "children").read_text().split()
