"""Trains models whose operations are easily counted by hand, and prints the count of each step."""

import torch
from saving import save
from torch import nn


def product(m, k, n):
    return 2 * m * k * n


def main():
    torch.manual_seed(0)
    step, parts = 0, {}

    mlp = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    for batches in ((16,), (16,), (9,), (16, 9), (16,)):
        flops = 0
        for m in batches:
            loss = nn.functional.cross_entropy(mlp(torch.randn(m, 24)), torch.zeros(m, dtype=torch.long))
            loss.backward()
            # Of the weights twice, forward and for their gradient; of the inner layer's input once more.
            flops += 2 * product(m, 24, 48) + 3 * product(m, 48, 10)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            mlp(torch.randn(7, 24))
        print(f"step {step} loss {loss.item()!r} flops {flops}")
        step += 1
    parts |= {"mlp": mlp, "of_mlp": optimizer}

    convolution = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 5))
    optimizer = torch.optim.Adam(convolution.parameters())
    for _ in range(2):
        loss = convolution(torch.randn(5, 3, 12, 12)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        flops = 2 * product(5 * 12 * 12, 3 * 9, 4) + 3 * product(5 * 8 * 8, 4 * 25, 6)
        print(f"step {step} loss {loss.item()!r} flops {flops}")
        step += 1
    parts |= {"convolution": convolution, "of_convolution": optimizer}

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(8, 24, bias=False)

        def forward(self, x):
            q, k, v = self.mix(x).view(2, 7, 2, 12).transpose(1, 2).split(4, 3)
            return nn.functional.scaled_dot_product_attention(q, k, v)

    attention = Attention()
    optimizer = torch.optim.Adam(attention.parameters())
    for _ in range(2):
        loss = attention(torch.randn(2, 7, 8)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        heads = 2 * 2
        # The scores and the mean of the values; their backward computes the scores anew, and four products more.
        flops = 2 * product(2 * 7, 8, 24) + heads * (2 + 5) * product(7, 4, 7)
        print(f"step {step} loss {loss.item()!r} flops {flops}")
        step += 1
    save(**parts, attention=attention, of_attention=optimizer)


if __name__ == "__main__":
    main()
