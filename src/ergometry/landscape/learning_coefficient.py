"""Local learning coefficient (E7 iii): how the volume of nearly as good parameters shrinks, by Langevin sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ergometry.landscape.point import LandscapeError, Loss, Point, Reading, generator, gradient
from ergometry.landscape.trace import few


@dataclass(frozen=True)
class Sampler:
    """How to sample.

    Attributes:
        step: ε > 0; a chain is stable below 4/(nβ·λ_max + γ).
        localisation: γ ≥ 0.
        burn_in: steps of each chain that do not count.
        draws: steps of each chain that do.
        chains: independent chains, at least 2.
    """

    step: float
    localisation: float
    burn_in: int = 200
    draws: int = 800
    chains: int = 4

    @property
    def fits(self) -> bool:
        """Whether all of it is in range."""
        return self.step > 0 and self.localisation >= 0 and self.chains > 1 and self.burn_in >= 0 and self.draws > 0


def learning_coefficient(
    losses: Sequence[Loss],
    parameters: Sequence[Tensor],
    *,
    examples: int,
    sampler: Sampler,
    inverse_temperature: float | None = None,
    seed: int = 0,
) -> Reading:
    """Local learning coefficient λ̂ = nβ·(E[L(w)] − L(w*)), nat per ln n, at parameters w*.

    Stochastic gradient Langevin dynamics samples w ∝ exp(−nβL(w) − ½γ|w−w*|²) on copies of the parameters,

        w ← w − ½ε·[nβ∇L_b(w) + γ(w − w*)] + √ε ξ,      β = 1/ln n unless given,

    and L_b(w) − L_b(w*) of the batch at hand is averaged after the burn-in. Where L is quadratic with curvatures h,
    E is exactly ½ Σ nβh/[(nβh + γ)(1 − ¼ε(nβh + γ))]: d/2 with γ → 0 and ε → 0. So a finite localisation lowers
    λ̂ (a direction with nβh ≪ γ counts for nothing), a finite step raises it, minibatch noise too. A singular
    minimum has less than d/2: w⁴ has ¼.

    The error is the chains' scatter, widened to what Student's t has at 90 % with so few. It does not hold what a
    step, a localisation or a burn-in of another length would change: repeat with half the step.

    Args:
        losses: closures, list of parameters to the mean loss of one batch, in nat; one is drawn each step.
        parameters: w*, a (near) minimum of L; they are copied, and left as they are.
        examples: n, at least 2.
        sampler: ε, γ and the chains.
        inverse_temperature: β.
        seed: of the noise and of the batches drawn.

    Raises:
        LandscapeError: an argument is out of range, or a chain left every bound.

    Source: Lau, Furman, Wang, Murfet & Wei 2023 (arXiv 2308.12108); Watanabe 2013 for β; Welling & Teh 2011.
    """
    beta = 1.0 / math.log(max(examples, 2)) if inverse_temperature is None else inverse_temperature
    if not losses or examples < 2 or not beta > 0 or not sampler.fits:
        raise LandscapeError(
            expected="losses, examples ≥ 2, β > 0, step > 0, localisation ≥ 0, chains ≥ 2, burn_in ≥ 0, draws ≥ 1",
            got=f"{len(losses)} losses, {examples} examples, β {beta}, {sampler}",
            remedy="start with step 1/(nβ·λ_max) and localisation 1",
        )
    point, stream, strength = Point.at(parameters), generator(seed), examples * beta
    chain = _Chain(losses, [float(gradient(loss, point.leaves)[0].detach()) for loss in losses], point, strength)
    found = [strength * chain.mean_rise(sampler, stream) for _ in range(sampler.chains)]
    chains = sampler.chains
    value = math.fsum(found) / chains
    scatter = math.sqrt(math.fsum((x - value) ** 2 for x in found) / (chains - 1) / chains) * few(chains)
    settings = f"step {sampler.step:.3g}, localisation {sampler.localisation:.3g}"
    method = f"SGLD, {chains} chains of {sampler.draws} draws, {settings}"
    why = "" if value >= 0 else "negative: w* is no minimum of the loss, and the chains found lower ones"
    return Reading(value, scatter, method, why, chains * (sampler.burn_in + sampler.draws))


@dataclass(frozen=True)
class _Chain:
    losses: Sequence[Loss]
    reference: Sequence[float]
    origin: Point
    strength: float

    def mean_rise(self, sampler: Sampler, stream: torch.Generator) -> float:
        """Return the mean of L_b(w) − L_b(w*) over the draws of one chain from w*."""
        step, localisation = sampler.step, sampler.localisation
        burn_in, draws = sampler.burn_in, sampler.draws
        start = [leaf.detach() for leaf in self.origin.leaves]
        w, total = [leaf.clone().requires_grad_() for leaf in start], 0.0
        for k in range(burn_in + draws + 1):
            b = int(torch.randint(len(self.losses), (), generator=stream)) if len(self.losses) > 1 else 0
            try:
                value, parts = gradient(self.losses[b], w)
            except LandscapeError as error:
                raise LandscapeError(
                    expected=f"a chain that stays finite for {burn_in + draws} steps",
                    got=f"{error.got} after {k}",
                    remedy=f"use a smaller step than {step:.3g}, or a stronger localisation than {localisation:.3g}",
                ) from error
            total += float(value.detach()) - self.reference[b] if k > burn_in else 0.0
            with torch.inference_mode(False), torch.no_grad():
                for x, centre, part in zip(w, start, parts, strict=True):
                    drift = localisation * (x - centre)
                    if part is not None:
                        drift += self.strength * part
                    noise = torch.randn(x.shape, generator=stream, dtype=torch.float64).to(x.device, x.dtype)
                    x.add_(drift, alpha=-0.5 * step).add_(noise, alpha=step**0.5)
        return total / draws
