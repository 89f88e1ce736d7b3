"""Whole models: against torch's counter, and against totals written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ergometry.integrations.counting.mode import CountingMode
from ergometry.integrations.counting.profiles import Count
from support.counted import Attention, Block, Language, by_operator, by_torch, cnn, counted, mlp


def tokens(n: int = 2, length: int = 6) -> torch.Tensor:
    return torch.arange(n * length).reshape(n, length) % 50


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "MLP": (mlp, lambda: torch.randn(9, 12)),
    "CNN": (cnn, lambda: torch.randn(2, 4, 10, 10)),
    "block": (Block, lambda: torch.randn(2, 6, 16)),
    "GPT": (Language, tokens),
    "GPT with checkpoints": (lambda: Language(checkpoint=False), tokens),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), lambda: torch.randn(2, 6, 16)),
    "GRU": (lambda: nn.GRU(4, 5, 2), lambda: torch.randn(3, 2, 4)),
}


def products(counts: tuple[Count, Count]) -> tuple[float, float]:
    return counts[0].totals.product_flops, counts[1].totals.product_flops


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("autocast", [False, True])
def test_products_of_models_are_counted_as_torch_counts_them(name: str, autocast: bool) -> None:
    make, batch = CASES[name]
    model, x = make(), batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), sdpa_kernel(SDPBackend.MATH):
        found = counted(model, x)
        assert products(found) == by_torch(model, x)
    assert not found[0].uncounted
    assert not found[1].uncounted


@pytest.mark.parametrize("name", CASES)
def test_bits_are_the_same_under_the_mode(name: str) -> None:
    make, batch = CASES[name]
    found = []
    for counting in (False, True):
        torch.manual_seed(0)
        model, x = make(), batch()
        if counting:
            counted(model, x)
        else:
            out = model(x)
            (out[0] if isinstance(out, tuple) else out).float().square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# By hand


def test_an_mlp_by_hand() -> None:
    n = 9
    forward, backward = counted(mlp(), torch.randn(n, 12))
    product = 2 * n * (12 * 20 + 20 * 7)
    assert forward.totals.product_flops == product
    assert forward.totals.flops == product + 20 * n + 2 * 7 * n, "the ReLU; the squares and their sum"
    # Of the first layer no gradient of the input is taken.
    assert backward.totals.product_flops == 2 * product - 2 * n * 12 * 20
    relu, biases, square = 20 * n, 27 * n, 3 * 7 * n  # x², of whose derivative 2·x·g torch takes a power besides
    assert backward.totals.flops == backward.totals.product_flops + relu + biases + square


def test_a_convolutional_network_by_hand() -> None:
    forward, backward = counted(cnn(), torch.randn(2, 4, 10, 10))
    first, second = 2 * 2 * 100 * 8 * 4 * 9, 2 * 2 * 16 * 6 * 8 * 9
    assert forward.totals.product_flops == first + second
    assert backward.totals.product_flops == first + 2 * second
    size = 2 * 8 * 100
    assert by_operator(forward)["native_batch_norm"][1] == 8 * size
    assert by_operator(forward)["relu"][1] == size
    assert by_operator(backward)["native_batch_norm_backward"][1] == 13 * size


class Bottleneck(nn.Module):
    """As in He et al., Deep Residual Learning (2015), stride in the 3 × 3 convolution."""

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inner = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            layers.append(Bottleneck(inner, width, stride if i == 0 else 1))
            inner = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def test_resnet_50_by_hand() -> None:
    # Multiply-adds of one image of 224 × 224, layer by layer.
    macs = 112 * 112 * 64 * 3 * 49
    inner, side = 64, 56
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(blocks):
            out_side = side // 2 if i == 0 and width > 64 else side
            macs += side**2 * inner * width + out_side**2 * width * width * 9 + out_side**2 * width * 4 * width
            if i == 0:
                macs += out_side**2 * inner * 4 * width
            inner, side = 4 * width, out_side
    macs += 2048 * 1000
    assert macs == 4_089_184_256, "the 4.1 billion that are quoted"
    model = resnet50()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    with torch.no_grad(), CountingMode() as mode:
        model(torch.zeros(1, 3, 224, 224))
    assert not mode.unknown
    assert sum(call.flops for call in mode.calls if call.product) == 2 * macs
    assert sum(call.name == "convolution" for call in mode.calls) == 53


def test_a_gpt_block_by_hand() -> None:
    n, s, d = 2, 6, 16
    t = n * s
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        forward, backward = counted(Block(), torch.randn(n, s, d))
    layers, attention = 2 * t * 12 * d * d, 4 * n * s * s * d
    assert forward.totals.product_flops == layers + attention
    # x is no parameter's: of the first projection the input's gradient is taken, since the norm before it is trained.
    assert backward.totals.product_flops == 2 * layers + 5 * attention / 2
    items = by_operator(forward)
    assert items["native_layer_norm"][1] == 2 * 8 * t * d
    assert items["gelu"][1] == 5 * t * 4 * d
    assert items["add"][1] == 2 * t * d


def test_six_times_parameters_times_tokens_within_its_correction() -> None:
    """6·N·tokens counts weights that multiply: N less norms, biases and, where it is not the head, the embedding."""
    n, s, d, blocks, vocabulary = 2, 6, 16, 2, 50
    model = Language(blocks)
    t = n * s
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = sum(products(counted(model, tokens(n, s))))
    multiplies = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert multiplies == blocks * 12 * d * d + vocabulary * d
    attention = blocks * 4 * n * s * s * d
    assert found == 6 * multiplies * t + attention + 5 * attention / 2
    rule = 6 * sum(p.numel() for p in model.parameters()) * t
    assert abs(found / rule - 1) < 0.25


def test_an_lstm_by_hand() -> None:
    steps, n, inner, hidden = 7, 3, 6, 5
    model = nn.LSTM(inner, hidden)
    forward, backward = counted(model, torch.randn(steps, n, inner))
    weights = 4 * hidden * (inner + hidden)
    cells = steps * n * hidden
    assert forward.totals.product_flops == 2 * steps * n * weights + 9 * cells
    assert backward.totals.product_flops == 2 * forward.totals.product_flops
    assert not forward.uncounted
    assert not backward.uncounted


# Executed and the model's own


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again_is_executed_and_not_the_models(reentrant: bool) -> None:
    # The reentrant kind differentiates by an input that asks for it.
    plain, again = (
        counted(Block(checkpoint=way), torch.randn(2, 6, 16, requires_grad=True)) for way in (None, reentrant)
    )
    assert again[0].totals.product_flops == plain[0].totals.product_flops
    assert again[1].totals.flops - again[1].totals.recomputed_flops == plain[1].totals.flops
    feed = 2 * 12 * 2 * 16 * 64
    # The kind that is not reentrant stops when it has what it needs: not the last product.
    assert again[1].totals.recomputed_flops >= feed / 2
    assert plain[1].totals.recomputed_flops == 0


def test_a_backward_of_a_backward_is_not_recomputation() -> None:
    model, x = mlp(), torch.randn(9, 12, requires_grad=True)
    out = model(x).square().sum()
    with CountingMode(backward=True, double=True) as mode:
        (grad,) = torch.autograd.grad(out, x, create_graph=True)
    assert not any(call.recomputed for call in mode.calls)
    grad.sum().backward()


def test_attention_says_what_a_causal_mask_leaves_out() -> None:
    n, s, d = 2, 6, 16
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        forward, _ = counted(Attention(), torch.randn(n, s, d))
    dense = 4 * n * s * s * d
    part = next(part for part in forward.parts if part.root == "Attention")
    assert part.flops - part.causal_flops == pytest.approx(dense * (1 - (s + 1) / (2 * s)))


def test_the_dtype_of_an_item_is_that_of_its_factors() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        forward, _ = counted(mlp(), torch.randn(9, 12))
    types = {(key[1], key[2]) for part in forward.parts for key in part.items}
    assert {("addmm", "bf16"), ("relu", "bf16"), ("_to_copy", "fp32"), ("pow", "fp32")} <= types


def test_an_operator_with_arguments_never_seen_does_not_reach_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("unknown arguments")

    model, x = mlp(), torch.randn(2, 12)
    monkeypatch.setattr("ergometry.integrations.counting.mode.traffic", fail)
    with CountingMode() as mode:
        out = model(x)
    assert torch.equal(out, model(x))
    assert set(mode.unknown) >= {"addmm", "relu"}
    assert "unknown arguments" in mode.failed["addmm"]


def test_tensors_made_of_others_are_counted_by_what_is_run_of_them() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    pair = TwoTensor(torch.randn(3, 4), torch.randn(3, 4))
    with CountingMode() as mode:
        pair @ torch.randn(4, 5)
    assert sum(call.flops for call in mode.calls if call.name == "mm") == 2 * (2 * 3 * 4 * 5)
