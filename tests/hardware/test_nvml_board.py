"""A real NVIDIA board through the sensor: what the port promises, and what is assumed of the board's kind.

``make test-gpu`` runs these, and then measures the board at length (benchmarks/gpu.py).
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator

import pytest

from ergometry.core.ports import Machine, Signal
from ergometry.core.series import HEALTH
from ergometry.sensors.nvml import Nvml, open_nvml

pytestmark = pytest.mark.nvml


@pytest.fixture
def sensor() -> Iterator[Nvml]:
    sensor, availability = open_nvml(Machine.here())
    if sensor is None:
        pytest.skip(f"no NVIDIA board here: {availability.why}")
    yield sensor
    sensor.close()


def sampled(sensor: Nvml, seconds: float) -> tuple[list[float], list[tuple[float, ...]]]:
    times, values, end_s = [], [], time.monotonic() + seconds
    while not times or time.monotonic() < end_s:
        before_s = time.monotonic()
        values.append(sensor.read(before_s))
        times.append((before_s + time.monotonic()) / 2)
        time.sleep(sensor.min_period_s)
    return times, values


def of(sensor: Nvml, quantity: str) -> list[tuple[int, Signal]]:
    found = [(j, signal) for j, signal in enumerate(sensor.signals) if signal.quantity == quantity]
    if not found:
        pytest.skip(f"no signal of this board is {quantity}")
    return found


def test_every_signal_reads_and_counters_rise_by_believable_power(sensor):
    times, values = sampled(sensor, 3.0)
    assert all(math.isfinite(x) and x > 0 for row in values for x in row)
    for j, signal in of(sensor, "energy_j"):
        counts = [row[j] for row in values]
        assert counts == sorted(counts)
        power_w = (counts[-1] - counts[0]) / (times[-1] - times[0])
        assert 1.0 < power_w < signal.max_power_w


def test_the_counter_agrees_with_the_power_beside_it(sensor):
    """Within 15 %: the same board, so the same gain; what differs is when each looks."""
    nvml = importlib.import_module("pynvml")
    for j, signal in of(sensor, "energy_j"):
        handle = nvml.nvmlDeviceGetHandleByUUID(signal.board)
        power_w, began_s, began_j = [], time.monotonic(), sensor.read(0.0)[j]
        while time.monotonic() < began_s + 5.0:
            power_w.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
            time.sleep(0.1)
        mean_w = (sensor.read(0.0)[j] - began_j) / (time.monotonic() - began_s)
        assert mean_w == pytest.approx(sum(power_w) / len(power_w), rel=0.15)


def test_the_counter_moves_no_more_slowly_than_is_assumed(sensor):
    for j, signal in of(sensor, "energy_j"):
        times, counts, end_s = [], [], time.monotonic() + 2.0
        while time.monotonic() < end_s:
            counts.append(sensor.read(0.0)[j])
            times.append(time.monotonic())
            time.sleep(0.002)
        changes = [t for t, a, b in zip(times[1:], counts, counts[1:], strict=False) if a != b]
        assert len(changes) > 5
        assert (changes[-1] - changes[0]) / (len(changes) - 1) < 1.3 * signal.update_period_s


def test_memory_is_a_part_of_its_board(sensor):
    memory = [j for j, signal in of(sensor, "power_w") if signal.domain.endswith("/memory")]
    if not memory:
        pytest.skip("the driver does not tell the memory's power apart")
    _, values = sampled(sensor, 2.0)
    assert all(0 < row[j] < sensor.signals[j].max_power_w for row in values for j in memory)


def test_the_state_of_each_board_is_believable(sensor):
    rows = [dict(zip(HEALTH.columns[1:], row, strict=True)) for row in sensor.health()]
    assert len(rows) == len(sensor.names)
    for row in rows:
        assert 10 <= row["temperature_c"] <= 110
        assert 0 < row["clock_hz"] <= 1.01 * row["max_clock_hz"] < 5e9
        assert 0 <= row["utilisation"] <= 1
        assert 10 < row["power_limit_w"] < 3000


def test_a_reading_is_quick(sensor):
    """The sampler gives it 50 ms."""
    took_s = []
    for _ in range(20):
        before_s = time.perf_counter()
        sensor.read(0.0)
        took_s.append(time.perf_counter() - before_s)
        time.sleep(sensor.min_period_s)
    assert sorted(took_s)[10] < 0.05
