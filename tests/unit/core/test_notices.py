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
FAMILIES = {code.partition(".")[0] for code in CATALOGUE}
FILE_ENDINGS = {"json", "csv", "html", "md", "txt", "parquet", "py", "sqlite", "db"}


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


def strings_like_codes(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, text) of the string constants in a file that look like a code of one of the families."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            family, _, name = node.value.partition(".")
            if family in FAMILIES and re.fullmatch(r"[a-z]+_?[a-z_]*", name) and name not in FILE_ENDINGS:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node.value


def test_every_code_sent_is_in_the_catalogue_and_none_is_dead() -> None:
    files = [path for path in sorted(SOURCE.rglob("*.py")) if path.name not in {"notices.py", "findings.py"}]
    found = [sent for path in files for sent in strings_like_codes(path)]
    assert [(where, code) for where, code in found if code not in CATALOGUE] == []
    assert set(CATALOGUE) - {code for _, code in found} == set()
