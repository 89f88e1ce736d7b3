"""A user's network as a potential: many replicas of its weights at once, each with its own data set where asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call, grad_and_value, vmap

from ergometry.core.errors import UsageError
from ergometry.langevin.sampler import Local

Batch = tuple[torch.Tensor, ...]
Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """How the trainable parameters of a model lie in one vector of N numbers."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, model: torch.nn.Module) -> Layout:
        """Return the layout of the parameters that require a gradient.

        Raises:
            UsageError: there are none, or they are of several devices or dtypes, or of half precision.
        """
        found = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        kinds = {(p.device, p.dtype) for _, p in found}
        if len(kinds) != 1 or next(iter(kinds))[1] not in (torch.float32, torch.float64):
            got = ", ".join(sorted(f"{dtype} on {device}" for device, dtype in kinds)) or "none"
            raise UsageError(
                expected="trainable parameters, all float32 or all float64, on one device",
                got=got,
                remedy="move or convert the model, as by model.double()",
            )
        device, dtype = kinds.pop()
        return cls(tuple(name for name, _ in found), tuple(p.shape for _, p in found), device, dtype)

    @property
    def sizes(self) -> list[int]:
        """Numbers in each parameter."""
        return [shape.numel() for shape in self.shapes]

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parameters that a vector (N,) holds, as views of it."""
        parts = flat.split(self.sizes)
        return {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def spread(self, std: float | Mapping[str, float]) -> torch.Tensor:
        """Return the standard deviation of each of the N numbers, from one for all or one by parameter's name.

        Raises:
            UsageError: a parameter has none, or one that is not positive.
        """
        by_name = std if isinstance(std, Mapping) else dict.fromkeys(self.names, std)
        wrong = [name for name in self.names if not 0.0 < by_name.get(name, 0.0) < float("inf")]
        if wrong:
            raise UsageError(
                expected="a positive prior_std for every trainable parameter",
                got=f"{by_name.get(wrong[0], 'none')} for {wrong[0]}",
                remedy="give one number, or a mapping from each parameter's name",
            )
        parts = [
            torch.full((size,), float(by_name[name]), dtype=self.dtype, device=self.device)
            for name, size in zip(self.names, self.sizes, strict=True)
        ]
        return torch.cat(parts)


class Network:
    """Mean loss of replicas of a model, and its gradient; ``batched`` says whether they run as one (else in a loop).

    The model is copied and put in evaluation mode: a potential is one function, without dropout or running statistics.
    """

    def __init__(self, model: torch.nn.Module, loss: Loss, data_sets: Sequence[Batch], replicas: int) -> None:
        """Take G data sets of equal shapes, and R replicas that stand data set by data set."""
        self.layout = Layout.of(model)
        self._model = copy.deepcopy(model).eval()
        self._loss = loss
        self.data_sets = [tuple(part.to(self.layout.device) for part in batch) for batch in data_sets]
        self.replicas = replicas
        self.batched = True
        self._stacked: Batch | None = None
        self._repeated: Batch | None = None
        self._check_loss()

    def _value(self, flat: torch.Tensor, *batch: torch.Tensor) -> torch.Tensor:
        inputs, *rest = batch
        return self._loss(functional_call(self._model, self.layout.named(flat), (inputs,)), *rest)

    def _check_loss(self) -> None:
        flat = torch.cat([p.detach().reshape(-1) for p in self._model.parameters() if p.requires_grad])
        with torch.no_grad(), own_streams(self.layout.device):
            values = [self._value(flat, *self.data_sets[0]) for _ in range(2)]
        one = values[0]
        if not isinstance(one, torch.Tensor) or one.dim() != 0:
            shape = tuple(one.shape) if isinstance(one, torch.Tensor) else type(one).__name__
            raise UsageError(
                expected="a scalar loss", got=f"{shape}", remedy="return the mean over examples, as reduction='mean'"
            )
        if not bool(torch.isfinite(one)):
            raise UsageError(
                expected="a finite loss at the model's weights",
                got=f"{float(one)}",
                remedy="look for NaN or infinity in the data and the weights",
            )
        if not torch.equal(*values):
            raise UsageError(
                expected="the same loss each time, on the same weights and data",
                got=f"{float(values[0])} and {float(values[1])}",
                remedy="take out what is random in the forward pass (functional dropout, sampling)",
            )

    def losses_and_gradients(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss (R,) of each replica (R, N) on its own data set, and its gradient (R, N)."""
        if self.batched:
            try:
                return self._together(theta)
            except (RuntimeError, NotImplementedError):  # what vmap cannot do, the loop can, or says why
                self.batched = False
        per = self.replicas // len(self.data_sets)
        return self._one_by_one(theta, [r // per for r in range(len(theta))])

    def on(self, data_set: int, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss (P,) and gradient (P, N) of any points (P, N) on one data set."""
        if self.batched:
            try:
                return self._shared(theta, self.data_sets[data_set])
            except (RuntimeError, NotImplementedError):
                self.batched = False
        return self._one_by_one(theta, [data_set] * len(theta))

    def _together(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.data_sets) == 1:
            return self._shared(theta, self.data_sets[0])
        if self._repeated is None:
            per = self.replicas // len(self.data_sets)
            self._repeated = tuple(part.repeat_interleave(per, 0) if per > 1 else part for part in self._stack())
        gradients, losses = vmap(grad_and_value(self._value))(theta, *self._repeated)
        return losses.detach(), gradients.detach()

    def _stack(self) -> Batch:
        if self._stacked is None:
            self._stacked = tuple(torch.stack(part) for part in zip(*self.data_sets, strict=True))
        return self._stacked

    def on_examples(self, theta: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss (R,) and gradient (R, N) of each replica on examples (R, B) of its own data set, by number."""
        per = self.replicas // len(self.data_sets)
        own = torch.arange(len(theta), device=chosen.device)[:, None] // per
        batch = tuple(part[own, chosen] for part in self._stack())
        if self.batched:
            try:
                gradients, losses = vmap(grad_and_value(self._value))(theta, *batch)
                return losses.detach(), gradients.detach()
            except (RuntimeError, NotImplementedError):
                self.batched = False
        return self._one_by_one(theta, range(len(theta)), list(zip(*batch, strict=True)))

    def at(self, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss (G,) and gradient (G, N) of one point (N,) on every data set."""
        points = point.expand(len(self.data_sets), -1)
        if self.batched:
            try:
                gradients, losses = vmap(grad_and_value(self._value))(points, *self._stack())
                return losses.detach(), gradients.detach()
            except (RuntimeError, NotImplementedError):
                self.batched = False
        return self._one_by_one(points, range(len(self.data_sets)))

    def _shared(self, theta: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        gradients, losses = vmap(grad_and_value(self._value), (0, *(None for _ in batch)))(theta, *batch)
        return losses.detach(), gradients.detach()

    def _one_by_one(
        self, theta: torch.Tensor, which: Sequence[int], batches: Sequence[Batch] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses and gradients of points, each on one of ``batches`` (None: of the data sets)."""
        batches = self.data_sets if batches is None else batches
        losses, gradients = [], []
        for flat, number in zip(theta, which, strict=True):
            with torch.enable_grad():
                point = flat.detach().clone().requires_grad_()
                loss = self._value(point, *batches[number])
                (gradient,) = torch.autograd.grad(loss, point)
            losses.append(loss.detach())
            gradients.append(gradient)
        return torch.stack(losses), torch.stack(gradients)

    def crossed(self, theta: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
        """Return the losses (c, m, c) of the m replicas of each of c chosen data sets on each of those data sets."""
        per = self.replicas // len(self.data_sets)
        mine = torch.cat([theta[g * per : (g + 1) * per] for g in chosen])
        columns = [self.on(g, mine)[0] for g in chosen]
        return torch.stack(columns, 1).reshape(len(chosen), per, len(chosen))


class LossPotential:
    """U_λ(θ) = λL(θ; D) + Σ Tθ_i²/(2σ_i²): the loss, switched by λ, and the prior, the Boltzmann state at λ = 0."""

    def __init__(self, network: Network, stiffness: torch.Tensor) -> None:
        """Take T/σ² of each of the N numbers."""
        self.network, self.stiffness = network, stiffness

    def __call__(self, theta: torch.Tensor) -> Local:
        """Evaluate loss and gradient once at θ (R, N), for any λ."""
        losses, gradients = self.network.losses_and_gradients(theta)
        pull = theta * self.stiffness
        prior = 0.5 * (pull * theta).sum(1)
        return lambda control: (control * losses + prior, control * gradients + pull)


@contextmanager
def own_streams(device: torch.device) -> Iterator[None]:
    """Give the user's random streams back as they were, whatever the model draws."""
    devices: list[Any] = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
