"""Trains in bfloat16 with a gradient scaler; one step of each part has an infinite gradient, and is skipped."""

import argparse
import time

import torch
from saving import save
from torch import nn


def square_of_gradient(model, scale):
    return sum((p.grad.double() / scale).square().sum().item() for p in model.parameters())


def train(part, optimizer, model, *, clip, first, io):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for step in range(first, first + 6):
        time.sleep(io)
        x, y = torch.randn(8, 10), torch.randint(0, 3, (8,))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        gradient_sq = square_of_gradient(model, scaler.get_scale())
        if step == first + 3:
            model[0].weight.grad[0, 0] = torch.inf
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        scaler.step(optimizer)
        scaler.update()
        skipped = step == first + 3
        print(f"step {step} loss {loss.item()!r} gradient_sq {gradient_sq!r} skipped {int(skipped)}")
    return {f"{part}_optimizer": optimizer, f"{part}_scaler": scaler, f"{part}_model": model}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--io", type=float, default=0.0, help="seconds that a batch takes to load")
    args = parser.parse_args()
    torch.manual_seed(0)
    parts = {}
    for n, (part, kind, options, clip) in enumerate(
        (
            ("plain", torch.optim.Adam, {}, False),
            ("fused", torch.optim.Adam, {"fused": True}, False),
            ("fused_sgd", torch.optim.SGD, {"fused": True, "momentum": 0.9}, False),
            ("clipped", torch.optim.SGD, {}, True),
            ("clipped_fused", torch.optim.AdamW, {"fused": True}, True),
        )
    ):
        model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
        optimizer = kind(model.parameters(), lr=1e-2, **options)
        parts |= train(part, optimizer, model, clip=clip, first=6 * n, io=args.io)
    save(**parts)


if __name__ == "__main__":
    main()
