"""Operating points: measured seconds and joules of a step by batch size and power limit, and the laws fitted to them.

t(B) = τ0 + τ1·B or max(τ0, τ1·B), each as likely as the points make it, and E(B) = P_static·t(B) + e0d + e1d·B. With
points at one batch size alone the split between what goes with the step and what goes with the example is not known: it
is then drawn over all that is possible, and the plan's intervals say so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LEAST_RELATIVE = 0.01
"""No point is trusted better than this, one sigma: two readings of the same setting differ by about as much."""


@dataclass(frozen=True)
class OperatingPoint:
    """One measured setting.

    Attributes:
        batch: B, example/step.
        step_s: seconds of a step.
        step_j: joules of a step, static power included.
        step_s_stderr, step_j_stderr: their standard errors; None where not known.
        power_limit_w: the limit it was measured under; None: none was set.
        source: where it comes from.
    """

    batch: float
    step_s: float
    step_j: float
    step_s_stderr: float | None = None
    step_j_stderr: float | None = None
    power_limit_w: float | None = None
    source: str = ""

    @property
    def power_w(self) -> float:
        """Mean power, W."""
        return self.step_j / self.step_s


COLUMNS = ("batch", "step_s", "step_j")
_OPTIONAL = ("step_s_stderr", "step_j_stderr", "power_limit_w")


def read_points(path: Path) -> tuple[OperatingPoint, ...]:
    """Read points from a CSV file: columns batch, step_s, step_j; and, where known, their errors and power_limit_w.

    Raises:
        UsageError: no such file or columns, a row that is no measurement, or none at all.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
                raise UsageError(
                    expected=f"columns {', '.join(COLUMNS)} in {path}",
                    got=f"none called {', '.join(missing)}",
                    remedy=f"they are examples a step, s and J; {', '.join(_OPTIONAL)} may be added",
                )
            return usable([_row(path, number, row) for number, row in enumerate(rows, start=2)])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            expected="operating points in CSV", got=f"{path} ({why})", remedy="see that it can be read"
        ) from None


def _row(path: Path, number: int, row: Mapping[str, str | None]) -> OperatingPoint:
    try:
        needed = [float(row[column] or "nan") for column in COLUMNS]
        more = {column: float(text) for column in _OPTIONAL if (text := row.get(column))}
    except ValueError:
        raise UsageError(
            expected="numbers", got=f"{path}, line {number}: {', '.join(map(str, row.values()))}", remedy="correct it"
        ) from None
    for column, value in more.items():
        if not (math.isfinite(value) and (value > 0 or (value == 0 and column != "power_limit_w"))):
            raise UsageError(
                expected=f"a positive {column}, or none",
                got=f"{value:g} in {path}, line {number}",
                remedy="leave the cell empty where it is not known",
            )
    return OperatingPoint(needed[0], needed[1], needed[2], source=path.name, **more)


def usable(points: Iterable[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """Return the points that are measurements; failed ones (NaN, nothing, less than nothing) are left out.

    Raises:
        UsageError: none is left.
    """
    points = list(points)
    good = tuple(p for p in points if all(math.isfinite(x) and x > 0 for x in (p.batch, p.step_s, p.step_j)))
    if not good:
        raise UsageError(
            expected="one operating point or more with a finite, positive batch size, time and energy",
            got=f"{len(points)} points without",
            remedy="measure a short run, or sweep",
        )
    return good


def contradictions(points: Sequence[OperatingPoint]) -> tuple[str, ...]:
    """Return what in the points cannot be, in words: at one batch size, faster under a lower power limit beyond error.

    Of each batch size the worst pair is told. Such points are kept, as nothing says which of the two is wrong; their
    scatter widens the intervals.
    """
    by_batch: dict[float, list[OperatingPoint]] = {}
    for point in points:
        if point.power_limit_w is not None:
            by_batch.setdefault(point.batch, []).append(point)
    found = []
    for batch, group in by_batch.items():
        limit = np.array([p.power_limit_w for p in group])
        step_s = np.array([p.step_s for p in group])
        error = np.array([_error(p.step_s, p.step_s_stderr) for p in group])
        apart = (step_s - step_s[:, None]) / np.hypot(error, error[:, None])  # column slower than row
        apart[limit <= limit[:, None]] = -math.inf
        low, high = np.unravel_index(int(np.argmax(apart)), apart.shape)
        if apart[low, high] > 3.0:
            found.append(
                f"batch {batch:g} is faster at {limit[low]:g} W ({step_s[low]:.4g} s) than at "
                f"{limit[high]:g} W ({step_s[high]:.4g} s): throttled by heat, or another load?"
            )
    return tuple(found)


def _error(value: float, stderr: float | None) -> float:
    return max(stderr or 0.0, LEAST_RELATIVE * value)


@dataclass(frozen=True)
class StepCosts:
    """Draws of the laws of a step at a reference power limit, and how other limits scale them.

    Attributes:
        limits_w: (L,) power limits; None where none was set.
        time_scale, energy_scale: (L, n) t and E at a limit over those of the reference.
        latency_s, example_s: (n,) τ0 and τ1.
        static_w, step_j, example_j: (n,) P_static, e0d and e1d.
        roofline: (n,) t = max(τ0, τ1·B) rather than τ0 + τ1·B.
        split_known: the points had two batch sizes or more, so that the split was measured.
        scatter: relative scatter of the points about the laws, one sigma.
    """

    limits_w: tuple[float | None, ...]
    time_scale: Array
    energy_scale: Array
    latency_s: Array
    example_s: Array
    static_w: Array
    step_j: Array
    example_j: Array
    roofline: Flags
    split_known: bool
    scatter: float

    def time_s(self, batch: Array) -> Array:
        """Return (L, n, B) seconds of a step."""
        return np.asarray(self.time_scale[..., None] * self._reference_s(batch))

    def energy_j(self, batch: Array) -> Array:
        """Return (L, n, B) joules of a step."""
        dynamic = self.step_j[:, None] + self.example_j[:, None] * batch
        return np.asarray(self.energy_scale[..., None] * (self.static_w[:, None] * self._reference_s(batch) + dynamic))

    def _reference_s(self, batch: Array) -> Array:
        fixed, varying = self.latency_s[:, None], self.example_s[:, None] * batch
        return np.where(self.roofline[:, None], np.maximum(fixed, varying), fixed + varying)


@dataclass(frozen=True)
class Split:
    """What is known of a single batch size's step besides its sums: dynamic joules and static power, by a calibration.

    ``step_j`` and ``example_j`` are the dynamic joules e0d (J/step) and e1d (J/example), ``static_w`` the static power.
    """

    step_j: float
    example_j: float
    static_w: float


def fit_costs(
    points: Sequence[OperatingPoint], *, split: Split | None = None, draws: int = 256, seed: int = 0
) -> StepCosts:
    """Fit the laws of a step to operating points.

    The laws are fitted at the power limit that has most batch sizes; another limit scales its time and energy by the
    ratios seen at the batch sizes nearest to its own.

    Args:
        points: measured, of one job on one machine.
        split: where only one batch size was measured: what a calibration says.
        draws: how many.
        seed: of the draws.

    Raises:
        UsageError: there is no usable point.
    """
    points, gain = _apart(usable(points))
    generator = np.random.default_rng(seed)
    by_limit: dict[float | None, list[OperatingPoint]] = {}
    for point in points:
        by_limit.setdefault(point.power_limit_w, []).append(point)
    reference = max(by_limit, key=lambda limit: (len({p.batch for p in by_limit[limit]}), limit or math.inf))
    chosen = _Columns.of(by_limit[reference])
    known = len(np.unique(chosen.batch)) > 1
    law = _fitted(generator, chosen, split, draws) if known else _undivided(generator, chosen, split, draws)
    limits = sorted(by_limit, key=lambda limit: math.inf if limit is None else limit)
    one = np.ones((1, draws))
    latency, per_example, static, fixed, varying = law.columns
    alone = StepCosts(
        (reference,), one, one, latency, per_example, static, fixed, varying, law.roofline, known, law.scatter
    )
    scales = [(one[0], one[0]) if x == reference else _scales(alone, by_limit[x], generator) for x in limits]
    times, energies = (np.stack(column) for column in zip(*scales, strict=True))
    drawn = np.exp(gain * generator.normal(size=draws))
    return replace(alone, limits_w=tuple(limits), time_scale=times, energy_scale=energies * drawn)


@dataclass(frozen=True)
class _Columns:
    """Points as columns (n,), each with an error that is never below the least."""

    batch: Array
    t: Array
    e: Array
    t_error: Array
    e_error: Array

    @classmethod
    def of(cls, points: Sequence[OperatingPoint]) -> _Columns:
        rows = [
            (p.batch, p.step_s, p.step_j, _error(p.step_s, p.step_s_stderr), _error(p.step_j, p.step_j_stderr))
            for p in points
        ]
        return cls(*np.array(rows, dtype=np.float64).T)


class _Law(NamedTuple):
    """Draws of τ0, τ1, P_static, e0d and e1d (5, n); (n,) whether t is the roofline's; scatter."""

    columns: Array
    roofline: Flags
    scatter: float


def _fitted(generator: np.random.Generator, points: _Columns, split: Split | None, draws: int) -> _Law:
    """Return the laws of points at several batch sizes, refitted to the points moved by their errors.

    Which form of t(B) each draw has follows the forms' likelihoods: points at two batch sizes lie on either.
    """
    b, sizes = points.batch, len(np.unique(points.batch))

    def fit(t: Array, e: Array, roofline: bool, share: float) -> Array:
        fixed, varying = (_corner if roofline else _line)(b, t, points.t_error)[0]
        if not roofline:  # then E is a line as well, whatever part of it is static
            joules, _ = nonnegative([np.ones_like(b), b], e, points.e_error)
            return np.array([fixed, varying, 0.0, *joules])
        law_s = np.maximum(fixed, varying * b)
        if sizes > 2:
            return np.array([fixed, varying, *nonnegative([law_s, np.ones_like(b), b], e, points.e_error)[0]])
        # Two batch sizes cannot tell static power from the rest: any share of the least power may be static.
        static = share * float(np.min(e / law_s)) if split is None else min(split.static_w, float(np.min(e / law_s)))
        joules, _ = nonnegative([np.ones_like(b), b], e - static * law_s, points.e_error)
        return np.array([fixed, varying, static, *joules])

    def off(law: Array, roofline: bool) -> Array:
        law_s = np.maximum(law[0], law[1] * b) if roofline else law[0] + law[1] * b
        return np.concatenate([law_s - points.t, law[2] * law_s + law[3] + law[4] * b - points.e])

    found = [off(fit(points.t, points.e, form, 0.5), form) for form in (False, True)]
    errors, sums = np.concatenate([points.t_error, points.e_error]), np.concatenate([points.t, points.e])
    chi_sq = [float(np.sum((x / errors) ** 2)) for x in found]
    better = found[int(np.argmin(chi_sq))] / sums
    free = max(len(better) - 4, 1)
    scatter = max(LEAST_RELATIVE, math.sqrt(float(better @ better) / free))
    grown = max(1.0, min(chi_sq) / free)
    corner = 1.0 / (1.0 + math.exp(min((chi_sq[1] - chi_sq[0]) / (2.0 * grown), 700.0)))
    roofline = generator.random(draws) < corner
    # Moved as logarithms: however far points scatter, none becomes a step of no time.
    t_error, e_error = np.maximum(points.t_error / points.t, scatter), np.maximum(points.e_error / points.e, scatter)
    shares = generator.random(draws)
    columns = [
        fit(
            points.t * np.exp(t_error * generator.normal(size=len(b))),
            points.e * np.exp(e_error * generator.normal(size=len(b))),
            bool(form),
            float(share),
        )
        for form, share in zip(roofline, shares, strict=True)
    ]
    return _Law(np.array(columns).T, roofline, scatter)


def _apart(points: Sequence[OperatingPoint]) -> tuple[tuple[OperatingPoint, ...], float]:
    """Return the points with the error of energy that is their own, and the relative error that all share.

    One meter, or one model of power, lies behind all: the least relative error is taken as its gain's, which moves
    every joule alike and no choice.
    """
    shared = min((p.step_j_stderr or 0.0) / p.step_j for p in points)
    own = tuple(
        replace(p, step_j_stderr=math.sqrt(max((p.step_j_stderr or 0.0) ** 2 - (shared * p.step_j) ** 2, 0.0)))
        for p in points
    )
    return own, shared


def _undivided(generator: np.random.Generator, points: _Columns, split: Split | None, draws: int) -> _Law:
    """Return the laws of points at one batch size: any share of time and of joules may go with the step."""
    b = points.batch[0]
    step_s = _mean(generator, points.t, points.t_error, draws)
    step_j = _mean(generator, points.e, points.e_error, draws)
    of_time = generator.uniform(0.0, 1.0, draws)
    latency, per_example = of_time * step_s, (1.0 - of_time) * step_s / b
    if split is None:
        of_energy = generator.uniform(0.0, 1.0, draws)
        static, fixed, varying = np.zeros(draws), of_energy * step_j, (1.0 - of_energy) * step_j / b
    else:  # the calibration's sum need not be the meter's
        scale = step_j / (split.static_w * step_s + split.step_j + split.example_j * b)
        static, fixed, varying = split.static_w * scale, split.step_j * scale, split.example_j * scale
    columns = np.array([latency, per_example, static, fixed, varying])
    return _Law(columns, np.zeros(draws, dtype=bool), LEAST_RELATIVE)


def _mean(generator: np.random.Generator, y: Array, error: Array, draws: int) -> Array:
    """Return draws of the mean of repeated readings."""
    weight = error**-2.0
    mean, sd = float(weight @ y / weight.sum()), 1.0 / math.sqrt(float(weight.sum()))
    spread = float(np.std(y, ddof=1)) / math.sqrt(len(y)) if len(y) > 1 else 0.0
    return np.maximum(generator.normal(mean, max(sd, spread), draws), 1e-3 * mean)


def _line(batch: Array, y: Array, error: Array) -> tuple[Array, float]:
    """Return (a, b ≥ 0) of weighted least squares y = a + b·B, and the misfit."""
    return nonnegative([np.ones_like(batch), batch], y, error)


def nonnegative(columns: Sequence[Array], y: Array, error: Array) -> tuple[Array, float]:
    """Return the coefficients, none below 0, of weighted least squares, and the misfit."""
    from scipy.optimize import nnls

    found, misfit = nnls(np.column_stack(columns) / error[:, None], y / error)
    return found, float(misfit) ** 2


def _corner(batch: Array, y: Array, error: Array) -> tuple[Array, float]:
    """Return (a, b) of least squares y = max(a, b·B): every way to cut the points, by batch size, is tried."""
    order = np.argsort(batch)
    b, y, w = batch[order], y[order], error[order] ** -2.0
    best, least = np.zeros(2), math.inf
    for cut in range(len(b) + 1):
        a = float(w[:cut] @ y[:cut] / w[:cut].sum()) if cut else 0.0
        slope = float((w[cut:] * b[cut:]) @ y[cut:] / ((w[cut:] * b[cut:]) @ b[cut:])) if cut < len(b) else 0.0
        if not slope:
            slope = a / b[-1]
        misfit = float(w @ (np.maximum(a, slope * b) - y) ** 2)
        if misfit < least:
            best, least = np.array([a or slope * b[0], slope]), misfit
    return best, least


def _scales(costs: StepCosts, points: Sequence[OperatingPoint], generator: np.random.Generator) -> tuple[Array, Array]:
    """Return (n,) draws of the ratios of another limit's time and energy to the reference's law."""
    n, batch = len(costs.latency_s), np.array([point.batch for point in points])
    found = []
    for law, name in ((costs.time_s, "step_s"), (costs.energy_j, "step_j")):
        measured = np.array([getattr(point, name) for point in points])
        error = [_error(getattr(point, name), getattr(point, f"{name}_stderr")) for point in points]
        logs = np.log(measured / law(batch)[0]) + error / measured * generator.normal(size=(n, len(batch)))
        found.append(np.exp(np.mean(logs, axis=1)))
    return found[0], found[1]
