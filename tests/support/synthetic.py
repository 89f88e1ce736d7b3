"""A run with known truth, made from a formula: what reports, accounts and equations are tested on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.ports import Signal
from ergometry.core.run import Run, SampleTable, Table

PACKAGE = Signal(
    domain="node0/package0",
    quantity="energy_j",
    provenance="measured",
    method="rapl package-0",
    resolution_j=6.1e-5,
    update_period_s=0.001,
    wrap_j=262143.32885,
    max_power_w=2000.0,
)
MODELLED = Signal(
    domain="node0/cpu",
    quantity="energy_j",
    provenance="modelled",
    method="cpu load model",
    rel_stderr=0.3,
    static_w=8.0,
    static_rel_stderr=0.5,
)

PHASES_S = {"data_s": 0.01, "forward_s": 0.02, "backward_s": 0.04, "optimizer_s": 0.02, "other_s": 0.01}


def synthetic_run(
    steps: int = 200,
    *,
    power_w: Callable[[np.ndarray], np.ndarray] | float = 50.0,
    signal: Signal = PACKAGE,
    sampling_hz: float = 10.0,
    evaluate_every: int = 50,
    evaluation_s: float = 0.5,
    path: Path = Path("erg-runs/20260102-030405-abcd"),
    **meta: Any,
) -> Run:
    """Return a run of equal 0.1 s steps with an evaluation every ``evaluate_every`` steps, at a known power."""
    rows, losses, ledger, evaluations = [], [], [], []
    t = 0.5  # imports, before the first step
    for k in range(steps):
        if k and k % evaluate_every == 0:
            evaluations.append((t, t + evaluation_s, 4.0, 128.0, k - 1))
            t += evaluation_s
        t1 = t + sum(PHASES_S.values())
        rows.append((k, t, t1, *PHASES_S.values(), 32.0, 2048.0, 1.0, 6e9, 1.0, 0.0))
        loss = 2.0 + 3.5 * np.exp(-k / 60)
        losses.append((k, t1, loss))
        g2, d2 = 0.04 * loss, 4e-6 * loss
        ledger.append(
            (k, g2, 0.1 * g2, d2, 0.1 * d2, 0.9 * np.sqrt(g2 * d2), 1e-6, 2000.0, 1e5, 5e-5, np.sqrt(g2 * d2), 1e-6)
        )
        t = t1
    duration = t + 0.25
    at = np.arange(0.0, duration + 1 / sampling_hz, 1 / sampling_hz)
    fine = np.linspace(0, at[-1], 20 * len(at))
    p = power_w(fine) if callable(power_w) else np.full_like(fine, power_w)
    energy = np.concatenate(([0.0], np.cumsum(0.5 * (p[1:] + p[:-1]) * np.diff(fine))))
    counter = np.interp(at, fine, energy)
    if signal.quantity == "power_w":
        counter = np.interp(at, fine, p)
    elif signal.wrap_j:
        counter = (counter + signal.wrap_j - 100.0) % signal.wrap_j  # it wraps after 100 J
    samples = Table(("t_s", "c0"), np.column_stack((at, counter)))

    def table(kind: series.Series, data: list[tuple[float, ...]]) -> Table:
        return Table(kind.columns, np.array(data, dtype=float).reshape(-1, len(kind.columns)))

    tables = {
        "steps": table(series.STEPS, rows),
        "losses": table(series.LOSSES, losses),
        "ledger": table(series.LEDGER, ledger),
        "evaluations": table(series.EVALUATIONS, evaluations),
        "learning_rates": table(series.LEARNING_RATES, [(0, 0, 0, 0.01), (100, 0, 0, 0.001)]),
        "memory": table(series.MEMORY, [(1.0, -1, 2.0e8), (duration, -1, 3.0e8)]),
        "overhead": table(series.OVERHEAD, [(duration, 0.01, 0.02, 4000, 0.004)]),
        "process": table(series.PROCESS, [(0.0, 0.1, 1e8, 0.01), (duration, 1.9 * duration, 3e8, 0.05)]),
    }
    base = {
        "id": path.name,
        "name": None,
        "tags": [],
        "command": ["train.py", "--lr", "0.01"],
        "cwd": "/home/user/project",
        "started": "2026-01-02T03:04:05Z",
        "host": "node0",
        "python": "3.11.7",
        "torch": "2.13.0",
        "devices": ["cpu"],
        "parameters": 100000,
        "classes": 256,
        "inferred": {
            "examples": "the first tensor's first dimension",
            "tokens": "its first two dimensions, being integers",
        },
        "sampling_hz": sampling_hz,
    }
    return Run(
        path=path,
        status="completed",
        duration_s=duration,
        meta={**base, **meta},
        tables=tables,
        samples=(SampleTable("rapl", (signal,), samples),),
        exit_status=0,
        disk_bytes=123456,
    )
