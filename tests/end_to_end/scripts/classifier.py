"""Trains a small convolutional network on images made up on the spot; evaluates and saves it after each epoch."""

import argparse
import random

import numpy as np
import torch
from saving import save
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_data(n, generator):
    labels = torch.randint(0, 4, (n,), generator=generator)
    images = torch.randn(n, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    return TensorDataset(images, labels)


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(216, 4)
    )


class Batches:
    """What one has instead of a DataLoader when the data are in memory."""

    def __init__(self, data, batch_size, shuffle):
        self.data, self.batch_size, self.shuffle = data, batch_size, shuffle

    def __iter__(self):
        order = torch.randperm(len(self.data)) if self.shuffle else torch.arange(len(self.data))
        for part in order.split(self.batch_size):
            yield tuple(tensor[part] for tensor in self.data.tensors)


def evaluate(model, data, args):
    model.eval()
    right = []
    modes = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "carelessly": torch.enable_grad}
    with modes[args.evaluate]():
        for x, y in data:
            right.append((model(x).argmax(1) == y).numpy())
    print("accuracy", np.concatenate(right).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--data", choices=["loader", "tensors"], default="loader")
    parser.add_argument("--evaluate", choices=["no_grad", "inference_mode", "carelessly"], default="no_grad")
    parser.add_argument("--evaluate-first", action="store_true")
    args = parser.parse_args()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    kind = DataLoader if args.data == "loader" else Batches
    train = kind(make_data(90, torch.Generator().manual_seed(4)), batch_size=16, shuffle=True)
    test = kind(make_data(50, torch.Generator().manual_seed(5)), batch_size=20, shuffle=False)
    model = make_model()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    if args.evaluate_first:
        evaluate(model, test, args)
    step = 0
    for epoch in range(args.epochs):
        model.train()
        for x, y in train:
            if random.random() < 0.5:
                x = x + 0.01 * torch.from_numpy(np.random.randn(*x.shape).astype(np.float32))
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            print(f"step {step} loss {loss.item()!r} examples {len(x)} epoch {epoch + 1}")
            step += 1
        scheduler.step()
        print("rate", scheduler.get_last_lr())
        evaluate(model, test, args)
        torch.save(model.state_dict(), f"checkpoint-{epoch}.pt")
    save(model=model, optimizer=optimizer, scheduler=scheduler)


if __name__ == "__main__":
    main()
