"""The sampler: replicas in a potential that a protocol changes, with work and heat along every path.

One step at control λ is θ' = θ − η∇U_λ(θ) + √(2Tη)·ξ (Euler–Maruyama; friction 1, so η is both the learning rate and
the time step). Its kernel K is Gaussian and known, so that the log ratio of a path's probability and that of its
reversal is known too, whatever η:

    T·ln K(θ'|θ)/K(θ|θ') = −½(g+g')·Δθ + (η/4)(|g'|² − |g|²),   g = ∇U_λ(θ), g' = ∇U_λ(θ'), Δθ = θ' − θ.

That is the *path heat*. Its first term is Sekimoto's heat by the midpoint rule; the second vanishes with η. With the
path heat for Q and ΔU + Q for the work, ⟨e^{−(W−ΔF)/T}⟩ = 1, Crooks' relation and ΔS_tot ≥ 0 are theorems of the chain
as it runs, not of its limit. What it differs by from U(θ) − U(θ') is the shadow work (Sivak, Chodera & Crooks 2013),
the discretisation's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ergometry.core.errors import ErgError

Local: TypeAlias = Callable[[float], tuple[torch.Tensor, torch.Tensor]]
"""Control λ -> energy (R,) and gradient (R, N) at the points where it was made."""

Potential: TypeAlias = Callable[[torch.Tensor], Local]
"""Points (R, N) -> what they need for any λ, evaluated once."""

Slope: TypeAlias = Callable[[torch.Tensor, float], torch.Tensor]
"""Points (R, N) and control λ -> a gradient (R, N) that need not be the potential's."""

_CHECK_EVERY = 64


class Diverged(ErgError):
    """The motion left every bound: an energy or a gradient became NaN or infinite."""


@dataclass(frozen=True)
class Paths:
    """What each of R paths did. Sums are float64 (float32 on devices that have no other).

    Attributes:
        start: (R, N), θ_0.
        end: (R, N), θ_K.
        work: (R,), work of the protocol Σ U_{λ'}(θ) − U_λ(θ) at the switches, loss.
        heat: (R,), path heat to the bath, loss.
        midpoint_heat: (R,), its first term, −Σ½(g+g')·Δθ.
        delta_u: (R,), U_{λ_K}(θ_K) − U_{λ_0}(θ_0).
        drift: (R, N), −ηΣ½(g+g'), the displacement without the noise.
        time: η·K.
    """

    start: torch.Tensor
    end: torch.Tensor
    work: torch.Tensor
    heat: torch.Tensor
    midpoint_heat: torch.Tensor
    delta_u: torch.Tensor
    drift: torch.Tensor
    time: float

    @property
    def path_work(self) -> torch.Tensor:
        """ΔU + path heat (R,): the work that obeys Jarzynski and Crooks at any step."""
        return self.delta_u + self.heat

    @property
    def shadow_work(self) -> torch.Tensor:
        """Path heat less W − ΔU (R,): the discretisation's own work, 0 as η → 0."""
        return self.heat - (self.work - self.delta_u)


def drive(  # noqa: PLR0913 - what defines a motion, most by keyword
    potential: Potential,
    start: torch.Tensor,
    controls: Sequence[float],
    *,
    ends: tuple[float, float],
    learning_rate: float,
    temperature: float,
    generator: torch.Generator,
    slope: Slope | None = None,
) -> Paths:
    """Return the paths of replicas that relax one step at each control, and are switched in between.

    Args:
        potential: U, shared by the replicas or one for each.
        start: (R, N), θ_0.
        controls: λ of each of the K steps.
        ends: λ before the first and after the last step: a reversed protocol relaxes first and switches after.
        learning_rate: η > 0.
        temperature: T ≥ 0, loss per nat.
        generator: draws the noise, on the device of ``start``.
        slope: what the replicas go down, an unbiased estimate of ∇U_λ (of minibatches); None: ∇U_λ itself. With it
            work, ΔU and midpoint heat still close as the first law has it, and nothing else said above holds.

    Raises:
        Diverged: an energy became NaN or infinite; take a smaller learning rate.
    """
    noise = math.sqrt(2.0 * temperature * learning_rate)
    theta, local = start, potential(start)
    u = local(ends[0])[0]
    wide = torch.float32 if start.device.type == "mps" else torch.float64
    first = u.to(wide)
    work, mid, correction = torch.zeros_like(first), torch.zeros_like(first), torch.zeros_like(first)
    drift = torch.zeros_like(start)
    for k, control in enumerate(controls):
        switched, g = local(control)
        work += switched.to(wide) - u.to(wide)
        step = torch.randn(start.shape, generator=generator, device=start.device, dtype=start.dtype)
        step = step.mul_(noise).sub_(g if slope is None else slope(theta, control), alpha=learning_rate)
        theta = theta + step
        local = potential(theta)
        u, later = local(control)
        force = g + later
        mid -= 0.5 * (force * step).sum(1).to(wide)
        correction += (0.25 * learning_rate) * ((later - g) * force).sum(1).to(wide)
        drift.sub_(force, alpha=0.5 * learning_rate)
        if k % _CHECK_EVERY == 0 or k == len(controls) - 1:
            _refuse_divergence(u, k, learning_rate)
    last = local(ends[1])[0].to(wide)
    work += last - u.to(wide)
    return Paths(start, theta, work, mid + correction, mid, last - first, drift, learning_rate * len(controls))


def _refuse_divergence(u: torch.Tensor, k: int, learning_rate: float) -> None:
    lost = int((~torch.isfinite(u)).sum())
    if lost:
        raise Diverged(
            expected="finite losses",
            got=f"NaN or infinity in {lost} of {len(u)} replicas by step {k + 1}",
            remedy=f"take a learning rate below {learning_rate:g}, or a smaller prior_std, or look for NaN in the data",
        )


def moving_trap(targets: torch.Tensor, stiffness: float = 1.0) -> Potential:
    """Return ½k|θ − λθ*|², a trap of each replica's own that goes from 0 (λ = 0) to θ* (λ = 1).

    Args:
        targets: (R, N), θ*.
        stiffness: k.
    """

    def at(theta: torch.Tensor) -> Local:
        def local(control: float) -> tuple[torch.Tensor, torch.Tensor]:
            lag = theta - control * targets
            return 0.5 * stiffness * (lag * lag).sum(1), stiffness * lag

        return local

    return at


def linear_force(drift: torch.Tensor) -> Potential:
    """Return the force −Aθ as a field without energy: a non-symmetric A rotates, and no potential makes it.

    The heat along its paths is ∫F∘dθ, and over T it is the entropy given to the bath. For a noise 2D other than 2T·1
    move to D^{−1/2}θ, where A becomes D^{−1/2}AD^{1/2} and T is 1.

    Args:
        drift: (N, N), A.
    """

    def at(theta: torch.Tensor) -> Local:
        gradient = theta @ drift.T
        return lambda _control: (theta.new_zeros(len(theta)), gradient)

    return at
