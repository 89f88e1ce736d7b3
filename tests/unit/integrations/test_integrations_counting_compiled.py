"""Compiled models: compiled all the same under counting, their bits equal, their products counted alike."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INDUCTOR = sys.platform == "linux" and shutil.which("g++") is not None

COMPILED = """
import json, sys, torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters
from ergometry.integrations import torch_hooks
from support.clients import Kept

torch.set_num_threads(1)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.dropout, self.two = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(self.dropout(self.one(x)).tanh())

class Outer(nn.Module):
    # A model of which a part is compiled.

    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = torch.compile(inner, backend="eager"), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.inner(x))

def in_place(model):
    model.compile(backend="eager")
    return model

WAYS = {
    "module": lambda model: torch.compile(model, backend="eager"),
    "in place": in_place,
    "function": lambda model: torch.compile(lambda x: model(x) * 2, backend="eager"),
    "part": Outer,
}

def train(way, measured):
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = Model()
    compiled = WAYS[way](model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    client = Kept()
    if measured:
        assert torch_hooks.instrument(torch, client) is not None
    for step in range(4):
        optimizer.zero_grad()
        compiled(torch.randn(4 + step % 2, 6)).square().sum().backward()
        optimizer.step()
    if measured:
        torch_hooks.finish()
    bits = [value for p in model.parameters() for value in p.detach().flatten().tolist()]
    return {name: dict(counters[name]) for name in ("frames", "graph_break", "recompiles")}, bits, client

found = {}
for way in WAYS:
    plain, measured, again = (train(way, measured) for measured in (False, True, False))
    found[way] = [plain[:2], measured[:2], again[:2], measured[2].notices, len(measured[2].rows)]
print(json.dumps(found))
"""


def test_compiled_models_are_compiled_all_the_same_and_their_bits_are_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 4
    for plain, measured, again, notices, rows in found.values():
        assert plain[0]["frames"]["ok"] > 0
        assert measured == plain == again
        assert notices == []
        assert rows > 4


COUNTED = """
import json, sys, torch
import torch._dynamo
from torch import nn
from support.counted import Block, loop, train

torch.set_num_threads(1)
found = {}
for backend in (None, *sys.argv[1:]):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Block()
    compiled = torch.compile(model, backend=backend) if backend else model
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        trained = train(loop(compiled, [torch.randn(2, 6, 16) for _ in range(3)]))
    found[str(backend)] = [trained.product_flops, trained.work, trained.client.notices,
                           [p["root"] for p in trained.profiles if p["phase"] == "forward"]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counted() -> dict[str, list[Any]]:
    """What was counted of a model, not compiled and by each backend."""
    backends = ["eager", "aot_eager", *(["inductor"] if INDUCTOR else [])]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *backends],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_model_has_the_same_products_compiled_or_not(counted: dict[str, list[Any]]) -> None:
    plain = counted["None"]
    assert plain[0][0] > 0
    for products, work, notices, roots in (counted["eager"], counted["aot_eager"]):
        assert products == plain[0]
        assert notices == []
        assert roots == plain[3], "it is called as what was compiled"
        assert [row["uncounted"] for row in work] == [0, 0, 0]
    assert counted["eager"][1] == plain[1]


@pytest.mark.skipif(not INDUCTOR, reason="no compiler")
def test_of_fused_kernels_the_products_are_counted_and_the_rest_is_said_to_be_unknown(
    counted: dict[str, list[Any]],
) -> None:
    products, work, notices, _ = counted["inductor"]
    assert products == counted["None"][0]
    assert [code for code, _ in notices] == ["flops.fused"]
    for row in work:
        assert row["uncounted"] == 1
        assert math.isnan(row["forward_bytes"])
        assert math.isnan(row["backward_bytes"])
        assert row["optimizer_bytes"] > 0
