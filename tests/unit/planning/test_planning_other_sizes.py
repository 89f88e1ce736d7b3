"""B_c by the size law: from runs of other sizes of the model, or from what a person knows of one."""

from __future__ import annotations

import math

import pytest

import ergometry
from ergometry.core.errors import UsageError
from ergometry.planning.other_sizes import from_runs, stated
from ergometry.planning.steps_to_target import SIZE_EXPONENT, SIZE_EXPONENT_SD
from support.planned import job


def size(parameters: int, critical: float) -> list:
    """Return runs of one size of the model at two batch sizes, whose losses hold its B_c."""
    batches = ((32.0, 1600), (256.0, 600))
    return [job(b, n, critical=critical, name=f"s{parameters}-", parameters=parameters) for b, n in batches]


def test_runs_of_other_sizes_tell_b_c_at_this_one() -> None:
    runs = [*size(10**6, 40.0), *size(4 * 10**6, 40.0 * 4**0.5)]
    found, left_out = from_runs(runs, 16e6)
    assert found is not None
    assert not left_out
    assert found.median == pytest.approx(40.0 * 16**0.5, rel=0.3)
    assert found.source == "size law from 1e+06, 4e+06 parameters"
    # The law's own exponent is not known exactly: further away is known less well.
    further, _ = from_runs(runs, 1e9)
    assert further is not None
    assert further.factor > found.factor


def test_a_plan_from_one_batch_size_is_narrowed_by_them() -> None:
    run = job(64, 800, parameters=4 * 10**6)
    alone = ergometry.plan(run)
    narrowed = ergometry.plan(run, sizes=size(10**6, 40.0))
    assert alone.critical_batch.factor == pytest.approx(10.0)
    assert narrowed.critical_batch.factor < 2.0
    assert narrowed.critical_batch.median == pytest.approx(40.0 * 4**SIZE_EXPONENT, rel=0.3)


def test_runs_of_this_very_size_are_no_other_size_and_an_unknown_size_is_asked_for() -> None:
    with pytest.raises(UsageError, match="name them beside the first run"):
        from_runs(size(10**6, 40.0), 10**6)
    with pytest.raises(UsageError, match="the number of parameters of the run to go on from"):
        from_runs(size(10**6, 40.0), None)


def test_runs_that_tell_nothing_are_said_to() -> None:
    found, (said,) = from_runs(size(10**6, 40.0)[:1], 4e6)
    assert found is None
    assert "neither losses at two batch sizes nor a noise scale" in said
    assert from_runs([], None) == (None, ())


def test_what_is_stated_is_carried_by_the_exponent_taken_with_its_error() -> None:
    assert stated(300.0).median == pytest.approx(300.0)
    grown = stated(300.0, 8.0)
    assert grown.median == pytest.approx(300.0 * 8**SIZE_EXPONENT)
    assert grown.log_sd == pytest.approx(math.hypot(math.log(1.5), SIZE_EXPONENT_SD * math.log(8.0)), rel=1e-6)
    assert ergometry.plan(job(64), critical_batch=300.0, grown=8.0).critical_batch == grown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"critical_batch": -3.0}, "a positive critical batch size, got -3"),
        ({"critical_batch": math.nan}, "got nan"),
        ({"critical_batch": 3.0, "grown": 0.0}, "a positive growth in size, got 0"),
        ({"grown": 2.0}, "a critical batch size beside the growth"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ergometry.plan(job(64), **options)
