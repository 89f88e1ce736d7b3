"""The ledger of gradient work against brute force in float64, and its sampling against all draws there are."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from ergometry.core import series
from ergometry.core.series import LEARNING_RATES, LEDGER
from ergometry.integrations import ledger as ledger_module
from ergometry.integrations.ledger import Allowance, Ledger, Plan, Sample, SparseSample, estimates
from ergometry.integrations.optimizers import OptimizerWatch
from ergometry.integrations.pending import Pending

LONG_S = 1e9  # of a step so long that everything may be followed


class Watch:
    """An optimizer watch and the rows it has written."""

    def __init__(self) -> None:
        self.rows: list[tuple[series.Series, tuple[float, ...]]] = []
        self.watch = OptimizerWatch(lambda kind, *values: self.rows.append((kind, values)), Pending())

    def step(self, optimizer: Any, step: int = 0, *, step_s: float = LONG_S, closure: Any = None) -> None:
        self.watch.begin(optimizer, step=step, step_s=step_s, closure=closure is not None)
        optimizer.step(*([closure] if closure is not None else []))
        self.watch.end(optimizer, step)

    def ledger(self) -> list[dict[str, float]]:
        return [dict(zip(LEDGER.columns, values, strict=True)) for kind, values in self.rows if kind is LEDGER]


def truth(optimizer: Any, step: Callable[[], Any]) -> dict[str, float]:
    """Let an optimizer step and return what the ledger's row must say, summed in float64 over all elements."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def dense(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.to_dense() if tensor.layout != torch.strided else tensor).detach().double().clone()

    gradients = [dense(p.grad) if p.grad is not None else torch.zeros_like(p, dtype=torch.double) for p in parameters]
    before = [dense(p) for p in parameters]
    step()
    g2 = d2 = work = 0.0
    for p, g, theta in zip(parameters, gradients, before, strict=True):
        d = p.detach().double() - theta
        g2 += float((g * g).sum())
        d2 += float((d * d).sum())
        work -= float((g * d).sum())
    return {"grad_sq": g2, "dtheta_sq": d2, "work": work, "path": math.sqrt(g2 * d2)}


def check(row: dict[str, float], expected: dict[str, float], rel: float = 1e-6) -> None:
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=rel)
    assert [row[f"{name}_stderr"] for name in expected] == [0.0] * 4


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(17, 31), nn.Tanh(), nn.Linear(31, 5)).to(dtype)


def gradients(model: nn.Module, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model.zero_grad()
    p = next(model.parameters())
    model(torch.randn(8, 17, dtype=p.dtype)).square().sum().backward()


# Exact rows


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, maximize=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_exact_rows_are_the_sums_over_all_parameters(name: str, dtype: torch.dtype) -> None:
    model, watch = network(dtype), Watch()
    optimizer = OPTIMIZERS[name](model.parameters())
    expected = []
    for step in range(4):
        gradients(model, step)
        expected.append(truth(optimizer, lambda step=step: watch.step(optimizer, step)))
    rows = watch.ledger()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row, sums in zip(rows, expected, strict=True):
        check(row, sums)
        assert row["sampled"] == row["parameters"] == sum(p.numel() for p in model.parameters())
        assert row["cost_s"] > 0


def test_parameters_of_several_types_are_all_counted() -> None:
    model, watch = network(), Watch()
    model[0].to(torch.bfloat16)
    model[2].bias.data = model[2].bias.data.double()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, dtype=p.dtype)
    check_whole(watch, optimizer)
    assert watch.watch.ledger.left_out == 0


def check_whole(watch: Watch, optimizer: Any) -> None:
    expected = truth(optimizer, lambda: watch.step(optimizer))
    (row,) = watch.ledger()
    check(row, expected)


def test_frozen_parameters_and_those_without_a_gradient_add_nothing() -> None:
    model, watch = network(), Watch()
    model[0].weight.requires_grad_(False)
    gradients(model)
    model[2].bias.grad = None
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    check_whole(watch, optimizer)
    assert watch.ledger()[0]["parameters"] == 31 + 31 * 5 + 5


def test_tied_parameters_count_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    model(torch.randn(4, 6)).square().sum().backward()
    watch, optimizer = Watch(), torch.optim.SGD(model.parameters(), 0.1)
    check_whole(watch, optimizer)
    assert watch.ledger()[0]["parameters"] == 36 + 6 + 6


def test_parameters_that_do_not_lie_in_order_in_memory() -> None:
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    model.weight.data = model.weight.data.to(memory_format=torch.channels_last)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert not model.weight.is_contiguous()
    check_whole(Watch(), torch.optim.SGD(model.parameters(), 0.1))


def test_groups_scalars_and_empty_parameters() -> None:
    parameters = [torch.randn(n, requires_grad=True) for n in (3, 0, 1)] + [torch.tensor(2.0, requires_grad=True)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    groups = [{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:], "lr": 0.5}]
    check_whole(Watch(), torch.optim.SGD(groups))


def test_an_optimizer_that_has_nothing_to_do() -> None:
    watch = Watch()
    watch.step(torch.optim.SGD([torch.zeros(0, requires_grad=True)], 0.1))
    watch.step(torch.optim.SGD([torch.zeros(3)], 0.1))
    assert watch.ledger() == []


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (torch.optim.SparseAdam, torch.float32),
        (torch.optim.SGD, torch.float32),
        (torch.optim.SGD, torch.bfloat16),
    ],
)
def test_rows_of_sparse_gradients_are_exact(make: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embedding, watch = nn.Embedding(1000, 16, sparse=True).to(dtype), Watch()
    optimizer = make(embedding.parameters(), 0.1)
    embedding(torch.tensor([3, 5, 5, 999])).square().sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.is_sparse
    check_whole(watch, optimizer)


def test_sparse_and_dense_parameters_of_one_optimizer_add() -> None:
    torch.manual_seed(0)
    embedding, linear = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 4)
    linear(embedding(torch.tensor([[1, 2], [2, 7]]))).square().sum().backward()
    optimizer = torch.optim.SGD([*embedding.parameters(), *linear.parameters()], 0.05)
    watch = Watch()
    check_whole(watch, optimizer)
    assert watch.ledger()[0]["parameters"] == 36


def test_complex_parameters_are_left_out_and_it_is_said(recwarn: pytest.WarningsRecorder) -> None:
    watch = Watch()
    real, complex_ = torch.ones(4, requires_grad=True), torch.ones(3, dtype=torch.complex64, requires_grad=True)
    real.grad, complex_.grad = torch.ones(4), torch.ones(3, dtype=torch.complex64)
    watch.step(torch.optim.SGD([real, complex_], 0.5))
    (row,) = watch.ledger()
    assert (row["grad_sq"], row["dtheta_sq"], row["work"]) == (4.0, 1.0, 2.0)
    assert watch.watch.ledger.left_out == 3
    watch.step(torch.optim.SGD([complex_], 0.5), 1)
    assert len(watch.ledger()) == 1
    assert not recwarn.list, "nothing is said on the user's standard error"


def test_the_optimizers_of_one_step_are_added_up() -> None:
    model, watch = network(), Watch()
    gradients(model)
    one, two = torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.Adam(model[2].parameters(), 0.1)
    first = truth(one, lambda: watch.step(one, 5))
    second = truth(two, lambda: watch.step(two, 5))
    rows = watch.ledger()
    check(rows[0], first)
    both = {name: first[name] + second[name] for name in ("grad_sq", "dtheta_sq", "work")}
    check(rows[1], both | {"path": math.sqrt(both["grad_sq"] * both["dtheta_sq"])})
    assert rows[1]["parameters"] == rows[1]["sampled"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shorter_s", [0.0, 1e-5, 1e-3, 1e-2])
def test_of_the_optimizers_of_one_step_all_are_followed_or_none(shorter_s: float) -> None:
    model, watch = network(), Watch()
    optimizers = [torch.optim.SGD(layer.parameters(), 0.01) for layer in (model[0], model[2])]
    for step in range(200):
        gradients(model, step)
        for optimizer in optimizers:
            watch.step(optimizer, step, step_s=shorter_s)
    last = {row["step"]: row for row in watch.ledger()}
    assert 1 <= len(last) <= 200
    assert {row["parameters"] for row in last.values()} == {sum(p.numel() for p in model.parameters())}


def test_a_fused_optimizers_gradients_are_unscaled() -> None:
    class Fused(torch.optim.Optimizer):
        """Unscales within its step, as torch's fused ones do under a GradScaler."""

        grad_scale = torch.tensor([1024.0])

        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        def step(self) -> None:  # type: ignore[override]
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p -= 0.1 * p.grad / self.grad_scale

    model, watch = network(), Watch()
    gradients(model)
    optimizer = Fused(model.parameters())
    expected = truth(optimizer, lambda: None)["grad_sq"]
    for p in model.parameters():
        assert p.grad is not None
        p.grad *= 1024.0
    watch.step(optimizer)
    (row,) = watch.ledger()
    assert row["grad_sq"] == pytest.approx(expected, rel=1e-5)
    assert row["dtheta_sq"] == pytest.approx(0.01 * expected, rel=1e-4)
    assert row["work"] == pytest.approx(0.1 * expected, rel=1e-4)


def test_of_a_closure_the_first_gradient_counts() -> None:
    model, watch = network(torch.float64), Watch()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    x = torch.randn(8, 17, dtype=torch.float64)
    seen: list[float] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        seen.append(sum(float((p.grad * p.grad).sum()) for p in model.parameters() if p.grad is not None))
        watch.watch.closure_backward()
        return loss

    expected = truth(optimizer, lambda: watch.step(optimizer, closure=closure))
    (row,) = watch.ledger()
    assert len(seen) > 2
    assert row["grad_sq"] == pytest.approx(seen[0], rel=1e-9)
    assert row["dtheta_sq"] == pytest.approx(expected["dtheta_sq"], rel=1e-9)


def test_a_closure_that_runs_no_backward_makes_no_row() -> None:
    model, watch = network(), Watch()
    watch.step(torch.optim.SGD(model.parameters(), 0.1), closure=lambda: 0.0)
    assert watch.ledger() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_makes_a_row_of_no_numbers(bad: float, either: str) -> None:
    model, watch = network(), Watch()
    gradients(model)
    for p in model.parameters():
        assert p.grad is not None
        p.grad[::2] = bad
        p.grad[1::2] = -bad
    watch.step(torch.optim.SGD(model.parameters(), 0.1))
    (row,) = watch.ledger()
    numbers = [row[name] for name in ("grad_sq", "dtheta_sq", "work", "path", "given", "given_cosine")]
    assert all(map(math.isnan, numbers))
    assert row["parameters"] == sum(p.numel() for p in model.parameters())


# Gradients that the script changes before its optimizer has them


def by_norm(model: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def by_value(model: nn.Module) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad.data.clamp_(-0.01, 0.01)  # leaves the version of the tensor as it was


@pytest.mark.parametrize("clip", [by_norm, by_value])
@pytest.mark.parametrize("backwards", [1, 3])
def test_work_is_of_the_gradient_before_it_was_clipped(
    clip: Callable[[nn.Module], None], backwards: int, either: str
) -> None:
    model, watch = network(), Watch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = torch.randn(3, 8, 17)
    for step in range(2):
        optimizer.zero_grad()
        for part in range(backwards):
            model(x[part]).square().sum().backward()
            watch.watch.backward_end(step=step, step_s=LONG_S, scale=None)
        own = [p.grad.detach().double().clone() for p in model.parameters() if p.grad is not None]
        clip(model)
        given = [p.grad.detach().double().clone() for p in model.parameters() if p.grad is not None]
        before = [p.detach().double().clone() for p in model.parameters()]
        watch.step(optimizer, step)
    moved = [p.detach().double() - q for p, q in zip(model.parameters(), before, strict=True)]

    def dot(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
        return math.fsum(float((x * y).sum()) for x, y in zip(a, b, strict=True))

    first, row = watch.ledger()
    assert math.isnan(first["given"]), "which gradients to look at is not known before an optimizer's first step"
    cosine = dot(own, given) / math.sqrt(dot(own, own) * dot(given, given))
    if either == "exact":
        assert row["grad_sq"] == pytest.approx(dot(own, own), rel=1e-6)
        assert row["work"] == pytest.approx(-dot(own, moved), rel=1e-6)
        assert row["given_cosine"] == pytest.approx(cosine, rel=1e-6)
    if either == "exact" or clip is by_norm:  # one number for all of the gradient: whichever blocks were drawn
        assert row["given"] == pytest.approx(dot(own, given) / dot(own, own), rel=1e-5)
    assert row["given_cosine"] == pytest.approx(1.0, abs=1e-6) if clip is by_norm else row["given_cosine"] < 0.95


def test_a_gradient_that_is_left_alone_is_what_the_optimizer_was_given(either: str) -> None:
    model, watch = network(), Watch()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    for step in range(3):
        gradients(model, step)
        watch.watch.backward_end(step=step, step_s=LONG_S, scale=None)
        watch.step(optimizer, step)
    assert [row["given"] for row in watch.ledger()[1:]] == pytest.approx([1.0, 1.0], abs=1e-12)
    assert [row["given_cosine"] for row in watch.ledger()[1:]] == pytest.approx([1.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clips", [False, True])
def test_a_scaled_gradient_is_compared_in_the_losss_own_unit(fused: bool, clips: bool) -> None:
    model, watch, scale = network(), Watch(), torch.tensor(1024.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
    x = torch.randn(8, 17)
    for step in range(2):
        optimizer.zero_grad()
        (scale * model(x).square().sum()).backward()
        watch.watch.backward_end(step=step, step_s=LONG_S, scale=scale)
        own = math.fsum(float((p.grad.double() / scale).square().sum()) for p in model.parameters())
        norm = math.sqrt(own)
        if fused and not clips:  # it unscales within its step
            optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(0.0)
        else:
            for p in model.parameters():
                p.grad /= scale
            if clips:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25 * norm)
        watch.step(optimizer, step)
    row = watch.ledger()[-1]
    assert row["grad_sq"] == pytest.approx(own, rel=1e-5)
    assert row["given"] == pytest.approx(0.25 if clips else 1.0, rel=1e-4)


def test_scaled_and_unscaled_losses_of_one_step_are_no_ones_gradient() -> None:
    model, watch, scale = network(), Watch(), torch.tensor(8.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(2):
        gradients(model)
        watch.watch.backward_end(step=step, step_s=LONG_S, scale=scale)
        watch.watch.backward_end(step=step, step_s=LONG_S, scale=None)
        watch.step(optimizer, step)
    assert [math.isnan(row["given"]) for row in watch.ledger()] == [True, True]


def test_optimizers_that_take_turns_each_have_their_own_gradient() -> None:
    """As a GAN's: each step is of one of two optimizers, and the backward of one leaves gradients on both."""
    models, watch = [network(), network()], Watch()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    for step in range(6):
        turn = step % 2
        models[turn].zero_grad()
        gradients(models[1 - turn], step)
        gradients(models[turn], step)
        watch.watch.backward_end(step=step, step_s=LONG_S, scale=None)
        own = math.fsum(float(p.grad.double().square().sum()) for p in models[turn].parameters())
        torch.nn.utils.clip_grad_norm_(models[turn].parameters(), 0.5 * math.sqrt(own))
        watch.step(optimizers[turn], step)
        assert step < 2 or watch.ledger()[-1]["grad_sq"] == pytest.approx(own, rel=1e-6)
    assert [row["given"] for row in watch.ledger()[2:]] == pytest.approx([0.5] * 4, rel=1e-4)


def test_two_optimizers_of_a_step_are_compared_together() -> None:
    models, watch = [network(), network()], Watch()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    for step in range(2):
        for i, model in enumerate(models):
            gradients(model, i)
        watch.watch.backward_end(step=step, step_s=LONG_S, scale=None)
        own = [math.fsum(float(p.grad.double().square().sum()) for p in model.parameters()) for model in models]
        for p in models[0].parameters():
            p.grad *= 0.5
        for optimizer in optimizers:
            watch.watch.begin(optimizer, step=step, step_s=LONG_S, closure=False)
            optimizer.step()
            watch.watch.end(optimizer, step)
    row, shared = watch.ledger()[-1], 0.5 * own[0] + own[1]
    assert row["given"] == pytest.approx(shared / sum(own), rel=1e-6)
    assert row["given_cosine"] == pytest.approx(shared / math.sqrt(sum(own) * (0.25 * own[0] + own[1])), rel=1e-6)


def test_a_parameter_whose_size_has_changed_is_followed_at_its_new_size() -> None:
    p, watch = nn.Parameter(torch.ones(10)), Watch()
    optimizer = torch.optim.SGD([p], 0.1)
    for step, n in enumerate((10, 25, 4)):
        p.data = torch.ones(n)
        p.grad = torch.ones(n)
        watch.step(optimizer, step)
    assert [row["grad_sq"] for row in watch.ledger()] == [10.0, 25.0, 4.0]
    assert [row["parameters"] for row in watch.ledger()] == [10.0, 25.0, 4.0]


# What is left alone


@pytest.fixture(params=["exact", "sampled"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sampled":
        monkeypatch.setattr(ledger_module, "_FLOOR_BYTES", 0)
    return str(request.param)


def test_random_streams_parameters_and_gradients_are_untouched(either: str) -> None:
    model = network()
    gradients(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    parameters = list(model.parameters())
    grads = [p.grad for p in parameters]
    versions = [(p._version, g._version if g is not None else 0) for p, g in zip(parameters, grads, strict=True)]
    bits = [(p.detach().clone(), g.clone()) for p, g in zip(parameters, grads, strict=True) if g is not None]
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    watch = Watch()
    for step in range(5):
        watch.watch.begin(optimizer, step=step, step_s=LONG_S, closure=False)
        watch.watch.end(optimizer, step)
    assert len(watch.ledger()) == 5
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert all(p.grad is g for p, g in zip(parameters, grads, strict=True))
    assert versions == [(p._version, g._version) for p, g in zip(parameters, grads, strict=True) if g is not None]
    for p, g, (p0, g0) in zip(parameters, grads, bits, strict=True):
        assert g is not None
        assert torch.equal(p, p0)
        assert torch.equal(g, g0)


def test_no_graph_is_kept(either: str) -> None:
    model, ledger = network(), Ledger()
    gradients(model)
    ledger.due(LONG_S)
    sample = ledger.sample(torch.optim.SGD(model.parameters(), 0.1).param_groups)
    assert sample is not None
    sample.take_gradient()
    sample.take_parameters()
    assert sample.gradient is not None and sample.before is not None
    assert not sample.before.requires_grad
    assert not sample.gradient.requires_grad
    assert sample.exact == (either == "exact")


@pytest.mark.parametrize("n", [1, 7, 399, 400, 10_000, 1_050_000, 3_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_at_most_two_per_cent_or_four_mebibytes(n: int, dtype: torch.dtype) -> None:
    ledger = Ledger()
    parameters = [torch.zeros(n // 3, dtype=dtype), torch.zeros(n - n // 3, dtype=dtype)]
    for p in parameters:
        p.requires_grad_(True)
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        ledger.due(LONG_S)
        sample = ledger.sample([{"params": parameters}])
        assert sample is not None
        sample.take_gradient()
        sample.take_parameters()
        assert sample.gradient is not None and sample.before is not None
        copied = sample.before.numel() * sample.before.element_size()
        assert copied == sample.gradient.numel() * sample.gradient.element_size()
        assert copied <= max(4 << 20, 0.02 * n * parameters[0].element_size())
        assert sample.exact == (n * parameters[0].element_size() <= 4 << 20)
        if not sample.exact:
            assert sample.before.numel() <= 0.02 * n
        ledger.spent(0.0)


def test_a_large_model_is_sampled_in_blocks_of_a_bounded_size() -> None:
    plan = Plan([10**9, 10**10])
    blocks = plan.draw(random.Random(0))
    assert len(blocks) == ledger_module.BLOCKS
    assert all(0 < b - a <= 1 << 17 for _, a, b in blocks)


# Sampling


class Draws:
    """A stream that gives the elements it is told to."""

    def __init__(self, elements: Sequence[int]) -> None:
        self._elements = iter(elements)

    def randrange(self, n: int) -> int:
        element = next(self._elements)
        assert element < n
        return element


SIZES = [5, 3, 4]
VALUES = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, 4.0, -1.0, 2.0, 0.25, -3.0, 1.5, 2.5], dtype=torch.float64)
MOVES = torch.tensor([0.1, 0.2, -0.5, 0.3, 1.0, -0.4, 0.1, 0.2, 0.2, 0.3, -0.1, 0.6], dtype=torch.float64)


@pytest.fixture
def small_plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(ledger_module, "BLOCKS", 2)
    plan = Plan(SIZES)
    plan._block = 2
    return plan


def sums_of(plan: Plan, blocks: Sequence[tuple[int, int, int]], g: torch.Tensor, d: torch.Tensor) -> list[list[float]]:
    starts = [0, *itertools.accumulate(SIZES)]
    cuts = [slice(starts[i] + a, starts[i] + b) for i, a, b in blocks]
    products = (g * g, d * d, -g * d)
    return [[float(product[cut].sum()) for cut in cuts] for product in products]


def all_draws(plan: Plan) -> Iterator[tuple[float, Any]]:
    """Yield each pair of draws that can be, with its probability, and the estimates made of it."""
    for elements in itertools.product(range(plan.parameters), repeat=2):
        blocks = plan.draw(Draws(elements))  # type: ignore[arg-type]
        found = estimates(sums_of(plan, blocks, VALUES, MOVES), blocks, plan.parameters, exact=False)
        yield plan.parameters**-2, found


def test_estimates_are_unbiased_and_so_are_their_variances(small_plan: Plan) -> None:
    whole = [float(x.sum()) for x in (VALUES * VALUES, MOVES * MOVES, -VALUES * MOVES)]
    for i, expected in enumerate(whole):
        mean = math.fsum(p * found[i][0] for p, found in all_draws(small_plan))
        assert mean == pytest.approx(expected, rel=1e-12)
        variance = math.fsum(p * (found[i][0] - expected) ** 2 for p, found in all_draws(small_plan))
        claimed = math.fsum(p * found[i][1] ** 2 for p, found in all_draws(small_plan))
        assert claimed == pytest.approx(variance, rel=1e-9)


def test_blocks_tile_the_parameters(small_plan: Plan) -> None:
    drawn = {block for element in range(12) for block in small_plan.draw(Draws([element, element]))}  # type: ignore[arg-type]
    assert sorted(drawn) == [(0, 0, 2), (0, 2, 4), (0, 4, 5), (1, 0, 2), (1, 2, 3), (2, 0, 2), (2, 2, 4)]
    for element in range(12):
        ((i, a, b), _) = small_plan.draw(Draws([element, 0]))  # type: ignore[arg-type]
        assert sum(SIZES[:i]) + a <= element < sum(SIZES[:i]) + b


def test_a_plan_with_empty_tensors_draws_none_of_them() -> None:
    blocks = [block for _ in range(50) for block in Plan([0, 3, 0, 2, 0]).draw(random.Random(_))]
    assert {i for i, _, _ in blocks} == {1, 3}


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_intervals_cover_as_often_as_they_say(spread: float) -> None:
    torch.manual_seed(0)
    sizes = [20_000, 300, 50_000, 128]
    scales = torch.cat([torch.full((n,), math.exp(spread * i)) for i, n in enumerate(sizes)])
    g = torch.randn(sum(sizes), dtype=torch.float64) * scales
    d = -0.1 * g * torch.rand(sum(sizes), dtype=torch.float64)
    products = torch.stack((g * g, d * d, -g * d))
    until = torch.cat((torch.zeros(3, 1, dtype=torch.float64), products.cumsum(1)), 1).tolist()
    whole = products.sum(1).tolist()
    whole.append(math.sqrt(whole[0] * whole[1]))
    starts, plan, stream = [0, *itertools.accumulate(sizes)], Plan(sizes), random.Random(1)
    covered = [0] * 4
    for _ in range(2000):
        blocks = plan.draw(stream)
        sums = [[row[starts[i] + b] - row[starts[i] + a] for i, a, b in blocks] for row in until]
        for k, (value, stderr) in enumerate(estimates(sums, blocks, plan.parameters, exact=False)):
            covered[k] += abs(value - whole[k]) <= 1.645 * stderr
    assert all(0.80 <= n / 2000 <= 0.99 for n in covered), covered


def test_sampled_rows_scatter_about_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_FLOOR_BYTES", 0)
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(40_000))
    p.grad = torch.randn(40_000)
    optimizer, watch = torch.optim.SGD([p], 1e-3), Watch()
    deviations = []
    for step in range(200):
        expected = truth(optimizer, lambda step=step: watch.step(optimizer, step))
        row = watch.ledger()[-1]
        assert row["sampled"] == 800
        assert row["parameters"] == 40_000
        deviations.append((row["work"] - expected["work"]) / row["work_stderr"])
    mean, spread = sum(deviations) / 200, math.sqrt(sum(x * x for x in deviations) / 200)
    assert abs(mean) < 0.4
    assert 0.8 < spread < 1.6


# Draws by where the gradient is


@pytest.fixture
def weighed_plan(small_plan: Plan) -> Plan:
    small_plan.weigh([1.0, 0.0, 9.0])
    return small_plan


def blocks_of(plan: Plan) -> list[tuple[int, int, int]]:
    return [(0, 0, 2), (0, 2, 4), (0, 4, 5), (1, 0, 2), (1, 2, 3), (2, 0, 2), (2, 2, 4)]


def test_probabilities_of_all_blocks_sum_to_one_with_and_without_weights(small_plan: Plan) -> None:
    for energies in ([], [1.0, 0.0, 9.0], [0.0, 0.0, 1e-300], [1e300, 1.0, 0.0]):
        small_plan.weigh(energies)
        probabilities = [small_plan.probability(block) for block in blocks_of(small_plan)]
        assert math.fsum(probabilities) == pytest.approx(1.0, rel=1e-12)
        assert min(probabilities) > 0, "a block that is never drawn would be a bias"


def test_blocks_are_drawn_as_often_as_their_probabilities_say(weighed_plan: Plan) -> None:
    stream, n = random.Random(3), 20_000
    drawn = [block for _ in range(n) for block in weighed_plan.draw(stream)]
    for block in blocks_of(weighed_plan):
        p = weighed_plan.probability(block)
        assert abs(drawn.count(block) - 2 * n * p) < 5 * math.sqrt(2 * n * p * (1 - p))


def test_weighed_estimates_are_unbiased_and_so_are_their_variances(weighed_plan: Plan) -> None:
    whole = [float(x.sum()) for x in (VALUES * VALUES, MOVES * MOVES, -VALUES * MOVES)]
    pairs = []
    for blocks in itertools.product(blocks_of(weighed_plan), repeat=2):
        probabilities = [weighed_plan.probability(block) for block in blocks]
        sums = sums_of(weighed_plan, blocks, VALUES, MOVES)
        found = estimates(sums, blocks, 12, exact=False, probabilities=probabilities)
        pairs.append((math.prod(probabilities), found))
    for i, expected in enumerate(whole):
        assert math.fsum(p * found[i][0] for p, found in pairs) == pytest.approx(expected, rel=1e-12)
        variance = math.fsum(p * (found[i][0] - expected) ** 2 for p, found in pairs)
        assert math.fsum(p * found[i][1] ** 2 for p, found in pairs) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("unusable", [[], [1.0, 2.0], [0.0] * 3, [math.nan, 1.0, 1.0], [math.inf, 1.0, 1.0]])
def test_weights_that_say_nothing_leave_the_draws_by_size(weighed_plan: Plan, unusable: list[float]) -> None:
    weighed_plan.weigh(unusable)
    assert [weighed_plan.probability(block) for block in blocks_of(weighed_plan)] == pytest.approx(
        [(b - a) / 12 for _, a, b in blocks_of(weighed_plan)]
    )
    weighed_plan.draw(random.Random(0))


def test_a_small_head_with_most_of_the_gradient_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_FLOOR_BYTES", 0)
    torch.manual_seed(0)
    body, head = nn.Parameter(torch.randn(60_000)), nn.Parameter(torch.randn(40))
    body.grad, head.grad = 1e-3 * torch.randn(60_000), 10.0 * torch.randn(40)
    optimizer, watch = torch.optim.SGD([body, head], 1e-3), Watch()
    near = 0
    for step in range(100):
        expected = truth(optimizer, lambda step=step: watch.step(optimizer, step))
        row = watch.ledger()[-1]
        near += abs(row["work"] - expected["work"]) <= 0.5 * expected["work"]
        assert row["grad_sq"] == pytest.approx(expected["grad_sq"], rel=1e-5), "every gradient was looked at"
        assert row["grad_sq_stderr"] == 0.0
    assert near >= 70


def test_the_draws_are_the_same_in_every_run() -> None:
    one, two = Ledger(), Ledger()
    plan = Plan([1000, 2000])
    assert plan.draw(one._stream) == plan.draw(two._stream)


def test_the_error_of_the_path_is_that_of_its_two_factors() -> None:
    """Against many draws: the delta method holds where the factors move together."""
    stream = random.Random(2)
    blocks = [(0, 10 * i, 10 * i + 10) for i in range(8)]
    found, claimed = [], []
    for _ in range(4000):
        base = [1 + 0.2 * stream.gauss(0, 1) for _ in blocks]
        sums = [base, [0.01 * x + 0.001 * stream.gauss(0, 1) for x in base], [0.1 * x for x in base]]
        *_, (value, stderr) = estimates(sums, blocks, 1000, exact=False)
        found.append(value)
        claimed.append(stderr)
    mean = sum(found) / len(found)
    spread = math.sqrt(sum((x - mean) ** 2 for x in found) / len(found))
    assert math.sqrt(sum(x * x for x in claimed) / len(claimed)) == pytest.approx(spread, rel=0.05)


def test_samples_without_movement_have_no_path() -> None:
    blocks = [(0, i, i + 1) for i in range(8)]
    assert estimates([[0.0] * 8] * 3, blocks, 100, exact=False) == ((0.0, 0.0),) * 4


# Cadence


@pytest.mark.parametrize("step_s", [1e-3, 2e-2, 1.0])
@pytest.mark.parametrize(("sampled_s", "exact_s"), [(40e-6, 300e-6), (300e-6, None), (20e-3, None), (1e-6, 1e-6)])
def test_following_takes_no_more_than_its_share(step_s: float, sampled_s: float, exact_s: float | None) -> None:
    """``exact_s`` None: a model too large for exact sums."""
    ledger = Ledger(share=0.004)
    n, spent, followed = 20_000, 0.0, 0
    for _ in range(n):
        if ledger.due(step_s):
            exact = exact_s is not None and ledger._payer is ledger._exact
            cost_s = exact_s if exact and exact_s is not None else sampled_s
            ledger.spent(cost_s)
            spent += cost_s
            followed += 1
    dearest_s, allowed_s = max(sampled_s, exact_s or 0.0), 0.004 * step_s * n
    assert spent <= allowed_s + 4 * dearest_s, "the first of a kind is free, and one may be paid in advance"
    assert followed >= min(n, 0.4 * allowed_s / dearest_s), "what is allowed is used"


def test_a_thing_that_costs_nothing_is_always_due() -> None:
    allowance = Allowance(0.01)
    for _ in range(10):
        assert allowance.due(1.0)
        allowance.spent(0.0)


def test_a_cost_that_rises_slows_the_cadence_and_one_that_falls_restores_it() -> None:
    allowance, dues = Allowance(0.01), []
    for i in range(30_000):
        if allowance.due(1e-3):
            allowance.spent(1e-3 if 10_000 <= i < 20_000 else 1e-5)
            dues.append(i)
    thirds = [sum(1 for i in dues if k * 10_000 <= i < (k + 1) * 10_000) for k in range(3)]
    assert thirds[0] == pytest.approx(10_000, rel=0.01)
    assert thirds[1] == pytest.approx(100, rel=0.05)
    assert thirds[2] > 9_000


def test_saving_up_has_an_end() -> None:
    allowance = Allowance(0.01)
    allowance.spent(1.0)
    allowance.spent(1.0)
    for _ in range(100_000):
        allowance.due(1.0)
    in_a_row = 0
    while allowance.due(0.0):
        allowance.spent(1.0)
        in_a_row += 1
    assert in_a_row == 2


# Learning rates


def test_learning_rates_are_told_when_they_change() -> None:
    p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
    p.grad = q.grad = torch.ones(2)
    one = torch.optim.SGD([{"params": [p], "lr": 0.1}, {"params": [q], "lr": 0.2}])
    two = torch.optim.AdamW([q], lr=torch.tensor(0.5))
    watch = Watch()
    watch.step(one, 0)
    watch.step(two, 0)
    watch.step(one, 1)
    one.param_groups[1]["lr"] = 0.05
    two.param_groups[0]["lr"] = torch.tensor(0.25)
    watch.step(one, 2)
    watch.step(two, 2)
    told = [values for kind, values in watch.rows if kind is LEARNING_RATES]
    assert told == [(0, 0, 0, 0.1), (0, 0, 1, 0.2), (0, 1, 0, 0.5), (2, 0, 1, 0.05), (2, 1, 0, 0.25)]


def test_sums_are_in_float64_whatever_the_type() -> None:
    p = torch.full((300,), 1.0, dtype=torch.float16, requires_grad=True)
    p.grad = torch.full((300,), 200.0, dtype=torch.float16)  # 300 · 200² is beyond float16
    sample = Sample([p], [(0, 0, 300)], 300, exact=True)
    sample.take_gradient()
    sample.take_parameters()
    assert sample.sums().dtype == torch.float64
    assert sample.sums()[0].item() == 300 * 200.0**2
    table = torch.zeros(5, 2, requires_grad=True)
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.ones(2, 2), (5, 2), check_invariants=True)
    assert SparseSample(table).sums()[0].item() == 2 * 4.0, "rows that are named twice are put together first"
