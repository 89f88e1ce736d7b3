"""What sampling costs: the recorder's share of a core, with the machine's sources and with one that has a thread."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from ergometry.meter import client as client_module
from ergometry.meter import shared
from ergometry.meter.client import RecorderClient
from ergometry.sensors import SELECTION, open_sensors

SECONDS = 20.0

THREAD = "from ergometry.sensors.simulated import SimulatedSensor; SimulatedSensor.may_block = True; "
"""Makes the recorder give the simulated board a thread of its own, as one whose driver may block has."""


def recorder_share(sampling_hz: float) -> float:
    """Return the recorder's share of one core, all its threads together, over :data:`SECONDS`."""
    with tempfile.TemporaryDirectory() as folder:
        client = RecorderClient.start(Path(folder), sampling_hz=sampling_hz)
        tasks = Path(f"/proc/{client.memory.word(shared.RECORDER_PID)}/task")

        def cpu_s() -> float:
            return sum(int(stat.read_text().split()[0]) for stat in tasks.glob("*/schedstat")) / 1e9

        time.sleep(1.0)  # starting is another figure
        before = cpu_s()
        time.sleep(SECONDS)
        share = (cpu_s() - before) / SECONDS
        client.finish("completed", 0)
    return share


def main() -> None:
    """Print the figures."""
    opened, _ = open_sensors()
    names = [source.sensor.source for source in opened]
    for source in opened:
        source.sensor.close()
    boot = client_module._BOOT
    for what, selection in (("this machine's", names), ("and a simulated board, in a thread", [*names, "simulated"])):
        os.environ[SELECTION] = ",".join(selection)
        client_module._BOOT = boot.replace("from ergometry.meter.recorder", THREAD + "from ergometry.meter.recorder")
        for hertz, target in ((1.0, 0.1), (10.0, 0.5)):
            share = recorder_share(hertz)
            print(
                f"recorder at {hertz:>2.0f} Hz: {100 * share:.3f} % of one core (target {target} %), "
                f"{os.cpu_count()} cores; sources: {what} ({', '.join(selection)})"
            )
    del os.environ[SELECTION]
    client_module._BOOT = boot


if __name__ == "__main__":
    main()
