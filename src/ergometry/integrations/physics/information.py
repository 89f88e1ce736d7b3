"""The tap of information (E7 i), at level full: ½logdet(1 + F_tot/λ) when the run ends, of the whole and by module.

F_tot is n times the mean Fisher information of a batch's examples, n the training examples seen, each once. The batch
is a sample: ½logdet of it is on average below that of all examples (the logarithm is concave), and its rank bounds it.

λ is the precision of a Gaussian prior on every parameter. Weight decay w as a penalty ½w|θ|² on a mean loss is
the negative logarithm, over n, of a prior with λ = n·w; where most of the parameters have no such decay (or AdamW's,
which is no penalty on the loss), the prior is taken to be as wide as the parameters were at the start, 1/Var(θ_0).
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ergometry.core.series import INFORMATION
from ergometry.integrations.physics.owned_loss import BatchTape
from ergometry.integrations.physics.probe import Probe
from ergometry.integrations.physics.scores import Scores
from ergometry.integrations.physics.tap import Pace, Site, Tap
from ergometry.landscape.fisher import Factor, fisher
from ergometry.landscape.information import METHODS, Effort, information, information_by_group
from ergometry.landscape.point import LandscapeError, Reading

_SHARE, _LEAST_S, _MOST_S = 0.05, 1.0, 30.0
_MOST_PRODUCTS = 2048
_FIRST = 8.0
"""Forwards without gradient that a Fisher factor and its first product cost."""

_CODES = (("stochastic", "lanczos"), ("EKFAC", "kronecker"), ("exact block", "blocks"), ("diagonal", "diagonal"))


def code(method: str) -> int:
    """Return the number of a method in the column ``how``.

    >>> code("exact, 12 parameters"), code("exact diagonal"), code("EKFAC, 32 random passes")
    (1, 5, 3)
    """
    return METHODS.index(next((name for word, name in _CODES if word in method), "exact")) + 1


class Prior:
    """λ of the prior: from weight decay, else from how the parameters were at the start."""

    def __init__(self) -> None:
        self._variances: list[tuple[int, Tensor]] = []
        self._decays: dict[float, int] = {}  # parameters by their coupled decay

    def start(self, parameters: Sequence[Tensor]) -> None:
        """Take the variance of each tensor before training; those that are constant (biases, gains) say nothing."""
        with torch.no_grad():
            for p in parameters:
                if p.numel() > 1 and not p.is_complex():
                    wide = p.detach().to(torch.promote_types(p.dtype, torch.float32))
                    self._variances.append((p.numel(), wide.var(correction=0)))

    def decay(self, optimizer: Any) -> None:
        """Take the weight decay of each of an optimizer's groups."""
        apart = type(optimizer).__name__ in ("AdamW", "NAdamW", "SparseAdam")
        for group in optimizer.param_groups:
            coupled = not (apart or group.get("decoupled_weight_decay", False))
            w = float(group.get("weight_decay", 0.0)) if coupled else 0.0
            self._decays[w] = self._decays.get(w, 0) + sum(p.numel() for p in group["params"])

    def precision(self, examples: float) -> tuple[float, str]:
        """Return λ for so many examples, and on what it rests; NaN where nothing tells."""
        w = max(self._decays, key=lambda w: self._decays[w], default=0.0)
        if w > 0:
            return examples * w, f"λ = n·{w:g}, the weight decay of most parameters"
        found = [(n, v) for n, variance in self._variances if (v := float(variance)) > 0 and math.isfinite(v)]
        if not found:
            return math.nan, "neither weight decay nor random parameters at the start"
        size = sum(n for n, _ in found)
        variance = math.fsum(n * v for n, v in found) / size
        return 1.0 / variance, "λ = 1/Var(θ_0), of the parameters that were random at the start (no weight decay)"


class Owners:
    """Which module owns each parameter: paths from the outermost module, in the order of its parameters."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._known: list[weakref.ref[nn.Module]] = []
        self._owner: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def learn(self, module: nn.Module) -> bool:
        """Take note of an outermost module, and say whether it is new; its class tells it from one before."""
        if any(ref() is module for ref in self._known):
            return False
        prefix = f"{type(module).__name__}." if self._known else ""
        self._known.append(weakref.ref(module))
        for name, p in module.named_parameters():
            if self.of(p) is None:
                self._owner[id(p)] = weakref.ref(p), (prefix + name.rpartition(".")[0]).rstrip(".")
        self.names = list(dict.fromkeys(name for _, name in self._owner.values()))
        return True

    def of(self, parameter: Tensor) -> str | None:
        """Return the path of the module that owns a parameter, None where it was not met."""
        known = self._owner.get(id(parameter))
        return known[1] if known is not None and known[0]() is parameter else None


class Information(Tap):
    """Writes rows of ``INFORMATION``, and the label ``information`` with what was assumed."""

    name = "information"

    def __init__(self, site: Site, tapes: Any) -> None:
        """Take F on the user's probe batch where there is one, else on a training step's."""
        self._site, self._probe = site, Probe(site, tapes)
        self._scores, self._prior, self._owners = Scores(), Prior(), Owners()
        self._step = self._decayed = -1
        self._seen = 0.0
        self._loader = False
        self._why = "" if site.full else "needs level full"

    # While training

    def due(self, pace: Pace) -> bool:
        """Say whether steps are to be told of: at level full all are."""
        return self._site.full

    def next_s(self, pace: Pace) -> float:
        """Return when the next step is to be told of: at level light none is."""
        return 0.0 if self._site.full else math.inf

    def step_begin(self, step: int, step_s: float) -> None:
        """Have a probe recorded."""
        self._probe.want()

    def forward_begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """Take note of the modules, and of the parameters before the first step."""
        if self._site.full and self._owners.learn(module) and self._step < 0:
            self._prior.start([p for p in module.parameters() if p.requires_grad])

    def forward_end(self, module: Any, out: Any) -> None:
        """See what the outputs are, until that is known."""
        if self._site.full:
            self._scores.output(out)

    def backward_begin(self, tensors: Any) -> None:
        """See what loss is taken of them."""
        self._scores.loss(tensors)

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Count the step's examples, on the first pass over the data; note the weight decay once."""
        machine = self._site.machine
        if not self._site.full:
            return
        if self._decayed in (-1, machine.index):
            self._decayed = machine.index
            self._prior.decay(optimizer)
        if machine.index != self._step:
            self._step = machine.index
            self._loader = self._loader or machine.loader_pass > 0
            if machine.loader_pass <= 1:
                self._seen += machine.examples

    def unwound(self) -> None:
        """Forget the step under way."""
        self._scores.forget()

    # When it ends

    def finish(self) -> None:
        """Take ½logdet, as well as the time allows: 5 % of the run's, but 1 s at least and 30 s at most."""
        if not self._site.full:
            return
        if sys.exc_info()[0] is not None:
            self._why = "the script raised"
            return
        self._why = self._refusal()
        if self._why:
            return
        try:
            self._read()
        except (LandscapeError, RuntimeError) as error:  # out of memory among them
            self._why = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__

    def _refusal(self) -> str:
        if self._scores.known is not True:
            return f"needs outputs that are class scores: {self._scores.why}"
        if not self._seen > 0:
            return "needs the number of examples of each step, which was not seen"
        return "" if self._probe.find() is not None else self._probe.why

    def _read(self) -> None:
        began = time.perf_counter()
        allowed_s = min(max(_SHARE * self._site.now(), _LEAST_S), _MOST_S)
        tape = self._probe.tape
        precision, assumed = self._prior.precision(self._seen)
        if not precision > 0:
            self._why = f"needs a prior: {assumed}"
            return
        if not tape.examples > 0:
            self._why = "needs a probe whose examples can be counted"
            return
        with torch.no_grad():
            tape.outputs()
        forward_s = time.perf_counter() - began
        if _FIRST * forward_s > allowed_s:
            self._why = (
                f"too dear: its first products take about {_FIRST * forward_s:.3g} s, of {allowed_s:.3g} s allowed"
            )
            return
        parameters = list(tape.parameters)
        factor = fisher(lambda values: tape.outputs(dict(zip(parameters, values, strict=True))), parameters)
        started = time.perf_counter()
        factor.adjoint(factor.forward(torch.ones(factor.columns, dtype=factor.dtype, device=factor.device)))
        if factor.device.type != "cpu":
            torch.get_device_module(factor.device).synchronize(factor.device)
        product_s = time.perf_counter() - started
        left_s = allowed_s - (time.perf_counter() - began)
        products = min(int(0.5 * left_s / product_s), _MOST_PRODUCTS)
        if products < 1:
            self._why = f"too dear: a product takes {product_s:.3g} s, of {left_s:.3g} s left"
            return
        label = {"modules": self._owners.names, "prior": self._assumptions(assumed, tape.examples)}
        self._site.meta(information=label)
        self._take(factor, tape, precision, Effort(products=products))

    def _take(self, factor: Factor, tape: Any, precision: float, effort: Effort) -> None:
        parameters = list(tape.parameters)
        groups: dict[str, list[tuple[int, int]]] = {}
        end = 0
        for p in parameters:
            first, end = end, end + p.numel()
            groups.setdefault(self._owners.of(p) or "", []).append((first, end))
        layers = dict(tape.model.named_modules()) if isinstance(tape, BatchTape) else None
        scaled = precision * tape.examples / self._seen  # ½logdet(1 + F·(n/m)/λ), m the batch's examples
        began = time.perf_counter()
        whole = information(factor, scaled, groups=groups, layers=layers, effort=effort)
        self._emit(-1, whole, factor.columns, precision, time.perf_counter() - began)
        began = time.perf_counter()
        each = information_by_group(factor, scaled, groups, layers=layers, effort=effort)
        cost_s = (time.perf_counter() - began) / len(each)
        for name, reading in each.items():
            if name in self._owners.names:
                size = sum(b - a for a, b in groups[name])
                self._emit(self._owners.names.index(name), reading, size, precision, cost_s)

    def _emit(self, part: int, reading: Reading, size: int, precision: float, cost_s: float) -> None:
        at = (self._site.machine.steps, self._site.now())
        values = (code(reading.method), part, reading.value, reading.stderr, size, self._seen, precision, cost_s)
        self._site.emit(INFORMATION, *at, *values)

    def _assumptions(self, prior: str, examples: float) -> str:
        seen = "the first pass over the data" if self._loader else "no data loader was seen: each batch taken as new"
        return f"{prior}; F is n times its mean over the {examples:.0f} examples of {self._probe.what}; n of {seen}"

    def why(self) -> str:
        """Say why nothing was taken."""
        return self._why

    def stop(self) -> None:
        """Let go of what was seen."""
        self._scores.forget()
        self._probe.stop()
