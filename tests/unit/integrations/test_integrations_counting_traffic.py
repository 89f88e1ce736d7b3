"""Bytes of single operators against counts by hand; what is of the parameters told from what is of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ergometry.integrations.counting.mode import CountingMode
from support.counted import by_operator, counted, mlp


def moved(run: Callable[[], Any]) -> tuple[float, float]:
    """Return bytes read and written."""
    with CountingMode() as mode:
        run()
    calls = mode.calls
    return (
        sum(call.reads_parameters + call.reads_examples for call in calls),
        sum(call.writes_parameters + call.writes_examples for call in calls),
    )


a, b, row = torch.randn(6, 5), torch.randn(6, 5), torch.randn(5)
table, picks = torch.randn(100, 8), torch.tensor([1, 2, 3])
F32 = 4


@pytest.mark.parametrize(
    ("run", "read", "written"),
    [
        (lambda: a + b, 60, 30),
        (lambda: a + a, 30, 30),
        (lambda: a + row, 35, 30),
        (lambda: a + row.expand(6, 5), 35, 30),
        (lambda: a + a.t().t(), 30, 30),
        (lambda: a[:3] + a[3:], 30, 15),
        (lambda: a @ b.t(), 60, 36),
        (lambda: a.exp(), 30, 30),
        (lambda: a.t(), 0, 0),
        (lambda: a.view(5, 6)[1:].unsqueeze(0), 0, 0),
        (lambda: a.reshape(-1), 0, 0),
        (lambda: a.t().contiguous(), 30, 30),
        (lambda: a.detach(), 0, 0),
        (lambda: torch.empty(7), 0, 0),
        (lambda: torch.zeros(7), 0, 7),
        (lambda: torch.zeros_like(a), 0, 30),
        (lambda: a.clone(), 30, 30),
        (lambda: a.sum(), 30, 1),
        (lambda: torch.cat([a, b]), 60, 60),
        (lambda: F.embedding(picks, table), 3 * 8 + 3 * 2, 24),
        (lambda: table[picks], 3 * 8 + 3 * 2, 24),
        (lambda: F.embedding(torch.zeros(500, dtype=torch.long), table), 800 + 1000, 4000 + 1000),
    ],
)
def test_inputs_are_read_once_and_outputs_written_once(run: Callable[[], Any], read: int, written: int) -> None:
    assert moved(run) == (F32 * read, F32 * written)


@pytest.mark.parametrize(
    ("change", "read", "written"),
    [
        (lambda t: t.add_(a), 60, 30),
        (lambda t: t.mul_(2.0), 30, 30),
        (lambda t: t.zero_(), 0, 30),
        (lambda t: t.copy_(a), 30, 30),
        (lambda t: t.normal_(), 0, 30),
        (lambda t: t[:2].mul_(2.0), 10, 10),
        (lambda t: torch.add(a, b, out=t), 60, 30),
        (lambda t: torch._foreach_add_([t, row.clone()], 1.0), 35 + 5, 35 + 5),  # and the clone
        (lambda t: t.index_put_((torch.tensor([0]),), row), 2 + 5 + 5, 5),
    ],
)
def test_what_is_changed_in_place_is_read_and_written(change: Callable[[Any], Any], read: int, written: int) -> None:
    target = torch.zeros(6, 5)
    assert moved(lambda: change(target)) == (F32 * read, F32 * written)


def test_types_have_their_own_size() -> None:
    assert moved(lambda: a.to(torch.bfloat16)) == (120, 60)
    assert moved(lambda: a > 0) == (120, 30)


def test_nothing_moves_on_the_meta_device() -> None:
    model, x = nn.Linear(4, 5, device="meta"), torch.zeros(3, 4, device="meta")
    with CountingMode() as mode:
        model(x).relu()
    assert sum(call.flops for call in mode.calls) == 0
    assert moved(lambda: model(x)) == (0, 0)


def test_of_a_sparse_matrix_indices_and_values_are_read() -> None:
    sparse = torch.eye(8).to_sparse()
    dense = torch.randn(8, 3)
    assert moved(lambda: sparse @ dense) == (8 * 2 * 8 + 8 * 4 + 24 * 4, 24 * 4)


# What is proportional to the parameters


def test_bytes_of_an_mlp_by_hand() -> None:
    n = 9
    forward, backward = counted(mlp(), torch.randn(n, 12))
    first, second = 12 * 20 + 20, 20 * 7 + 7
    assert by_operator(forward)["addmm"][2:6] == [
        F32 * (first + second), 0, F32 * n * (12 + 20), F32 * n * (20 + 7)
    ]  # fmt: skip
    assert by_operator(forward)["relu"][2:6] == [0, 0, F32 * n * 20, F32 * n * 20]
    # Backward: of the second layer both gradients, of the first the weight's alone.
    mm = by_operator(backward)["mm"]
    assert mm[2] == F32 * 20 * 7, "the second weight is read"
    assert mm[3] == F32 * (20 * 7 + 12 * 20), "and both are given gradients"
    assert mm[4] == F32 * n * (2 * 7 + 20 + 20 + 12), "dy twice and x; dy and x"
    assert mm[5] == F32 * n * 20
    assert by_operator(backward)["sum"][3] == F32 * (7 + 20), "gradients of the biases"


def test_gradients_that_are_accumulated_are_read_and_written() -> None:
    model, x = mlp(), torch.randn(9, 12)
    once = counted(model, x)[1].totals
    again = counted(model, x)[1].totals
    parameters = F32 * sum(p.numel() for p in model.parameters())
    assert again.parameter_bytes == once.parameter_bytes + 3 * parameters
    assert again.bytes == once.bytes + 3 * parameters


def test_weights_cast_by_autocast_stay_of_the_parameters() -> None:
    model, n = mlp(), 9
    numbers = sum(p.numel() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        forward, backward = counted(model, torch.randn(n, 12))
    cast, product = by_operator(forward)["_to_copy"], by_operator(forward)["addmm"]
    assert cast[2:4] == [4 * numbers, 2 * numbers]
    assert product[2] == 2 * numbers
    assert by_operator(backward)["_to_copy"][2:4] == [2 * numbers, 4 * numbers], "gradients are cast back"
    assert by_operator(backward)["mm"][3] == 2 * (20 * 7 + 12 * 20)


def test_results_of_a_backward_are_told_apart_one_by_one() -> None:
    model, x = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.LayerNorm(12)), torch.randn(9, 12)
    _, backward = counted(model, x)
    norms = by_operator(backward)["native_layer_norm_backward"]
    assert norms[3] == 2 * F32 * 2 * 12
    assert norms[5] == F32 * 9 * 12, "of the first no gradient of the input is taken"


def test_a_shared_weight_has_one_gradient() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 12, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    forward, backward = counted(Twice(), torch.randn(9, 12))
    weight = F32 * 144
    assert by_operator(forward)["mm"][2] == 2 * weight
    assert by_operator(backward)["mm"][2:4] == [weight, 2 * weight]
    assert by_operator(backward)["add"][2:4] == [2 * weight, weight], "both parts are summed"
