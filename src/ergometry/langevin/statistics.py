"""Statistics over replicas: each quantity with itself when one block is left out, so that errors follow any formula.

Blocks are data sets, or replicas where there is one data set. A quantity is computed on all blocks and on all but each
one; a function of quantities acts on both, which keeps their correlations, and the jackknife's standard error is
that of the left-out values (Efron & Stein 1981: it is not too small, in the mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, gammaln, logsumexp

Array = npt.NDArray[np.float64]
MOST_BLOCKS = 64


@dataclass(frozen=True)
class Blocks:
    """Which block each of n samples is in: ``label`` (n,) int, 0…count−1, not decreasing."""

    label: npt.NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, replicas: int, data_sets: int) -> Blocks:
        """Return the blocks of replicas that stand data set by data set: at most 64, of whole data sets.

        >>> Blocks.of(6, 3).label.tolist(), Blocks.of(3, 1).label.tolist()
        ([0, 0, 1, 1, 2, 2], [0, 1, 2])
        """
        units = data_sets if data_sets > 1 else replicas
        count = min(units, MOST_BLOCKS)
        unit = np.arange(replicas) * units // replicas
        return cls(unit * count // units, count)

    def sums(self, values: Array) -> Array:
        """Return the sum over each block of values (n, …): (count, …)."""
        sums = np.zeros((self.count, *values.shape[1:]))
        np.add.at(sums, self.label, values)
        return sums

    @property
    def sizes(self) -> Array:
        """Samples in each block, (count,) float64."""
        return np.bincount(self.label, minlength=self.count).astype(np.float64)

    def mean(self, values: Array) -> Jackknife:
        """Return the mean of values (n,)."""
        sums, sizes = self.sums(values), self.sizes
        return Jackknife(float(values.mean()), (sums.sum() - sums) / (sizes.sum() - sizes))

    def left_out(self, statistic: Callable[[npt.NDArray[np.bool_]], float]) -> Jackknife:
        """Return any statistic of a selection of the samples, (n,) bool."""
        kept = [statistic(self.label != b) for b in range(self.count)]
        return Jackknife(statistic(np.ones(len(self.label), dtype=bool)), np.array(kept))


@dataclass(frozen=True)
class Jackknife:
    """A quantity ``value``, and itself without each block, ``left_out`` (count,)."""

    value: float
    left_out: Array

    @property
    def stderr(self) -> float:
        """Standard error, √[(b−1)/b·Σ(left out − their mean)²]."""
        b, apart = len(self.left_out), self.left_out - self.left_out[0]  # so that a constant has none
        return math.sqrt((b - 1) / b * float(np.sum((apart - apart.mean()) ** 2)))

    @property
    def bias(self) -> float:
        """Estimate of the bias of ``value``, (b−1)·(mean of left out − value)."""
        return (len(self.left_out) - 1) * (float(self.left_out.mean()) - self.value)

    @property
    def corrected(self) -> Jackknife:
        """The quantity less its estimated bias, with the same spread."""
        return Jackknife(self.value - self.bias, self.left_out - self.bias)

    def with_(self, f: Callable[..., float | Array], *others: Jackknife) -> Jackknife:
        """Return f(self, *others), block by block."""
        whole = f(self.value, *(other.value for other in others))
        return Jackknife(float(whole), np.asarray(f(self.left_out, *(other.left_out for other in others))))

    def __add__(self, other: Jackknife | float) -> Jackknife:
        if isinstance(other, Jackknife):
            return Jackknife(self.value + other.value, self.left_out + other.left_out)
        return Jackknife(self.value + other, self.left_out + other)

    def __mul__(self, factor: float) -> Jackknife:
        return Jackknife(self.value * factor, self.left_out * factor)

    def __sub__(self, other: Jackknife | float) -> Jackknife:
        return self + other * -1.0


def cross_entropy(points: Array, blocks: Blocks) -> Array:
    """Upper bounds on the entropy of the points' distribution whose mean is to be taken, (n,) float64, nat.

    −∫ρ ln q ≥ S(ρ) for every density q that was not made from the point it is asked for. Here q is a Student predictive
    fitted to all other blocks: of the full covariance where there are ten points or more for each dimension, otherwise
    a product over coordinates. The bound holds in the mean at any n; for a Gaussian of uncorrelated coordinates the
    product lies about N/n above the entropy.

    Args:
        points: (n, N) float64.
        blocks: independent groups of points; at least two, and four points outside each.
    """
    n, dimensions = points.shape
    centred = points - points.mean(0)
    others = n - blocks.sizes
    mean = -blocks.sums(centred) / others[:, None]  # of the rest, whose sum is minus the block's
    dof = others - 1.0
    if dimensions == 1 or n < 10 * dimensions or blocks.count * dimensions**2 > 10_000_000:
        squares = np.sum(centred**2, 0) - blocks.sums(centred**2) - others[:, None] * mean**2
        scale = squares * ((1.0 + 1.0 / others) / dof)[:, None]
        t = (centred - mean[blocks.label]) ** 2 / scale[blocks.label]
        nu = dof[blocks.label]
        log_q = dimensions * _student_constant(nu, 1) - 0.5 * np.log(scale).sum(1)[blocks.label]
        return np.asarray(-(log_q - 0.5 * (nu + 1.0) * np.log1p(t / nu[:, None]).sum(1)))
    found = np.empty(n)
    whole = centred.T @ centred
    for b in range(blocks.count):
        inside = blocks.label == b
        mine = centred[inside]
        products = whole - mine.T @ mine - others[b] * np.outer(mean[b], mean[b])
        nu = others[b] - dimensions
        root = np.linalg.cholesky(products * ((1.0 + 1.0 / others[b]) / nu))
        t = np.sum(np.linalg.solve(root, (mine - mean[b]).T) ** 2, 0)
        log_q = _student_constant(nu, dimensions) - np.sum(np.log(np.diag(root)))
        found[inside] = -(log_q - 0.5 * (nu + dimensions) * np.log1p(t / nu))
    return found


def _student_constant(nu: Array | float, d: int) -> Array:
    return np.asarray(gammaln(0.5 * (nu + d)) - gammaln(0.5 * nu) - 0.5 * d * np.log(nu * math.pi))


def contrast(scores: Array) -> Jackknife:
    """Lower bound on the information between weights and data sets, in nat: which data set was θ trained on?

    ⟨ln e^{s(θ,D)} / mean_D' e^{s(θ,D')}⟩ over c independent data sets, D among them, never exceeds I(θ; D) in the mean,
    whatever the score, and never ln c (van den Oord 2018; Poole 2019). Blocks are data sets.

    Args:
        scores: (c, m, c) float64, s of replica m of data set i with data set j.
    """
    c = len(scores)
    own = np.einsum("imi->im", scores)

    def bound(kept: npt.NDArray[np.intp]) -> float:
        rest = scores[kept][:, :, kept]
        return float(np.mean(own[kept] - logsumexp(rest, axis=2))) + math.log(len(kept))

    every = np.arange(c)
    return Jackknife(bound(every), np.array([bound(np.delete(every, i)) for i in range(c)]))


def squared_mean(vectors: Array, blocks: Blocks) -> Jackknife:
    """Unbiased |E v|² of vectors (n, N): the mean of v_r·v_s over pairs of different blocks."""

    def pairs(total: Array, squares: Array, sizes: Array, size_squares: Array) -> Array:
        return np.asarray((np.sum(total**2, -1) - squares) / (sizes**2 - size_squares))

    sums, sizes = blocks.sums(vectors), blocks.sizes
    own = np.sum(sums**2, 1)
    totals = (np.asarray(values.sum()) for values in (own, sizes, sizes**2))
    whole = pairs(sums.sum(0), *totals)
    rest = pairs(sums.sum(0) - sums, own.sum() - own, sizes.sum() - sizes, np.sum(sizes**2) - sizes**2)
    return Jackknife(float(whole), rest)


def jarzynski(work: Array, temperature: float, blocks: Blocks) -> Jackknife:
    """Free-energy change by Jarzynski's equality, ΔF = −T ln⟨e^{−W/T}⟩, before any correction.

    By Jensen it is high in the mean, by T·Var(e^{−W/T})/(2R⟨e^{−W/T}⟩²) to first order; ``bias`` estimates that. Where
    the work spreads over several T the bias is larger than any estimate of it from the same paths.

    Args:
        work: (R,) float64, the work of each path.
        temperature: T.
        blocks: independent groups of paths.
    """
    parts = np.logaddexp.reduceat(work / -temperature, np.searchsorted(blocks.label, np.arange(blocks.count)))
    others = np.tile(parts, (blocks.count, 1))
    np.fill_diagonal(others, -np.inf)
    rest = logsumexp(others, axis=1) - np.log(len(work) - blocks.sizes)
    return Jackknife(float(logsumexp(parts)) - math.log(len(work)), rest) * -temperature


def bennett(forward: Array, reverse: Array, temperature: float, ends: tuple[Blocks, Blocks]) -> tuple[float, float]:
    """Free-energy change from both directions, ΔF, and its standard error: Bennett's acceptance ratio.

    The root of Σ_F f(ln(n_F/n_R) + (W−ΔF)/T) = Σ_R f(ln(n_R/n_F) + (W+ΔF)/T), f(x) = 1/(1+eˣ): the maximum likelihood
    of ΔF under Crooks' relation (Shirts 2003). It needs paths of the reversed protocol that start in equilibrium.

    Args:
        forward: (n_F,) float64, work of the forward paths.
        reverse: (n_R,) float64, work done along the reversed paths.
        temperature: T.
        ends: the blocks of each.
    """

    def root(f: Array, r: Array) -> float:
        offset = math.log(len(f) / len(r))

        def excess(free: float) -> float:
            there, back = expit(-offset - (f - free) / temperature), expit(offset - (r + free) / temperature)
            return float(there.sum() - back.sum())

        low, high = min(f.min(), -r.max()), max(f.max(), -r.min())
        margin = temperature * (abs(offset) + 50.0)
        return float(brentq(excess, low - margin, high + margin, xtol=1e-12, rtol=1e-12))

    one = ends[0].left_out(lambda kept: root(forward[kept], reverse))
    other = ends[1].left_out(lambda kept: root(forward, reverse[kept]))
    return one.value, math.hypot(one.stderr, other.stderr)


def uncertainty_bound(current: Array, blocks: Blocks) -> Jackknife:
    """Least entropy production of stationary paths that carry a current J, in nat: 2⟨J⟩²/Var J.

    The thermodynamic uncertainty relation at finite time (Horowitz & Gingrich 2017): overdamped Langevin dynamics in a
    steady state, and any J that is odd under reversal.

    Args:
        current: (R,) float64, J of each path, over its whole time.
        blocks: independent groups of paths.
    """
    first, second = blocks.mean(current), blocks.mean(current**2)
    return first.with_(lambda m, s: 2.0 * m**2 / (s - m**2), second)
