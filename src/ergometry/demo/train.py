"""Train a byte-level transformer on the source text of Python's standard library: a training script like any other.

Ends after ``--steps`` steps or ``--seconds`` seconds, whichever comes first. With ``--steps`` alone
(``--seconds 0``) equal arguments give equal losses; a limit in seconds ties the schedule to the clock.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)
from torch.utils.data import DataLoader

from ergometry.demo.corpus import Windows, read_bytes, source_files, split
from ergometry.demo.model import BYTES, ByteTransformer

Batch = tuple[torch.Tensor, torch.Tensor]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m ergometry.demo.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps (0: no limit)")
    parser.add_argument("--seconds", type=float, default=75.0, help="stop after this many seconds (0: no limit)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--context", type=int, default=128, help="bytes a window")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--evaluate-every", type=int, default=200, help="steps between evaluations")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if options.steps <= 0 and options.seconds <= 0:
        parser.error("expected a limit, got none; give --steps or --seconds")
    return options


def passes(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Yield batches for ever: pass after pass over the corpus, each in a new order."""
    while True:
        yield from loader


def loss_of(model: ByteTransformer, batch: Batch, device: str) -> torch.Tensor:
    """Return the cross entropy of the next byte, in nats per byte."""
    x, y = (tensor.to(device) for tensor in batch)
    return F.cross_entropy(model(x).reshape(-1, BYTES), y.reshape(-1))


def evaluate(model: ByteTransformer, loader: DataLoader[Batch], device: str, batches: int) -> float:
    """Return the mean loss over the first ``batches`` held-out batches, in nats per byte."""
    model.eval()
    with torch.no_grad():
        losses = [float(loss_of(model, batch, device)) for _, batch in zip(range(batches), loader, strict=False)]
    model.train()
    return sum(losses) / len(losses)


def learning_rate(progress: float, step: int, highest: float, warmup: int = 50) -> float:
    """Return the step's learning rate: a linear warm-up, then a cosine from ``highest`` to a tenth of it."""
    cosine = 0.55 + 0.45 * math.cos(math.pi * min(progress, 1.0))
    return highest * cosine * min((step + 1) / warmup, 1.0)


def main(arguments: list[str] | None = None) -> None:
    """Train, and print one line per report: step, loss in nats per byte, bits per byte, seconds."""
    options = parse_arguments(arguments)
    torch.manual_seed(options.seed)
    training, held_out = (read_bytes(files) for files in split(source_files()))
    print(f"corpus: {len(training):,} bytes to train on, {len(held_out):,} held out", flush=True)
    order = torch.Generator().manual_seed(options.seed)
    windows = Windows(training, options.context)
    loader = DataLoader(windows, options.batch_size, shuffle=True, drop_last=True, generator=order)
    # The held-out windows come in one fixed shuffled order, so that the first few are a sample of all files.
    sample = torch.randperm(len(Windows(held_out, options.context)), generator=torch.Generator().manual_seed(0))
    unseen = DataLoader(Windows(held_out, options.context), 4 * options.batch_size, sampler=sample.tolist())
    model = ByteTransformer(options.context, options.width, options.layers).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.1)
    print(f"model: {sum(p.numel() for p in model.parameters()):,} parameters on {options.device}", flush=True)
    began, step = time.perf_counter(), 0
    for batch in passes(loader):
        elapsed = time.perf_counter() - began
        progress = max(
            step / options.steps if options.steps > 0 else 0.0,
            elapsed / options.seconds if options.seconds > 0 else 0.0,
        )
        if progress >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, step, options.lr)
        loss = loss_of(model, batch, options.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            nats = loss.item()
            print(f"step {step} loss {nats:.4f} bits/byte {nats / math.log(2):.3f} seconds {elapsed:.1f}", flush=True)
        if step % options.evaluate_every == 0:
            bits = evaluate(model, unseen, options.device, 8) / math.log(2)
            print(f"step {step} held-out bits/byte {bits:.3f}", flush=True)
    bits = evaluate(model, unseen, options.device, 32) / math.log(2)
    print(f"final: {step} steps, held-out bits/byte {bits:.3f}", flush=True)


if __name__ == "__main__":
    main()
