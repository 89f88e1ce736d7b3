"""Where a step is: the outermost calls since the last backward, and what is known to come of them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from ergometry.integrations.counting.signatures import Key

MAX_CALLS = 64
MAX_PLACES = 4096


@dataclass(slots=True)
class Place:
    """A sequence of calls. ``call`` (the last one), ``tail`` and ``backward`` are numbers among a step's passes.

    A backward may be one of several: the first or a further one through the same graph, one that records gradients
    itself, one that adds to gradients or makes them.
    """

    calls: tuple[Key, ...] = ()
    following: dict[Key, Place] = field(default_factory=dict)
    call: int | None = None
    tail: int | None = None
    backward: dict[tuple[int, bool, bool], int] = field(default_factory=dict)
    graphs: set[int] = field(default_factory=set)
    """How many nodes autograd made in the last call, whenever it was looked at."""
    trained: weakref.ref[Any] | None = None
    """A parameter that is trained."""


class Places:
    """A tree of the sequences that were met, and where in it the step is."""

    def __init__(self) -> None:
        self.root = self.here = Place()
        self._size = 0

    @property
    def at_root(self) -> bool:
        """Whether there was no call since the last backward."""
        return self.here is self.root

    def go(self, key: Key) -> Place:
        """Go where a call leads to, and return it; after very many calls nowhere."""
        found = self.here.following.get(key)
        if found is None:
            if len(self.here.calls) >= MAX_CALLS:
                return self.here
            self._size += 1
            if self._size > MAX_PLACES:  # shapes that never repeat
                self._size, self.root = 0, Place()
            found = self.here.following[key] = Place((*self.here.calls, key), trained=self.here.trained)
        self.here = found
        return found

    def back(self) -> Place:
        """Go back to the root, and return where the step was."""
        was, self.here = self.here, self.root
        return was
