"""AMD's boards, by a stand-in for AMD's binding and by fake trees of the kernel's hardware monitors."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ergometry.core.errors import SensorError
from ergometry.core.ports import Availability, Machine
from ergometry.core.series import HEALTH, HEAT, OTHER_THROTTLE, POWER_CAP
from ergometry.core.trace import Trace
from ergometry.sensors.amdgpu import Amdgpu, visible
from ergometry.sensors.amdsmi import POLL_PERIOD_S, UNIT_J, AmdSmi, open_amdsmi
from support.fake_amdsmi import Card, FakeAmdSmi

NOWHERE = Machine(Path("/nowhere"), Path("/nowhere"), {})


def boards(cards: list[Card], **environ: str) -> AmdSmi:
    return AmdSmi(FakeAmdSmi(cards), NOWHERE._replace(environ=environ))


def places(sensor: AmdSmi | Amdgpu) -> list[tuple[str, str]]:
    return [(signal.domain, signal.device) for signal in sensor.signals]


@pytest.mark.parametrize("resolution_uj", [15.259, 15.3, 15.2587890625])
@pytest.mark.parametrize("old", [False, True])
def test_the_accumulator_is_in_its_own_unit_however_it_is_printed(resolution_uj, old):
    sensor = boards([Card(ticks=2**20, resolution_uj=resolution_uj, old=old)])
    assert sensor.read(0.0) == (16.0,)
    (signal,) = sensor.signals
    assert (signal.quantity, signal.resolution_j, signal.averaging_s) == ("energy_j", UNIT_J, 0.0)
    assert "accumulator" in signal.method


def test_another_unit_is_taken_at_its_word_and_none_is_no_reading():
    assert boards([Card(ticks=1000, resolution_uj=20.0)]).read(0.0) == pytest.approx((0.02,))
    without = boards([Card(ticks=1000, resolution_uj=0.0)])
    assert without.signals[0].quantity == "power_w"


def test_without_an_accumulator_the_smoothed_power_is_read():
    for name in ("AMD Instinct MI300X", "AMD Radeon RX 7900"):
        sensor = boards([Card(ticks=None, power_w=312.0, name=name)])
        assert sensor.read(0.0) == (312.0,)
        assert sensor.signals[0].quantity == "power_w"
        assert sensor.signals[0].averaging_s == 1.0


def test_a_board_says_which_power_limits_it_can_be_set_to():
    (signal,) = boards([Card(ticks=1000)]).signals
    assert (signal.least_limit_w, signal.greatest_limit_w) == (0.0, 750.0)  # some tell no least one


def test_an_accumulator_that_stands_at_zero_is_not_preferred_to_a_power():
    assert boards([Card(ticks=0, power_w=312.0)]).read(0.0) == (312.0,)
    assert boards([Card(ticks=0, power_w="N/A")]).read(0.0) == (0.0,)  # it may yet count


def mi250(*ticks: int | None, power_w: float | str = 0.0) -> list[Card]:
    return [Card(ticks=n, power_w=300.0 if n else power_w, name="AMD Instinct MI250X") for n in ticks]


@pytest.mark.parametrize("odd", [0, None])
def test_the_odd_die_of_an_mi250_reports_through_the_even_one(odd):
    sensor = boards(mi250(2**20, odd, 2**21, odd))
    assert places(sensor) == [("node0/gpu0", "cuda:0"), ("node0/gpu2", "cuda:2")]
    assert sensor.read(0.0) == (16.0, 32.0)
    assert all("both dies" in signal.method for signal in sensor.signals)
    assert sensor.lost == []


def test_an_odd_die_seen_alone_is_still_read():
    sensor = boards(mi250(2**20, 0), HIP_VISIBLE_DEVICES="1")
    assert places(sensor) == [("node0/gpu0", "cuda:0")]
    assert "both dies" in sensor.signals[0].method


def test_two_dies_that_both_count_are_two():
    sensor = boards(mi250(2**20, 2**20))
    assert len(sensor.signals) == 2
    assert not any("both dies" in signal.method for signal in sensor.signals)


def test_a_dead_counter_beside_another_board_is_no_pair():
    sensor = boards([Card(ticks=2**20), Card(ticks=0, power_w=200.0)])
    assert sensor.read(0.0) == (16.0, 200.0)


def test_counters_that_stick_or_run_backward_add_nothing_false():
    """At 100 W the counter sticks for two seconds and catches up, and later falls by 40 J and is back."""
    card = Card()
    sensor = boards([card])
    readings = []
    for second in range(41):
        counted_j = 1000 + 100 * (8 if second in (9, 10) else second) - (140 if second == 25 else 0)
        card.ticks = counted_j * 2**16
        readings += sensor.read(float(second))
    assert readings[8] == readings[10] == 1800.0  # passed on as it is
    assert readings[25] - readings[24] == -40.0
    spent = Trace.from_samples(range(41), readings, sensor.signals[0]).energy(0.0, 40.0)
    assert spent.value == pytest.approx(4000.0, rel=0.01)
    assert abs(spent.value - 4000.0) <= 2 * spent.stderr


def test_more_than_ten_boards_keep_their_numbers():
    sensor = boards([Card(ticks=(k + 1) * 2**16) for k in range(12)])
    assert places(sensor)[10:] == [("node0/gpu10", "cuda:10"), ("node0/gpu11", "cuda:11")]
    assert sensor.read(0.0) == tuple(float(k + 1) for k in range(12))


def test_boards_are_in_hips_order_where_it_is_known():
    cards = [Card(ticks=(k + 1) * 2**16, hip_id=hip) for k, hip in enumerate((2, 0, 1))]
    assert boards(cards).read(0.0) == (2.0, 3.0, 1.0)
    cards[0].hip_id = "N/A"
    assert boards(cards).read(0.0) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({}, [0, 1, 2, 3]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, [3]),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "3"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "1,2,3", "HIP_VISIBLE_DEVICES": "0"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "3,GPU-bb", "CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-BB"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"HIP_VISIBLE_DEVICES": "0,9,1"}, [0]),
        ({"HIP_VISIBLE_DEVICES": "0,0,1"}, [0]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-zz,0"}, []),
    ],
)
def test_what_rocm_hides_is_not_read(environ, seen):
    uuids = ["GPU-aa", "GPU-bb", "GPU-cc", ""]
    assert visible(uuids, environ) == seen
    cards = [Card(ticks=(k + 1) * 2**16, uuid=uuid) for k, uuid in enumerate(uuids)]
    if not seen:
        with pytest.raises(SensorError, match="none of 4 visible"):
            boards(cards, **environ)
        return
    sensor = boards(cards, **environ)
    assert places(sensor) == [(f"node0/gpu{number}", f"cuda:{i}") for i, number in enumerate(seen)]
    assert not any(card.calls.count("energy") > 1 for k, card in enumerate(cards) if k not in seen)


def test_boards_are_named_by_their_uuid():
    assert boards([Card(uuid="GPU-4b2c1a9f8d3e6f7a")]).signals[0].board == "amd/GPU-4b2c1a9f8d3e6f7a"
    assert boards([Card()]).signals[0].board.startswith("amd/a6ff-")


def test_it_is_asked_ten_times_a_second_at_most():
    card = Card(ticks=2**16)
    sensor = boards([card])
    before = card.calls.count("energy")
    for k in range(100):
        sensor.read(k * 0.01)
    assert card.calls.count("energy") - before == pytest.approx(1.0 / POLL_PERIOD_S, abs=1)


def test_a_board_that_is_lost_is_a_gap_and_comes_back():
    cards = [Card(ticks=2**16), Card(ticks=2**17)]
    sensor = boards(cards)
    cards[1].lost = True
    assert sensor.read(0.0) == pytest.approx((1.0, math.nan), nan_ok=True)
    assert len(sensor.health()) == 2
    assert all(math.isnan(x) for x in sensor.health()[1][1:])
    cards[1].lost = False
    assert sensor.read(1.0) == (1.0, 2.0)


def test_a_board_lost_before_the_run_is_named():
    sensor = boards([Card(), Card(lost=True)])
    assert len(sensor.signals) == 1
    assert sensor.lost == ["gpu1: neither its energy nor its power can be read"]


def test_health_is_in_si_and_says_what_throttles():
    bits = {0: 0, 1 << 3: POWER_CAP, 1 << 36: HEAT, 1 << 17: OTHER_THROTTLE, 1 | 1 << 47: POWER_CAP | HEAT}
    for status, expected in bits.items():
        (row,) = boards([Card(throttle=status)]).health()
        known = dict(zip(HEALTH.columns[1:], row, strict=True))
        assert known["throttle"] == expected
    assert known["clock_hz"] == 1.32e9
    assert known["max_clock_hz"] == 2.1e9
    assert known["memory_clock_hz"] == 0.9e9
    assert known["temperature_c"] == 71
    assert known["power_limit_w"] == 750
    assert known["utilisation"] == pytest.approx(0.95)
    assert known["memory_utilisation"] == 0.2
    assert math.isnan(known["process_utilisation"])
    for unknown in ("N/A", 2**64 - 1):
        assert math.isnan(boards([Card(throttle=unknown)]).health()[0][8])


def test_it_starts_and_ends_amd_smi_once():
    binding = FakeAmdSmi([Card()])
    sensor = AmdSmi(binding, NOWHERE)
    assert binding.started == 1
    sensor.close()
    sensor.close()
    assert binding.started == 0
    assert math.isnan(sensor.read(0.0)[0])
    assert sensor.health() == ()
    with pytest.raises(SensorError, match="none of 0 visible"):
        AmdSmi(empty := FakeAmdSmi([]), NOWHERE)
    assert empty.started == 0


def amdgpu(sysfs: Path, number: int, **attributes: Any) -> Path:
    folder = sysfs / f"class/hwmon/hwmon{number}"
    (folder / "device").mkdir(parents=True)
    (sysfs / "module/amdgpu").mkdir(parents=True, exist_ok=True)
    for name, value in {"name": "amdgpu", "power1_cap": 300_000_000, **attributes}.items():
        (folder / name.replace("__", "/")).write_text(f"{value}\n")
    return folder


def looked(sysfs: Path, **environ: str) -> tuple[AmdSmi | Amdgpu | None, Availability]:
    return open_amdsmi(Machine(sysfs, sysfs.parent / "proc", environ))


@pytest.fixture
def no_binding(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", None)


def test_without_the_driver_nothing_of_amds_is_imported(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "no amdgpu driver" in availability.why
    assert availability.remedy


def test_the_binding_is_used_where_there_is_one(tmp_path, monkeypatch):
    amdgpu(tmp_path, 0, power1_average=42_000_000)
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi([Card(ticks=2**16)]))
    sensor, availability = looked(tmp_path)
    assert sensor is not None
    assert availability.present
    assert sensor.read(0.0) == (1.0,)
    sensor.close()


def test_where_the_binding_fails_the_kernels_monitor_is_read(tmp_path, monkeypatch):
    amdgpu(tmp_path, 0, power1_average=42_000_000)
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi([], driver=False))
    sensor, availability = looked(tmp_path)
    assert sensor is not None
    assert sensor.read(0.0) == (42.0,)
    assert "AMDSMI_STATUS_DRIVER_NOT_LOADED" in availability.why
    sensor.close()


def test_the_kernels_monitors_are_in_the_order_of_the_bus(tmp_path, no_binding):
    for number, bus, watts in ((2, "0000:c1:00.0", 42), (10, "0000:43:00.0", 17), (11, "0000:03:00.0", 5)):
        folder = amdgpu(tmp_path, number, power1_average=watts * 1_000_000)
        (folder / "device").rmdir()
        (tmp_path / "devices" / bus).mkdir(parents=True)
        (tmp_path / "devices" / bus / "unique_id").write_text(f"{watts:016x}\n")
        (folder / "device").symlink_to(tmp_path / "devices" / bus)
    sensor, availability = looked(tmp_path, HIP_VISIBLE_DEVICES="1,2")
    assert sensor is not None
    assert places(sensor) == [("node0/gpu1", "cuda:0"), ("node0/gpu2", "cuda:1")]
    assert sensor.read(0.0) == (17.0, 42.0)
    assert sensor.signals[0].board == "amd/GPU-0000000000000011"
    assert "instead" in availability.why
    assert availability.remedy
    sensor.close()


def test_energy_is_preferred_to_smoothed_power(tmp_path, no_binding):
    amdgpu(tmp_path, 0, energy1_input=7_000_000, power1_average=42_000_000)
    amdgpu(tmp_path, 1, power1_input=43_000_000)
    sensor, _ = looked(tmp_path)
    assert sensor is not None
    assert [s.quantity for s in sensor.signals] == ["energy_j", "power_w"]
    assert sensor.read(0.0) == (7.0, 43.0)
    sensor.close()


def test_a_processors_own_graphics_is_left_to_rapl(tmp_path, no_binding):
    folder = amdgpu(tmp_path, 0, power1_average=42_000_000)
    (folder / "power1_cap").unlink()
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "amdsmi cannot be imported" in availability.why
    assert availability.remedy


def test_the_kernels_state_of_a_board_is_in_si(tmp_path, no_binding):
    amdgpu(
        tmp_path,
        0,
        power1_average=42_000_000,
        freq1_input=1_320_000_000,
        freq2_input=900_000_000,
        temp1_input=60_000,
        temp2_input=71_000,
        device__gpu_busy_percent=95,
        device__mem_busy_percent="busy",
    )
    sensor, _ = looked(tmp_path)
    assert sensor is not None
    (row,) = sensor.health()
    assert len(row) == len(HEALTH.columns) - 1
    assert row[:8] == pytest.approx((0, 1.32e9, math.nan, 9e8, 71.0, 300.0, 0.95, math.nan), nan_ok=True)
    sensor.close()


def test_monitors_that_cannot_be_read_are_named_and_none_is_left_open(tmp_path, no_binding):
    before = len(os.listdir("/proc/self/fd"))
    amdgpu(tmp_path, 0, power1_average="broken")
    amdgpu(tmp_path, 1, power1_average=1_000_000)
    amdgpu(tmp_path, 2, power1_average=2_000_000)
    sensor, availability = looked(tmp_path, HIP_VISIBLE_DEVICES="0,2")
    assert sensor is not None
    assert "hwmon0" in availability.why
    assert places(sensor) == [("node0/gpu2", "cuda:1")]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    sensor.close()
    sensor.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert math.isnan(sensor.read(0.0)[0])


@pytest.mark.amd
def test_this_machine(request):
    sensor, availability = open_amdsmi(Machine())
    if sensor is None:
        pytest.skip(f"no AMD board here: {availability.why}")
    request.addfinalizer(sensor.close)
    assert all(math.isfinite(x) for x in sensor.read(0.0))
    assert all(len(row) == len(HEALTH.columns) - 1 for row in sensor.health())
