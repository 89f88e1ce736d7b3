"""The tap of curvature: λ_max, GᵀHG and, at level full, trH and tr(HΣ) of a training batch's Hessian, now and then.

A look costs tens of steps and waits for the device, so it is saved up for: the first one comes when its share of the
steps so far would pay it. A run too short for that has one at its end, if that takes at most 2 % of its time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ergometry.core.series import CURVATURE
from ergometry.integrations.physics.owned_loss import BatchTape, OwnedLoss
from ergometry.integrations.physics.probe import Probe
from ergometry.integrations.physics.tap import Cadence, Pace, Site, Tap, cadence_of
from ergometry.landscape.lanczos import Krylov, largest_eigenvalue, room
from ergometry.landscape.point import LandscapeError, Point, Reading, differentiable, gradient, length
from ergometry.landscape.products import EXACT, Hessian, hessian
from ergometry.landscape.restarted import LEAST, largest_by_restarts
from ergometry.landscape.trace import few, quadratic_form, trace

_SHARE, _FULL_SHARE = 0.007, 0.05
_AT_END = 0.02
GONE = "the run was too short to pay for a look before its end, and by then the script had let go of its model"
_STEPS_A_PRODUCT = 1.3
"""Training steps that a Hessian-vector product takes, until one was timed."""
_FAILURES = 3
_PARTS = 8
_STEPS, _FULL_STEPS = 10, 30
_TOLERANCE = 0.01
_BASIS = 32 << 20
"""Bytes of Lanczos vectors that level light may hold for a moment, where three of them are not more."""
_MEMORY, _FULL_MEMORY = 512 << 20, 2 << 30


@dataclass(frozen=True)
class Noise:
    """What gradients of m parts of a batch say, each of b examples, g_i, their mean ḡ, d_i = g_i − ḡ.

    With S = Σ d_iᵀHd_i/(m−1): tr(HΣ) = b·S and GᵀHG = ḡᵀHḡ − S/m; with 1 for H likewise |G|². Unbiased, H given.
    """

    noise_trace: tuple[float, float]
    along_gradient: tuple[float, float]
    grad_sq: float


def noise_of_parts(operator: Hessian, gradients: Sequence[Tensor], examples: float) -> Noise:
    """Return what the parts' gradients (N,) say, each of so many ``examples``.

    The errors are those of the parts' scatter, for gradients that are nearly normal, as means over examples are: then
    S has the variance 2tr[(HΣ)²]/(m−1)/b², read off d_iᵀHd_j, and ḡᵀHḡ varies as 2ḡᵀHd. Widened as Student's t is
    for so few, which still is somewhat narrow where one direction has all the noise.
    """
    m = len(gradients)
    stacked = torch.stack(list(gradients))
    mean = stacked.mean(0)
    d = stacked - mean
    along = quadratic_form(operator, mean)
    crossed, overlaps = [], []
    for one in d:
        product = operator(one)
        crossed.append(float(torch.sum(mean * product, dtype=torch.float64)))
        overlaps.append((d @ product).double())
    k = torch.stack(overlaps)
    s = float(k.trace()) / (m - 1)
    scatter = math.sqrt(2.0 * float(k.square().sum()) / (m - 1) ** 3) * few(m)
    tilt = 2.0 * math.sqrt(math.fsum(x * x for x in crossed) / (m - 1) / m) * few(m)
    return Noise(
        noise_trace=(examples * s, examples * math.hypot(scatter, operator.error * s)),
        along_gradient=(along.value - s / m, math.hypot(along.stderr, tilt, scatter / m)),
        grad_sq=length(mean) ** 2 - float(d.square().sum(dtype=torch.float64)) / (m - 1) / m,
    )


class Curvature(Tap):
    """Writes rows of ``CURVATURE``."""

    name = "curvature"

    def __init__(self, site: Site, tapes: Any) -> None:
        """Look at the step's own batch where the user's loss has it, or at level full; else at the probe."""
        self._site, self._tapes, self._probe = site, tapes, Probe(site, tapes)
        self._owned = site.loss if isinstance(site.loss, OwnedLoss) else None
        self._steps = _FULL_STEPS if site.full else _STEPS
        guess = _STEPS_A_PRODUCT * (self._steps + 1)
        self.cadence: Cadence = cadence_of(site, _SHARE, _FULL_SHARE, guess_steps=guess, ready_s=0.03)
        self._how: str | None = None
        self._due = self._asked = False
        self._step_s = 0.0
        self._rows = self._failures = 0
        self._why = "no training step was looked at"

    def due(self, pace: Pace) -> bool:
        """Say whether to look in this step."""
        self._step_s = pace.step_s
        return self._failures < _FAILURES and self.cadence.due(pace)

    def next_s(self, pace: Pace) -> float:
        """Return when the next look is due; never after it has failed thrice."""
        return self.cadence.next_s(pace) if self._failures < _FAILURES else math.inf

    def step_begin(self, step: int, step_s: float) -> None:
        """Look in this step, and have its batch kept."""
        self._due, self._asked = True, False
        if self._owned is not None:
            self._owned.take(self.name)
        elif self._site.full:
            self._tapes.want(step)
        else:
            self._asked = self._probe.want()

    def step_end(self) -> None:
        """Look no more in this step."""
        self._due = False
        self._release()

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Look before the step's first optimizer moves the parameters."""
        if self._due:
            self._due = False
            tapes = list(self._owned.tapes) if self._owned is not None else list(self._tapes.current)
            self._release()
            self._look(self._site.machine.index, tapes)

    def unwound(self) -> None:
        """Forget the step under way."""
        self._due = False
        self._release()

    def finish(self) -> None:
        """Look once at the end, if the run was too short to pay for it before."""
        if not self._rows and self._failures < _FAILURES and self._pays_at_end():
            self._look(self._site.machine.steps, [])

    def _pays_at_end(self) -> bool:
        price_s = self.cadence.price_s(self._step_s)
        return 0 < price_s <= _AT_END * self._site.now() and self._site.affords(price_s)

    def _release(self) -> None:
        if self._owned is not None:
            self._owned.release(self.name)

    def _look(self, step: int, tapes: list[Any]) -> None:
        good = [tape for tape in tapes if not tape.why]
        if not tapes or len(good) < len(tapes):
            good = [tape] if (tape := self._probe.find()) is not None else []
        if not good:
            self._why = self._probe.why
            return
        if not any(tape.parameters for tape in good):
            self._why = GONE
            return
        began = time.perf_counter()
        try:
            self._site.emit(CURVATURE, step, self._site.now(), *self._read(good), time.perf_counter() - began)
            self._rows, self._failures, self._why = self._rows + 1, 0, ""
        except (LandscapeError, RuntimeError) as error:  # out of memory among them
            self._failures += 1
            self._why = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        self.cadence.spent(time.perf_counter() - began + (self._probe.cost_s if self._asked else 0.0))

    def _read(self, tapes: list[Any]) -> tuple[float, ...]:
        """Return the columns of a row from ``largest`` to ``products``."""
        parameters = list({id(p): p for tape in tapes for p in tape.parameters}.values())
        self._room(parameters[0].device)
        weight = 1.0 / len(tapes) if isinstance(tapes[0], BatchTape) else 1.0  # of a step's losses their mean, or sum

        def whole(values: Sequence[Tensor]) -> Tensor:
            given = dict(zip(parameters, values, strict=True))
            return torch.stack([weight * tape.loss(given) for tape in tapes]).sum()

        if self._how is None:
            self._how = "differences" if _has_custom_backward(tapes, parameters) else "auto"
        operator = hessian(whole, parameters, how=self._how)
        along = quadratic_form(operator, operator.gradient, operator.gradient_product)
        products = operator.products
        largest = krylov = None
        try:
            largest, krylov = self._largest(operator)
            products += largest.products
        except LandscapeError as error:
            self._site.notice("physics.unavailable", f"λ_max: {error}")
        nothing = (math.nan, math.nan)
        row = {
            "largest": nothing if largest is None else (largest.value, largest.stderr),
            "along": (along.value, along.stderr),
            "trace": nothing,
            "noise": nothing,
        }
        grad_sq = length(operator.gradient) ** 2
        if self._site.full:
            traced = trace(operator, krylov=krylov)
            row["trace"] = (traced.value, traced.stderr)
            products += traced.products
            noise = self._noise(operator, tapes, parameters)
            if noise is not None:
                row["noise"], row["along"], grad_sq = noise.noise_trace, noise.along_gradient, noise.grad_sq
                products += _PARTS + 1
        values = (*row["largest"], *row["along"], *row["trace"], *row["noise"])
        return (*values, grad_sq, 1.0 if operator.how == EXACT else 2.0, float(products))

    def _largest(self, operator: Hessian) -> tuple[Reading, Krylov | None]:
        """Return λ_max, and the basis where it was kept whole: at level light it may take little."""
        how: dict[str, Any] = {"steps": self._steps, "tolerance": _TOLERANCE, "start": operator.gradient}
        if self._site.full:
            return largest_eigenvalue(operator, memory_bytes=_FULL_MEMORY, **how)
        steps = min(self._steps, operator.size)
        capacity, _ = room(operator, steps, _MEMORY)
        fits = max(_BASIS // (operator.size * operator.gradient.element_size()), LEAST)
        if fits >= steps:
            return largest_eigenvalue(operator, memory_bytes=_MEMORY, **how)
        return largest_by_restarts(operator, capacity=min(capacity, fits), **how), None

    def _noise(self, operator: Hessian, tapes: list[Any], parameters: list[Tensor]) -> Noise | None:
        """Return what parts of the batch say: micro-batches of the step, else parts of a batch that can be cut."""
        parts = tapes
        if len(tapes) == 1:
            examples = tapes[0].examples
            n = int(min(_PARTS, examples // 2)) if math.isfinite(examples) else 0  # BatchNorm takes two at least
            parts = tapes[0].parts(n) if isinstance(tapes[0], BatchTape) and n > 1 else []
        sizes = {part.examples for part in parts}
        item = operator.gradient.element_size()
        if len(parts) < 2 or len(sizes) > 1 or len(parts) * operator.size * item > _FULL_MEMORY:
            return None
        point = Point.at(parameters)
        # What a step's operators were called on is the loss over the number of its backwards.
        scale = 1.0 if isinstance(parts[0], BatchTape) else float(len(parts))

        def of(part: Any) -> Callable[[Sequence[Tensor]], Tensor]:
            return lambda values: scale * part.loss(dict(zip(parameters, values, strict=True)))

        gradients = [point.flat(gradient(of(part), point.leaves)[1]) for part in parts]
        return noise_of_parts(operator, gradients, sizes.pop())

    def _room(self, device: torch.device) -> None:
        """See that a device has room for a second graph beside the script's own, as far as that can be known."""
        if device.type != "cuda":
            return
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        needed = 2 * (torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device))
        if free + idle < needed:
            raise RuntimeError(
                f"the device has {(free + idle) / 2**20:.0f} MiB free, of about {needed / 2**20:.0f} needed"
            )

    def why(self) -> str:
        """Say why nothing was read."""
        return self._why

    def stop(self) -> None:
        """Let go of the batches."""
        self._release()
        self._probe.stop()


def _has_custom_backward(tapes: Sequence[Any], parameters: Sequence[Tensor]) -> bool:
    """Say whether a loss runs an ``autograd.Function`` of Python: its backward may leave the graph, unseen.

    An operator tape runs no such function, but the operators within it.
    """
    own = [tape for tape in tapes if isinstance(tape, BatchTape)]
    if not own:
        return False
    with differentiable():
        value = own[0].loss({p: p.detach().requires_grad_() for p in parameters})
    pending, seen = [value.grad_fn], {value.grad_fn}
    while pending:
        node = pending.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        for after, _ in node.next_functions if node is not None else ():
            if after is not None and after not in seen:
                seen.add(after)
                pending.append(after)
    return False
