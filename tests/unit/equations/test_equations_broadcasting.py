"""Every formula takes floats, NumPy arrays and torch tensors alike, and gives what it was given, element by element."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from ergometry import equations as eq
from support.formulas import FORMULAS, SAMPLES

torch = pytest.importorskip("torch")

ELEMENTWISE = [name for name, sample in SAMPLES.items() if sample.elementwise]
TIGHT = {"rtol": 1e-12, "atol": 0.0}


def spread(name: str) -> list[np.ndarray]:
    """Return a formula's arguments as arrays (3, 1), (3,), (), …; those with a unit over two powers of ten."""
    sample, shapes = SAMPLES[name], itertools.chain([(3, 1), (3,)], itertools.repeat(()))
    arrays = []
    for value, unit, shape in zip(sample.values, sample.units, shapes, strict=False):
        factors = (1.0, 0.1, 10.0) if unit else (1.0, 0.85, 1.1)
        arrays.append(np.reshape(value * np.array(factors), shape) if shape else np.array(value))
    return arrays


def element_by_element(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    together = np.broadcast_arrays(*arrays)
    found = [float(FORMULAS[name](*(float(a[index]) for a in together))) for index in np.ndindex(together[0].shape)]
    return np.reshape(found, together[0].shape)


@pytest.mark.parametrize("name", SAMPLES)
def test_floats_in_a_float_out(name):
    sample = SAMPLES[name]
    found = FORMULAS[name](*sample.values)
    if sample.elementwise:
        assert isinstance(found, float) and np.isfinite(found)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_arrays_broadcast(name):
    arrays = spread(name)
    found = FORMULAS[name](*arrays)
    assert isinstance(found, np.ndarray | np.float64)
    np.testing.assert_allclose(found, element_by_element(name, arrays), **TIGHT)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_tensors_broadcast_and_stay_tensors(name):
    arrays = spread(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = FORMULAS[name](*map(torch.from_numpy, map(np.atleast_1d, arrays)))
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), element_by_element(name, arrays), **TIGHT)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_one_tensor_among_floats_is_enough(name):
    values = SAMPLES[name].values
    for place in range(len(values)):
        mixed = [torch.tensor([v], dtype=torch.float64) if i == place else v for i, v in enumerate(values)]
        found = FORMULAS[name](*mixed)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found.numpy(), [FORMULAS[name](*values)], **TIGHT)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in ELEMENTWISE])
def test_what_is_summed_over_may_be_a_tensor_too(name):
    values = SAMPLES[name].values
    tensors = [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values]
    found = FORMULAS[name](*tensors)
    np.testing.assert_allclose(np.asarray(found), np.asarray(FORMULAS[name](*values)), **TIGHT)


@pytest.mark.parametrize("kind", [float, np.array, torch.tensor])
def test_memory_energy_of_each_kind(kind):
    found = eq.memory_energy(kind(100.0), kind(40.0), kind(3.0), kind(1.0), kind(8.0))
    assert (float(found.per_step), float(found.per_example)) == (100.0, 8.0)
    assert isinstance(found.per_step, type(kind(1.0) * 1.0))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_gradient_through_a_formula_is_its_slope(name):
    """A tensor's graph is kept: what a formula gives may be trained on."""
    values = SAMPLES[name].values
    place = 0
    leaf = torch.tensor(values[place], dtype=torch.float64, requires_grad=True)
    FORMULAS[name](*(leaf if i == place else v for i, v in enumerate(values))).backward()
    step = 1e-6 * values[place]
    up, down = (FORMULAS[name](*(v + d if i == place else v for i, v in enumerate(values))) for d in (step, -step))
    assert float(leaf.grad) == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-12 * abs(up / values[place]))
