"""Counting modes around the script's own code: entered after one of its calls and left before another.

Modes are taken off by their place in a stack, so one is put on only where the script has none of its own on; if the
script has put one on top meanwhile, ours does nothing from then on, and is taken off when it is on top again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ergometry.integrations.counting.mode import CountingMode


@dataclass
class Pass:
    """A pass that is being counted."""

    mode: CountingMode
    kind: str
    key: Hashable
    phase: str
    module: Any = None
    root: str | None = None


class Ambient:
    """At most one pass whose mode is on while the script's own code runs."""

    def __init__(self) -> None:
        self.running: Pass | None = None
        self._strays: deque[CountingMode] = deque()
        self._halted: CountingMode | None = None

    def blocked(self, within: bool) -> bool:
        """Say whether no mode can be put on; ``within`` a counted pass one of ours is on."""
        return self.running is not None or len(_get_current_dispatch_mode_stack()) > within

    def enter(self, running: Pass, *, within: bool) -> None:
        """Put a pass's mode on; that of the pass it is within counts nothing meanwhile."""
        self._halted = _get_current_dispatch_mode_stack()[-1] if within else None
        if self._halted is not None:
            self._halted.active = False
        running.mode.__enter__()
        self.running = running

    def leave(self) -> Pass | None:
        """Take it off, and return its pass."""
        running, self.running = self.running, None
        if running is not None:
            running.mode.active = False
            self._strays.append(running.mode)
            self.tidy()
            if self._halted is not None:
                self._halted.active, self._halted = True, None
        return running

    def tidy(self) -> None:
        """Take off modes that had another on top when they ended."""
        while self._strays:
            stack = _get_current_dispatch_mode_stack()
            if not stack or stack[-1] is not self._strays[-1]:
                return
            self._strays.pop().__exit__(None, None, None)

    def pause(self) -> bool:
        """Count nothing for a while; say whether something was being counted."""
        if self.running is None or not self.running.mode.active:
            return False
        self.running.mode.active = False
        return True

    def resume(self) -> None:
        """Go on."""
        if self.running is not None:
            self.running.mode.active = True

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take off."""
        return self.running is None and not self._strays
