"""Prequential codelength by replay (E7 ii): what predicting each chunk of data before learning from it costs.

The *gain* against a uniform code is free in one pass over the data (``estimators.codelength``). The *excess*, the
regret against the model that was learned in the end, takes one more look at all data with that model; and where the
training is not one pass, both take a replay: train on the chunks so far, code the next one, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate, Provenance

M = TypeVar("M")
D = TypeVar("D")

METHOD = "prequential codelength by replay (E7 ii)"


@dataclass(frozen=True)
class Chunk:
    """One chunk of n_t labels, coded twice: ``before`` it was learned from, and with the ``final`` model, nat in all.

    ``final`` NaN: not coded with the final model.
    """

    labels: float
    before: float
    final: float = math.nan


@dataclass(frozen=True)
class CodeState:
    """Sums over chunks: how many, their labels, and the two codelengths, nat."""

    chunks: int = 0
    labels: float = 0.0
    before: float = 0.0
    final: float = 0.0


@dataclass(frozen=True)
class Codelength:
    """Codelengths of a data set's labels, nat. Given the losses they are definitions and have no sampling error.

    Attributes:
        total: Σ n_t·ℓ_t(θ_{t−1}), what a receiver that learns along needs to be sent.
        excess: Σ n_t[ℓ_t(θ_{t−1}) − ℓ_t(θ_final)], the regret: what was paid for not knowing the final model.
        gain: n·ln C − Σ n_t·ℓ_t(θ_{t−1}) against the uniform code; may be negative.
        labels: n.
    """

    total: Estimate
    excess: Estimate
    gain: Estimate
    labels: float


class Prequential:
    """Adds up the codes of chunks.

    >>> code = Prequential(classes=2)
    >>> state = code.update(code.init(), Chunk(labels=10, before=6.0, final=4.0))
    >>> found = code.result(state)
    >>> print(f"{found.total.value:.1f} {found.excess.value:.1f} {found.gain.value:.3f}")
    6.0 2.0 0.931
    """

    def __init__(self, classes: int | None = None) -> None:
        """Measure the gain against the uniform code over ``classes``; None: no gain."""
        if classes is not None and classes < 1:
            raise UsageError(
                expected="at least one class", got=str(classes), remedy="pass the number of labels' values"
            )
        self.classes = classes

    def init(self) -> CodeState:
        """Return the state of no chunk."""
        return CodeState()

    def update(self, state: CodeState, x: Chunk, /) -> CodeState:
        """Return the state with one more chunk."""
        return self.merge(state, CodeState(1, x.labels, x.before, x.final))

    def merge(self, a: CodeState, b: CodeState, /) -> CodeState:
        """Return the state of both sets of chunks."""
        return CodeState(a.chunks + b.chunks, a.labels + b.labels, a.before + b.before, a.final + b.final)

    def result(self, state: CodeState, /) -> Codelength:
        """Return the codelengths."""
        if not state.chunks:
            unknown = Estimate.unknown("nat", "needs at least one chunk of data")
            return Codelength(unknown, unknown, unknown, 0.0)
        gain = Estimate.unknown("nat", "needs the number of classes, for a uniform code to compare with")
        if self.classes is not None:
            gain = _nat(state.labels * math.log(self.classes) - state.before, "no code is finite before it")
        return Codelength(
            total=_nat(state.before, "a label was given probability 0 before it was learned"),
            excess=_nat(
                state.before - state.final, "needs finite codes of every chunk, before and with the final model"
            ),
            gain=gain,
            labels=state.labels,
        )


def _nat(value: float, why: str) -> Estimate:
    if not math.isfinite(value):
        return Estimate.unknown("nat", why)
    return Estimate(value, 0.0, "nat", Provenance.DERIVED, METHOD)


def replay(
    model: M,
    learn: Callable[[M, Sequence[D]], M],
    code: Callable[[M, D], float],
    chunks: Sequence[D],
    *,
    labels: Callable[[D], float] = len,  # type: ignore[assignment]
    classes: int | None = None,
    fit: Callable[[M, D], float] | None = None,
) -> Codelength:
    """Train along chunks of data, code each before it is learned from, and again with the final model.

    Σ n_t·ℓ_t(θ_{t−1}) is a length that a receiver can decode, who trains along with the same ``learn``: so ``learn``
    must not look at a chunk that is still to come, and must be reproducible. It gets all chunks so far, and may train
    on them for as long as it likes, from the model given or from scratch.

    With the Bayes predictive for ``code`` the length is −log evidence; with the plug-in code of point estimates it is
    longer, and that part of the excess is no information in the parameters.

    Args:
        model: θ_0, which has seen no data.
        learn: ``learn(model, seen)`` returns the model that has learned from the chunks ``seen``, the last of them new.
        code: ``code(model, chunk)`` returns −Σ ln p(label) over the chunk, nat (a sum, not a mean), in evaluation mode.
        chunks: the data, in the order in which they are coded.
        labels: labels in a chunk.
        classes: C, for the gain against the uniform code.
        fit: the code with the final model, where it is another one than ``code``: the plug-in code of a fit, beside
            the Bayes predictive.

    Raises:
        UsageError: a code is negative infinity or no number.

    Source: Blier & Ollivier 2018 (1802.07044); Dawid 1984.

    >>> coin = replay(  # Laplace's rule on coin flips: (ones, flips) is the model
    ...     (1, 2),
    ...     lambda m, seen: (m[0] + sum(seen[-1]), m[1] + len(seen[-1])),
    ...     lambda m, chunk: -sum(math.log(m[0] / m[1] if x else 1 - m[0] / m[1]) for x in chunk),
    ...     [[1], [1], [1]],
    ...     classes=2,
    ... )
    >>> print(f"{coin.total.value:.4f} = ln 4")
    1.3863 = ln 4
    """
    before: list[float] = []
    for i, chunk in enumerate(chunks):
        before.append(_checked(code(model, chunk), i))
        model = learn(model, chunks[: i + 1])
    again = fit or code
    counter = Prequential(classes)
    state = counter.init()
    for i, (chunk, first) in enumerate(zip(chunks, before, strict=True)):
        state = counter.update(state, Chunk(float(labels(chunk)), first, _checked(again(model, chunk), i)))
    return counter.result(state)


def _checked(nat: float, chunk: int) -> float:
    nat = float(nat)
    if math.isnan(nat) or nat == -math.inf:
        raise UsageError(
            expected="a codelength in nat", got=f"{nat} for chunk {chunk}", remedy="return −Σ ln p(label) as a number"
        )
    return nat
