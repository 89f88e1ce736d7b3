"""Small models whose Hessian and Fisher information can be written out, in float64, to hold the quick ways against."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Net:
    """A model with a batch: closures as the landscape takes them, and matrices by brute force."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    @property
    def layers(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.parameters)

    def outputs(self, parameters: Sequence[Tensor]) -> Tensor:
        return functional_call(self.model, dict(zip(self.names, parameters, strict=True)), (self.inputs,))

    def losses(self, parameters: Sequence[Tensor]) -> Tensor:
        out = self.outputs(parameters)
        each = nn.functional.cross_entropy(out.flatten(0, -2), self.labels.flatten(), reduction="none")
        return each.view(len(out), -1).sum(1)

    def loss(self, parameters: Sequence[Tensor]) -> Tensor:
        return self.losses(parameters).mean()

    def example_loss(self, parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = functional_call(self.model, dict(zip(self.names, parameters, strict=True)), (x.unsqueeze(0),))
        return nn.functional.cross_entropy(out.flatten(0, -2), y.reshape(-1), reduction="sum")

    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def of_flat(self, function: Callable[[Sequence[Tensor]], Tensor]) -> Callable[[Tensor], Tensor]:
        shapes = [p.shape for p in self.parameters]
        sizes = [p.numel() for p in self.parameters]
        return lambda v: function([x.view(s) for x, s in zip(v.split(sizes), shapes, strict=True)])

    def hessian(self) -> Tensor:
        """Dense Hessian of the mean loss, by torch's own."""
        return torch.autograd.functional.hessian(self.of_flat(self.loss), self.flat())

    def gradients(self) -> Tensor:
        """Gradients of the examples' losses, by a loop."""
        found = []
        for x, y in zip(self.inputs, self.labels, strict=True):
            loss = self.example_loss(self.parameters, x, y)
            parts = torch.autograd.grad(loss, self.parameters)
            found.append(torch.cat([part.reshape(-1) for part in parts]))
        return torch.stack(found)

    def fisher(self) -> Tensor:
        """Dense Σ_n Σ_t Σ_c p(c)·∇log p(c) ∇log p(c)ᵀ: the definition, class by class."""
        jacobian = torch.autograd.functional.jacobian(self.of_flat(self.outputs), self.flat()).flatten(0, -3)
        p = self.outputs(self.parameters).detach().softmax(-1).flatten(0, -2)
        total = torch.zeros(self.size, self.size, dtype=torch.float64)
        for j, q in zip(jacobian, p, strict=True):
            scores = j - q @ j
            total += scores.T @ (q.unsqueeze(1) * scores)
        return total


def perceptron(seed: int, examples: int = 9, widths: Sequence[int] = (4, 6, 5, 3)) -> Net:
    """Return a tanh perceptron with a batch of labelled points."""
    stream = torch.Generator().manual_seed(1000 + seed)
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b, dtype=torch.float64), nn.Tanh()]
    model = nn.Sequential(*parts[:-1])
    _draw(model, stream)
    inputs = torch.randn(examples, widths[0], generator=stream, dtype=torch.float64)
    return Net(model, inputs, torch.randint(widths[-1], (examples,), generator=stream))


def convolutional(seed: int = 0, examples: int = 5) -> Net:
    """Return a network of odd convolutions: strides, padding modes, groups, dilation, an inplace activation."""
    stream = torch.Generator().manual_seed(2000 + seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="circular"),
        nn.ELU(inplace=True),
        nn.Conv2d(4, 4, (2, 1), groups=2, padding="same", dilation=(1, 2)),
        nn.ELU(inplace=True),
        nn.Flatten(2),
        nn.Conv1d(4, 3, 3, padding=1, bias=False),
        nn.Flatten(),
        nn.LayerNorm(27),
        nn.Linear(27, 3),
    ).double()
    _draw(model, stream)
    inputs = torch.randn(examples, 2, 5, 6, generator=stream, dtype=torch.float64)
    return Net(model, inputs, torch.randint(3, (examples,), generator=stream))


class Sequences(nn.Module):
    """A language model of a few words: embedding, attention over the past by hand, head tied to nothing."""

    def __init__(self, words: int, width: int, padding: int | None) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width, padding_idx=padding)
        self.mix = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, words)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        scores = x @ self.mix(x).transpose(1, 2)
        past = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        return self.head(torch.tanh(scores.masked_fill(~past, -1e9).softmax(-1) @ x + x))


def language(seed: int = 0, examples: int = 4, length: int = 3, words: int = 5, padding: int | None = 0) -> Net:
    """Return a language model with a batch of token sequences."""
    stream = torch.Generator().manual_seed(3000 + seed)
    model = Sequences(words, 4, padding).double()
    _draw(model, stream)
    tokens = torch.randint(words, (examples, length + 1), generator=stream)
    return Net(model, tokens[:, :-1], tokens[:, 1:])


def half_logdet(fisher: Tensor, prior_precision: float) -> float:
    """Return ½·ln det(1 + F/λ) of a dense matrix."""
    eye = torch.eye(len(fisher), dtype=torch.float64)
    return 0.5 * float(torch.linalg.slogdet(eye + fisher / prior_precision)[1])


def _draw(model: nn.Module, stream: torch.Generator) -> None:
    """Set parameters from a stream of the tests' own."""
    with torch.no_grad():
        for p in model.parameters():
            fan = p[0].numel() if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=stream, dtype=p.dtype) * fan**-0.5 + (p.ndim == 1) * 0.3)
