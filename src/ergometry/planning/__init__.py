"""Planning: from measured operating points to the batch size, power and duration that spend the fewest joules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ergometry.planning.recurring import RecurringJob

__all__ = ["RecurringJob"]


def __getattr__(name: str) -> Any:
    if name == "RecurringJob":
        from ergometry.planning.recurring import RecurringJob

        return RecurringJob
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
