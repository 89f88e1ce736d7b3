"""The fit over shapes: exact where the work is a polynomial, honest where it is not, and silent until it knows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch

from ergometry.integrations.counting.profiles import Count, Totals
from ergometry.integrations.counting.shapes import MAX_SAMPLES, TOLERANCE, Fit, least_squares
from support.counted import Language, counted, loop, train


def count(flops: float, moved: float = math.nan) -> Count:
    return Count(Totals(flops, flops, 2 * flops if math.isnan(moved) else moved, flops / 2), [])


def filled(work: Callable[..., float], sizes: list[tuple[int, ...]]) -> Fit:
    fit = Fit()
    for dims in sizes:
        fit.add(dims, count(work(*dims)))
    return fit


@pytest.mark.parametrize(
    ("work", "least"),
    [
        (lambda n, s: 7.0 * s * n + 3, 4),
        (lambda n, s: 100.0 + 4 * n * s + 2 * s * s, 5),
    ],
)
def test_a_polynomial_is_found_exactly_and_holds_for_sizes_never_seen(work: Callable[..., float], least: int) -> None:
    # The first size is the same for all calls.
    fit = filled(work, [(8, s) for s in (10, 25, 17, 90, 41, 60)[:least]])
    for s in (1, 33, 400):
        predicted = fit.predict((8, s))
        assert predicted is not None
        totals, nearest, uses = predicted
        assert totals.flops == pytest.approx(work(8, s), rel=1e-9)
        assert totals.bytes == pytest.approx(2 * work(8, s), rel=1e-9)
        assert nearest.totals.flops * uses == pytest.approx(totals.flops)
    assert fit.misfit == 0
    assert filled(work, [(8, s) for s in (10, 25, 17, 90, 41, 60)[: least - 1]]).predict((8, 5)) is None


def test_two_sizes_that_vary_are_fitted_together() -> None:
    stream = random.Random(0)
    work = lambda n, s: 5.0 * n * s + 3 * n * s + 40 * n + 7  # noqa: E731
    fit = filled(work, [(stream.randint(1, 64), stream.randint(1, 512)) for _ in range(10)])
    predicted = fit.predict((19, 301))
    assert predicted is not None
    assert predicted[0].flops == pytest.approx(work(19, 301), rel=1e-6)


def test_sizes_that_follow_one_another_are_one_and_a_call_in_which_they_do_not_is_not_guessed() -> None:
    work = lambda s, t, _: 3.0 * s * s + t  # noqa: E731
    fit = filled(work, [(s, 2 * s - 1, 7) for s in (3, 9, 14, 22, 31, 40)])
    predicted = fit.predict((50, 99, 7))
    assert predicted is not None
    assert predicted[0].flops == pytest.approx(work(50, 99, 7))
    assert fit.predict((50, 98, 7)) is None
    assert fit.predict((50, 99, 8)) is None, "a size that has never varied"


def test_work_that_is_no_polynomial_is_not_fitted() -> None:
    stream = random.Random(1)
    fit = filled(lambda s: 100.0 + 50 * stream.random() * s, [(s,) for s in range(5, 45, 2)])
    assert fit.predict((50,)) is None
    assert fit.wants()


def test_work_that_jumps_now_and_then_is_fitted_with_its_misfit_said() -> None:
    work = lambda s: 1000.0 * (s // 2) + 30_000  # noqa: E731
    fit = filled(work, [(s,) for s in range(10, 40, 3)])
    predicted = fit.predict((101,))
    assert predicted is not None
    assert predicted[0].flops == pytest.approx(work(101), rel=0.05)
    fit.add((101,), count(work(101)))
    assert 0 < fit.misfit < 2 * TOLERANCE


def test_unknown_bytes_stay_unknown() -> None:
    fit = Fit()
    for s in (3, 9, 14, 22):
        fit.add((s,), Count(Totals(s, s, math.nan, math.nan), []))
    predicted = fit.predict((50,))
    assert predicted is not None
    assert predicted[0].flops == pytest.approx(50)
    assert math.isnan(predicted[0].bytes)


def test_checks_come_ever_more_rarely_and_samples_are_bounded() -> None:
    fit = filled(lambda s: 3.0 * s, [(s,) for s in (1, 2, 3, 4)])
    checks = 0
    for s in range(1000):
        if fit.wants():
            checks += 1
            fit.add((10 + s,), count(3.0 * (10 + s)))
        else:
            fit.predict((10 + s,))
    assert 5 < checks < 20
    stream = random.Random(1)
    noisy = filled(lambda s: stream.random(), [(s,) for s in range(200)])
    assert len(noisy.samples) == MAX_SAMPLES


def test_least_squares_are_those_of_torch() -> None:
    torch.manual_seed(0)
    a, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    found, rank = least_squares(a.tolist(), y.t().tolist())
    assert rank == 4
    assert torch.tensor(found, dtype=torch.float64).t().allclose(torch.linalg.lstsq(a, y).solution)
    _, rank = least_squares([[*row, row[0] + row[1]] for row in a.tolist()], y.t().tolist())
    assert rank == 4


def test_sequence_lengths_that_never_repeat_are_counted_by_the_fit() -> None:
    model = Language(vocabulary=1000)  # of a smaller table all rows would be touched from some length on
    lengths = list(range(5, 65))
    random.Random(0).shuffle(lengths)
    batches = [torch.randint(0, 50, (3, s)) for s in lengths]
    trained = train(loop(model, batches))
    labels = trained.client.labels["counting"]
    assert labels["passes"]["unknown"] == 0
    assert labels["passes"]["fitted"] > 2 * labels["passes"]["counted"]
    assert labels["largest_misfit"] < 1e-9
    for row, batch in zip(trained.work[1:], batches[1:], strict=True):
        model.zero_grad()
        forward, backward = counted(model, batch)
        assert row["forward_flops"] == pytest.approx(forward.totals.flops, rel=1e-9)
        assert row["backward_flops"] == pytest.approx(backward.totals.flops, rel=1e-9)
        assert row["forward_bytes"] == pytest.approx(forward.totals.bytes, rel=1e-9)
        assert row["backward_bytes"] == pytest.approx(backward.totals.bytes, rel=1e-9)
    for phase in ("forward", "backward"):
        by_profiles = sum(p["uses"] * p["flops"] for p in trained.profiles if p["phase"] == phase)
        assert by_profiles == pytest.approx(sum(row[f"{phase}_flops"] for row in trained.work), rel=1e-9)
