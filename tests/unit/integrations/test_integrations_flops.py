"""Counted operations against torch's own counter and against formulas by hand; keys that tell calls apart."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ergometry.core.series import STEPS
from ergometry.integrations import torch_hooks
from ergometry.integrations.flops import MAX_SIGNATURES, FlopCounts, signature
from support.clients import Kept


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 7))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, 2),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


class Attention(nn.Module):
    def __init__(self, backend: SDPBackend = SDPBackend.MATH) -> None:
        super().__init__()
        self.qkv, self.out, self.backend = nn.Linear(16, 48), nn.Linear(16, 16), backend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        with sdpa_kernel(self.backend):
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (9, 12)),
    "CNN": (cnn, (2, 3, 10, 10)),
    "attention": (Attention, (2, 6, 16)),
    "checkpointing": (Checkpointed, (9, 12)),
}


def counted(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Return the FLOP of a forward and of its backward, as our mode counts them."""
    counts = FlopCounts()
    with counts.mode() as forward:
        loss = model(x).square().sum()
    with counts.mode() as backward:
        loss.backward()
    return forward.flops, backward.flops


def by_torch(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    with FlopCounterMode(display=False) as forward:
        loss = model(x).square().sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("autocast", [False, True])
def test_counts_are_those_of_torch(name: str, autocast: bool) -> None:
    make, shape = CASES[name]
    model, x = make(), torch.randn(shape)
    model(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = counted(model, x)
        assert ours == by_torch(model, x)
    assert min(ours) > 0


def test_counts_of_an_mlp_are_those_of_the_formula() -> None:
    model, x = mlp(), torch.randn(9, 12)
    forward = 2 * 9 * (12 * 20 + 20 * 7)
    # Of the first layer no gradient of the input is taken.
    assert counted(model, x) == (forward, 2 * forward - 2 * 9 * 12 * 20)


def test_what_is_computed_again_is_counted_again() -> None:
    plain, again = nn.Sequential(mlp(), nn.Linear(7, 3)), Checkpointed()
    x = torch.randn(9, 12)
    forward, backward = counted(plain, x)
    assert counted(again, x)[0] == forward
    # It stops once it has what it needs: the last operator of the body is not among that.
    assert backward < counted(again, x)[1] <= backward + 2 * 9 * (12 * 20 + 20 * 7)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_the_cpu_is_counted_forward_and_backward(causal: bool) -> None:
    b, h, sq, sk, d = 2, 3, 16, 24, 8
    if causal:
        sk = sq
    q, k, v = (torch.randn(b, h, s, d, requires_grad=True) for s in (sq, sk, sk))
    counts = FlopCounts()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with counts.mode() as forward:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        with counts.mode() as backward:
            out.sum().backward()
    product = 2 * b * h * sq * sk * d
    assert forward.flops == 2 * product, "QKᵀ and PV; what is masked is counted, as torch does"
    assert backward.flops == 5 * product, "QKᵀ again, dV, dP, dQ and dK"
    assert forward.uncounted == backward.uncounted == set()


def test_attention_on_the_cpu_costs_what_the_mathematics_does_but_for_what_is_computed_again() -> None:
    x = torch.randn(2, 6, 16)
    torch.manual_seed(0)
    plain = counted(Attention(SDPBackend.MATH), x)
    flash = counted(Attention(SDPBackend.FLASH_ATTENTION), x)
    assert flash[0] == plain[0]
    assert flash[1] == plain[1] + 2 * 2 * 4 * 6 * 6 * 4


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda: nn.LSTM(4, 5)(torch.randn(3, 2, 4))[0].sum().backward(), "mkldnn_rnn_layer"),
        (lambda: torch.ones(3, 4) @ torch.ones(4), "mv"),
        (lambda: torch.ones(4) @ torch.ones(4), "dot"),
        (lambda: nn.Bilinear(2, 3, 4)(torch.ones(5, 2), torch.ones(5, 3)), "_trilinear"),
    ],
)
def test_what_torch_has_no_formula_for_is_named(run: Callable[[], Any], name: str) -> None:
    with FlopCounts().mode() as mode:
        run()
    assert name in mode.uncounted
    with FlopCounts().mode() as mode:
        mlp()(torch.randn(2, 12)).relu().sum()
    assert mode.uncounted == set()


def test_a_formula_that_fails_does_not_reach_the_script() -> None:
    counts = FlopCounts()

    def fail(*_: Any, **__: Any) -> int:
        raise ValueError("unknown arguments")

    counts._formulas = {torch.ops.aten.addmm: fail, torch.ops.aten.mm: lambda *_, **__: 7}
    model, x = mlp(), torch.randn(2, 12)
    with counts.mode() as mode:
        out = model(x)
    assert torch.equal(out, model(x))
    assert mode.flops == 0
    with counts.mode() as mode:
        out.sum().backward()
    assert mode.flops % 7 == 0
    assert mode.flops > 0


def test_bits_are_the_same_under_the_mode() -> None:
    for make, shape in CASES.values():
        torch.manual_seed(0)
        model, x = make(), torch.randn(shape)
        model(x)
        found = []
        for counting in (False, True):
            model.zero_grad()
            if counting:
                counted(model, x)
            else:
                model(x).square().sum().backward()
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Keys


def key(counts: FlopCounts, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return counts.key(model, args, kwargs)


def test_calls_that_do_the_same_have_one_key() -> None:
    counts, model = FlopCounts(), mlp()
    assert key(counts, model, torch.zeros(3, 12)) == key(counts, model, torch.ones(3, 12))
    nested = {"a": [torch.zeros(2), (torch.zeros(3), 5)]}
    assert key(counts, model, nested, flag=True) == key(counts, model, nested, flag=True)
    hash(key(counts, model, nested))


@pytest.mark.parametrize(
    "other",
    [
        ((torch.zeros(4, 12),), {}),
        ((torch.zeros(3, 12, dtype=torch.float64),), {}),
        ((torch.zeros(3, 12), 5), {}),
        ((torch.zeros(3, 12), "mean"), {}),
        ((), {"x": torch.zeros(3, 13)}),
        (([torch.zeros(3, 12), torch.zeros(1)],), {}),
        (({"x": torch.zeros(3, 11)},), {}),
        ((torch.zeros(3, 12),), {"flag": False}),
    ],
)
def test_calls_with_other_arguments_have_another_key(other: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    counts, model = FlopCounts(), mlp()
    first = counts.key(model, (torch.zeros(3, 12),), {})
    assert counts.key(model, *other) != first
    assert signature(model, *other) != signature(model, (torch.zeros(3, 12),), {})


def test_what_changes_the_work_changes_the_key() -> None:
    counts, model, x = FlopCounts(), mlp(), torch.zeros(3, 12)
    keys = [key(counts, model, x)]
    model.eval()
    keys.append(key(counts, model, x))
    with torch.no_grad():
        keys.append(key(counts, model, x))
    with torch.autocast("cpu", torch.bfloat16):
        keys.append(key(counts, model, x))
    model.train()
    model[0].requires_grad_(False)  # type: ignore[index]
    keys.append(key(counts, model, x))
    keys.append(key(counts, mlp(), x))
    assert len(set(keys)) == len(keys)
    model[0].requires_grad_(True)  # type: ignore[index]
    assert key(counts, model, x) == keys[0]


def test_a_module_at_the_place_of_one_that_is_gone_has_a_key_of_its_own() -> None:
    counts, x, keys, places = FlopCounts(), torch.zeros(3, 4), set(), []
    for width in range(50):
        model = nn.Linear(4, 1 + width)
        places.append(id(model))
        keys.add(key(counts, model, x))
        del model
    assert len(keys) == 50
    assert len(set(places)) < 50, "or nothing was tested"


def test_parameters_of_a_model_that_is_gone_are_not_kept() -> None:
    counts, model = FlopCounts(), mlp()
    key(counts, model, torch.zeros(3, 12))
    gone = [weakref.ref(p) for p in model.parameters()]
    del model
    gc.collect()
    assert [p() for p in gone] == [None] * 4


def test_signatures_without_end_do_not_fill_the_memory() -> None:
    counts = FlopCounts()
    mode = counts.mode()
    for i in range(MAX_SIGNATURES + 100):
        counts.keep(i, mode, backward=False)
        counts.keep((i,), mode, backward=True)
    assert len(counts._forward) == len(counts._backward) == MAX_SIGNATURES
    assert counts.forward(0) is None
    assert counts.forward(MAX_SIGNATURES) == 0
    for i in range(1000):
        counts.called(i)
    assert len(counts.backward_key()) == 64  # type: ignore[arg-type]
    assert counts.backward_key() == ()


# Through the hooks: counted once, used often


@pytest.fixture
def kept() -> Any:
    client = Kept()
    torch_hooks.instrument(torch, client)  # type: ignore[arg-type]
    yield client
    torch_hooks.finish()


def test_a_call_that_comes_again_is_not_counted_under_the_mode_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    tracer = torch_hooks._active
    assert tracer is not None
    make = tracer.counts.mode
    monkeypatch.setattr(tracer.counts, "mode", lambda: modes.append(1) or make())
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for n in (4, 4, 4, 6, 4, 6):
        model(torch.randn(n, 12)).sum().backward()
        optimizer.step()
    assert len(modes) == 2 * 2, "the forward and the backward of two shapes"
    flops = [row["flops"] for row in kept.table(STEPS)]
    one = sum(by_torch(model, torch.randn(2, 12))) / 2
    assert flops == [n * one for n in (4, 4, 4, 6, 4, 6)]


def test_layers_that_are_unfrozen_are_counted_from_then_on(kept: Kept) -> None:
    model = mlp()
    model[0].requires_grad_(False)  # type: ignore[index]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(4):
        model[0].requires_grad_(step >= 2)  # type: ignore[index]
        model(torch.randn(4, 12)).sum().backward()
        optimizer.step()
    frozen, _, thawed, again = (row["flops"] for row in kept.table(STEPS))
    forward = 2 * 4 * (12 * 20 + 20 * 7)
    assert frozen == forward + 2 * 4 * 20 * 7
    assert thawed == again == forward + 2 * 4 * (12 * 20 + 2 * 20 * 7)


def test_accumulated_backwards_are_added(kept: Kept) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        for _ in range(3):
            model(torch.randn(4, 12)).sum().backward()
        optimizer.step()
    one = sum(by_torch(model, torch.randn(4, 12)))
    assert [row["flops"] for row in kept.table(STEPS)] == [3 * one] * 2


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
