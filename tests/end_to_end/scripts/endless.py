"""Trains until a file appears, and says after each step when it was done (monotonic clock)."""

import argparse
import itertools
import os
import time

import torch
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--until", required=True)
    parser.add_argument("--rest", type=float, default=0.0, help="seconds between two steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    deadline = time.monotonic() + 120
    for step in itertools.count():
        loss = model(torch.randn(512, 64)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, time.perf_counter(), flush=True)
        if os.path.exists(args.until) or time.monotonic() > deadline:
            break
        time.sleep(args.rest)
    print("trained to the end")


if __name__ == "__main__":
    main()
