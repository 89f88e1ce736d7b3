"""Trains models that take and return all kinds of things, and criteria that are modules themselves."""

import collections
import dataclasses

import torch
from saving import save
from torch import nn


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    loss: torch.Tensor | None = None


Pair = collections.namedtuple("Pair", "logits hidden")


class Network(nn.Module):
    """Takes a dict or keywords and returns what it is told to."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns
        self.body, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, batch=None, *, x=None, y=None):
        if isinstance(batch, dict):
            x, y = batch["x"], batch.get("y")
        hidden = torch.tanh(self.body(x))
        logits = self.head(hidden)
        if self.returns == "loss":
            return Output(logits, hidden, nn.functional.cross_entropy(logits, y))
        kinds = {"tuple": lambda *parts: parts, "list": lambda *parts: list(parts), "pair": Pair, "dataclass": Output}
        if self.returns == "dict":
            return {"logits": logits, "hidden": hidden}
        return kinds[self.returns](logits, hidden)


class WeightedLoss(nn.Module):
    """A criterion with parameters of its own that are trained too."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.inner = nn.CrossEntropyLoss()

    def forward(self, logits, y):
        return self.inner(logits, y) * torch.exp(-self.scale) + self.scale


def logits_of(out):
    if isinstance(out, dict):
        return out["logits"]
    return out.logits if hasattr(out, "logits") else out[0]


def main():
    torch.manual_seed(0)
    step, parts = 0, {}
    for n, returns in enumerate(["tuple", "list", "pair", "dataclass", "dict", "loss", "tuple"]):
        model = Network(returns)
        criterion = WeightedLoss() if n == 6 else nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=1e-2)
        for k in range(3):
            batch = {"x": torch.randn(9, 6), "y": torch.randint(0, 4, (9,))}
            out = model(batch) if k else model(**batch)
            loss = out.loss if returns == "loss" else criterion(logits_of(out), batch["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step} loss {loss.item()!r} examples 9")
            step += 1
        parts |= {f"model{n}": model, f"optimizer{n}": optimizer}
    save(**parts)


if __name__ == "__main__":
    main()
