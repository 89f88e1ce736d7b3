"""The whole binding path: the real ``pynvml`` over a real shared library, in its own process, by known truth."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from support.fake_nvml import NEVER_S, FakeBoard, FakeNvml

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None, reason="NVIDIA's binding nvidia-ml-py is not installed"
)

PROGRAM = """
import json, sys, time
from ergometry.core.ports import Machine
from ergometry.sensors.nvml import open_nvml
sensor, availability = open_nvml(Machine.here())
said = []
def read():
    began_s = time.monotonic()
    values = sensor.read(began_s)
    said.append([began_s, time.monotonic(), values])
    return values
{code}
print(json.dumps({{
    "signals": [] if sensor is None else [signal.to_json() for signal in sensor.signals],
    "why": availability.why, "remedy": availability.remedy, "reads": said, "said": globals().get("answer"),
}}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    try:
        return FakeNvml(tmp_path_factory.mktemp("nvml"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def ask(library: FakeNvml, code: str, **environ: str) -> dict[str, Any]:
    """Open the sensor in a program of its own, run ``code`` there, and return what it said."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code)],
        env=bare | library.environment | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def domains(said: dict[str, Any]) -> list[str]:
    return [signal["domain"] for signal in said["signals"]]


def test_the_counters_joules_are_the_true_ones_to_an_update_at_each_edge(library):
    boards = [FakeBoard(uuid=f"GPU-{i}", load_w=200.0 + 50 * i, wave_s=0.1, duty=0.3) for i in range(12)]
    library.set(*boards)
    said = ask(library, "read(); time.sleep(0.3); read()")
    assert domains(said) == [f"node0/gpu{i}" for i in range(12)]
    (t0_s, t1_s, first), (t2_s, t3_s, last) = said["reads"]
    for board, before, after in zip(boards, first, last, strict=True):
        edge_j = board.update_s * board.load_w + 1e-3
        least, most = board.energy_j(t1_s, t2_s) - edge_j, board.energy_j(t0_s, t3_s) + edge_j
        assert least <= after - before <= most
        assert before >= 5000


def test_boards_are_hidden_by_what_the_environment_says(library):
    library.set(*(FakeBoard(uuid=f"GPU-{i}", start_j=1000.0 * i) for i in range(12)))
    said = ask(library, "read()", CUDA_VISIBLE_DEVICES="GPU-10,3")
    assert domains(said) == ["node0/gpu10", "node0/gpu3"]
    assert [round(x, -3) for x in said["reads"][0][2]] == [10_000, 3_000]
    assert "CUDA_VISIBLE_DEVICES" in ask(library, "", CUDA_VISIBLE_DEVICES="")["why"]


@pytest.mark.parametrize("visible", ["MIG-beef", "MIG-GPU-1/2/0"])
def test_mig_by_both_formats(library, visible):
    parts = (("MIG-cafe", 1, 0, 3), ("MIG-beef", 2, 0, 2))
    library.set(
        FakeBoard(), FakeBoard(name="NVIDIA A100-SXM4-80GB", uuid="GPU-1", architecture=7, mig=1, instances=parts)
    )
    (signal,) = ask(library, "", CUDA_VISIBLE_DEVICES=visible)["signals"]
    assert signal["domain"] == "node0/gpu1"
    assert "2 of 7 compute slices" in signal["method"]


def test_the_scopes_of_a_superchip(library):
    board = FakeBoard(
        name="NVIDIA GH200 480GB", architecture=9, memory_share=0.25, module_w=150.0, idle_w=400.0, load_w=400.0
    )
    library.set(board)
    said = ask(library, "read()")
    assert domains(said) == ["node0/gpu0", "node0/gpu0/memory", "node0/module0"]
    assert said["reads"][0][2][1:] == pytest.approx([100.0, 550.0], abs=0.01)
    library.set(replace(board, ignores_scope=True))
    assert domains(ask(library, "")) == ["node0/gpu0"]


@pytest.mark.parametrize(
    ("lacks", "method", "power_w"),
    [
        ({"counter": False}, "NVML present power, integrated", 240.0),
        ({"counter": False, "instant": False}, "NVML board power, integrated", 240.0),
        ({"counter": False, "power_field": False, "usage": False, "reasons": 4}, "GPU modelled", 300.0),
    ],
)
def test_what_a_board_lacks_is_replaced_by_the_next_best(library, lacks, method, power_w):
    library.set(FakeBoard(idle_w=240.0, load_w=240.0, **lacks))
    said = ask(library, "read()")
    assert said["signals"][0]["method"].startswith(method)
    assert said["reads"][0][2] == pytest.approx([power_w], abs=0.01)
    assert ("no readable power" in said["why"]) == (method == "GPU modelled")


def test_a_board_that_says_nothing_is_named_with_the_drivers_word(library):
    library.set(FakeBoard(counter=False, power_field=False, usage=False, utilisation=-1.0))
    assert ask(library, "")["why"] == "gpu0: Not Supported"


@pytest.mark.parametrize(("outcome", "remedy"), [(9, "modprobe nvidia"), (4, "/dev/nvidiactl"), (18, "reboot")])
def test_a_driver_that_does_not_start(library, outcome, remedy):
    library.set(FakeBoard(), init_error=outcome)
    said = ask(library, "")
    assert said["why"]
    assert remedy in said["remedy"]


def test_a_machine_without_the_library(tmp_path, library):
    said = ask(library, "", LD_LIBRARY_PATH=str(tmp_path))
    if said["signals"]:
        pytest.skip("a real NVML is installed here")
    assert "Not Found" in said["why"]
    assert "install NVIDIA's driver" in said["remedy"]


def test_a_lost_board_is_a_gap_and_comes_back_with_its_counter_anew(library):
    first, second = FakeBoard(uuid="GPU-0"), FakeBoard(uuid="GPU-1", restarts=True)
    library.set(first, second)
    states = [library.text(first, replace(second, lost_from_s=1.0, lost_until_s=until)) for until in (NEVER_S, -1.0)]
    code = f"""
import os
import ergometry.sensors.nvml as module
module.RESTART_PERIOD_S = 0.1
read()
for state in {states!r}:
    time.sleep(0.1)
    with open({str(library.state)!r} + ".new", "w") as file:
        file.write(state.replace("lost_until_s -1.0", f"lost_until_s {{time.monotonic()!r}}"))
    os.replace(file.name, {str(library.state)!r})
    time.sleep(0.1)
    read()
"""
    reads = [read[2] for read in ask(library, code)["reads"]]
    assert all(reads[i][0] < reads[i + 1][0] for i in range(2))  # the other goes on
    before, between, after = (read[1] for read in reads)
    assert before > 5000
    assert between != between  # NaN
    assert after < 5000


def test_the_state_of_boards_comes_through_the_binding(library):
    processes = ((os.getpid(), 40), (1, 55))
    library.set(FakeBoard(processes=processes, reasons=0x48, link_tx_kib=1024.0, link_rx_kib=2048.0))
    code = f"""
sensor.pids = lambda: {{{os.getpid()}}}
sensor.health(); time.sleep(0.1)
answer = [["nan" if x != x else x for x in row] for row in sensor.health()]
"""
    (row,) = ask(library, code)["said"]
    assert row[:9] == [0.0, 1.2e9, 1.5e9, 0.9e9, 60.0, 300.0, 0.5, 0.25, 1.0]
    shared = os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    assert row[9] == (0.4 if shared else "nan")
    assert row[10:12] == [1e6, 2e6]
    assert row[12:] == pytest.approx([2**20, 2**21], rel=0.2)  # of two clocks, read one after the other


def test_a_hung_driver_holds_the_reader_no_longer_than_it_hangs(library):
    """The sampler reads this sensor in a thread of its own; here it is shown that a late answer is a true one."""
    board = FakeBoard(start_j=0.0)
    library.set(board)
    state = library.text(replace(board, hang_from_s=1.0, hang_until_s=-1.0))
    code = f"""
import os
answer = time.monotonic() + 0.5
with open({str(library.state)!r} + ".new", "w") as file:
    file.write({state!r}.replace("hang_until_s -1.0", f"hang_until_s {{answer!r}}"))
os.replace(file.name, {str(library.state)!r})
read()
"""
    said = ask(library, code)
    ((began_s, ended_s, (energy_j,)),) = said["reads"]
    until_s = said["said"]
    assert began_s < until_s <= ended_s
    edge_j = board.update_s * board.idle_w + 1e-3
    assert 100.0 * (until_s - board.epoch_s) - edge_j <= energy_j <= 100.0 * (ended_s - board.epoch_s) + edge_j
