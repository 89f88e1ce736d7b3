"""A run of ten million samples and a hundred thousand steps: time and memory of its report, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ergometry.core.ports import Signal
from ergometry.core.series import LOSSES, STEPS
from ergometry.store.folders import create_run_folder, new_run_id, process_file
from ergometry.store.writer import Writer

SAMPLES = 10_000_000
STEP_ROWS = 100_000
BLOCK = 100_000


def write_run(store: Path) -> Path:
    """Write a run of four weeks at about 4 Hz: one counter."""
    folder = create_run_folder(store, new_run_id(time.time()))
    writer = Writer(process_file(folder, 1))
    signal = Signal(
        "node0/package0", "energy_j", "measured", "rapl package-0", wrap_j=262143.328850, max_power_w=2000.0
    )
    writer.declare_samples("rapl", [signal])
    period_s = 0.25
    duration_s = SAMPLES * period_s
    stream = np.random.default_rng(0)
    joules = 0.0
    for first in range(0, SAMPLES, BLOCK):
        power = 80 + 20 * stream.random(BLOCK)
        energy = joules + np.cumsum(power) * period_s
        joules = float(energy[-1])
        t = period_s * np.arange(first, first + BLOCK)
        for row in zip(t.tolist(), np.mod(energy, signal.wrap_j).tolist(), strict=True):
            writer.add_sample("rapl", row[0], row[1:])
        writer.commit(float(t[-1]))
    step_s = duration_s / STEP_ROWS
    for k in range(STEP_ROWS):
        t0 = k * step_s
        phases = (0.1 * step_s, 0.2 * step_s, 0.4 * step_s, 0.2 * step_s, 0.1 * step_s)
        writer.add_row(STEPS.name, STEPS.columns, (k, t0, t0 + step_s, *phases, 32.0, 4096.0, 1.0, 1e12, 1.0, 0.0))
        writer.add_row(LOSSES.name, LOSSES.columns, (k, t0 + step_s, 2.0 + 3.0 * np.exp(-k / 2e4)))
    for key, value in {"id": folder.name, "command": ["train.py"], "started": "2026-01-01T00:00:00Z"}.items():
        writer.put_meta(key, value)
    writer.finish("completed", 0, duration_s)
    return folder


def main() -> None:
    """Print seconds and peak memory of each format."""
    with tempfile.TemporaryDirectory() as store:
        folder = write_run(Path(store))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{SAMPLES:,} samples and {STEP_ROWS:,} steps in {size / 1e6:.0f} MB; target: 3 s and 500 MB a report")
        for form in ("json", "text", "html"):
            command = [sys.executable, "-c", _CHILD, str(folder), form]
            began = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            took = time.perf_counter() - began
            print(f"{form:<9}{took:6.2f} s{float(done.stdout) / 1e6:8.0f} MB peak")


# Not getrusage: its peak is inherited from whoever started the process.
_CHILD = """
import sys
from pathlib import Path
from ergometry.store.reader import load
from ergometry.report import render
assert len(render(load(Path(sys.argv[1])), sys.argv[2])) > 1000
print(1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]))
"""

if __name__ == "__main__":
    main()
