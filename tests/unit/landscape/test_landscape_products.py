"""Products with the Hessian: exact against the dense one, by differences where they must be, and never in the way."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ergometry.landscape.differences import choose_step, difference
from ergometry.landscape.point import LandscapeError, Point, generator, signs, sphere
from ergometry.landscape.products import DIFFERENCES, EXACT, hessian
from support.landscapes import convolutional, language, perceptron


def attention(dtype=torch.float64):
    """Return a model whose fused attention has no second derivative, and a loss with and without that kernel."""
    torch.manual_seed(5)
    parts = nn.ModuleDict({"qkv": nn.Linear(8, 24), "head": nn.Linear(8, 3)}).to(dtype)
    x = torch.randn(4, 6, 8, dtype=dtype)
    y = torch.randint(3, (4,))

    def loss_with(backend):
        def loss(parameters):
            w, b, h, c = parameters
            q, k, v = nn.functional.linear(x, w, b).view(4, 6, 2, 12).transpose(1, 2).chunk(3, -1)
            with torch.nn.attention.sdpa_kernel(backend):
                mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            out = nn.functional.linear(mixed.transpose(1, 2).reshape(4, 6, 8).mean(1), h, c)
            return nn.functional.cross_entropy(out, y)

        return loss

    backends = torch.nn.attention.SDPBackend
    return list(parts.parameters()), loss_with(backends.FLASH_ATTENTION), loss_with(backends.MATH)


@pytest.mark.parametrize(
    "net", [perceptron(0), convolutional(), language()], ids=["perceptron", "convolutions", "words"]
)
def test_exact_products_are_those_of_the_dense_hessian(net):
    found = hessian(net.loss, net.parameters)
    assert found.how == EXACT and found.error == 0.0 and found.why == ""
    dense = net.hessian()
    assert torch.allclose(found.dense(), dense, rtol=1e-10, atol=1e-12)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(net.loss(net.parameters), net.parameters)])
    assert torch.allclose(found.gradient, gradient, rtol=1e-12)
    assert torch.allclose(found.gradient_product, dense @ gradient, rtol=1e-9, atol=1e-12)
    assert found.loss == pytest.approx(float(net.loss(net.parameters).detach()))


@pytest.mark.parametrize("net", [perceptron(0), language(padding=None)], ids=["perceptron", "words"])
def test_differences_of_gradients_agree_to_the_error_they_state(net):
    found = hessian(net.loss, net.parameters, how="differences")
    assert found.how == DIFFERENCES and "asked for" in found.why
    assert found.error < 1e-6
    dense, stream = net.hessian(), generator(3)
    for v in (found.gradient, *(sphere(net.size, stream, torch.float64, torch.device("cpu")) for _ in range(3))):
        off = float((found(v) - dense @ v).norm() / v.norm())
        assert off < 10 * found.error * float(torch.linalg.matrix_norm(dense, 2))


def test_products_by_differences_are_linear_in_the_length_and_zero_of_zero():
    net = perceptron(1)
    found = hessian(net.loss, net.parameters, how="differences")
    assert torch.allclose(found(1e6 * found.gradient), 1e6 * found.gradient_product, rtol=1e-6)
    assert not found(torch.zeros(net.size, dtype=torch.float64)).any()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-6), (torch.float32, 3e-2)])
def test_fused_attention_falls_back_and_says_so(dtype, most):
    parameters, fused, plain = attention(dtype)
    found, exact = hessian(fused, parameters), hessian(plain, parameters)
    assert exact.how == EXACT and found.how == DIFFERENCES
    assert "no double backward" in found.why and "flash" in found.why
    assert found.error < most
    v = sphere(found.size, generator(1), dtype, torch.device("cpu"))
    assert float((found(v) - exact(v)).norm()) < most * float(exact(v).norm())
    with pytest.raises(LandscapeError, match="expected a loss that can be differentiated twice"):
        hessian(fused, parameters, how="exact")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: cuDNN's recurrent layers")
def test_recurrent_layers_of_cudnn_fall_back():
    lstm = nn.LSTM(4, 5).cuda()
    x, names = torch.randn(7, 3, 4, device="cuda"), [n for n, _ in lstm.named_parameters()]
    found = hessian(
        lambda p: functional_call(lstm, dict(zip(names, p, strict=True)), (x,))[0].square().mean(),
        list(lstm.parameters()),
    )
    assert found.how == DIFFERENCES


def test_a_function_that_is_differentiable_only_once_falls_back():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * 3 * ctx.saved_tensors[0] ** 2

    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    found = hessian(lambda p: Once.apply(p[0]).sum(), [w])
    assert found.how == DIFFERENCES
    assert found(torch.ones_like(w)).tolist() == pytest.approx([6.0, -12.0], rel=1e-6)


def test_the_step_balances_rounding_and_truncation():
    """Of exp at 0 the truncation is h²/6 and the rounding about ε/h: no fixed step is much better."""
    for dtype in (torch.float32, torch.float64):

        def at(t, dtype=dtype):
            return torch.exp(torch.tensor([t], dtype=dtype))

        step = choose_step(at, dtype, 1.0)
        eps = torch.finfo(dtype).eps
        assert eps ** (1 / 3) / 30 < step.length < 30 * eps ** (1 / 3)
        made = abs(float(difference(at, step.length)) - 1.0)
        assert made < 30 * eps ** (2 / 3) and step.error < 100 * eps ** (2 / 3)
        assert made < 3 * step.error


def test_a_step_that_overflows_is_passed_over():
    step = choose_step(lambda t: torch.exp(torch.tensor([3000.0 * t], dtype=torch.float64)), torch.float64, 1e5)
    assert math.isfinite(step.error) and step.error < 1e-3


def test_the_callers_tensors_and_random_streams_are_left_alone():
    net = perceptron(2)
    before, state = [p.clone() for p in net.parameters], torch.get_rng_state()
    for how in ("exact", "differences"):
        found = hessian(net.loss, net.parameters, how=how)
        found(torch.ones(net.size, dtype=torch.float64))
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(net.parameters, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        assert hessian(net.loss, net.parameters).how == EXACT
    with torch.no_grad():
        assert hessian(net.loss, net.parameters).how == EXACT


def test_probes_are_the_same_each_time_and_not_the_scripts_own_numbers():
    size, place = 1000, (torch.float64, torch.device("cpu"))
    z = sphere(size, generator(0), *place)
    assert torch.equal(z, sphere(size, generator(0), *place))
    assert float(z.square().sum()) == pytest.approx(size)
    for seed in (0, 1, 42):
        torch.manual_seed(seed)
        weights = torch.randn(size, dtype=torch.float64)
        assert abs(float(z @ weights)) < 5 * size**0.5  # of equal numbers: size
    bits = signs((4000,), generator(1), *place)
    assert set(bits.tolist()) == {-1.0, 1.0} and abs(float(bits.mean())) < 4 / 4000**0.5


def test_parameters_of_two_dtypes_have_one_flat_vector_in_the_wider():
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([3.0], requires_grad=True)
    found = hessian(lambda p: (p[0] ** 3).sum() * p[1][0], [w, b])
    assert found.dtype == torch.float64
    assert found(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).tolist() == pytest.approx([3.0, 12.0, 0.0])


def test_parameters_that_the_loss_leaves_out_have_no_curvature():
    w, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    found = hessian(lambda p: (p[0] ** 4).sum(), [w, unused])
    assert found(torch.ones(5)).tolist() == [12.0, 12.0, 0.0, 0.0, 0.0]


W = torch.ones(2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "parameters", "expected", "remedy"),
    [
        (lambda p: p[0] ** 2, [W], r"a scalar loss, got \(2,\)", "reduce it"),
        (lambda p: 3.0, [W], "a scalar loss, got float", "reduce it"),
        (lambda p: (p[0] * math.nan).sum(), [W], "a finite loss, got nan", "leave this batch out"),
        (lambda p: (p[0] - 1.0).norm(), [W], "finite", "wider dtype"),
        (lambda p: W.detach().sum(), [W], "computes from the parameters", "functional_call"),
        (lambda p: (W**2).sum(), [W], "depends on the parameters", "functional_call"),
        (lambda p: p[0].sum(), [], "parameters that require grad, got none", "leave frozen ones out"),
        (lambda p: p[0].sum(), [W, torch.ones(2)], "got 1 of 2 that do not", "requires_grad_"),
        (lambda p: p[0].sum(), [torch.ones(2, dtype=torch.complex64, requires_grad=True)], "real", "real parameters"),
    ],
    ids=["vector", "float", "nan", "nan product", "detached", "own parameters", "none", "frozen", "complex"],
)
def test_bad_input_is_refused_in_one_line(loss, parameters, expected, remedy):
    with pytest.raises(LandscapeError, match=expected) as caught:
        hessian(loss, parameters)
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


def test_parameters_made_in_inference_mode_and_on_two_devices_are_refused():
    with torch.inference_mode():
        w = torch.ones(2, requires_grad=True)
    with pytest.raises(LandscapeError, match=r"outside torch\.inference_mode"):
        Point.at([w])
    with pytest.raises(LandscapeError, match="on one device, got cpu, meta"):
        Point.at([W, torch.ones(2, device="meta", requires_grad=True)])


def test_a_loss_that_is_another_each_time_is_refused_by_differences():
    net = perceptron(3)
    with pytest.raises(LandscapeError, match=r"the same gradient each time.*replay it"):
        hessian(lambda p: nn.functional.dropout(net.losses(p), 0.5).mean(), net.parameters, how="differences")


def test_an_unknown_way_is_refused():
    with pytest.raises(LandscapeError, match="auto, exact or differences"):
        hessian(lambda p: (p[0] ** 2).sum(), [W], how="quick")
