"""A load on the first GPU, in a process of its own: matrix products on demand. Needs torch with CUDA.

Commands come as lines on standard input, ``wave SECONDS`` or ``steady SECONDS``; when done, a line of JSON tells
the (on, off) times, CLOCK_MONOTONIC seconds, between which the board was busy.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable


def products() -> Callable[[float], tuple[float, float]]:
    """Return what keeps the board busy until a time; it returns when it began and ended."""
    import torch

    a, b = (torch.randn(4096, 4096, device="cuda", dtype=torch.float16) for _ in range(2))

    def busy(until_s: float) -> tuple[float, float]:
        torch.cuda.synchronize()
        on_s = time.monotonic()
        while time.monotonic() < until_s:
            # A few at a time: the board has no pause between two, and ends within a few ms of its time.
            for _ in range(8):
                torch.mm(a, b)
            torch.cuda.synchronize()
        return on_s, time.monotonic()

    busy(time.monotonic() + 1.0)
    return busy


def serve() -> None:
    """Say that the board is warm, then do what is asked until standard input ends."""
    busy, chance = products(), random.Random(3)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, seconds = line.split()
        end_s, waves = time.monotonic() + float(seconds), []
        while time.monotonic() < end_s:
            lasts_s = chance.uniform(0.05, 0.8) if kind == "wave" else float(seconds)
            waves.append(busy(min(time.monotonic() + lasts_s, end_s)))
            if kind == "wave":
                time.sleep(chance.uniform(0.05, 0.8))
        print(json.dumps(waves), flush=True)


if __name__ == "__main__":
    serve()
