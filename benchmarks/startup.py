"""Start-up: `import ergometry`, `erg --help`, and what `erg run` adds to an empty script, in whole processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15


def seconds(command: list[str]) -> float:
    """Return the wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print medians over interleaved runs."""
    erg = str(Path(sys.executable).with_name("erg"))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "empty.py"
        script.write_text("")
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import ergometry": [sys.executable, "-c", "import ergometry"],
            "erg --help": [erg, "--help"],
            "python empty.py": [sys.executable, str(script)],
            "erg run -q empty.py": [erg, "run", "-q", "--store", folder, str(script)],
            "erg run empty.py": [erg, "run", "--store", folder, str(script)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS + 1):
            for name, command in commands.items():
                times[name].append(seconds(command))
    targets = {"import ergometry": "0.10 s", "erg --help": "0.25 s"}
    print(f"{'process':<22}{'median':>9}{'least':>9}{'most':>9}   target (medians of {RUNS} interleaved runs)")
    for name, measured in times.items():
        kept = measured[1:]
        row = "".join(f"{1e3 * f(kept):>6.0f} ms" for f in (statistics.median, min, max))
        print(f"{name:<22}{row}   {targets.get(name, '')}")


if __name__ == "__main__":
    main()
