"""Trains a generator and a discriminator: first in turns, each on its own loss, then both on every batch."""

import torch
from saving import save
from torch import nn


def main():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
    discriminator = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(16, 1))
    criterion = nn.BCEWithLogitsLoss()
    rates = {"lr": 1e-2, "betas": (0.5, 0.9)}
    of_generator = torch.optim.Adam(generator.parameters(), **rates)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), **rates)
    ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)
    step = 0
    for _ in range(6):
        fake = generator(torch.randn(8, 4))
        of_discriminator.zero_grad()
        loss = criterion(discriminator(torch.randn(8, 6) + 1), ones) + criterion(discriminator(fake.detach()), zeros)
        loss.backward()
        of_discriminator.step()
        print(f"step {step} loss {loss.item()!r} backwards 1")
        of_generator.zero_grad()
        loss = criterion(discriminator(fake), ones)
        loss.backward()
        of_generator.step()
        print(f"step {step + 1} loss {loss.item()!r} backwards 1")
        step += 2
    for _ in range(4):
        fake = generator(torch.randn(8, 4))
        of_discriminator.zero_grad()
        first = criterion(discriminator(torch.randn(8, 6) + 1), ones) + criterion(discriminator(fake.detach()), zeros)
        first.backward()
        # The generator's gradient passes through a discriminator that is held still.
        discriminator.requires_grad_(False)
        of_generator.zero_grad()
        second = criterion(discriminator(fake), ones)
        second.backward()
        discriminator.requires_grad_(True)
        of_discriminator.step()
        of_generator.step()
        print(f"step {step} loss {first.item() + second.item()!r} backwards 2")
        step += 1
    save(generator=generator, discriminator=discriminator, first=of_generator, second=of_discriminator)


if __name__ == "__main__":
    main()
