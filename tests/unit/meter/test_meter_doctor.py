"""The doctor on machines with known truth: fake trees through the registry, and sensors whose readings are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ergometry.core.clock import FakeClock
from ergometry.core.errors import RecorderError
from ergometry.core.ports import Availability, Machine, OpenSource, Signal
from ergometry.meter import doctor as doctor_module
from ergometry.meter.doctor import covers, examine, leaves_out, overhead
from ergometry.meter.polling import Poll, poll
from ergometry.sensors import MODELS, SOURCES
from ergometry.store.reader import load

PACKAGE = Signal(
    "node0/package0", "energy_j", "measured", "RAPL", resolution_j=61e-6, update_period_s=0.001, board="CPU-1"
)
CORE = Signal("node0/package0/core", "energy_j", "measured", "RAPL")
GPU = Signal("node0/gpu0", "power_w", "measured", "NVML", resolution_w=0.001, rel_stderr=0.05, gain=1.1, board="GPU-1")
DRAM = Signal("node0/dram", "energy_j", "modelled", "from its size", rel_stderr=0.5)
SHORT_S = 0.05


class Fake:
    """A sensor whose reading is a function of the time."""

    min_period_s = 0.0
    may_block = False

    def __init__(self, source: str, readings: dict[Signal, Callable[[float], float]]) -> None:
        self.source, self.signals, self.readings = source, tuple(readings), readings
        self.closed = 0

    def read(self, now_s: float) -> tuple[float, ...]:
        return tuple(value(now_s) for value in self.readings.values())

    def health(self) -> Sequence[tuple[float, ...]]:
        return ()

    def close(self) -> None:
        self.closed += 1


def counter(watts: float) -> Callable[[float], float]:
    return lambda t: watts * t


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "sys").mkdir()
    return Machine(tmp_path / "sys", tmp_path / "proc", {"ERGOMETRY_GAINS": str(tmp_path / "gains.json")})


@pytest.fixture
def examined(machine, monkeypatch):
    """Examine a machine whose sources are given: sensors, and availabilities of those that are absent."""

    def look(
        *sensors: Fake,
        absent: Sequence[Availability] = (),
        said: Sequence[Availability] = (),
        machine: Machine = machine,
    ) -> dict:
        opened = [OpenSource(sensor, sensor.signals, lambda _: (None, None)) for sensor in sensors]
        found = list(said) or [Availability(sensor.source, True) for sensor in sensors] + list(absent)
        clock = FakeClock()

        def one_by_one(sources: Sequence[OpenSource], seconds: float) -> list[Poll]:
            return [poll(source.sensor, seconds, clock.now, clock.advance) for source in sources]

        monkeypatch.setattr(doctor_module, "open_sensors", lambda _: (opened, found))
        monkeypatch.setattr(doctor_module, "poll_all", one_by_one)
        return examine(machine, 2.0)

    return look


def on_bus(machine: Machine, *devices: tuple[str, str]) -> None:
    for number, (vendor, kind) in enumerate(devices):
        folder = machine.sysfs / f"bus/pci/devices/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")


def whats(found: dict) -> str:
    return "\n".join(problem["what"] for problem in found["problems"])


def test_the_total_is_the_cover_calibrated_and_with_its_error(examined):
    found = examined(
        Fake("rapl", {PACKAGE: counter(40.0), CORE: counter(30.0)}),
        Fake("nvml", {GPU: lambda t: 100.0}),
        Fake("memory_model", {DRAM: counter(6.0)}),
    )
    assert found["cover"] == ["node0/package0", "node0/gpu0", "node0/dram"]
    assert found["covers"] == [covers(path) for path in found["cover"]]
    power = found["power"]
    assert power["by_domain"] == pytest.approx({"node0/package0": 40.0, "node0/gpu0": 110.0, "node0/dram": 6.0})
    assert power["value"] == pytest.approx(156.0)
    assert power["stderr"] == pytest.approx(math.hypot(0.05 * 110.0, 0.5 * 6.0))
    assert power["provenance"] == "modelled"
    assert found["problems"] == []


def test_each_domain_says_what_it_is_worth(examined, tmp_path):
    (tmp_path / "gains.json").write_text(
        '{"schema": "ergometry.gains/1", "boards": {"GPU-1": {"gain": 1.1, "rel_stderr": 0.05}}}'
    )
    found = examined(Fake("rapl", {PACKAGE: counter(40.0)}), Fake("nvml", {GPU: lambda t: 100.0}))
    (rapl, nvml) = found["sources"]
    (package,), (gpu,) = rapl["domains"], nvml["domains"]
    assert (package["unit"], package["resolution"], package["stated_update_period_s"]) == ("J", 61e-6, 0.001)
    assert package["update_period_at_most"]
    assert package["update_period_s"] == pytest.approx(package["polled_every_s"])
    assert not package["calibrated"]
    assert (gpu["unit"], gpu["resolution"], gpu["rel_stderr"], gpu["gain"]) == ("W", 0.001, 0.05, 1.1)
    assert gpu["calibrated"]
    assert gpu["update_period_s"] is None
    assert rapl["readings"] == round(2.0 / package["polled_every_s"]) + 1
    assert found["gains"]["boards"]["GPU-1"]["gain"] == 1.1


def test_of_two_readings_of_one_domain_a_counter_counts_and_then_the_first(examined):
    power, energy = (Signal("node0/gpu0", quantity, "measured", "x") for quantity in ("power_w", "energy_j"))
    other = Signal("node0/gpu0", "energy_j", "measured", "y")
    found = examined(Fake("a", {power: lambda t: 1.0, energy: counter(50.0)}), Fake("b", {other: counter(99.0)}))
    assert found["power"]["by_domain"] == pytest.approx({"node0/gpu0": 50.0})


def test_the_sensors_are_closed(examined):
    sensor = Fake("rapl", {PACKAGE: counter(40.0)})
    examined(sensor)
    assert sensor.closed == 1


def test_a_counter_that_stands_still_is_wrong_and_its_power_not_known(examined):
    found = examined(Fake("rapl", {PACKAGE: lambda t: 5.0}), Fake("memory_model", {DRAM: counter(6.0)}))
    assert "rapl, node0/package0: the counter stood still" in whats(found)
    assert found["power"]["by_domain"]["node0/package0"] is None
    assert found["power"]["value"] == pytest.approx(6.0)


def test_a_slow_counter_is_not_said_to_stand_still(examined):
    slow = Signal("node0", "energy_j", "measured", "a BMC", update_period_s=1.0)
    assert examined(Fake("ipmi", {slow: lambda t: 5.0}))["problems"] == []


def test_failed_readings_are_counted(examined):
    found = examined(Fake("rapl", {PACKAGE: lambda t: math.nan, CORE: counter(3.0)}))
    assert "rapl, node0/package0: all of" in whats(found)
    assert found["power"] == {
        "value": None,
        "stderr": None,
        "unit": "W",
        "provenance": "measured",
        "by_domain": {"node0/package0": None},
    }


def test_hardware_that_is_not_there_is_not_wrong_and_what_is_refused_is(examined):
    absent = [
        Availability("amdsmi", False, "AMD's driver is not loaded", "load it"),
        Availability("rapl", False, "/sys/x/energy_uj: permission denied", "chmod"),
    ]
    found = examined(Fake("cpu_model", {DRAM: counter(6.0)}), absent=absent)
    assert found["problems"] == [
        {"source": "rapl", "what": "rapl: /sys/x/energy_uj: permission denied", "remedy": "chmod"}
    ]


def test_a_model_that_says_how_to_narrow_its_error_is_not_wrong(examined):
    hint = Availability("memory_model", True, "used where no counter is", "state the size")
    assert examined(Fake("memory_model", {DRAM: counter(6.0)}), said=[hint])["problems"] == []
    warned = Availability("rapl", True, "package-1: permission denied", "chmod", ("node0/package1",))
    assert whats(examined(Fake("rapl", {PACKAGE: counter(40.0)}), said=[warned])) == (
        "rapl, in part: package-1: permission denied"
    )


def test_a_model_is_not_called_calibrated_by_its_board_s_gain(examined, tmp_path):
    (tmp_path / "gains.json").write_text(
        '{"schema": "ergometry.gains/1", "boards": {"GPU-1": {"gain": 1.1, "rel_stderr": 0.05}}}'
    )
    model = Signal("node0/gpu0", "power_w", "modelled", "from utilisation", board="GPU-1")
    assert not examined(Fake("nvml", {model: lambda t: 100.0}))["sources"][0]["domains"][0]["calibrated"]


def test_a_board_on_the_bus_that_is_not_read_is_wrong(examined, machine):
    on_bus(machine, ("0x10de", "0x030200"), ("0x10de", "0x030000"), ("0x10de", "0x040300"), ("0x1002", "0x030000"))
    absent = [Availability("nvml", False, "no driver", "install it"), Availability("amdsmi", False, "none", "")]
    found = examined(Fake("rapl", {PACKAGE: counter(40.0)}), absent=absent)
    # Neither the sound function of a board nor the graphics of a processor is an accelerator.
    assert whats(found) == "nvml: NVIDIA boards are on the PCI bus (2), but no driver"
    assert "accelerators that are not read" in found["leaves_out"]


def test_a_source_that_was_asked_for_is_wrong_if_absent(examined, machine):
    named = machine._replace(environ={**machine.environ, "ERGOMETRY_SENSORS": "amdsmi"})
    absent = [Availability("amdsmi", False, "no board", "plug one in")]
    assert "amdsmi: no board" in whats(examined(absent=absent, machine=named))


def test_nothing_at_all_is_said_first(examined):
    found = examined(absent=[Availability("rapl", False, "permission denied", "chmod")])
    assert found["problems"][0]["what"].startswith("no power source can be read")
    assert len(found["problems"]) == 2
    assert (found["cover"], found["power"]["value"], found["fallback"]) == ([], None, {"in_use": False, "models": []})


def test_a_damaged_file_of_gains_is_said(examined, tmp_path):
    (tmp_path / "gains.json").write_text("{")
    found = examined(Fake("rapl", {PACKAGE: counter(40.0)}))
    assert str(tmp_path / "gains.json") in whats(found)
    assert found["gains"]["why"]


def test_models_are_the_fallback_with_their_error(examined):
    (model,) = examined(Fake("memory_model", {DRAM: counter(6.0)}))["fallback"]["models"]
    assert (model["source"], model["domain"], model["rel_stderr"]) == ("memory_model", "node0/dram", 0.5)
    assert model["used_for"] == "all memory of the processors"
    assert model["power_w"] == pytest.approx(6.0)


def test_numbers_that_are_not_finite_become_null(examined):
    odd = Signal("node0/x", "energy_j", "measured", "odd", update_period_s=math.inf, rel_stderr=math.nan)
    found = examined(Fake("odd", {odd: counter(1.0)}))
    json.dumps(found["sources"], allow_nan=False)
    assert found["sources"][0]["domains"][0]["stated_update_period_s"] is None
    assert (found["power"]["value"], found["power"]["stderr"]) == (pytest.approx(1.0), None)


def test_a_machine_without_anything_is_examined_all_the_same(tmp_path):
    found = examine(Machine(tmp_path / "none", tmp_path / "none", {"HOME": str(tmp_path)}), SHORT_S)
    json.dumps(found, allow_nan=False)
    assert [source["source"] for source in found["sources"]] == [*SOURCES, *MODELS]
    for source in found["sources"]:
        assert source["present"] or (source["why"] and source["remedy"]), source


def test_every_field_of_the_contract_is_there(tmp_path):
    machine = Machine(tmp_path, Path("/proc"), {"HOME": str(tmp_path), "ERGOMETRY_SENSORS": "cpu_model"})
    found = examine(machine, SHORT_S)
    assert {"sources", "fallback"} <= found.keys()
    for source in found["sources"]:
        assert {"source", "present", "why", "remedy", "domains"} <= source.keys()
        for domain in source["domains"]:
            assert {"domain", "quantity", "resolution", "update_period_s"} <= domain.keys()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("node0", "the whole machine"),
        ("node0/psys", "the platform: packages, memory and mainboard; no accelerators in slots of their own"),
        ("node0/package1", "CPU package 1 with its cores and uncore; not its memory"),
        ("node0/psys/package0/core", "the cores of CPU package 0"),
        ("node0/package0/uncore", "the uncore of CPU package 0"),
        ("node0/package0/die1", "die 1 of CPU package 0"),
        ("node0/dram0", "the memory of CPU package 0"),
        ("node0/dram0/die1", "the memory beside die 1 of CPU package 0"),
        ("node0/dram", "all memory of the processors"),
        ("node0/cpu", "the CPU packages; not their memory"),
        ("node0/gpu12", "GPU 12, the whole board with its memory"),
        ("node0/module0/gpu0/memory", "the memory of GPU 0"),
        ("node0/module0", "module 0: CPU, GPU and their memories"),
        ("node0/module0/socket0", "CPU socket 0 with its memory"),
        ("node0/socket0/core", "the cores of CPU package 0"),
        ("node0/socket0/sysio", "sysio of CPU socket 0 with its memory"),
        ("node0/rails/vdd_gpu_soc", "supply rail vdd_gpu_soc"),
        ("node0/rails/vin_sys_5v0/vddq", "supply rail vddq"),
        ("node0/package0/gpu0", "the GPU of package 0"),
        ("node0/VDD_IN", "VDD_IN"),
    ],
)
def test_a_domain_s_coverage_in_words(path, words):
    assert covers(path) == words


REST = ["fans", "losses of the power supply", "network cards", "disks"]
BOARD = "voltage regulators and the rest of the mainboard"


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (["node0"], []),
        (["node0/psys"], REST),
        (["node0/psys", "node0/gpu0"], REST),
        (["node0/package0", "node0/dram0"], [BOARD, *REST]),
        (["node0/package0"], ["memory", BOARD, *REST]),
        (["node0/cpu", "node0/dram"], [BOARD, *REST]),
        (["node0/gpu0"], ["processors", "memory", BOARD, *REST]),
        (["node0/module0"], ["rest of the mainboard", *REST]),
        (["node0/socket0", "node0/gpu0"], [BOARD, *REST]),
    ],
)
def test_what_a_total_leaves_out_is_named(chosen, left):
    assert leaves_out(chosen) == left


def test_boards_and_parts_that_cannot_be_read_are_left_out_by_name():
    assert "accelerators that are not read" in leaves_out(["node0/gpu0"], {"NVIDIA": 2})
    assert "accelerators that are not read" not in leaves_out(["node0/gpu0", "node0/module1"], {"NVIDIA": 2})
    missing = ["node0/package1", "node0/package0/core"]
    assert leaves_out(["node0/package0", "node0/dram0"], missing=missing)[0].startswith("CPU package 1")
    assert not any("package 0" in part for part in leaves_out(["node0/package0"], missing=missing))


def test_the_overhead_is_that_of_a_recorder_that_really_ran(tmp_path, monkeypatch):
    monkeypatch.setenv("ERGOMETRY_SYSFS", str(tmp_path))
    monkeypatch.setenv("ERGOMETRY_SENSORS", "cpu_model")
    cost = overhead(0.3, load)
    assert cost["why"] == ""
    assert 0.0 < cost["fraction_of_core"] < 1.0
    assert 0.0 < cost["start_s"] < 5.0
    # A sample of one counter is 16 bytes, a reading of the process five columns.
    assert cost["bytes_per_hour"] >= 3600 * (16 + 5 * 8)
    assert not list(tmp_path.iterdir())


def test_a_recorder_that_cannot_start_is_said(monkeypatch):
    def refuse(*_args: object, **_options: object) -> None:
        raise RecorderError(expected="a recorder", got="no processes left", remedy="free some")

    monkeypatch.setattr(doctor_module.RecorderClient, "start", refuse)
    cost = overhead(0.3, load)
    assert cost["fraction_of_core"] is None
    assert "no processes left" in cost["why"]
