"""NVML's boards as a sensor, over an object that stands for the binding: whose joules, and what faults do."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from ergometry.core.errors import SensorError
from ergometry.core.ports import Machine
from ergometry.sensors.nvml import RESTART_PERIOD_S, Nvml, open_nvml
from support.fake_nvml.binding import FakeBinding, FakeDevice, counting


def domains(sensor: Nvml) -> list[tuple[str, str]]:
    return [(signal.domain, signal.device) for signal in sensor.signals]


def machine(**environ: str) -> Machine:
    return Machine(sysfs=Path("/nowhere"), proc=Path("/nowhere"), environ=environ)


def test_boards_are_summed_not_averaged():
    sensor = Nvml(FakeBinding(*map(counting, range(4))))
    assert domains(sensor) == [(f"node0/gpu{i}", f"cuda:{i}") for i in range(4)]
    assert sum(sensor.read(0.0)) == 1000 + 2000 + 3000 + 4000
    assert sensor.names == ("Tesla V100-SXM2-16GB",) * 4


def test_every_reading_is_fresh():
    """When to ask is the sampler's part; a stale value would be taken for a board that stands still."""
    counts = iter(range(1, 10))
    binding = FakeBinding(counting(0, GetTotalEnergyConsumption=lambda: 1000 * next(counts)))
    sensor = Nvml(binding)
    assert [sensor.read(0.0)[0] for _ in range(3)] == [2.0, 3.0, 4.0]
    assert sensor.may_block


@pytest.mark.parametrize(
    ("names", "period_s"),
    [
        (("Tesla V100-SXM2-16GB",), 0.09),
        (("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200"), 0.09),
        (("NVIDIA GeForce RTX 4090",), 0.9),
        (("NVIDIA H200", "NVIDIA RTX A6000"), 0.9),
    ],
)
def test_only_boards_known_to_bear_it_are_asked_ten_times_a_second(names, period_s):
    assert Nvml(FakeBinding(*(counting(i, name) for i, name in enumerate(names)))).min_period_s == period_s


def test_hidden_boards_are_not_read():
    binding = FakeBinding(*map(counting, range(12)))
    sensor = Nvml(binding, "10")
    binding.calls.clear()
    assert sensor.read(0.0) == (11_000.0,)
    sensor.health()
    assert {uuid for _, uuid in binding.calls} == {"GPU-0aaa-10"}


@pytest.mark.parametrize("visible", ["", "-1", "none", "12"])
def test_no_visible_board_is_an_absence_that_names_the_variable(visible):
    binding = FakeBinding(*map(counting, range(12)))
    with pytest.raises(SensorError, match=f"CUDA_VISIBLE_DEVICES='{visible}' hides all of this machine's 12"):
        Nvml(binding, visible)
    assert binding.started == 0
    assert binding.asked("GetTotalEnergyConsumption") == 0


def test_no_board_at_all():
    with pytest.raises(SensorError, match="got none;"):
        Nvml(FakeBinding())


def test_a_lost_board_is_nan_and_the_others_go_on():
    binding = FakeBinding(*map(counting, range(3)))
    sensor = Nvml(binding)
    binding.devices[1].lost = True
    for now_s in (0.0, 1.0, 11.0):
        values = sensor.read(now_s)
        assert (values[0], values[2]) == (1000.0, 3000.0)
        assert math.isnan(values[1])


def test_nvml_is_started_again_while_a_board_is_lost_but_seldom():
    binding = FakeBinding(*map(counting, range(2)))
    sensor = Nvml(binding)
    binding.devices[0].lost = True
    starts = []
    for tenth in range(400):
        sensor.read(tenth / 10)
        starts.append(binding.starts)
    assert starts[-1] - 1 == 40.0 / RESTART_PERIOD_S
    assert binding.started == 1


def test_a_lost_board_comes_back_under_its_signal_wherever_it_is_then():
    binding = FakeBinding(*map(counting, range(3)))
    sensor = Nvml(binding)
    binding.devices[0].lost = True
    assert math.isnan(sensor.read(0.0)[0])
    binding.devices[0].lost = False
    binding.devices[0].answers["GetTotalEnergyConsumption"] = 7_000  # its counter has begun anew
    binding.devices.reverse()
    assert math.isnan(sensor.read(5.0)[0])
    assert sensor.read(10.0) == (7.0, 2000.0, 3000.0)
    assert sensor.read(10.1) == (7.0, 2000.0, 3000.0)
    assert binding.started == 1


def test_a_driver_that_goes_and_comes_back():
    binding = FakeBinding(*map(counting, range(2)))
    sensor = Nvml(binding)
    binding.started, binding.start = 0, 9
    assert all(map(math.isnan, sensor.read(0.0)))
    assert sensor.health() == ()
    binding.start = 0
    assert sensor.read(10.0) == (1000.0, 2000.0)
    assert len(sensor.health()) == 2
    sensor.close()
    assert binding.started == 0


def test_a_part_that_fails_alone_does_not_start_nvml_again():
    board = counting(0, "NVIDIA H100 80GB HBM3", GetPowerUsage=300_000)
    board.fields[185, 2] = 60_000
    binding = FakeBinding(board)
    sensor = Nvml(binding)
    assert sensor.read(0.0) == (1000.0, 60.0)
    board.fields.clear()
    assert math.isnan(sensor.read(1.0)[1])
    assert binding.starts == 1


def test_a_board_lost_at_the_start_is_named_and_keeps_its_ordinal():
    binding = FakeBinding(*map(counting, range(3)))
    binding.devices[1].lost = True
    sensor = Nvml(binding)
    assert domains(sensor) == [("node0/gpu0", "cuda:0"), ("node0/gpu2", "cuda:2")]
    assert sensor.lost == ["gpu1: GPU is lost"]


def test_close_twice_shuts_down_once():
    binding = FakeBinding(counting(0))
    sensor = Nvml(binding)
    sensor.close()
    sensor.close()
    assert binding.started == 0


@pytest.fixture
def installed(monkeypatch):
    def install(*devices: FakeDevice, start: int = 0) -> FakeBinding:
        binding = FakeBinding(*devices, start=start)
        monkeypatch.setitem(sys.modules, "pynvml", binding)
        return binding

    return install


def test_open_reads_what_the_environment_leaves_visible(installed):
    installed(*map(counting, range(12)))
    sensor, availability = open_nvml(machine(CUDA_VISIBLE_DEVICES="10"))
    assert sensor is not None
    assert domains(sensor) == [("node0/gpu10", "cuda:0")]
    assert availability.present
    assert availability.why == ""


def test_open_names_lost_and_unlike_boards(installed):
    binding = installed(counting(0, "A"), counting(1, "B"), counting(2, "B"))
    binding.devices[2].lost = True
    _, availability = open_nvml(machine())
    assert availability.present
    assert "gpu2: GPU is lost" in availability.why
    assert "PCI_BUS_ID" in availability.remedy
    assert "PCI_BUS_ID" not in open_nvml(machine(CUDA_DEVICE_ORDER="PCI_BUS_ID"))[1].remedy


def test_open_says_which_boards_are_modelled(installed):
    rates = type("Rates", (), {"gpu": 50, "memory": 10})()
    installed(counting(0), FakeDevice("GPU-1", "GeForce GT 1030", {"GetUtilizationRates": rates}))
    _, availability = open_nvml(machine())
    assert "gpu1 (GeForce GT 1030) has no readable power: GPU modelled" in availability.why


@pytest.mark.parametrize(
    ("outcome", "words"), [(9, "modprobe nvidia"), (4, "/dev/nvidiactl"), (12, "driver"), (18, "reboot"), (999, "smi")]
)
def test_open_without_a_working_driver_says_what_to_do(installed, outcome, words):
    installed(counting(0), start=outcome)
    sensor, availability = open_nvml(machine())
    assert sensor is None
    assert not availability.present
    assert availability.why
    assert words in availability.remedy


def test_open_without_binding(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if not installed
    sensor, availability = open_nvml(machine())
    assert sensor is None
    assert "ergometry[nvidia]" in availability.remedy
