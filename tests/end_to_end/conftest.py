"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("end_to_end.running")

from end_to_end.running import Runner  # noqa: E402

# Programs to be run, not modules to be searched for doctests.
collect_ignore = ["scripts"]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """Return a runner with a folder and a store of its own."""
    return Runner(tmp_path)
