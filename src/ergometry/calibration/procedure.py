"""The calibration of one device: idle, kernels in several rounds and shuffled, then the two fits."""

from __future__ import annotations

import datetime
import math
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ergometry.calibration import collectives, kernels
from ergometry.core.domain import Domain
from ergometry.core.errors import UsageError
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.trace import Trace
from ergometry.sensors.proc import BusyTime
from ergometry.session import Window, measure
from ergometry.work.coefficients import Coefficients, machine_identity
from ergometry.work.roofline import BYTE, LINK, STATIC, EnergyFit, Kernel, fit_energy, peak_rates

ROUNDS = 3
LEAST_S = 10.0
IDLE_SHARE_OF_TIME = 0.12
BUSY_SHARE = 0.05
"""Others that use more of the machine's processors than this, while it should be idle, make it a busy machine."""

MODELLED_REL_STDERR = 0.6
"""Of coefficients without a sensor: they share out a modelled power by the peaks alone (a factor of 2 at the ridge)."""

Say = Callable[[str], None]


def calibrate(device_name: str, seconds: float, say: Say = lambda _: None) -> Coefficients | None:
    """Measure the coefficients of one device.

    Args:
        device_name: torch's name, ``cpu`` or ``cuda:0``.
        seconds: about how long it may take; 60 to 120 are sensible.
        say: told what is being done.

    Returns:
        The coefficients; None on the ranks beside the first, where a launcher has started several.

    Raises:
        UsageError: there is no such device, or too little time.
    """
    if not seconds >= LEAST_S:
        raise UsageError(
            expected=f"at least {LEAST_S:g} seconds", got=f"{seconds:g}", remedy="60 to 120 give small errors"
        )
    device = _device(device_name)
    together = collectives.AllReduce(device) if collectives.ranks() > 1 else None
    if together is not None and int(os.environ.get("RANK", "0")) > 0:
        together.join()
        return None
    makers = list(kernels.kernels(device))
    each_s = seconds * (1.0 - IDLE_SHARE_OF_TIME) / (len(makers) * ROUNDS)
    idle_s = seconds * IDLE_SHARE_OF_TIME / ROUNDS
    order = random.Random(0)
    stretches: list[tuple[Kernel, Window]] = []
    busy: list[float] = []
    for turn in range(ROUNDS):
        say(f"round {turn + 1} of {ROUNDS}: idle for {idle_s:.0f} s")
        with measure("idle") as window:
            busy.append(_busy_share(idle_s))
        stretches.append((Kernel("idle", idle_s), window))
        if turn == 0:
            settle_s = max(0.1 * each_s, _memory_s(window))
            each_s = max(each_s, 3.0 * settle_s)
        for make in order.sample(makers, len(makers)):
            work = make()
            say(f"round {turn + 1} of {ROUNDS}: {work.name}")
            kernels.repeat(work, settle_s, device)  # warm, and the kernel before out of the sensor's mean
            with measure(work.name) as window:
                times = kernels.repeat(work, each_s - settle_s, device)
            flops = {dtype: amount * times for dtype, amount in work.flops.items()}
            stretches.append((Kernel(work.name, each_s, flops, work.bytes * times), window))
            del work
        if together is not None:
            say(f"round {turn + 1} of {ROUNDS}: all-reduce between {together.ranks} ranks")
            with measure("all-reduce") as window:
                times = together.repeat(each_s)
            stretches.append((Kernel("all-reduce", each_s, {}, 0.0, together.link_bytes * times), window))
    if together is not None:
        together.end()
    _, last = stretches[-1]
    traces = {d: t for d, t in last.traces.items() if (t.signal.device or "cpu") == str(device)}
    measured = [_metered(kernel, window, traces.values()) for kernel, window in stretches]
    return fit(measured, traces, device, max(busy), seconds)


def fit(
    measured: Sequence[Kernel], traces: dict[Domain, Trace], device: torch.device, busy_share: float, seconds: float
) -> Coefficients:
    """Return the coefficients that the stretches give, with what they rest on."""
    peaks, (byte_rate, byte_error) = peak_rates(measured)
    provenances = {trace.signal.provenance for trace in traces.values()}
    sensor = " + ".join(trace.signal.method for trace in traces.values()) or "no power source"
    widened = 1.0 if busy_share <= BUSY_SHARE else 1.0 + busy_share / BUSY_SHARE
    if provenances == {"measured"}:
        shared = max((trace.signal.rel_stderr for trace in traces.values()), default=0.0)
        found = fit_energy(measured, shared_rel_stderr=shared)
        provenance, method = Provenance.DERIVED, f"energy roofline fitted to kernels; {sensor}"
    else:
        found = modelled(measured, peaks, byte_rate, traces.values())
        provenance, method = Provenance.MODELLED, f"a modelled power shared out by the peaks; {sensor}"

    def coefficient(name: str, unit: str) -> Estimate:
        value = float(found.values[found.names.index(name)])
        return Estimate(value, widened * found.stderr(name), unit, provenance, method)

    def rate(value: float, error: float, unit: str) -> Estimate:
        if not math.isfinite(value):
            return Estimate.unknown(unit, "no kernel of its kind could run here")
        stderr = None if math.isnan(error) else widened * error
        return Estimate(
            value,
            stderr,
            unit,
            Provenance.MEASURED,
            "best stretch of the best kernel; the error is how far its median lies below",
        )

    return Coefficients(
        machine=machine_identity(),
        device=str(device),
        board=board_name(device),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        static_w=coefficient(STATIC, "W"),
        e_flop={n.partition(":")[2]: coefficient(n, "J/flop") for n in found.names if n.startswith("e_flop:")},
        e_byte=coefficient(BYTE, "J/byte"),
        e_link=coefficient(LINK, "J/byte") if LINK in found.names else None,
        peak_flop_per_s={dtype: rate(*peak, "flop/s") for dtype, peak in peaks.items()},
        peak_byte_per_s=rate(byte_rate, byte_error, "byte/s"),
        names=found.names,
        covariance=found.covariance * widened**2,
        conditions={
            "seconds": seconds,
            "sensor": sensor,
            "threads": torch.get_num_threads() if device.type == "cpu" else None,
            "torch": torch.__version__,
            "busy_share": busy_share,
            "widened": widened,
            "rms": found.rms if math.isfinite(found.rms) else None,
            "chi2_dof": found.chi2_dof if math.isfinite(found.chi2_dof) else None,
            "kernels": [kernel.to_json() for kernel in measured],
        },
    )


def modelled(
    measured: Sequence[Kernel], peaks: dict[str, tuple[float, float]], byte_rate: float, traces: Iterable[Trace]
) -> EnergyFit:
    """Return coefficients where no sensor tells kernels apart: the modelled dynamic power over each peak rate.

    At the peak of arithmetic, and at that of memory, they give back the modelled power; between, up to twice of it.
    """
    traces = list(traces)
    static_w = sum(trace.signal.static_w or 0.0 for trace in traces)
    static_error = math.hypot(*((t.signal.static_rel_stderr or 1.0) * (t.signal.static_w or 0.0) for t in traces), 0.0)
    powers = [kernel.power_w for kernel in measured if kernel.flops and math.isfinite(kernel.joules)]
    dynamic_w = max(max(powers, default=0.0) - static_w, 0.0)
    dtypes = sorted(peaks)
    names = (STATIC, *(f"e_flop:{dtype}" for dtype in dtypes), BYTE)
    per_work = [dynamic_w / peaks[dtype][0] for dtype in dtypes] + [dynamic_w / byte_rate]
    values = np.array([static_w, *per_work])
    covariance = np.diag(np.array([static_error, *(MODELLED_REL_STDERR * e for e in per_work)]) ** 2)
    return EnergyFit(names, values, covariance, math.nan, math.nan)


def board_name(device: torch.device) -> str:
    """Return the product name of a device."""
    if device.type != "cpu":
        return str(torch.get_device_module(device).get_device_name(device))
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _metered(kernel: Kernel, window: Window, traces: Iterable[Trace]) -> Kernel:
    """Return a kernel with the seconds and joules of its window."""
    energies = []
    for trace in traces:
        # The error that all stretches share enters once, in the fit.
        own = Trace(trace.t_s, trace.e_j, replace(trace.signal, rel_stderr=0.0))
        energies.append(own.energy(window.t0_s, window.t1_s))
    kernel = replace(kernel, seconds=window.duration_s)
    if not energies:
        return kernel
    joules = sum(e.value or 0.0 for e in energies)
    return replace(kernel, joules=joules, stderr_j=math.hypot(*(e.stderr or 0.0 for e in energies)))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.ones(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            expected="a device of this machine, cpu or cuda:0",
            got=f"{name!r} ({str(error).splitlines()[0]})",
            remedy="see python -c 'import torch; print(torch.cuda.device_count())'",
        ) from None
    if device.type != "cpu" and device.index is None:
        device = torch.device(device.type, 0)
    return device


def _memory_s(window: Window) -> float:
    """Return for how long the sensors' readings hold what was before, s: up to a second where power is averaged."""
    signals = [trace.signal for trace in window.traces.values()]
    return max((signal.averaging_s + signal.update_period_s for signal in signals), default=0.0)


def _busy_share(seconds: float) -> float:
    """Wait, and return the share of the machine's processors that others used meanwhile; NaN where unknown."""
    busy = BusyTime(Path("/proc"))
    try:
        before, own_before = busy.read(), sum(os.times()[:2])
        time.sleep(seconds)
        others_s = busy.read() - before - (sum(os.times()[:2]) - own_before)
    finally:
        busy.close()
    return max(others_s, 0.0) / (seconds * (os.cpu_count() or 1)) if math.isfinite(others_s) else math.nan


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
