"""Counting in a training as it runs: once per signature, by module and phase, and whatever scripts do meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from ergometry.core.series import EVALUATIONS
from ergometry.integrations.counting import counter
from ergometry.integrations.counting.counter import WorkCounter
from support.counted import Block, Language, by_torch, cnn, loop, mlp, squares, train

N = 9
FIRST, SECOND = 2 * N * 12 * 20, 2 * N * 20 * 7


def batches(n: int, rows: int = N) -> list[torch.Tensor]:
    return [torch.randn(rows, 12) for _ in range(n)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the passes that are counted under the mode."""
    found: list[str] = []
    keep = WorkCounter._keep

    def kept(self: WorkCounter, running: Any, *args: Any) -> Any:
        found.append(running.kind)
        return keep(self, running, *args)

    monkeypatch.setattr(WorkCounter, "_keep", kept)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_on() -> Any:
    yield
    assert _get_current_dispatch_mode_stack() == []


# Once per signature


def test_a_signature_is_counted_once_and_used_often(passes: list[str]) -> None:
    model = mlp()
    trained = train(loop(model, [torch.randn(n, 12) for n in (4, 4, 4, 6, 4, 6)]))
    # The sizes of the optimizer's state do not depend on the batch's.
    assert sorted(passes) == ["backward", "backward", "call", "call", "optimizer", "tail", "tail"]
    one = sum(by_torch(model, torch.randn(2, 12))) / 2
    assert trained.product_flops == [n * one for n in (4, 4, 4, 6, 4, 6)]
    uses = {(p["phase"], p["root"], p["flops"]): p["uses"] for p in trained.profiles}
    assert sorted(uses.values()) == [2, 2, 2, 2, 4, 4, 4, 4, 6]


def test_a_step_has_the_work_of_its_phases() -> None:
    model = mlp()
    trained = train(loop(model, batches(3)))
    parameters = sum(p.numel() for p in model.parameters())
    for row in trained.work:
        assert row["forward_flops"] == FIRST + SECOND + N * 20 + 2 * N * 7
        assert row["backward_flops"] == FIRST + 2 * SECOND + N * 20 + N * 27 + 3 * N * 7
        assert row["optimizer_flops"] == 2 * parameters
        assert row["optimizer_bytes"] == 3 * 4 * parameters, "parameter and gradient read, parameter written"
        assert row["uncounted"] == row["recomputed_flops"] == row["communication_bytes"] == 0
        assert row["optimizer_bytes"] < row["parameter_bytes"] < sum(row[f"{p}_bytes"] for p in PHASES)
    assert trained.product_flops == [2 * FIRST + 3 * SECOND] * 3


PHASES = ("forward", "backward", "optimizer")


def test_uses_of_profiles_and_rows_of_steps_tell_the_same() -> None:
    trained = train(loop(Language(), [torch.arange(12).reshape(2, 6) for _ in range(4)]))
    for phase in PHASES:
        by_steps = sum(row[f"{phase}_flops"] for row in trained.work)
        assert sum(p["uses"] * p["flops"] for p in trained.profiles if p["phase"] == phase) == by_steps
        assert sum(trained.by_path(phase).values()) == by_steps
        moved = sum(sum(trained.by_path(phase, column).values()) for column in (5, 6, 7, 8))
        assert moved == sum(row[f"{phase}_bytes"] for row in trained.work)


@pytest.mark.parametrize(
    "make", [mlp, lambda: Block(checkpoint=False), lambda: Block(checkpoint=True), cnn, lambda: nn.LSTM(12, 5)]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_training_bits_are_the_same(make: Callable[[], nn.Module], autocast: bool) -> None:
    found = []
    for measured in (False, True):
        torch.manual_seed(0)
        model = make()
        shape = (
            (2, 6, 16) if isinstance(model, Block) else (2, 4, 10, 10) if len(list(model.modules())) == 5 else (9, 12)
        )
        data = [torch.randn(shape) for _ in range(3)]
        run = loop(model, data, optimizer=torch.optim.AdamW(model.parameters(), 0.01))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            _ = train(run) if measured else run()
        found.append([p.detach().clone() for p in model.parameters()] + [torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# By module


def test_work_belongs_to_the_module_that_ran_forward_and_backward() -> None:
    n, s, d = 2, 6, 16
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        trained = train(loop(nn.Sequential(Block(), Block()), [torch.randn(n, s, d) for _ in range(3)]))
    forward, backward = trained.by_path("forward", 4), trained.by_path("backward", 4)
    t = n * s
    for block in "01":
        assert forward[f"{block}.norm1"] == 3 * 8 * t * d
        assert forward[f"{block}.feed.0"] == forward[f"{block}.feed.2"] == 3 * 2 * t * d * 4 * d
        assert forward[f"{block}.feed.1"] == 3 * 5 * t * 4 * d
        assert forward[f"{block}.attention.qkv"] == 3 * 2 * t * d * 3 * d
        assert forward[f"{block}.attention"] == 3 * 4 * n * s * s * d, "what a module runs itself is its own"
        assert forward[block] == 3 * 2 * t * d, "the residual sums"
        assert backward[f"{block}.attention"] >= 3 * 10 * n * s * s * d
        assert backward[f"{block}.feed.1"] == 3 * 11 * t * 4 * d
        assert backward[f"{block}.feed.2"] == 3 * (2 * 2 * t * d * 4 * d + t * d)
        # Gradients of x by two ways are summed as a part of the module that gave the later one.
        assert backward[f"{block}.norm2"] == 3 * (13 + 1) * t * d
    assert forward[""] == 3 * 2 * t * d, "squares and their sum, outside of any module"


def test_recomputed_work_belongs_to_its_module() -> None:
    for way in (True, False):
        inputs = [torch.randn(2, 6, 16, requires_grad=True) for _ in range(2)]
        trained = train(loop(nn.Sequential(Block(checkpoint=way)), inputs))
        plain = train(loop(nn.Sequential(Block()), inputs))
        again, once = trained.by_path("backward"), plain.by_path("backward")
        assert again["0.feed.0"] == once["0.feed.0"] + 2 * 2 * 12 * 16 * 64
        assert again["0.feed.1"] == once["0.feed.1"] + 2 * 5 * 12 * 64
        assert again["0.norm1"] == once["0.norm1"]
        for row, other in zip(trained.work, plain.work, strict=True):
            # Gradients of the inputs are accumulated by the second training.
            model = row["forward_flops"] + row["backward_flops"] - row["recomputed_flops"]
            assert model + 2 * 6 * 16 == other["forward_flops"] + other["backward_flops"]


class Shared(nn.Module):
    """One layer under two names, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.first(x)))


def test_a_shared_module_has_its_first_name_and_each_call_counts() -> None:
    trained = train(loop(Shared(), batches(2)))
    product = 2 * N * 144
    assert trained.product_flops == [3 * product + 5 * product] * 2
    assert trained.by_path("forward")["first"] == 2 * 3 * product
    assert "second" not in trained.by_path("forward")
    assert trained.by_path("backward")["first"] > 2 * 5 * product


def test_shared_weights_are_one_parameter() -> None:
    model = Language()
    trained = train(loop(model, [torch.arange(12).reshape(2, 6)] * 2))
    assert trained.by_path("optimizer")[""] == 2 * 2 * sum(p.numel() for p in model.parameters())


# Losses, several models, evaluation


def test_losses_count_as_forward_be_they_functions_or_modules() -> None:
    y, found = torch.zeros(N, dtype=torch.long), []
    for loss in (F.cross_entropy, nn.CrossEntropyLoss()):
        trained = train(loop(mlp(), batches(3), loss=lambda out, loss=loss: loss(out, y)))
        assert [row["uncounted"] for row in trained.work] == [0, 0, 0]
        found.append([row["forward_flops"] for row in trained.work])
    assert found[0] == found[1] == [FIRST + SECOND + 20 * N + 5 * 7 * N + 2 * N] * 3


def test_a_module_without_parameters_before_the_first_forward_is_no_work_of_a_step() -> None:
    def steps() -> None:
        x = nn.Softmax(1)(torch.randn(N, 12))
        loop(mlp(), [x])()

    trained = train(steps)
    assert trained.work[0]["forward_flops"] == FIRST + SECOND + N * 20 + 2 * N * 7


def test_several_models_in_a_step_keep_their_own_names() -> None:
    class Generator(nn.Linear):
        pass

    class Critic(nn.Linear):
        pass

    generator, critic = Generator(12, 12), Critic(12, 1)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (generator, critic)]

    def steps() -> None:
        for x in batches(3):
            critic(generator(x)).sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    trained = train(steps)
    roots: dict[tuple[str, str], float] = {}
    for p in trained.profiles:
        roots[p["phase"], p["root"]] = roots.get((p["phase"], p["root"]), 0.0) + p["uses"]
    for phase in ("forward", "backward"):
        assert roots[phase, "Generator"] == roots[phase, "Critic"] == 3
    assert roots["optimizer", "SGD"] == 2 * 3
    assert trained.product_flops == [2 * N * 12 * (12 + 1) + 2 * N * 12 * (12 + 2)] * 3
    assert len(trained.work) == 3
    assert {row["optimizer_flops"] for row in trained.work} == {2 * (12 * 12 + 12 + 12 + 1)}


def test_a_graph_that_is_run_through_twice_is_counted_twice() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def steps() -> None:
        for x in batches(3):
            out = model(x)
            out.sum().backward(retain_graph=True)
            out.square().sum().backward()
            optimizer.step()

    trained = train(steps)
    assert trained.product_flops == [FIRST + SECOND + 2 * (FIRST + 2 * SECOND)] * 3
    assert [row["uncounted"] for row in trained.work] == [0, 0, 0]
    once, parameters = FIRST + 2 * SECOND + N * 20 + N * 27, sum(p.numel() for p in model.parameters())
    # The second differentiates squares too; gradients are added to, but by the very first.
    both = 2 * once + 3 * N * 7
    assert [row["backward_flops"] for row in trained.work] == [both + parameters] + [both + 2 * parameters] * 2


def test_accumulated_batches_are_added() -> None:
    trained = train(loop(mlp(), batches(6), accumulate=3))
    assert trained.product_flops == [3 * (2 * FIRST + 3 * SECOND)] * 2


def test_a_backward_that_adds_to_gradients_moves_more_than_one_that_makes_them() -> None:
    model = mlp()
    parameters = sum(p.numel() for p in model.parameters())
    whole, apart = (train(loop(model, batches(n), accumulate=n)).work[-1] for n in (2, 1))
    assert whole["backward_flops"] == 2 * apart["backward_flops"] + parameters
    assert whole["backward_bytes"] == 2 * apart["backward_bytes"] + 3 * 4 * parameters


def test_evaluation_has_profiles_of_its_own_and_is_no_work_of_a_step(passes: list[str]) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def steps() -> None:
        for _ in range(2):
            model.train()
            for x in batches(2):
                squares(model(x)).backward()
                optimizer.step()
                optimizer.zero_grad()
            model.eval()
            with torch.no_grad():
                for x in batches(3):
                    model(x)

    trained = train(steps)
    assert [p["uses"] for p in trained.profiles if p["phase"] == "evaluation"] == [6]
    assert trained.product_flops == [2 * FIRST + 3 * SECOND] * 4
    assert passes.count("call") == 2
    assert len(trained.client.table(EVALUATIONS)) == 2


def test_a_long_evaluation_without_a_loader_is_counted_as_it_goes() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def steps() -> None:
        for _ in range(2):
            squares(model(batches(1)[0])).backward()
            optimizer.step()
            with torch.no_grad():
                for x in batches(300):
                    model(x)

    assert [p["uses"] for p in train(steps).profiles if p["phase"] == "evaluation"] == [600]


def test_a_teacher_before_the_model_is_work_of_the_step() -> None:
    teacher, model = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def steps() -> None:
        from torch.utils.data import DataLoader

        for x in DataLoader(torch.randn(3 * N, 12), batch_size=N):
            with torch.no_grad():
                wanted = teacher(x)
            F.mse_loss(model(x), wanted).backward()
            optimizer.step()

    trained = train(steps)
    assert trained.product_flops == [3 * FIRST + 4 * SECOND] * 3
    assert {p["phase"] for p in trained.profiles} == {"forward", "backward", "optimizer"}


# What changes under way


def test_layers_that_are_unfrozen_are_counted_from_then_on() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def steps() -> None:
        for step in range(4):
            model[0].requires_grad_(step >= 2)  # type: ignore[index]
            squares(model(torch.randn(N, 12))).backward()
            optimizer.step()

    assert train(steps).product_flops == [FIRST + 2 * SECOND] * 2 + [2 * FIRST + 3 * SECOND] * 2


def test_layers_of_a_large_model_that_are_frozen_are_noticed_by_the_graph_that_is_made() -> None:
    model = nn.Sequential(*(nn.Linear(12, 12) for _ in range(40)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    product = 2 * N * 144

    def steps() -> None:
        for step in range(8):
            if step == 5:
                model[:20].requires_grad_(False)
            squares(model(torch.randn(N, 12))).backward()
            optimizer.step()

    flops = train(steps).product_flops
    assert flops[:5] == [(40 + 79) * product] * 5
    assert flops[6:] == [(40 + 39) * product] * 2, "from the step after that on"


class Adapted(nn.Module):
    """A layer with a low-rank update."""

    def __init__(self, layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, rank, False), nn.Linear(rank, layer.out_features, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


SURGERY: dict[str, Callable[[nn.Sequential], None]] = {
    "a module replaced": lambda m: setattr(m, "2", nn.Linear(20, 5)),
    "a module added": lambda m: m.append(nn.Linear(7, 3)) and None,
    "LoRA": lambda m: setattr(m, "0", Adapted(m[0])),
    "a parameter replaced": lambda m: (
        setattr(m[2], "weight", nn.Parameter(torch.randn(5, 20)[:, :20])) or setattr(m[2], "bias", None)
    ),
    "data replaced": lambda m: setattr(m[2].weight, "data", torch.randn(3, 20)) or setattr(m[2], "bias", None),
    "a module deleted": lambda m: m.__delitem__(2),
}


@pytest.mark.parametrize("name", SURGERY)
def test_a_model_that_is_changed_is_counted_anew(name: str) -> None:
    model = mlp()

    def steps() -> None:
        for step in range(4):
            if step == 2:
                SURGERY[name](model)  # type: ignore[arg-type]
            parameters = [p for p in model.parameters() if p.requires_grad]
            model.zero_grad()
            squares(model(torch.randn(N, 12))).backward()
            torch.optim.SGD(parameters, 0.1).step()

    trained = train(steps)
    changed = float(sum(by_torch(model, torch.randn(N, 12))))
    assert trained.product_flops[:2] == [2 * FIRST + 3 * SECOND] * 2
    assert trained.product_flops[2:] == [changed] * 2 != trained.product_flops[:2]
    if name == "LoRA":
        assert {"0.down", "0.up", "0.layer"} <= set(trained.by_path("forward"))


# Optimizers


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}])
def test_optimizers_are_counted_in_their_own_phase(options: dict[str, Any]) -> None:
    model = nn.Linear(12, 40)
    trained = train(loop(model, batches(4), optimizer=torch.optim.AdamW(model.parameters(), 0.1, **options)))
    n = 12 * 40 + 40
    for row in trained.work[1:]:
        assert row["optimizer_flops"] == pytest.approx(14 * n, abs=10)
    names = {p["root"] for p in trained.profiles if p["phase"] == "optimizer"}
    assert names == {"AdamW"}
    if "fused" in options:
        assert trained.work[1]["optimizer_bytes"] == pytest.approx(4 * 7 * n, abs=40), "θ, g, m, v; θ, m, v"
        assert trained.work[1]["optimizer_bytes"] < trained.work[0]["optimizer_bytes"], "the first makes the state"


def test_an_optimizer_that_raises_leaves_nothing_on_and_the_next_is_counted() -> None:
    class Raising(torch.optim.SGD):
        raises = False

        def step(self, closure: Any = None) -> Any:
            if self.raises:
                raise ValueError("the script's own")
            return super().step(closure)

    model = nn.Linear(12, 7)
    optimizer = Raising(model.parameters(), 0.1)

    def steps() -> None:
        for step in range(3):
            optimizer.raises = step == 0
            squares(model(torch.randn(N, 12))).backward()
            try:
                optimizer.step()
            except ValueError:
                assert step == 0

    assert [row["optimizer_flops"] for row in train(steps).work] == [2 * (12 * 7 + 7)] * 2


def test_a_closure_has_its_forward_and_backward_beside_the_optimizers_own_work() -> None:
    model, x = nn.Linear(12, 7), torch.randn(N, 12)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = squares(model(x))
        loss.backward()
        return loss

    def steps() -> None:
        for _ in range(2):
            optimizer.step(closure)

    trained = train(steps)
    for row, products in zip(trained.work, trained.product_flops, strict=True):
        assert row["uncounted"] == 0
        calls = products / (2 * 2 * N * 12 * 7)
        assert calls == int(calls) >= 1
        assert 0 < row["optimizer_flops"] < 200 * 91


def test_an_optimizer_within_a_backward_is_counted_apart() -> None:
    model = nn.Linear(12, 7)
    optimizers = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}

    def step(p: torch.Tensor) -> None:
        optimizers[p].step()
        p.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)

    def steps() -> None:
        for x in batches(3):
            squares(model(x)).backward()

    trained = train(steps)
    total = [sum(row[f"{phase}_flops"] for row in trained.work) for phase in PHASES]
    assert total[2] == 3 * 2 * (12 * 7 + 7)
    assert sum(trained.product_flops) == 3 * 2 * 2 * N * 12 * 7


# What stands in the way


class Theirs(TorchDispatchMode):
    """A mode of the script's own."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Theirs.seen += 1
        return func(*args, **(kwargs or {}))


def test_modes_of_the_script_are_left_alone() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    stacks = []

    def steps() -> None:
        for x in batches(3):
            with Theirs() as theirs:
                out = model(x)
                stacks.append(_get_current_dispatch_mode_stack() == [theirs])
            loss = squares(out)
            with Theirs():
                loss.backward()
                optimizer.step()

    trained = train(steps)
    assert stacks == [True] * 3
    assert trained.product_flops == [2 * FIRST + 3 * SECOND] * 3


def test_a_mode_that_is_entered_after_a_forward_and_left_after_a_backward_is_left_in_order() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def steps() -> None:
        for x in batches(3):
            out = model(x)
            with Theirs() as theirs:
                squares(out).backward()
                assert _get_current_dispatch_mode_stack()[-1] is theirs
            optimizer.step()

    trained = train(steps)
    assert trained.product_flops == [2 * FIRST + 3 * SECOND] * 3


def test_a_forward_that_raises_is_counted_when_it_does_not() -> None:
    class Failing(nn.Linear):
        fails = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            if self.fails:
                raise ValueError("the script's own")
            return out

    model = Failing(12, 7)

    def steps() -> None:
        with pytest.raises(ValueError, match="own"):
            model(torch.randn(N, 12))
        model.fails = False
        loop(model, batches(2))()

    assert train(steps).product_flops == [4 * N * 12 * 7] * 2


def test_a_backward_of_what_no_forward_was_seen_is_not_known() -> None:
    weight = torch.zeros(12, 7, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.1)

    def steps() -> None:
        (torch.randn(N, 12) @ weight).sum().backward()
        optimizer.step()

    (row,) = train(steps).work
    assert row["uncounted"] == 1
    assert math.isnan(row["forward_flops"])
    assert math.isnan(row["backward_flops"])
    assert row["optimizer_flops"] == 2 * 84


def test_operators_that_are_not_known_are_named_with_their_share_of_the_time() -> None:
    library = torch.library.Library("ergometry_counter", "DEF")
    library.define("odd(Tensor a) -> Tensor")
    library.impl("odd", lambda a: a.sin() * 1, "CompositeExplicitAutograd")

    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                extra = torch.ops.ergometry_counter.odd(x)
            return super().forward(x + extra)

    trained = train(loop(Odd(12, 7), batches(2)))
    (detail,) = [detail for code, detail in trained.client.notices if code == "flops.uncounted"]
    assert "ergometry_counter.odd (" in detail
    assert "% of the counted time" in detail
    assert [row["uncounted"] for row in trained.work] == [1, 1]
    assert not any(math.isnan(row["forward_flops"]) for row in trained.work), "the rest is counted"


def test_counting_stops_where_it_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counter, "FREE_S", -1.0)
    monkeypatch.setattr(counter, "SHARE", 0.0)
    trained = train(loop(mlp(), batches(3)))
    assert all(math.isnan(value) for value in trained.product_flops)
    assert [row["uncounted"] for row in trained.work] == [1, 1, 1]
    assert "flops.unknown" in [code for code, _ in trained.client.notices]


def test_a_backward_of_calls_known_apart_is_told_by_modules_when_it_comes_again() -> None:
    one, other = nn.Linear(12, 12), nn.Linear(12, 12)
    optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], 0.1)

    def steps() -> None:
        for model in (one, other):
            squares(model(torch.randn(N, 12))).backward()
            optimizer.step()
        for _ in range(4):
            squares(other(one(torch.randn(N, 12)))).backward()
            optimizer.step()

    trained = train(steps)
    assert trained.product_flops[2:] == [5 * 2 * N * 144] * 4
    backward = [p for p in trained.profiles if p["phase"] == "backward" and p["product_flops"]]
    assert {p["root"] for p in backward} == {"Linear", ""}
    nameless = sum(p["uses"] for p in backward if p["root"] == "")
    assert nameless == 1, "the first time only"


def test_what_is_told_of_counting_is_small_however_large_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    trained = train(loop(nn.Sequential(*(nn.Linear(12, 12) for _ in range(300))), batches(2)))
    assert len(json.dumps(trained.client.labels["profiles"])) < 60_000
    assert all(len(p["items"]) <= 200 for p in trained.profiles)
    assert sum(p["uses"] * p["flops"] for p in trained.profiles) == sum(
        row[f"{phase}_flops"] for row in trained.work for phase in PHASES
    )
