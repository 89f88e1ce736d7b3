"""Trains the same model with one optimizer after the other, and at last embeddings with sparse gradients."""

import torch
from saving import save
from torch import nn

KINDS = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "foreach": False}),
    (torch.optim.SGD, {"lr": 0.1, "fused": True}),
    (torch.optim.SGD, {"lr": torch.tensor(0.1), "foreach": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"lr": 1e-2, "foreach": True, "amsgrad": True}),
    (torch.optim.Adam, {"lr": torch.tensor(1e-2), "fused": True}),
    (torch.optim.AdamW, {"lr": 1e-2, "foreach": False}),
    (torch.optim.Adagrad, {"lr": 1e-2, "fused": True}),
    (torch.optim.RMSprop, {"lr": 1e-2, "centered": True}),
    (torch.optim.Rprop, {"lr": 1e-2}),
    (torch.optim.NAdam, {"lr": 1e-2}),
    (torch.optim.ASGD, {"lr": 1e-2, "foreach": True}),
]


def dense(first):
    parts = {}
    step = first
    for n, (kind, options) in enumerate(KINDS):
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2))
        body, head = ({"params": model[i].parameters()} for i in (0, 3))
        optimizer = kind([body, head], **options)
        for _ in range(4):
            loss = nn.functional.mse_loss(model(torch.randn(7, 6)), torch.randn(7, 2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step} loss {loss.item()!r} examples 7")
            step += 1
        parts |= {f"model{n}": model, f"optimizer{n}": optimizer}
    return parts, step


def sparse(first):
    table = nn.Embedding(50, 8, sparse=True)
    head = nn.Linear(8, 5)
    model = nn.Sequential(table, nn.Flatten(0, 0), head)
    of_table = torch.optim.SparseAdam(table.parameters(), lr=1e-2)
    of_head = torch.optim.Adam(head.parameters(), lr=1e-2)
    for step in range(first, first + 5):
        words, y = torch.randint(0, 50, (9,)), torch.randint(0, 5, (9,))
        of_table.zero_grad()
        of_head.zero_grad()
        loss = nn.functional.cross_entropy(model(words), y)
        loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad.clone() for p in model.parameters()]
        of_table.step()
        of_head.step()
        moves = [p.detach() - old for p, old in zip(model.parameters(), before)]
        pairs = [(g.double(), d.double()) for g, d in zip(gradients, moves)]
        sums = {
            "gradient_sq": sum((g * g).sum() for g, _ in pairs),
            "move_sq": sum((d * d).sum() for _, d in pairs),
            "work": -sum((g * d).sum() for g, d in pairs),
        }
        words = " ".join(f"{name} {value.item()!r}" for name, value in sums.items())
        print(f"step {step} loss {loss.item()!r} examples 9 {words}")
    return {"embeddings": model, "of_table": of_table, "of_head": of_head}


def main():
    torch.manual_seed(0)
    parts, step = dense(0)
    save(**parts, **sparse(step))


if __name__ == "__main__":
    main()
