"""Notices: every code in use has its text and its remedy in the one catalogue."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ergometry
from ergometry.core.notices import CATALOGUE, Notice

SOURCE = Path(ergometry.__file__).parent


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_has_a_text_and_a_remedy(code: str) -> None:
    notice = Notice(code, "the {detail}")
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", code)
    assert notice.text
    assert notice.remedy
    assert CATALOGUE[code][0].count("{detail}") == 1
    assert "the {detail}" in notice.text
    assert notice.to_json() == {"code": code, "text": notice.text, "remedy": notice.remedy}


def test_a_code_of_a_later_version_still_says_its_detail() -> None:
    assert Notice("other.thing", "what happened").to_json() == {
        "code": "other.thing",
        "text": "what happened",
        "remedy": "",
    }


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, code) of the calls of ``Notice`` or of a ``notice`` method whose code is written out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            code = node.args[0]
            if (
                called in {"Notice", "notice", "_notice"}
                and isinstance(code, ast.Constant)
                and isinstance(code.value, str)
            ):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", code.value


SENT = [sent for path in sorted(SOURCE.rglob("*.py")) for sent in calls(path)]


def test_every_code_sent_is_in_the_catalogue() -> None:
    assert len(SENT) > 5
    assert [(where, code) for where, code in SENT if code not in CATALOGUE] == []


def test_every_code_of_the_catalogue_is_sent_somewhere() -> None:
    assert sorted(set(CATALOGUE) - {code for _, code in SENT}) == []
