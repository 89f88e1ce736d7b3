"""The tap of thermodynamic length (E6): a probe batch's outputs, looked at now and then along the run.

Every look runs the probe's forward once, without gradient, on the parameters as they are, and compares the softmax of
its logits (float64) with the last look's and with the first's. At most 1024 predictions are followed, drawn once by a
generator of our own; of each, the logits of those two looks are kept, in the model's own precision.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ergometry.core.series import LENGTH
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.probe import Probe
from ergometry.integrations.physics.scores import Scores
from ergometry.integrations.physics.tap import Cadence, Pace, Site, Tap, cadence_of

PREDICTIONS = 1024
_SHARE, _FULL_SHARE = 0.003, 0.02
_ROOM, _FLOOR_BYTES = 0.02, 4 << 20


def js_distance(p: Tensor, q: Tensor) -> Tensor:
    """√(8·JS) of each pair of distributions (..., C), as ``estimators.path_length.js_distance`` has it."""
    s = p + q
    whole = s > 0
    s_or_1 = torch.where(whole, s, 1.0)
    d = (p - q) / s_or_1
    near = d.abs() <= 0.5
    small = torch.where(near, d, 0.0)
    close = 2.0 * small * torch.atanh(small) + torch.log1p(-small * small)
    up, down = (torch.where(whole, 2.0 * x / s_or_1, 1.0) for x in (p, q))
    apart = torch.xlogy(up, up) + torch.xlogy(down, down)
    return (2.0 * (s * torch.where(near, close, apart)).sum(-1)).sqrt()


def fisher_angle(p: Tensor, q: Tensor) -> Tensor:
    """Fisher angle of each pair of distributions (..., C), as ``estimators.path_length.fisher_angle`` has it."""
    s = p.sqrt() + q.sqrt()
    apart = torch.where(s > 0, (p - q) / torch.where(s > 0, s, 1.0), 0.0)
    return 4.0 * torch.asin(0.5 * apart.square().sum(-1).sqrt())


class Path:
    """The followed predictions: their logits at the first and the last look, and the lengths between."""

    def __init__(self, logits: Tensor, room: int) -> None:
        """Follow what ``room`` bytes hold of the predictions in (..., C)."""
        n, classes = logits.numel() // logits.shape[-1], logits.shape[-1]
        kept = min(PREDICTIONS, n, room // (2 * classes * logits.element_size()))
        if kept < 1:
            raise ValueError(f"two looks at one prediction of {classes} classes do not fit into {room} bytes")
        rows = sorted(random.Random(0x5EED).sample(range(n), kept))
        self.predictions, self.classes, self._shape = kept, classes, logits.shape
        self._rows = None if kept == n else torch.tensor(rows, device=logits.device)
        self._wide = torch.float32 if logits.device.type == "mps" else torch.float64
        self._first = self._last = self._take(logits).clone()
        zero = torch.zeros(kept, dtype=self._wide, device=logits.device)
        self._js, self._angle = zero, zero
        self._finite = self._last.isfinite().all()

    def _take(self, logits: Tensor) -> Tensor:
        flat = logits.detach().reshape(-1, self.classes)
        return flat if self._rows is None else flat[self._rows]

    def look(self, logits: Tensor) -> Tensor:
        """Compare with the looks before; return (9,): whether both are finite, then the columns of a row.

        A look that is not finite is passed over: the path goes from the one before it to the one after.
        """
        if logits.shape != self._shape:
            raise ValueError(f"the probe's outputs were {tuple(self._shape)}, and are now {tuple(logits.shape)}")
        taken = self._take(logits)
        p, q, first = (x.to(self._wide).softmax(-1) for x in (self._last, taken, self._first))
        finite = taken.isfinite().all() & self._finite
        js, angle = (torch.where(finite, f(p, q), 0.0) for f in (js_distance, fisher_angle))
        ends = (f(first, q).mean() for f in (js_distance, fisher_angle))
        self._js, self._angle = self._js + js, self._angle + angle
        self._last = torch.where(finite, taken, self._last)
        errors = (self._error(self._js), self._error(self._angle))
        means = (x.mean() for x in (js, js.square(), angle, angle.square()))
        return torch.stack((finite.to(self._wide), *means, *ends, *errors))

    def _error(self, x: Tensor) -> Tensor:
        """Return the standard error of a mean over predictions; NaN of one alone."""
        return x.std() / self.predictions**0.5 if self.predictions > 1 else torch.full_like(x[0], torch.nan)


class Length(Tap):
    """Follows the outputs of a probe batch: rows of ``LENGTH``."""

    name = "length"

    def __init__(self, site: Site, tapes: Any) -> None:
        """Look at the user's probe batch where there is one, else at a training step's."""
        self._site = site
        self.cadence: Cadence = cadence_of(site, _SHARE, _FULL_SHARE, guess_steps=1.0, ready_s=0.004)
        self._probe = Probe(site, tapes)
        self._path: Path | None = None
        self._scores = Scores()
        self._why = "no training step with a probe batch was seen"
        self._step = -1
        self._step_s = 0.0
        self._due = self._asked = False
        self.not_finite = 0
        """Looks that were not finite, and passed over."""

    def forward_end(self, module: Any, out: Any) -> None:
        """See what the outputs are, until that is known."""
        self._scores.output(out)

    def backward_begin(self, tensors: Any) -> None:
        """See what loss is taken of them."""
        self._scores.loss(tensors)

    def unwound(self) -> None:
        """Forget the step under way."""
        self._scores.forget()
        self._due = False

    # Looks

    def due(self, pace: Pace) -> bool:
        """Say whether to look in this step."""
        return self._scores.known is not False and self.cadence.due(pace)

    def next_s(self, pace: Pace) -> float:
        """Return when the next look is due; never where the outputs are no class scores."""
        return math.inf if self._scores.known is False else self.cadence.next_s(pace)

    @property
    def refuses(self) -> bool:
        """Whether the outputs are no class scores."""
        return self._scores.known is False

    def step_begin(self, step: int, step_s: float) -> None:
        """Look in this step; have a probe batch recorded if there is none."""
        self._step_s, self._due, self._asked = step_s, True, self._probe.want()

    def step_end(self) -> None:
        """Look no more in this step."""
        self._due = False

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Look before the step's first optimizer moves the parameters."""
        if self._due and self._scores.known:
            self._due = False
            self._look(self._site.machine.index)

    def finish(self) -> None:
        """Look at where the parameters came to rest."""
        looks = self._path is not None and self._site.machine.steps > self._step
        fixed = self.cadence.every is not None
        if looks and (fixed or self._site.affords(self.cadence.price_s(self._step_s))):
            self._look(self._site.machine.steps)
        self._site.pending.drain()

    def _look(self, step: int) -> None:
        began = time.perf_counter()
        tape = self._probe.find()
        if tape is None:
            self._why = self._probe.why
            return
        with torch.no_grad():
            logits = tape.outputs()
            row = self._compare(logits, tape.parameters)
        self._step = step
        now_s = self._site.now()
        cost_s = time.perf_counter() - began
        if self._asked:
            cost_s, self._asked = cost_s + self._probe.cost_s, False
        if logits.device.type != "cpu":
            cost_s = max(cost_s, self._step_s / 3)  # a forward's part of a step: the device's time is not waited for
        self.cadence.spent(cost_s)
        if row is not None:
            self._site.pending.read(row, lambda values: self._emit(step, now_s, values, cost_s))

    def _compare(self, logits: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
        with apart():
            if self._path is not None:
                return self._path.look(logits)
            size = sum(p.numel() * p.element_size() for p in parameters)
            self._path = Path(logits, sys.maxsize if self._site.full else max(int(_ROOM * size), _FLOOR_BYTES))
            self._why = "the probe was looked at once: a length needs two moments"
            return None

    def _emit(self, step: int, now_s: float, values: list[float], cost_s: float) -> None:
        assert self._path is not None
        finite, js, js_sq, angle, angle_sq, js_ends, angle_ends, js_error, angle_error = values
        if not finite:
            self.not_finite += 1
            return
        path = (js, js_sq, angle, angle_sq, js_ends, angle_ends)
        size = (self._path.predictions, self._path.classes)
        self._site.emit(LENGTH, step, now_s, *path, *size, js_error, angle_error, cost_s)
        self._why = ""

    def why(self) -> str:
        """Say why no length was read, or which looks were passed over."""
        if not self._scores.known:
            return f"needs outputs that are class scores: {self._scores.why}"
        return self._why or (f"{self.not_finite} looks were not finite" if self.not_finite else "")

    def stop(self) -> None:
        """Let go of the probe."""
        self._probe.stop()
        self._path = None
        self._scores.forget()
