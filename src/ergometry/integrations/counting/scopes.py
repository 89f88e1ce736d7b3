"""Which module an operator belongs to: the innermost that runs, and for a backward the one that made its node.

Autograd numbers its nodes in the order in which they are made. At each beginning and end of a module the number that
comes next is noted, so that a node's own number tells which module was running when it was made.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

next_number: Callable[[], int] = (
    getattr(torch.autograd, "_get_sequence_nr", None) or torch._C._autograd._get_sequence_nr
)
"""The number that autograd's next node will have."""


class Scope(NamedTuple):
    """A module by the name of its outermost module's class and its dotted path in that; empty outside of any."""

    root: str = ""
    path: str = ""


OUTSIDE = Scope()


def original(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module that a compiled one was made of; else the module."""
    return vars(module).get("_modules", {}).get("_orig_mod", module)


class Scopes:
    """The modules that run in a counted pass, and what is known of nodes made since the last backward."""

    def __init__(self) -> None:
        self._names: dict[int, Scope] = {}
        self._owners: dict[int, Scope] = {}
        self._stack: list[Scope] = []
        self._numbers: list[int] = []
        self._scopes: list[Scope | None] = []

    @property
    def current(self) -> Scope | None:
        """The innermost module that runs; None outside of any."""
        return self._stack[-1] if self._stack else None

    @property
    def mapped(self) -> bool:
        """Whether nodes made since the last backward can be told by their modules."""
        return bool(self._numbers)

    def enter_root(self, module: torch.nn.Module) -> None:
        """Begin an outermost call: name its modules, a shared one by the first of its names."""
        root = type(original(module)).__name__
        for name, part in module.named_modules():
            path = ".".join(piece for piece in name.split(".") if piece and piece != "_orig_mod")
            scope = self._names[id(part)] = Scope(root, path)
            for parameter in vars(part).get("_parameters", {}).values():
                if parameter is not None:
                    self._owners.setdefault(id(parameter), scope)
        self.enter(module)

    def enter(self, module: torch.nn.Module) -> None:
        """Begin a call within it; a module that it does not hold runs as part of its caller."""
        known = self._names.get(id(module))
        self._push(known if known is not None else (self.current or OUTSIDE))

    def _push(self, scope: Scope) -> None:
        self._stack.append(scope)
        self._note(scope)

    def leave(self, depth: int = -1) -> None:
        """End the call begun last, or all down to a depth."""
        del self._stack[depth:]
        self._note(self._stack[-1] if self._stack else OUTSIDE)

    @property
    def depth(self) -> int:
        """How many modules run in one another."""
        return len(self._stack)

    def _note(self, scope: Scope | None) -> None:
        self._numbers.append(next_number())
        self._scopes.append(scope)

    def unmapped(self) -> None:
        """Say that a call begins whose modules are not followed."""
        if self._numbers:
            self._note(None)

    def of_node(self, node: Any) -> Scope | None:
        """Return the module that made a node of the backward; OUTSIDE for the script's own, None if not known."""
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self._owners.get(id(variable), OUTSIDE)
        at = bisect.bisect_right(self._numbers, node._sequence_nr()) - 1
        return self._scopes[at] if at >= 0 else None

    def clear(self) -> None:
        """Forget: the backward has run."""
        self._names.clear()
        self._owners.clear()
        self._stack.clear()
        self._numbers.clear()
        self._scopes.clear()
