"""The ledger of gradient work and the count of operations, against what a script computes of itself."""

from __future__ import annotations

import numpy as np

from end_to_end.running import Measured, Runner, compare
from ergometry.core.series import LEDGER, STEPS

QUANTITIES = ("grad_sq", "dtheta_sq", "work")


def truth(measured: Measured, ledger: np.ndarray, name: str) -> np.ndarray:
    """Return what the script computed: of the unclipped gradients, where only those given were seen of these."""
    own, given = (np.array(measured.said(which))[ledger["step"].astype(int)] for which in (name, f"given_{name}"))
    return np.where(np.isfinite(ledger["given"]), own, given)


def test_exact_rows_are_exact(runner: Runner) -> None:
    measured = compare(runner, "ledger.py")
    ledger = measured.run.table(LEDGER)
    assert len(set(ledger["step"])) == len(ledger)
    # How many steps are followed depends on how fast this machine is; which optimizers' is tested in the unit tests.
    assert len(ledger) >= 2
    exact = ledger["sampled"] == ledger["parameters"]
    whole = ledger["parameters"] == measured.run.meta["parameters"]
    assert (exact & whole).any()
    rows = exact & whole
    for name in QUANTITIES:
        true = truth(measured, ledger, name)
        np.testing.assert_allclose(ledger[name][rows], true[rows], rtol=1e-6, err_msg=name)
        assert set(ledger[f"{name}_stderr"][exact]) == {0.0}
    np.testing.assert_allclose(ledger["path"], np.sqrt(ledger["grad_sq"] * ledger["dtheta_sq"]), rtol=1e-9)


def test_sampled_rows_are_as_far_off_as_they_say(runner: Runner) -> None:
    measured = compare(runner, "ledger.py", "--width", 1200, "--steps", 40, "--io", 0.03, "--only", "plain")
    ledger = measured.run.table(LEDGER)
    assert len(ledger) >= 2  # as many as this machine has time for
    assert (ledger["sampled"] <= 0.02 * ledger["parameters"] + 8).all()
    for name in QUANTITIES:
        true = truth(measured, ledger, name)
        stderr, error = ledger[f"{name}_stderr"], ledger[name] - true
        # At times every gradient is looked at: |g|² is then exact, to the rounding of float32 sums.
        np.testing.assert_allclose(error[stderr == 0], 0, atol=1e-4 * abs(true).max())
        sampled = stderr > 0
        if not sampled.any():
            continue  # every row of it was exact
        z = error[sampled] / stderr[sampled]
        # Student's t of seven degrees of freedom has a variance of 1.4; steps are drawn independently.
        assert abs(z.mean()) < 5 * np.sqrt(1.4 / len(z)), (name, z)
        # And the estimates are worth having.
        assert np.median(stderr[sampled] / abs(true[sampled])) < 0.5, name


def test_operations_are_those_counted_by_hand(runner: Runner) -> None:
    measured = compare(runner, "operations.py")
    np.testing.assert_array_equal(measured.run.table(STEPS)["flops"], measured.said("flops"))
