"""What measuring costs a training step: hooks on and off in one process, in many interleaved pairs of blocks.

Machines are noisy: the ratio is taken pair by pair, its median is given with a 95 % bootstrap interval, and beside it
stands the same figure for identical pairs (off against off), which shows what this machine can resolve.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ergometry.integrations import torch_hooks
from ergometry.integrations.inspect_call import Inference
from ergometry.integrations.tracer import Tracer
from ergometry.meter.client import RecorderClient

Step = Callable[[], None]


def mlp() -> Step:
    """Return a step of about a millisecond."""
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return _step(net, torch.randn(64, 256), torch.randint(0, 10, (64,)))


def cnn() -> Step:
    """Return a convolutional step of a few tens of milliseconds, with BatchNorm."""

    def block(a: int, b: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

    net = nn.Sequential(
        block(3, 32, 1), block(32, 64, 2), block(64, 64, 1), block(64, 128, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(128, 10),
    )  # fmt: skip
    return _step(net, torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,)))


def transformer() -> Step:
    """Return a transformer step of about 50 ms."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, norm_first=True, dropout=0.1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(256, 128)
            self.body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.head = nn.Linear(128, 256)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.embed(x))).flatten(0, 1)

    return _step(Model(), torch.randint(0, 256, (8, 128)), torch.randint(0, 256, (8 * 128,)))


def _step(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        loss = criterion(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def block_s(step: Step, steps: int) -> float:
    """Return the mean seconds of a step over a block, one step of warming up before it."""
    step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def interval(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    stream = random.Random(0)
    medians = sorted(statistics.median(stream.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def compare(step: Step, tracer: Tracer, pairs: int, steps: int) -> dict[str, float]:
    """Return medians and intervals of on/off and off/off over interleaved pairs of blocks."""
    on: list[float] = []
    identical: list[float] = []
    added: list[float] = []
    plain: list[float] = []
    for i in range(pairs):
        times = {}
        order = [("off", False), ("on", True), ("again", False)]
        for label, hooked in order if i % 2 else reversed(order):
            if hooked:
                torch_hooks.install(tracer)
            times[label] = block_s(step, steps)
            if hooked:
                torch_hooks.remove()
        off = 0.5 * (times["off"] + times["again"])
        on.append(times["on"] / off - 1)
        added.append(times["on"] - off)
        identical.append(times["off"] / times["again"] - 1)
        plain.append(off)
    low, high = interval(on)
    spread = statistics.quantiles(identical, n=20)
    return {
        "step_s": statistics.median(plain),
        "ratio": statistics.median(on),
        "low": low,
        "high": high,
        "added_s": statistics.median(added),
        "identical": statistics.median(identical),
        "identical_low": spread[0],
        "identical_high": spread[-1],
    }


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a block")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    print("Measuring on against off, in one process; target: at most 1 % at steps of 20 ms or more, and 300 µs a step")
    print(f"{'workload':<12}{'step':>9}{'added':>9}{'on/off−1':>10}  95 % interval      identical pairs (5–95 %)")
    for name, make in (("mlp", mlp), ("cnn", cnn), ("transformer", transformer)):
        step = make()
        for _ in range(5):
            step()
        steps = max(3, round(options.seconds / block_s(step, 10)))
        with tempfile.TemporaryDirectory() as folder:
            client = RecorderClient.start(Path(folder))
            tracer = Tracer(client, Inference())
            torch_hooks.install(tracer)
            for _ in range(20):
                step()
            torch_hooks.remove()
            r = compare(step, tracer, options.pairs, steps)
            client.finish("completed", 0)
        print(
            f"{name:<12}{1e3 * r['step_s']:>6.2f} ms{1e6 * r['added_s']:>6.0f} µs{100 * r['ratio']:>8.2f} %"
            f"  [{100 * r['low']:+.2f}, {100 * r['high']:+.2f}] %   "
            f"{100 * r['identical']:+.2f} % [{100 * r['identical_low']:+.1f}, {100 * r['identical_high']:+.1f}]"
        )


if __name__ == "__main__":
    main()
