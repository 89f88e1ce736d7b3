"""Tree: joules by module as an indented tree that fits, each branch with all that is in it, the sums kept."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ergometry.report.rows import OTHER, Row, dearest, summed

ITSELF = "(itself)"
"""What a module does beside the modules in it."""

LEAST = 0.005
"""A module with a smaller share of the joules gets no line of its own in a tree."""

FEWEST = 3
"""A branch is opened where there is room for so many of its parts, or for all of them."""

MOST_DEEP = 30
"""Dots of a path beyond so many tell no further levels apart."""


@dataclass(frozen=True)
class Branch:
    """One line of a tree of modules: the module and all in it.

    ``path`` is unique in the tree; ``parent`` is the path that it is in, empty for the whole; ``depth`` is how far it
    is indented.
    """

    path: str
    parent: str
    depth: int
    row: Row


@dataclass
class _Node:
    own: list[Row] = field(default_factory=list)
    parts: dict[str, _Node] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """Return the rows of the module and of all in it."""
        yield from self.own
        for part in self.parts.values():
            yield from part.rows()


def tree(rows: Sequence[Row], most: int, root: str = "model", stderr_j: float = math.inf) -> list[Branch]:
    """Return modules as an indented tree of at most so many lines, the dearest opened first.

    The parts of a branch that is opened sum to it: what it does itself, and the small ones as one, are among them.
    A module that does nothing but hold one other is one line with it. ``stderr_j`` is that of :func:`summed`.

    >>> from ergometry.core.estimate import Estimate
    >>> rows = [Row(name, Estimate(j, None, "J")) for name, j in (("net.a", 5.0), ("net.b", 2.0), ("net.c", 1.0))]
    >>> [(b.depth, b.row.name, b.row.energy.value) for b in tree(rows, 4)]
    [(0, 'model.net', 8.0), (1, 'a', 5.0), (1, 'b', 2.0), (1, 'c', 1.0)]
    """
    if not rows:
        return []
    top = _Node()
    for row in rows:
        node = top
        for name in filter(None, row.name.split(".", MOST_DEEP)):
            node = node.parts.setdefault(name, _Node())
        node.own.append(row)
    first = _branch(root, top, None, stderr_j)
    least = LEAST * abs(first[0].row.energy.value or 0.0)
    opened: dict[str, list[Branch]] = {}
    left = most - 1
    waiting = [(dearest(first[0].row), first[0].path, first)]
    while waiting:
        *_, (branch, node) = heapq.heappop(waiting)
        parts = _parts(branch, node, stderr_j)
        large = sum(abs(part.row.energy.value or 0.0) >= least for part, _ in parts)
        room = min(left, max(large, 1) + 1)
        if len(parts) < 2 or room < min(len(parts), FEWEST):
            continue
        kept = parts if len(parts) <= room else parts[: room - 1]
        below = [part for part, _ in kept]
        if len(kept) < len(parts):
            merged = summed([part.row for part, _ in parts[len(kept) :]], OTHER, stderr_j)
            below.append(Branch(f"{branch.path}.{OTHER}…", branch.path, branch.depth + 1, merged))
        opened[branch.path] = below
        left -= len(below)
        for part in kept:
            heapq.heappush(waiting, (dearest(part[0].row), part[0].path, part))
    return list(_listed(first[0], opened))


def _branch(name: str, node: _Node, within: Branch | None, stderr_j: float) -> tuple[Branch, _Node]:
    """Return the branch of a node, one that does nothing but hold one other with that one."""
    while len(node.parts) == 1 and not node.own:
        ((inner, node),) = node.parts.items()
        name = f"{name}.{inner}"
    row = summed(list(node.rows()), name, stderr_j)
    if within is None:
        return Branch(name, "", 0, row), node
    return Branch(f"{within.path}.{name}", within.path, within.depth + 1, row), node


def _parts(branch: Branch, node: _Node, stderr_j: float) -> list[tuple[Branch, _Node]]:
    """Return the branches that a branch opens into, the dearest first."""
    if not node.parts:
        return []
    parts = [_branch(name, inner, branch, stderr_j) for name, inner in node.parts.items()]
    if node.own:
        itself = Branch(f"{branch.path}.{ITSELF}", branch.path, branch.depth + 1, summed(node.own, ITSELF, stderr_j))
        parts.append((itself, _Node()))
    return sorted(parts, key=lambda part: dearest(part[0].row))


def _listed(branch: Branch, opened: Mapping[str, Sequence[Branch]]) -> Iterator[Branch]:
    yield branch
    for part in opened.get(branch.path, ()):
        yield from _listed(part, opened)
