"""The first law: every Q_k against a checkpoint, ΣW − ΣQ against the two ends, midpoint work, and bits untouched."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ergometry.core.series import FIRST_LAW, LOSSES, MODULE_WORK, OVERHEAD, STEPS
from ergometry.integrations.physics.owned_loss import OwnedLoss
from support.checkpoints import Batch, Script, cross_entropy, rows, watched, why
from support.networks import KINDS, mlp, of_kind, points

DOUBLE = of_kind("mlp", torch.float64)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1),
    "adamw, fused": lambda p: torch.optim.AdamW(p, 0.02, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4),
}


def script(optimizer: str = "sgd", **more: Any) -> Script:
    kind = {"closure": optimizer == "lbfgs"} | DOUBLE | more
    return Script(optimizer=OPTIMIZERS[optimizer], **kind)


def follow(one: Script, **options: Any) -> tuple[dict[int, dict[str, float]], list[tuple[float, float]], Any]:
    """Return the rows of a watched training and the losses by checkpoints of an unwatched one: bits are alike."""
    with watched(**options) as client:
        seen = one.train()
    alone = one.train(checkpoints=True)
    for a, b in zip(seen.bits, alone.bits, strict=True):
        assert torch.equal(a.nan_to_num(9.75), b.nan_to_num(9.75))
    assert "torch.unsupported" not in [code for code, _ in client.notices], client.notices
    return rows(client), alone.losses, client


# E1 against a checkpoint


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_q_is_a_replay_from_a_checkpoint_and_the_ledger_telescopes(optimizer: str) -> None:
    found, losses, client = follow(script(optimizer, clip=None if optimizer == "lbfgs" else 0.7))
    assert not why(client)
    # The first step is the counter's; everything after it is followed.
    assert set(found) >= set(range(2, len(losses)))
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == losses[k], k
        assert row["how"] == 1
    heat = sum(found[k]["loss_before"] - found[k]["loss_after"] for k in range(2, len(losses) - 1))
    work = sum(found[k + 1]["loss_before"] - found[k]["loss_after"] for k in range(2, len(losses) - 1))
    assert work - heat == pytest.approx(losses[-1][0] - losses[2][0], abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "bf16"])
def test_q_is_exact_and_bits_are_untouched_for_every_kind_of_network(kind: str, autocast: bool) -> None:
    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return cross_entropy(model, batch)

    found, losses, client = follow(script("adamw", **of_kind(kind), loss=loss, steps=4))
    assert len(found) >= 2, why(client)
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == losses[k], k


@pytest.mark.parametrize("more", [{"accumulate": 3}, {"scaler": True}, {"scaler": True, "accumulate": 2, "clip": 0.5}])
def test_accumulated_and_scaled_losses_are_the_unscaled_ones_of_the_whole_step(more: dict[str, Any]) -> None:
    found, losses, client = follow(script("adam", **more, steps=5))
    assert len(found) >= 3, why(client)
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == pytest.approx(losses[k], rel=1e-14)
    taken = [row for row in found.values() if math.isfinite(row["midpoint"])]
    assert len(taken) >= 3
    for row in taken:
        assert row["midpoint"] == pytest.approx(row["loss_before"] - row["loss_after"], rel=0.3)


def test_a_step_of_which_a_part_was_counted_gives_no_row() -> None:
    """Shapes that are new are the counter's: without that micro-batch Q would be of another loss."""
    sizes = iter([12, 12, 12, 12, 12, 12, 7, 12, 12, 12, 5, 12, 12, 12])

    def batch() -> Batch:
        n = next(sizes)
        return torch.randn(n, 6, dtype=torch.float64), torch.randint(0, 3, (n,))

    with watched() as client:
        script(batch=batch, accumulate=2, steps=7).train()
    found, losses = rows(client), client.table(LOSSES)
    assert {2, 4, 6} <= set(found)
    assert len(found) < 7
    for k, row in found.items():
        assert row["loss_before"] == pytest.approx(losses[k]["loss"], rel=1e-14)


def test_of_several_optimizers_the_row_is_of_the_whole_step() -> None:
    class Two:
        """Steps one half of the parameters, then the other."""

        def __init__(self, parameters: Any) -> None:
            half = list(parameters)
            self.parts = [torch.optim.SGD(half[:3], 0.1), torch.optim.Adam(half[3:], 0.05)]
            self.state: dict[Any, Any] = {}

        def zero_grad(self) -> None:
            for part in self.parts:
                part.zero_grad()

        def step(self) -> None:
            for part in self.parts:
                part.step()

    found, losses, _ = follow(replace(script(), optimizer=Two))  # type: ignore[arg-type]
    assert len(found) >= 3
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == losses[k]
        if math.isfinite(row["midpoint"]):
            assert row["midpoint"] == pytest.approx(losses[k][0] - losses[k][1], rel=0.2)


# E2


def test_midpoint_work_and_path_are_those_of_gradients_and_moves() -> None:
    """Against g and g⁺ by the script's own backward at both ends, without dropout (whose mask is the replay's)."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    one = script("momentum", make=make, steps=5)
    found, _, client = follow(one)
    torch.manual_seed(0)
    model = make()
    optimizer = one.optimizer(model.parameters())
    by_module: dict[str, list[float]] = {"0": [0.0] * 4, "2": [0.0] * 4}
    expected: dict[int, tuple[float, float]] = {}
    for k in range(one.steps):
        batch = one.batch()
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        before = [p.detach().clone() for p in model.parameters()]
        g = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        h = torch.autograd.grad(cross_entropy(model, batch), list(model.parameters()))
        d = [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]
        norms = [math.sqrt(sum(float((x * x).sum()) for x in xs)) for xs in (g, h, d)]
        middle = [float((-0.5 * (a + b) * x).sum()) for a, b, x in zip(g, h, d, strict=True)]
        expected[k] = sum(middle), 0.5 * (norms[0] + norms[1]) * norms[2]
        if k in found and math.isfinite(found[k]["midpoint"]):
            for i, name in enumerate(("0", "0", "2", "2")):
                parts = (-(g[i] * d[i]).sum(), middle[i], (g[i] ** 2).sum(), (d[i] ** 2).sum())
                by_module[name] = [x + float(y) for x, y in zip(by_module[name], parts, strict=True)]
    taken = {k: row for k, row in found.items() if math.isfinite(row["midpoint"])}
    assert len(taken) >= 3
    for k, row in taken.items():
        assert (row["midpoint"], row["path_midpoint"]) == pytest.approx(expected[k], rel=1e-12)
        assert (row["midpoint_stderr"], row["path_midpoint_stderr"]) == (0.0, 0.0)
        assert row["sampled"] == row["parameters"] == sum(p.numel() for p in model.parameters())
    assert client.labels["physics_modules"] == ["0", "2"]
    last = {client.labels["physics_modules"][int(row["module"])]: row for row in client.table(MODULE_WORK)}
    for name, sums in by_module.items():
        row = last[name]
        assert [row[c] for c in ("work", "midpoint", "grad_sq", "dtheta_sq")] == pytest.approx(sums, rel=1e-12)
        assert row["steps"] == len(taken)
        assert row["work_stderr"] == 0.0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(1e-3, 3.0), name=st.sampled_from(["sgd", "nesterov", "adam"]))
def test_alignment_is_within_one_on_any_network(seed: int, rate: float, name: str) -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = OPTIMIZERS[name](parameters)
        made.param_groups[0]["lr"] = rate
        return made

    with watched() as client:
        replace(script(), optimizer=optimizer, seed=seed, steps=5).train()
    for row in rows(client).values():
        if math.isfinite(row["midpoint"]):
            assert abs(row["midpoint"]) <= row["path_midpoint"] * (1 + 1e-12)


def test_reversing_a_step_on_the_same_batch_flips_the_sign_of_midpoint_work() -> None:
    class Swing(torch.optim.Optimizer):
        """Moves along −g, and by the next step back."""

        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})
            self.moves: list[torch.Tensor] = []

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            parameters = self.param_groups[0]["params"]
            if self.moves:
                moves, self.moves = [-move for move in self.moves], []
            else:
                moves = self.moves = [-0.1 * p.grad for p in parameters]
            for p, move in zip(parameters, moves, strict=True):
                p += move

    x = torch.randn(12, 6, dtype=torch.float64), torch.randint(0, 3, (12,))
    tanh = of_kind("mlp", torch.float64) | {
        "make": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
        "batch": lambda: x,
    }
    with watched() as client:
        Script(optimizer=Swing, **tanh, steps=10).train()
    found = rows(client)
    pairs = [(found[k], found[k + 1]) for k in range(2, 9, 2) if k + 1 in found]
    assert len(pairs) >= 3
    for there, back in pairs:
        assert there["midpoint"] > 0
        assert back["midpoint"] == pytest.approx(-there["midpoint"], rel=1e-9)
        assert back["path_midpoint"] == pytest.approx(there["path_midpoint"], rel=1e-9)


@pytest.mark.parametrize("c", [0.25, 3.0])
def test_a_rescaled_loss_rescales_work_and_heat_and_leaves_the_alignment(c: float) -> None:
    def sgd(rate: float) -> Callable[[Any], torch.optim.Optimizer]:
        return lambda p: torch.optim.SGD(p, rate, momentum=0.9, weight_decay=0.01 * (1 if rate == 0.05 else c))

    with watched() as plain:
        replace(script(), optimizer=sgd(0.05), clip=0.6).train()
    with watched() as scaled:
        replace(script(), optimizer=sgd(0.05 / c), clip=0.6 * c, scale=c).train()
    one, other = rows(plain), rows(scaled)
    assert set(one) == set(other)
    assert len(one) >= 3
    for k, row in one.items():
        for column in ("loss_before", "loss_after", "midpoint", "path_midpoint"):
            assert other[k][column] == pytest.approx(c * row[column], rel=1e-5, nan_ok=True), column


def test_of_a_large_model_blocks_stand_for_the_whole() -> None:
    """At level full: the midpoint's standard error is as large as the estimate is off."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 1100), nn.Tanh(), nn.Linear(1100, 1100), nn.Tanh(), nn.Linear(1100, 3))

    one = Script(make=make, batch=points(), optimizer=lambda p: torch.optim.SGD(p, 0.02), steps=14)
    with watched(physics="full") as client:
        one.train()
    taken = [row for row in rows(client).values() if math.isfinite(row["midpoint"])]
    assert len(taken) >= 8
    z = []
    for row in taken:
        assert 0 < row["sampled"] <= 0.021 * row["parameters"]
        assert row["midpoint_stderr"] > 0
        assert row["path_midpoint_stderr"] > 0
        # Midpoint work is close to Q, which is exact here.
        z.append((row["midpoint"] - (row["loss_before"] - row["loss_after"])) / row["midpoint_stderr"])
    assert abs(sum(z) / len(z)) < 3
    assert sum(abs(x) < 4 for x in z) >= len(z) - 1
    with watched() as client:
        one.train()
    found = rows(client).values()
    assert found
    assert all(math.isnan(row["midpoint"]) and row["sampled"] == 0 for row in found), "too dear at level light"


# What cannot be followed


def test_a_loss_that_is_not_finite_is_kept_out_and_counted() -> None:
    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        value = cross_entropy(model, batch)
        return value * math.nan if float(batch[0][0, 0]) > 0.5 else value

    with watched() as client:
        replace(script(), loss=loss, optimizer=lambda p: torch.optim.SGD(p, 0.0), steps=12).train()
    assert all(math.isfinite(row["loss_before"]) for row in rows(client).values())
    assert "not finite" in why(client)


def test_steps_that_the_scaler_skips_are_passed_over() -> None:
    def overflowing(model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return a loss whose scaled gradient is infinite on some batches."""
        return cross_entropy(model, batch) * (1e38 if batch[0][0, 0] > 0.4 else 1.0)

    single = of_kind("mlp", torch.float32)
    found, losses, client = follow(script("sgd", **single, loss=overflowing, scaler=True, steps=12))
    assert "skipped" in why(client)
    skipped = {k for k, (before, _) in enumerate(losses) if before > 1e9}
    assert len(skipped) >= 2
    assert set(found) == set(range(1, 12)) - skipped
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == losses[k]


def test_gradients_that_hooks_change_give_no_midpoint_and_the_right_q() -> None:
    def make() -> nn.Module:
        model = mlp().double()
        for p in model.parameters():
            p.register_hook(lambda g: -3.0 * g)
        return model

    found, losses, client = follow(script("sgd", make=make))
    assert "hooks or a backward of the script's own" in why(client)
    assert all(math.isnan(row["midpoint"]) for row in found.values())
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == losses[k]


def test_frozen_layers_and_parameters_without_gradients_do_not_matter() -> None:
    class Partly(nn.Module):
        """Trains its head, and holds a layer that nothing uses."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.unused = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(2, 2)
            self.body.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x).relu())

    found, losses, client = follow(script("adam", make=lambda: Partly().double()))
    assert len(found) >= 3
    assert not why(client)
    for k, row in found.items():
        assert (row["loss_before"], row["loss_after"]) == losses[k]
        assert math.isnan(row["midpoint"]) or row["midpoint"] == pytest.approx(losses[k][0] - losses[k][1], rel=0.2)


def test_the_users_own_loss_stands_in_where_a_step_cannot_be_replayed() -> None:
    """Its value is read on the way to the loss: no tape, but the loss function can be called again."""

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        value = cross_entropy(model, batch)
        return value * (2.0 if value.item() > 100 else 1.0)

    def train(model: nn.Module, loss: Callable[[Batch], torch.Tensor]) -> list[Any]:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for k in range(8):
            torch.manual_seed(k)
            optimizer.zero_grad()
            for _ in range(2):
                (0.5 * loss(points(torch.float64)())).backward()
            optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state()]

    torch.manual_seed(0)
    model = mlp().double()
    owned, one = OwnedLoss(lambda model, batch: 0.5 * loss(model, batch), copy.deepcopy(model)), copy.deepcopy(model)
    with watched(loss=owned) as client:
        seen = train(owned.model, lambda batch: 2.0 * owned(batch))
    alone = train(one, functools.partial(loss, one))
    assert all(torch.equal(a, b) for a, b in zip(seen, alone, strict=True))
    found, losses = rows(client), client.table(LOSSES)
    assert len(found) >= 4, why(client)
    assert {row["how"] for row in found.values()} == {2.0}
    for k, row in found.items():
        assert row["loss_before"] == pytest.approx(losses[k]["loss"], rel=1e-14)
    taken = [row for row in found.values() if math.isfinite(row["midpoint"])]
    assert len(taken) >= 3
    for row in taken:
        assert row["midpoint"] == pytest.approx(row["loss_before"] - row["loss_after"], rel=0.15)


# Off, on, and what it costs


def test_off_takes_nothing_and_says_nothing() -> None:
    with watched("first_law", "noise", "equilibrium", physics="off") as client:
        script().train()
    assert client.labels["physics"] == {"level": "off", "taps": {}}
    assert {kind.name for kind, _ in client.rows} & {"ledger", "first_law", "noise", "equilibrium"} == set()
    assert {"steps", "losses", "learning_rates"} <= {kind.name for kind, _ in client.rows}


def test_the_cadence_is_as_asked() -> None:
    with watched(physics_every=3) as client:
        script(steps=12).train()
    assert set(rows(client)) == {3, 6, 9}


def test_what_it_costs_is_overhead_and_no_phase_of_the_script() -> None:
    with watched() as client:
        script("adam", steps=12).train()
    steps, overhead = client.table(STEPS), client.table(OVERHEAD)[-1]
    spent_s = sum(row["cost_s"] for row in client.table(FIRST_LAW))
    assert overhead["ledger_s"] >= 0.5 * spent_s > 0
    assert overhead["hook_s"] >= 0
    phases = ("data_s", "forward_s", "backward_s", "optimizer_s", "other_s")
    for row, after in itertools.pairwise(steps):
        assert sum(after[name] for name in phases) == pytest.approx(after["t1_s"] - row["t1_s"], abs=1e-9)
    # A replay and its gradient take longer than this optimizer's step, and are no part of it.
    optimizer_s = sorted(row["optimizer_s"] for row in steps)[len(steps) // 2]
    other_s = sorted(row["other_s"] for row in steps)[len(steps) // 2]
    assert other_s > optimizer_s
