"""powermetrics: its property lists (tests/data/powermetrics), and a real program that prints them."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ergometry.core.domain import Domain, cover
from ergometry.core.ports import Machine
from ergometry.sensors import powermetrics
from ergometry.sensors.powermetrics import COMMAND, Powermetrics, Sample, open_powermetrics, split

RECORDED = Path(__file__).parents[2] / "data/powermetrics"
STREAM = (RECORDED / "apple-silicon.plists").read_bytes()
FIRST, SECOND = STREAM.split(b"\0")


def test_apple_silicon_gives_power_times_time():
    samples, rest = split(STREAM)
    assert rest == b""
    assert samples[0] == pytest.approx(
        Sample(1.023685416, 3.24807 * 1.023685416, 2.97845 * 1.023685416, 0.269614 * 1.023685416)
    )
    assert samples[1] == pytest.approx(Sample(1.004210333, 12.05052, 10.0421, 2.00842), rel=1e-5)


def test_the_first_apple_chips_gave_energy_alone():
    assert split((RECORDED / "macos-11.plists").read_bytes())[0] == [Sample(0.5, 1.046, 0.64, 0.305)]


def test_an_intel_mac_gives_its_package_alone():
    ((elapsed_s, combined_j, cpu_j, gpu_j),) = split((RECORDED / "intel.plists").read_bytes())[0]
    assert (elapsed_s, combined_j) == (1.0, 14.25)
    assert math.isnan(cpu_j)
    assert math.isnan(gpu_j)


def test_a_stream_may_be_cut_anywhere():
    whole, _ = split(STREAM)
    for cut in range(0, len(STREAM), 7):
        early, rest = split(STREAM[:cut])
        late, left = split(rest + STREAM[cut:])
        assert early + late == whole
        assert left == b""


@pytest.mark.parametrize(
    "noise",
    [
        b"powermetrics must be invoked as the superuser",
        b"<plist version='1.0'><dict/></plist>",
        b"<plist><array/></plist>",
        b"<plist><dict><key>elapsed_ns</key><string>x</string></dict></plist>",
        FIRST.replace(b"1023685416", b"0"),
        FIRST.replace(b"1023685416", b"-5"),
        FIRST.replace(b"combined_power", b"combined_prayer"),
        b"\xff\xfe<plist",
        FIRST[:300] + b"</plist>",
    ],
)
def test_what_is_no_sample_is_passed_over(noise):
    assert split(noise + b"\0" + SECOND)[0] == split(SECOND)[0]


def test_a_warning_before_the_list_does_no_harm():
    assert split(b"warning: unable to get smc\n" + FIRST)[0] == split(FIRST)[0]


Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path) -> Program:
    """Make a powermetrics of a few lines of shell."""

    def make(lines: str) -> Path:
        path = tmp_path / "powermetrics"
        path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{lines}\n')
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Powermetrics]]:
    made: list[Powermetrics] = []

    def make(path: Path) -> Powermetrics:
        made.append(Powermetrics((str(path), *COMMAND)))
        return made[-1]

    yield make
    for sensor in made:
        sensor.close()


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not ready():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_the_samples_of_a_running_program_add_up(program, opened, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    for name, data in (("first", FIRST + b"\0"), ("second", SECOND + b"\0")):
        (tmp_path / name).write_bytes(data)
    sensor = opened(program(f"cat {tmp_path}/first; read line < {go}; cat {tmp_path}/second; exec sleep 60"))
    assert (tmp_path / "asked").read_text().split() == list(COMMAND)
    assert [s.domain for s in sensor.signals] == ["node0/package0", "node0/package0/core", "node0/package0/gpu0"]
    assert [str(d) for d in cover({Domain(s.domain): s for s in sensor.signals})] == ["node0/package0"]
    assert sensor.signals[2].device == "mps"
    began = sensor.read(0.0)
    assert began[0] == pytest.approx(3.24807 * 1.023685416)
    assert sensor.read(1.0) == began  # nothing new yet
    go.write_text("on\n")
    until(lambda: sensor.read(2.0) != began)
    assert sensor.read(2.0)[0] - began[0] == pytest.approx(12.05052, rel=1e-5)
    assert sensor.read(2.0)[1] - began[1] == pytest.approx(10.0421, rel=1e-5)


def test_only_what_is_stated_is_a_signal(program, opened):
    sensor = opened(program(f"cat {RECORDED}/intel.plists; exec sleep 60"))
    assert [s.domain for s in sensor.signals] == ["node0/package0"]
    assert sensor.read(0.0) == (14.25,)


def test_a_program_that_ends_is_a_gap_from_then_on(program, opened):
    sensor = opened(program(f"cat {RECORDED}/apple-silicon.plists"))
    until(lambda: math.isnan(sensor.read(0.0)[0]))
    assert all(math.isnan(x) for x in sensor.read(1.0))


def test_a_refusal_is_told_in_its_own_words(program, opened):
    with pytest.raises(ValueError, match="must be invoked as the superuser"):
        opened(program("echo powermetrics must be invoked as the superuser; exit 1"))


def test_no_sample_in_time_is_said_and_the_program_ended(program, opened, monkeypatch):
    monkeypatch.setattr(powermetrics, "FIRST_S", 0.05)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"no sample within 0\.05 s"):
        opened(program("exec sleep 60"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_close_twice_and_neither_program_nor_descriptor_is_left(program):
    before = len(os.listdir("/proc/self/fd"))
    sensor = Powermetrics((str(program(f"cat {RECORDED}/apple-silicon.plists; exec sleep 60")),))
    pid = sensor._tool.pid
    sensor.close()
    sensor.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not Path(f"/proc/{pid}").exists()
    assert all(math.isnan(x) for x in sensor.read(0.0))


def test_elsewhere_than_on_macos_it_is_absent_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    sensor, availability = open_powermetrics(Machine(tmp_path, tmp_path, {}))
    assert sensor is None
    assert availability.why == "this is not macOS"
    assert availability.remedy


def test_on_macos_it_needs_root_and_is_run_as_root(program, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    machine = Machine(tmp_path, tmp_path, {"PATH": f"{tmp_path}:/bin:/usr/bin"})
    assert "not on PATH" in open_powermetrics(machine._replace(environ={"PATH": str(tmp_path)}))[1].why
    program(f"cat {RECORDED}/apple-silicon.plists; exec sleep 60")
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    sensor, availability = open_powermetrics(machine)
    assert sensor is None
    assert "permission" in availability.why
    assert "sudo" in availability.remedy
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    sensor, availability = open_powermetrics(machine)
    assert sensor is not None
    assert availability.present
    sensor.close()
    program("echo no such sampler; exit 64")
    assert "no such sampler" in open_powermetrics(machine)[1].why
