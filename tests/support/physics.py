"""Stored runs whose physics is known: SGD on linear regression, simulated in float64, as the taps would write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.run import Run, Table
from ergometry.estimators.path_length import js_distance

MODULES = ("blocks.0", "blocks.1")


@dataclass(frozen=True)
class Truth:
    """The training as it was: one row per step, K steps, N parameters.

    Attributes:
        before: (K,) ℓ_Bk(θ_k).
        after: (K,) ℓ_Bk(θ_k+1).
        following: (K,) ℓ_Bk+1(θ_k+1), NaN of the last.
        gradient: (K, N) of the batch at θ_k.
        gradient_after: (K, N) of the same batch at θ_k+1.
        moves: (K, N) Δθ.
        expected: (K, N) G, of all examples at θ_k.
        trace_cov: (K,) trΣ at θ_k.
        hessian: (N, N) of the mean loss.
        covariance: (N, N) Σ at the end.
        theta: (K + 1, N).
        angles: (K + 1,) the one angle by which the probe's outputs turn.
        design: (n, N) the examples.
        learning_rate: η.
        momentum: μ.
        batch: B.
    """

    before: np.ndarray
    after: np.ndarray
    following: np.ndarray
    gradient: np.ndarray
    gradient_after: np.ndarray
    moves: np.ndarray
    expected: np.ndarray
    trace_cov: np.ndarray
    hessian: np.ndarray
    covariance: np.ndarray
    theta: np.ndarray
    angles: np.ndarray
    design: np.ndarray
    learning_rate: float
    momentum: float
    batch: int

    @property
    def heat(self) -> np.ndarray:
        """(K,) Q of each step."""
        return self.before - self.after

    @property
    def work(self) -> np.ndarray:
        """(K,) W of each step, NaN of the last."""
        return self.following - self.after

    @property
    def midpoint(self) -> np.ndarray:
        """(K,) −½(g+g⁺)·Δθ."""
        return -0.5 * np.sum((self.gradient + self.gradient_after) * self.moves, axis=1)

    @property
    def midpoint_path(self) -> np.ndarray:
        """(K,) ½(|g|+|g⁺|)|Δθ|."""
        norms = np.linalg.norm(self.gradient, axis=1) + np.linalg.norm(self.gradient_after, axis=1)
        return 0.5 * norms * np.linalg.norm(self.moves, axis=1)


def simulate(
    steps: int,
    *,
    learning_rate: float = 0.05,
    momentum: float = 0.0,
    batch: int = 8,
    parameters: int = 6,
    seed: int = 0,
) -> Truth:
    """Train on 64 examples, drawn with replacement, by heavy-ball SGD."""
    random = np.random.default_rng(seed)
    n = 64
    x = random.normal(size=(n, parameters)) * np.linspace(0.5, 1.5, parameters)
    y = x @ random.normal(size=parameters) + 0.5 * random.normal(size=n)
    theta, velocity = [random.normal(size=parameters)], np.zeros(parameters)
    rows = [random.integers(n, size=batch) for _ in range(steps)]

    def each(at: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return (x[chosen] @ at - y[chosen])[:, None] * x[chosen]

    gradient, gradient_after = np.empty((steps, parameters)), np.empty((steps, parameters))
    for k, chosen in enumerate(rows):
        gradient[k] = each(theta[-1], chosen).mean(0)
        velocity = momentum * velocity - learning_rate * gradient[k]
        theta.append(theta[-1] + velocity)
        gradient_after[k] = each(theta[-1], chosen).mean(0)
    path = np.array(theta)
    residual = path @ x.T - y  # (K + 1, n)
    chosen = np.array(rows)
    now = np.arange(steps)[:, None]
    losses = 0.5 * np.mean(residual[now, chosen] ** 2, 1)
    expected = residual @ x / n
    trace_cov = residual**2 @ np.sum(x**2, 1) / n - np.sum(expected**2, 1)
    return Truth(
        before=losses,
        after=0.5 * np.mean(residual[now + 1, chosen] ** 2, 1),
        following=np.append(losses[1:], np.nan),
        gradient=gradient,
        gradient_after=gradient_after,
        moves=np.diff(path, axis=0),
        expected=expected[:-1],
        trace_cov=trace_cov[:-1],
        hessian=x.T @ x / n,
        covariance=np.cov(each(path[-1], np.arange(n)).T, bias=True),
        theta=path,
        angles=np.cumsum(np.concatenate(([0.3], random.uniform(-0.05, 0.1, steps)))),
        design=x,
        learning_rate=learning_rate,
        momentum=momentum,
        batch=batch,
    )


def with_physics(run: Run, *, every: int = 1, drop: Sequence[str] = (), **how: Any) -> tuple[Run, Truth]:
    """Return the run as one of that training, with every table of the thermodynamic ledger, and what was true.

    The noise rows hold the expectations of |g|² at two batch sizes, so that what is read of them is exact.

    Args:
        run: a run whose steps this becomes.
        every: steps from one that the taps looked at to the next.
        drop: names of tables to leave out.
        how: of :func:`simulate`.
    """
    steps = run.table(series.STEPS)
    k = np.arange(len(steps), dtype=float)
    truth = simulate(len(steps), **how)
    t, n = steps["t1_s"], truth.theta.shape[1]
    looked = k % every == 0
    zero, cost = np.zeros_like(k), np.full_like(k, 1e-4)
    g2, d2 = np.sum(truth.gradient**2, 1), np.sum(truth.moves**2, 1)
    ito = -np.sum(truth.gradient * truth.moves, 1)
    squared, halves = np.sum(truth.expected**2, 1), truth.batch // 2
    whole = np.full_like(k, n)
    none = np.full_like(k, np.nan)
    mean = np.cumsum(truth.theta[:-1], 0) / (k + 1)[:, None]
    virial = np.sum((truth.theta[:-1] - mean) * truth.gradient, 1)
    theta_g = np.sum(truth.theta[:-1] * truth.gradient, 1)
    counted = steps.rows.copy()
    for name, values in (("step", k), ("examples", truth.batch), ("tokens", np.nan)):
        counted[:, series.STEPS.columns.index(name)] = values
    noise = (k, 3 + zero, halves + zero, truth.batch + zero, squared + truth.trace_cov / halves)
    law = (k, t, truth.before, truth.after, truth.midpoint, zero)
    ledger = (k, g2, zero, d2, zero, ito, zero, whole, whole, cost, np.sqrt(g2 * d2), zero, 1 + zero, 1 + zero)
    tables = {
        series.STEPS: (tuple(counted.T), k >= 0),
        series.LOSSES: ((k, t, truth.before), k >= 0),
        series.LEARNING_RATES: ((zero[:1], zero[:1], zero[:1], zero[:1] + truth.learning_rate), [True]),
        series.LEDGER: (ledger, looked),
        series.FIRST_LAW: (
            (*law, truth.midpoint_path, zero, 1 + zero, whole, whole, cost),
            looked,
        ),
        series.NOISE: (
            (*noise, squared + truth.trace_cov / truth.batch, none, none, none, whole, whole, none, cost),
            looked,
        ),
        series.EQUILIBRIUM: (
            (k, theta_g, zero, d2, zero, virial, zero, truth.momentum + zero, 1 + zero, whole, whole, cost),
            looked,
        ),
        series.LENGTH: (_length(truth, k, t, looked), slice(None)),
        series.CURVATURE: (_curvature(truth, k, t), slice(None)),
        series.INFORMATION: (_information(truth, run.duration_s), slice(None)),
        series.MODULE_WORK: (_modules(truth, run.duration_s, looked), slice(None)),
    }
    made = {
        kind.name: Table(kind.columns, np.column_stack(columns)[chosen].astype(float))
        for kind, (columns, chosen) in tables.items()
        if kind.name not in drop
    }
    taps = {
        name: {"uses": int(looked.sum()), "steps": len(k), "cost_s": 1e-4 * looked.sum(), "share": 0.01, "why": ""}
        for name in ("first_law", "noise", "equilibrium", "length", "curvature", "information")
    }
    meta = {**run.meta, "parameters": n, "physics": {"level": "full", "taps": taps}, "physics_modules": list(MODULES)}
    meta["information"] = {"modules": list(MODULES), "prior": ""}
    kept = {name: table for name, table in run.tables.items() if name not in {kind.name for kind in tables}}
    return replace(run, tables={**kept, **made}, meta=meta), truth


def _length(truth: Truth, k: np.ndarray, t: np.ndarray, looked: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return rows of two classes whose outputs turn by one angle a: p = (cos²(a/2), sin²(a/2))."""
    at = np.flatnonzero(looked)
    p = np.column_stack((np.cos(0.5 * truth.angles) ** 2, np.sin(0.5 * truth.angles) ** 2))[:-1]
    a, b = at[:-1], at[1:]
    turned, js = np.abs(truth.angles[b] - truth.angles[a]), js_distance(p[a], p[b])
    ends = np.abs(truth.angles[b] - truth.angles[0])
    one = np.ones(len(b))
    tail = (js_distance(p[[0] * len(b)], p[b]), ends, 16 * one, 2 * one, 0 * one, 0 * one, 1e-4 * one)
    return (k[b], t[b], js, js**2, turned, turned**2, *tail)


def _curvature(truth: Truth, k: np.ndarray, t: np.ndarray) -> list[list[float]]:
    h, g = truth.hessian, truth.expected[-1]
    found = (np.linalg.eigvalsh(h)[-1], g @ h @ g, np.trace(h), np.trace(h @ truth.covariance))
    row = [k[-1], t[-1], *(x for value in found for x in (value, 0.0)), g @ g, 1.0, 20.0, 0.1]
    return np.array(row)[:, None].tolist()


def logdet(truth: Truth, part: slice = slice(None), precision: float = 1.0) -> float:
    """Return ½logdet(1 + XᵀX/λ) of the parameters in ``part``, by eigenvalues."""
    x = truth.design[:, part]
    return float(0.5 * np.sum(np.log1p(np.linalg.eigvalsh(x.T @ x) / precision)))


def parts(truth: Truth) -> tuple[slice, slice]:
    """Return the parameters of the two modules."""
    half = truth.theta.shape[1] // 2
    return slice(None, half), slice(half, None)


def _information(truth: Truth, t: float) -> list[list[float]]:
    last, n = len(truth.before) - 1.0, float(truth.theta.shape[1])
    rows = [[last, t, 1.0, -1.0, logdet(truth), np.nan, n, 64.0, 1.0, 0.01]]
    rows += [[last, t, 4.0, i, logdet(truth, p), np.nan, n / 2, 64.0, 1.0, 0.01] for i, p in enumerate(parts(truth))]
    return np.array(rows).T.tolist()


def _modules(truth: Truth, t: float, looked: np.ndarray) -> list[list[float]]:
    rows = []
    for number, part in enumerate(parts(truth)):
        g, g_after, d = (x[looked][:, part] for x in (truth.gradient, truth.gradient_after, truth.moves))
        sums = (-(g * d).sum(), 0.0, -0.5 * ((g + g_after) * d).sum(), (g * g).sum(), (d * d).sum())
        rows += [[0.5 * t, number, 1.0, 99.0, 0.0, 99.0, 99.0, 99.0], [t, number, looked.sum(), *sums]]
    return np.array(rows).T.tolist()
