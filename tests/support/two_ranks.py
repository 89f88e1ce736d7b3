"""One of two ranks under DDP, with the tap of gradient noise on: compared with brute force, and with itself unwatched.

Run as ``python two_ranks.py RANK FILE`` in two processes; it prints "as it must be", or fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ergometry.integrations.physics.looks import MICRO_BATCHES, RANKS
from ergometry.integrations.physics.noise import Noise
from support.tapped import Training


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 3))


def data(rank: int, step: int) -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * step + rank))


def loss(out: torch.Tensor) -> torch.Tensor:
    return (out - 1.0).square().mean()


def gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    grads = torch.autograd.grad(loss(model(x)), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in grads]).double()


def train(rank: int, *, watched: bool) -> tuple[list[torch.Tensor], list[dict[str, float]], list[tuple[float, ...]]]:
    """Train 4 steps, the last of two micro-batches; return the parameters, the rows and what two of them must say."""
    plain = network()
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    training = Training(Noise, watched=watched)
    expected = []
    for step in range(3):
        each = [gradient(plain, data(r, step)) for r in range(2)]
        whole = (each[0] + each[1]) / 2
        expected.append((float(each[rank] @ each[rank]), float(whole @ whole)))
        training.step(model, optimizer, [data(rank, step)], loss)
    parts = data(rank, 3).split(2)
    each = [gradient(plain, x) for x in parts]
    whole = each[0] + each[1]
    expected.append((2 * sum(float(g @ g) for g in each), float(whole @ whole)))
    with model.no_sync():
        training.backward(model, parts[0], loss)
    training.backward(model, parts[1], loss)
    training.optimize(optimizer)
    return [p.detach() for p in plain.parameters()], training.rows(), expected


def main() -> int:
    """Meet the other rank, train twice, compare."""
    torch.set_num_threads(1)
    rank, file = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    watched, rows, expected = train(rank, watched=True)
    unwatched, none, _ = train(rank, watched=False)
    dist.destroy_process_group()
    assert not none
    assert all(map(torch.equal, watched, unwatched)), "bits"
    assert [(row["how"], row["small_batch"], row["big_batch"]) for row in rows] == [
        (RANKS, 4, 8),
        (RANKS, 4, 8),
        (MICRO_BATCHES, 2, 4),
    ], rows
    for row, pair in zip(rows, expected[1:], strict=True):
        for found, true in zip((row["small_sq"], row["big_sq"]), pair, strict=True):
            assert abs(found - true) < 1e-5 * true, (rank, row, pair)
    print("as it must be")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
