"""The tap of the first law (E1) and of midpoint work (E2): what a step released of its own batch's loss.

Q_k = ℓ_Bk(θ_k) − ℓ_Bk(θ_k+1), by replaying the step's tapes after the optimizer; with g the gradient that the step's
backwards brought and g⁺ that of the replay, midpoint work −½(g+g⁺)·Δθ and path ½(|g|+|g⁺|)|Δθ|: exactly where a copy of
the model is small, on blocks of parameters otherwise.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ergometry.core.series import FIRST_LAW
from ergometry.integrations.physics.blocks import Drawer, plain, squares, wide
from ergometry.integrations.physics.displacement import Displacement, differentiated, midpoint_work
from ergometry.integrations.physics.module_work import ModuleWork
from ergometry.integrations.physics.owned_loss import OwnedLoss
from ergometry.integrations.physics.tap import Cadence, Site, Tap, cadence_of
from ergometry.integrations.physics.tapes import Tapes

_SHARE, _FULL_SHARE = 0.01, 0.1
_AGREES = 1e-2  # of |g|: how far a replay's gradient may be from what the backward brought
_STRUCTURES = 64
_WEIGHED_EVERY = 16  # sampled steps from one look at every tensor's gradient to the next: it says where to draw blocks

REPLAYED, BY_LOSS = 1, 2
"""The column ``how``."""

COUNTED = "a pass of it was being counted, which nothing is recorded under"


@dataclass
class Step:
    """A sampled step under way.

    Attributes:
        calls: calls of the user's loss that others had kept before it.
        backwards: its backwards, of a closure those of the first call.
        tapes: theirs.
        losses: ℓ_Bk(θ_k) of each, 0-dim float64.
        scale: what a gradient scaler has multiplied the backward under way by.
        displacement: None where it is not followed.
        midpoint: whether g⁺ is to be taken.
        why: why a tape could not be replayed, or an empty string.
    """

    calls: int = 0
    backwards: int = 0
    tapes: list[Any] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    scale: Any = None
    displacement: Displacement | None = None
    midpoint: bool = False
    why: str = ""
    cost_s: float = 0.0
    recorded_s: float = 0.0


class FirstLaw(Tap):
    """Writes rows of ``FIRST_LAW`` and ``MODULE_WORK``."""

    name = "first_law"

    def __init__(self, site: Site, tapes: Tapes) -> None:
        """Sample as many steps as 1 % of the step time pays for (10 % at level full)."""
        self._site, self._tapes = site, tapes
        self.cadence: Cadence = cadence_of(site, _SHARE, _FULL_SHARE, guess_steps=3.0, ready_s=0.006)
        self._owned = site.loss if isinstance(site.loss, OwnedLoss) else None
        self._by_loss = False  # the user's loss function stands in for tapes, which could not be made
        self._drawer = Drawer(0x0E1)
        self._modules = ModuleWork(site)
        self._step: Step | None = None
        self._step_s = 0.0
        self._agreed: dict[int, str] = {}  # by structure: why a tape's gradient is not what its backward brings
        self._no_midpoint = ""
        self._rows = 0
        self.lost: Counter[str] = Counter()
        """Why steps asked for gave no row, and how often."""

    # A step's beginning

    def step_begin(self, step: int, step_s: float) -> None:
        """Have this step recorded."""
        self._step_s, self._step = step_s, Step()
        if self._by_loss and self._owned is not None:
            self._step.calls = len(self._owned.tapes)
            self._owned.take(self.name)
        else:
            self._tapes.want(step)

    def step_end(self) -> None:
        """Pay for the step, and let go of it."""
        self._end()

    def forward_begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """Take note of which modules there are."""
        if self._step is not None:
            self._modules.learn(module)

    # Its backwards

    def backward_begin(self, tensors: Any) -> None:
        """Copy what must be known before: the parameters, and what the gradients will be scaled by."""
        step = self._step
        if step is None or not self._site.machine.counting:
            return
        with _paid(step):
            step.scale = self._site.loss_scale(tensors)
            if step.backwards == 0:
                self._follow(step)
            step.backwards += 1

    def _follow(self, step: Step) -> None:
        """Follow the parameters of the optimizers that made the last step, if they can be looked into."""
        optimizers = self.steppers.last()
        trained = {id(p) for o in optimizers for group in o.param_groups for p in group["params"] if p.requires_grad}
        tensors = plain(optimizers)
        blocks = self._drawer.draw(tensors) if tensors else None
        if blocks is None:
            return
        self._modules.follow(tensors)
        step.displacement = Displacement(blocks)
        if len(tensors) < len(trained):
            self._no_midpoint = "some parameters are empty, sparse, complex, sharded or on another device"
        else:
            step.midpoint = blocks.whole or self._site.full

    def backward_end(self, tensors: Any) -> None:
        """Read what the backward has brought, while the parameters are what they were."""
        step = self._step
        if step is None or not self._site.machine.counting:
            return
        with _paid(step):
            moved = step.displacement
            brought = moved.brought(step.scale) if moved is not None else None
            tape = self._tape(step)
            if tape is not None:
                self._take(step, tape, brought)
            if moved is not None and moved.why:
                self._no_midpoint, step.displacement = moved.why, None
                moved.release()
            elif moved is not None and self._site.machine.in_optimizer:
                moved.release()  # a closure's later calls bring gradients of other parameters

    def _take(self, step: Step, tape: Any, brought: Tensor | None) -> None:
        try:
            step.losses.append(self._loss(tape))
        except (RuntimeError, TypeError) as reason:
            step.why = _line(reason)
            return
        step.tapes.append(tape)
        if brought is not None and step.midpoint:
            self._agree(step, tape, brought)

    def _tape(self, step: Step) -> Any:
        """Return the tape of the backward that has ended, None if it cannot be replayed."""
        by_loss = self._owned if self._by_loss else None
        tapes = self._tapes.current if by_loss is None else by_loss.tapes[step.calls :]
        return tapes[-1] if len(tapes) == step.backwards and not tapes[-1].why else None

    def _loss(self, tape: Any) -> Tensor:
        if not self._by_loss:
            return wide(tape.value)
        with torch.no_grad():
            return wide(tape.loss())

    def _agree(self, step: Step, tape: Any, brought: Tensor) -> None:
        """See that a tape of a structure that is new has the gradient which its backward has brought."""
        structure = _structure(tape)
        if structure in self._agreed or step.displacement is None:
            return
        if len(self._agreed) >= _STRUCTURES:
            self._agreed.clear()
        self._agreed[structure] = ""
        try:
            _, replayed = differentiated([tape], step.displacement.blocks)
        except (RuntimeError, TypeError) as reason:
            self._agreed[structure] = f"the step's replay cannot be differentiated: {_line(reason)}"
            return

        def compare(found: list[float]) -> None:
            if found[0] > _AGREES**2 * found[1]:
                self._agreed[structure] = (
                    "the script's gradients are not its loss's: hooks or a backward of the script's own change them"
                )

        pair = torch.stack(((replayed - brought).square().sum(), brought.square().sum()))
        self._site.pending.read(pair, compare)

    # Its end

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Take no more gradients: they are whole."""
        if self._step is not None and self._step.displacement is not None and not closure:
            self._step.displacement.release()

    def optimizer_end(self, optimizer: Any, step: int) -> None:
        """Replay: the parameters have moved. Of several optimizers each states the step anew."""
        sampled = self._step
        if sampled is None:
            return
        sampled.recorded_s = 0.0 if self._by_loss else self._tapes.cost_s
        if not sampled.backwards or len(sampled.tapes) != sampled.backwards:
            self._lose(self._reason(sampled))
            return
        try:
            with _paid(sampled):
                self._settle(sampled, step)
        except (RuntimeError, TypeError) as reason:  # it cannot be replayed, or does not fit into memory
            self._lose(_line(reason))
            return
        if not self.steppers.missing():
            self._end()  # no other optimizer is to state it anew: nothing is kept until the next step

    def _reason(self, step: Step) -> str:
        """Say why a step has no tapes; where the user gave a loss function it stands in from here on."""
        if step.why or not step.backwards:
            return step.why or "no backward was seen"
        if self._by_loss and self._owned is not None:
            whys = [tape.why for tape in self._owned.tapes[step.calls :] if tape.why]
            return whys[0] if whys else self._owned.why or "backward ran on other losses than run.loss gave"
        why = self._tapes.why_not
        self._by_loss = bool(why) and self._owned is not None
        return why or COUNTED

    def _settle(self, sampled: Step, step: int) -> None:
        moved = sampled.displacement if sampled.displacement and sampled.displacement.gradient is not None else None
        began = time.perf_counter()
        gradient = None
        if moved is not None and sampled.midpoint:
            disagreeing = [why for tape in sampled.tapes if (why := self._agreed.get(_structure(tape), ""))]
            self._no_midpoint = disagreeing[0] if disagreeing else ""
            if not disagreeing:
                after, gradient = differentiated(sampled.tapes, moved.blocks)
        if gradient is None:
            with torch.no_grad():
                after = torch.stack([wide(tape.loss()) for tape in sampled.tapes]).sum()
        found = [torch.stack((torch.stack(sampled.losses).sum(), after))]
        if moved is not None:
            found.append(moved.sums(gradient).reshape(-1))
            self._weigh(moved)
        cost_s = sampled.cost_s + sampled.recorded_s + time.perf_counter() - began
        self._write(step, torch.cat(found), sampled, moved, midpoint=gradient is not None, cost_s=cost_s)

    def _write(
        self, step: int, found: Tensor, sampled: Step, moved: Displacement | None, *, midpoint: bool, cost_s: float
    ) -> None:
        blocks, now_s = moved.blocks if moved is not None else None, self._site.now()
        how = BY_LOSS if self._by_loss else REPLAYED
        parameters = float(blocks.parameters if blocks else sum(p.numel() for p in sampled.tapes[0].parameters))

        def read(values: list[float]) -> None:
            if not all(map(math.isfinite, values)):
                self.lost["a loss or a gradient was not finite"] += 1
                return
            taken, looked_at = (math.nan,) * 4, 0.0
            if blocks is not None:
                n = len(blocks.blocks)
                rows = [values[i : i + n] for i in range(2, len(values), n)]
                self._modules.add(step, blocks, rows, midpoint=midpoint)
                if midpoint:
                    taken, looked_at = midpoint_work(blocks, rows), float(blocks.sampled)
            self._site.emit(FIRST_LAW, step, now_s, values[0], values[1], *taken, how, looked_at, parameters, cost_s)
            self._rows += 1

        self._site.pending.read(found, read)

    def _weigh(self, moved: Displacement) -> None:
        """Now and then look at every tensor's gradient: half of the draws go by where it was."""
        if moved.blocks.whole or self._rows % _WEIGHED_EVERY:
            return
        energies = squares(plain(self.steppers.last()))
        if energies is not None:
            self._site.pending.read(energies, self._drawer.plan.weigh)

    def skipped(self) -> None:
        """Pass over a step that the gradient scaler skipped."""
        self._lose("the gradient scaler skipped the step")

    def unwound(self) -> None:
        """Forget the step under way."""
        self._lose("the step raised")

    def _lose(self, why: str) -> None:
        if self._step is not None:
            self.lost[why] += 1
            self._end()

    def _end(self) -> None:
        """Pay for the step under way, and let go of what it took."""
        step, self._step = self._step, None
        if step is None:
            return
        if step.displacement is not None:
            hooked_s = step.displacement.spent_s
            step.cost_s += hooked_s
            self.unclocked_s += hooked_s
            step.displacement.release()
        if self._owned is not None:
            self._owned.release(self.name)
        cost_s = step.cost_s + step.recorded_s
        if step.losses and step.losses[0].device.type != "cpu":
            cost_s = max(cost_s, self._step_s / 3)  # a forward's part of a step: the device's time is not waited for
        if step.tapes or step.recorded_s:
            self.cadence.spent(cost_s)

    # The run

    def finish(self) -> None:
        """Tell of every module."""
        self._end()
        self._site.pending.drain()
        self._modules.finish()

    def why(self) -> str:
        """Say why there are no rows, or which steps gave none and why there is no midpoint."""
        lost = {why: n for why, n in self.lost.items() if why != COUNTED or not self._rows}
        parts = [f"{why} ({n} steps)" for why, n in lost.items()]
        if self._no_midpoint:
            parts.append(f"no midpoint work: {self._no_midpoint}")
        if not self._rows and not parts:
            parts.append("no step was followed to its end")
        return "; ".join(parts)

    def stop(self) -> None:
        """Let go of everything."""
        self._end()


@contextmanager
def _paid(step: Step) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        step.cost_s += time.perf_counter() - began


def _line(reason: Exception) -> str:
    """Return the first line of what an exception says."""
    return (str(reason) or type(reason).__name__).splitlines()[0]


def _structure(tape: Any) -> int:
    """Return which tapes are alike: those of the user's loss all are."""
    return int(getattr(tape, "structure", 0))
