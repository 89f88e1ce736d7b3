"""The tap of equilibration (E4, E5): θ·g, |Δθ|² and (θ−θ̄)·g of an optimizer's steps, on blocks drawn once.

Stationarity is a statement about each parameter by itself, so what is true of all is true of a few blocks; they stay
the same for the whole run, since θ̄ is remembered on them. g is the gradient that the optimizer uses: averaged over
ranks, clipped, unscaled, and with coupled weight decay.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import Counter
from typing import Any

import torch

from ergometry.core.series import EQUILIBRIUM
from ergometry.integrations.physics.apart import apart
from ergometry.integrations.physics.blocks import (
    KEPT_BYTES,
    KEPT_SHARE,
    Blocks,
    Drawer,
    gradient,
    plain,
    theta,
    wide,
)
from ergometry.integrations.physics.tap import Cadence, Site, Tap, cadence_of

_SHARE, _FULL_SHARE = 0.003, 0.02


class Equilibrium(Tap):
    """Writes rows of ``EQUILIBRIUM``, of the optimizer that has most parameters."""

    name = "equilibrium"

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cadence: Cadence = cadence_of(site, _SHARE, _FULL_SHARE, ready_s=0.008)
        self._drawer = Drawer(0x0E4, KEPT_SHARE, KEPT_BYTES)
        self._optimizer: weakref.ref[Any] | None = None
        self._parameters = 0
        self._blocks: Blocks | None = None
        self._mean: torch.Tensor | None = None
        self._seen = 0
        self._settings = (math.nan, math.nan)
        self._before: tuple[torch.Tensor, torch.Tensor] | None = None  # θ and g of a step under way
        self._cost_s = 0.0
        self._rows = 0
        self._ineligible = ""
        self.lost: Counter[str] = Counter()
        """Why looks came to nothing, and how often."""

    def step_begin(self, step: int, step_s: float) -> None:
        """Look at this step."""
        self._before = None

    def optimizer_begin(self, optimizer: Any, *, closure: bool) -> None:
        """Copy θ and g before the step."""
        self._follow(optimizer)
        if not self._is_followed(optimizer):
            return
        if closure:
            self.lost["a closure evaluates its gradients at several parameters within one step"] += 1
            return
        began = time.perf_counter()
        with torch.no_grad(), apart():
            self._begin(optimizer)
        self._cost_s = time.perf_counter() - began

    def _follow(self, optimizer: Any) -> None:
        """Follow this optimizer from here on, if it has more parameters than the one before or that one is gone."""
        if self._is_followed(optimizer):
            return
        parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        gone = self._optimizer is None or self._optimizer() is None
        if gone or parameters > self._parameters:
            self._optimizer, self._parameters = weakref.ref(optimizer), parameters
            self._blocks = self._mean = None

    def _is_followed(self, optimizer: Any) -> bool:
        return self._optimizer is not None and self._optimizer() is optimizer

    def _begin(self, optimizer: Any) -> None:
        if self._blocks is None or not self._blocks.alive():
            self._blocks, self._mean = self._drawer.draw(plain([optimizer])), None
            if self._blocks is None:
                self.lost["no parameters that can be looked into (dense, real, not sharded over ranks)"] += 1
                return
        if any(p.grad is not None and p.grad.layout != torch.strided for p in self._blocks.tensors().values()):
            self.lost["a gradient is sparse"] += 1
            return
        settings, self._ineligible = _settings(optimizer)
        if settings != self._settings:
            # At another learning rate there is another stationary state, about another mean.
            self._settings, self._mean = settings, None
        decays = _coupled_decays(optimizer)
        scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer unscales within its step

        def used(i: int, p: torch.Tensor, at: slice) -> torch.Tensor:
            g, decay = gradient(i, p, at), decays.get(id(p), 0.0)
            if isinstance(scale, torch.Tensor):
                g = g.to(torch.promote_types(g.dtype, torch.float32)) / scale.to(g.device)
            return g + decay * theta(i, p, at) if decay and p.grad is not None else g

        self._before = self._blocks.gather(theta), self._blocks.gather(used)

    def optimizer_end(self, optimizer: Any, step: int) -> None:
        """Compare with θ after the step."""
        if self._before is None or not self._is_followed(optimizer):
            return
        began = time.perf_counter()
        with torch.no_grad(), apart():
            self._end(step, began)

    def _end(self, step: int, began: float) -> None:
        blocks, before, self._before = self._blocks, self._before, None
        assert blocks is not None and before is not None
        x, g = (wide(tensor) for tensor in before)
        moved = wide(blocks.gather(theta)) - x
        known = self._mean is not None
        around = x - wide(self._mean) if self._mean is not None else torch.zeros_like(x)
        sums = blocks.sums(torch.stack((x * g, moved * moved, around * g)))
        self._remember(before[0])
        momentum = self._settings[1]
        eligible = 0.0 if self._ineligible else 1.0
        self._cost_s += time.perf_counter() - began
        self.cadence.spent(self._cost_s)
        cost_s = self._cost_s

        def read(rows: list[list[float]]) -> None:
            theta_g, dtheta, virial = (blocks.total(row) for row in rows)
            if not all(math.isfinite(value) for value, _ in (theta_g, dtheta, virial)):
                self.lost["a gradient is not finite"] += 1
                return
            self._rows += 1
            size = (blocks.sampled, blocks.parameters)
            virial = virial if known else (math.nan, math.nan)
            self._site.emit(EQUILIBRIUM, step, *theta_g, *dtheta, *virial, momentum, eligible, *size, cost_s)

        self._site.pending.read(sums, read)

    def _remember(self, x: torch.Tensor) -> None:
        """Take θ into its mean, in float32 at least."""
        if self._mean is None:
            self._mean, self._seen = x.to(torch.promote_types(x.dtype, torch.float32), copy=True), 1
            return
        self._seen += 1
        self._mean.add_((x - self._mean) / self._seen)

    def skipped(self) -> None:
        """Drop the step: its gradients are not finite."""
        if self._before is not None:
            self.lost["a gradient is not finite"] += 1
            self._before = None

    def unwound(self) -> None:
        """Drop the step: the script's own code raised."""
        self._before = None

    def why(self) -> str:
        """Say what looks were lost, and why the relation is not stated of this optimizer."""
        reasons = [f"{why} ({n} times)" for why, n in self.lost.most_common()]
        if self._ineligible:
            reasons.append(self._ineligible)
        return "; ".join(reasons) or ("" if self._rows else "no optimizer step was seen")

    def stop(self) -> None:
        """Let go of the copies."""
        self._blocks = self._mean = self._before = None


def _settings(optimizer: Any) -> tuple[tuple[float, float], str]:
    """Return (η, μ) of all groups, as far as they are one and can be read, and why the relation is not stated."""
    groups = optimizer.param_groups
    settings = _common(groups, "lr"), _common(groups, "momentum")
    if type(optimizer) is not torch.optim.SGD:
        why = f"the relation is stated of plain SGD with momentum, and this is {type(optimizer).__name__}"
    elif any(group["dampening"] or group["nesterov"] or group["maximize"] for group in groups):
        why = "the relation is stated of SGD without dampening, Nesterov's momentum or maximize"
    elif any(math.isnan(x) for x in settings):
        why = "the relation needs one learning rate and momentum of all parameter groups, readable on the host"
    else:
        why = ""
    return settings, why


def _common(groups: list[dict[str, Any]], name: str) -> float:
    """Return a setting that all groups share; NaN where they do not, or where reading it would wait for a device."""
    values = {group.get(name, math.nan) for group in groups}
    if any(isinstance(x, torch.Tensor) and x.device.type != "cpu" for x in values):
        return math.nan
    try:
        numbers = {float(x) for x in values}
    except (TypeError, ValueError, RuntimeError):
        return math.nan
    return numbers.pop() if len(numbers) == 1 else math.nan


def _coupled_decays(optimizer: Any) -> dict[int, float]:
    """Return the weight decay of every parameter for which the optimizer adds decay·θ to the gradient."""
    kind = type(optimizer)
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):
        return {}
    groups = [group for group in optimizer.param_groups if not group.get("decoupled_weight_decay")]
    return {id(p): float(group.get("weight_decay", 0.0)) for group in groups for p in group["params"]}
