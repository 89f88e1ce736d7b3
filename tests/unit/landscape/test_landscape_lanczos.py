"""Ends of spectra and traces of functions: against eigenvalues, with errors checked against repetition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.landscape.lanczos import Krylov, largest_eigenvalue, spectral_trace
from ergometry.landscape.point import LandscapeError, generator, sphere
from ergometry.landscape.products import Operator, hessian
from support.landscapes import perceptron

CPU = torch.device("cpu")


def with_spectrum(values, seed=0, dtype=torch.float64):
    """Return a dense symmetric matrix with these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(values, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator(900 + seed), dtype=torch.float64))[0]
    return ((q * values) @ q.T).to(dtype)


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(-1.0, 1.0, 80),
        torch.cat((torch.full((75,), 0.1), torch.tensor([3.0, 5.0, 5.5, 9.0, -12.0]))),
        -torch.logspace(-3, 2, 60),
        torch.full((10,), 2.0),
    ],
    ids=["even", "outliers", "negative", "multiple"],
)
def test_the_largest_eigenvalue_lies_within_its_residual(values):
    found, krylov = largest_eigenvalue(Operator.of(with_spectrum(values)), tolerance=1e-6, steps=80)
    true = float(values.max())
    assert -1e-9 <= true - found.value <= found.stderr + 1e-9
    assert found.stderr <= 1e-6 * abs(true) + 1e-9
    assert found.products == krylov.steps <= len(values) and found.why == ""


@given(seed=st.integers(0, 10**6), steps=st.integers(2, 12))
@settings(max_examples=40)
def test_before_it_converges_some_eigenvalue_lies_within_the_residual_and_none_is_exceeded(seed, steps):
    values = torch.randn(30, generator=generator(seed), dtype=torch.float64)
    found, _ = largest_eigenvalue(Operator.of(with_spectrum(values, seed)), tolerance=0.0, steps=steps, seed=seed)
    assert found.value <= float(values.max()) + 1e-10
    assert float((values - found.value).abs().min()) <= found.stderr + 1e-10


def test_the_basis_stays_orthonormal_and_satisfies_the_recurrence():
    values = torch.cat((torch.logspace(-9, 0, 150, dtype=torch.float64), torch.tensor([100.0, 1e4])))
    a = with_spectrum(values)
    krylov = Krylov.begin(Operator.of(a), sphere(len(a), generator(0), torch.float64, CPU), 60)
    while not krylov.full:
        krylov.step()
    q, t = krylov.vectors(), krylov.tridiagonal()
    assert torch.allclose(q @ q.T, torch.eye(60, dtype=torch.float64), atol=1e-13)
    assert torch.allclose(q @ a @ q.T, t, atol=1e-10)


def test_an_invariant_subspace_ends_the_process():
    a = with_spectrum([1.0] * 20 + [5.0] * 20)
    krylov = Krylov.begin(Operator.of(a), sphere(40, generator(0), torch.float64, CPU), 40)
    while not krylov.full:
        krylov.step()
    assert krylov.exhausted and krylov.steps == 2
    assert torch.linalg.eigvalsh(krylov.tridiagonal()).tolist() == pytest.approx([1.0, 5.0])
    nothing, _ = largest_eigenvalue(Operator.of(torch.zeros(4, 4, dtype=torch.float64)))
    assert nothing.value == 0.0 and nothing.stderr == 0.0 and nothing.products == 1


def test_a_start_among_the_large_eigenvalues_saves_products():
    net = perceptron(0, widths=(4, 16, 16, 3))
    h = hessian(net.loss, net.parameters)
    true = float(torch.linalg.eigvalsh(net.hessian())[-1])
    random, _ = largest_eigenvalue(h, tolerance=1e-3)
    guided, _ = largest_eigenvalue(h, tolerance=1e-3, start=h.gradient)
    assert guided.value == pytest.approx(true, rel=1e-4) and random.value == pytest.approx(true, rel=1e-4)
    assert guided.products < random.products


def test_memory_for_fewer_vectors_is_used_and_said_and_too_little_is_refused():
    a = Operator.of(with_spectrum(torch.linspace(0.0, 1.0, 100)))
    each = 100 * 8
    found, krylov = largest_eigenvalue(a, tolerance=1e-9, memory_bytes=(4 + 7) * each)
    assert krylov.steps == 7 and krylov.basis.shape == (7, 100)
    assert "7 of 60 Lanczos vectors fit" in found.why and "residual still" in found.why
    assert abs(found.value - 1.0) <= found.stderr
    with pytest.raises(LandscapeError, match=r"room for 7 vectors of 100 numbers.*raise memory_bytes"):
        largest_eigenvalue(a, memory_bytes=6 * each)
    enough, _ = largest_eigenvalue(Operator.of(with_spectrum([1.0, 2.0])), memory_bytes=6 * 16)
    assert enough.value == pytest.approx(2.0)


def test_a_product_that_is_not_finite_is_refused():
    broken = Operator(lambda v: v * math.nan, 5, torch.float64, CPU)
    with pytest.raises(LandscapeError, match="finite product 1 of the Lanczos process"):
        largest_eigenvalue(broken)
    with pytest.raises(LandscapeError, match="finite product 1"):
        spectral_trace(broken, torch.exp)


SPECTRA = {
    "decaying": torch.logspace(-6, 1, 100),
    "low rank": torch.cat((torch.zeros(88), torch.logspace(-2, 3, 12))),
    "flat": torch.linspace(0.5, 1.5, 100),
}


@pytest.mark.parametrize("probes", [1, 4])
def test_stated_errors_of_a_logdet_cover_as_they_say(probes):
    scores = []
    for values in map(torch.Tensor.double, SPECTRA.values()):
        a, true = Operator.of(torch.diag(values)), float(torch.log1p(values / 0.1).sum())
        for seed in range(60):
            found = spectral_trace(a, lambda x: torch.log1p(x / 0.1), floor=0.0, probes=probes, seed=seed, steps=30)
            scores.append((found.value - true) / found.stderr)
    scores = torch.tensor(scores)
    assert 0.85 - 0.03 < float((scores.abs() < 1.645).double().mean()) < 0.97 + 0.02  # 180 repetitions tell 2 %
    assert abs(float(scores.mean())) < 4 / 180**0.5


@given(seed=st.integers(0, 10**6), steps=st.integers(1, 8), precision=st.floats(1e-3, 10.0))
@settings(max_examples=40)
def test_the_truncation_stated_brackets_the_probe_itself(seed, steps, precision):
    """With one probe the trace's own error is known: what is left must lie within the Gauss–Radau gap."""
    from ergometry.landscape import lanczos

    values = torch.rand(25, generator=generator(seed), dtype=torch.float64) ** 4
    a = torch.diag(values)
    z = sphere(25, generator(seed + 1), torch.float64, CPU)
    krylov = Krylov.begin(Operator.of(a), z, steps)
    while not krylov.full:
        krylov.step()

    def logarithm(x):
        return torch.log1p(x / precision)

    first, second, truncation = lanczos._quadrature(krylov, logarithm, 0.0, math.nan)
    true = float(z.square() @ logarithm(values))
    assert abs(first - true) <= truncation + 1e-9
    if steps >= 8:
        assert second == pytest.approx(float(z.square() @ logarithm(values) ** 2), rel=0.05)


def test_any_function_of_a_spectrum_of_any_sign():
    values = torch.cat((torch.linspace(-2.0, 2.0, 60), torch.tensor([6.0]))).double()
    found = spectral_trace(Operator.of(with_spectrum(values)), torch.exp, probes=30)
    true = float(values.exp().sum())
    assert abs(found.value - true) < 3 * found.stderr
    assert found.stderr < 0.4 * true and found.why == ""


def test_too_few_steps_show_in_the_error_and_are_said():
    values = torch.logspace(-8, 4, 300).double()
    a, true = Operator.of(torch.diag(values)), float(torch.log1p(values / 1e-6).sum())
    short = spectral_trace(a, lambda x: torch.log1p(x / 1e-6), floor=0.0, probes=5, steps=6)
    assert "5 of 5 probes ended with truncation" in short.why and short.products == 30
    assert abs(short.value - true) < 2 * short.stderr
    small = spectral_trace(a, torch.log1p, floor=0.0, probes=2, memory_bytes=9 * 300 * 8)
    assert "5 of 60 Lanczos vectors fit" in small.why


def test_single_precision_is_resolved_or_its_noise_is_stated():
    values = torch.cat((torch.zeros(900), torch.logspace(-2, 2, 100))).double()
    for precision in (1e-1, 1e-5):
        true = float(torch.log1p(values / precision).sum())
        a = Operator.of(torch.diag(values).float())
        found = spectral_trace(a, lambda x, p=precision: torch.log1p(x / p), floor=0.0, probes=6, steps=60)
        assert abs(found.value - true) < 2.5 * found.stderr


def test_the_error_of_products_is_passed_on():
    a = with_spectrum([1.0, 2.0, 3.0])
    rough = Operator(lambda v: a @ v, 3, torch.float64, CPU, how="finite differences", error=0.1, why="no double")
    found, _ = largest_eigenvalue(rough)
    assert found.stderr == pytest.approx(0.3) and "no double" in found.why and "finite differences" in found.method
    assert spectral_trace(rough, torch.exp, probes=400).stderr > 0.1 * (math.e + math.e**2)
