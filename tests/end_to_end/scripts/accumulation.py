"""Accumulates gradients over several small batches; the last ones of an epoch wait for the next epoch's first."""

import argparse

import torch
from saving import save
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = [(torch.randn(5, 12), torch.randint(0, 3, (5,))) for _ in range(10)]
    step, count, scalars = 0, 0, []
    for _ in range(args.epochs):
        model.train()
        for x, y in data:
            loss = nn.functional.cross_entropy(model(x), y) / args.every
            loss.backward()
            scalars.append(loss.item())
            count += 1
            if count % args.every == 0:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                print(f"step {step} loss {sum(scalars)!r} examples {5 * len(scalars)} backwards {len(scalars)}")
                step, scalars = step + 1, []
        model.eval()
        with torch.inference_mode():
            print("evaluation", sum(nn.functional.cross_entropy(model(x), y).item() for x, y in data[:3]))
    save(model=model, optimizer=optimizer)


if __name__ == "__main__":
    main()
