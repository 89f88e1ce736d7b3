"""The live line: step, loss, watts, joules, joules per example, written by the recorder to standard error."""

from __future__ import annotations

import math
import os

from ergometry.core.series import LOSSES, STEPS, Series

_COLUMNS = 80


class Progress:
    """Follows the rows that pass and makes one line of them, at most once a second (once in ten off a terminal)."""

    def __init__(self, descriptor: int, token: str = "token") -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._token = token
        self._steps = 0
        self._examples = 0.0
        self._tokens = 0.0
        self._last = (-1.0, 0.0, 0.0)
        self._loss = math.nan
        self._due_s = 0.0
        self._shown = False

    def row(self, series: Series, values: tuple[float, ...]) -> None:
        """Take note of one row."""
        if series is STEPS:
            step, examples, tokens = (x if x == x else 0.0 for x in (values[0], *values[8:10]))
            told, *before = self._last
            if step != told:
                self._steps += 1
                before = [0.0, 0.0]
            # A step is told again when another optimizer joins it: the last time counts.
            self._examples += examples - before[0]
            self._tokens += tokens - before[1]
            self._last = (step, examples, tokens)
        elif series is LOSSES and math.isfinite(values[2]):
            # Smoothed over about twenty steps: single minibatches jump about.
            self._loss = values[2] if self._loss != self._loss else self._loss + 0.05 * (values[2] - self._loss)

    def line(self, t_s: float, energy_j: float, power_w: float) -> str:
        """Return the line, without colours, within 80 columns."""
        parts = [f"{int(t_s) // 60:02d}:{int(t_s) % 60:02d}", f"step {self._steps}"]
        if math.isfinite(self._loss):
            large = abs(self._loss) >= 1e6
            parts.append(f"loss {self._loss:.3g}" if large else f"loss {self._loss:.3f}")
            if self._tokens and not large:
                parts.append(f"{self._loss / math.log(2):.2f} bit/{self._token}")
        if math.isfinite(power_w):
            parts += [f"{power_w:.1f} W", _joules(energy_j)]
            if self._examples:
                parts.append(f"{energy_j / self._examples:.3g} J/example")
        while len(line := " · ".join(parts)) > _COLUMNS:
            parts.pop()
        return line

    def show(self, t_s: float, live: tuple[float, float]) -> None:
        """Write the line if it is due; ``live`` is (joules, watts)."""
        if t_s < self._due_s:
            return
        self._due_s = t_s + (1.0 if self._terminal else 10.0)
        line = self.line(t_s, *live)
        self._write(f"\r\x1b[2K{line}" if self._terminal else f"erg: {line}\n")
        self._shown = True

    def close(self) -> None:
        """Leave the terminal's cursor on a new line."""
        if self._terminal and self._shown:
            self._write("\n")
        self._shown = False

    def _write(self, text: str) -> None:
        try:
            os.write(self._descriptor, text.encode("utf-8", "replace"))
        except OSError:
            self._due_s = math.inf  # the terminal is gone: no more lines


def _joules(x: float) -> str:
    for scale, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if x >= 10 * scale:
            return f"{x / scale:.1f} {unit}"
    return f"{x:.0f} J"
