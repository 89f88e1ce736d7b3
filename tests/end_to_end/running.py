"""Running a script twice, as plain Python and under ``erg run``: what every test here begins with."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from end_to_end.warm import Warm
from ergometry.core.run import Run
from ergometry.core.series import EVALUATIONS, LOSSES, STEPS
from ergometry.store.reader import load

SCRIPTS = Path(__file__).parent / "scripts"
TIMEOUT_S = 180
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ERGOMETRY", "COV"))} | {
    # Two runs side by side on a small machine would otherwise wait for each other's threads; the bits are the same.
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


@dataclass(frozen=True)
class Done:
    """A process that has ended. A negative status is the signal that it died of."""

    status: int
    out: bytes
    err: str
    cwd: Path
    store: Path | None = None

    @property
    def text(self) -> str:
        """Standard output, decoded."""
        return self.out.decode()

    @property
    def folders(self) -> list[Path]:
        """The runs that were stored, oldest first."""
        assert self.store is not None
        return sorted(self.store.iterdir()) if self.store.exists() else []

    @property
    def run(self) -> Run:
        """The one run that was stored."""
        (folder,) = self.folders
        return load(folder)


class Runner:
    """Starts scripts, plainly and measured, in the same surroundings."""

    def __init__(self, tmp_path: Path, warm: Warm) -> None:
        self.folder = tmp_path
        self.warm = warm
        self.store = tmp_path / "store"

    def command(self, words: Sequence[object], *, flags: Sequence[str], options: Sequence[object]) -> list[str]:
        """Return the command line that measures ``words``."""
        erg = [sys.executable, *flags, "-m", "ergometry", "run", "--store", self.store, *options]
        return [str(word) for word in (*erg, *words)]

    def call(self, command: Sequence[object], *, cwd: Path | None = None, **options: Any) -> Done:
        """Run a command to its end."""
        cwd = cwd or self.folder
        cwd.mkdir(exist_ok=True)
        environment = ENVIRONMENT | options.pop("env", {})
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={name: value for name, value in environment.items() if value is not None},
            timeout=TIMEOUT_S,
            **(streams | options),
        )
        return Done(done.returncode, done.stdout or b"", done.stderr.decode(), cwd, self.store)

    def plain(self, *words: object, flags: Sequence[str] = (), **more: Any) -> Done:
        """Run ``python words…``."""
        return self.call([sys.executable, *flags, *words], **more)

    def forked(self, *words: object, cwd: Path | None = None) -> Done:
        """Run ``python words…`` where torch has been imported already: for scripts that begin with that import."""
        cwd = cwd or self.folder
        cwd.mkdir(exist_ok=True)
        status, out, err = self.warm.run(words, cwd, TIMEOUT_S)
        return Done(status, out, err.decode(), cwd)

    def erg(self, *words: object, flags: Sequence[str] = (), options: Sequence[object] = (), **more: Any) -> Done:
        """Run ``erg run words…`` with a store of its own."""
        return self.call(self.command(words, flags=flags, options=["--quiet", *options]), **more)

    def start(
        self, *words: object, measured: bool = True, under: Sequence[str] = (), **more: Any
    ) -> subprocess.Popen[str]:
        """Start a script, measured unless told otherwise, and return without waiting for it."""
        command = self.command(words, flags=(), options=["--quiet", *more.pop("options", ())])
        if not measured:
            command = [sys.executable, *(str(word) for word in words)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*under, *command]
        return subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, text=True, **(pipes | more))


def finished(runner: Runner) -> Run:
    """Return the run once its recorder, which outlives a killed script, has closed it."""
    (folder,) = runner.store.iterdir()
    deadline = time.monotonic() + 60
    while (run := load(folder)).status == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    return run


def compare(runner: Runner, script: str, *words: object, new: bool = False) -> Measured:
    """Run a training script plainly and measured; they must not differ in a bit. Return the measured run.

    ``new`` gives the plain one an interpreter of its own, for scripts whose processes start from its beginning.
    """
    import torch

    command = (SCRIPTS / script, *words)
    plain = (runner.plain if new else runner.forked)(*command, cwd=runner.folder / "plain")
    measured = runner.erg(*command, cwd=runner.folder / "measured")
    assert plain.status == 0, plain.err
    assert (measured.text, without_times(measured.err), measured.status) == (plain.text, without_times(plain.err), 0)
    for file in sorted(plain.cwd.glob("*.pt")):
        first, second = (torch.load(folder / file.name, weights_only=False) for folder in (plain.cwd, measured.cwd))
        assert difference(first, second) is None, file.name
    run = measured.run
    assert_sound(run)
    return Measured(run, plain.text)


def without_times(text: str) -> str:
    """Take the time and the process out of torch's own log."""
    return re.sub(r"^([A-Z]\d{4}) [\d:.]+ \d+ ", r"\1 ", text, flags=re.MULTILINE)


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """Return where two saved states differ in a bit, None if nowhere."""
    import numpy as np
    import torch

    if type(a) is not type(b):
        return f"{path}: {type(a)} and {type(b)}"
    if isinstance(a, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(9.75), b.nan_to_num(9.75))
    elif isinstance(a, np.ndarray):
        same = np.array_equal(a, b)
    elif isinstance(a, (dict, list, tuple)):
        if len(a) != len(b) or (isinstance(a, dict) and a.keys() != b.keys()):
            return f"{path}: of different lengths or keys"
        keys = a.keys() if isinstance(a, dict) else range(len(a))
        return next(filter(None, (difference(a[key], b[key], f"{path}/{key}") for key in keys)), None)
    else:
        same = a == b
    return None if same else f"{path}: {a} and {b}"


@dataclass(frozen=True)
class Measured:
    """A run, and what its script said of itself: lines of ``step N loss X examples N …``."""

    run: Run
    text: str

    def said(self, name: str) -> list[float]:
        """Return a number that the script gave for each of its steps."""
        lines = [line.split() for line in self.text.splitlines() if line.startswith("step ")]
        assert [int(words[1]) for words in lines] == list(range(len(lines)))
        return [float(words[words.index(name) + 1]) for words in lines]

    @property
    def losses(self) -> list[float]:
        """The loss stored for each step, NaN where there is none."""
        steps, table = self.run.table(STEPS), self.run.table(LOSSES)
        stored = dict(zip(table["step"], table["loss"], strict=True))
        assert len(stored) == len(table)
        assert set(stored) <= set(steps["step"])
        return [stored.get(step, math.nan) for step in steps["step"]]


def assert_sound(run: Run) -> None:
    """Check what holds of every run of a script that trained to its end."""
    assert run.status == "completed"
    assert run.exit_status == 0
    assert run.dropped == 0
    assert "torch.unsupported" not in [notice.code for notice in run.notices], run.notices
    assert run.meta["torch"]
    steps, evaluations = run.table(STEPS), run.table(EVALUATIONS)
    np.testing.assert_array_equal(steps["step"], np.arange(len(steps)))
    host = [steps[f"{phase}_s"] for phase in ("data", "forward", "backward", "optimizer", "other")]
    lasting_s = steps["t1_s"] - steps["t0_s"]
    for began, ended in zip(evaluations["t0_s"], evaluations["t1_s"], strict=True):
        # Between two steps, or within one (under accumulation), from which it is then left out.
        inside = (steps["t0_s"] < began - 1e-9) & (ended < steps["t1_s"])
        lasting_s = lasting_s - inside * (ended - began)
        assert (inside | (ended <= steps["t0_s"] + 1e-9) | (steps["t1_s"] <= began + 1e-9)).all()
    np.testing.assert_allclose(sum(host), lasting_s, rtol=0, atol=1e-9)
    assert all((part >= -1e-9).all() for part in host)
    for table in (steps, evaluations):
        assert (table["t1_s"] >= table["t0_s"]).all()
        assert (table["t0_s"][1:] >= table["t1_s"][:-1] - 1e-9).all()
        assert (table["t0_s"] > 0).all() & (table["t1_s"] <= run.duration_s).all()
