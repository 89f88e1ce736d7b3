"""The CPU's energy where no counter can be read: a model of power against load, with its held-out error.

Power is P(load) = P_idle + (P_full - P_idle) · (1 - (1 - load)²), with

    P_full = min(κ · cores · base clock, TDP)        P_idle = ι · P_full

κ (watts per core and GHz at full load) and ι are fitted on public load sweeps of three machines with RAPL
(mlco2/codecarbon, data/hardware/cpu_load_profiling: Threadripper 1950X, Xeon E3-1240 v2, two Xeon E5-2620 v3), by
least squares of log power; the shape has no parameter: the first threads to be busy have cores to themselves, and the
second thread of a core adds a third of what the first did. Its error is that of predicting each machine from the
other two: ``benchmarks/cpu_model.py`` prints it and holds the constants below to the fit. The same model with full
power in proportion to TDP misses these machines by about three times as much.

What that error does not hold: that scale and shape were chosen looking at the same three machines (other shapes
on this scale: 14 to 22 %); other workloads than these integer and floating-point loops (wide vector code draws more,
up to TDP), parts without two threads a core, memory and board (only the package is modelled), and in a virtual
machine the neighbours' doings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ergometry.core.ports import Availability, Signal
from ergometry.sensors.proc import Processors, processors

WATT_PER_CORE_GHZ = 3.13
"""κ: package power at full load per core and GHz of base clock, W."""

IDLE_SHARE = 0.143
"""ι: idle power over power at full load."""

REL_STDERR = 0.26
"""Relative standard error of the model's power, leave one machine out, over loads from idle to full."""

IDLE_REL_STDERR = 0.43
"""The same of idle power alone."""

TDP_W_PER_CORE = {"many": 6.85, "few": 13.0}
"""Median TDP per core of parts of 16 cores and more (22 Xeon and EPYC), and of fewer (67 of all makes), W.

Source: GreenAlgorithms/green-algorithms-tool, data/latest/TDP_cpu.csv (CC-BY-4.0)."""

TDP_LOG_SD = {"many": 0.30, "few": 0.43}
"""Standard deviation of log TDP per core among the same parts: the relative error of not knowing the part."""

TDP_VARIABLE = "ERGOMETRY_CPU_TDP_W"
"""States the part's TDP: ``120`` (W of each socket; in a virtual machine, of all its vCPUs) or ``280/64`` (W/cores)."""

MIN_INTERVAL_S = 0.1
"""Load is averaged over at least this: a thread's load within one clock tick can only be 0 or 1."""

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class PowerModel(NamedTuple):
    """Package power against load, W, with relative standard errors of the power and of its idle part."""

    idle_w: float
    full_w: float
    rel_stderr: float
    idle_rel_stderr: float
    method: str

    def power_w(self, load: float) -> float:
        """Return the package power at ``load`` (busy share of the logical CPUs, 0 to 1), W.

        >>> PowerModel(10.0, 110.0, 0.26, 0.43, "").power_w(0.5)
        85.0
        """
        return self.idle_w + (self.full_w - self.idle_w) * (1.0 - (1.0 - load) ** 2)


def model_power(cpu: Processors, tdp: str = "") -> PowerModel:
    """Return the model of this machine's processors.

    Args:
        cpu: the processors.
        tdp: what the user says of the TDP, as :data:`TDP_VARIABLE` has it; ``""`` or nonsense: not known.

    Returns:
        The model; not knowing the TDP widens both errors, in quadrature, by the spread of TDP per core.
    """
    stated_w = _stated_tdp_w(cpu, tdp)
    size = "many" if cpu.virtual or cpu.cores >= 16 else "few"
    tdp_w = TDP_W_PER_CORE[size] * cpu.cores if stated_w is None else stated_w
    full_w = tdp_w if cpu.base_ghz is None else min(WATT_PER_CORE_GHZ * cpu.cores * cpu.base_ghz, tdp_w)
    unknown = TDP_LOG_SD[size] if stated_w is None else 0.0
    share = "a share of a host by vCPUs, " if cpu.virtual else ""
    doubt = f"TDP per core not known: ±{unknown:.0%}" if stated_w is None else f"TDP {stated_w:g} W stated"
    return PowerModel(
        idle_w=IDLE_SHARE * full_w,
        full_w=full_w,
        rel_stderr=math.hypot(REL_STDERR, unknown),
        idle_rel_stderr=math.hypot(IDLE_REL_STDERR, unknown),
        method=f"CPU package modelled from load, {share}±{REL_STDERR:.0%} leave-one-machine-out of 3; {doubt}",
    )


def _stated_tdp_w(cpu: Processors, tdp: str) -> float | None:
    """Return the watts that the statement gives all the cores seen here, None if it says nothing."""
    watts, _, cores = tdp.partition("/")
    try:
        value = float(watts) * (cpu.cores / float(cores) if cores else 1.0 if cpu.virtual else cpu.sockets)
    except (ValueError, ZeroDivisionError):
        return None
    return value if 0.0 < value < math.inf else None


class CpuModel:
    """A modelled energy counter of the whole machine's processors, J: integrates power at the load since it last did.

    It starts at zero and only rises. Within :data:`MIN_INTERVAL_S` the load is that since the interval began; as
    power is concave in load, the energy so far still rises with every tick.

    Args:
        model: power against load.
        stat: the file of jiffies, ``/proc/stat``.
        threads: logical CPUs, for the resolution.
    """

    source = "cpu_model"

    def __init__(self, model: PowerModel, stat: Path, threads: int) -> None:
        self.model = model
        self._fd = os.open(stat, os.O_RDONLY | os.O_CLOEXEC)
        self._base: tuple[float, int, int] | None = None
        self._base_j = self._last_j = 0.0
        self._load = 0.0
        self.signals = (
            Signal(
                domain="node0/cpu",
                quantity="energy_j",
                provenance="modelled",
                method=model.method,
                resolution_j=_TICK_S * (model.full_w - model.idle_w) / threads,
                update_period_s=_TICK_S,
                rel_stderr=model.rel_stderr,
                static_w=model.idle_w,
                static_rel_stderr=model.idle_rel_stderr,
            ),
        )

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return the joules since the first reading; NaN where /proc/stat cannot be read."""
        try:
            busy, total = jiffies(os.pread(self._fd, 512, 0))
        except (OSError, ValueError):
            return (math.nan,)
        if self._base is None:
            self._base = (now_s, busy, total)
            return (0.0,)
        base_s, base_busy, base_total = self._base
        if total > base_total:
            # Idle counts may step back a little (proc(5) on iowait), hence the clamp.
            self._load = min(max((busy - base_busy) / (total - base_total), 0.0), 1.0)
        energy_j = self._base_j + self.model.power_w(self._load) * max(now_s - base_s, 0.0)
        self._last_j = max(self._last_j, energy_j)
        if now_s - base_s >= MIN_INTERVAL_S:
            self._base, self._base_j = (now_s, busy, total), self._last_j
        return (self._last_j,)

    def close(self) -> None:
        """Close /proc/stat; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def jiffies(stat: bytes) -> tuple[int, int]:
    r"""Return (busy, all) jiffies so far of all CPUs together, from the first line of /proc/stat.

    Busy are user, nice, system, irq, softirq and steal; idle and iowait are the rest; guest is inside user.

    Raises:
        ValueError: the text is not that of /proc/stat.

    >>> jiffies(b"cpu  10 1 5 80 4 1 1 2 3 0 \ncpu0 ...")
    (20, 104)
    """
    words = stat.partition(b"\n")[0].split()
    if words[:1] != [b"cpu"] or len(words) < 5:
        raise ValueError(f"expected the line 'cpu user nice system idle …' of /proc/stat, got {stat[:40]!r}")
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = [*map(int, words[1:]), 0, 0, 0, 0]
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def open_cpu_model(
    proc: Path = Path("/proc"), because: str = "", environ: Mapping[str, str] = os.environ
) -> tuple[CpuModel | None, Availability]:
    """Open the modelled counter, and say what was found.

    Args:
        proc: where procfs is mounted.
        because: why the model is used instead of a counter, for the availability.
        environ: where :data:`TDP_VARIABLE` is looked up.

    Returns:
        The sensor (None where there is no /proc/stat, as on macOS) and its availability.
    """
    stated = environ.get(TDP_VARIABLE, "").strip()
    try:
        cpu = processors(proc)
        sensor = CpuModel(model_power(cpu, stated), proc / "stat", cpu.threads)
    except OSError as error:
        return None, Availability(
            "cpu_model",
            present=False,
            why=f"{proc / 'stat'} cannot be read: {error.strerror}",
            remedy="the CPU's load is known on Linux only; the other sources are unaffected",
        )
    why = "; ".join(filter(None, (because, sensor.model.method)))
    if _stated_tdp_w(cpu, stated) is not None:
        return sensor, Availability("cpu_model", present=True, why=why)
    if stated:
        why += f"; {TDP_VARIABLE}={stated!r} is not watts, nor watts/cores"
    remedy = f"state the processor's TDP, such as {TDP_VARIABLE}=280/64 (watts/cores), for a smaller error"
    return sensor, Availability("cpu_model", present=True, why=why, remedy=remedy)
