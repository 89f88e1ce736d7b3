"""Trains with activation checkpointing: the forward of the blocks is computed again in the backward."""

import torch
from saving import save
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class Network(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)) for _ in range(3)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        if self.how == "sequential":
            return self.head(checkpoint_sequential(list(self.blocks), 2, x, use_reentrant=False))
        for block in self.blocks:
            x = block(x) if self.how == "none" else checkpoint(block, x, use_reentrant=self.how == "reentrant")
        return self.head(x)


def main():
    torch.manual_seed(0)
    step, parts = 0, {}
    for how in ("none", "reentrant", "other", "sequential"):
        model = Network(how)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(4):
            x = torch.randn(10, 8, requires_grad=True)
            loss = nn.functional.mse_loss(model(x), torch.zeros(10, 2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step} loss {loss.item()!r} examples 10")
            step += 1
        parts |= {f"{how}_model": model, f"{how}_optimizer": optimizer}
    # A part of the network is checkpointed outside any module's forward.
    body, head = nn.Linear(8, 8), nn.Linear(8, 2)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    for _ in range(4):
        x = torch.randn(10, 8)
        loss = head(checkpoint(body, x, use_reentrant=False)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step} loss {loss.item()!r} examples 10")
        step += 1
    save(**parts, body=body, head=head)


if __name__ == "__main__":
    main()
