"""Estimator: init, update, merge, result. States are immutable data, so that ranks and stretches merge."""

from __future__ import annotations

from typing import Protocol, TypeVar

S = TypeVar("S")
X = TypeVar("X", contravariant=True)
R = TypeVar("R", covariant=True)


class Estimator(Protocol[S, X, R]):
    """A statistic computed one observation at a time.

    ``merge`` is associative and commutative up to rounding, with ``init()`` as its neutral element; updating one by
    one equals merging the parts. ``result`` of no observation is unknown, with the reason; of one, it has no standard
    error.
    """

    def init(self) -> S:
        """Return the state of no observation."""
        ...

    def update(self, state: S, x: X, /) -> S:
        """Return the state with one more observation."""
        ...

    def merge(self, a: S, b: S, /) -> S:
        """Return the state of both sets of observations."""
        ...

    def result(self, state: S, /) -> R:
        """Return what the observations say."""
        ...
