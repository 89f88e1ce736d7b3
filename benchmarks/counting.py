"""What counting says of models, beside torch's own counter and totals by hand; and what it costs a step that repeats.

Cost: the same hooks with and without counting, toggled in one process in many interleaved pairs of blocks. Machines
are noisy, so beside the ratio (its median, with a 95 % bootstrap interval) stands that of identical pairs, and the
time spent inside the counter's own functions, which is less noisy and lacks what they do to caches.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import overhead
from ergometry.core.series import PROFILE_USES, STEPS, WORK
from ergometry.integrations import torch_hooks
from ergometry.integrations.counting.ambient import Ambient
from ergometry.integrations.inspect_call import Inference
from ergometry.integrations.tracer import Tracer

TIMED = (
    "call_begin",
    "call_end",
    "begin_tail",
    "end_tail",
    "backward_begin",
    "backward_end",
    "optimizer_begin",
    "optimizer_end",
)


@dataclass
class Kept:
    """A recorder's client that keeps rows in memory."""

    origin_s: float = field(default_factory=time.perf_counter)
    rows: list[tuple[Any, tuple[float, ...]]] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)

    def write(self, series: Any, *values: float) -> None:
        """Keep a row."""
        if series in (WORK, STEPS, PROFILE_USES):
            self.rows.append((series, values))

    def meta(self, **values: Any) -> None:
        """Keep labels."""
        self.labels.update(values)

    def notice(self, code: str, detail: str = "") -> None:
        """Print a warning."""
        print(f"  {code}: {detail}")

    def last(self, series: Any) -> dict[str, float]:
        """Return the last row of a table."""
        values = [row for kind, row in self.rows if kind is series][-1]
        return dict(zip(series.columns, values, strict=True))


class Attention(nn.Module):
    """Causal attention with the kernel that this machine takes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the module."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A block of a GPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the module."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class First(nn.Module):
    """Returns the first of what a module returns."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the module."""
        return self.module(x)[0]


Case = tuple[str, Callable[[], tuple[nn.Module, torch.Tensor]], int]


def cases() -> list[Case]:
    """Return (name, model and batch, FLOP of products in forward and backward by hand)."""
    n, t, d = 8, 8 * 64, 128
    conv = lambda groups: 2 * 4 * 32 * 32 * 64 * 64 * 9 // groups  # noqa: E731
    return [
        (
            "MLP",
            lambda: (nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)), torch.randn(64, 256)),
            2 * 64 * (2 * 256 * 512 + 3 * 512 * 10),
        ),
        (
            "convolution",
            lambda: (nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()), torch.randn(4, 64, 32, 32)),
            2 * conv(1),
        ),
        (
            "in 8 groups",
            lambda: (nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=8), nn.ReLU()), torch.randn(4, 64, 32, 32)),
            2 * conv(8),
        ),
        (
            "GPT block",
            lambda: (nn.Sequential(nn.Linear(d, d), Block(d, 4)), torch.randn(n, 64, d)),
            2 * t * d * d * 2 + 3 * 2 * t * 12 * d * d + (4 + 10) * n * 64 * 64 * d,
        ),
        (
            "LSTM",
            lambda: (First(nn.LSTM(64, 128)), torch.randn(32, 8, 64)),
            3 * (2 * 32 * 8 * 4 * 128 * (64 + 128) + 9 * 32 * 8 * 128),
        ),
        ("GRU", lambda: (First(nn.GRU(64, 128)), torch.randn(32, 8, 64)), 2 * 8 * 3 * 128 * (32 * 64 * 2 + 128 * 95)),
    ]


def table() -> None:
    print("FLOP of products, forward and backward of a step; bytes that must move, and which part is of parameters\n")
    print(f"{'model':<13}{'ours':>14}{'torch':>14}{'by hand':>14}{'all FLOP':>14}{'bytes':>13}{'parameters':>12}")
    for name, make, by_hand in cases():
        torch.manual_seed(0)
        model, x = make()
        client = Kept()
        torch_hooks.instrument(torch, client)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            for _ in range(2):
                optimizer.zero_grad()
                model(x).square().sum().backward()
                optimizer.step()
            torch_hooks.finish()
            optimizer.zero_grad()
            with FlopCounterMode(display=False) as torchs:
                model(x).square().sum().backward()
        row, ours = client.last(WORK), client.last(STEPS)["flops"]
        moved = row["forward_bytes"] + row["backward_bytes"]
        part = (row["parameter_bytes"] - row["optimizer_bytes"]) / moved
        everything = row["forward_flops"] + row["backward_flops"]
        print(
            f"{name:<13}{ours:>14,.0f}{torchs.get_total_flops():>14,}{by_hand:>14,}{everything:>14,.0f}"
            f"{moved:>13,.0f}{100 * part:>10.1f} %{'' if ours == by_hand else '   differs'}"
        )


class NoCounter:
    """Stands in the counter's place and does nothing."""

    passing = False
    spent_s = 0.0
    ambient = Ambient()

    def __getattr__(self, name: str) -> Any:
        return _nothing


def _nothing(*_: Any, **__: Any) -> None:
    return None


def inside_s(tracer: Tracer, step: Callable[[], None], steps: int) -> float:
    """Return the seconds that a step spends in the counter's functions, less what timing them takes."""
    work, total, calls = tracer.work, [0.0], [0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                total[0] += time.perf_counter() - began
                calls[0] += 1

        return call

    for name in TIMED:
        setattr(work, name, timed(getattr(work, name)))
    for _ in range(steps):
        step()
    for name in TIMED:
        delattr(work, name)
    empty = timed(lambda: None)
    spent, made = total[0], calls[0]
    total[0] = 0.0
    for _ in range(1000):
        empty()
    return (spent - made * total[0] / 1000) / steps


def cost(pairs: int, seconds: float) -> None:
    print("\nCounting on against off, where signatures repeat; target: at most 0.1 % of steps of 20 ms or more")
    print(
        f"{'workload':<12}{'step':>10}{'inside':>10}{'of step':>9}{'on/off−1':>10}  95 % interval      identical pairs"
    )
    for name, make in (("mlp", overhead.mlp), ("cnn", overhead.cnn), ("transformer", overhead.transformer)):
        torch.manual_seed(0)
        step = make()
        tracer = Tracer(Kept(), Inference())  # type: ignore[arg-type]
        tracer.teller.tell_work = _nothing  # type: ignore[method-assign]  # once a second, and no part of a step
        torch_hooks.install(tracer)
        for _ in range(30):
            step()
        steps = max(3, round(seconds / overhead.block_s(step, 10)))
        inside = min(inside_s(tracer, step, 3 * steps) for _ in range(5))
        counter, silent = tracer.work, NoCounter()
        on, identical, plain = [], [], []
        for i in range(pairs):
            times = {}
            order = ["off", "on", "again"]
            for label in order if i % 2 else reversed(order):
                tracer.work = counter if label == "on" else silent  # type: ignore[assignment]
                times[label] = overhead.block_s(step, steps)
            off = 0.5 * (times["off"] + times["again"])
            on.append(times["on"] / off - 1)
            identical.append(times["off"] / times["again"] - 1)
            plain.append(off)
        tracer.work = counter
        torch_hooks.remove()
        low, high = overhead.interval(on)
        spread = statistics.quantiles(identical, n=20)
        print(
            f"{name:<12}{1e3 * statistics.median(plain):>7.2f} ms{1e6 * inside:>7.1f} µs"
            f"{100 * inside / statistics.median(plain):>7.3f} %{100 * statistics.median(on):>8.2f} %"
            f"  [{100 * low:+.2f}, {100 * high:+.2f}] %   [{100 * spread[0]:+.1f}, {100 * spread[-1]:+.1f}] %"
        )


def first() -> None:
    """Print what the first occurrence of a signature costs, in steps."""
    print("\nThe first step, counted, against the steps that follow (at most 3 more are allowed)")
    for name, make in (("mlp", overhead.mlp), ("cnn", overhead.cnn), ("transformer", overhead.transformer)):
        step = make()
        for _ in range(20):
            step()
        plain = statistics.median(overhead.block_s(step, 1) for _ in range(9))
        torch_hooks.instrument(torch, Kept())  # type: ignore[arg-type]
        began = time.perf_counter()
        step()
        taken = time.perf_counter() - began
        torch_hooks.finish()
        print(f"{name:<12}{1e3 * taken:>8.2f} ms against {1e3 * plain:.2f} ms: {taken / plain - 1:+.1f} steps")


def shapes(lengths: int = 200) -> None:
    """Print how sequence lengths that never repeat are counted."""
    random.seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), Block(64, 4), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    client = Kept()
    torch_hooks.instrument(torch, client)  # type: ignore[arg-type]
    for length in random.sample(range(8, 8 + 2 * lengths), lengths):
        optimizer.zero_grad()
        model(torch.randn(4, length, 64)).square().mean().backward()
        optimizer.step()
    torch_hooks.finish()
    counting = client.labels["counting"]
    passes, misfit = counting["passes"], counting["largest_misfit"]
    print(f"\n{lengths} sequence lengths, none twice: passes {passes}, largest misfit {misfit:.1e}")


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a block")
    options = parser.parse_args(argv)
    table()
    first()
    shapes()
    cost(options.pairs, options.seconds)


if __name__ == "__main__":
    main()
