"""The CPU's energy where no counter can be read: a model of power against load, with its held-out error.

Power is P(load) = P_idle + (P_full - P_idle) · (1 - (1 - load)²), with

    P_full = min(κ · cores · base clock, TDP)        P_idle = ι · P_full

κ (watts per core and GHz at full load) and ι are fitted on public load sweeps of three machines with RAPL
(mlco2/codecarbon, data/hardware/cpu_load_profiling: Threadripper 1950X, Xeon E3-1240 v2, two Xeon E5-2620 v3), by
least squares of log power; the shape has no parameter: the first threads to be busy have cores to themselves, and the
second thread of a core adds a third of what the first did. Its error is that of predicting each machine from the
other two: ``benchmarks/fallback.py`` prints it and holds the constants below to the fit. The same model with full
power in proportion to TDP misses these machines by about three times as much. Making what is dynamic go with the
measured clock too, which the other two machines prefer whichever is left out, does not predict the third better: the
median error falls from 14 to 10-13 %, by how the TDP bounds it, but not its rms, and one machine is worse by half.

What that error does not hold: that scale and shape were chosen looking at the same three machines (other shapes
on this scale: 14 to 22 %); other workloads than these integer and floating-point loops (wide vector code draws more,
up to TDP), parts without two threads a core, memory and board (only the package is modelled), and in a share of a
host the neighbours' doings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ergometry.core.ports import Availability, Machine, Signal
from ergometry.sensors.cgroup import BY_LIMIT, CpuLimit, cpu_limit
from ergometry.sensors.load import GroupLoad, Load, MachineLoad
from ergometry.sensors.proc import TICK_S, Processors, package_cpus, processors

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

    def share(self, part: float) -> PowerModel:
        """Return the model of a part of the processors, 0 to 1 of them, at the same load: powers in proportion."""
        return self._replace(idle_w=part * self.idle_w, full_w=part * self.full_w)


def model_power(cpu: Processors, tdp: str = "", scope: str = "the whole machine") -> PowerModel:
    """Return the model of this machine's processors.

    Args:
        cpu: the processors.
        tdp: what the user says of the TDP, as :data:`TDP_VARIABLE` has it; ``""`` or nonsense: not known.
        scope: what is modelled, for the method.

    Returns:
        The model; not knowing the TDP widens both errors, in quadrature, by the spread of TDP per core.
    """
    stated_w = _stated_tdp_w(cpu, tdp)
    size = "many" if cpu.virtual or cpu.cores >= 16 else "few"
    tdp_w = TDP_W_PER_CORE[size] * cpu.cores if stated_w is None else stated_w
    full_w = tdp_w if cpu.base_ghz is None else min(WATT_PER_CORE_GHZ * cpu.cores * cpu.base_ghz, tdp_w)
    unknown = TDP_LOG_SD[size] if stated_w is None else 0.0
    doubt = f"TDP per core not known: ±{unknown:.0%}" if stated_w is None else f"TDP {stated_w:g} W stated"
    return PowerModel(
        idle_w=IDLE_SHARE * full_w,
        full_w=full_w,
        rel_stderr=math.hypot(REL_STDERR, unknown),
        idle_rel_stderr=math.hypot(IDLE_REL_STDERR, unknown),
        method=f"CPU package modelled from load, {scope}, ±{REL_STDERR:.0%} leave-one-machine-out of 3; {doubt}",
    )


def _stated_tdp_w(cpu: Processors, tdp: str) -> float | None:
    """Return the watts that the statement gives all the cores seen here, None if it says nothing."""
    watts, _, cores = tdp.partition("/")
    try:
        value = float(watts) * (cpu.cores / float(cores) if cores else 1.0 if cpu.virtual else cpu.sockets)
    except (ValueError, ZeroDivisionError):
        return None
    return value if 0.0 < value < math.inf else None


class Part:
    """Some processors that are modelled together: a counter of their energy, J.

    It starts at zero and only rises. Within :data:`MIN_INTERVAL_S` the load is that since the interval began; as
    power is concave in load, the energy so far still rises with every tick.

    Args:
        domain: what is modelled, ``node0/cpu`` or ``node0/package1``.
        model: power against load.
        load: how busy they are.
    """

    def __init__(self, domain: str, model: PowerModel, load: Load) -> None:
        self.model, self.load = model, load
        self.signal = Signal(
            domain=domain,
            quantity="energy_j",
            provenance="modelled",
            method=model.method,
            resolution_j=TICK_S * (model.full_w - model.idle_w) / load.threads,
            update_period_s=TICK_S,
            rel_stderr=model.rel_stderr,
            static_w=model.idle_w,
            static_rel_stderr=model.idle_rel_stderr,
        )
        self._base: tuple[float, float, float] | None = None
        self._base_j = self._last_j = 0.0
        self._busy_share = 0.0

    def read_j(self, now_s: float) -> float:
        """Return the joules since the first reading; NaN where the load cannot be read."""
        try:
            busy_s, available_s = self.load.read(now_s)
        except (OSError, ValueError):
            return math.nan
        if self._base is None:
            self._base = (now_s, busy_s, available_s)
            return 0.0
        base_s, base_busy_s, base_available_s = self._base
        if available_s > base_available_s:
            # Idle counts may step back a little (proc(5) on iowait), hence the clamp.
            share = (busy_s - base_busy_s) / (available_s - base_available_s)
            self._busy_share = min(max(share, 0.0), 1.0)
        energy_j = self._base_j + self.model.power_w(self._busy_share) * max(now_s - base_s, 0.0)
        self._last_j = max(self._last_j, energy_j)
        if now_s - base_s >= MIN_INTERVAL_S:
            self._base, self._base_j = (now_s, busy_s, available_s), self._last_j
        return self._last_j


class CpuModel:
    """Modelled energy counters of the processors, J, one signal for each :class:`Part`.

    Args:
        parts: what is modelled, nothing twice.
    """

    source = "cpu_model"
    min_period_s = 0.0
    may_block = False

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.signals = tuple(part.signal for part in parts)

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return the joules since the first reading; NaN where the load cannot be read."""
        return tuple(part.read_j(now_s) for part in self.parts)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: there is no board."""
        return ()

    def close(self) -> None:
        """Close what was opened; again is harmless."""
        for part in self.parts:
            part.load.close()


def open_cpu_model(machine: Machine) -> tuple[CpuModel | None, Availability]:
    """Open the modelled counter of all the processors that this process may use, and say what was found.

    That is the whole machine; in a container whose processor time is limited, its share of the machine.

    Returns:
        The sensor (None where there is no /proc/stat, as on macOS) and its availability.
    """
    cpu, limit = processors(machine.proc), cpu_limit(machine)
    if limit is not None and limit.cpus >= cpu.threads:
        limit = None
    try:
        load: Load = MachineLoad(machine.proc / "stat", cpu.threads)
        load = load if limit is None else _group_load(limit, load)
    except OSError as error:
        return None, _no_load(machine, error)
    share = 1.0 if limit is None else limit.cpus / cpu.threads
    model = model_power(cpu, _stated(machine), _scope(cpu, limit)).share(share)
    return CpuModel([Part("node0/cpu", model, load)]), _availability(machine, cpu, model)


def open_package_models(machine: Machine, packages: Iterable[int]) -> tuple[CpuModel | None, Availability]:
    """Open modelled counters of some packages alone, each by the load of its own processors: ``node0/package1``.

    Args:
        machine: the machine.
        packages: their numbers, as /proc/cpuinfo's ``physical id`` has them; those it does not name are left out.

    Returns:
        The sensor (None where none of the packages is known, or there is no /proc/stat) and its availability.
    """
    cpu, cpus = processors(machine.proc), package_cpus(machine.proc)
    wanted = sorted(set(packages))
    parts: list[Part] = []
    model = model_power(cpu, _stated(machine), "by its own CPUs of /proc/stat")
    try:
        for number in wanted:
            if own := cpus.get(number):
                load = MachineLoad(machine.proc / "stat", len(own), own)
                parts.append(Part(f"node0/package{number}", model.share(len(own) / cpu.threads), load))
    except OSError as error:
        return None, _no_load(machine, error)
    if not parts:
        names = ", ".join(map(str, wanted)) or "none"
        return None, Availability(
            "cpu_model",
            present=False,
            why=f"{machine.proc / 'cpuinfo'} names no CPU of the packages asked for: {names}",
            remedy="the packages that can be read are unaffected",
        )
    return CpuModel(parts), _availability(machine, cpu, model)


def _scope(cpu: Processors, limit: CpuLimit | None) -> str:
    """Say what of the machine is modelled, and what its load is read from."""
    if limit is None:
        return f"{'a share of a host by vCPUs' if cpu.virtual else 'the whole machine'}, by /proc/stat"
    of, kind = ("a virtual machine", "vCPUs") if cpu.virtual else ("a host", "CPUs")
    return f"share of {of}: {limit.cpus:g} of {cpu.threads} {kind} {BY_LIMIT}"


def _group_load(limit: CpuLimit, load: Load) -> Load:
    """Return the load of a limited group; where its usage cannot be read, the machine's stands for it."""
    try:
        group = GroupLoad(limit)
    except OSError:
        return load
    load.close()
    return group


def _stated(machine: Machine) -> str:
    return machine.environ.get(TDP_VARIABLE, "").strip()


def _no_load(machine: Machine, error: OSError) -> Availability:
    return Availability(
        "cpu_model",
        present=False,
        why=f"{machine.proc / 'stat'} cannot be read: {error.strerror}",
        remedy="the CPU's load is known on Linux only; the other sources are unaffected",
    )


def _availability(machine: Machine, cpu: Processors, model: PowerModel) -> Availability:
    stated = _stated(machine)
    why = f"used where no counter of the processors can be read; {model.method}"
    if _stated_tdp_w(cpu, stated) is not None:
        return Availability("cpu_model", present=True, why=why)
    if stated:
        why += f"; {TDP_VARIABLE}={stated!r} is not watts, nor watts/cores"
    remedy = f"state the processor's TDP, such as {TDP_VARIABLE}=280/64 (watts/cores), for a smaller error"
    return Availability("cpu_model", present=True, why=why, remedy=remedy)
