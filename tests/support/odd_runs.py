"""Runs that are unlike others: what every report must take as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.notices import Notice
from ergometry.core.run import Run, SampleTable, Table
from support.synthetic import MODELLED, PACKAGE, synthetic_run


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


ODD_RUNS = {
    "measured": lambda: synthetic_run(power_w=wave),
    "modelled": modelled,
    "several domains": memory_and_core,
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
