"""Power sources that fail under ``erg run``: the script does not notice, and the run says what it missed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from end_to_end.running import TIMEOUT_S, Runner
from end_to_end.warm import Warm
from ergometry.core.run import Run
from ergometry.store.reader import load
from ergometry.work.attribution import accounts
from support.fake_nvml import NEVER_S, FakeBoard, FakeNvml

RAPL = "rapl,cpu_model,memory_model"

#: Keeps a counter of 10 W in the files that it is given, and does to them what it is told.
METER = """
import os, sys, time
from pathlib import Path

zones = [Path(name) for name in sys.argv[1:]]
began_s = time.monotonic()

def seconds():
    return time.monotonic() - began_s

def put(zone, joules):
    # In one write, as the kernel answers a read: never half a number.
    fd = os.open(zone / "energy_uj", os.O_WRONLY | os.O_CREAT, 0o644)
    os.pwrite(fd, b"%016d" % round(1e6 * joules), 0)
    os.close(fd)

def meter(until_s, zones=zones, start_j=1000.0):
    while seconds() < until_s:
        for zone in zones:
            put(zone, start_j + 10.0 * seconds())
        time.sleep(0.02)

"""


class Machine:
    """A machine's sysfs of our own, with RAPL's zones in it."""

    def __init__(self, folder: Path, packages: int = 1) -> None:
        self.sysfs = folder / "sys"
        self.zones = [self.sysfs / f"class/powercap/intel-rapl:{i}" for i in range(packages)]
        for i, zone in enumerate(self.zones):
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"package-{i}\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
            # Far apart: two packages that count alike would be one that is shown twice.
            (zone / "energy_uj").write_text(f"{(1000 + 5000 * i) * 10**6:016d}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Begun:
    """A script that is being measured, ten times a second."""

    def __init__(self, runner: Runner, code: str, *words: object, sensors: str = RAPL, **env: object) -> None:
        (runner.folder / "script.py").write_text(METER + code + "\nprint('done', round(seconds(), 1))\n")
        self.runner = runner
        variables = [f"{name}={value}" for name, value in {"ERGOMETRY_SENSORS": sensors, **env}.items()]
        options = ["--sampling-hz", "10"]
        self.process = runner.start("script.py", *words, options=options, under=["env", *variables])

    def run(self) -> tuple[Run, float]:
        """Wait for its end; return the run, and how many seconds the script says that it took."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        assert (self.process.returncode, err) == (0, "")
        done, seconds = out.split()
        assert done == "done"
        (folder,) = self.runner.store.iterdir()
        run = load(folder)
        assert run.status == "completed"
        assert run.duration_s < float(seconds) + 8.0, "the recorder did not finish promptly"
        return run, float(seconds)


def measured(runner: Runner, code: str, *words: object, **more: Any) -> tuple[Run, float]:
    return Begun(runner, code, *words, **more).run()


def codes(run: Run) -> list[str]:
    return [notice.code for notice in run.notices]


def details(run: Run, code: str) -> list[str]:
    return [notice.detail for notice in run.notices if notice.code == code]


def readings(run: Run, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and values of a source's first signal."""
    (samples,) = [samples for samples in run.samples if samples.source == source]
    return samples.table["t_s"], samples.table["c0"]


def joules(run: Run) -> float:
    value = accounts(run).total.value
    assert value is not None
    return value


def test_a_zone_that_vanishes_for_good_leaves_a_run_that_says_so(runner: Runner, machine: Machine) -> None:
    code = """
meter(1.0)
os.truncate(zones[0] / "energy_uj", 0)
os.unlink(zones[0] / "energy_uj")
time.sleep(1.5)
"""
    run, _ = measured(runner, code, *machine.zones, ERGOMETRY_SYSFS=machine.sysfs)
    assert codes(run) == ["sensor.failed"]
    _, counter_j = readings(run, "rapl")
    gone = np.isnan(counter_j)
    assert gone[-1] and not gone[0]
    assert gone[gone.argmax() :].all()
    books = accounts(run).by_domain["node0/package0"]
    assert books.known
    assert books.stderr is not None
    assert books.stderr > 1.0, "what it missed has a wide error"


def test_of_two_packages_one_may_be_unreadable(runner: Runner, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "two", packages=2)
    energy = machine.zones[1] / "energy_uj"
    energy.unlink()
    energy.mkdir()  # unreadable for root as well, as these tests may be run by
    run, _ = measured(runner, "meter(1.5)", machine.zones[0], ERGOMETRY_SYSFS=machine.sysfs)
    assert codes(run) == ["sensor.unreadable"]
    (detail,) = details(run, "sensor.unreadable")
    assert str(energy) in detail
    assert "package-1" in detail
    _, counter_j = readings(run, "rapl")
    assert np.isfinite(counter_j).all()
    assert joules(run) > 10.0


def test_a_counter_that_starts_again_at_zero_adds_nothing(runner: Runner, machine: Machine) -> None:
    code = "meter(1.5)\nmeter(3.0, start_j=-10.0)"
    run, seconds = measured(runner, code, *machine.zones, ERGOMETRY_SYSFS=machine.sysfs)
    _, counter_j = readings(run, "rapl")
    assert counter_j.min() < 100 < counter_j.max()
    used = accounts(run).by_domain["node0/package0"].value
    # The whole run's, what passed before the first reading and after the last included.
    assert 0.75 * 10.0 * seconds < used < 1.25 * 10.0 * run.duration_s, "and not the kilojoule that it fell by"
    assert codes(run) == []


@pytest.mark.parametrize("tree", ["none", "empty", "somebody else's"])
def test_without_a_sysfs_to_read_the_joules_are_modelled_and_it_is_said_once(
    runner: Runner, machine: Machine, tree: str
) -> None:
    if tree == "none":
        shutil.rmtree(machine.sysfs)
    elif tree == "empty":
        shutil.rmtree(machine.sysfs / "class")
    else:  # of a machine of another make, with what looks like ours
        shutil.rmtree(machine.zones[0])
        for name, text in {
            "energy_uj": "none of your business",
            "name": "package-0",
            "max_energy_range_uj": "?",
        }.items():
            file = machine.sysfs / f"class/powercap/intel-rapl:0/{name}"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        (machine.sysfs / "class/hwmon").write_text("a file where a folder should be")
    run, _ = measured(runner, "meter(0.8)", ERGOMETRY_SYSFS=machine.sysfs, sensors="")
    assert codes(run).count("sensor.absent") == 1
    assert "rapl: " in details(run, "sensor.absent")[0]
    assert {samples.source for samples in run.samples} >= {"cpu_model"}
    assert joules(run) > 0
    assert accounts(run).total.provenance == "modelled"


# A real driver's library behind the real binding, made here

NVML = "nvml,cpu_model"

# An open file that was removed can still be read here, as one of sysfs cannot: so it is emptied first. Whether it is
# back when it is opened anew depends on who is faster; ten seconds later it is.
VANISH = """
zone, = zones
meter(1.2)
os.truncate(zone / "energy_uj", 0)
os.unlink(zone / "energy_uj")
time.sleep(0.25)
meter(13.5)
"""

#: The script puts the machine into another state by itself, so that no state begins before it does.
BECOME = """
def become(state):
    Path(state + ".new").write_text(Path(state).read_text())
    os.replace(state + ".new", os.environ["FAKE_NVML_STATE"])

"""

HANG = "time.sleep(1.5)\nbecome('hung')\ntime.sleep(7.5)"
# A board is opened anew at once, in vain, and again ten seconds later.
COME_BACK = "time.sleep(1.0)\nbecome('lost')\ntime.sleep(1.5)\nbecome('found')\ntime.sleep(10.5)"


def library(folder: Path) -> FakeNvml:
    pytest.importorskip("pynvml")
    driver = folder / "driver"
    driver.mkdir()
    try:
        return FakeNvml(driver)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Iterator[dict[str, Begun]]:
    """The scripts that wait for long, begun together."""
    runner = Runner(tmp_path_factory.mktemp("faults"), warm)
    machine = Machine(runner.folder)
    found = {"vanish": Begun(runner, VANISH, *machine.zones, ERGOMETRY_SYSFS=machine.sysfs)}
    for name, code in (("hang", HANG), ("come back", COME_BACK)):
        runner = Runner(tmp_path_factory.mktemp("faults"), warm)
        nvml, board = library(runner.folder), FakeBoard()
        nvml.set(board)
        states = {
            "hung": replace(board, hang_from_s=1.0, hang_until_s=NEVER_S),
            "lost": replace(board, lost_from_s=1.0, lost_until_s=NEVER_S),
            "found": board,
        }
        for state, then in states.items():
            (runner.folder / state).write_text(nvml.text(then))
        found[name] = Begun(runner, BECOME + code, sensors=NVML, **nvml.environment)
    yield found
    for begun in found.values():
        begun.process.kill()
        begun.process.communicate()


def test_a_driver_that_hangs_from_the_start_does_not_keep_the_script_waiting(
    runner: Runner, waiting: dict[str, Begun]
) -> None:
    del waiting  # begun meanwhile
    nvml = library(runner.folder)
    nvml.set(FakeBoard(hang_from_s=1.0, hang_until_s=NEVER_S))
    run, seconds = measured(runner, "time.sleep(1)", sensors=NVML, **nvml.environment)
    assert "sensor.hung" in codes(run)
    assert run.duration_s < seconds + 5.0


def test_a_driver_that_hangs_for_ever_holds_up_nothing(waiting: dict[str, Begun]) -> None:
    run, seconds = waiting["hang"].run()
    assert codes(run) == ["sensor.hung"]
    assert details(run, "sensor.hung") == ["nvml"]
    t_s, counter_j = readings(run, "nvml")
    assert np.isfinite(counter_j).any()
    assert np.isnan(counter_j[-1]), "the gap is marked"
    times, _ = readings(run, "cpu_model")
    hanging = times[times > t_s[np.isfinite(counter_j)][-1]]
    assert np.median(np.diff(hanging)) < 0.5, "the others are read on time"
    assert hanging[-1] - hanging[0] > 5.0
    assert run.duration_s >= seconds >= 9.0
    assert run.dropped == 0


def test_a_zone_that_vanishes_and_comes_back_is_bridged(waiting: dict[str, Begun]) -> None:
    run, seconds = waiting["vanish"].run()
    assert codes(run) == ["sensor.failed", "sensor.back"]
    assert set(details(run, "sensor.failed") + details(run, "sensor.back")) == {"rapl"}
    t_s, counter_j = readings(run, "rapl")
    gone = np.isnan(counter_j)
    assert gone.any() and not gone[0] and not gone[-1]
    # From both sides: between these two are the interpreter's start and end, when the counter stands.
    counted_j = counter_j[-1] - counter_j[0]
    assert 0.85 * 10.0 * seconds < counted_j < 1.05 * 10.0 * (t_s[-1] - t_s[0])
    total = accounts(run).by_domain["node0/package0"].value
    assert 0.95 * counted_j < total < 1.15 * 10.0 * run.duration_s


def test_a_board_that_falls_off_the_bus_and_comes_back_is_bridged(waiting: dict[str, Begun]) -> None:
    run, _ = waiting["come back"].run()
    assert codes(run) == ["sensor.failed", "sensor.back"]
    _, counter_j = readings(run, "nvml")
    gone = np.isnan(counter_j)
    assert gone.any() and not gone[0] and not gone[-1]
    used = accounts(run).by_domain["node0/gpu0"].value
    assert used == pytest.approx(100.0 * run.duration_s, rel=0.15)
