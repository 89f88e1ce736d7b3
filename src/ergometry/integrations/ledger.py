"""The ledger of gradient work: |g|², |Δθ|² and −g·Δθ of an optimizer's step, on sampled blocks or exactly.

g is the gradient of the loss, taken as its last backward ends: what the script then makes of it (clipping), and gives
to the optimizer, is another, ĝ, of which g·ĝ and |ĝ|² are kept.

Blocks of parameters are drawn with replacement, from a random stream of our own, half of them with probability
proportional to their size and half to the |g|² that their tensor last had: a head or a bias that holds most of the
gradient in few parameters is then not missed. The mean of (block sum / probability) is unbiased for the whole sum,
whatever the probabilities, and the spread of the draws gives its standard error (Hansen & Hurwitz 1943). At most 2 % of
the parameters (or 4 MiB, which no model notices) are copied. Nothing is read back from a device here: sums stay
tensors until :mod:`pending` finds them ready.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch

BLOCKS = 8
SHARE = 0.02
_FLOOR_BYTES = 4 << 20
_MAX_BLOCK = 1 << 17
_FREE_BYTES = 1 << 16
_READY_S = 2.5e-8
"""Seconds a byte that the first exact sums take, since their copies lie in memory that was never touched."""
_PLANS = 16

Block = tuple[int, int, int]  # tensor, first element, end


class Plan:
    """The blocks that the dense parameters of one optimizer can be drawn from, ``share`` of them at most."""

    def __init__(self, sizes: Sequence[int], share: float = SHARE) -> None:
        self.parameters = sum(sizes)
        block = min(max(int(share * self.parameters / BLOCKS), 1), _MAX_BLOCK)
        self._ends: list[int] = []
        self._block = block
        self._sizes = list(sizes)
        self._energies: list[float] = []
        self._energy_ends: list[float] = []
        end = 0
        for size in sizes:
            end += size
            self._ends.append(end)

    def weigh(self, energies: Sequence[float]) -> None:
        """Take the |g|² of each tensor: from here on half of the draws go by it."""
        known = len(energies) == len(self._sizes) and math.isfinite(math.fsum(energies)) and math.fsum(energies) > 0
        self._energies = list(energies) if known else []
        self._energy_ends = list(itertools.accumulate(self._energies))

    def draw(self, stream: random.Random) -> list[Block]:
        """Return ``BLOCKS`` blocks, drawn with replacement, each with its :meth:`probability`."""
        drawn = []
        for _ in range(BLOCKS):
            if self._energies and stream.random() < 0.5:
                i = bisect.bisect_right(self._energy_ends, stream.random() * self._energy_ends[-1])
                i = min(i, len(self._sizes) - 1)
                within = stream.randrange(self._sizes[i])
            else:
                element = stream.randrange(self.parameters)
                i = bisect.bisect_right(self._ends, element)
                within = element - (self._ends[i] - self._sizes[i])
            first = within - within % self._block
            drawn.append((i, first, min(first + self._block, self._sizes[i])))
        return drawn

    def probability(self, block: Block) -> float:
        """Return the probability that one draw is this block."""
        i, first, end = block
        by_size = (end - first) / self.parameters
        if not self._energies:
            return by_size
        by_energy = self._energies[i] / self._energy_ends[-1] * (end - first) / self._sizes[i]
        return 0.5 * (by_size + by_energy)


class Sample:
    """One optimizer step under way, on chosen blocks: what its backwards brought, and the parameters before it."""

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        blocks: Sequence[Block],
        total: int,
        *,
        exact: bool,
        probabilities: Sequence[float] = (),
    ) -> None:
        self.tensors, self.blocks, self.total, self.exact = tensors, blocks, total, exact
        self.probabilities = probabilities
        self.offered = len(tensors)
        """How many dense tensors the optimizer had, those that are not followed among them."""
        self.before: torch.Tensor | None = None
        """(sampled,) the parameters, once the step begins."""
        self.gradient: torch.Tensor | None = None
        """(sampled,) g as it was taken, times ``scale``."""
        self.scale: Any = None
        self.given: torch.Tensor | None = None
        """(2, blocks) g·ĝ and |ĝ|², with ĝ the gradient that the optimizer was given."""
        self.plan: Plan | None = None
        """To be told the |g|² of every tensor, when that is due."""
        self.squares: torch.Tensor | None = None
        """(tensors,) |g|² of each whole tensor, if it was due."""
        self.grad_sq: float | None = None
        """Its sum, once it has been read."""

    @property
    def sampled(self) -> int:
        """Return how many parameters are looked at."""
        return sum(b - a for _, a, b in self.blocks)

    def _theta(self) -> torch.Tensor:
        return torch.cat([self.tensors[i].detach().reshape(-1)[a:b] for i, a, b in self.blocks])

    def _gradients(self) -> torch.Tensor:
        parts = []
        for i, a, b in self.blocks:
            p, gradient = self.tensors[i], self.tensors[i].grad
            if gradient is None or gradient.layout != torch.strided:
                parts.append(torch.zeros_like(p.detach().reshape(-1)[a:b]))
            else:
                parts.append(gradient.detach().reshape(-1)[a:b])
        return torch.cat(parts)

    @property
    def _wide(self) -> torch.dtype:
        return torch.float32 if self.tensors[0].device.type == "mps" else torch.float64

    def _unscaled(self, gradient: torch.Tensor, scale: Any) -> torch.Tensor:
        g = gradient.to(self._wide)
        return g / scale.to(g.device, g.dtype) if isinstance(scale, torch.Tensor) else g

    def take_parameters(self) -> None:
        """Copy the parameters of the blocks."""
        self.before = self._theta()

    def take_gradient(self, scale: Any = None) -> None:
        """Copy the gradients of the blocks, which are ``scale`` (None: 1) times those of the loss."""
        self.gradient, self.scale = self._gradients(), scale
        if self.plan is not None:
            self.squares = self._squares()

    def compare(self, scale: Any = None) -> None:
        """See what has become of the gradient since it was taken: the optimizer is given it times ``scale``."""
        assert self.gradient is not None
        g, given = self._unscaled(self.gradient, self.scale), self._unscaled(self._gradients(), scale)
        self.given = self._sums((g * given, given * given))

    def _squares(self) -> torch.Tensor:
        """Return (tensors,) |g|² of each whole tensor, float64: a pass over the gradients, and no copy of them."""
        gradients = [(i, p.grad.detach()) for i, p in enumerate(self.tensors) if p.grad is not None]
        found = [(i, g) for i, g in gradients if g.layout == torch.strided]
        squares = torch.zeros(len(self.tensors), dtype=torch.float64)
        if not found:
            return squares
        # In float32 at least: the squares of half-precision numbers overflow.
        norms = torch.stack(
            [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)).double() for _, g in found]
        )
        squares = squares.to(norms.device)
        squares[torch.tensor([i for i, _ in found])] = self._unscaled(norms, self.scale) ** 2
        return squares

    def sums(self) -> torch.Tensor:
        """Return (5, blocks) of |g|², |Δθ|², −g·Δθ, g·ĝ, |ĝ|² per block, in float64 (float32 where there is no other).

        The last two are NaN where the gradient was not compared.
        """
        assert self.gradient is not None and self.before is not None
        g = self._unscaled(self.gradient, self.scale)
        after, before = self._theta(), self.before
        if before.element_size() < 4:  # the difference of two half-precision numbers is rarely one
            after, before = after.to(g.dtype), before.to(g.dtype)
        d = (after - before).to(g.dtype)
        sums = self._sums((g * g, d * d, -g * d))
        given = torch.full_like(sums[:2], math.nan) if self.given is None else self.given
        return torch.cat((sums, given))

    def _sums(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        products = torch.stack(tuple(rows))
        if self.exact:
            return products.sum(1, keepdim=True)
        lengths = [b - a for _, a, b in self.blocks]
        if len(set(lengths)) == 1:
            return products.reshape(len(rows), len(lengths), -1).sum(2)
        return torch.stack([part.sum(1) for part in products.split(lengths, 1)], 1)


def estimates(
    sums: Sequence[Sequence[float]],
    blocks: Sequence[Block],
    total: int,
    *,
    exact: bool,
    probabilities: Sequence[float] = (),
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Return (value, standard error) of |g|², |Δθ|², −g·Δθ and |g||Δθ| from the blocks' sums.

    Exact sums have no sampling error. Without ``probabilities`` the blocks' are proportional to
    size. The product's error follows from the two factors' by the delta method, with
    their covariance over blocks.
    """
    if exact:
        g2, d2, work = (row[0] for row in sums)
        return (g2, 0.0), (d2, 0.0), (work, 0.0), (math.sqrt(max(g2 * d2, 0.0)), 0.0)
    n = len(blocks)
    weights = [1.0 / p for p in probabilities] or [total / (b - a) for _, a, b in blocks]
    draws = [[x * w for x, w in zip(row, weights, strict=True)] for row in sums]
    means = [math.fsum(row) / n for row in draws]

    def covariance(i: int, j: int) -> float:
        pairs = zip(draws[i], draws[j], strict=True)
        return math.fsum((x - means[i]) * (y - means[j]) for x, y in pairs) / (n - 1) / n

    errors = [math.sqrt(max(covariance(i, i), 0.0)) for i in range(3)]
    path = math.sqrt(max(means[0] * means[1], 0.0))
    path_error = 0.0
    if path > 0:
        a, b = 0.5 * path / means[0], 0.5 * path / means[1]
        variance = a * a * covariance(0, 0) + b * b * covariance(1, 1) + 2 * a * b * covariance(0, 1)
        path_error = math.sqrt(max(variance, 0.0))
    return (means[0], errors[0]), (means[1], errors[1]), (means[2], errors[2]), (path, path_error)


class SparseSample:
    """The rows that a sparse gradient touches: their |g|² is exact, and so is −g·Δθ, which has no other terms.

    |Δθ|² counts the touched rows alone, which is all of it for optimizers of sparse gradients. The gradient is that
    which the optimizer was given, ``scale`` times the loss's.
    """

    def __init__(self, tensor: torch.Tensor, scale: Any = None) -> None:
        assert tensor.grad is not None
        self.tensor, self.scale = tensor, scale
        gradient = tensor.grad.detach().coalesce()
        self.rows, self.gradient = gradient.indices(), gradient.values()
        self.before = self._theta()

    def _theta(self) -> torch.Tensor:
        return self.tensor.detach()[tuple(self.rows)]

    def sums(self) -> torch.Tensor:
        """Return (5, 1) of |g|², |Δθ|², −g·Δθ, and twice NaN: it was not compared."""
        g = self.gradient.double()
        if isinstance(self.scale, torch.Tensor):
            g = g / self.scale.to(g.device, g.dtype)
        d = self._theta().double() - self.before.double()
        none = torch.full_like((g * g).sum(), math.nan)
        return torch.stack(((g * g).sum(), (d * d).sum(), -(g * d).sum(), none, none)).reshape(5, 1)


class Allowance:
    """A share of the step time that may be spent: saved up step by step, so that a dear thing is done seldom."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._credit_s = 0.0
        self._cost_s = 0.0
        self._uses = 0

    def due(self, step_s: float) -> bool:
        """Take the share of another step, and say whether what it costs has been saved up. The first is free."""
        self._credit_s = min(self._credit_s + self.share * step_s, 2 * self._cost_s)
        return self._credit_s >= self._cost_s

    def spent(self, seconds: float) -> None:
        """Pay for one use."""
        self._uses += 1
        if self._uses == 1:
            return  # it warmed up caches: no measure of what the next will cost
        self._cost_s = seconds if self._uses == 2 else 0.7 * self._cost_s + 0.3 * seconds
        self._credit_s -= seconds


class Ledger:
    """Follows the optimizers' steps, as often as its share of the step time allows."""

    def __init__(self, share: float = 0.003) -> None:
        self._stream = random.Random(0x5EED)
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._sampled, self._exact = Allowance(share / 2), Allowance(share / 2)
        self._payer = self._exact
        self._saved_s = self._ready_s = 0.0
        self.left_out = 0
        """Parameters that are not followed, being complex or on another device than most."""

    def due(self, step_s: float) -> bool:
        """Say whether to follow this optimizer step, when steps take ``step_s``."""
        self._saved_s += self._exact.share * step_s
        sampled, exact = self._sampled.due(step_s), self._exact.due(step_s) and self._saved_s >= self._ready_s
        self._payer = self._exact if exact else self._sampled
        return sampled or exact

    def spent(self, seconds: float) -> None:
        """Take note of what following one step took."""
        # Where there is too much for the exact sums, what was saved up for them pays for more samples.
        self._payer.spent(seconds)

    def sample(self, groups: Iterable[dict[str, Any]]) -> Sample | None:
        """Return the dense parameters of an optimizer with the blocks drawn of them; None where it has none."""
        # A closure makes the gradients later: a parameter without one may still have it then.
        dense = [p for group in groups for p in group["params"] if p.requires_grad and not is_sparse(p)]
        if not dense:
            return None
        offered, kinds = len(dense), {(p.device, p.is_complex()) for p in dense}
        if len(kinds) > 1 or any(is_complex for _, is_complex in kinds):
            dense = self._commonest(dense)
        # By sizes, not by identities: those come again in other models, and a parameter's size may change.
        sizes = tuple(p.numel() for p in dense)
        if not sum(sizes):
            return None
        plan = self._plans.get(sizes)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[sizes] = Plan(sizes)
        size = plan.parameters * max(p.element_size() for p in dense)
        small = size <= _FLOOR_BYTES
        # The first exact sums are saved up for like all others, but of models that are next to nothing.
        self._ready_s = _READY_S * size if small and size > _FREE_BYTES else 0.0
        if self._saved_s < self._ready_s:
            self._payer = self._sampled
        exact = small and self._payer is self._exact
        blocks = [(i, 0, size) for i, size in enumerate(sizes)] if exact else plan.draw(self._stream)
        probabilities = [] if exact else [plan.probability(block) for block in blocks]
        sample = Sample(dense, blocks, plan.parameters, exact=exact, probabilities=probabilities)
        sample.offered = offered
        if self._payer is self._exact:
            sample.plan = plan  # what was saved up pays for looking at every tensor's gradient
        return sample

    def _commonest(self, dense: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the real parameters of the device that holds most: those of two cannot be put together."""
        devices: dict[torch.device, list[torch.Tensor]] = {}
        for p in dense:
            if not p.is_complex():
                devices.setdefault(p.device, []).append(p)
        largest = max(devices.values(), key=lambda tensors: sum(p.numel() for p in tensors), default=[])
        self.left_out = max(self.left_out, sum(p.numel() for p in dense) - sum(p.numel() for p in largest))
        return largest


def is_sparse(p: torch.Tensor) -> bool:
    """Say whether a parameter's gradient is sparse."""
    return p.grad is not None and p.grad.layout != torch.strided
