"""A fit over shapes: the work of a call of sizes never seen, from calls of the same structure that were counted.

Work is a polynomial of low degree of the sizes: linear for layers, quadratic for attention. It is solved for by
least squares over the counted calls, and says how far it missed those that were counted afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from ergometry.integrations.counting.profiles import Count, Totals
from ergometry.integrations.counting.signatures import structure_of

MAX_SAMPLES = 64
SPARE = 2
"""Samples beyond the number of terms that must be hit before the fit is believed."""
TOLERANCE = 0.02
MAX_DIMS = 4
MAX_STRUCTURES = 256
_RECHECK = 1.6  # each re-check comes so many times later than the one before
_EXACT = 1e-6


@dataclass
class Fit:
    """The counted calls of one structure, and the polynomial through them."""

    samples: list[tuple[tuple[int, ...], Count]] = field(default_factory=list)
    predicted: int = 0
    misfit: float = 0.0
    """The largest relative error seen on calls that were counted after the fit."""
    _next_check: float = 8.0
    _varying: tuple[int, ...] = ()
    _weights: list[list[float]] = field(default_factory=list)
    _followers: dict[int, tuple[int, float, float]] = field(default_factory=dict)
    _degree: int = 0

    def add(self, dims: tuple[int, ...], count: Count) -> None:
        """Take in a counted call, and note how far the fit was from it."""
        guess = self._evaluate(dims) if self._weights else None
        if guess is not None:
            error = _error(guess, count.totals.values())
            self.misfit = max(self.misfit, error)
            if error < 1e-9:
                return  # it adds nothing
        if len(self.samples) >= MAX_SAMPLES:
            del self.samples[0]
        self.samples.append((dims, count))
        self._solve()

    def wants(self) -> bool:
        """Say whether the next unseen call had better be counted: until the fit holds, and now and then after."""
        if not self._weights:
            return True
        if self.predicted >= self._next_check:
            self._next_check = max(self._next_check * _RECHECK, self.predicted + 1)
            return True
        return False

    def predict(self, dims: tuple[int, ...]) -> tuple[Totals, Count, float] | None:
        """Return (totals, the nearest counted call, how many of its uses this one is); None where there is no fit."""
        if not self._weights:
            return None
        values = self._evaluate(dims)
        if values is None:
            return None
        self.predicted += 1
        nearest = min(self.samples, key=lambda sample: sum(abs(a - b) for a, b in zip(sample[0], dims, strict=True)))[1]
        flops = nearest.totals.flops
        return Totals(*values), nearest, values[1] / flops if flops else 1.0

    def _evaluate(self, dims: tuple[int, ...]) -> list[float] | None:
        first = self.samples[0][0]
        for i, size in enumerate(dims):
            if i in self._varying:
                continue
            leader, factor, offset = self._followers.get(i, (i, 0.0, float(first[i])))
            if abs(factor * dims[leader] + offset - size) > 1e-6:
                return None  # a size that never varied has, or one that went with another no longer does
        terms = self._terms([float(dims[i]) for i in self._varying])
        return [max(sum(w * t for w, t in zip(row, terms, strict=True)), 0.0) for row in self._weights]

    def _terms(self, sizes: Sequence[float]) -> list[float]:
        terms = [1.0, *sizes]
        if self._degree == 2:
            terms += [a * b for i, a in enumerate(sizes) for b in sizes[i:]]
        return terms

    def _find_varying(self) -> None:
        """Find the sizes that vary by themselves, and those that follow one of them in a straight line."""
        columns = list(zip(*(dims for dims, _ in self.samples), strict=True))
        varying: list[int] = []
        self._followers = {}
        for i, column in enumerate(columns):
            if len(set(column)) == 1:
                continue
            line = next(((v, *found) for v in varying if (found := _line(columns[v], column)) is not None), None)
            if line is None:
                varying.append(i)
            else:
                self._followers[i] = line
        self._varying = tuple(varying)

    def _solve(self) -> None:
        """Find the weights; of two degrees the lower one that hits all samples is kept."""
        self._find_varying()
        self._weights = []
        if not self._varying or len(self._varying) > MAX_DIMS:
            return
        different = len({dims for dims, _ in self.samples})
        targets = [list(t) for t in zip(*(count.totals.values() for _, count in self.samples), strict=True)]
        for self._degree in (1, 2):
            rows = [self._terms([float(dims[i]) for i in self._varying]) for dims, _ in self.samples]
            found, rank = least_squares(rows, targets)
            if different < rank + SPARE:
                return
            fitted = [[sum(w * t for w, t in zip(weights, row, strict=True)) for weights in found] for row in rows]
            worst = max(_error(guess, t) for guess, t in zip(fitted, zip(*targets, strict=True), strict=True))
            if worst < (_EXACT if self._degree == 1 else TOLERANCE):
                self._weights = found
                return


class Fits:
    """The fit of each structure that was met."""

    def __init__(self) -> None:
        self.misfit = 0.0
        """The largest relative error seen where a fit was checked."""
        self._fits: dict[Hashable, Fit] = {}

    def add(self, kind: str, key: Hashable, count: Count) -> None:
        """Take in a counted pass."""
        dims: list[int] = []
        structure = (kind, structure_of(key, dims))
        fit = self._fits.get(structure)
        if fit is None:
            if len(self._fits) >= MAX_STRUCTURES:
                self._fits.pop(next(iter(self._fits)))
            fit = self._fits[structure] = Fit()
        fit.add(tuple(dims), count)
        self.misfit = max(self.misfit, fit.misfit)

    def predict(self, kind: str, key: Hashable, *, affordable: bool) -> tuple[Totals, Count, float] | None:
        """Return what :meth:`Fit.predict` does; None too where the pass had better be counted, and can be afforded."""
        dims: list[int] = []
        fit = self._fits.get((kind, structure_of(key, dims)))
        if fit is None or (fit.wants() and affordable):
            return None
        return fit.predict(tuple(dims))


def _line(x: Sequence[int], y: Sequence[int]) -> tuple[float, float] | None:
    """Return (factor, offset) of the straight line that y is of x in every sample; None if it is not."""
    at = next(i for i, value in enumerate(x) if value != x[0])
    factor = (y[at] - y[0]) / (x[at] - x[0])
    offset = y[0] - factor * x[0]
    return (factor, offset) if all(abs(factor * a + offset - b) < 1e-6 for a, b in zip(x, y, strict=True)) else None


def _error(guess: Sequence[float], truth: Sequence[float]) -> float:
    """Return the largest error of the sums that matter, each as a part of itself."""
    return max((abs(g - t) / t for g, t in zip(guess, truth, strict=True) if t > 0 and math.isfinite(t)), default=0.0)


def least_squares(rows: list[list[float]], targets: list[list[float]]) -> tuple[list[list[float]], int]:
    """Return the weights w that make Σ (row·w − target)² least, for each target, and the rank of the rows.

    By Householder reflections. A term that the others already tell of gets no weight; a target with an unknown value
    has unknown weights.

    >>> least_squares([[1, 1], [1, 2], [1, 4]], [[5, 7, 11]])[1]
    2
    >>> [round(w, 9) for w in least_squares([[1, 1], [1, 2], [1, 4]], [[5, 7, 11]])[0][0]]
    [3.0, 2.0]
    """
    n = len(rows[0])
    scale = [max(abs(row[j]) for row in rows) or 1.0 for j in range(n)]
    a = [[row[j] / scale[j] for j in range(n)] + [t[i] for t in targets] for i, row in enumerate(rows)]
    pivots: list[int] = []
    for j in range(n):
        r = len(pivots)
        norm = math.hypot(*(row[j] for row in a[r:]))
        if norm < 1e-9:
            continue
        alpha = -math.copysign(norm, a[r][j])
        v = [row[j] for row in a[r:]]
        v[0] -= alpha
        square = math.fsum(x * x for x in v)
        for k in range(j, n + len(targets)):
            shift = 2.0 * sum(x * row[k] for x, row in zip(v, a[r:], strict=True)) / square
            for x, row in zip(v, a[r:], strict=True):
                row[k] -= shift * x
        pivots.append(j)
    found = []
    for t in range(n, n + len(targets)):
        weights = [0.0] * n
        for r, j in reversed(list(enumerate(pivots))):
            rest = sum(a[r][k] * weights[k] for k in pivots[r + 1 :])
            weights[j] = (a[r][t] - rest) / a[r][j]
        found.append([w / s for w, s in zip(weights, scale, strict=True)])
    return found, len(pivots)
