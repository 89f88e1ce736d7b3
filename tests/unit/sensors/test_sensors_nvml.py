"""NVML with a fake binding: whose joules are seen, and what the vendor's errors do."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from ergometry.core.errors import SensorError
from ergometry.sensors.nvml import Nvml, open_nvml


class FakeError(Exception):
    pass


class FakeNvml:
    """Stands for the ``pynvml`` module: ``count`` boards whose counters are (index + 1) kJ."""

    NVMLError = FakeError

    def __init__(self, count: int, *, names: tuple[str, ...] = (), start: bool = True) -> None:
        self.count, self.start = count, start
        self.board_names = names or ("Fake H200",) * count
        self.uuids = [f"GPU-{i:02x}aa-{i}" for i in range(count)]
        self.lost: set[int] = set()
        self.without_counter: set[int] = set()
        self.slices: dict[str, int] = {}
        self.polls = self.started = 0

    def nvmlInit(self) -> None:
        if not self.start:
            raise FakeError("Driver Not Loaded")
        self.started += 1

    def nvmlShutdown(self) -> None:
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return ("board", index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        if uuid not in self.slices:
            raise FakeError("Not Found")
        return ("slice", self.slices[uuid])

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> Any:
        return ("board", handle[1])

    def nvmlDeviceGetIndex(self, handle: Any) -> int:
        return int(handle[1])

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return self.uuids[handle[1]]

    def nvmlDeviceGetName(self, handle: Any) -> bytes:
        return self.board_names[handle[1]].encode()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        self.polls += 1
        if handle[1] in self.lost:
            raise FakeError("GPU is lost")
        if handle[1] in self.without_counter:
            raise FakeError("Not Supported")
        return (handle[1] + 1) * 1_000_000 + self.polls

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        if handle[1] in self.lost:
            raise FakeError("GPU is lost")
        return 250_000


def domains(sensor: Nvml) -> list[tuple[str, str]]:
    return [(signal.domain, signal.device) for signal in sensor.signals]


def test_boards_are_summed_not_averaged():
    sensor = Nvml(FakeNvml(4))
    assert domains(sensor) == [(f"node0/gpu{i}", f"cuda:{i}") for i in range(4)]
    assert sum(sensor.read(0.0)) == pytest.approx(1000 + 2000 + 3000 + 4000, abs=0.1)
    assert sensor.names == ("Fake H200",) * 4


def test_the_signal_says_how_well():
    (signal,) = Nvml(FakeNvml(1)).signals
    assert (signal.quantity, signal.provenance) == ("energy_j", "measured")
    assert (signal.resolution_j, signal.update_period_s, signal.rel_stderr) == (1e-3, 0.1, 0.05)
    assert signal.wrap_j is None


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [(i, i) for i in range(12)]),
        ("10", [(10, 0)]),
        ("1", [(1, 0)]),
        ("10, 2,11", [(10, 0), (2, 1), (11, 2)]),
        ("GPU-0aaa-10", [(10, 0)]),
        ("GPU-0b,0", [(11, 0), (0, 1)]),
        ("3,99,4", [(3, 0)]),
        ("3,-1,4", [(3, 0)]),
        ("5,5", [(5, 0)]),
    ],
)
def test_only_visible_boards_are_read(visible, expected):
    sensor = Nvml(FakeNvml(12), visible)
    assert domains(sensor) == [(f"node0/gpu{number}", f"cuda:{ordinal}") for number, ordinal in expected]
    assert [round(joules, -1) for joules in sensor.read(0.0)] == [1000 * (number + 1) for number, _ in expected]


@pytest.mark.parametrize("visible", ["", "-1", "none", "12", "GPU-", "GPU-ffff", "MIG-gone"])
def test_hidden_boards_are_not_read(visible):
    fake = FakeNvml(12)
    with pytest.raises(SensorError, match="CUDA_VISIBLE_DEVICES"):
        Nvml(fake, visible)
    assert fake.polls == 0
    assert fake.started == 0


def test_slices_of_one_board_are_its_whole_power_once():
    fake = FakeNvml(2)
    fake.slices = {"MIG-a": 1, "MIG-b": 1}
    sensor = Nvml(fake, "MIG-a,MIG-b")
    assert domains(sensor) == [("node0/gpu1", "cuda:0")]
    assert "MIG" in sensor.signals[0].method


def test_a_board_without_a_counter_gives_power():
    fake = FakeNvml(2)
    fake.without_counter = {1}
    sensor = Nvml(fake)
    assert [signal.quantity for signal in sensor.signals] == ["energy_j", "power_w"]
    assert sensor.read(0.0)[1] == 250.0


def test_a_lost_board_is_nan_and_the_others_go_on():
    fake = FakeNvml(3)
    sensor = Nvml(fake)
    fake.lost = {1}
    assert [math.isnan(x) for x in sensor.read(0.0)] == [False, True, False]
    fake.lost = set()
    assert all(map(math.isfinite, sensor.read(1.0)))


def test_a_board_lost_at_the_start_is_named_and_keeps_its_ordinal():
    fake = FakeNvml(3)
    fake.lost = {1}
    sensor = Nvml(fake)
    assert domains(sensor) == [("node0/gpu0", "cuda:0"), ("node0/gpu2", "cuda:2")]
    assert sensor.lost == ["gpu1: GPU is lost"]


def test_boards_are_not_polled_faster_than_ten_hertz():
    """Some consumer boards under-read by three quarters at 100 Hz."""
    fake = FakeNvml(1)
    sensor = Nvml(fake)
    fake.polls = 0
    values = [sensor.read(0.01 * i)[0] for i in range(100)]
    assert 9 <= fake.polls <= 12
    assert values == sorted(values)


def test_close_twice_shuts_down_once():
    fake = FakeNvml(1)
    sensor = Nvml(fake)
    sensor.close()
    sensor.close()
    assert fake.started == 0


@pytest.fixture
def binding(monkeypatch):
    def install(fake: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def test_open_reads_what_the_environment_leaves_visible(binding):
    binding(FakeNvml(12))
    sensor, availability = open_nvml({"CUDA_VISIBLE_DEVICES": "10"})
    assert sensor is not None
    assert domains(sensor) == [("node0/gpu10", "cuda:0")]
    assert availability.present
    assert availability.why == ""


def test_open_names_lost_and_unlike_boards(binding):
    fake = binding(FakeNvml(3, names=("A", "B", "B")))
    fake.lost = {2}
    _, availability = open_nvml({})
    assert availability.present
    assert "gpu2: GPU is lost" in availability.why
    assert "PCI_BUS_ID" in availability.remedy
    assert "PCI_BUS_ID" not in open_nvml({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})[1].remedy


def test_open_without_driver(binding):
    binding(FakeNvml(1, start=False))
    sensor, availability = open_nvml({})
    assert sensor is None
    assert (availability.present, availability.why) == (False, "Driver Not Loaded")
    assert availability.remedy


def test_open_without_binding(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if not installed
    sensor, availability = open_nvml({})
    assert sensor is None
    assert "ergometry[nvidia]" in availability.remedy


@pytest.mark.nvml
def test_this_machines_boards(request):
    sensor, availability = open_nvml()
    if sensor is None:
        pytest.skip(f"no NVIDIA board here: {availability.why}")
    request.addfinalizer(sensor.close)
    first, second = sensor.read(0.0), sensor.read(10.0)
    assert all(math.isfinite(x) and x > 0 for x in first)
    assert all(b >= a for a, b, s in zip(first, second, sensor.signals, strict=True) if s.quantity == "energy_j")
