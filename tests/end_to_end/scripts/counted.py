"""Trains a model with an operator of its own, evaluates it, freezes a part under way; says what it did, by hand."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--registers", action="store_true")
options = parser.parse_args()

library = torch.library.Library("mylib", "DEF")
library.define("scaled(Tensor x, float by) -> Tensor")
library.impl("scaled", lambda x, by: x * by, "CPU")
if options.registers:
    import ergometry as erg

    @erg.work.register_flop(torch.ops.mylib.scaled)
    def scaled_flop(x, by):
        return x.numel()


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.ops.mylib.scaled(x, 0.5)

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.5


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
        self.head = nn.Linear(20, 7)

    def forward(self, x):
        return self.head(Scale.apply(self.body(x)))


torch.manual_seed(0)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), 0.01)
criterion = nn.CrossEntropyLoss()
N = 16
first, second = 2 * N * 12 * 20, 2 * N * 20 * 7
# A step that is counted takes longer; what a criterion prints does not.
for step in range(12):
    frozen = step >= 8
    model.body.requires_grad_(not frozen)
    optimizer.zero_grad()
    x, y = torch.randn(N, 12), torch.randint(0, 7, (N,))
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    # The input's gradient of the head is taken while there is something before it that is trained.
    products = first + 2 * second if frozen else 2 * first + 3 * second
    own = N * 20 if options.registers else 0
    print(f"step {step} loss {loss.item()!r} flops {float(products + own)!r}")
    if step % 4 == 3:
        model.eval()
        with torch.no_grad():
            model(torch.randn(N, 12))
        model.train()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "state.pt")
