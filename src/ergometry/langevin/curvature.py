"""Curvature of a potential: how steep it is at most, and whether the loss is a parabola."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ergometry.langevin.networks import Network
from ergometry.langevin.sampler import Potential


def steepest_curvature(potential: Potential, theta: torch.Tensor, control: float) -> float:
    """Largest curvature |λ| of the potential over the replicas, 1/time, by power iteration on each.

    Hessian-vector products are central differences of gradients, so that no double backward is needed. Power iteration
    approaches the largest curvature from below: at 20 products it is within a few per cent unless many lie close to it.
    """
    generator = torch.Generator(device=theta.device).manual_seed(0)
    v = torch.randn(theta.shape, generator=generator, device=theta.device, dtype=theta.dtype)
    eps = torch.finfo(theta.dtype).eps ** (1.0 / 3.0)
    size = theta.norm(dim=1, keepdim=True).clamp_min(1.0)
    largest = theta.new_zeros(len(theta))
    for _ in range(20):
        v = v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(theta.dtype).tiny)
        h = eps * size
        v = (potential(theta + h * v)(control)[1] - potential(theta - h * v)(control)[1]) / (2.0 * h)
        largest = v.norm(dim=1)
    return float(largest.max())


@dataclass(frozen=True)
class Parabola:
    """The loss of each data set where it is exactly quadratic, L = ½θᵀAθ − bᵀθ + c; float64 on the CPU.

    Attributes:
        hessian: (G, N, N), A.
        linear: (G, N), b.
        constant: (G,), c.
    """

    hessian: torch.Tensor
    linear: torch.Tensor
    constant: torch.Tensor


def parabola(network: Network, scale: torch.Tensor, most: int = 128) -> Parabola | None:
    """Return the loss as a quadratic form if it is one, else None: its gradient is affine on random points.

    The points are drawn from the prior, and from one a hundred times as wide: what looks straight near the start need
    not be so where training ends.

    Args:
        network: the loss; with at most ``most`` parameters, since N + 3 gradients are taken of each data set.
        scale: (N,), the size of the weights.
        most: the largest N that is tried.
    """
    n = len(scale)
    if n > most:
        return None
    generator = torch.Generator(device=scale.device).manual_seed(1)
    draws = torch.randn((2, n), generator=generator, device=scale.device, dtype=scale.dtype) * scale
    draws[1] *= 100.0
    probes = torch.cat((torch.zeros_like(draws[:1]), torch.diag(scale), draws))
    found = [network.at(point) for point in probes]
    values = torch.stack([losses for losses, _ in found], 1).cpu().double()
    slopes = torch.stack([gradients for _, gradients in found], 1).cpu().double()
    width, points = scale.cpu().double(), draws.cpu().double()
    linear = -slopes[:, 0]
    hessian = (slopes[:, 1 : n + 1] + linear[:, None]) / width[:, None]
    expected = points @ hessian - linear[:, None]
    tolerance = 1e-9 if scale.dtype == torch.float64 else 1e-4
    near = slopes[:, n + 1 :].abs().amax(2) + linear.abs().amax(1, keepdim=True)
    off = (slopes[:, n + 1 :] - expected).abs().amax(2)
    if not bool(torch.all(off <= tolerance * near)):
        return None
    return Parabola(0.5 * (hessian + hessian.mT), linear, values[:, 0])
