"""A shared library with NVML's C interface, compiled here, and the boards behind it: known truth for the real binding.

A program that is started with :meth:`FakeNvml.environment` loads ``libnvidia-ml.so.1`` from here through
``pynvml``. Its boards follow the clock by themselves; :meth:`FakeNvml.set` changes them while it runs.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")
NEVER_S = 1e15


def now_s() -> float:
    """Return the time that the library goes by, s."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class FakeBoard:
    """A board: by default a quick one with a counter that sees everything every 20 ms, and one hundred watts."""

    name: str = "Tesla V100-SXM2-16GB"
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    architecture: int = 5
    # What it answers: its counter; NVML's fields at all, and of them present power; nvmlDeviceGetPowerUsage
    counter: bool = True
    power_field: bool = True
    instant: bool = True
    usage: bool = True
    average_s: float = 1.0
    # The truth
    idle_w: float = 100.0
    load_w: float = 100.0
    load_from_s: float = 0.0
    load_until_s: float = NEVER_S
    wave_s: float = 0.0
    duty: float = 0.5
    # The sensor
    epoch_s: float = field(default_factory=now_s)
    update_s: float = 0.02
    window_s: float = 0.02
    counter_window_s: float = 0.0
    gain: float = 1.0
    noise_w: float = 0.0
    start_j: float = 5000.0
    disturbed_s: float = 0.0
    disturbed_share: float = 0.0
    # Scopes
    memory_share: float = 0.0
    module_w: float = 0.0
    ignores_scope: bool = False
    # State; below 0: not supported
    limit_w: float = 300.0
    clock_mhz: float = 1200.0
    max_clock_mhz: float = 1500.0
    memory_clock_mhz: float = 900.0
    temperature_c: float = 60.0
    utilisation: float = 50.0
    memory_utilisation: float = 25.0
    reasons: int = 0
    pcie_tx_kb: float = 1000.0
    pcie_rx_kb: float = 2000.0
    link_tx_kib: float = 0.0
    link_rx_kib: float = 0.0
    # Faults
    lost_from_s: float = 0.0
    lost_until_s: float = 0.0
    restarts: bool = False
    hang_from_s: float = 0.0
    hang_until_s: float = 0.0
    # (pid, percent), and (uuid, gpu instance, compute instance, slices)
    processes: tuple[tuple[int, int], ...] = ()
    mig: int = -1
    instances: tuple[tuple[str, int, int, int], ...] = ()

    def energy_j(self, t0_s: float, t1_s: float) -> float:
        """Return the true energy between two times, J: the integral of the power, wave by wave."""
        energy_j = self.idle_w * (t1_s - t0_s)
        wave_s, duty = (self.wave_s, self.duty) if self.wave_s else (self.load_until_s - self.load_from_s, 1.0)
        wave = max(math.floor((t0_s - self.load_from_s) / wave_s), 0)
        while (began_s := self.load_from_s + wave * wave_s) < min(t1_s, self.load_until_s):
            ended_s = min(began_s + duty * wave_s, self.load_until_s, t1_s)
            energy_j += (self.load_w - self.idle_w) * max(ended_s - max(began_s, t0_s), 0.0)
            wave += 1
        return energy_j

    def lines(self) -> str:
        """Return the board as the library reads it."""
        lines = ["board"]
        for column in fields(self):
            value = getattr(self, column.name)
            if column.name in ("processes", "instances"):
                word = {"processes": "process", "instances": "instance"}[column.name]
                lines += [f"{word} {' '.join(map(str, part))}" for part in value]
            else:
                lines.append(f"{column.name} {value if isinstance(value, str) else repr(float(value))}")
        return "\n".join(lines)


class FakeNvml:
    """The library, compiled into a folder, and the file that holds its boards.

    Raises:
        FileNotFoundError: this machine has no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise FileNotFoundError("no C compiler (cc, gcc or clang) to make the library of")
        self.folder, self.state = folder, folder / "boards"
        flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
        subprocess.run(
            [compiler, *flags, "-o", folder / "libnvidia-ml.so.1", SOURCE, "-lm", "-lpthread"],
            check=True,
            capture_output=True,
        )

    def set(self, *boards: FakeBoard, init_error: int = 0, driver: str = "550.54.15") -> None:
        """Put these boards in the machine; ``init_error`` is what starting NVML answers."""
        new = self.state.with_suffix(".new")
        new.write_text(self.text(*boards, init_error=init_error, driver=driver))
        new.replace(self.state)

    @staticmethod
    def text(*boards: FakeBoard, init_error: int = 0, driver: str = "550.54.15") -> str:
        """Return what the file says of a machine with these boards."""
        head = f"driver {driver}\ninit_error {init_error}"
        return "\n".join([head, *(board.lines() for board in boards)]) + "\n"

    @property
    def environment(self) -> dict[str, str]:
        """Return what a program's environment needs, to meet this library."""
        paths = [str(self.folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"LD_LIBRARY_PATH": ":".join(paths), "FAKE_NVML_STATE": str(self.state)}
