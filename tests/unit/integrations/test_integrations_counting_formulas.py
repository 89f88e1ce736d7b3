"""FLOP of single operators: by hand, and against torch's own formulas where those are right."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ergometry as erg
from ergometry.core.errors import UsageError
from ergometry.integrations.counting import formulas
from ergometry.integrations.counting.mode import CountingMode
from ergometry.integrations.counting.operators import describe

LIBRARY = torch.library.Library("ergometry_formulas", "DEF")
LIBRARY.define("product(Tensor a, Tensor b) -> Tensor")
LIBRARY.impl("product", lambda a, b: a @ b, "CPU")


@pytest.fixture(autouse=True)
def _registrations() -> Iterator[None]:
    yield
    formulas._REGISTERED.clear()


def products(run: Callable[[], Any]) -> float:
    with CountingMode() as mode:
        run()
    assert not mode.unknown
    return sum(call.flops for call in mode.calls if call.product)


def flops(run: Callable[[], Any]) -> float:
    with CountingMode() as mode:
        run()
    assert not mode.unknown, mode.unknown
    return sum(call.flops for call in mode.calls)


def torchs(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as mode:
        run()
    return int(mode.get_total_flops())


a, b, v = torch.randn(6, 5), torch.randn(5, 7), torch.randn(5)
batch = torch.randn(3, 6, 5)


@pytest.mark.parametrize(
    ("run", "by_hand"),
    [
        (lambda: a @ b, 2 * 6 * 5 * 7),
        (lambda: torch.addmm(torch.randn(7), a, b), 2 * 6 * 5 * 7),
        (lambda: batch @ torch.randn(3, 5, 7), 3 * 2 * 6 * 5 * 7),
        (lambda: torch.baddbmm(torch.randn(3, 6, 7), batch, torch.randn(3, 5, 7)), 3 * 2 * 6 * 5 * 7),
        (lambda: F.conv2d(torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3), padding=1), 2 * 2 * 64 * 6 * 4 * 9),
        (lambda: F.conv_transpose2d(torch.randn(2, 4, 8, 8), torch.randn(4, 6, 3, 3)), 2 * 2 * 64 * 6 * 4 * 9),
    ],
)
def test_products_are_counted_as_torch_counts_them(run: Callable[[], Any], by_hand: int) -> None:
    assert products(run) == torchs(run) == by_hand


@pytest.mark.parametrize(
    ("run", "by_hand"),
    [
        (lambda: a @ v, 2 * 6 * 5),
        (lambda: v @ v, 2 * 5),
        (lambda: torch.vdot(v, v), 2 * 5),
        (lambda: torch.addmv(torch.randn(6), a, v), 2 * 6 * 5),
        (lambda: torch.addbmm(torch.randn(6, 7), batch, torch.randn(3, 5, 7)), 3 * 2 * 6 * 5 * 7),
        # Of 4 outputs each a product of pairs, then a multiply-add: 2·(5·4·2·3), and 5·2·3 pairs.
        (lambda: nn.Bilinear(2, 3, 4)(torch.ones(5, 2), torch.ones(5, 3)), 2 * 5 * 4 * 2 * 3 + 5 * 2 * 3),
        (lambda: torch.cdist(a, torch.randn(4, 5)), 3 * 6 * 4 * 5),
        (
            lambda: torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 8, dtype=torch.int8)),
            2 * 32**2 * 8,
        ),
    ],
)
def test_products_that_torch_does_not_count_are_counted(run: Callable[[], Any], by_hand: int) -> None:
    assert torchs(run) == 0
    assert products(run) == by_hand


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_of_a_sparse_matrix_only_stored_elements_count(layout: torch.layout) -> None:
    sparse = torch.eye(8).to_sparse(layout=layout)
    assert products(lambda: sparse @ torch.randn(8, 3)) == 2 * 8 * 3


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_each_gradient_of_a_grouped_convolution_costs_what_its_forward_does(groups: int, transposed: bool) -> None:
    make = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer, x = make(8, 12, 3, 2, padding=1, groups=groups), torch.randn(2, 8, 6, 6, requires_grad=True)
    forward = products(lambda: layer(x))
    # A transposed one goes over its input, the other over its output.
    assert forward == 2 * 2 * (36 if transposed else 9) * 9 * 8 * 12 / groups
    loss = layer(x).sum()
    assert products(lambda: loss.backward(retain_graph=True)) == 2 * forward
    by_torch = torchs(loss.backward)
    assert by_torch == (2 * forward if groups == 1 else (1 + groups) * forward), "torch's counts groups too often"


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted_as_if_nothing_were_masked_and_what_is_beside_it(causal: bool) -> None:
    n, h, rows, columns, d = 2, 3, 16, 16 if causal else 24, 8
    q, k, w = (torch.randn(n, h, s, d, requires_grad=True) for s in (rows, columns, columns))
    product = 2 * n * h * rows * columns * d
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with CountingMode() as forward:
            out = F.scaled_dot_product_attention(q, k, w, is_causal=causal)
        with CountingMode(backward=True) as backward:
            out.sum().backward()
    kept = (rows + 1) / (2 * rows) if causal else 1
    for mode, dense in ((forward, 2 * product), (backward, 5 * product)):
        attention = [call for call in mode.calls if "flash" in call.name]
        assert sum(call.flops for call in attention) == dense
        assert sum(call.causal_flops for call in attention) == pytest.approx(dense * kept)


@pytest.mark.parametrize("name", ["flash", "efficient", "cudnn"])
def test_attention_of_accelerators_is_counted_by_its_shapes(name: str) -> None:
    op = getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention").default
    q = torch.randn(2, 3, 16, 8)
    assert formulas.count(op, describe(op), (q, q, q), {}, None) == (2 * 2 * 2 * 3 * 16 * 16 * 8, True)


GATES = {nn.LSTM: 4, nn.RNN: 1, nn.GRU: 3}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
def test_recurrent_layers_cost_two_for_each_weight_and_token(kind: Any, layers: int, both: bool) -> None:
    model = kind(6, 5, layers, bidirectional=both)
    x = torch.randn(7, 3, 6)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    with CountingMode() as forward:
        out = model(x)[0].sum()
    with CountingMode(backward=True) as backward:
        out.backward()
    assert not forward.unknown
    assert not backward.unknown
    cells = 7 * 3 * 5 * layers * (1 + both)
    exact = 2 * 7 * 3 * matrices
    counted = sum(call.flops for call in forward.calls if call.product)
    assert counted == exact + (9 * cells if kind is nn.LSTM else 0)
    back = sum(call.flops for call in backward.calls if call.product)
    # Of the first layer no gradient of the input is taken (oneDNN takes it all the same), of h₀ none ever.
    assert 1.2 * exact <= back <= 2 * counted


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells_cost_two_for_each_weight_and_token(cell: Any) -> None:
    model = cell(6, 5)
    assert products(lambda: model(torch.randn(3, 6))) == 2 * 3 * sum(
        p.numel() for p in model.parameters() if p.dim() == 2
    )


def test_the_fused_encoder_costs_what_its_parts_do() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    x = torch.randn(2, 6, 16)
    apart = products(lambda: layer(x))
    layer.eval()
    with torch.inference_mode(), CountingMode() as mode:
        layer(x)
    assert [call.name for call in mode.calls] == ["_transformer_encoder_layer_fwd"]
    assert mode.calls[0].flops == apart == 2 * 12 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 4 * 2 * 6 * 6 * 16


class Causal(nn.Module):
    """Attention as torch chooses its kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)


DROPS = ("native_dropout", "bernoulli_", "div_", "mul", "mul_")
"""Dropout, of which torch has another kernel where nothing is recorded."""

INFERRED: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same"),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.LayerNorm(32),
            nn.Dropout(0.1),
            nn.Linear(32, 8),
            nn.LogSoftmax(-1),
        ),
        (2, 3, 16, 16),
    ),
    "signals": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2), nn.InstanceNorm1d(4), nn.GELU()), (2, 3, 18)),
    "volumes": (
        nn.Sequential(nn.ConvTranspose3d(1, 2, 2), nn.MaxPool3d(2), nn.Upsample(scale_factor=2)),
        (1, 1, 4, 4, 4),
    ),
    "attention": (Causal(), (1, 2, 6, 8)),
    "heads": (nn.MultiheadAttention(8, 2, dropout=0.1), (5, 1, 8)),
    "recurrent": (nn.GRU(3, 4), (5, 1, 3)),
    "normalised": (nn.Sequential(nn.RMSNorm(6), nn.GroupNorm(2, 4)), (3, 4, 6)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", INFERRED)
def test_inference_mode_counts_what_no_grad_does(name: str, training: bool) -> None:
    model, shape = INFERRED[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    inputs = (x, x, x) if name == "heads" else (x,)
    model.train(training)
    seen = {}
    for context in (torch.no_grad, torch.inference_mode):
        for counted in (False, True):
            copied = copy.deepcopy(model)
            torch.manual_seed(1)
            with context(), (mode := CountingMode()) if counted else contextlib.nullcontext():
                out = copied(*inputs)
            if not counted:
                bits = out
            else:
                for one, other in zip(formulas.tensors(out), formulas.tensors(bits), strict=True):
                    assert torch.equal(one, other)
        assert not mode.unknown, mode.unknown
        seen[context] = mode.calls
    for kind in (True, False):
        here, there = (
            [
                (call.name, call.flops)
                for call in calls
                if call.flops and call.product == kind and call.name not in DROPS
            ]
            for calls in seen.values()
        )
        assert here == there
    assert any(call.flops for call in seen[torch.inference_mode])


def test_what_was_registered_for_an_operator_made_of_others_counts_it_whole_in_inference_mode() -> None:
    erg.work.register_flop(torch.ops.aten.linear, lambda *_: 7)
    with torch.inference_mode():
        assert products(lambda: F.linear(a, b.T)) == 7


x = torch.randn(4, 10)
image = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("run", "by_hand"),
    [
        (lambda: x + x, 40),
        (lambda: x.exp(), 40),
        (lambda: x.clone().add_(x), 40),
        (lambda: torch.add(x, x, alpha=0.5), 80),
        (lambda: x.addcmul(x, x), 120),
        (lambda: F.gelu(x), 5 * 40),
        (lambda: x.softmax(1), 5 * 40),
        (lambda: x.log_softmax(1), 5 * 40),
        (lambda: x.sum(1), 40),
        (lambda: x.mean(), 40),
        (lambda: x.var(1), 4 * 40),
        (lambda: x.norm(), 2 * 40),
        (lambda: F.layer_norm(x, (10,)), 6 * 40),
        (lambda: F.layer_norm(x, (10,), torch.ones(10), torch.ones(10)), 8 * 40),
        (lambda: nn.BatchNorm1d(10)(x), 8 * 40),
        (lambda: nn.BatchNorm1d(10).eval()(x), 4 * 40),
        (lambda: F.group_norm(image, 3), 6 * image.numel()),
        (lambda: F.mse_loss(x, x), 3 * 40),
        (lambda: F.cross_entropy(x, torch.zeros(4, dtype=torch.long)), 5 * 40 + 2 * 4),
        (lambda: F.max_pool2d(image, 2), 4 * 2 * 3 * 16),
        (lambda: F.avg_pool2d(image, 2), 4 * 2 * 3 * 16),
        (lambda: F.adaptive_avg_pool2d(image, 1), image.numel()),
        (lambda: F.embedding(torch.zeros(7, dtype=torch.long), x), 0),
        (lambda: torch.cat([x, x]), 0),
        (lambda: x.to(torch.bfloat16), 0),
        (lambda: x.t().contiguous(), 0),
        (lambda: torch.zeros(4, 4), 0),
        (lambda: torch.randn(4, 4), 0),
        (lambda: x.argmax(1), 0),
        (lambda: x > 0, 0),
        (lambda: torch.arange(9) + 1, 0),
        (lambda: torch._foreach_mul([x, x], 2.0), 80),
        (lambda: torch.fft.fft(torch.randn(3, 16, dtype=torch.complex64)), 3 * 5 * 16 * 4),
        (lambda: torch.fft.rfft(torch.randn(3, 16)), 3 * 2.5 * 16 * 4),
        (lambda: torch.linalg.cholesky(torch.eye(6)), 6**3 / 3),
    ],
)
def test_other_operators_cost_what_their_formulas_say(run: Callable[[], Any], by_hand: float) -> None:
    assert flops(run) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("layer", "forward", "backward"),
    [
        # One slope in all: g·w and g·x, and the sum of the latter.
        (nn.PReLU(), 1, 3),
        (nn.PReLU(3), 1, 3),
        (nn.LeakyReLU(), 1, 1),
        (nn.RReLU(), 1, 1),
        (nn.ReLU(), 1, 1),
        (nn.ReLU6(), 1, 1),
        (nn.Hardtanh(), 1, 1),
        (nn.Hardsigmoid(), 4, 1),
        (nn.Softshrink(), 1, 1),
        (nn.Hardshrink(), 1, 1),
        (nn.GLU(-1), 1.0, 2.5),  # of the input's elements, of which two make one
        (nn.Upsample(scale_factor=2), 0, 4),
        (nn.AdaptiveMaxPool2d(4), 1, 1 / 4),
        (nn.FractionalMaxPool2d(2, output_size=4), 1, 1 / 4),
    ],
)
def test_activations_and_what_changes_sizes_cost_so_much_for_an_element_of_the_input(
    layer: nn.Module, forward: float, backward: float
) -> None:
    out = layer(source := image.clone().requires_grad_())
    assert flops(lambda: layer(source)) == pytest.approx(forward * image.numel())
    assert flops(lambda: out.backward(torch.ones_like(out))) == pytest.approx(backward * image.numel())


SETTINGS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.AdamW, {}),
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1}),
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("make", "options"), SETTINGS)
def test_optimizers_cost_the_same_one_by_one_in_lists_and_fused(make: Any, options: dict[str, Any]) -> None:
    found = {}
    for way in ("foreach", "fused", "neither"):
        model = nn.Linear(200, 100)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        flags = {"foreach": way == "foreach"} | ({"fused": True, "foreach": False} if way == "fused" else {})
        optimizer = make(model.parameters(), lr=0.1, **options, **flags)
        optimizer.step()
        found[way] = flops(optimizer.step) / (200 * 100 + 100)
    # Beside the arithmetic of each element there is that of a few scalars.
    assert found["fused"] == pytest.approx(found["foreach"], abs=0.01) == pytest.approx(found["neither"], abs=0.01)
    if make is torch.optim.AdamW:
        assert found["fused"] == pytest.approx(14, abs=0.01)


def test_quantised_linear_layers_are_counted_by_their_output() -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no quantised kernels")
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(12, 20)), {nn.Linear})
    assert products(lambda: model(torch.randn(3, 12))) == 2 * 3 * 12 * 20


# Operators of the script's own


def test_an_operator_without_a_formula_is_named_and_one_registered_is_counted() -> None:
    run = lambda: torch.ops.ergometry_formulas.product(a, b)  # noqa: E731
    with CountingMode() as mode:
        run()
    assert set(mode.unknown) == {"ergometry_formulas.product"}
    assert mode.unknown["ergometry_formulas.product"] > 0

    @erg.work.register_flop(torch.ops.ergometry_formulas.product)
    def product_flop(one: torch.Tensor, other: torch.Tensor) -> int:
        return 2 * one.numel() * other.shape[1]

    assert product_flop(a, b) == products(run) == 2 * 6 * 5 * 7
    erg.work.register_flop(torch.ops.ergometry_formulas.product.default, lambda *_, out_val: out_val.numel())
    assert products(run) == 6 * 7, "the last registration counts"


def test_a_formula_that_raises_leaves_its_operator_uncounted_and_says_so() -> None:
    erg.work.register_flop(torch.ops.ergometry_formulas.product, lambda *_: 1 / 0)
    with CountingMode() as mode:
        out = torch.ops.ergometry_formulas.product(a, b)
    assert torch.equal(out, a @ b)
    assert set(mode.unknown) == {"ergometry_formulas.product"}
    assert "ZeroDivisionError" in mode.failed["ergometry_formulas.product"]


@pytest.mark.parametrize("wrong", ["mm", torch.mm, None])
def test_what_is_no_operator_cannot_be_registered(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"torch\.ops"):
        erg.work.register_flop(wrong, lambda: 0)
    with pytest.raises(UsageError, match="callable"):
        erg.work.register_flop(torch.ops.ergometry_formulas.product, 7)


def test_a_formula_registered_with_torch_serves_too() -> None:
    from torch.utils import flop_counter

    packet = torch.ops.ergometry_formulas.product
    flop_counter.register_flop_formula(packet)(lambda one, other, **_: math.prod(one))
    try:
        assert products(lambda: packet(a, b)) == 30
    finally:
        del flop_counter.flop_registry[packet]
