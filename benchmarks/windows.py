"""A window of `erg.measure`: what begin and end cost the caller; and what the recorder costs the machine."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import ergometry as erg
from ergometry.meter import shared
from ergometry.meter.client import RecorderClient

WINDOWS = 5000
SECONDS = 20.0


def window_s() -> list[float]:
    """Return the seconds of each of many empty windows."""
    window = erg.measure("empty")
    times = []
    for _ in range(WINDOWS):
        began = time.perf_counter()
        with window:
            pass
        times.append(time.perf_counter() - began)
    return times


def recorder_share(sampling_hz: float) -> tuple[float, float]:
    """Return the recorder's share of one core over some seconds, and its start-up seconds."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        client = RecorderClient.start(Path(folder), sampling_hz=sampling_hz)
        start_s = time.perf_counter() - began
        stat = Path(f"/proc/{client.memory.word(shared.RECORDER_PID)}/schedstat")

        def cpu_s() -> float:
            return int(stat.read_text().split()[0]) / 1e9

        before = cpu_s()
        time.sleep(SECONDS)
        share = (cpu_s() - before) / SECONDS
        client.finish("completed", 0)
    return share, start_s


def main() -> None:
    """Print the figures."""
    times = sorted(window_s())
    print(f"window begin+end: median {1e6 * statistics.median(times):.1f} µs, ", end="")
    print(f"99th percentile {1e6 * times[int(0.99 * WINDOWS)]:.1f} µs (target 20 µs), {WINDOWS} windows")
    for hertz, target in ((1.0, 0.1), (10.0, 0.5)):
        share, start_s = recorder_share(hertz)
        print(
            f"recorder at {hertz:>2.0f} Hz: {100 * share:.2f} % of one core (target {target} %), "
            f"{os.cpu_count()} cores, started in {1e3 * start_s:.0f} ms"
        )


if __name__ == "__main__":
    main()
