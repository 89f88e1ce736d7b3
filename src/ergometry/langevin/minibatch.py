"""Minibatches in place of the whole data set: SGLD, for comparison. Nothing about it is certified.

The step goes down λ∇L_B(θ), B examples drawn with replacement by each replica for itself, plus the prior's pull. The
noise of that gradient has the covariance λ²Σ/B, and adds η²λ²Σ/B to that of the step, 2Tη·1. In the mean over
directions this is a temperature T + ηλ²·trΣ/(2BN); but it differs between directions and from place to place, and a
step back has another probability than the Gaussian of the path heat, so that no theorem of certified mode holds.
"""

from __future__ import annotations

import torch

from ergometry.core.errors import UsageError
from ergometry.langevin.networks import Network

DRAWS = 64
"""Examples that trΣ is estimated from, of every replica."""


class Minibatches:
    """The slope of minibatches of ``batch`` examples, λ∇L_B + Tθ/σ²."""

    def __init__(self, network: Network, stiffness: torch.Tensor, batch: int, generator: torch.Generator) -> None:
        """Draw with the ensemble's own generator; ``stiffness`` (N,) is T/σ²."""
        self.batch, self._network, self._stiffness, self._generator = batch, network, stiffness, generator
        lengths = {len(part) if part.dim() else 0 for part in network.data_sets[0]}
        self._examples = min(lengths)
        if batch < 1 or len(lengths) > 1 or not self._examples:
            raise UsageError(
                expected="a batch of one example or more, of tensors that all count the examples first",
                got=f"batch={batch}, lengths {sorted(lengths)}",
                remedy="leave batch= out: full-batch gradients are what can be certified",
            )

    def __call__(self, theta: torch.Tensor, control: float) -> torch.Tensor:
        """Return the slope (R, N), each replica's on examples of its own."""
        return control * self._gradient(theta, self.batch) + theta * self._stiffness

    def _gradient(self, theta: torch.Tensor, size: int) -> torch.Tensor:
        chosen = torch.randint(
            self._examples, (len(theta), size), generator=self._generator, device=self._generator.device
        )
        return self._network.on_examples(theta, chosen)[1]

    def noise_trace(self, theta: torch.Tensor) -> torch.Tensor:
        """Return (R,) trΣ of single examples' gradients of L at θ (R, N), each replica's unbiased, float64.

        The mean over examples is what the loss takes, so that a batch of one example has that example's loss.
        """
        mean, apart = torch.zeros_like(theta), theta.new_zeros(len(theta))
        for k in range(DRAWS):
            gradient = self._gradient(theta, 1)
            off = gradient - mean
            mean += off / (k + 1)
            apart += (off * (gradient - mean)).sum(1)
        return apart.cpu().double() / (DRAWS - 1)
