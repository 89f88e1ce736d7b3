"""The GPU benchmark's analysis against sensors of known truth, and all of it over the simulated library."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gpu_timing import (
    Updates,
    averaging_window,
    busy_until,
    disturbance,
    integral_j,
    mean_power,
    updates,
)
from hypothesis import given
from hypothesis import strategies as st

from support.fake_nvml import FakeBoard, FakeNvml

ROOT = Path(__file__).parents[3]
IDLE_W, BUSY_W = 70.0, 620.0


def random_waves(seconds: float, seed: int = 3) -> list[tuple[float, float]]:
    chance, waves, t = random.Random(seed), [], 0.3
    while t < seconds:
        on_s = chance.uniform(0.05, 0.8)
        waves.append((t, t + on_s))
        t += on_s + chance.uniform(0.05, 0.8)
    return waves


def brute_busy_s(waves: list[tuple[float, float]], t: float) -> float:
    return sum(max(min(t, off) - on, 0.0) for on, off in waves)


@given(lengths=st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.01, 2.0)), max_size=6), t=st.floats(-1.0, 30.0))
def test_busy_seconds_are_those_of_all_waves_added_up(lengths, t):
    waves, at = [], 0.0
    for off_s, on_s in lengths:
        waves.append((at + off_s, at + off_s + on_s))
        at += off_s + on_s
    assert busy_until(waves)(t) == pytest.approx(brute_busy_s(waves, t), abs=1e-9)


class SimulatedSensor:
    """A board under waves, behind a boxcar that is late; polled at uneven times, as a busy machine does."""

    def __init__(self, period_s: float, window_s: float, delay_s: float = 0.0, noise_w: float = 0.0) -> None:
        self.waves = random_waves(20.0)
        chance = random.Random(1)
        count = int(20.0 / period_s)
        self.updates_s = [0.0137 + k * period_s for k in range(count)]
        self.power_w = [
            IDLE_W
            + (BUSY_W - IDLE_W)
            * (brute_busy_s(self.waves, u - delay_s) - brute_busy_s(self.waves, u - delay_s - window_s))
            / window_s
            + chance.gauss(0.0, noise_w)
            for u in self.updates_s
        ]
        self.period_s, self.chance = period_s, chance

    def polled(self, *, counter: bool = False) -> tuple[list[float], list[float]]:
        times, values, t, k, energy_j = [], [], 0.0, -1, 0.0
        while t < 20.0:
            while k + 1 < len(self.updates_s) and self.updates_s[k + 1] <= t:
                k += 1
                energy_j += self.power_w[k] * self.period_s
            if k >= 0:
                times.append(t)
                values.append(round(energy_j if counter else self.power_w[k], 3))
            t += self.chance.uniform(0.0015, 0.003)
        return times, values


@pytest.mark.parametrize(
    ("period_s", "window_s"), [(0.02, 0.011), (0.1, 0.023), (0.1, 0.105), (0.1, 1.0), (0.02, 0.01)]
)
def test_period_and_window_of_each_class_of_board_are_found(period_s, window_s):
    sensor = SimulatedSensor(period_s, window_s, delay_s=0.03, noise_w=3.0)
    seen = updates(*sensor.polled())
    assert seen.period_s == pytest.approx(period_s, rel=0.01)
    found = averaging_window(seen, sensor.waves)
    assert found is not None
    assert found.window_s == pytest.approx(window_s, rel=0.05, abs=0.0015)
    assert found.delay_s == pytest.approx(0.03, abs=0.002)
    assert (found.idle_w, found.busy_w) == pytest.approx((IDLE_W, BUSY_W), rel=0.05)
    assert found.r2 > 0.98


@pytest.mark.parametrize("window_s", [0.025, 0.1])
def test_what_a_counter_does_not_see_of_each_period_is_found(window_s):
    sensor = SimulatedSensor(0.1, window_s)
    seen = updates(*sensor.polled(counter=True))
    assert seen.period_s == pytest.approx(0.1, rel=0.01)
    found = averaging_window(mean_power(seen), sensor.waves)
    assert found is not None
    assert found.window_s == pytest.approx(window_s, rel=0.25)


def test_a_value_that_comes_again_does_not_lengthen_the_period():
    times = [k * 0.001 for k in range(10_000)]
    values = [math.floor(t / 0.02) * (0 if math.floor(t / 0.02) % 7 in (2, 3) else 1) for t in times]
    assert updates(times, values).period_s == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize("late_s", [0.0, 0.003, 0.012])
@pytest.mark.parametrize("changing", [1.0, 0.6])
def test_the_period_is_found_though_readings_are_late_and_values_come_again(period_s, late_s, changing):
    """A machine that is busy reads late now and then; a sensor's own clock is a little irregular."""
    chance, t, seen = random.Random(5), 0.0, []
    for _ in range(300):
        t += period_s * chance.uniform(0.97, 1.03)
        if chance.random() < changing:
            seen.append(t + (chance.uniform(0, late_s) if chance.random() < 0.2 else 0.0))
    assert Updates(seen, seen).period_s == pytest.approx(period_s, rel=0.02)


def test_what_does_not_vary_with_the_load_has_no_window():
    flat = Updates([0.1 * k for k in range(100)], [70.0] * 100)
    chance = random.Random(0)
    noise = Updates(flat.t_s, [chance.gauss(70, 1) for _ in flat.t_s])
    waves = random_waves(10.0)
    assert averaging_window(flat, waves) is None
    assert averaging_window(noise, waves) is None
    assert averaging_window(noise, []) is None
    assert averaging_window(Updates([], []), waves) is None
    assert math.isnan(Updates([1.0], [2.0]).period_s)


def test_polling_is_compared_within_each_round():
    """Boards grow warm: the second round draws more, whatever the rate."""
    rounds = [{1.0: 400.0, 10.0: 400.0, 100.0: 100.0}, {1.0: 500.0, 10.0: 490.0, 100.0: 130.0}]
    found = disturbance(rounds)
    assert found[1.0] == (1.0, 0.0)
    assert found[10.0] == pytest.approx((0.99, 0.01))
    assert found[100.0] == pytest.approx((0.255, 0.005))
    assert math.isnan(disturbance(rounds[:1])[100.0].stderr)


@given(power_w=st.lists(st.floats(0, 1000), min_size=2, max_size=20), scale=st.floats(0.1, 10))
def test_the_integral_scales_with_power_and_time(power_w, scale):
    t_s = [0.1 * k for k in range(len(power_w))]
    scaled = integral_j([scale * t for t in t_s], [scale * w for w in power_w])
    assert scaled == pytest.approx(scale**2 * integral_j(t_s, power_w))


PROGRAM = """
import dataclasses, json, sys, time
import pynvml
from pathlib import Path
from benchmarks import gpu
from support.fake_nvml import FakeBoard, now_s

class FakeLoad:
    "The simulated board follows the clock by itself: a load is a line in its file."
    def start(self, kind, seconds):
        now = now_s()
        wave_s = 0.3713 if kind == "wave" else 0.0
        self.board = dataclasses.replace(BOARD, load_from_s=now, load_until_s=now + seconds, wave_s=wave_s, duty=0.4)
        state = Path({state!r})
        new = state.with_suffix(".new")
        new.write_text("driver 1.2\\n" + self.board.lines() + "\\n")
        new.replace(state)
        self.waves_ = [(now + k * 0.3713, now + (k + 0.4) * 0.3713) for k in range(int(seconds / 0.3713) + 1)]
        self.ends_s = now + seconds
    def waves(self):
        time.sleep(max(self.ends_s - now_s(), 0.0))
        return self.waves_

BOARD = FakeBoard(**{board!r})
gpu.SETTLE_S = 0.3
pynvml.nvmlInit()
meters = gpu.Meters.of(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
load = FakeLoad()
print(json.dumps(
    gpu.costs(meters, 20)
    | gpu.timing(meters, load, 2.4)
    | gpu.polling(meters, load, 0.4, 2, (5.0, 20.0, 200.0))
    | gpu.against_power(meters, load, 0.6)
))
"""

needs_binding = pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None, reason="NVIDIA's binding nvidia-ml-py is not installed"
)


@pytest.fixture
def library(tmp_path):
    try:
        return FakeNvml(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def run(library: FakeNvml, *command: str) -> str:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "src", ROOT / "tests")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")}
    done = subprocess.run(
        [sys.executable, *command],
        env=environment | library.environment | {"PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_binding
def test_the_whole_measurement_finds_what_the_simulated_board_does(library):
    board = {
        "idle_w": 100.0,
        "load_w": 600.0,
        "update_s": 0.02,
        "window_s": 0.006,
        "counter_window_s": 0.006,
        "average_s": 0.15,
        "memory_share": 0.2,
        "noise_w": 3.0,
        "disturbed_s": 0.02,
        "disturbed_share": 0.5,
    }
    library.set(FakeBoard(**board))
    figures = json.loads(run(library, "-c", PROGRAM.format(state=str(library.state), board=board)))
    for name in ("energy counter", "instant power", "average power", "memory power"):
        assert figures[f"{name}: update period (ms)"] == pytest.approx(20, rel=0.05)
        assert 0 < figures[f"{name}: a call, median (µs)"] < 1e4
    # To the precision of readings that a busy machine makes late; how precise the analysis is, is tested above.
    assert 0 < figures["instant power: averaging window (ms)"] < 20
    assert figures["average power: averaging window (ms)"] == pytest.approx(150, rel=0.1)
    assert figures["memory power: averaging window (ms)"] == pytest.approx(150, rel=0.1)
    assert figures["counter read at 20 Hz over 5 Hz"] == pytest.approx(1.0, abs=0.1)
    assert figures["counter read at 200 Hz over 5 Hz"] == pytest.approx(0.5, abs=0.1)
    assert figures["counter over integrated instant power"] == pytest.approx(1.0, abs=0.1)
    assert figures["memory power: mean under load (W)"] == pytest.approx(120, rel=0.05)
    assert "module power: mean under load (W)" not in figures


@needs_binding
def test_the_readings_are_stored_under_the_boards_name_and_driver(library, tmp_path):
    library.set(FakeBoard(name="NVIDIA H100 80GB HBM3", architecture=9), driver="550.54.15")
    out = run(library, "-m", "benchmarks.gpu", "--scale", "0.02", "--results", str(tmp_path / "results"))
    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("gpu-NVIDIA-H100-80GB-HBM3-550.54.15-20")
    stored = json.loads(file.read_text())
    assert (stored["board"], stored["driver"]) == ("NVIDIA H100 80GB HBM3", "550.54.15")
    assert stored["expected"]["period_s"] == 0.1
    assert stored["figures"]["energy counter: a call, median (µs)"] > 0
    assert "energy counter: a call, median" in out


@needs_binding
def test_without_a_board_it_says_so_and_is_content(library, tmp_path):
    library.set(init_error=9)
    assert run(library, "-m", "benchmarks.gpu", "--results", str(tmp_path / "results")).startswith("skipped: ")
    library.set()
    assert run(library, "-m", "benchmarks.gpu").startswith("skipped: no visible NVIDIA board")
    assert not (tmp_path / "results").exists()
