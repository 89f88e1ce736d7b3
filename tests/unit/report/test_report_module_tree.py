"""The tree of modules: however it is folded, what is in a branch sums to it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.estimate import Estimate
from ergometry.report.module_tree import FEWEST, ITSELF, LEAST, tree
from ergometry.report.rows import OTHER, Row

PATHS = st.lists(st.lists(st.sampled_from("abcd"), max_size=4).map(".".join), unique=True, min_size=1, max_size=40)


def row(name: str, joules: float, stderr: float | None = None) -> Row:
    return Row(name, Estimate(joules, stderr, "J"), 2 * joules, 4 * joules, 0.5 * joules)


def names(branches) -> list[tuple[int, str]]:
    return [(branch.depth, branch.row.name) for branch in branches]


@given(PATHS, st.integers(1, 60), st.data())
def test_the_parts_of_a_branch_sum_to_it_and_the_whole_to_all_rows(paths, most, data):
    rows = [row(path, data.draw(st.floats(0.0, 1e6))) for path in paths]
    found = tree(rows, most)
    assert len(found) <= most
    assert len({branch.path for branch in found}) == len(found)
    whole = math.fsum(r.energy.value for r in rows)
    assert found[0].row.energy.value == pytest.approx(whole)
    assert found[0].row.merged == len(rows)
    for branch in found:
        inside = [b.row for b in found if b.parent == branch.path]
        if inside:
            for quantity in ("flops", "bytes", "roofline_s", "merged"):
                assert sum(getattr(r, quantity) for r in inside) == pytest.approx(getattr(branch.row, quantity))
            assert math.fsum(r.energy.value for r in inside) == pytest.approx(branch.row.energy.value)


@given(PATHS, st.integers(1, 60))
def test_a_branch_stands_right_below_what_holds_it(paths, most):
    above: list[str] = []
    for branch in tree([row(path, 1.0) for path in paths], most):
        assert branch.parent == (above[branch.depth - 1] if branch.depth else "")
        above[branch.depth :] = [branch.path]


def test_the_dearest_branch_is_opened_first():
    rows = [*(row(f"dear.{i}", 10.0) for i in range(3)), *(row(f"cheap.{i}", 1.0) for i in range(3))]
    assert names(tree(rows, 6)) == [(0, "model"), (1, "dear"), (2, "0"), (2, "1"), (2, "2"), (1, "cheap")]


def test_the_small_ones_are_one_line():
    rows = [row("large", 1000.0), row("half", 500.0), *(row(f"small{i}", 0.1 * LEAST) for i in range(7))]
    (*_, last) = found = tree(rows, 20)
    assert names(found) == [(0, "model"), (1, "large"), (1, "half"), (1, OTHER)]
    assert last.row.merged == 7


def test_a_branch_with_many_parts_needs_room_for_some_of_them():
    rows = [row(f"block.{i}", 1.0) for i in range(10)]
    assert names(tree([*rows, row("head", 1.0)], 2 + FEWEST)) == [(0, "model"), (1, "block"), (1, "head")]
    assert len(tree(rows, 1 + FEWEST)) == 1 + FEWEST


def test_what_a_module_does_itself_is_a_line_of_its_own():
    assert names(tree([row("a", 5.0), row("a.b", 2.0), row("", 1.0)], 9)) == [
        (0, "model"),
        (1, "a"),
        (2, ITSELF),
        (2, "b"),
        (1, ITSELF),
    ]


def test_a_module_that_only_holds_another_is_one_line_with_it():
    assert names(tree([row("net.blocks.0", 5.0), row("net.blocks.1", 2.0)], 9)) == [
        (0, "model.net.blocks"),
        (1, "0"),
        (1, "1"),
    ]


def test_without_rows_there_is_no_tree():
    assert tree([], 10) == []


def test_a_path_of_many_dots_is_no_trouble():
    assert len(tree([row("a" + ".b" * 5000, 1.0), row("a.c", 1.0)], 100)) == 3


def test_errors_add_up_to_no_more_than_the_rest_allows():
    rows = [row(name, 10.0, 3.0) for name in "abcd"]
    (first, *_) = tree(rows, 1)
    assert first.row.energy.stderr == 12.0
    (first, *_) = tree(rows, 1, stderr_j=12.0 + 1.0 + 0.5)  # the total ± 1, what is not in the rows ± 0.5
    assert first.row.energy.stderr == pytest.approx(1.5)
