"""How often a window's 90 % interval holds the truth, on simulated sensors: each GPU class, and RAPL at both wraps.

Each cell is 40 boards, ten under each kind of load, with 12 windows each (6 from 10 s on), of about one length (within
10 %, as work is never quite as long as was planned). Sampled as the recorder does: once a second, late by half a
millisecond or so; and about a millisecond after each edge of a window of ``erg.measure``, or not at the edges (phases,
steps). The boards' gains are those of a normal distribution, at the middles of 40 equal parts of it, in random order.

The truth is the exact energy of the load. The loads: steady (1 % noise); slow drift; bursts of 0.1 to 5 s at random
times; training steps of 0.1 to 3 s with four phases, and evaluations of a few seconds. The timing of the boards'
sensors is that of ``../shared/data/sensors/nvml_power_timing.csv`` (arXiv 2312.02741), copied below: counters where the
board has one (Volta and later), else power; and the averaged power of newer boards. ``table(calibrated=True)`` is the
same with the gains known, which leaves the errors of sampling alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.core.trace import Trace
from ergometry.sensors.accelerator import Load, Stretch
from ergometry.sensors.simulated import Front, SimulatedSensor, describe

Array = npt.NDArray[np.float64]

LENGTHS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0)
BOARDS = 40
LEAST, MOST = 85.0, 97.0
"""What each cell's 90 % intervals must cover, %."""

MANY_S = 10.0
"""Windows shorter than this come twelve to a board, longer ones six."""

_Z90 = NormalDist().inv_cdf(0.95)
_LEAD_S = 10.0
_UPDATE_JITTER = 0.1


class Class(NamedTuple):
    """A class of sensors: its timing, the relative standard deviation of its boards' gains, idle and full power (W)."""

    front: Front
    gain_stderr: float
    idle_w: float
    full_w: float


def _counter(period_ms: float, averaging_ms: float) -> Class:
    return Class(Front("energy_j", period_ms / 1e3, averaging_ms / 1e3, resolution=1e-3, start_j=1e6), 0.05, 50, 400)


def _power(period_ms: float, averaging_ms: float) -> Class:
    return Class(Front("power_w", period_ms / 1e3, averaging_ms / 1e3, resolution=1e-3), 0.05, 40, 250)


def _rapl(wrap_j: float) -> Class:
    return Class(Front("energy_j", 1e-3, resolution=2.0**-14, wrap_j=wrap_j), 0.0, 50, 240)


CLASSES = {
    "P100, GTX 1080 Ti": _power(20, 10),
    "V100 SXM2": _counter(20, 11),
    "RTX 2080 Ti, 2060S": _counter(101, 104),
    "RTX 8000": _counter(100, 20),
    "A100 (PCIe and SXM)": _counter(102, 22),
    "RTX 3090, 4090": _counter(100, 105),
    "H100 PCIe": _counter(100, 23),
    "H100 PCIe power": _power(100, 1000),
    "RAPL 262143 J": _rapl(262143.32885),
    "RAPL 65533 J": _rapl(65532.6),
}
"""Every board of the table, together where the timing is the same. The power of the H100 is that of Ampere too."""


class Cell(NamedTuple):
    """What the windows of one cell came to: coverage of 90 % intervals (%), and the median error (% of the truth)."""

    coverage: float
    error: float


def windows(length_s: float) -> int:
    """Return how many windows of a length each board gets."""
    return 12 if length_s < MANY_S else 6


def steady(rng: np.random.Generator, seconds: float, idle_w: float, full_w: float) -> list[Stretch]:
    """Return one power with 1 % of noise."""
    power = idle_w + (full_w - idle_w) * rng.uniform(0.5, 0.95)
    return [Stretch(0.05, power * (1 + 0.01 * x)) for x in rng.standard_normal(math.ceil(seconds / 0.05)).clip(-9, 9)]


def drift(rng: np.random.Generator, seconds: float, idle_w: float, full_w: float) -> list[Stretch]:
    """Return a power that goes up and down over minutes, with 2 % of noise."""
    t = np.arange(0.0, seconds, 0.25)
    middle = idle_w + (full_w - idle_w) * rng.uniform(0.4, 0.6)
    swing = (full_w - idle_w) * rng.uniform(0.1, 0.35) * np.sin(2 * np.pi * t / rng.uniform(40, 240))
    power = middle + swing + 0.02 * middle * rng.standard_normal(len(t))
    return [Stretch(0.25, p) for p in np.maximum(power, 0.5 * idle_w).tolist()]


def bursts(rng: np.random.Generator, seconds: float, idle_w: float, full_w: float) -> list[Stretch]:
    """Return full power for times, and idle for times, that are exponential."""
    busy_s, rest_s = np.exp(rng.uniform(np.log(0.1), np.log(5.0), 2))
    stretches, t = [], 0.0
    while t < seconds:
        busy, rest = rng.exponential(busy_s) + 0.01, rng.exponential(rest_s) + 0.01
        stretches.append(Stretch(busy, idle_w + (full_w - idle_w) * rng.uniform(0.6, 1.0)))
        stretches.append(Stretch(rest, idle_w * rng.uniform(1.0, 1.5)))
        t += busy + rest
    return stretches


def training(rng: np.random.Generator, seconds: float, idle_w: float, full_w: float) -> list[Stretch]:
    """Return steps of data, forward, backward and optimizer that scatter by 3 %, and an evaluation now and then."""
    step_s = float(np.exp(rng.uniform(np.log(0.1), np.log(3.0))))
    shares = rng.dirichlet([1, 3, 5, 1.5])
    levels = idle_w + (full_w - idle_w) * np.array([rng.uniform(*at) for at in _LEVELS])
    evaluation_w, every_s = idle_w + (full_w - idle_w) * rng.uniform(0.3, 0.8), rng.uniform(15, 60)
    stretches, t, evaluated_s = [], 0.0, 0.0
    while t < seconds:
        lasts = step_s * shares * np.maximum(rng.normal(1, 0.03, 4), 0.1) * max(rng.normal(1, 0.03), 0.1) + 1e-4
        stretches += [Stretch(s, p) for s, p in zip(lasts.tolist(), levels.tolist(), strict=True)]
        t += float(lasts.sum())
        if t - evaluated_s > every_s:
            stretches.append(Stretch(rng.uniform(1, 6), evaluation_w))
            t = evaluated_s = t + stretches[-1].seconds
    return stretches


_LEVELS = ((0.0, 0.4), (0.5, 0.9), (0.7, 1.0), (0.2, 0.6))
LOADS: tuple[Callable[..., list[Stretch]], ...] = (steady, drift, bursts, training)


class Board(NamedTuple):
    """A board under a load: reads at any times, and knows the truth."""

    sensor: SimulatedSensor
    load: Load
    gain: float

    def samples(self, at_s: Array) -> Array:
        """Return its readings."""
        return np.array([self.sensor.read(t)[0] for t in at_s.tolist()])

    def truth_j(self, t0_s: Array, t1_s: Array) -> Array:
        """Return the exact energy of windows."""
        ends, begins = (np.interp(t, self.load.edges_s, self.load.energies_j) for t in (t1_s, t0_s))
        return np.asarray(ends - begins)


def make(kind: Class, make_load: Callable[..., list[Stretch]], gain: float, seconds: float, seed: list[int]) -> Board:
    """Return a board of a class under a load; a counter that wraps does so in the middle."""
    rng = np.random.default_rng(seed)
    load = Load(make_load(rng, seconds, kind.idle_w, kind.full_w))
    front = replace(
        kind.front,
        gain=gain,
        phase_s=float(rng.uniform(0, kind.front.period_s)),
        jitter=_UPDATE_JITTER,
        seed=int(rng.integers(1 << 30)),
    )
    if front.wrap_j:
        front = replace(front, start_j=front.wrap_j - 0.5 * load.energies_j[-1])
    signal = describe(front, rel_stderr=kind.gain_stderr, max_power_w=4 * kind.full_w)
    return Board(SimulatedSensor(load.energy_j, front, signal=signal, origin_s=0.0), load, gain)


def gains(kind: Class, seed: list[int]) -> list[float]:
    """Return the gains of the boards."""
    deviations = [NormalDist().inv_cdf((board + 0.5) / BOARDS) for board in range(BOARDS)]
    return [1.0 + kind.gain_stderr * float(z) for z in np.random.default_rng(seed).permutation(deviations)]


def errors(trace: Trace, t0_s: Array, t1_s: Array, truth_j: Array) -> tuple[Array, Array]:
    """Return the errors of windows in standard errors, and relative to the truth."""
    value = trace.cumulative_j(t1_s) - trace.cumulative_j(t0_s)
    stderr = np.hypot(trace.stderr_j(t0_s, t1_s), trace.signal.rel_stderr * value)
    return (value - truth_j) / stderr, np.abs(value - truth_j) / truth_j


def background(until_s: float, rng: np.random.Generator) -> Array:
    """Return the times of the samples once a second."""
    at = np.arange(1.0, until_s)
    return np.asarray(at + rng.exponential(5e-4, len(at)))


def sampled(kind: Class, length_s: float, seed: list[int], *, calibrated: bool = False) -> Cell:
    """Return the cell of windows whose edges are sampled."""
    found = []
    for board, gain in enumerate(gains(kind, seed)):
        rng = np.random.default_rng([*seed, board])
        count = windows(length_s)
        lengths = length_s * rng.uniform(0.9, 1.1, count)
        begins = _LEAD_S + np.cumsum(rng.uniform(0.3, 2.2, count)) + np.concatenate(([0.0], np.cumsum(lengths)[:-1]))
        until_s = begins[-1] + lengths[-1] + _LEAD_S
        edges = np.concatenate((begins, begins + lengths))
        at = np.concatenate((background(until_s, rng), edges + 1e-4 + rng.exponential(1e-3, len(edges))))
        metered = make(kind, LOADS[board % len(LOADS)], gain, until_s, [*seed, board, 1])
        found.append(_errors(metered, np.unique(at), begins, begins + lengths, calibrated))
    return _cell(found)


def unsampled(kind: Class, lengths_s: Iterable[float], seed: list[int], *, calibrated: bool = False) -> list[Cell]:
    """Return the cells of windows of each length that lie anywhere between samples once a second."""
    lengths_s = tuple(lengths_s)
    until_s = 2.5 * max(lengths_s) + 2 * _LEAD_S
    found: list[list[tuple[Array, Array]]] = [[] for _ in lengths_s]
    for board, gain in enumerate(gains(kind, seed)):
        rng = np.random.default_rng([*seed, board])
        metered = make(kind, LOADS[board % len(LOADS)], gain, until_s, [*seed, board, 1])
        at = background(until_s, rng)
        for i, length_s in enumerate(lengths_s):
            count = windows(length_s)
            lengths = length_s * rng.uniform(0.9, 1.1, count)
            begins = rng.uniform(_LEAD_S, until_s - _LEAD_S - 1.1 * length_s, count)
            found[i].append(_errors(metered, at, begins, begins + lengths, calibrated))
    return [_cell(each) for each in found]


def _errors(board: Board, at_s: Array, t0_s: Array, t1_s: Array, calibrated: bool) -> tuple[Array, Array]:
    signal = board.sensor.signals[0]
    if calibrated:
        signal = replace(signal, gain=1.0 / board.gain, rel_stderr=0.0)
    readings = board.samples(at_s)
    assert not signal.wrap_j or np.any(np.diff(readings) < 0), "the counter is to wrap"
    return errors(Trace.from_samples(at_s, readings, signal), t0_s, t1_s, board.truth_j(t0_s, t1_s))


def _cell(found: list[tuple[Array, Array]]) -> Cell:
    scores, relative = (np.concatenate(each) for each in zip(*found, strict=True))
    return Cell(100.0 * float(np.mean(np.abs(scores) < _Z90)), 100.0 * float(np.median(relative)))


def table(*, calibrated: bool = False) -> int:
    """Print the coverage and the median error of all cells; return how many are out of bounds."""
    out = 0
    for edges in ("edges sampled", "edges between samples"):
        print(f"\n{edges:<22}", *(f"{length:>10g} s" for length in LENGTHS_S))
        for number, (name, kind) in enumerate(CLASSES.items()):
            if edges == "edges sampled":
                cells = [
                    sampled(kind, length, [1, number, i], calibrated=calibrated) for i, length in enumerate(LENGTHS_S)
                ]
            else:
                cells = unsampled(kind, LENGTHS_S, [2, number], calibrated=calibrated)
            bad = [not LEAST <= cell.coverage <= MOST for cell in cells]
            out += sum(bad)
            shown = (f"{c.coverage:3.0f}{'*' if b else ' '} {c.error:6.2f}%" for c, b in zip(cells, bad, strict=True))
            print(f"{name:<22}", *(f"{text:>12}" for text in shown))
    return out


def main() -> int:
    """Print the table; 1 if a cell is out of bounds."""
    print(f"share of 90 % intervals that hold the truth (%, {LEAST:.0f} to {MOST:.0f} wanted), and median error")
    out = table()
    print(f"\n{out} cells out of bounds (*)")
    return int(out > 0)


if __name__ == "__main__":
    raise SystemExit(main())
