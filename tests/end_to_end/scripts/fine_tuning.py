"""Tunes the head of a network that stays in eval() mode, so that its batch statistics are kept; then all of it."""

import torch
from saving import save
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))


def train(model, steps, first):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(first, first + steps):
        x, y = torch.randn(11, 6), torch.randint(0, 3, (11,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        print(f"step {step} loss {loss.item()!r} examples 11")
    return optimizer


def main():
    torch.manual_seed(0)
    model = Network()
    model.eval()
    model.body.requires_grad_(False)
    first = train(model, 5, 0)
    model.requires_grad_(True)
    second = train(model, 5, 5)
    with torch.no_grad():
        print("evaluation", model(torch.ones(4, 6)).sum().item())
    save(model=model, first=first, second=second)


if __name__ == "__main__":
    main()
