"""Messages between two real processes: collectives that a script calls, and those of DistributedDataParallel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ergometry.integrations.counting import collectives

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
)

SCRIPT = """
import json, sys, torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import nn
from ergometry.integrations.counting.mode import CountingMode
from support.counted import loop, train

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
alone = [dist.new_group([r]) for r in range(2)][rank]
found = {}
x = torch.ones(6)
CALLS = {
    "all_reduce": lambda: dist.all_reduce(x),
    "all_reduce_alone": lambda: dist.all_reduce(x, group=alone),
    "all_gather": lambda: dist.all_gather([torch.empty(6) for _ in range(2)], x),
    "broadcast": lambda: dist.broadcast(x, 0),
    "reduce_scatter": lambda: dist.reduce_scatter(torch.empty(3), [torch.ones(3), torch.ones(3)]),
    "all_to_all": lambda: dist.all_to_all_single(torch.empty(6), x),
    "functional_all_reduce": lambda: functional.all_reduce(x, "sum", dist.group.WORLD).sum(),
    "functional_all_gather": lambda: functional.all_gather_tensor(x, 0, dist.group.WORLD).sum(),
    "point_to_point": lambda: dist.send(x, 1) if rank == 0 else dist.recv(x, 0),
    "barrier": lambda: dist.barrier(),
}
for name, call in CALLS.items():
    try:
        with CountingMode() as mode:
            call()
        found[name] = [mode.messages, sorted(mode.unknown)]
    except RuntimeError as error:
        found[name] = str(error)
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 7)))
torch.manual_seed(rank)
trained = train(loop(model, [torch.randn(9, 12) for _ in range(3)]))
found["ddp"] = [trained.work, trained.client.notices, sorted(trained.by_path("forward")),
                [p["collectives"] for p in trained.profiles if p["phase"] == "backward" and p["root"]]]
bits = [p.detach().flatten().tolist() for p in model.parameters()]
found["bits"] = bits
if rank == 0:
    print(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("ranks") / "store"
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(store)],
            cwd=Path(__file__).parents[2], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended[0][1] + ended[1][1]
    return dict(json.loads(ended[0][0].splitlines()[-1]))


@pytest.mark.parametrize(
    ("call", "kind", "message", "sent"),
    [
        ("all_reduce", "all_reduce", 24, 24),  # 2·(n-1)/n of it
        ("all_reduce_alone", "all_reduce", 24, 0),
        ("all_gather", "all_gather", 48, 24),
        ("broadcast", "broadcast", 24, 24),
        ("reduce_scatter", "reduce_scatter", 24, 12),
        ("all_to_all", "all_to_all", 24, 12),
        ("functional_all_reduce", "all_reduce", 24, 24),
        ("functional_all_gather", "all_gather", 48, 24),
        ("point_to_point", "send", 24, 24),
    ],
)
def test_messages_and_what_a_ring_sends_of_them(
    found: dict[str, Any], call: str, kind: str, message: int, sent: int
) -> None:
    if isinstance(found[call], str):
        pytest.skip(f"this backend does not do it: {found[call]}")
    messages, unknown = found[call]
    assert messages == {kind: [1, message, sent]}
    assert unknown == []


def test_waiting_is_no_message(found: dict[str, Any]) -> None:
    assert found["barrier"] == [{}, []]


def test_gradients_that_are_averaged_between_processes_are_counted(found: dict[str, Any]) -> None:
    work, notices, paths, messages = found["ddp"]
    gradients = 4 * (12 * 20 + 20 + 20 * 7 + 7)
    # Of two processes each sends half of it twice.
    assert [row["communication_bytes"] for row in work] == [gradients] * 3
    assert all(sum(kinds["all_reduce"][1] for kinds in [m]) == gradients for m in messages if m)
    assert [row["uncounted"] for row in work] == [0, 0, 0]
    assert notices == []
    assert "module.0" in paths


def test_who_receives_sends_nothing() -> None:
    assert collectives._sent("receive", 2) == 0
    assert collectives._sent("all_reduce", 1) == 0
    assert collectives._sent("all_reduce", 8) == 2 * 7 / 8
