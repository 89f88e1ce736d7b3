"""An NVIDIA board's own sensor, measured: periods, windows, what polling does, counter against power, cost of calls.

Prints a table and stores the readings under benchmarks/results/, named with the board, its driver and the date.
Without a board it says so. Needs only Python, nvidia-ml-py, this source tree, and for a load torch with CUDA::

    PYTHONPATH=src python3 -m benchmarks.gpu
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gpu_timing import Waves, averaging_window, disturbance, integral_j, mean_power, updates
from ergometry.sensors.nvml_boards import SensorClass, ask, classify, text, visible_boards
from ergometry.sensors.nvml_health import field as nvml_field

RESULTS = Path(__file__).parent / "results"
POLL_S = 2e-3
SETTLE_S = 2.0
"""After a steady load has begun, until the slowest mean has forgotten the time before."""

RATES_HZ = (1.0, 10.0, 100.0)
INSTANT, AVERAGE = "NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE"
MARGIN_S = 0.5
"""A load lasts longer than it is read by this, as reading may be late."""

MEMORY, MODULE = 2, 1

Call = Callable[[], float | None]


class Load(Protocol):
    """Keeps the board busy; ``start`` returns at once, ``waves`` when it is done, with when the board was busy."""

    def start(self, kind: str, seconds: float) -> None:
        """Begin a load: ``wave`` (on and off) or ``steady``."""
        ...

    def waves(self) -> Waves:
        """Wait for the load's end and return the (on, off) times."""
        ...


class TorchLoad:
    """Matrix products in a process of its own, so that the poller has its interpreter for itself."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        if self._line() != "ready":
            raise RuntimeError("the load did not start")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, kind: str, seconds: float) -> None:
        """Begin a load."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {seconds}\n")
        self._process.stdin.flush()

    def waves(self) -> Waves:
        """Wait for the load's end."""
        return [(on, off) for on, off in json.loads(self._line())]

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


@dataclass
class Meters:
    """The ways to ask a board: its calls by name, J, W or what they are; those that it supports."""

    calls: dict[str, Call]

    @classmethod
    def of(cls, nvml: Any, handle: Any) -> Meters:
        """Return the calls that answer."""

        def scaled(value: float | None) -> float | None:
            return None if value is None else value / 1e3

        calls: dict[str, Call] = {
            "energy counter": lambda: scaled(ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)),
            "instant power": lambda: scaled(nvml_field(nvml, handle, INSTANT)),
            "average power": lambda: scaled(nvml_field(nvml, handle, AVERAGE)),
            "power usage": lambda: scaled(ask(nvml, "nvmlDeviceGetPowerUsage", handle)),
            "memory power": lambda: scaled(nvml_field(nvml, handle, AVERAGE, MEMORY)),
            "module power": lambda: scaled(nvml_field(nvml, handle, AVERAGE, MODULE)),
        }
        return cls({name: call for name, call in calls.items() if call()})

    def poll(self, names: Sequence[str], seconds: float, every_s: float) -> dict[str, tuple[list[float], list[float]]]:
        """Read for so long, all of the names in turn; return times (the middle of each call) and values."""
        read: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
        next_s = time.monotonic()
        end_s = next_s + seconds
        while next_s < end_s:
            time.sleep(max(next_s - time.monotonic(), 0.0))
            for name in names:
                before_s = time.monotonic()
                value = self.calls[name]()
                if value is not None:
                    read[name][0].append((before_s + time.monotonic()) / 2)
                    read[name][1].append(value)
            next_s = max(next_s + every_s, time.monotonic())
        return read


@dataclass
class Findings:
    """What was measured, as it is stored: figures by name, and remarks."""

    board: str
    driver: str
    kind: SensorClass
    load: str
    figures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "board": self.board,
            "driver": self.driver,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "load": self.load,
            "expected": self.kind._asdict(),
            "figures": {name: None if math.isnan(x) else round(x, 6) for name, x in self.figures.items()},
        }

    def print(self) -> None:
        """Print the table."""
        print(f"{self.board}, driver {self.driver}; load: {self.load}")
        print(
            f"taken to be: {self.kind.name}, an update every {1e3 * self.kind.period_s:.0f} ms"
            f" of which {1e3 * self.kind.window_s:.0f} ms are seen\n"
        )
        for name, x in self.figures.items():
            print(f"{name:<52}{x:>14.6g}")


def measure(nvml: Any, handle: Any, load: Load | None, scale: float = 1.0) -> dict[str, float]:
    """Return every figure of a board, by name with its unit.

    Args:
        nvml: the ``pynvml`` module, started.
        handle: the board.
        load: what keeps it busy; None where nothing can: what needs a load is then left out.
        scale: of the times taken; 1 is two and a half minutes.
    """
    meters = Meters.of(nvml, handle)
    figures = costs(meters, round(200 * scale))
    figures |= timing(meters, load, 20.0 * scale)
    if load is not None and "energy counter" in meters.calls:
        figures |= polling(meters, load, 10.0 * scale, rounds=2)
        figures |= against_power(meters, load, 60.0 * scale)
    return figures


def costs(meters: Meters, times: int) -> dict[str, float]:
    """Return what each call costs, µs."""
    figures = {}
    for name, call in meters.calls.items():
        took_s = []
        for _ in range(max(times, 5)):
            before_s = time.perf_counter()
            call()
            took_s.append(time.perf_counter() - before_s)
        figures[f"{name}: a call, median (µs)"] = 1e6 * statistics.median(took_s)
        figures[f"{name}: a call, 95th percentile (µs)"] = 1e6 * sorted(took_s)[int(0.95 * len(took_s))]
    return figures


def timing(meters: Meters, load: Load | None, seconds: float) -> dict[str, float]:
    """Return how often each value is brought up to date, and the averaging window behind it, from fast polling."""
    if load is not None:
        load.start("wave", seconds)
    read = meters.poll(list(meters.calls), seconds, POLL_S)
    waves = [] if load is None else load.waves()
    figures = {}
    for name, (t_s, values) in read.items():
        seen = updates(t_s, values)
        figures[f"{name}: update period (ms)"] = 1e3 * seen.period_s
        if name == "energy counter":
            seen = mean_power(seen)
            figures["energy counter: step, median (J)"] = statistics.median(
                [b - a for a, b in itertools.pairwise(values) if b != a] or [math.nan]
            )
        found = averaging_window(seen, waves)
        if found is not None:
            figures[f"{name}: averaging window (ms)"] = 1e3 * found.window_s
            figures[f"{name}: lateness (ms)"] = 1e3 * found.delay_s
            figures[f"{name}: share of variance explained"] = found.r2
    return figures


def polling(
    meters: Meters, load: Load, seconds: float, rounds: int, rates_hz: Sequence[float] = RATES_HZ
) -> dict[str, float]:
    """Return the counter's mean power when read at each rate, over that at the slowest."""
    read = []
    blocks_s = sum(seconds + 1.0 / rate for rate in rates_hz)
    load.start("steady", SETTLE_S + blocks_s * rounds + MARGIN_S)
    time.sleep(SETTLE_S)
    for _ in range(rounds):
        means = {}
        for rate in rates_hz:
            t_s, values = meters.poll(["energy counter"], seconds + 0.5 / rate, 1.0 / rate)["energy counter"]
            means[rate] = (values[-1] - values[0]) / (t_s[-1] - t_s[0])
        read.append(means)
    load.waves()
    figures = {}
    for rate, (ratio, stderr) in disturbance(read).items():
        figures[f"counter read at {rate:g} Hz over {min(rates_hz):g} Hz"] = ratio
        figures[f"counter read at {rate:g} Hz, standard error"] = stderr
    return figures


def against_power(meters: Meters, load: Load, seconds: float) -> dict[str, float]:
    """Return the counter's energy under a steady load over the integral of each power read beside it at 10 Hz."""
    load.start("steady", SETTLE_S + seconds + MARGIN_S)
    time.sleep(SETTLE_S)
    read = meters.poll(list(meters.calls), seconds, 0.1)
    load.waves()
    t_s, counter = read.pop("energy counter")
    energy_j = counter[-1] - counter[0]
    figures = {"energy under load, counter (J)": energy_j, "time under load (s)": t_s[-1] - t_s[0]}
    for name, (times, power_w) in read.items():
        if not power_w:
            continue
        figures[f"{name}: mean under load (W)"] = statistics.fmean(power_w)
        if name not in ("memory power", "module power"):
            lasted = (t_s[-1] - t_s[0]) / (times[-1] - times[0])
            figures[f"counter over integrated {name}"] = energy_j / (lasted * integral_j(times, power_w))
    return figures


def find_board(nvml: Any) -> tuple[Any, str, SensorClass] | str:
    """Return the first visible board's handle, name and class, or why there is none."""
    try:
        nvml.nvmlInit()
        boards = visible_boards(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
        if not boards:
            return "no visible NVIDIA board"
        handle = nvml.nvmlDeviceGetHandleByIndex(boards[0].number)
        name = text(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError as error:
        return f"no NVIDIA board: {error}"
    return handle, name, classify(name, ask(nvml, "nvmlDeviceGetArchitecture", handle))


def torch_load() -> tuple[TorchLoad | None, str]:
    """Return a load, or None, and how to speak of it."""
    try:
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            return None, "none: torch has no CUDA here"
        return TorchLoad(), f"fp16 matrix products, torch {torch.__version__}"
    except (ImportError, RuntimeError) as error:
        return None, f"none: {error}"


def main(argv: list[str] | None = None) -> int:
    """Measure the first visible board, print the table and store the readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the times taken (1: two and a half minutes)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON file")
    options = parser.parse_args(argv)
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        print("skipped: NVIDIA's binding nvidia-ml-py is not installed")
        return 0
    found = find_board(nvml)
    if isinstance(found, str):
        print(f"skipped: {found}")
        return 0
    handle, name, kind = found
    load, words = torch_load()
    findings = Findings(name, text(nvml.nvmlSystemGetDriverVersion()), kind, words)
    try:
        findings.figures = measure(nvml, handle, load, options.scale)
    finally:
        if load is not None:
            load.close()
    findings.print()
    options.results.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"gpu {name} {findings.driver} {datetime.now(UTC):%Y-%m-%d}")
    file = options.results / f"{stem}.json"
    file.write_text(json.dumps(findings.to_json(), indent=1, ensure_ascii=False) + "\n")
    print(f"\nstored in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
