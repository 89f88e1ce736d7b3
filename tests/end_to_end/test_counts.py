"""Counts of a script's work as they are stored: by step, by module and phase, and what was not counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from end_to_end.running import Runner, compare
from ergometry.core.run import Run
from ergometry.core.series import PROFILE_USES, STEPS, WORK

PHASES = ("forward", "backward", "optimizer")


def uses(run: Run) -> dict[int, float]:
    """Return how often each profile was used: the last row of each counts."""
    table = run.table(PROFILE_USES)
    return {int(profile): used for profile, used in zip(table["profile"], table["uses"], strict=True)}


def by_path(run: Run, phase: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, profile in enumerate(run.meta["profiles"]):
        if profile["phase"] == phase:
            for path, _, _, _, flops, *_ in profile["items"]:
                found[path] = found.get(path, 0.0) + uses(run).get(number, 0.0) * flops
    return found


@pytest.mark.parametrize("registers", [False, True])
def test_work_is_stored_by_step_module_and_phase(runner: Runner, registers: bool) -> None:
    measured = compare(runner, "counted.py", *(["--registers"] if registers else []))
    run = measured.run
    steps, work = run.table(STEPS), run.table(WORK)
    np.testing.assert_array_equal(work["step"], steps["step"])
    np.testing.assert_array_equal(steps["flops"], measured.said("flops"))
    assert set(work["uncounted"]) == {0.0 if registers else 1.0}
    details = [notice.detail for notice in run.notices if notice.code == "flops.uncounted"]
    assert len(details) == (0 if registers else 1)
    assert all("mylib.scaled (" in detail for detail in details)
    for phase in PHASES:
        assert math.isclose(sum(by_path(run, phase).values()), work[f"{phase}_flops"].sum())
    forward = by_path(run, "forward")
    assert {"", "body.0", "body.1", "head"} <= set(forward)
    assert forward["body.0"] == 12 * 2 * 16 * 12 * 20
    assert forward["head"] == 12 * 2 * 16 * 20 * 7
    assert by_path(run, "evaluation")["head"] == 3 * 2 * 16 * 20 * 7
    assert by_path(run, "backward")["body.0"] > 0
    # From step 8 on the body is frozen.
    assert work["backward_flops"][8] < work["backward_flops"][7]
    assert run.meta["counting"]["passes"]["unknown"] == 0
