"""The patches: put on and taken off without a trace, silent in children, and a fault of ours is no fault of theirs."""

from __future__ import annotations

import copy
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils import data as torch_data
from torch.utils.data import dataloader

from ergometry.core.series import EVALUATIONS, LEARNING_RATES, LEDGER, LOSSES, SKIPPED, STEPS, Series
from ergometry.integrations import torch_hooks
from ergometry.integrations.tracer import Tracer
from support.clients import Kept


def instrument(client: Kept, **options: Any) -> Tracer:
    tracer = torch_hooks.instrument(torch, client, **options)  # type: ignore[arg-type]
    assert tracer is not None
    return tracer


@pytest.fixture
def kept() -> Iterator[Kept]:
    client = Kept()
    instrument(client)
    yield client
    torch_hooks.finish()


PATCHED = [
    (nn.Module, "__call__"),
    (torch.Tensor, "backward"),
    (torch.autograd, "backward"),
    (torch.amp.GradScaler, "scale"),
    (torch.amp.GradScaler, "step"),
    (dataloader.DataLoader, "__iter__"),
    (dataloader._BaseDataLoaderIter, "__next__"),
    *(
        (sys.modules[name], "unpatched_nn_module_call")
        for name in ("torch._dynamo.utils", "torch._dynamo.variables.nn_module")
        if "unpatched_nn_module_call" in vars(sys.modules.get(name, sys))
    ),
]


def patchable() -> list[Any]:
    hooks = torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks
    return [vars(owner)[name] for owner, name in PATCHED] + [list(found.items()) for found in hooks]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(a is b or (isinstance(a, list) and a == b) for a, b in zip(one, other, strict=True))


class Classifier(nn.Module):
    """A model that can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        self.fails = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("out of memory")
        return self.body(x)


def train(epochs: int = 2) -> list[torch.Tensor]:
    """Train with all that is watched, two optimizers, a scaler and a caught exception among it; return the bits."""
    torch.manual_seed(0)
    model = Classifier()
    criterion = nn.CrossEntropyLoss()
    data = torch_data.TensorDataset(torch.randn(24, 6), torch.randint(0, 3, (24,)))
    loader = torch_data.DataLoader(data, batch_size=8, shuffle=True)
    optimizers = [torch.optim.AdamW(model.body[0].parameters(), 0.01), torch.optim.SGD(model.body[3].parameters(), 0.1)]
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            for optimizer in optimizers:
                optimizer.zero_grad()
            scaler.scale(criterion(model(x), y)).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
        model.fails = True
        with pytest.raises(RuntimeError, match="out of memory"):
            model(x)
        model.fails = False
        model.eval()
        with torch.no_grad():
            for x, y in loader:
                criterion(model(x), y)
    return [*(p.detach().clone() for p in model.state_dict().values()), torch.get_rng_state()]


def told(client: Kept, table: Series) -> list[tuple[int, dict[str, float]]]:
    rows = [values for kind, values in client.rows if kind is table]
    return [(i, dict(zip(table.columns, values, strict=True))) for i, values in enumerate(rows)]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# On and off


def test_everything_that_is_patched_is_restored_twice_over() -> None:
    before = patchable()
    for _ in range(2):
        instrument(Kept())
        during = patchable()
        assert not any(a is b for a, b in zip(before[: len(PATCHED)], during, strict=False))
        assert all(len(hooks) == len(none) + 1 for hooks, none in zip(during[-2:], before[-2:], strict=True))
        torch_hooks.finish()
        assert same(before, patchable())
    torch_hooks.finish()
    torch_hooks.remove()
    assert same(before, patchable())


def test_what_others_patch_afterwards_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    instrument(Kept())
    torch_hooks.finish()
    call = vars(nn.Module)["__call__"]
    theirs = lambda self, *args, **kwargs: call(self, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(nn.Module, "__call__", theirs)
    torch_hooks.finish()
    torch_hooks.remove()
    assert vars(nn.Module)["__call__"] is theirs


def test_patches_over_patches_come_off_together() -> None:
    before = patchable()
    instrument(Kept())
    instrument(Kept())
    torch_hooks.finish()
    assert same(before, patchable())


def test_what_is_patched_looks_as_it_did() -> None:
    names = [(getattr(value, "__name__", None), value.__doc__) for value in patchable()[: len(PATCHED)]]
    instrument(Kept())
    during = [(getattr(value, "__name__", None), value.__doc__) for value in patchable()[: len(PATCHED)]]
    torch_hooks.finish()
    assert during == names


def test_after_the_end_nothing_is_watched() -> None:
    client = Kept()
    instrument(client)
    train(1)
    torch_hooks.finish()
    rows, notices = len(client.rows), len(client.notices)
    train(1)
    assert (len(client.rows), len(client.notices)) == (rows, notices)


def test_a_loader_that_was_begun_while_watched_goes_on_afterwards() -> None:
    client = Kept()
    instrument(client)
    batches = iter(torch_data.DataLoader(range(4)))  # type: ignore[arg-type]
    assert next(batches).item() == 0
    torch_hooks.finish()
    rows = len(client.rows)
    assert [int(batch) for batch in batches] == [1, 2, 3]
    assert len(client.rows) == rows


def test_a_torch_that_cannot_be_patched_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tracer: Tracer) -> None:
        raise AttributeError("no such class")

    before, client = patchable(), Kept()
    monkeypatch.setattr(torch_hooks, "_patch_data", fail)
    assert torch_hooks.instrument(torch, client) is None  # type: ignore[arg-type]
    assert same(before, patchable())
    assert [code for code, _ in client.notices] == ["torch.unsupported"]
    assert "no such class" in client.notices[0][1]


# Watching


def test_training_bits_are_the_same() -> None:
    plain = train()
    client = Kept()
    instrument(client)
    measured = train()
    torch_hooks.finish()
    assert equal(plain, measured)
    assert {code for code, _ in client.notices} == set()


def test_what_was_seen_is_what_was_done(kept: Kept) -> None:
    train(2)
    torch_hooks.finish()
    steps = kept.table(STEPS)
    assert [step["step"] for step in steps] == list(range(6)), "two optimizers of one backward are one step"
    assert [step["examples"] for step in steps] == [8.0] * 6
    assert [step["loader_pass"] for step in steps] == [1, 1, 1, 3, 3, 3]
    assert [step["backwards"] for step in steps] == [1] * 6
    assert sum(part["examples"] for part in kept.table(EVALUATIONS)) == 48
    losses = [row["loss"] for row in kept.table(LOSSES)]
    assert len(losses) == 6
    assert all(0.1 < loss < 5.0 for loss in losses), "not multiplied by the scaler"
    assert {(row["optimizer"], row["lr"]) for _, row in told(kept, LEARNING_RATES)} == {(0, 0.01), (1, 0.1)}
    assert kept.table(LEDGER)[0]["parameters"] == 6 * 8 + 8 + 8 * 3 + 3
    assert kept.labels["parameters"] == sum(p.numel() for p in Classifier().parameters())
    assert kept.labels["classes"] == 3
    assert kept.labels["devices"] == ["cpu"]


def test_losses_are_those_of_the_script(kept: Kept) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(torch.randn(3, 4)).square().mean()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert [row["loss"] for row in kept.table(LOSSES)] == expected


def test_a_step_that_the_scaler_skips_is_marked(kept: Kept) -> None:
    model = nn.Linear(4, 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for fused, bad in ((False, True), (True, True), (False, False)):
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).sum() * (float("inf") if bad else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    torch_hooks.finish()
    assert [row["flags"] for row in kept.table(STEPS)] == [SKIPPED, SKIPPED, 0]
    assert ("steps.skipped", "2") in kept.notices
    assert [row["step"] for row in kept.table(LEDGER)] == [2]


def test_the_ledger_is_of_the_gradient_before_the_script_clips_it(kept: Kept) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    expected = {}
    for step in range(40):
        optimizer.zero_grad()
        for _ in range(2):
            scaler.scale(model(torch.randn(3, 4)).square().mean()).backward()
        scaler.unscale_(optimizer)
        expected[step] = math.fsum(float(p.grad.double().square().sum()) for p in model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        assert norm > 0.02
    rows = [row for row in kept.table(LEDGER) if row["step"] > 0]
    assert len(rows) > 1
    for row in rows:
        assert row["given"] == pytest.approx(0.01 / math.sqrt(expected[row["step"]]), rel=1e-3)
        if row["sampled"] == row["parameters"]:  # else of some blocks
            assert row["grad_sq"] == pytest.approx(expected[row["step"]], rel=1e-4)
            assert row["work"] == pytest.approx(0.1 * row["given"] * row["grad_sq"], rel=1e-3)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_a_loader_that_draws_with_replacement_has_no_passes(kept: Kept, replacement: bool, batched: bool) -> None:
    data = torch_data.TensorDataset(torch.randn(6, 4))
    sampler = torch_data.RandomSampler(data, replacement=replacement)
    how = {"batch_sampler": torch_data.BatchSampler(sampler, 3, False)} if batched else {"batch_size": 3}
    loader = torch_data.DataLoader(data, **how, **({} if batched else {"sampler": sampler}))  # type: ignore[arg-type]
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        for (x,) in loader:
            model(x).sum().backward()
            optimizer.step()
    assert [row["loader_pass"] for row in kept.table(STEPS)] == ([0, 0, 0, 0] if replacement else [1, 1, 2, 2])


def test_a_loss_that_is_not_finite_leaves_a_row_that_says_so(kept: Kept) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    for bad in (0.0, math.nan, 0.0, math.inf):
        for part in (bad, -bad):  # what is added to it later does not make it finite
            (model(torch.ones(3, 4)).square().sum() + part).backward()
        optimizer.step()
    assert [math.isfinite(row["loss"]) for row in kept.table(LOSSES)] == [True, False, True, False]
    assert all(math.isnan(row["loss"]) for row in kept.table(LOSSES)[1::2])


def test_only_the_optimizers_asked_for_are_followed() -> None:
    one, two = nn.Linear(4, 2), nn.Linear(4, 2)
    mine, other = torch.optim.SGD(one.parameters(), 0.1), torch.optim.SGD(two.parameters(), 0.2)
    client = Kept()
    instrument(client, only={id(mine)}, models=[one])
    assert client.labels["parameters"] == 10
    for _ in range(3):
        (one(torch.ones(3, 4)).sum() + two(torch.ones(3, 4)).sum()).backward()
        mine.step()
        other.step()
    torch_hooks.finish()
    assert len(client.table(STEPS)) == 3
    assert {row["lr"] for _, row in told(client, LEARNING_RATES)} == {0.1}
    assert {row["parameters"] for row in client.table(LEDGER)} == {10}


def test_a_model_that_trains_in_eval_mode_is_seen_to_train(kept: Kept) -> None:
    model = nn.Linear(4, 2).eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(4):
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    torch_hooks.finish()
    steps = kept.table(STEPS)
    assert [step["examples"] for step in steps] == [3.0] * 4
    assert all(step["forward_s"] > 0 for step in steps)
    assert kept.table(EVALUATIONS) == []


def test_models_are_copied_and_pickled_while_watched(kept: Kept) -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin[0].weight, model[0].weight)
    pickle.loads(pickle.dumps(optimizer))
    copy.deepcopy(optimizer)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_model_is_the_one_that_would_have_been_traced(kept: Kept) -> None:
    model, x = nn.Linear(4, 2), torch.ones(3, 4)
    measured = torch.jit.trace(model, x).code
    torch_hooks.finish()
    assert measured == torch.jit.trace(model, x).code


# What the script raises


class Counted(nn.Module):
    """Raises, and counts how often it was called."""

    def __init__(self, *, parameters: bool) -> None:
        super().__init__()
        self.calls = 0
        if parameters:
            self.weight = nn.Parameter(torch.ones(1))

    def forward(self) -> torch.Tensor:
        self.calls += 1
        raise ValueError("the script's own")


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_what_a_module_raises_is_raised_once_and_the_watching_goes_on(kept: Kept, parameters: bool, grad: bool) -> None:
    module = Counted(parameters=parameters)
    with pytest.raises(ValueError, match="the script's own"), torch.set_grad_enabled(grad):
        module()
    assert module.calls == 1
    train(1)
    assert kept.notices == []
    assert len(kept.table(STEPS)) == 3


def test_what_a_loader_raises_is_raised_and_the_watching_goes_on(kept: Kept) -> None:
    class Broken(torch_data.Dataset[int]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> int:
            if i == 1:
                raise OSError("disk")
            return i

    batches = iter(torch_data.DataLoader(Broken()))
    assert next(batches).item() == 0
    with pytest.raises(OSError, match="disk"):
        next(batches)
    train(1)
    assert kept.notices == []
    assert len(kept.table(STEPS)) == 3


def test_what_backward_and_step_raise_is_raised_and_the_watching_goes_on(kept: Kept) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = model(torch.ones(3, 4)).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    optimizer.param_groups[0]["lr"] = "no number"
    with pytest.raises(TypeError):
        optimizer.step()
    train(1)
    assert [code for code, _ in kept.notices] == []
    assert len(kept.table(STEPS)) >= 3


# Faults of ours


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of ours")


FAULTS: dict[str, Callable[[Tracer], tuple[Any, str]]] = {
    **{
        f"machine.{name}": lambda tracer, name=name: (tracer.machine, name)
        for name in (
            "forward_begin",
            "forward_end",
            "backward_begin",
            "backward_end",
            "optimizer_begin",
            "optimizer_end",
            "data_begin",
            "data_end",
            "unwind",
            "add_examples",
            "enter",
            "leave",
            "_emit_step",
        )
    },
    "models.has_parameters": lambda tracer: (tracer.models, "has_parameters"),
    "work.call_begin": lambda tracer: (tracer.work, "call_begin"),
    "work.call_end": lambda tracer: (tracer.work, "call_end"),
    "work.begin_tail": lambda tracer: (tracer.work, "begin_tail"),
    "work.backward_begin": lambda tracer: (tracer.work, "backward_begin"),
    "work.backward_end": lambda tracer: (tracer.work, "backward_end"),
    "work.optimizer_begin": lambda tracer: (tracer.work, "optimizer_begin"),
    "work.optimizer_end": lambda tracer: (tracer.work, "optimizer_end"),
    "signatures.call": lambda tracer: (tracer.work.signatures, "call"),
    "work.rows": lambda tracer: (tracer.work.adder, "rows"),
    "losses.read": lambda tracer: (tracer.losses, "read"),
    "losses.scaled": lambda tracer: (tracer.losses, "scaled"),
    "optimizers.begin": lambda tracer: (tracer.optimizers, "begin"),
    "optimizers.end": lambda tracer: (tracer.optimizers, "end"),
    "optimizers.backward_end": lambda tracer: (tracer.optimizers, "backward_end"),
    "ledger.sample": lambda tracer: (tracer.optimizers.ledger, "sample"),
    "pending.poll": lambda tracer: (tracer.pending, "poll"),
    "client.write": lambda tracer: (tracer.client, "write"),
    "housekeeping": lambda tracer: (tracer, "_housekeep"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_ours_ends_the_watching_and_not_the_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train()
    client = Kept()
    tracer = instrument(client)
    owner, attribute = FAULTS[name](tracer)
    monkeypatch.setattr(owner, attribute, fail)
    measured = train()
    torch_hooks.finish()
    assert equal(plain, measured)
    assert [code for code, _ in client.notices] == ["torch.unsupported"]
    assert "RuntimeError: a fault of ours" in client.notices[0][1]
    assert tracer.dead
    rows = len(client.rows)
    train(1)
    assert len(client.rows) == rows


def test_a_fault_in_the_middle_of_training_leaves_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Kept()
    tracer = instrument(client)
    plain = train()
    before = len(client.table(STEPS))
    monkeypatch.setattr(tracer.machine, "backward_begin", fail)
    assert equal(plain, train())
    torch_hooks.finish()
    assert len(client.table(STEPS)) == before == 6


def test_a_fault_while_the_script_handles_its_own_exception_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Kept()
    tracer = instrument(client)
    monkeypatch.setattr(tracer.machine, "unwind", fail)
    with pytest.raises(ValueError, match="the script's own"):
        Counted(parameters=True)()
    torch_hooks.finish()
    assert [code for code, _ in client.notices] == ["torch.unsupported"]


# Children


def test_a_forked_child_is_silent() -> None:
    client = Kept()
    tracer = instrument(client)
    train(1)
    rows = len(client.rows)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            train(1)
            torch_hooks.finish()
            status = 0 if tracer.dead and len(client.rows) == rows and not client.notices else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    train(1)
    torch_hooks.finish()
    assert len(client.rows) > rows
    assert not client.notices


def test_workers_of_a_loader_are_silent(kept: Kept) -> None:
    class Trained(torch_data.Dataset[int]):
        """Calls a model while it makes its items, as those do that augment by one."""

        model = nn.Linear(1, 1)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> int:
            with torch.no_grad():
                self.model(torch.ones(1, 1))
            return i

    for _ in torch_data.DataLoader(Trained(), num_workers=1, multiprocessing_context="fork"):
        pass
    torch_hooks.finish()
    assert kept.table(EVALUATIONS) == []
