"""Where a landscape is looked at: parameters as one flat vector, gradients of a closure there, probes, checks.

Nothing here touches the caller's tensors: closures are given detached aliases of the parameters, gradients are
returned and never accumulated, and every random number comes from a generator of our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ergometry.core.errors import ErgError

Loss = Callable[[Sequence[Tensor]], Tensor]
"""A scalar loss of a list of parameters, computed from its argument alone, and equal each time that it is called."""

Outputs = Callable[[Sequence[Tensor]], Tensor]
"""Outputs (examples, …) of a list of parameters."""


class LandscapeError(ErgError):
    """A landscape cannot be looked at: of the parameters, the closure, or what it returned."""


@dataclass(frozen=True)
class Reading:
    """A number read from a landscape.

    Attributes:
        value: the number.
        stderr: its standard error, all known causes together; 0 where exact, NaN of a bound, which has none.
        method: how it was read, in words.
        why: what limited it or made it fall back, or an empty string.
        products: how many products with the operator it took.
    """

    value: float
    stderr: float
    method: str
    why: str = ""
    products: int = 0


@dataclass(frozen=True)
class Point:
    """Parameters θ (N): ``leaves`` are detached aliases that require grad, in the order given."""

    leaves: tuple[Tensor, ...]

    @classmethod
    def at(cls, parameters: Sequence[Tensor]) -> Point:
        """Return the point of a list of parameters, without copying them.

        Raises:
            LandscapeError: there are none, or some are frozen, not floating-point, made in inference mode, or not all
                on one device.
        """
        given = list(parameters)
        frozen = sum(not p.requires_grad for p in given)
        devices = sorted({str(p.device) for p in given})
        if not given or frozen:
            raise LandscapeError(
                expected="parameters that require grad",
                got=f"{frozen} of {len(given)} that do not" if given else "none",
                remedy="leave frozen ones out, or call requires_grad_() on them",
            )
        if any(p.is_inference() or not p.is_floating_point() for p in given):
            raise LandscapeError(
                expected="real floating-point parameters made outside torch.inference_mode",
                got=", ".join(sorted({f"{p.dtype}{' (inference)' if p.is_inference() else ''}" for p in given})),
                remedy="create the model outside inference_mode; curvature is of real parameters",
            )
        if len(devices) > 1:
            raise LandscapeError(
                expected="parameters on one device",
                got=", ".join(devices),
                remedy="look at the parameters of one device at a time",
            )
        return cls(tuple(p.detach().requires_grad_() for p in given))

    @property
    def size(self) -> int:
        """N, the number of parameters."""
        return sum(p.numel() for p in self.leaves)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of flat vectors: the widest of the parameters'."""
        widest = self.leaves[0].dtype
        for leaf in self.leaves[1:]:
            widest = torch.promote_types(widest, leaf.dtype)
        return widest

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.leaves[0].device

    @property
    def norm(self) -> float:
        """|θ|."""
        return math.sqrt(math.fsum(length(leaf.detach()) ** 2 for leaf in self.leaves))

    def flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Return tensors shaped like the parameters as one vector (N,); None is zero."""
        pairs = zip(tensors, self.leaves, strict=True)
        zero = ((torch.zeros_like(leaf) if t is None else t.detach()).reshape(-1) for t, leaf in pairs)
        return torch.cat([t.to(self.dtype) for t in zero])

    def shaped(self, vector: Tensor) -> list[Tensor]:
        """Return a vector (N,) as tensors shaped like the parameters."""
        parts = torch.split(vector, [leaf.numel() for leaf in self.leaves])
        return [part.view(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts, self.leaves, strict=True)]

    def moved(self, vector: Tensor, scale: float = 1.0) -> list[Tensor]:
        """Return θ + scale·v as new tensors that require grad."""
        steps = self.shaped(vector)
        return [
            torch.add(leaf.detach(), step, alpha=scale).requires_grad_()
            for leaf, step in zip(self.leaves, steps, strict=True)
        ]


@contextmanager
def differentiable() -> Iterator[None]:
    """Let gradients be taken, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def scalar(loss: Tensor) -> Tensor:
    """Return a loss that is fit to be differentiated.

    Raises:
        LandscapeError: it is not one finite number, or does not depend on the parameters given.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise LandscapeError(
            expected="a scalar loss", got=f"{shape}", remedy="reduce it: .mean() or .sum() over the examples"
        )
    if not bool(torch.isfinite(loss.detach()).all()):
        raise LandscapeError(
            expected="a finite loss",
            got=f"{float(loss.detach())}",
            remedy="leave this batch out, or look at earlier parameters",
        )
    return dependent(loss.reshape(()))


def dependent(output: Tensor) -> Tensor:
    """Return an output that has a gradient graph.

    Raises:
        LandscapeError: it has none.
    """
    if not output.requires_grad:
        raise LandscapeError(
            expected="a closure that computes from the parameters it is given",
            got="an output that does not depend on them",
            remedy="call the model through torch.func.functional_call with them",
        )
    return output


def gradient(loss: Loss, parameters: Sequence[Tensor], *, graph: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss and its gradient at a list of parameters, which stay as they are.

    Args:
        loss: the closure.
        parameters: leaves that require grad.
        graph: keep the graph, so that the gradient can be differentiated again.

    Raises:
        LandscapeError: as :func:`scalar`, or no parameter has a gradient.
    """
    with differentiable():
        value = scalar(loss(list(parameters)))
        parts = torch.autograd.grad(value, list(parameters), create_graph=graph, allow_unused=True)
    if all(part is None for part in parts):
        raise LandscapeError(
            expected="a loss that depends on the parameters it is given",
            got="one that depends on none of them",
            remedy="compute it from the closure's argument, through torch.func.functional_call",
        )
    return value, list(parts)


def pull(
    outputs: Sequence[Tensor], weights: Sequence[Tensor], inputs: Sequence[Tensor], *, graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Return the derivatives of Σ weights·outputs by the inputs, and keep the outputs' graph.

    As torch's ``grad_outputs`` would, but for what that costs when it is first used: a second of imports (sympy), in
    the user's process.
    """
    with differentiable():
        usable = (w.clone() if w.is_inference() else w for w in weights)
        total = torch.stack([(o * w).sum() for o, w in zip(outputs, usable, strict=True)]).sum()
        parts = torch.autograd.grad(total, list(inputs), retain_graph=True, create_graph=graph, allow_unused=True)
    return tuple(parts)


def finite(x: float, of: str) -> float:
    """Return a number, unless it is NaN or infinite.

    Raises:
        LandscapeError: it is.
    """
    if not math.isfinite(x):
        raise LandscapeError(
            expected=f"finite {of}",
            got=f"{x}",
            remedy="the loss overflows when differentiated here; use a wider dtype or another batch",
        )
    return x


def at_least_one(probes: int) -> None:
    """Refuse a mean over no probe."""
    if probes < 1:
        raise LandscapeError(
            expected="at least 1 probe", got=f"{probes}", remedy="leave probes out: there are ten then"
        )


def length(vector: Tensor) -> float:
    """Return |v|, summed in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def generator(seed: int) -> torch.Generator:
    """Return a random stream of our own, on the CPU, so that every device has the same probes.

    The seed is scattered over the 32 bits that torch's generator uses: under the small seed that a script is fond of,
    the probes would be the very numbers that its parameters or data were drawn from, and anything but independent.
    """
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + 0x85EBCA6B) & 0xFFFFFFFF)


def sphere(size: int, stream: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector (size,) drawn uniformly from the sphere of radius √size, so that E[zzᵀ] = I."""
    z = torch.randn(size, generator=stream, dtype=dtype if dtype == torch.float64 else torch.float32)
    return (z * (size**0.5 / z.norm())).to(device=device, dtype=dtype)


def signs(shape: Sequence[int], stream: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return independent signs ±1 (Rademacher) of this shape."""
    bits = torch.randint(0, 2, tuple(shape), generator=stream, dtype=torch.int8)
    return bits.mul_(2).sub_(1).to(device=device, dtype=dtype)
