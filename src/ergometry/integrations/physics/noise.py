"""The tap of gradient noise (E3): |g|² at two batch sizes, on blocks of parameters.

What a step offers is used, the best first: micro-batches of an accumulated step; the local and the averaged gradient
of ranks; two halves of the batch, by the loss where the API owns it, else layer by layer; where most of the parameters
are in no layer that can be read so, the gradients of two consecutive steps. With the layers come the gradients of
single examples in the normalisation layers. What the pairs say is :mod:`ergometry.estimators.noise_scale`'s task.

Gradients are read backward by backward as autograd brings them: before they are accumulated, averaged over ranks,
clipped or unscaled.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ergometry.core.series import NOISE
from ergometry.integrations.inspect_call import Inference, batch_size
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.blocks import Drawer, gradient, plain, squares
from ergometry.integrations.physics.increments import Batches, Increments, weighed_squares
from ergometry.integrations.physics.layers import Layers
from ergometry.integrations.physics.looks import (
    CONSECUTIVE,
    HALVES,
    MICRO_BATCHES,
    NORM_LAYERS,
    RANKS,
    Step,
    Window,
    ranks_of,
    unscaled,
)
from ergometry.integrations.physics.owned_loss import OwnedLoss
from ergometry.integrations.physics.preconditioner import Preconditioner
from ergometry.integrations.physics.tap import Cadence, Site, Tap, cadence_of

_SHARE, _FULL_SHARE = 0.004, 0.02
_COVERED = 0.5  # of the parameters, in layers that can be read, for these to stand for the model
_WEIGHED_EVERY = 16  # windows from one look at every tensor's gradient to the next: it says where to draw blocks


class Noise(Tap):
    """Writes rows of ``NOISE``."""

    name = "noise"

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cadence: Cadence = cadence_of(site, _SHARE, _FULL_SHARE, guess_steps=1.0, ready_s=0.005)
        self._drawer = Drawer(0x0E3)
        self._owned = site.loss if isinstance(site.loss, OwnedLoss) else None
        self._window: Window | None = None
        self._step: Step | None = None
        self._windows = 0
        self._how = 0
        self._calls = 0  # of the loss, kept before this step's
        self._cost_s = self._since_s = self._step_s = 0.0
        self.lost: Counter[str] = Counter()
        """Why looks came to nothing, and how often."""
        self._rows = 0

    @contextlib.contextmanager
    def _paid(self) -> Iterator[None]:
        self._since_s = time.perf_counter()
        try:
            with torch.no_grad(), apart():
                yield
        finally:
            self._pay()

    def _pay(self) -> None:
        now = time.perf_counter()
        self._cost_s, self._since_s = self._cost_s + now - self._since_s, now

    # A step's beginning

    @property
    def again(self) -> bool:
        """Whether a look goes on in the next step."""
        return self._window is not None

    def step_begin(self, step: int, step_s: float) -> None:
        """Have this step's gradients read, once it is known of which parameters."""
        self._step_s = step_s
        if self.steppers.last():
            with self._paid():
                self._arm()

    def step_end(self) -> None:
        """Give up a step that no optimizer ended."""
        if self._step is not None:
            self._lose("the step had no optimizer step")

    def _arm(self) -> None:
        optimizers = self.steppers.last()
        if self._window is None:
            blocks = self._drawer.draw(plain(optimizers))
            if blocks is None:
                self._lose("no parameters that can be looked into (dense, real, not sharded over ranks)")
                return
            self._window = Window(blocks, Preconditioner(optimizers).of(blocks))
        elif not self._window.blocks.alive():
            self._lose("the parameters changed")
            return
        window = self._window
        self._step = Step(Increments(window.blocks), Batches(window.blocks, window.weights))
        if self._owned is not None and window.first is None:
            self._calls = len(self._owned.tapes)
            self._owned.take(self.name)

    def forward_begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """Take note of which model is trained on what."""
        step = self._step
        if step is None:
            return
        with self._paid():
            step.model = module
            inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            if inputs and any(ref() is inputs[0] for ref in step.inputs):
                self._lose("two forwards of one step saw the same batch")
                return
            step.inputs += [weakref.ref(value) for value in inputs[:1]]
            if step.layers is None and self._reads_layers(module):
                examples, _ = batch_size(args, kwargs, Inference())
                if examples > 1:
                    step.layers = Layers(examples, Preconditioner(self.steppers.last()), self._drawer.stream)
            if step.layers is not None:
                step.layers.watch(module)

    def _reads_layers(self, module: Any) -> bool:
        """Say whether the layers may be needed: not where the last look was at something better."""
        assert self._window is not None
        better = self._how in (MICRO_BATCHES, RANKS) or self._owned is not None or ranks_of(module) > 1
        return self._window.first is None and not better

    def forward_end(self, module: Any, out: Any) -> None:
        """Let go of the modules."""
        if self._step is not None and self._step.layers is not None:
            self._step.layers.leave()

    # Its backwards

    def backward_begin(self, tensors: Any) -> None:
        """Take note of what the gradients will be scaled by, and of the averaged ones that are there."""
        step = self._step
        if step is None:
            return
        with self._paid():
            self._count()
            step.scale = self._site.loss_scale(tensors)
            if ranks_of(step.model) > 1:
                assert self._window is not None
                step.before = self._window.blocks.gather(gradient)

    def backward_end(self, tensors: Any) -> None:
        """Read what the backward has brought."""
        step = self._step
        if step is None:
            return
        with self._paid():
            if step.increments.why:
                self._lose(step.increments.why)
                return
            step.unread = unscaled(step.increments.take(), step.scale)

    def _count(self) -> None:
        """Add the backward that was read last, of the examples that have been counted meanwhile."""
        step = self._step
        if step is None or step.unread is None:
            return
        counted = self._site.machine.examples
        examples = counted - step.seen
        step.seen = counted
        step.batches.add(step.unread, examples)
        step.unread = None

    # Its end

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Settle what the step's gradients tell: they are whole, and the parameters have not moved."""
        if self._step is None:
            return
        with self._paid():
            self._count()
            if closure:
                self._lose("a closure evaluates its gradients at several parameters within one step")
            elif all(other is not optimizer for other in self.steppers.last()):
                self._lose("optimizers take turns: the gradients are of another's loss")
            elif self._step.batches.total is None:
                self._lose("no backward was seen")
            elif not math.isfinite(sum(self._step.batches.sizes)):
                self._lose("the number of examples is not known (see examples in the run's inferred)")
            else:
                self._settle()

    def _settle(self) -> None:
        step, window = self._step, self._window
        assert step is not None and window is not None
        self._weigh(window)
        batches = step.batches
        sizes = batches.sizes
        if window.first is not None:
            self._follow(sum(sizes), len(sizes))
        elif batches.equal:
            small = batches.mean_squares()
            big = weighed_squares(window.blocks, self._total(), window.weights)
            self._write(MICRO_BATCHES, (sizes[0], sum(sizes)), torch.cat((small, big)))
        elif len(sizes) > 1:
            self._lose("micro-batches of one step have unequal sizes")
        elif step.before is not None and step.model.require_backward_grad_sync:
            self._overranks_of(sizes[0])
        elif not self._halves() and not self._halves_of_layers(sizes[0]):
            window.first, window.step, window.examples = self._total(), self._site.machine.index, sizes[0]
            self._disarm()

    def _total(self) -> torch.Tensor:
        assert self._step is not None and self._step.batches.total is not None
        return self._step.batches.total

    def _overranks_of(self, examples: float) -> None:
        step, window = self._step, self._window
        assert step is not None and window is not None and step.before is not None
        averaged = unscaled(window.blocks.gather(gradient) - step.before, step.scale)
        local = weighed_squares(window.blocks, self._total(), window.weights)
        everywhere = weighed_squares(window.blocks, averaged, window.weights)
        ranks = ranks_of(step.model)
        self._write(RANKS, (examples, ranks * examples), torch.cat((local, everywhere)))

    def _halves(self) -> bool:
        """Compare the halves of the batch, if the loss is ours to evaluate; say whether it was."""
        tapes = self._owned.tapes[self._calls :] if self._owned is not None else []
        halves = tapes[0].parts(2) if len(tapes) == 1 and not tapes[0].why else []
        window = self._window
        if not halves or window is None:
            return False
        size = halves[0].examples
        self._write(HALVES, (size, 2 * size), window.pair(*(window.gradient(half.loss) for half in halves)))
        return True

    def _halves_of_layers(self, examples: float) -> bool:
        """Compare the halves of the batch in the layers that tell examples apart; say whether they are most of all."""
        step, window = self._step, self._window
        assert step is not None and window is not None
        layers = step.layers
        if layers is None:
            return False
        index, norms, halves = self._site.machine.index, layers.norms(), layers.halves()
        if norms is not None:
            squares, size = unscaled(norms[0], step.scale, 2), norms[1]

            def read(pair: list[float]) -> None:
                values = (*pair, math.nan, math.nan, math.nan, size, size)
                self._emit(index, NORM_LAYERS, (1.0, examples), values, 0.0)

            self._site.pending.read(squares, read)
        if halves is None or layers.parameters < _COVERED * window.blocks.parameters:
            return False
        sizes, looked_at = (float(layers.half), 2.0 * layers.half), (layers.sampled, layers.parameters)
        cost_s = self._settled(HALVES, 1 / 3)

        def read_halves(found: list[float]) -> None:
            small, small_weighed, big, big_weighed = found
            self._emit(index, HALVES, sizes, (small, big, small_weighed, big_weighed, math.nan, *looked_at), cost_s)

        self._site.pending.read(unscaled(halves, step.scale, 2), read_halves)
        return True

    # Consecutive steps

    def _follow(self, examples: float, batches: int) -> None:
        """Compare this step's gradient with that of the window's first."""
        window = self._window
        assert window is not None and window.first is not None
        same = batches == 1 and examples == window.examples
        if window.sums is None:
            if not same:
                self._lose("consecutive batches have unequal sizes")
                return
            window.sums = window.pair(window.first, self._total())
            self._disarm()
            return
        lag = self._total() - window.first if same else torch.full_like(window.first, math.nan)
        sums = torch.cat((window.sums, weighed_squares(window.blocks, lag, None)))
        self._write(CONSECUTIVE, (window.examples, 2 * window.examples), sums, step=window.step)

    # Rows

    def _write(self, how: int, sizes: tuple[float, float], sums: torch.Tensor, *, step: int | None = None) -> None:
        """Write a row from (2 or 4 and one, blocks): small, small preconditioned, big, big preconditioned, lag 2."""
        window = self._window
        assert window is not None
        index = self._site.machine.index if step is None else step
        blocks, weighed = window.blocks, window.weights is not None
        cost_s = self._settled(how, 1.0 if how == HALVES else 0.0)

        def read(rows: list[list[float]]) -> None:
            totals = [blocks.total(row)[0] for row in rows]
            small, big = (totals[0], totals[2]) if weighed else totals[:2]
            weighed_pair = (totals[1], totals[3]) if weighed else (math.nan, math.nan)
            lag = totals[-1] if how == CONSECUTIVE else math.nan
            self._emit(index, how, sizes, (small, big, *weighed_pair, lag, blocks.sampled, blocks.parameters), cost_s)

        self._site.pending.read(sums, read)

    def _settled(self, how: int, steps: float = 0.0) -> float:
        """End the look, which was at this kind of pair; return what it has cost, s.

        ``steps`` is how much of a step's work it was: on an accelerator that is not waited for, and paid all the same.
        """
        assert self._window is not None
        self._how = how
        self._disarm()
        self._pay()
        cost_s, self._cost_s = self._cost_s, 0.0
        if any(device.type != "cpu" for device in self._window.blocks.devices):
            cost_s = max(cost_s, steps * self._step_s)
        self._window = None
        self._windows += 1
        self.cadence.spent(cost_s)
        return cost_s

    def _emit(self, step: int, how: int, sizes: tuple[float, float], values: Sequence[float], cost_s: float) -> None:
        if not (math.isfinite(values[0]) and math.isfinite(values[1])):
            self.lost["a gradient is not finite"] += 1
            return
        dataset = self._site.dataset()
        self._rows += 1
        self._site.emit(NOISE, step, how, *sizes, *values, math.nan if dataset is None else dataset, cost_s)

    def _weigh(self, window: Window) -> None:
        """Now and then, see where the gradient is: half of the blocks are drawn by that."""
        if window.blocks.whole or self._windows % _WEIGHED_EVERY or window.first is not None:
            return
        energies = squares(plain(self.steppers.last()))
        if energies is not None:
            self._site.pending.read(energies, self._drawer.plan.weigh)

    # Ends

    def skipped(self) -> None:
        """Drop the step: its gradients are not finite."""
        if self._step is not None:
            self._lose("a gradient is not finite")

    def unwound(self) -> None:
        """Drop the step: the script's own code raised."""
        if self._step is not None:
            self._lose("the step raised")

    def _lose(self, why: str) -> None:
        """Give the look up, and say why."""
        self.lost[why] += 1
        self._disarm()
        if self._window is not None:
            self.cadence.spent(self._cost_s)
            self._window, self._cost_s = None, 0.0

    def _disarm(self) -> None:
        if self._step is not None:
            self._step.increments.remove()
            hooked_s = self._step.increments.spent_s
            if self._step.layers is not None:
                self._step.layers.leave()
                hooked_s += self._step.layers.spent_s
            self._cost_s += hooked_s
            self.unclocked_s += hooked_s
            self._step = None
        if self._owned is not None:
            self._owned.release(self.name)

    def why(self) -> str:
        """Say what looks were lost, and how many gave a row."""
        if not self.lost:
            return "" if self._rows else "no two batch sizes were seen: it takes a second training step"
        reasons = "; ".join(f"{why} ({n} times)" for why, n in self.lost.most_common())
        return f"{self._rows} rows; looks that gave none: {reasons}"

    def stop(self) -> None:
        """Take the hooks off."""
        self._disarm()
        self._window = None
