"""Trains a network with batch norm, dropout and clipping; with --checkpoints it says what each step did to its loss."""

import argparse
import copy

import torch
from saving import save
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--checkpoints", action="store_true")
parser.add_argument("--steps", type=int, default=8)
args = parser.parse_args()

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 6, 3),
    nn.BatchNorm2d(6),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Dropout(0.2),
    nn.Linear(54, 5),
).double()
data = torch.utils.data.TensorDataset(torch.randn(64, 1, 8, 8).double(), torch.randint(0, 5, (64,)))
loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
criterion = nn.CrossEntropyLoss()

running, step = 0.0, 0
while step < args.steps:
    for x, y in loader:
        if args.checkpoints:
            before, stream = copy.deepcopy(model), torch.get_rng_state()
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        running += loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if args.checkpoints:
            now = torch.get_rng_state()
            with torch.no_grad():
                for p, moved in zip(before.parameters(), model.parameters()):
                    p.copy_(moved)
                torch.set_rng_state(stream)
                print(f"step {step} before {loss.item()!r} after {criterion(before(x), y).item()!r}")
            torch.set_rng_state(now)
        step += 1
save(model=model, optimizer=optimizer)
