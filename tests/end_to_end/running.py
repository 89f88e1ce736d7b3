"""Running a script twice, as plain Python and under ``erg run``: what every test here begins with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ergometry.core.run import Run
from ergometry.store.reader import load

SCRIPTS = Path(__file__).parent / "scripts"
TIMEOUT_S = 180
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ERGOMETRY", "COV"))} | {
    # Two runs side by side on a small machine would otherwise wait for each other's threads; the bits are the same.
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
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

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
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
            [str(word) for word in command], cwd=cwd, env=environment, timeout=TIMEOUT_S, **(streams | options)
        )
        return Done(done.returncode, done.stdout or b"", done.stderr.decode(), cwd, self.store)

    def plain(self, *words: object, flags: Sequence[str] = (), **more: Any) -> Done:
        """Run ``python words…``."""
        return self.call([sys.executable, *flags, *words], **more)

    def erg(self, *words: object, flags: Sequence[str] = (), options: Sequence[object] = (), **more: Any) -> Done:
        """Run ``erg run words…`` with a store of its own."""
        return self.call(self.command(words, flags=flags, options=["--quiet", *options]), **more)

    def start(self, *words: object, measured: bool = True, **more: Any) -> subprocess.Popen[str]:
        """Start a script, measured unless told otherwise, and return without waiting for it."""
        command = self.command(words, flags=(), options=["--quiet", *more.pop("options", ())])
        if not measured:
            command = [sys.executable, *(str(word) for word in words)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, text=True, **(pipes | more))
