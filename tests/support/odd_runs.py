"""Runs that are unlike others: what every report must take as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.notices import Notice
from ergometry.core.run import Run, SampleTable, Table
from support.calibrations import FOUND
from support.synthetic import (
    BOARD,
    MEMORY_MODEL,
    MODELLED,
    NODE,
    PACKAGE,
    WELL,
    board,
    language_model,
    profile,
    synthetic_run,
    with_counts,
    with_health,
    with_source,
)


def with_table(run: Run, kind: series.Series, rows: Any) -> Run:
    """Return the run with the rows of one table replaced."""
    table = Table(kind.columns, np.asarray(rows, dtype=float).reshape(-1, len(kind.columns)))
    return replace(run, tables={**run.tables, kind.name: table})


def with_samples(run: Run, count: int) -> Run:
    """Return the run with the first samples of each sensor alone."""
    kept = [replace(s, table=Table(s.table.columns, s.table.rows[:count])) for s in run.samples]
    return replace(run, samples=tuple(kept))


def wave(t_s: Any) -> Any:
    """Return a power that changes all the time, W."""
    return 50.0 + 20.0 * np.sin(t_s / 3.0) + 6.0 * np.sin(5.1 * t_s)


def modelled() -> Run:
    """Return a run without a power sensor, in which training waited for its data and went on too long."""
    run = synthetic_run(
        600,
        power_w=wave,
        signal=MODELLED,
        name="baseline",
        tags=["first", "cpu"],
        command=["train.py", "--api-key", "abc123", "--lr", "0.1"],
    )
    steps = run.table(series.STEPS).rows.copy()
    steps[:, 3] += 0.015  # data_s, at the cost of other_s and backward_s
    steps[:, 7] -= 0.01
    steps[:, 5] -= 0.005
    notice = Notice("sensor.absent", "no /sys/class/powercap/intel-rapl, and no NVIDIA driver")
    return replace(with_table(run, series.STEPS, steps), notices=(notice, notice))


def nan_losses() -> Run:
    """Return a run whose losses became NaN after the third step."""
    run = synthetic_run(20)
    losses = run.table(series.LOSSES).rows.copy()
    losses[3:, 2] = np.nan
    return with_table(run, series.LOSSES, losses)


def unlabelled() -> Run:
    """Return a run of which nothing is known but its folder and its time."""
    return Run(synthetic_run(1).path, "interrupted", 3.0, {}, {})


def hostile() -> Run:
    """Return a run whose labels try to be markup."""
    attack = "</script><script>alert(1)</script><!-- & | * ` \u2028"
    return replace(synthetic_run(5, name=attack, tags=[attack], command=["x.py", attack], host=attack), dropped=3)


def memory_and_core() -> Run:
    """Return a run with a package, the core inside it, memory beside it, and an accelerator that is a power."""
    run = synthetic_run(40, power_w=wave)
    t_s = run.samples[0].table["t_s"]
    core = replace(PACKAGE, domain="node0/package0/core", method="rapl core", wrap_j=None)
    dram = replace(PACKAGE, domain="node0/dram0", method="rapl dram", wrap_j=None)
    gpu = replace(PACKAGE, domain="node0/gpu0", quantity="power_w", method="nvml gpu0", wrap_j=None, device="cuda:0")
    rows = np.column_stack((t_s, 30.0 * t_s, 4.0 * t_s, 200.0 + 0.0 * t_s))
    more = SampleTable("more", (core, dram, gpu), Table(("t_s", "c0", "c1", "c2"), rows))
    return replace(run, samples=(*run.samples, more))


def mixed() -> Run:
    """Return a run whose two boards were measured, one hot and one waiting, and whose processors were modelled."""
    run = synthetic_run(600, signal=replace(MODELLED, static_w=20.0), power_w=40.0, name="mixed", devices=["H100"])
    run = with_source(run, "memory_model", {MEMORY_MODEL: 8.0})
    run = with_source(run, "nvml", {BOARD: wave, board(1): 120.0}, failed_s=[(20.0, 32.0)])
    hot = {"throttle": lambda t: np.where(t > 20.0, float(series.HEAT), 0.0), "clock_hz": hot_clock}
    hot["temperature_c"] = lambda t: np.minimum(60.0 + t, 88.0)
    capped = {"throttle": float(series.POWER_CAP), "clock_hz": 1.6e9, "utilisation": 0.3}
    run = with_health(run, WELL | hot, WELL | capped)
    device = [(k, d, 0.0, 0.03, 0.06, 0.005, 0.0, 0.0) for k in range(600) for d in (0, 1)]
    return replace(with_table(run, series.DEVICE_STEPS, device), notices=(Notice("sensor.failed", "nvml", 20.0),))


def hot_clock(t_s: Any) -> Any:
    """Return a clock that heat holds down to two thirds from 20 s on, Hz."""
    return np.where(t_s > 20.0, 1.32e9, 1.98e9)


def whole_node() -> Run:
    """Return a run whose node is metered as a whole, with the package, the memory and a board in it."""
    run = synthetic_run(300, power_w=60.0, devices=["H100"])
    dram = replace(PACKAGE, domain="node0/dram0", method="rapl dram", wrap_j=None)
    run = with_source(run, "more", {dram: 5.0, BOARD: 250.0})
    return with_health(with_source(run, "ipmi", {NODE: 420.0}, sampling_hz=1.0), WELL)


def wrong_health() -> Run:
    """Return a run whose boards tell nonsense: no number, no time, clocks and shares that cannot be."""
    run = with_health(synthetic_run(20), WELL)
    rows = run.table(series.HEALTH).rows.copy()
    rows = np.vstack([rows, rows, rows[:1]])
    rows[0, 1], rows[1, 0], rows[2, 2:] = np.nan, np.nan, np.inf
    rows[-1, 2:] = -1.0
    return with_table(run, series.HEALTH, rows)


def attributed() -> Run:
    """Return a run on a calibrated board, of which every operator was counted."""
    run = synthetic_run(300, signal=BOARD, power_w=171.0, name="language", devices=["A Board"], parameters=25e6)
    device = [(k, 0, 0.01, 0.02, 0.04, 0.02, 0.01, 0.0) for k in range(300)]
    return with_counts(with_table(run, series.DEVICE_STEPS, device), language_model(), FOUND)


def uncalibrated() -> Run:
    """Return a run of which every operator was counted, on a board that was never calibrated."""
    return with_counts(synthetic_run(50, signal=BOARD, power_w=171.0, devices=["A Board"]), language_model())


def little_work() -> Run:
    """Return a calibrated run of small operators, most of whose time goes by without them, on a modelled board."""
    tiny = [
        profile(
            "forward", "Net", [("a|b", "mm", "bf16", 400.0, 4e9, 1e7, 1e7), ("", "relu", "bf16", 400.0, 0.0, 0.0, 4e8)]
        ),
        profile("backward", "Net", [("a|b", "mm", "bf16", 800.0, 8e9, 1e7, 1e7)]),
        profile("optimizer", "SGD", [("", "sgd", "bf16", 100.0, 1e6, 1e8, 0.0)]),
    ]
    weak = replace(BOARD, provenance="modelled", method="load model of the board", rel_stderr=0.4)
    return with_counts(synthetic_run(200, signal=weak, power_w=90.0, devices=["A Board"]), tiny, FOUND)


ODD_RUNS = {
    "measured": lambda: synthetic_run(power_w=wave),
    "modelled": modelled,
    "several domains": memory_and_core,
    "mixed": mixed,
    "whole node": whole_node,
    "wrong health": wrong_health,
    "attributed": attributed,
    "uncalibrated": uncalibrated,
    "little work": little_work,
    "in progress": lambda: replace(synthetic_run(30), status="running", exit_status=None),
    "no steps": lambda: synthetic_run(0),
    "one step": lambda: synthetic_run(1),
    "no samples": lambda: replace(synthetic_run(5), samples=()),
    "one sample": lambda: with_samples(synthetic_run(5), 1),
    "failed reads": lambda: with_samples(synthetic_run(5), 0),
    "NaN losses": nan_losses,
    "no time": lambda: replace(synthetic_run(0), duration_s=0.0),
    "unlabelled": unlabelled,
    "hostile": hostile,
}
"""Name -> a function that makes the run."""
