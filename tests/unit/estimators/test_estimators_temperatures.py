"""Three temperatures on SGD whose stationary state is exact: where they agree, where they do not, what is null."""

import math

import numpy as np
import pytest

from ergometry.core.series import CURVATURE, EQUILIBRIUM, NOISE
from ergometry.core.units import factor
from ergometry.equations.work_loss import stationary_variance
from ergometry.estimators.temperatures import UNIT, noise_temperature, read_temperatures
from support.linear_sgd import simulate
from support.told import table, told


def run_of(*, curvature, noise, eta, momentum=0.0, batch=4.0, steps=4000, c=1.0, eligible=1.0, rates=None, drop=()):
    """Return the run of such SGD, ``noise`` being that of a batch; ``c`` rescales the loss at η/c."""
    n = len(curvature)
    rng = np.random.default_rng(0)
    path = simulate(rng, curvature=curvature, noise=noise, eta=eta, momentum=momentum, steps=steps, burn_in=600)
    equilibrium = table(
        EQUILIBRIUM,
        steps,
        theta_g=c * path.theta_g,
        dtheta_sq=path.dtheta_sq,
        virial=c * path.virial,
        momentum=momentum,
        eligible=eligible,
        sampled=n,
        parameters=n,
    )
    trace = float(noise.sum()) * batch
    scatter = 1 + 0.01 * rng.standard_normal((2, steps))
    pairs = table(
        NOISE,
        steps,
        how=1,
        small_batch=1.0,
        big_batch=batch,
        small_sq=c**2 * (path.true_grad_sq + trace) * scatter[0],
        big_sq=c**2 * (path.true_grad_sq + trace / batch) * scatter[1],
        small_preconditioned_sq=np.nan,
        big_preconditioned_sq=np.nan,
        lag2_sq=np.nan,
        dataset=np.nan,
        sampled=n,
        parameters=n,
    )
    hessian = table(CURVATURE, 5, trace=c * curvature.sum() * (1 + 0.01 * rng.standard_normal(5)), trace_stderr=0.0)
    tables = [(EQUILIBRIUM, equilibrium), (NOISE, pairs), (CURVATURE, hessian)]
    kept = [(series, rows) for series, rows in tables if series not in drop]
    return told(*kept, rates=((0, 0, 0, eta / c),) if rates is None else rates, examples=batch)


@pytest.mark.parametrize(("eta", "momentum"), [(0.02, 0.0), (0.01, 0.8)])
def test_in_equilibrium_the_three_agree(eta, momentum):
    """Noise of one size in every direction, as a heat bath's is, whatever the curvature there."""
    a = np.linspace(0.5, 2.0, 80)
    found = read_temperatures(run_of(curvature=a, noise=np.full(80, 3.0), eta=eta, momentum=momentum))
    bath = eta * 3.0 / (2 * (1 - momentum))
    for e, relative in ((found.noise, 0.01), (found.virial, 0.03), (found.configurational, 0.03)):
        assert e.value == pytest.approx(bath, rel=relative + 0.05 * (eta * 2.0 / (1 - momentum)))
        assert 0 < e.stderr < 0.1 * e.value and e.unit == UNIT


def test_where_the_noise_knows_the_curvature_the_configurational_one_stands_apart():
    """Σ ∝ H²: each direction has its own temperature; noise = virial still, and ⟨|G|²⟩/trH weighs otherwise."""
    a, eta = np.linspace(0.2, 3.0, 80), 0.05
    found = read_temperatures(run_of(curvature=a, noise=a**2, eta=eta))
    variance = stationary_variance(eta, a, a**2)
    assert found.virial.value == pytest.approx(float(np.mean(a * variance)), abs=4 * found.virial.stderr)
    assert found.noise.value == pytest.approx(float(eta * np.mean(a**2) / 2), rel=0.01)
    assert found.virial.value == pytest.approx(found.noise.value, rel=0.1)
    exact = float(np.sum(a**2 * variance) / np.sum(a))
    assert found.configurational.value == pytest.approx(exact, abs=4 * found.configurational.stderr)
    assert exact > 1.4 * found.noise.value


def test_far_from_small_steps_the_virial_one_is_exact_and_the_noise_one_is_not():
    """At ηa = 1 the variance is twice that of the continuous theory: 2/(2−ηa)."""
    a = np.ones(60)
    found = read_temperatures(run_of(curvature=a, noise=a, eta=1.0))
    assert found.noise.value == pytest.approx(0.5, rel=0.01)
    assert found.virial.value == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("c", [1e-2, 10.0])
def test_rescaling_the_loss_scales_the_temperatures(c):
    a = np.linspace(0.5, 2.0, 20)
    one, other = (read_temperatures(run_of(curvature=a, noise=a, eta=0.05, steps=300, c=k)) for k in (1.0, c))
    for name in ("noise", "virial", "configurational"):
        e, scaled = getattr(one, name), getattr(other, name)
        assert scaled.value == pytest.approx(c * e.value, rel=1e-9)
        assert scaled.stderr == pytest.approx(c * e.stderr, rel=1e-6)


def test_only_steps_at_the_last_learning_rate_count():
    a = np.ones(10)
    whole = run_of(curvature=a, noise=a, eta=0.1, steps=200)
    later = run_of(curvature=a, noise=a, eta=0.1, steps=200, rates=((0, 0, 0, 0.3), (100, 0, 0, 0.1)))
    assert read_temperatures(later).virial.value != read_temperatures(whole).virial.value
    assert read_temperatures(later).noise.value == pytest.approx(read_temperatures(whole).noise.value, rel=0.01)
    assert "not taken there" in read_temperatures(later).configurational.why  # its traces are of steps 0 to 4


def test_a_learning_rate_that_never_stands_still_has_the_noise_of_the_last_quarter_and_its_own_last_value():
    a = np.ones(10)
    falling = tuple((k, 0, 0, 0.1 * (1 - k / 201)) for k in range(200))
    found = read_temperatures(run_of(curvature=a, noise=a, eta=0.1, steps=200, rates=falling)).noise
    whole = read_temperatures(run_of(curvature=a, noise=a, eta=0.1, steps=200)).noise
    assert found.value == pytest.approx(whole.value * (1 - 199 / 201), rel=0.02)
    assert "never stood still" in found.why and "never stood still" not in whole.why


@pytest.mark.parametrize(
    ("options", "name", "why"),
    [
        ({"eligible": 0.0}, "noise", "plain SGD"),
        ({"drop": (NOISE,)}, "noise", "two batch sizes"),
        ({"drop": (NOISE,)}, "configurational", "two batch sizes"),
        ({"drop": (EQUILIBRIUM,)}, "virial", "physics off"),
        ({"drop": (CURVATURE,)}, "configurational", "Hessian"),
        ({"rates": ()}, "noise", "learning rate"),
    ],
)
def test_what_is_not_known_says_what_it_needs(options, name, why):
    a = np.ones(4)
    found = getattr(read_temperatures(run_of(curvature=a, noise=a, eta=0.1, steps=40, **options)), name)
    assert found.value is None and why in found.why and found.unit == UNIT


def test_a_hessian_without_positive_trace_has_no_temperature():
    a = np.ones(4)
    run = run_of(curvature=a, noise=a, eta=0.1, steps=40)
    run.tables["curvature"].rows[:, CURVATURE.columns.index("trace")] = -3.0
    assert "positive trace" in read_temperatures(run).configurational.why


def test_a_temperature_is_a_loss_per_nat():
    assert factor(UNIT, "loss/nat") == 1.0
    assert noise_temperature(0.1, 40.0, 8.0, 10.0, 0.0) == pytest.approx(0.025)
    assert math.isclose(noise_temperature(0.1, 40.0, 8.0, 10.0, 0.9), 0.25)
