"""An interpreter that has imported torch and forks for each script: what ``python script.py`` gives, sooner.

Importing torch, and with the first optimizer its compiler, is nearly all that a small training script costs. A fork
begins where these imports ended: no generator has been drawn from and no thread begun, so that the script computes the
bits that it computes in a new interpreter (a test compares the two).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

#: The process that forks: it is asked by lines on its standard input and answers with the status of the script.
SERVER = """
import json, os, runpy, sys
import torch._dynamo

def told():
    "Serve until a script is to be run, in a child, or nobody asks any more."
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            return order
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()

order = told()
for fd, (name, flags) in enumerate(
    [(os.devnull, os.O_RDONLY), *((name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in order["streams"])]
):
    opened = os.open(name, flags, 0o644)
    os.dup2(opened, fd)
    os.close(opened)
os.chdir(order["cwd"])
sys.argv[:] = order["words"]
sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Warm:
    """Runs scripts in forks of one interpreter, one after the other."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._server: subprocess.Popen[bytes] | None = None

    def run(self, words: Sequence[object], cwd: Path, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Run ``python words…`` in this folder; return its status and what it wrote on the two streams."""
        server = self._started()
        streams = [cwd / ".out", cwd / ".err"]
        order = {
            "words": [str(word) for word in words],
            "cwd": str(cwd),
            "streams": [str(file) for file in streams],
        }
        _pipe(server.stdin).write(json.dumps(order).encode() + b"\n")
        answer = b""
        if select.select([server.stdout], [], [], timeout_s)[0]:
            answer = _pipe(server.stdout).readline()
        if not answer:
            self.close()
            raise subprocess.TimeoutExpired([str(word) for word in words], timeout_s)
        out, err = (file.read_bytes() for file in streams)
        for file in streams:
            file.unlink()
        return int(answer), out, err

    def close(self) -> None:
        """End the interpreter, and whatever script it waits for."""
        if self._server is not None:
            _pipe(self._server.stdin).close()
            os.killpg(self._server.pid, 9)
            self._server.wait()
            _pipe(self._server.stdout).close()
            self._server = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                env=dict(self._environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        return self._server


def _pipe(stream: IO[Any] | None) -> IO[Any]:
    assert stream is not None
    return stream
