"""A run with known truth, made from a formula: what reports, accounts and equations are tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.ports import Signal
from ergometry.core.run import Run, SampleTable, Table
from ergometry.work.coefficients import Coefficients

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

MEMORY_MODEL = Signal(
    domain="node0/dram",
    quantity="energy_j",
    provenance="modelled",
    method="memory model, 64 GiB",
    rel_stderr=0.4,
    static_w=6.0,
    static_rel_stderr=0.4,
)
BOARD = Signal(
    domain="node0/gpu0",
    quantity="energy_j",
    provenance="measured",
    method="NVML energy counter",
    resolution_j=1e-3,
    update_period_s=0.1,
    rel_stderr=0.05,
    max_power_w=3000.0,
    device="cuda:0",
)
NODE = Signal(
    domain="node0",
    quantity="power_w",
    provenance="measured",
    method="IPMI power of the node",
    update_period_s=1.0,
    averaging_s=1.0,
    rel_stderr=0.02,
    resolution_w=1.0,
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
            (
                k,
                g2,
                0.1 * g2,
                d2,
                0.1 * d2,
                0.9 * np.sqrt(g2 * d2),
                1e-6,
                2000.0,
                1e5,
                5e-5,
                np.sqrt(g2 * d2),
                1e-6,
                1,
                1,
            )
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
        "process": table(
            series.PROCESS, [(0.0, 0.1, 1e8, 0.01, 0.2), (duration, 1.9 * duration, 3e8, 0.05, 2.5 * duration)]
        ),
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


Power = Callable[[np.ndarray], np.ndarray] | float


def with_source(
    run: Run,
    source: str,
    powers_w: Mapping[Signal, Power],
    *,
    sampling_hz: float = 10.0,
    failed_s: Iterable[tuple[float, float]] = (),
    until_s: float | None = None,
) -> Run:
    """Return the run with one more sensor, whose signals read these powers exactly.

    Args:
        run: a synthetic run.
        source: the sensor's name.
        powers_w: each signal's true power, W, as a constant or a function of time.
        sampling_hz: of this sensor.
        failed_s: stretches in which each reading is NaN.
        until_s: after this it was not read.
    """
    end_s = run.duration_s if until_s is None else until_s
    at = np.append(np.arange(0.0, end_s, 1 / sampling_hz), end_s)
    columns = [at]
    for signal, power in powers_w.items():
        fine = np.linspace(0.0, end_s, 20 * len(at))
        p = power(fine) if callable(power) else np.full_like(fine, power)
        energy = np.concatenate(([0.0], np.cumsum(0.5 * (p[1:] + p[:-1]) * np.diff(fine))))
        read = np.interp(at, fine, p if signal.quantity == "power_w" else energy)
        for t0, t1 in failed_s:
            read[(at >= t0) & (at <= t1)] = np.nan
        columns.append(read)
    names = ("t_s", *(f"c{i}" for i in range(len(powers_w))))
    table = Table(names, np.column_stack(columns))
    return replace(run, samples=(*run.samples, SampleTable(source, tuple(powers_w), table)))


def board(number: int, **changes: Any) -> Signal:
    """Return the signal of one more accelerator."""
    return replace(BOARD, domain=f"node0/gpu{number}", device=f"cuda:{number}", **changes)


def with_health(run: Run, *boards: Mapping[str, Power], each_s: float = 1.0) -> Run:
    """Return the run with the health of boards 0, 1, …: a column's constant or function of time; others are NaN."""
    at = np.arange(0.0, run.duration_s, each_s)
    rows = []
    for number, told in enumerate(boards):
        values = np.full((len(at), len(series.HEALTH.columns)), np.nan)
        values[:, 0], values[:, 1] = at, number
        for name, value in told.items():
            values[:, series.HEALTH.columns.index(name)] = value(at) if callable(value) else value
        rows.append(values)
    table = Table(series.HEALTH.columns, np.concatenate(rows))
    return replace(run, tables={**run.tables, series.HEALTH.name: table})


#: A board at work and well.
WELL = {
    "clock_hz": 1.98e9,
    "max_clock_hz": 1.98e9,
    "memory_clock_hz": 2.6e9,
    "temperature_c": 61.0,
    "power_limit_w": 700.0,
    "utilisation": 0.97,
    "memory_utilisation": 0.4,
    "throttle": 0.0,
    "process_utilisation": 0.97,
    "pcie_tx_bytes_per_s": 4e8,
    "pcie_rx_bytes_per_s": 1.2e9,
}


def profile(phase: str, root: str, items: Iterable[tuple[str, str, str, float, float, float, float]]) -> dict[str, Any]:
    """Return a profile; an item is module, operator, dtype, calls, FLOP, bytes of parameters and of examples."""
    rows = [[m, op, dtype, calls, flops, p, 0.0, e, 0.0, 0.0] for m, op, dtype, calls, flops, p, e in items]
    return {"phase": phase, "root": root, "items": rows}


def language_model(blocks: int = 4, dtype: str = "bf16") -> list[dict[str, Any]]:
    """Return the profiles of a step of a language model: 16 TFLOP and 50 GB, for a board that does 400 TFLOP/s."""

    def passed(times: float) -> list[tuple[str, str, str, float, float, float, float]]:
        found = [("embed", "embedding", dtype, 1.0, 0.0, 0.0, times * 4e8)]
        for i in range(blocks):
            block, part = f"blocks.{i}", 4.0 / blocks * times
            found += [
                (f"{block}.norm", "layer_norm", dtype, 2.0, part * 1e9, 0.0, part * 4e8),
                (f"{block}.attention.qkv", "mm", dtype, 1.0, part * 2.5e11, part * 1e8, part * 3e8),
                (f"{block}.attention", "scaled_dot_product_attention", dtype, 1.0, part * 1e11, 0.0, part * 2e8),
                (f"{block}.attention.out", "mm", dtype, 1.0, part * 1e11, part * 4e7, part * 2e8),
                (f"{block}.feed.0", "mm", dtype, 1.0, part * 3.5e11, part * 1e8, part * 3e8),
                (f"{block}.feed.1", "gelu", dtype, 1.0, part * 2e9, 0.0, part * 3e8),
                (f"{block}.feed.2", "mm", dtype, 1.0, part * 3.5e11, part * 1e8, part * 3e8),
            ]
        return [
            *found,
            ("head", "mm", dtype, 1.0, times * 7e11, times * 2e8, times * 4e8),
            ("", "cross_entropy", dtype, 1.0, times * 1e9, 0.0, times * 4e8),
        ]

    names = sorted({name for name, *_ in passed(1.0) if name})
    moved = [(name, "adamw", dtype, 1.0, 1e9 / len(names), 2e10 / len(names), 0.0) for name in names]
    return [
        profile("forward", "Language", passed(1.0)),
        profile("backward", "Language", passed(2.0)),
        profile("optimizer", "AdamW", moved),
    ]


def with_counts(run: Run, profiles: list[dict[str, Any]], calibration: Coefficients | None = None) -> Run:
    """Return the run as one of which each step used every profile once, and where there is one, its calibration."""
    steps = run.table(series.STEPS)
    sums = {phase: np.zeros(3) for phase in ("forward", "backward", "optimizer")}
    for entry in profiles:
        for *_, flops, p, pw, e, ew, _ in entry["items"]:
            sums[entry["phase"]] += np.array([flops, p + pw + e + ew, p + pw])
    flops, moved, of_parameters = (list(column) for column in zip(*sums.values(), strict=True))
    work = [(k, *flops, *moved, sum(of_parameters), 0.0, 0.0, 0.0) for k in steps["step"]]
    counted = steps.rows.copy()
    counted[:, series.STEPS.columns.index("flops")] = sum(flops)
    uses = [(run.duration_s, number, float(len(steps)), len(steps) - 1) for number in range(len(profiles))]
    meta = {**run.meta, "profiles": profiles}
    if calibration is not None:
        meta["calibrations"] = {calibration.device: calibration.to_json()}
    tables = {
        **run.tables,
        "steps": Table(steps.columns, counted),
        "work": Table(series.WORK.columns, np.array(work, dtype=float).reshape(-1, len(series.WORK.columns))),
        "profile_uses": Table(series.PROFILE_USES.columns, np.array(uses, dtype=float)),
    }
    return replace(run, meta=meta, tables=tables)
