"""`erg run` on a machine whose NVIDIA boards are simulated behind NVML's own C interface: joules of known truth."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from end_to_end.running import Runner, finished
from ergometry.core.domain import Domain
from ergometry.core.run import Run
from ergometry.core.series import HEALTH, STEPS
from support.fake_nvml import FakeBoard, FakeNvml

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None, reason="NVIDIA's binding nvidia-ml-py is not installed"
)

SCRIPT = """
import time, torch
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

def train(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        optimizer.zero_grad()
        net(torch.ones(8, 4)).square().mean().backward()
        optimizer.step()
        time.sleep(0.01)

train(1.0)
print("half", flush=True)
input()
train(1.0)
print("all of it", flush=True)
"""

BOARDS = (
    FakeBoard(uuid="GPU-0", idle_w=150.0, load_w=150.0),
    FakeBoard(uuid="GPU-1", idle_w=300.0, load_w=300.0),
    FakeBoard(uuid="GPU-2", idle_w=500.0, load_w=500.0),
)


@pytest.fixture
def library(tmp_path):
    try:
        library = FakeNvml(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    library.set(*BOARDS)
    return library


def train(runner: Runner, library: FakeNvml, between: Callable[[], None], visible: str = "0,1") -> Run:
    """Train at ten samples a second; ``between`` happens when half of it is done."""
    (runner.folder / "script.py").write_text(SCRIPT)
    environment = library.environment | {"CUDA_VISIBLE_DEVICES": visible}
    words = ["env", *(f"{name}={value}" for name, value in environment.items())]
    process = runner.start("script.py", under=words, options=["--sampling-hz", 10])
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "half\n"
    between()
    out, err = process.communicate("\n", timeout=60)
    assert (out, err, process.returncode) == ("all of it\n", "", 0)
    return finished(runner)


def test_the_stored_joules_are_the_boards(runner, library):
    run = train(runner, library, lambda: None)
    traces = {str(domain): trace for domain, trace in run.traces().items() if "gpu" in str(domain)}
    assert set(traces) == {"node0/gpu0", "node0/gpu1"}  # the third is hidden
    for board in BOARDS[:2]:
        trace = traces[f"node0/gpu{board.uuid[-1]}"]
        assert trace.signal.method == "NVML energy counter"
        assert trace.signal.board == board.uuid
        lasted_s = trace.t_s[-1] - trace.t_s[0]
        assert lasted_s > 2.0
        assert trace.e_j[-1] == pytest.approx(board.idle_w * lasted_s, abs=2 * board.update_s * board.idle_w)
    assert Domain("node0/gpu0") in run.cover()
    health = run.table(HEALTH)
    assert set(health["board"]) == {0.0, 1.0}
    assert np.all(health["clock_hz"] == 1.2e9)


def test_a_first_window_shorter_than_the_time_between_two_readings_has_the_boards_joules(runner, library):
    # A board that is not known to bear more is read once a second: this window is long over before the second reading.
    slow = FakeBoard(name="NVIDIA GeForce RTX 4090", uuid="GPU-0", architecture=8, idle_w=400.0, load_w=400.0)
    library.set(slow)
    lines = (
        "import ergometry as erg, time",
        "with erg.measure() as window: time.sleep(0.02)",
        "board = window.by_domain['node0/gpu0']",
        "print(board.value / window.duration_s, board.stderr / window.duration_s, window.energy.known)",
    )
    done = runner.plain("-c", "\n".join(lines), env=library.environment)
    assert done.status == 0, done.err
    watts, stderr_w, known = done.text.split()
    assert (float(watts), known) == (pytest.approx(400.0, rel=0.1), "True")
    assert 0.0 < float(stderr_w) < 400.0


def test_a_board_that_is_lost_is_a_gap_and_the_training_goes_on(runner, library):
    lost = replace(BOARDS[1], lost_from_s=1e-9, lost_until_s=math.inf)
    run = train(runner, library, lambda: library.set(BOARDS[0], lost, BOARDS[2]))
    assert run.status == "completed"
    assert run.exit_status == 0
    steps = run.table(STEPS)
    assert steps["t1_s"][-1] - steps["t0_s"][0] > 1.8
    (samples,) = (samples for samples in run.samples if samples.source == "nvml")
    first, second = samples.table.rows[:, 1], samples.table.rows[:, 2]
    assert np.isfinite(first).all()
    gone = np.flatnonzero(np.isnan(second))
    assert 0 < len(gone) < len(second)
    assert np.isnan(second[gone[0] :]).all()
    assert any(notice.code == "sensor.failed" and "gpu1" in notice.detail for notice in run.notices)
    trace = run.traces()[Domain("node0/gpu0")]
    assert trace.e_j[-1] == pytest.approx(150.0 * (trace.t_s[-1] - trace.t_s[0]), abs=6.0)
