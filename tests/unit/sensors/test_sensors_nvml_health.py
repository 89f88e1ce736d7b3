"""The state of boards: units, reasons in common words, whose time it was, and what asking costs."""

from __future__ import annotations

import itertools
import math
import os
from types import SimpleNamespace

import pytest

from ergometry.core.series import HEALTH, HEAT, IDLE, OTHER_THROTTLE, POWER_BRAKE, POWER_CAP
from ergometry.sensors.nvml import Nvml
from ergometry.sensors.nvml_health import HOST_PIDS, shares_pids, throttle_bits
from support.fake_nvml.binding import (
    ALL_LINKS,
    LINK_RX,
    LINK_TX,
    LOST,
    NOT_FOUND,
    NOT_SUPPORTED,
    FakeBinding,
    FakeDevice,
    FakeError,
    counting,
)

EVERYTHING = {
    "GetClockInfo": lambda kind: {1: 1200, 2: 900}[kind],
    "GetMaxClockInfo": lambda kind: {1: 1980, 2: 2600}[kind],
    "GetTemperature": lambda _: 61,
    "GetEnforcedPowerLimit": 650_000,
    "GetUtilizationRates": SimpleNamespace(gpu=93, memory=40),
    "GetCurrentClocksEventReasons": 0x04,
    "GetPcieThroughput": lambda direction: [3_000, 5_000][direction],
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def host(tmp_path):
    """A procfs whose processes have the numbers that the driver knows."""
    (tmp_path / "self/ns").mkdir(parents=True)
    os.symlink(HOST_PIDS, tmp_path / "self/ns/pid")
    return tmp_path


def rows(sensor: Nvml) -> list[dict[str, float]]:
    return [dict(zip(HEALTH.columns[1:], row, strict=True)) for row in sensor.health()]


def test_a_board_tells_its_state_in_si_units():
    (row,) = rows(Nvml(FakeBinding(counting(0), counting(1, **EVERYTHING)), "1"))
    assert row["board"] == 1
    assert (row["clock_hz"], row["max_clock_hz"], row["memory_clock_hz"]) == (1.2e9, 1.98e9, 0.9e9)
    assert (row["temperature_c"], row["power_limit_w"], row["throttle"]) == (61, 650, POWER_CAP)
    assert (row["utilisation"], row["memory_utilisation"]) == (0.93, 0.4)
    assert (row["pcie_tx_bytes_per_s"], row["pcie_rx_bytes_per_s"]) == (3e6, 5e6)


def test_what_is_not_supported_is_nan_and_raises_nothing():
    (row,) = rows(Nvml(FakeBinding(counting(7))))
    assert row.pop("board") == 0
    assert all(map(math.isnan, row.values()))


def test_a_lost_board_has_a_row_of_nothing():
    binding = FakeBinding(counting(0, **EVERYTHING), counting(1, **EVERYTHING))
    sensor = Nvml(binding)
    binding.devices[0].lost = True
    lost, other = rows(sensor)
    assert all(map(math.isnan, list(lost.values())[1:]))
    assert other["clock_hz"] == 1.2e9


@pytest.mark.parametrize(
    ("reasons", "bits"),
    [
        (0, 0),
        (0x01, IDLE),
        (0x02, OTHER_THROTTLE),
        (0x04, POWER_CAP),
        (0x08, OTHER_THROTTLE),
        (0x08 | 0x40, HEAT),
        (0x08 | 0x80, POWER_BRAKE),
        (0x20, HEAT),
        (0x04 | 0x20, POWER_CAP | HEAT),
        (0x100, OTHER_THROTTLE),
        (0x400, OTHER_THROTTLE),  # a reason of a newer driver
        (0x01 | 0x08, IDLE | OTHER_THROTTLE),
    ],
)
def test_reasons_in_common_words(reasons, bits):
    assert throttle_bits(reasons) == bits


def test_the_older_call_for_reasons_is_as_good():
    (row,) = rows(Nvml(FakeBinding(counting(0, GetCurrentClocksThrottleReasons=0x20))))
    assert row["throttle"] == HEAT


def sample(pid: int, percent: int, time_us: int = 10) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, smUtil=percent, timeStamp=time_us)


def share(host, samples, pids=(7, 8)) -> float:
    def answer(seen_us):
        if isinstance(samples, int):
            raise FakeError(samples)
        return samples

    sensor = Nvml(FakeBinding(counting(0, GetProcessUtilization=answer)), proc=host)
    sensor.pids = lambda: set(pids)
    return rows(sensor)[0]["process_utilisation"]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([sample(7, 40), sample(99, 60)], 0.4),
        ([sample(7, 40), sample(8, 25), sample(99, 30)], 0.65),
        ([sample(99, 60)], 0.0),
        ([sample(7, 40), sample(7, 30, time_us=20)], 0.3),  # the newest of a process
        ([sample(7, 80), sample(8, 70)], 1.0),
        ([sample(7, 40), sample(8, 1_234_567)], 0.4),  # a slot of nonsense
        ([sample(8, 50, time_us=0)], 0.0),  # an empty one
        ([], 0.0),
        (NOT_FOUND, 0.0),
        (0, 0.0),
        (NOT_SUPPORTED, math.nan),
        (LOST, math.nan),
    ],
)
def test_two_users_of_a_board_are_told_apart(host, samples, expected):
    assert share(host, samples) == pytest.approx(expected, nan_ok=True)


def test_each_asking_is_for_the_time_since_the_last(host):
    asked = []

    def answer(seen_us):
        asked.append(seen_us)
        return [sample(7, 10, 1000 * len(asked)), sample(9, 10, 1000 * len(asked) + 5)]

    sensor = Nvml(FakeBinding(counting(0, GetProcessUtilization=answer)), proc=host)
    sensor.pids = lambda: {7}
    for _ in range(3):
        sensor.health()
    assert asked == [0, 1005, 2005]


def test_processes_of_another_namespace_are_not_told_by_their_numbers(host):
    """The driver's numbers are the host's: in a container another's process may bear ours."""
    (host / "self/ns/pid").unlink()
    os.symlink("pid:[4026532999]", host / "self/ns/pid")
    assert not shares_pids(host)
    assert math.isnan(share(host, [sample(7, 40)]))
    (host / "self/ns/pid").unlink()
    assert not shares_pids(host)


def test_without_processes_to_look_for_nobody_asks(host):
    binding = FakeBinding(counting(0))
    assert math.isnan(rows(Nvml(binding, proc=host))[0]["process_utilisation"])
    assert binding.asked("GetProcessUtilization") == 0


def test_the_slow_call_is_made_for_one_board_at_a_time_and_seldom():
    binding, clock = FakeBinding(*(counting(i, **EVERYTHING) for i in range(3))), Clock()
    sensor = Nvml(binding, clock=clock)
    asked = []
    for second in range(30):
        clock.now_s = 100.0 + second
        sensor.health()
        asked.append(binding.asked("GetPcieThroughput"))
    assert max(b - a for a, b in itertools.pairwise(asked)) == 2  # there and back, of one board
    assert asked[-1] == 2 * 3 * 3
    assert [row["pcie_rx_bytes_per_s"] for row in rows(sensor)] == [5e6] * 3  # repeated meanwhile


def linked(sent_kib: float, received_kib: float) -> FakeDevice:
    board = counting(0)
    board.fields = {(LINK_TX, ALL_LINKS): sent_kib, (LINK_RX, ALL_LINKS): received_kib}
    return board


def test_traffic_between_boards_is_what_the_counters_gained():
    board, clock = linked(1000, 5000), Clock()
    sensor = Nvml(FakeBinding(board), clock=clock)

    def rates(sent_kib: float, received_kib: float) -> tuple[float, float]:
        board.fields = linked(sent_kib, received_kib).fields
        (row,) = rows(sensor)
        return row["link_tx_bytes_per_s"], row["link_rx_bytes_per_s"]

    assert all(map(math.isnan, rates(1000, 5000)))
    assert all(map(math.isnan, rates(1000, 5000)))  # no time has passed
    clock.now_s += 2.0
    assert rates(1100, 5400) == (50 * 1024, 200 * 1024)
    clock.now_s += 1.0
    assert all(map(math.isnan, rates(10, 10)))  # begun anew
    clock.now_s += 1.0
    assert rates(20, 40) == (10 * 1024, 30 * 1024)
