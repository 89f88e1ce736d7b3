"""Trains on what DataLoader workers bring, by one way of starting them; a data set of each kind."""

import argparse

import torch
from saving import save
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info


class Items(Dataset):
    """Makes an item from its number and the worker's own random stream."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return torch.full((5,), i / 24) + torch.rand(5), i % 3


class Stream(IterableDataset):
    """Yields items as they come; each worker has its part."""

    def __iter__(self):
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for i in range(worker, 20, workers):
            yield torch.full((5,), i / 20), i % 3


def collate(items):
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", choices=["fork", "spawn", "forkserver"], default="fork")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--of", choices=["items", "stream"], nargs="+", default=["items", "stream"])
    args = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    workers = {"num_workers": args.workers, "multiprocessing_context": args.start}
    loaders = {
        "items": (DataLoader(Items(), 6, shuffle=True, collate_fn=collate, persistent_workers=True, **workers), 3),
        "stream": (DataLoader(Stream(), 5, collate_fn=collate, **workers), 1),
    }
    step = 0
    for loader, epochs in (*(loaders[kind] for kind in args.of), (DataLoader(Stream(), 10), 1)):
        for epoch in range(epochs):
            for x, y in loader:
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                print(f"step {step} loss {loss.item()!r} examples {len(x)} epoch {epoch + 1}")
                step += 1
    save(model=model, optimizer=optimizer)


if __name__ == "__main__":
    main()
