"""The tap of curvature: against dense Hessians and gradients of parts in float64, its errors, its price."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from ergometry.core.series import CURVATURE
from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.curvature import GONE, Curvature, noise_of_parts
from ergometry.integrations.physics.owned_loss import OwnedLoss
from ergometry.integrations.physics.tap import Pace, Site
from ergometry.landscape.products import hessian
from support.physics_runs import batches, cross_entropy, mlp, train

D = torch.float64


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def dense(values, batch):
    """Return the gradient (N,) and the Hessian (N, N) of the MLP's loss on a batch, by brute force."""
    model = mlp().double()
    names = [name for name, _ in model.named_parameters()]
    sizes = [v.numel() for v in values]

    def loss(theta):
        parts = dict(
            zip(names, [t.view(v.shape) for t, v in zip(theta.split(sizes), values, strict=True)], strict=True)
        )
        return F.cross_entropy(torch.func.functional_call(model, parts, (batch[0].double(),)), batch[1])

    theta = flat(values)
    return torch.func.grad(loss)(theta), torch.func.jacrev(torch.func.jacrev(loss))(theta)


def parts_of(batch, n):
    size = len(batch[0]) // n
    return [tuple(t[i * size : (i + 1) * size] for t in batch) for i in range(n)]


def assert_row_is(row, values, whole, parts):
    _, h = dense(values, whole)
    eigenvalues = torch.linalg.eigvalsh(h)
    assert abs(row["largest"] - eigenvalues[-1]) <= row["largest_stderr"] + 1e-9
    assert row["largest_stderr"] <= 0.011 * eigenvalues[-1]
    assert abs(row["trace"] - eigenvalues.sum()) <= 4 * row["trace_stderr"]
    g = torch.stack([dense(values, part)[0] for part in parts])
    m, mean = len(g), g.mean(0)
    d = g - mean
    s = torch.einsum("ia,ab,ib->", d, h, d) / (m - 1)
    assert row["noise_trace"] == pytest.approx(float(len(parts[0][0]) * s), rel=1e-9)
    assert row["along_gradient"] == pytest.approx(float(mean @ h @ mean - s / m), rel=1e-9)
    assert row["grad_sq"] == pytest.approx(float(mean @ mean - d.square().sum() / (m - 1) / m), rel=1e-9)
    assert row["how"] == 1
    assert row["products"] > 10


def test_of_the_users_loss_by_parts_of_its_batch():
    trained = train("mlp", steps=3, physics="full", owned=True, dtype=D, size=32)
    rows = trained.rows(CURVATURE)
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row, values, batch in zip(rows, trained.parameters[:3], batches("mlp", 3, 32), strict=True):
        assert_row_is(row, values, batch, parts_of(batch, 8))


def test_of_a_script_that_accumulates_by_its_micro_batches():
    trained = train("mlp", steps=4, physics="full", accumulate=4, dtype=D)
    (row,) = [row for row in trained.rows(CURVATURE) if row["step"] == 3]
    micro = batches("mlp", 16)[12:]
    whole = tuple(torch.cat([batch[i] for batch in micro]) for i in (0, 1))
    assert_row_is(row, trained.parameters[3], whole, micro)


def test_light_takes_the_cheap_ones_of_the_batch_as_it_is():
    trained = train("mlp", steps=2, physics="light", owned=True, dtype=D, size=32)
    row = trained.rows(CURVATURE)[1]
    g, h = dense(trained.parameters[1], batches("mlp", 2, 32)[1])
    assert row["along_gradient"] == pytest.approx(float(g @ h @ g), rel=1e-9)
    assert row["grad_sq"] == pytest.approx(float(g @ g), rel=1e-9)
    top = float(torch.linalg.eigvalsh(h)[-1])
    assert 0.85 * top <= row["largest"] <= top * (1 + 1e-9)  # a Ritz value: never above
    assert row["largest_stderr"] > 0
    assert row["products"] <= 12
    assert all(math.isnan(row[name]) for name in ("trace", "trace_stderr", "noise_trace", "noise_trace_stderr"))


class Once(torch.autograd.Function):
    """A square that can be differentiated once, as fused kernels can."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def attended(model, x, backend):
    x = model[0](x).view(-1, 1, 4, 4)
    with torch.nn.attention.sdpa_kernel(backend):
        return model[2](F.scaled_dot_product_attention(x, x, x).flatten(1))


ONE_WAY = {
    "fused attention": (
        lambda m, b: F.cross_entropy(attended(m, b[0], SDPBackend.FLASH_ATTENTION), b[1]),
        lambda m, b: F.cross_entropy(attended(m, b[0], SDPBackend.MATH), b[1]),
    ),
    "a function of the user's own": (
        lambda m, b: F.cross_entropy(m[2](Once.apply(m[0](b[0]))), b[1]),
        lambda m, b: F.cross_entropy(m[2](m[0](b[0]).square()), b[1]),
    ),
}


@pytest.mark.parametrize("name", ONE_WAY)
def test_where_there_is_no_double_backward_it_takes_differences_and_says_so(name):
    """A function of the user's would not even raise: autograd passes its backward over, and the product is wrong."""
    options = {"steps": 2, "physics": "full", "owned": True, "dtype": D}
    found = [train("mlp", loss=f, **options).rows(CURVATURE) for f in ONE_WAY[name]]
    for row, exact in zip(*found, strict=True):
        assert (row["how"], exact["how"]) == (2, 1)
        assert row["largest"] == pytest.approx(exact["largest"], abs=row["largest_stderr"] + exact["largest_stderr"])
        assert row["along_gradient"] == pytest.approx(exact["along_gradient"], rel=1e-5)
        assert row["noise_trace"] == pytest.approx(exact["noise_trace"], rel=1e-4)


# What parts of a batch say, and how well


def test_noise_of_parts_is_unbiased_and_its_errors_cover():
    """Gaussian gradients of known G and Σ, in a Hessian of both signs: 90 % intervals cover 85 to 97 %."""
    stream = torch.Generator().manual_seed(4)
    n, m, b, repetitions = 6, 8, 4.0, 300
    a = torch.randn(n, n, generator=stream, dtype=D)
    h = a + a.T + 2 * torch.eye(n, dtype=D)
    s = torch.randn(n, n, generator=stream, dtype=D)
    sigma, mean = s @ s.T, torch.randn(n, generator=stream, dtype=D)
    w = torch.zeros(n, dtype=D, requires_grad=True)
    operator = hessian(lambda p: 0.5 * p[0] @ h @ p[0] + mean @ p[0], [w])
    truth = {
        "noise_trace": float(torch.trace(h @ sigma)),
        "along_gradient": float(mean @ h @ mean),
        "grad_sq": float(mean @ mean),
    }
    found = {name: [] for name in truth}
    covered = {"noise_trace": 0, "along_gradient": 0}
    root = torch.linalg.cholesky(sigma) / b**0.5
    for _ in range(repetitions):
        noise = noise_of_parts(operator, list(mean + torch.randn(m, n, generator=stream, dtype=D) @ root.T), b)
        for name in covered:
            value, stderr = getattr(noise, name)
            found[name].append(value)
            covered[name] += abs(value - truth[name]) <= 1.645 * stderr
        found["grad_sq"].append(noise.grad_sq)
    for name, values in found.items():
        error = np.std(values) / repetitions**0.5
        assert abs(np.mean(values) - truth[name]) <= 3 * error, name
    assert all(0.85 <= count / repetitions <= 0.97 for count in covered.values()), covered


# When


class Stand:
    """A tape and the keeper of it, of a function of two parameters."""

    def __init__(self, curvature=3.0):
        self.w = torch.tensor([1.0, 2.0], dtype=D, requires_grad=True)
        self.why, self.examples, self.parameters = "", 4.0, [self.w]
        self.curvature, self.current, self.probe, self.probe_why = curvature, [], self, ""
        self.wanted = []

        self.cost_s = 0.0

    def want(self, step):
        self.wanted.append(step)

    def want_probe(self):
        return False

    def loss(self, parameters=None):
        w = (parameters or {}).get(self.w, self.w)
        return 0.5 * (self.curvature * w[0] ** 2 + w[1] ** 2)


def tapped(tapes, *, now_s, level="light", every=None):
    rows, notices = [], []
    site = Site(
        emit=lambda kind, *values: rows.append(dict(zip(kind.columns, values, strict=True))),
        pending=Pending(),
        machine=SimpleNamespace(index=7, steps=9),
        now=lambda: now_s,
        schedule=lambda _: None,
        meta=lambda **_: None,
        notice=lambda *told: notices.append(told),
        level=level,
        every=every,
    )
    return Curvature(site, tapes), rows, notices


def begin(tap, step):
    """Begin a step of 10 ms, as the conductor does."""
    tap.step_end()
    if tap.due(Pace(step + 1, 0.01 * step, 0.01)):
        tap.step_begin(step, 0.01)


@pytest.mark.parametrize(("now_s", "looks"), [(0.5, 0), (1000.0, 1)])
def test_a_run_too_short_to_save_up_has_one_look_at_its_end_if_that_is_cheap(now_s, looks):
    tap, rows, _ = tapped(Stand(), now_s=now_s)
    for step in range(5):
        begin(tap, step)
        tap.optimizer_begin(None, closure=False)
    assert rows == []
    assert "no training step was looked at" in tap.why()
    tap.finish()
    assert len(rows) == looks
    if looks:
        assert (rows[0]["step"], rows[0]["largest"]) == (9, pytest.approx(3.0))
        assert rows[0]["along_gradient"] == pytest.approx(3.0**3 + 2.0**2)
        assert tap.why() == ""
    tap.finish()
    assert len(rows) == looks


def test_a_model_that_the_script_has_let_go_of_is_not_looked_at_when_the_run_ends():
    stand = Stand()
    stand.probe.parameters = []  # its weak references are dead
    tap, rows, _ = tapped(stand, now_s=1000.0)
    begin(tap, 0)
    tap.finish()
    assert rows == []
    assert tap.why() == GONE


def test_at_level_full_it_asks_for_the_steps_own_tapes():
    stand = Stand()
    tap, rows, _ = tapped(stand, now_s=1.0, level="full", every=2)
    stand.current = [Stand(5.0)]
    for step in range(3):
        begin(tap, step)
        tap.optimizer_begin(None, closure=False)
        tap.optimizer_begin(None, closure=False)  # a second optimizer of the same step
    assert stand.wanted == [0, 2]
    assert [row["largest"] for row in rows] == [pytest.approx(5.0)] * 2
    stand.current[0].why = "it cannot"
    begin(tap, 4)
    begin(tap, 5)
    tap.optimizer_begin(None, closure=False)
    assert len(rows) == 2 + (rows[-1]["largest"] == pytest.approx(3.0))


def test_what_cannot_be_evaluated_says_why_and_is_given_up():
    nothing = Stand()
    nothing.probe, nothing.probe_why = None, "the step runs compiled"
    tap, rows, _ = tapped(nothing, now_s=1.0, every=1)
    begin(tap, 0)
    tap.optimizer_begin(None, closure=False)
    assert tap.why() == "needs a batch that can be evaluated again: the step runs compiled"
    broken = Stand(math.nan)
    tap, rows, _ = tapped(broken, now_s=1.0, every=1)
    for step in range(9):
        begin(tap, step)
        tap.optimizer_begin(None, closure=False)
    assert rows == []
    assert tap.cadence.uses == 3
    assert "finite loss" in tap.why()


def test_no_room_for_a_basis_leaves_the_rest(monkeypatch):
    monkeypatch.setattr("ergometry.integrations.physics.curvature._MEMORY", 64)
    tap, rows, notices = tapped(Stand(), now_s=1.0, every=1)
    begin(tap, 0)
    tap.optimizer_begin(None, closure=False)
    assert math.isnan(rows[0]["largest"])
    assert rows[0]["along_gradient"] == pytest.approx(31.0)
    assert notices[0][0] == "physics.unavailable"


def test_batch_norm_of_single_examples_is_not_asked_for():
    """Eight examples are cut in four parts of two; a part of one would have no variance to normalise by."""
    trained = train("convolutional", steps=2, physics="full", owned=True)
    assert all(math.isfinite(row["noise_trace"]) for row in trained.rows(CURVATURE))


def test_the_calls_kept_for_a_look_are_let_go():
    model = mlp()
    owned = OwnedLoss(cross_entropy, model)
    tap, rows, _ = tapped(Stand(), now_s=1.0, every=1)
    tap._owned = owned
    (batch,) = batches("mlp", 1)
    begin(tap, 0)
    owned(batch)
    assert len(owned.tapes) == 1
    tap.optimizer_begin(None, closure=False)
    assert owned.tapes == []
    assert len(rows) == 1
    begin(tap, 1)
    owned(batch)
    tap.unwound()
    assert owned.tapes == []
