"""Trainings on a simulated accelerator: each joule's phase, component and module is known, a sensor is in front.

The board is calibrated through the same sensor first, so that the coefficients that attribution begins with are as
noisy as a real calibration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, SampleTable, Table
from ergometry.core.trace import Trace
from ergometry.sensors.accelerator import Accelerator, Load, Stretch, Work
from ergometry.sensors.simulated import Front, SimulatedSensor, describe
from ergometry.work.coefficients import Coefficients
from ergometry.work.roofline import Kernel, fit_energy, peak_rates

BF16 = Accelerator(60.0, 0.6e-12, 3e-11, 400e12, 2e12)
FP32 = replace(BF16, j_per_flop=8e-12, flop_per_s=50e12)
UNITS = {"bf16": BF16, "fp32": FP32}
"""One board: its static power and memory are the same for each dtype."""

COUNTER = Front("energy_j", 0.1, resolution=1e-3, start_j=1e6)
PART_TIME = Front("energy_j", 0.1, averaging_s=0.025, resolution=1e-3, start_j=1e6)
POWER = Front("power_w", 0.1, averaging_s=1.0, resolution=1e-3)

PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Op:
    """What one operator of one module does in the forward pass of a step of usual length; backward does twice of it."""

    module: str
    op: str
    dtype: str
    flops: float
    bytes: float
    parameter_bytes: float = 0.0


def transformer(width: float = 1.0, blocks: int = 4) -> list[Op]:
    """Return a model of matrix products and of operators that move bytes; ``width`` scales the products."""
    found = [Op("embed", "embedding", "bf16", 0.0, 2e10, 4e9)]
    for i in range(blocks):
        path = f"blocks.{i}"
        found += [
            Op(f"{path}.norm", "layer_norm", "fp32", 2e10, 2.4e10, 1e6),
            Op(f"{path}.attention", "addmm", "bf16", 4e12 * width, 1.2e10, 2e9),
            Op(f"{path}.attention", "sdpa", "bf16", 1.5e12 * width, 6e9),
            Op(f"{path}.feed", "addmm", "bf16", 9e12 * width, 2e10, 5e9),
            Op(f"{path}.feed", "gelu", "fp32", 8e10, 4e10),
        ]
    return [*found, Op("head", "addmm", "bf16", 5e12 * width, 3e10, 4e9), Op("", "cross_entropy", "fp32", 3e10, 3e10)]


MODELS = {"mixed": transformer(), "compute-bound": transformer(4.0), "memory-bound": transformer(0.05)}


@dataclass
class Truth:
    """Joules of a training as they were: by phase, component and module, and of both."""

    total: float = 0.0
    by_component: dict[str, float] = field(default_factory=dict)
    by_phase: dict[str, float] = field(default_factory=dict)
    by_module: dict[str, float] = field(default_factory=dict)
    by_both: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, phase: str, module: str | None, **joules: float) -> None:
        """Book joules by component."""
        for component, j in joules.items():
            self.total += j
            self.by_component[component] = self.by_component.get(component, 0.0) + j
            self.by_phase[phase] = self.by_phase.get(phase, 0.0) + j
            self.by_both[phase, component] = self.by_both.get((phase, component), 0.0) + j
            if module is not None:
                self.by_module[module] = self.by_module.get(module, 0.0) + j


def calibrate(front: Front, *, seed: int = 0, hz: float = 10.0, rel_stderr: float = 0.0, each_s: float = 3.0) -> Any:
    """Return the coefficients that a calibration of the board finds through a sensor."""
    kinds: list[tuple[str, str, float, float]] = [("idle", "bf16", 0.0, 0.0), ("copy", "bf16", 0.0, 1.0)]
    kinds += [(f"{d} at {i:g}", d, i, 1.0) for d in UNITS for i in (1.0, 8.0, 32.0, 128.0, 512.0, 4096.0)]
    stretches, spans = [], []
    at = 0.0
    for name, dtype, intensity, moved in kinds * 3:
        unit = UNITS[dtype]
        rate = unit.do(Work(intensity * 1e9, moved * 1e9)).seconds
        times = each_s / rate if rate else 0.0
        stretch = unit.do(Work(intensity * 1e9 * times, moved * 1e9 * times, each_s))
        stretches.append(stretch)
        spans.append((name, dtype, intensity * 1e9 * times, moved * 1e9 * times, at, at + stretch.seconds))
        at += stretch.seconds
    trace = read(Load(stretches), at, front, seed=seed, hz=hz)[1]
    kernels = []
    for name, dtype, flops, moved, begin, end in spans:
        t0, t1 = begin + 0.1 * each_s, end  # as the procedure warms up first
        share = (t1 - t0) / (end - begin)
        energy = trace.energy(t0, t1)
        kernels.append(
            Kernel(
                name,
                t1 - t0,
                {dtype: share * flops} if flops else {},
                share * moved,
                joules=energy.value,
                stderr_j=energy.stderr,
            )
        )
    fit = fit_energy(kernels, shared_rel_stderr=rel_stderr)
    peaks, (byte_rate, _) = peak_rates(kernels)

    def estimate(name: str, unit: str) -> Estimate:
        return Estimate(float(fit.values[fit.names.index(name)]), fit.stderr(name), unit, Provenance.DERIVED, "fit")

    return Coefficients(
        machine="0123456789ab",
        device="cuda:0",
        board="A Board",
        date="2026-01-01T10:00:00+00:00",
        static_w=estimate("static_w", "W"),
        e_flop={d: estimate(f"e_flop:{d}", "J/flop") for d in UNITS},
        e_byte=estimate("e_byte", "J/byte"),
        e_link=None,
        peak_flop_per_s={d: Estimate(rate, 0.01 * rate, "flop/s") for d, (rate, _) in peaks.items()},
        peak_byte_per_s=Estimate(byte_rate, 0.01 * byte_rate, "byte/s"),
        names=fit.names,
        covariance=fit.covariance,
    )


def read(
    load: Load, duration_s: float, front: Front, *, seed: int, hz: float, **more: Any
) -> tuple[SampleTable, Trace]:
    """Return the samples of a load and their trace, read at irregular times as a recorder reads."""
    random = np.random.default_rng(seed)
    sensor = SimulatedSensor(load.energy_j, replace(front, phase_s=0.037 + 0.01 * seed), origin_s=0.0)
    at = np.arange(0.0, duration_s, 1 / hz)
    at[1:-1] += random.uniform(-0.02, 0.02, len(at) - 2) / hz
    at = np.append(at, duration_s)
    values = [sensor.read(float(t))[0] for t in at]
    signal = describe(front, provenance="measured", method="simulated board", device="cuda:0", **more)
    table = Table(("t_s", "c0"), np.column_stack((at, values)))
    return SampleTable("simulated", (signal,), table), Trace.from_samples(at, values, signal)


def training(
    ops: Sequence[Op],
    *,
    front: Front = COUNTER,
    hz: float = 10.0,
    steps: int = 300,
    evaluate_every: int = 60,
    seed: int = 0,
    stray: float = 0.0,
    rel_stderr: float = 0.0,
    steady: bool = False,
    unknown: str = "",
    **meta: Any,
) -> tuple[Run, Truth]:
    """Return a training on the board, and what it really spent.

    Args:
        ops: the model.
        front: how the sensor sees.
        hz: how often it is read.
        steps: how many.
        evaluate_every: steps between evaluations.
        seed: of the lengths of batches, of the sensor's phase, and of ``stray``.
        stray: standard deviation, relative, by which each module's dynamic energy is other than its kernels'.
        rel_stderr: relative error of the sensor's gain that is stated.
        steady: all batches are of one length.
        unknown: an operator that nobody counts.
        meta: labels of the run.
    """
    random = np.random.default_rng(seed)
    dearer = {op.module: float(1.0 + stray * random.standard_normal()) for op in ops}
    truth, stretches = Truth(), []
    now = 0.0

    def do(phase: str, module: str | None, work: Work, unit: Accelerator) -> float:
        nonlocal now
        plain = unit.do(work)
        if not plain.seconds:
            return 0.0
        factor = dearer.get(module or "", 1.0) if module is not None else 1.0
        compute, memory = (factor * j for j in (work.flop * unit.j_per_flop, work.bytes * unit.j_per_byte))
        static = unit.static_w * plain.seconds
        stretches.append(Stretch(plain.seconds, (static + compute + memory) / plain.seconds))
        truth.add(phase, module, static=static, compute=compute, memory=memory)
        now += plain.seconds
        return plain.seconds

    idle = BF16
    do("other", None, Work(seconds=2.0), idle)
    rows, device, work_rows, evaluations, uses = [], [], [], [], np.zeros(4)
    noted: list[tuple[float, float, float, float]] = []
    counted = [op for op in ops if op.op != unknown]
    for k in range(steps):
        if k and k % evaluate_every == 0:
            begin = now
            for _ in range(12):
                for op in ops:
                    do("evaluation", op.module, Work(op.flops, op.bytes), UNITS[op.dtype])
            uses[3] += 12
            evaluations.append((begin, now, 12.0, 384.0, k - 1))
        length = 1.0 if steady else float(random.uniform(0.5, 1.5))
        begin = now
        spent = {"data": do("data", None, Work(seconds=0.02 * float(random.uniform(0.5, 1.5))), idle)}
        spent["forward"] = sum(
            do("forward", o.module, Work(length * o.flops, length * o.bytes), UNITS[o.dtype]) for o in ops
        )
        spent["backward"] = sum(
            do("backward", o.module, Work(2 * length * o.flops, 2 * length * o.bytes), UNITS[o.dtype])
            for o in reversed(ops)
        )
        spent["optimizer"] = sum(do("optimizer", o.module, Work(0.0, 4 * o.parameter_bytes), FP32) for o in ops)
        flops, moved = length * sum(o.flops for o in counted), length * sum(o.bytes for o in counted)
        updated = 4 * sum(o.parameter_bytes for o in ops)
        partly = float(len(counted) < len(ops))
        work_rows.append((k, flops, 2 * flops, 0.0, moved, 2 * moved, updated, updated, 0.0, 0.0, partly))
        rows.append(
            (k, begin, now, *(spent[p] for p in ("data", *PHASES)), 0.0, 32.0, 2048.0 * length, 1.0, 3 * flops, 1, 0)
        )
        device.append((k, 0.0, *(spent[p] for p in ("data", *PHASES)), 0.0, 0.0))
        uses[:3] += (length, length, 1.0)
        if not noted or now - noted[-1][0] > 1.0:
            noted += [(now, float(i), float(uses[i]), float(k)) for i in range(4)]
    noted += [(now, float(i), float(uses[i]), float(steps)) for i in range(4)]
    do("other", None, Work(seconds=1.0), idle)
    samples, _ = read(Load(stretches), now, front, seed=seed, hz=hz, rel_stderr=rel_stderr)

    def item(op: Op, factor: float, *, update: bool = False) -> list[Any]:
        if update:
            return [op.module, "adamw", "fp32", 1, 0.0, 2 * op.parameter_bytes, 2 * op.parameter_bytes, 0.0, 0.0, 0.0]
        return [
            op.module,
            op.op,
            op.dtype,
            1,
            factor * op.flops,
            0.0,
            0.0,
            0.5 * factor * op.bytes,
            0.5 * factor * op.bytes,
            0.0,
        ]

    profiles = [
        {"phase": "forward", "root": "Model", "items": [item(op, 1.0) for op in counted]},
        {"phase": "backward", "root": "Model", "items": [item(op, 2.0) for op in counted]},
        {
            "phase": "optimizer",
            "root": "AdamW",
            "items": [item(op, 1.0, update=True) for op in ops if op.parameter_bytes],
        },
        {"phase": "evaluation", "root": "Model", "items": [item(op, 1.0) for op in counted]},
    ]

    def table(kind: series.Series, data: Sequence[Sequence[float]]) -> Table:
        return Table(kind.columns, np.array(data, dtype=float).reshape(-1, len(kind.columns)))

    tables = {
        "steps": table(series.STEPS, rows),
        "work": table(series.WORK, work_rows),
        "device_steps": table(series.DEVICE_STEPS, device),
        "evaluations": table(series.EVALUATIONS, evaluations),
        "profile_uses": table(series.PROFILE_USES, noted),
    }
    labels = {"devices": ["A Board"], "profiles": profiles, "parameters": 10**9, "started": "2026-01-02T03:04:05Z"}
    run = Run(Path("erg-runs/20260102-030405-abcd"), "completed", now, {**labels, **meta}, tables, (samples,))
    return run, truth


def tiled(run: Run, steps: int) -> Run:
    """Return a run that does what this one did again and again, until it has had so many steps."""
    count = -(-steps // len(run.table(series.STEPS)))
    each = len(run.table(series.STEPS))
    tables = {}
    for name, table in run.tables.items():
        rows = np.tile(table.rows, (count, 1))
        turn = np.repeat(np.arange(count), len(table))
        for i, column in enumerate(table.columns):
            if column in {"t_s", "t0_s", "t1_s"}:
                rows[:, i] += turn * run.duration_s
            elif column in {"step", "after_step"}:
                rows[:, i] += turn * each
            elif column == "uses":
                last = {p: table["uses"][table["profile"] == p].max() for p in np.unique(table["profile"])}
                rows[:, i] += turn * np.array([last[p] for p in rows[:, table.columns.index("profile")]])
        tables[name] = Table(table.columns, rows)
    (samples,) = run.samples
    rows = np.tile(samples.table.rows[:-1], (count, 1))
    turn = np.repeat(np.arange(count), len(samples.table) - 1)
    rows[:, 0] += turn * run.duration_s
    rows[:, 1] += turn * (samples.table.rows[-1, 1] - samples.table.rows[0, 1])
    again = replace(samples, table=Table(samples.table.columns, rows))
    return replace(run, duration_s=run.duration_s * count, tables=tables, samples=(again,))
