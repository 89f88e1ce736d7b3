"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("end_to_end.running")

from end_to_end.running import ENVIRONMENT, Runner  # noqa: E402
from end_to_end.warm import Warm  # noqa: E402

# Programs to be run, not modules to be searched for doctests.
collect_ignore = ["scripts"]


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """An interpreter that has imported torch, started when it is first asked."""
    interpreter = Warm(ENVIRONMENT)
    yield interpreter
    interpreter.close()


@pytest.fixture
def runner(tmp_path: Path, warm: Warm) -> Runner:
    """Return a runner with a folder and a store of its own."""
    return Runner(tmp_path, warm)
