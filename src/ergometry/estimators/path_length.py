"""Thermodynamic length (E6): how far a probe batch's predictions have travelled, in two readings, and their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run
from ergometry.core.series import LENGTH

Array = npt.NDArray[np.float64]

#: √(8·ln 2): the Jensen–Shannon distance of outputs that share no class; their Fisher angle is π.
LARGEST_JS = math.sqrt(8.0 * math.log(2.0))

METHOD = "thermodynamic length of a probe batch's outputs (E6)"
NO_PROBE = (
    "needs a probe batch's outputs along the run: none were recorded (physics off, or the outputs are no classes)"
)
ONE_PROBE = "needs a probe at two moments at least"


def js_distance(p: Array, q: Array) -> Array:
    """Jensen–Shannon distance √(8·JS(p, q)) of each pair of distributions, dimensionless, in [0, 2.355].

    8·JS = 2Σ_c s·h(d) with s = p + q, d = (p−q)/s and h(d) = (1+d)ln(1+d) + (1−d)ln(1−d), for |d| ≤ ½ in the form
    2d·atanh d + ln(1−d²): neither cancels, so that distances down to 1e-150 keep their digits. A metric; for
    small steps it equals :func:`fisher_angle`, and never exceeds it.

    Args:
        p: (..., C) float64, probabilities over the last axis.
        q: (..., C) float64.

    Returns:
        (...) float64.

    Source: E6; Endres & Schindelin 2003 (that it is a metric); Crooks 2007 (0706.0559).

    >>> print(f"{js_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])):.3f}")
    2.355
    """
    s = p + q
    d = np.divide(p - q, s, out=np.zeros_like(s), where=s > 0)
    small = np.where(np.abs(d) <= 0.5, d, 0.0)
    near = 2.0 * small * np.arctanh(small) + np.log1p(-small * small)
    # 1 ± d from p and q themselves: of d near 1 its difference from 1 has lost the digits.
    up, down = (np.divide(2.0 * x, s, out=np.ones_like(s), where=s > 0) for x in (p, q))
    far = _xlogx(up) + _xlogx(down)
    return np.asarray(np.sqrt(2.0 * np.sum(s * np.where(np.abs(d) <= 0.5, near, far), axis=-1)))


def _xlogx(x: Array) -> Array:
    return x * np.log(np.where(x > 0, x, 1.0))


def fisher_angle(p: Array, q: Array) -> Array:
    """Fisher angle 2·arccos Σ√(pq) of each pair of distributions, in [0, π]: their distance in the Fisher metric.

    Computed as 4·asin(½‖√p − √q‖) with √p − √q = (p−q)/(√p+√q), which does not cancel. A metric: the length of the
    shortest path between the two (the great circle of radius 2 on which √p moves).

    Args:
        p: (..., C) float64, probabilities over the last axis.
        q: (..., C) float64.

    Returns:
        (...) float64.

    Source: E6; Crooks 2007 (0706.0559).

    >>> print(f"{fisher_angle(np.array([1.0, 0.0]), np.array([0.0, 1.0])):.4f}")
    3.1416
    """
    s = np.sqrt(p) + np.sqrt(q)
    apart = np.divide(p - q, s, out=np.zeros_like(s), where=s > 0)
    return np.asarray(4.0 * np.arcsin(0.5 * np.sqrt(np.sum(apart * apart, axis=-1))))


@dataclass(frozen=True)
class LengthState:
    """A stretch of the path: its first and last outputs (n, C), and sums over its K steps for each of n predictions."""

    steps: int
    first: Array | None
    last: Array | None
    js: Array
    js_sq: Array
    angle: Array


@dataclass(frozen=True)
class Length:
    """How far the predictions travelled: means over the predictions, all dimensionless, with the error over them.

    Attributes:
        js: 𝓛_JS = Σ√(8·JS(p_k, p_k+1)).
        angle: 𝓛_F = Σ 2·arccos Σ√(p_k p_k+1).
        js_ends: √(8·JS(p_0, p_T)), at most ``js``.
        angle_ends: 2·arccos Σ√(p_0 p_T), at most ``angle``. ``js`` of coarse steps may lie below it.
        energy: K·Σ 8·JS, at least ``js``²: equal where every step is of one length (no friction wasted).
        probes: moments at which the outputs were looked at, K + 1.
        step: (K,) optimizer steps taken when each probe after the first was.
        js_path: (K,) 𝓛_JS so far.
        angle_path: (K,) 𝓛_F so far.
    """

    js: Estimate
    angle: Estimate
    js_ends: Estimate
    angle_ends: Estimate
    energy: Estimate
    probes: int
    step: Array
    js_path: Array
    angle_path: Array

    def slacks(self) -> dict[str, float]:
        """Return what each theorem leaves over, ≥ 0 but for rounding; empty where nothing was measured."""
        values = [e.value for e in (self.js, self.angle, self.js_ends, self.angle_ends, self.energy)]
        if any(value is None for value in values):
            return {}
        js, angle, js_ends, angle_ends, energy = (float(value or 0.0) for value in values)
        return {
            "L_JS ≤ L_F": angle - js,
            "√(8·JS(p_0,p_T)) ≤ L_JS": js - js_ends,
            "angle(p_0,p_T) ≤ L_F": angle - angle_ends,
            "L_JS² ≤ K·Σ8·JS": energy - js * js,
        }


class PathLength:
    """Thermodynamic length of a path of outputs, one probe at a time.

    ``merge(a, b)`` joins two stretches, a before b, with the step between them; it is associative, and order matters,
    as it does along a path.

    >>> length = PathLength()
    >>> state = length.init()
    >>> for p in (0.5, 0.6, 0.7):
    ...     state = length.update(state, np.array([[p, 1.0 - p]]))
    >>> print(f"{length.result(state).angle.value:.4f}")
    0.4115
    """

    def init(self) -> LengthState:
        """Return the state of no probe."""
        return LengthState(0, None, None, np.zeros(0), np.zeros(0), np.zeros(0))

    def update(self, state: LengthState, x: Array, /) -> LengthState:
        """Return the state with the outputs x, (n, C) float64, at one more moment.

        Raises:
            UsageError: x is not (n, C) finite probabilities, or not of the shape of those before.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or not x.size or not np.all(x >= 0) or not np.allclose(x.sum(-1), 1.0, rtol=0, atol=1e-6):
            raise UsageError(
                expected="probabilities (predictions, classes) that sum to 1 over the classes",
                got=f"an array of shape {x.shape} that are not",
                remedy="take the softmax of the logits in float64 first",
            )
        none = np.zeros(len(x))
        return self.merge(state, LengthState(0, x, x, none, none, none))

    def merge(self, a: LengthState, b: LengthState, /) -> LengthState:
        """Return the state of path a and then b.

        Raises:
            UsageError: the two are of other predictions.
        """
        if a.last is None or b.first is None:
            return b if a.last is None else a
        if a.last.shape != b.first.shape:
            raise UsageError(
                expected=f"outputs of the same predictions, {a.last.shape}",
                got=f"{b.first.shape}",
                remedy="probe one and the same batch along the whole run",
            )
        js, angle = js_distance(a.last, b.first), fisher_angle(a.last, b.first)
        return LengthState(
            a.steps + b.steps + 1,
            a.first,
            b.last,
            a.js + js + b.js,
            a.js_sq + js**2 + b.js_sq,
            a.angle + angle + b.angle,
        )

    def result(self, state: LengthState, /) -> Length:
        """Return the lengths of the path, means over its predictions."""
        none = np.zeros(0)
        if state.first is None or state.last is None or not state.steps:
            return _unknown(ONE_PROBE, 0 if state.first is None else 1)
        return Length(
            js=_mean(state.js),
            angle=_mean(state.angle),
            js_ends=_mean(js_distance(state.first, state.last)),
            angle_ends=_mean(fisher_angle(state.first, state.last)),
            energy=_mean(state.steps * state.js_sq),
            probes=state.steps + 1,
            step=none,
            js_path=none,
            angle_path=none,
        )


def _mean(x: Array) -> Estimate:
    stderr = float(np.std(x, ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else None
    return Estimate(float(np.mean(x)), stderr, "", Provenance.DERIVED, METHOD)


def _unknown(why: str, probes: int = 0) -> Length:
    unknown, none = Estimate.unknown("", why), np.zeros(0)
    return Length(unknown, unknown, unknown, unknown, unknown, probes, none, none, none)


def read_length(run: Run) -> Length:
    """Return the thermodynamic length of a run from the probes that it recorded.

    Every probe is a real point of the path, and both readings are metrics: a coarser cadence gives a shorter length,
    so these are lower bounds of the length over every optimizer step. ``why`` says so, and over how many predictions
    the mean is. Standard errors are over predictions; those of the ends and of the energy were not recorded.
    """
    table = run.table(LENGTH)
    rows = table.rows[np.all(np.isfinite(table.rows[:, :8]), axis=1)] if len(table) else table.rows
    if not len(rows):
        return _unknown(_why_none(run))
    table = replace(table, rows=rows)
    js_path, angle_path = np.cumsum(table["js"]), np.cumsum(table["angle"])
    predictions, classes = int(table["examples"][-1]), int(table["classes"][-1])
    why = (
        f"mean over {predictions} predictions of one probe batch ({classes} classes) at {len(rows) + 1} moments of the "
        f"run; a lower bound of the length over every step"
    )

    def said(value: float, stderr: float | None) -> Estimate:
        stderr = stderr if stderr is not None and math.isfinite(stderr) else None
        return Estimate(value, stderr, "", Provenance.DERIVED, METHOD, why)

    return Length(
        js=said(float(js_path[-1]), float(table["js_stderr"][-1])),
        angle=said(float(angle_path[-1]), float(table["angle_stderr"][-1])),
        js_ends=said(float(table["js_ends"][-1]), None),
        angle_ends=said(float(table["angle_ends"][-1]), None),
        energy=said(len(rows) * float(np.sum(table["js_sq"])), None),
        probes=len(rows) + 1,
        step=table["step"].copy(),
        js_path=js_path,
        angle_path=angle_path,
    )


def _why_none(run: Run) -> str:
    taps = (run.meta.get("physics") or {}).get("taps") or {}
    told = (taps.get("length") or {}).get("why")
    return f"needs a probe batch's outputs: {told}" if told else NO_PROBE
