"""Errors: one line that says expected, got, remedy; exit status 2 for a wrong use, 1 for a failure."""

from __future__ import annotations

import inspect

import pytest

from ergometry.core import errors
from ergometry.core.errors import ErgError, UsageError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ErgError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_one_line_with_what_was_expected_and_got_and_the_remedy(kind: type[ErgError]) -> None:
    error = kind(expected="a run\nid", got="'x'\r\n\ty", remedy="look at\n  erg ls")
    assert str(error) == "expected a run id, got 'x' y; look at erg ls"
    assert error.exit_status == (2 if issubclass(kind, UsageError) else 1)
    assert kind.__doc__


def test_there_is_something_to_check() -> None:
    assert len(KINDS) > 5
