"""Hardware monitors on fake sysfs trees: which power is whose.

The trees are as the drivers lay them out: acpi_power_meter and ina3221 of Linux (Documentation/hwmon), the labels of
NVIDIA's firmware and device trees (tegra234-p3767: VDD_IN, VDD_CPU_GPU_CV, VDD_SOC; tegra234-p3701 for AGX Orin), the
watts of a GH200 node and an AGX Orin as published with jpwr and in Jetson's own logs.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.ports import Availability, Machine
from ergometry.sensors import tree
from ergometry.sensors.hwmon import Hwmon, open_hwmon

GRACE_W = {"Module": 197.148, "Grace": 36.714, "CPU": 35.134, "SysIO": 0.171}


def chip(sysfs: Path, number: int, *, device: bool = False, **attributes: object) -> Path:
    """Make a chip; its attributes are its device's where the driver is of the older kind."""
    folder = sysfs / f"class/hwmon/hwmon{number}"
    place = folder / "device" if device else folder
    place.mkdir(parents=True, exist_ok=True)
    for name, value in attributes.items():
        ((folder if name == "name" else place) / name).write_text(f"{value}\n")
    return place


def grace(sysfs: Path, sockets: int, **more: object) -> None:
    for k in range(sockets):
        for i, (what, watts) in enumerate(GRACE_W.items()):
            chip(
                sysfs,
                4 * k + i,
                device=True,
                name="power_meter",
                power1_oem_info=f"{what} Power Socket {k}",
                power1_average=round((watts + k) * 1e6),
                power1_average_interval=50,
                **more,
            )


def looked(sysfs: Path) -> tuple[Hwmon | None, Availability]:
    return open_hwmon(Machine(sysfs, sysfs.parent / "proc", {}))


def opened(sysfs: Path) -> Hwmon:
    sensor, availability = looked(sysfs)
    assert sensor is not None, availability
    return sensor


def watts(sensor: Hwmon) -> dict[str, float]:
    values = dict(zip((s.domain for s in sensor.signals), sensor.read(0.0), strict=True))
    sensor.close()
    return values


def covered_w(sensor: Hwmon) -> float:
    placed = tree.place(sensor.signals, [s.domain for s in sensor.signals])
    outer = cover({Domain(s.domain): value for s, value in zip(placed, sensor.read(0.0), strict=True)})
    assert_disjoint(outer)
    sensor.close()
    return sum(outer.values())


def test_a_grace_socket_lies_in_its_module_with_its_rails_inside(tmp_path):
    grace(tmp_path, 1)
    assert watts(opened(tmp_path)) == {
        "node0/module0": pytest.approx(197.148),
        "node0/socket0": pytest.approx(36.714),
        "node0/socket0/core": pytest.approx(35.134),
        "node0/socket0/sysio": pytest.approx(0.171),
    }
    assert covered_w(opened(tmp_path)) == pytest.approx(197.148)


def test_four_superchips_add_and_nothing_else_does(tmp_path):
    grace(tmp_path, 4)
    assert covered_w(opened(tmp_path)) == pytest.approx(4 * 197.148 + 6)


def test_without_a_module_the_grace_sockets_add(tmp_path):
    grace(tmp_path, 2)
    for k in (0, 1):
        (tmp_path / f"class/hwmon/hwmon{4 * k}/device/power1_average").unlink()
    sensor, availability = looked(tmp_path)
    assert sensor is not None
    assert covered_w(sensor) == pytest.approx(2 * 36.714 + 1)
    assert "Module Power Socket 0" in availability.why
    assert availability.remedy


def test_graces_interval_is_what_a_reading_is_the_mean_of(tmp_path):
    grace(tmp_path, 1)
    sensor = opened(tmp_path)
    assert {(s.quantity, s.averaging_s, s.update_period_s, s.resolution_w) for s in sensor.signals} == {
        ("power_w", 0.05, 0.05, 1e-3)
    }
    assert sensor.min_period_s == 0.05
    assert len({s.board for s in sensor.signals}) == 4
    sensor.close()


@pytest.mark.parametrize("interval", ["", "0", "-3", "soon"])
def test_an_interval_that_is_not_stated_is_taken_as_a_second(tmp_path, interval):
    chip(tmp_path, 0, name="power_meter", power1_average=300_000_000, power1_average_interval=interval)
    sensor = opened(tmp_path)
    assert sensor.signals[0].averaging_s == 1.0
    sensor.close()


def test_an_acpi_meter_without_a_name_is_the_whole_machine(tmp_path):
    chip(tmp_path, 0, name="power_meter", power1_average=312_000_000, power1_oem_info="")
    assert watts(opened(tmp_path)) == {"node0": 312.0}


def test_of_several_meters_without_a_name_none_is_guessed_at(tmp_path):
    for number in (0, 1):
        chip(tmp_path, number, name="power_meter", power1_average=312_000_000)
    before = len(os.listdir("/proc/self/fd"))
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert "do not say what they meter" in availability.why
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_battery_is_no_supply(tmp_path):
    chip(tmp_path, 0, name="power_meter", power1_average=12_000_000, power1_is_battery=1)
    assert looked(tmp_path)[0] is None


def orin_nano(sysfs: Path) -> None:
    chip(
        sysfs,
        1,
        name="ina3221",
        in1_label="VDD_IN",
        in1_input=4968,
        curr1_input=1400,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=4960,
        curr2_input=500,
        in3_label="VDD_SOC",
        in3_input=4976,
        curr3_input=280,
        in7_label="sum of shunt voltages",
        in7_input=999,
        curr4_input=999,
    )


def test_a_jetsons_input_holds_its_rails(tmp_path):
    orin_nano(tmp_path)
    assert watts(opened(tmp_path)) == {
        "node0/module0": pytest.approx(4.968 * 1.4),
        "node0/rails/vdd_cpu_gpu_cv": pytest.approx(4.96 * 0.5),
        "node0/rails/vdd_soc": pytest.approx(4.976 * 0.28),
    }
    assert covered_w(opened(tmp_path)) == pytest.approx(4.968 * 1.4)


def test_an_agx_orin_is_the_sum_of_its_rails(tmp_path):
    rails = (("VDD_GPU_SOC", 843, 6170), ("VDD_CPU_CV", 780, 3437), ("VIN_SYS_5V0", 4968, 953))
    labels = {f"in{i}_label": name for i, (name, _, _) in enumerate(rails, 1)}
    volts = {f"in{i}_input": mv for i, (_, mv, _) in enumerate(rails, 1)}
    amps = {f"curr{i}_input": ma for i, (_, _, ma) in enumerate(rails, 1)}
    chip(tmp_path, 3, name="ina3221", **labels, **volts, **amps)
    chip(
        tmp_path,
        4,
        name="ina3221",
        in1_label="NC",
        in1_input=0,
        curr1_input=0,
        in2_label="VDDQ_VDD2_1V8AO",
        in2_input=1800,
        curr2_input=341,
        in3_label="VDD_OFF",
        in3_enable=0,
    )
    sensor = opened(tmp_path)
    assert len(sensor.signals) == 4
    assert covered_w(sensor) == pytest.approx(0.843 * 6.17 + 0.78 * 3.437 + 4.968 * 0.953)


def test_rails_meter_the_processors_and_the_memory_so_that_no_model_is_added(tmp_path):
    orin_nano(tmp_path)
    sensor = opened(tmp_path)
    read = [s.domain for s in sensor.signals]
    assert tree.meters(tree.CPU_METERS, read)
    assert tree.meters(tree.MEMORY_METERS, read)
    assert sensor.signals[0].resolution_w == pytest.approx(4.968e-3)
    sensor.close()


def test_chips_that_are_no_power_or_anothers_are_left_alone(tmp_path):
    chip(tmp_path, 0, name="nct6775", fan1_input=1200, in0_input=1024, temp1_input=41000)
    chip(tmp_path, 1, name="amdgpu", power1_average=250_000_000, power1_cap=300_000_000)
    chip(tmp_path, 2, name="nvidia", power1_input=250_000_000)
    chip(tmp_path, 3, name="coretemp", temp1_input=50000)
    sensor, availability = looked(tmp_path)
    assert sensor is None
    assert str(tmp_path / "class/hwmon") in availability.why
    assert availability.remedy


def test_a_reading_that_fails_or_that_nothing_draws_is_nan(tmp_path):
    orin_nano(tmp_path)
    sensor = opened(tmp_path)
    folder = tmp_path / "class/hwmon/hwmon1"
    for current, expected in (("-40", math.nan), ("", math.nan), ("999999999", math.nan), ("1000", 4.968)):
        (folder / "curr1_input").write_text(current)
        value = sensor.read(0.0)[0]
        assert value == pytest.approx(expected, nan_ok=True)
    sensor.close()


def test_close_twice_and_no_descriptor_is_left(tmp_path):
    grace(tmp_path, 2)
    chip(tmp_path, 90, name="power_meter", power1_oem_info="Grace Power Socket 1", power1_average=1)  # once more
    chip(tmp_path, 91, name="ina3221", in1_label="VDD_HALF", in1_input=5000)  # a rail without a current
    before = len(os.listdir("/proc/self/fd"))
    sensor, availability = looked(tmp_path)
    assert sensor is not None
    assert "once more" in availability.why
    assert "VDD_HALF" in availability.why
    assert len(os.listdir("/proc/self/fd")) == before + 8
    sensor.close()
    sensor.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(math.isnan(x) for x in sensor.read(0.0))
