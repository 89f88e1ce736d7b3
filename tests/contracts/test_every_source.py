"""The contract of a power source, held over every one there is (:mod:`ergometry.core.ports`)."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ergometry.core.domain import Domain, assert_disjoint, cover
from ergometry.core.estimate import Provenance
from ergometry.core.ports import Machine, OpenSource, Sensor, Signal
from ergometry.core.series import HEALTH
from ergometry.sensors import MODELS, NAMED, SOURCES, open_one, open_sensors, tree
from support.machines import SUBJECTS, Subject
from support.stored import ordinary_user

REGISTERED = {**SOURCES, **NAMED, **{name: opener for name, (opener, _) in MODELS.items()}}

MAX_J, MAX_W = 1e9, 1e5
"""No counter of a test's machine stands higher, and no machine draws more."""

every_source = pytest.mark.parametrize("subject", SUBJECTS, ids=str)


def left_behind() -> tuple[int, set[int], list[str]]:
    """Return the open descriptors, the threads and the children of this process."""
    children: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            children += (task / "children").read_text(errors="replace").split()
    return len(os.listdir("/proc/self/fd")), {thread.native_id or 0 for thread in threading.enumerate()}, children


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    before = left_behind()
    yield
    assert left_behind() == before


def opened(subject: Subject, root: Path, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    built = subject.build(root, monkeypatch)
    sensor, availability = built.open(built.machine)
    assert sensor is not None, availability
    assert availability.present
    assert availability.source == subject.registered
    return sensor


def check_readings(sensor: Sensor, values: tuple[float, ...]) -> None:
    assert isinstance(values, tuple)
    assert len(values) == len(sensor.signals)
    for signal, value in zip(sensor.signals, values, strict=True):
        assert isinstance(value, float)
        if not math.isnan(value):
            assert 0.0 <= value <= (MAX_J if signal.quantity == "energy_j" else MAX_W), signal
            if signal.wrap_j is not None:
                assert value <= signal.wrap_j
            if signal.quantity == "power_w" and signal.max_power_w is not None:
                assert value <= signal.max_power_w


def test_every_source_is_under_this_contract():
    assert {subject.registered for subject in SUBJECTS} == set(REGISTERED)


@every_source
def test_readings_are_one_si_value_per_signal(subject, tmp_path, monkeypatch):
    sensor = opened(subject, tmp_path, monkeypatch)
    first = sensor.read(0.0)
    assert any(math.isfinite(value) for value in first)
    check_readings(sensor, first)
    for now_s in (1e-4, 0.5, 1.0, 2.0):
        values = sensor.read(now_s)
        check_readings(sensor, values)
        for signal, earlier, later in zip(sensor.signals, first, values, strict=True):
            if signal.quantity == "energy_j" and signal.wrap_j is None:
                assert not later < earlier
        first = values
    sensor.close()


@every_source
def test_signals_say_what_they_meter_and_how_well(subject, tmp_path, monkeypatch):
    sensor = opened(subject, tmp_path, monkeypatch)
    assert sensor.signals
    assert sensor.source == subject.registered
    assert len({signal.domain for signal in sensor.signals}) == len(sensor.signals)
    for signal in sensor.signals:
        assert re.fullmatch(r"node0(/[a-z][a-z0-9_-]*)*", signal.domain)
        assert signal.quantity in ("energy_j", "power_w")
        assert Provenance(signal.provenance) in Provenance
        assert signal.method
        errors = (
            signal.resolution_j,
            signal.resolution_w,
            signal.update_period_s,
            signal.averaging_s,
            signal.rel_stderr,
            signal.static_rel_stderr or 0.0,
            signal.static_w or 0.0,
        )
        assert all(0.0 <= x < math.inf for x in errors), signal
        assert signal.wrap_j is None or 0.0 < signal.wrap_j < math.inf
        assert signal.max_power_w is None or 0.0 < signal.max_power_w < math.inf
        assert signal.gain > 0.0
        assert re.fullmatch(r"|mps|cuda:\d+", signal.device)
        assert signal.rel_stderr > 0.0 or signal.provenance in ("measured", "assumed"), "a model without an error"
        assert Signal.from_json(json.loads(json.dumps(signal.to_json()))) == signal
    assert_disjoint(cover({Domain(signal.domain): signal for signal in sensor.signals}))
    sensor.close()


@every_source
def test_how_it_may_be_read_is_stated(subject, tmp_path, monkeypatch):
    sensor = opened(subject, tmp_path, monkeypatch)
    assert 0.0 <= sensor.min_period_s <= 60.0
    assert isinstance(sensor.may_block, bool)
    sensor.close()


@every_source
def test_health_rows_fit_their_table_and_their_boards(subject, tmp_path, monkeypatch):
    sensor = opened(subject, tmp_path, monkeypatch)
    numbers = {int(match[1]) for signal in sensor.signals if (match := re.search(r"/gpu(\d+)", signal.domain))}
    for row in sensor.health():
        known = dict(zip(HEALTH.columns[1:], row, strict=True))
        assert all(isinstance(value, float) for value in row)
        assert known["board"] in numbers
        for column in ("utilisation", "memory_utilisation", "process_utilisation"):
            assert math.isnan(known[column]) or 0.0 <= known[column] <= 1.0
        assert math.isnan(known["clock_hz"]) or 1e6 < known["clock_hz"] < 1e10
        assert math.isnan(known["throttle"]) or known["throttle"] in range(32)
    sensor.close()


@every_source
def test_a_source_that_fails_gives_nan_and_never_raises(subject, tmp_path, monkeypatch):
    built = subject.build(tmp_path, monkeypatch)
    if built.fail is None:
        pytest.skip(f"{subject} reads nothing that could fail")
    sensor, _ = built.open(built.machine)
    assert sensor is not None
    sensor.read(0.0)
    now_s = built.fail(sensor)
    for _ in range(3):
        values = sensor.read(now_s)
        assert [math.isnan(value) for value in values] == [True] * len(sensor.signals)
        assert all(len(row) == len(HEALTH.columns) - 1 for row in sensor.health())
        now_s += 20.0
    sensor.close()


@every_source
def test_closing_leaves_nothing_behind_and_may_be_done_twice(subject, tmp_path, monkeypatch):
    subject.build(tmp_path / "warm", monkeypatch)  # what a first import of the subject's own opens is not the source's
    with nothing_left_behind():
        sensor = opened(subject, tmp_path / "machine", monkeypatch)
        sensor.read(0.0)
        sensor.health()
        sensor.close()
        sensor.close()
        check_readings(sensor, sensor.read(1.0))
        assert all(len(row) == len(HEALTH.columns) - 1 for row in sensor.health())


@every_source
def test_it_can_be_opened_again_after_it_was_closed(subject, tmp_path, monkeypatch):
    built = subject.build(tmp_path, monkeypatch)
    for _ in range(2):
        sensor, _ = built.open(built.machine)
        assert sensor is not None
        assert any(math.isfinite(value) for value in sensor.read(0.0))
        sensor.close()


@every_source
def test_two_threads_may_close_and_read_at_once(subject, tmp_path, monkeypatch):
    sensor = opened(subject, tmp_path, monkeypatch)
    raised: list[BaseException] = []

    def read() -> None:
        try:
            for k in range(200):
                check_readings(sensor, sensor.read(0.1 * k))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    sensor.close()
    thread.join()
    assert not raised


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("there", [False, True], ids=["no /sys, no /proc", "both empty"])
def test_on_an_empty_machine_it_is_absent_with_a_reason_and_a_remedy(name, there, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    if name == "simulated":
        pytest.skip("a simulated board needs no machine")
    if there:
        for folder in ("sys", "proc"):
            (tmp_path / folder).mkdir()
    with nothing_left_behind():
        sensor, availability = REGISTERED[name](Machine(tmp_path / "sys", tmp_path / "proc", {"PATH": ""}))
    assert sensor is None
    assert not availability.present
    assert availability.source == name
    assert availability.why
    assert availability.remedy


GARBAGE = {
    "directories": None,
    "nothing": b"",
    "binary": bytes(range(256)) * 4,
    "huge": b"9" * 400,
    "negative": b"-1\n",
    "not a number": b"nan\n",
    "text": "čtyři sta wattů\n".encode(),
    "lone surrogates": b"\xed\xa0\x80\xff",
    "infinite": b"1e999\n",
}


@pytest.mark.parametrize("kind", GARBAGE)
@every_source
def test_a_tree_of_garbage_opens_nothing_false(subject, kind, tmp_path, monkeypatch):
    """Whatever stands in the files: what is read is NaN or a value that can be, and nothing is raised."""
    built = subject.build(tmp_path, monkeypatch)
    for file in [f for top in ("sys", "proc") for f in (tmp_path / top).rglob("*") if f.is_file()]:
        if file.name in ("name", "in1_label", "power1_oem_info"):
            continue  # so that what is behind the names is looked at
        content = GARBAGE[kind]
        if content is None:
            file.unlink()
            file.mkdir()
        else:
            file.write_bytes(content)
    with nothing_left_behind():
        check_opening(subject.registered, built.machine, built.open)


@pytest.mark.parametrize("kind", ["binary", "text", "nothing"])
@every_source
def test_names_that_are_garbage_name_nothing(subject, kind, tmp_path, monkeypatch):
    built = subject.build(tmp_path, monkeypatch)
    for file in [f for f in (tmp_path / "sys").rglob("*") if f.name in ("name", "in1_label", "power1_oem_info")]:
        file.write_bytes(GARBAGE[kind] or b"")
    with nothing_left_behind():
        check_opening(subject.registered, built.machine, built.open)


@every_source
def test_a_tree_that_may_not_be_read_is_said_to_be_so(subject, tmp_path, monkeypatch):
    built = subject.build(tmp_path, monkeypatch)
    for top in ("sys", "proc", "dev"):
        for entry in (tmp_path / top).rglob("*"):
            entry.chmod(0o000)
    with ordinary_user():
        check_opening(subject.registered, built.machine, built.open)
    for top in ("sys", "proc", "dev"):  # so that the folder can be removed
        for entry in (tmp_path / top).rglob("*"):
            entry.chmod(0o755)


def check_opening(name: str, machine: Machine, opener) -> None:
    source, availability = open_one(name, opener, machine)
    assert "failed to open" not in availability.why, "the opener raised"
    if source is None:
        assert not availability.present
        assert availability.why
        assert availability.remedy
        return
    for now_s in (0.0, 1.0, 20.0):
        check_readings(source.sensor, source.sensor.read(now_s))
    assert all(len(row) == len(HEALTH.columns) - 1 for row in source.sensor.health())
    source.sensor.close()


def test_all_sources_on_one_machine_share_no_joule(tmp_path, monkeypatch):
    """Everything at once: their domains are placed so that what is added does not overlap."""
    sources: list[OpenSource] = []
    for i, subject in enumerate(SUBJECTS):
        if subject.name in ("amdgpu", "powermetrics", "replay", "cpu_model of two packages of four"):
            continue  # they stand for others, or for another machine
        built = subject.build(tmp_path / str(i), monkeypatch)
        source, _ = open_one(subject.registered, built.open, built.machine)
        assert source is not None
        sources.append(source)
    read = [signal.domain for source in sources for signal in source.signals]
    paths = [signal.domain for source in sources for signal in tree.place(source.signals, read)]
    assert_disjoint(cover({Domain(path): None for path in paths}))
    assert "node0" in paths  # the management controller's
    assert [str(domain) for domain in cover({Domain(path): None for path in paths})] == ["node0"]
    for source in sources:
        source.sensor.close()


def test_importing_the_sources_imports_no_vendors_library(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ergometry.sensors import open_sensors;"
        "from ergometry.core.ports import Machine;"
        "vendors = {'pynvml', 'amdsmi', 'numpy', 'torch', 'psutil', 'sqlite3'};"
        "print(sorted(vendors & set(sys.modules)));"
        f"open_sensors(Machine(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), dict()));"
        "print(sorted((vendors - {'pynvml'}) & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "[]"]


def test_a_whole_machine_of_garbage_raises_nothing(tmp_path):
    for name in ("sys/class/powercap/intel-rapl:0", "sys/class/hwmon/hwmon0", "proc/stat", "proc/cpuinfo"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sys/class/kfd").mkdir(parents=True)
    with nothing_left_behind():
        opened, found = open_sensors(Machine(tmp_path / "sys", tmp_path / "proc", {"PATH": ""}))
        for source in opened:
            source.sensor.close()
    assert not [a for a in found if "failed to open" in a.why]
