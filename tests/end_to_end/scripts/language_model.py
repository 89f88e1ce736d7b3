"""Trains a small transformer on the bytes of its own source, with tied embeddings and a warm-up of the rate."""

import argparse
from pathlib import Path

import torch
from saving import save
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = (
            part.view(n, length, self.heads, -1).transpose(1, 2) for part in self.mix(self.first(x)).split(width, 2)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class LanguageModel(nn.Module):
    def __init__(self, width=16, heads=2, depth=2, length=24):
        super().__init__()
        self.words, self.places = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.head = nn.Linear(width, 256, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens, targets=None):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        logits = self.head(self.blocks(x))
        if targets is None:
            return logits
        return {"logits": logits, "loss": functional.cross_entropy(logits.flatten(0, 1), targets.flatten())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(0)
    text = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    for step in range(args.steps):
        starts = torch.randint(0, len(text) - 25, (6,))
        rows = torch.stack([text[i : i + 25] for i in starts])
        loss = model(rows[:, :-1], rows[:, 1:])["loss"]
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        warm_up.step()
        print(f"step {step} loss {loss.item()!r} examples 6 tokens 144 rate {rate!r} norm {norm.item()!r}")
    print("parameters", sum(p.numel() for p in model.parameters()))
    model.eval()
    with torch.no_grad():
        tokens = text[:10].view(1, -1)
        for _ in range(5):  # writes on, a byte at a time
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    print("wrote", tokens[0, 10:].tolist())
    save(model=model, optimizer=optimizer)


if __name__ == "__main__":
    main()
