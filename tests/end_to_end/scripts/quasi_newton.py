"""Fits a small network with LBFGS, whose step calls a closure as often as it likes."""

import torch
from saving import save
from torch import nn


def main():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    x = torch.randn(30, 5)
    y = (x**2).sum(1, keepdim=True)
    for step in range(6):
        losses = []

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        print(f"step {step} loss {losses[0]!r} examples 30 backwards {len(losses)}")
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(6, 9):

        def once():
            sgd.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        print(f"step {step} loss {sgd.step(once).item()!r} examples 30 backwards 1")
    save(model=model, optimizer=optimizer, sgd=sgd)


if __name__ == "__main__":
    main()
