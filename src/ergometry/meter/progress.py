"""The live line: step, loss, watts, joules, joules per example, written by the recorder to standard error."""

from __future__ import annotations

import math
import os

from ergometry.core.series import LOSSES, STEPS, Series


class Progress:
    """Follows the rows that pass and makes one line of them, at most once a second (once in ten off a terminal)."""

    def __init__(self, descriptor: int, token: str = "token") -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._token = token
        self._steps = 0
        self._examples = 0.0
        self._tokens = 0.0
        self._loss = math.nan
        self._due_s = 0.0
        self._shown = False

    def row(self, series: Series, values: tuple[float, ...]) -> None:
        """Take note of one row."""
        if series is STEPS:
            self._steps += 1
            self._examples += values[8] if values[8] == values[8] else 0.0
            self._tokens += values[9] if values[9] == values[9] else 0.0
        elif series is LOSSES and math.isfinite(values[2]):
            # Smoothed over about twenty steps: single minibatches jump about.
            self._loss = values[2] if self._loss != self._loss else self._loss + 0.05 * (values[2] - self._loss)

    def line(self, t_s: float, energy_j: float, power_w: float) -> str:
        """Return the line, without colours, within 80 columns."""
        parts = [f"{int(t_s) // 60:02d}:{int(t_s) % 60:02d}", f"step {self._steps}"]
        if math.isfinite(self._loss):
            parts.append(f"loss {self._loss:.3f}")
            if self._tokens:
                parts.append(f"{self._loss / math.log(2):.2f} bit/{self._token}")
        if math.isfinite(power_w):
            parts += [f"{power_w:.1f} W", f"{energy_j:.0f} J" if energy_j < 1e4 else f"{energy_j / 1e3:.1f} kJ"]
            if self._examples:
                parts.append(f"{energy_j / self._examples:.3g} J/example")
        return " · ".join(parts)

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
