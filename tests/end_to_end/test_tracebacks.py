"""Tracebacks of exceptions that pass through what is measured: as without us, frame by frame."""

import pytest

from end_to_end.running import SCRIPTS, Runner


@pytest.mark.parametrize("how", ["forward", "counted", "backward", "data", "chained"])
def test_a_traceback_is_the_one_without_us(runner: Runner, how: str) -> None:
    words = (SCRIPTS / "raises.py", how)
    plain, measured = runner.plain(*words), runner.erg(*words)
    assert "Traceback" in plain.err
    assert (measured.err, measured.status) == (plain.err, plain.status)


def test_ctrl_c_within_a_hook_of_ours_shows_where_the_script_was(runner: Runner) -> None:
    measured = runner.erg(SCRIPTS / "raises.py", "hook")
    lines = measured.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "KeyboardInterrupt"
    assert "    optimizer.step()" in lines
    assert "ergometry" not in measured.err and "vector_norm" not in measured.err
    assert (measured.run.status, measured.run.exit_status) == ("interrupted", 130)
