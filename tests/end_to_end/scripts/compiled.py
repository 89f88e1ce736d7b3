"""Trains compiled models, with shapes that change and evaluation between; prints what the compiler did."""

import argparse

import torch
import torch._dynamo
from saving import save
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 8))

    def forward(self, x):
        return x + self.inner(x)


def make_model():
    return nn.Sequential(nn.Linear(6, 8), Block(), Block(), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))


def loss_of(model):
    def compute(x, y):
        return nn.functional.cross_entropy(model(x), y)

    return compute


def train_by(compute, optimizer):
    def train(x, y):
        loss = compute(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return train


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ways", nargs="+", help="backend:way, one after the other")
    args = parser.parse_args()
    torch.manual_seed(0)
    states, step = {}, 0
    for backend, way in (each.split(":") for each in args.ways):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = make_model()
        compute = loss_of(model)
        if way == "model":
            compute = loss_of(torch.compile(model, backend=backend))
        elif way == "in_place":
            model.compile(backend=backend)
        elif way == "function":
            compute = torch.compile(compute, backend=backend)
        elif way == "part":
            model[1] = torch.compile(model[1], backend=backend)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if way == "optimizer":
            optimizer.step = torch.compile(optimizer.step, backend=backend)
        train = train_by(compute, optimizer)
        if way == "whole":
            train = torch.compile(train, backend=backend)
        for batch in (8, 8, 12, 5, 8):
            x, y = torch.randn(batch, 6), torch.randint(0, 3, (batch,))
            model.train()
            loss = train(x, y)
            print(f"step {step} loss {loss.item()!r} examples {batch}")
            step += 1
        model.eval()
        with torch.no_grad():
            print("evaluation", compute(x, y).item())
        counters = torch._dynamo.utils.counters
        print(backend, way, {name: dict(counters[name]) for name in ("stats", "graph_break", "unimplemented")})
        states |= {f"{backend}_{way}_model": model, f"{backend}_{way}_optimizer": optimizer}
    save(**states)


if __name__ == "__main__":
    main()
