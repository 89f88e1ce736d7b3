"""StepClock: what a training step takes by itself, from the times at which steps begin."""

from __future__ import annotations

_LONGEST = 3.0
"""Times what a step takes: more is not counted as a step's."""
_KNOWN = 3
"""Steps after which it is known what one takes."""
_GAIN = 0.1


class StepClock:
    """Follows what steps take, less the instrument's own time; ``step_s`` is 0 while that is not known.

    The first step compiles and fills caches: it is no measure of the others. Of a step with an evaluation or a
    checkpoint in it no more counts than three ordinary ones.
    """

    def __init__(self) -> None:
        self.step_s = 0.0
        """What a step takes: the mean of the first ten, then an exponential one."""
        self._index, self._timed = -1, 0
        self._began_s = self._own_s = 0.0

    def begins(self, index: int, now_s: float, own_s: float) -> float:
        """Take note of a forward in step ``index``; return what the step before took, s, 0 where that does not count.

        Args:
            index: of the step; only its first forward begins it.
            now_s: time, s.
            own_s: what the instrument has spent so far, s.
        """
        if index == self._index:
            return 0.0
        took_s = max(now_s - self._began_s - (own_s - self._own_s), 0.0)
        counts = self._index >= 1
        self._index, self._began_s, self._own_s = index, now_s, own_s
        if not counts:
            return 0.0
        if self._timed >= _KNOWN:
            took_s = min(took_s, _LONGEST * self.step_s)
        self._timed += 1
        self.step_s += max(_GAIN, 1.0 / self._timed) * (took_s - self.step_s)
        return took_s
