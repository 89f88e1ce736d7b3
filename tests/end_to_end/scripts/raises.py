"""Ends by an exception from somewhere within a training step, or by Ctrl-C within a hook of whoever measures it."""

import os
import signal
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

how = sys.argv[1]


class Net(nn.Module):
    """Fails where it is told to."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        if how == "forward" and step == 3:
            raise KeyboardInterrupt
        return self.body(x[:, : 3 if how == "counted" and step == 0 else 4])


class Backward(torch.autograd.Function):
    """The identity, whose backward may fail."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if how == "backward" and step == 3:
            raise ValueError("in the backward")
        return gradient


class Data(IterableDataset):
    """Five examples, or fewer."""

    def __iter__(self):
        for i in range(5):
            if how == "data" and i == 3:
                raise OSError("in the data")
            yield torch.ones(4)


if how == "hook" and "ergometry.integrations.ledger" in sys.modules:
    Sample = sys.modules["ergometry.integrations.ledger"].Sample
    take = Sample.take_parameters
    # What a hook does when the signal comes: the file's name is that of our own code.
    source = (
        "def take_parameters(self):\n    os.kill(os.getpid(), SIGINT)\n    torch.linalg.vector_norm(torch.ones(3))\n"
    )
    names = {"os": os, "SIGINT": signal.SIGINT, "torch": torch}
    exec(compile(source, take.__code__.co_filename, "exec"), names)
    Sample.take_parameters = names["take_parameters"]

model = Net()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step, x in enumerate(DataLoader(Data(), batch_size=1)):
    optimizer.zero_grad()
    Backward.apply(model(x)).sum().backward()
    optimizer.step()
    if how == "chained" and step == 2:
        try:
            model.body(torch.ones(2, 9))
        except RuntimeError as error:
            raise ValueError("of another") from error
