"""The largest eigenvalue with a basis of few vectors, against spectra that are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ergometry.landscape.lanczos import largest_eigenvalue
from ergometry.landscape.point import LandscapeError
from ergometry.landscape.products import Operator
from ergometry.landscape.restarted import largest_by_restarts

D = torch.float64


def operator(values: torch.Tensor, seed: int = 0) -> Operator:
    """Return an operator of these eigenvalues, along random directions."""
    q, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), dtype=D, generator=torch.Generator().manual_seed(seed))
    )
    return Operator.of(q @ torch.diag(values) @ q.T)


def spectrum(n: int = 60) -> torch.Tensor:
    """Return a few large eigenvalues over many small ones, and some below zero that are larger than those."""
    return torch.cat((torch.tensor([9.0, 6.0, 4.0, -7.0], dtype=D), torch.linspace(-0.1, 0.5, n - 4, dtype=D)))


@pytest.mark.parametrize("capacity", [3, 5])
def test_it_finds_the_largest_and_states_how_far_off_it_may_be(capacity: int) -> None:
    for seed in range(20):
        found = largest_by_restarts(operator(spectrum(), seed), capacity=capacity, seed=seed, tolerance=1e-6, steps=300)
        assert found.value == pytest.approx(9.0, rel=1e-9)
        assert found.why == ""
        short = largest_by_restarts(operator(spectrum(), seed), capacity=capacity, seed=seed, tolerance=1e-6, steps=7)
        assert short.products == 7
        assert short.value <= 9.0 + 1e-9
        assert (spectrum() - short.value).abs().min() <= short.stderr
        assert f"no more than {capacity} Lanczos vectors" in short.why


def test_with_room_for_all_steps_it_is_the_plain_process() -> None:
    one = operator(spectrum())
    whole, _ = largest_eigenvalue(one, steps=8, tolerance=1e-12)
    found = largest_by_restarts(one, capacity=8, steps=8, tolerance=1e-12)
    assert (found.value, found.stderr, found.products) == (whole.value, whole.stderr, whole.products)


def test_values_only_rise_as_it_goes_on() -> None:
    one = operator(spectrum())
    values = [largest_by_restarts(one, capacity=3, steps=n, tolerance=0.0).value for n in range(1, 30)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values) if not math.isclose(a, b))
    restarts = values[2::3]
    assert restarts == sorted(restarts)


def test_no_more_vectors_are_held_than_it_was_given() -> None:
    one, held = operator(spectrum(400)), []
    begin = torch.empty

    def empty(*size: int, **how: object) -> torch.Tensor:
        held.append(size)
        return begin(*size, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        largest_by_restarts(one, capacity=3, steps=9, tolerance=0.0)
    assert held == [(3, 400)] * 3


def test_a_start_along_the_eigenvector_is_found_at_once_and_an_exhausted_space_ends_it() -> None:
    one = Operator.of(torch.diag(torch.tensor([2.0, 2.0], dtype=D)))
    found = largest_by_restarts(one, capacity=3, start=torch.tensor([1.0, 1.0], dtype=D))
    assert (found.value, found.products) == (pytest.approx(2.0), 1)


def test_two_vectors_are_too_few() -> None:
    with pytest.raises(LandscapeError, match="room for 3 vectors"):
        largest_by_restarts(operator(spectrum()), capacity=2)
