"""A simulated sensor in front of a power whose energy is known exactly; and a whole simulated board for ``erg run``.

What lies between the truth and a reading is what real sensors put there: updates at a period of their own, each
holding the mean power of a window that may be shorter than the period (duty cycle) or longer (averaging), the board's
gain, steps, a counter's wrap; and faults: reads that fail, a counter that stands still, steps backward, a driver that
goes and comes back. All of it follows from a seed and the times of the reads, so two runs agree to the bit.

``ERGOMETRY_SENSORS=simulated`` puts a board of :data:`BOARDS` in the place of hardware. Its power follows a fixed
schedule, training steps with an evaluation now and then, whatever the measured process does: what it should have used
is known. ``ERGOMETRY_SIMULATED`` names the board (``a100`` if it is not set), or is JSON with the fields of
:class:`Front` and :class:`Faults`: ``{"board": "a100", "gain": 1.03, "dropouts": 0.1}``. Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from ergometry.core.ports import Availability, Machine, Signal
from ergometry.sensors.accelerator import Accelerator, Load, Work

VARIABLE = "ERGOMETRY_SIMULATED"

EnergyAt = Callable[[float], float]
"""Exact energy (J) used until a time (s)."""

Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Front:
    """How a sensor sees: ``quantity`` ``energy_j`` or ``power_w``, of an update every ``period_s`` (0: always new).

    Updates come at ``phase_s + (k + jitter · U(-½, ½)) · period_s``. Each holds the mean power of the last
    ``averaging_s``: of a power, 0 means an instant; of a counter, all the time since the update before, and a shorter
    window stands for all of that time. Then come ``gain``, steps of ``resolution`` (J or W), a counter's ``start_j``
    and its ``wrap_j``.
    """

    quantity: str = "energy_j"
    period_s: float = 0.0
    averaging_s: float = 0.0
    gain: float = 1.0
    resolution: float = 0.0
    wrap_j: float | None = None
    start_j: float = 0.0
    phase_s: float = 0.0
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Faults:
    """What goes wrong, with times in seconds since the sensor's origin.

    ``dropouts`` is the share of reads that fail. In each of ``stuck`` the reading stands still; afterwards a counter
    has missed that energy, or shows it all at once if ``catches_up``. At each of ``backward`` (time, J) a counter falls
    by that much. In each of ``lost`` every read fails, and after it the counter begins at zero.
    """

    dropouts: float = 0.0
    stuck: Spans = ()
    catches_up: bool = False
    backward: Spans = ()
    lost: Spans = ()


class SimulatedSensor:
    """One signal in front of an exact energy; implements :class:`ergometry.core.ports.Sensor`.

    Args:
        energy_j: the truth, in time since the origin.
        front: how it is seen.
        faults: what goes wrong.
        signal: what is said of the readings; by default what ``front`` makes true, with an unknown gain of no error.
        origin_s: the time of :meth:`read` that is the truth's zero; None: that of the first read.
    """

    source = "simulated"
    may_block = False

    def __init__(
        self,
        energy_j: EnergyAt,
        front: Front,
        faults: Faults = Faults(),
        *,
        signal: Signal | None = None,
        origin_s: float | None = None,
    ) -> None:
        self._energy_j, self.front, self.faults = energy_j, front, faults
        self.signals = (signal or describe(front),)
        self.min_period_s = 0.0
        self._origin_s = origin_s
        self._reads = 0
        self._known_j: dict[float, float] = {}
        self._zero_j: dict[float, float] = {}
        self._restart()

    def _restart(self) -> None:
        """Forget the updates that were added up, so that an earlier time can be asked for."""
        self._update, self._updated_s, self._counted_j = 0, self._update_s(0), 0.0

    def read(self, now_s: float) -> tuple[float]:
        """Return the reading at ``now_s``, J or W; NaN where it fails."""
        if self._origin_s is None:
            self._origin_s = now_s
        at_s = now_s - self._origin_s
        self._reads += 1
        if any(begin <= at_s < end for begin, end in self.faults.lost):
            return (math.nan,)
        if self.faults.dropouts and _uniform(~self.front.seed, self._reads) < self.faults.dropouts:
            return (math.nan,)
        value = self._counter_j(at_s) if self.front.quantity == "energy_j" else self._power_w(self._unstuck_s(at_s))
        step = self.front.resolution
        value = math.floor(value / step) * step if step else value
        return (value % self.front.wrap_j if self.front.wrap_j else value,)

    def health(self) -> tuple[tuple[float, ...], ...]:
        """Return nothing: only power is simulated."""
        return ()

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def true_energy_j(self, t0_s: float, t1_s: float) -> float:
        """Return the energy that was used between two times of :meth:`read`, J, exactly."""
        origin_s = self._origin_s or 0.0
        return self._energy_j(t1_s - origin_s) - self._energy_j(t0_s - origin_s)

    def _counter_j(self, at_s: float) -> float:
        value = self.front.start_j + self._since_zero_j(at_s)
        begun_s = max((end for _, end in self.faults.lost if end <= at_s), default=-math.inf)
        if begun_s > -math.inf:
            if begun_s not in self._zero_j:
                self._zero_j[begun_s] = self.front.start_j + self._since_zero_j(begun_s)
            value -= self._zero_j[begun_s]
        return value - sum(fall_j for when_s, fall_j in self.faults.backward if begun_s <= when_s <= at_s)

    def _since_zero_j(self, at_s: float) -> float:
        if self.faults.catches_up:
            return self._counted(self._unstuck_s(at_s))
        missed = 0.0
        for begin_s, end_s in self.faults.stuck:
            if begin_s < at_s:
                missed -= self._counted_once(begin_s)
                missed += self._counted_once(end_s) if end_s <= at_s else self._counted(at_s)
        return self._counted(at_s) - missed

    def _counted_once(self, at_s: float) -> float:
        # Kept: asked for at every read, each time would mean adding up all updates anew.
        if at_s not in self._known_j:
            self._known_j[at_s] = self._counted(at_s)
        return self._known_j[at_s]

    def _unstuck_s(self, at_s: float) -> float:
        return next((begin for begin, end in self.faults.stuck if begin <= at_s < end), at_s)

    def _counted(self, at_s: float) -> float:
        """Return the energy, J with gain, that all updates until a time have shown."""
        front = self.front
        if not front.period_s:
            return front.gain * self._energy_j(at_s)
        last = self._last_update(at_s)
        if not front.averaging_s:
            return front.gain * self._energy_j(self._update_s(last))
        if last < self._update:
            self._restart()
        while self._update < last:
            self._update += 1
            updated_s = self._update_s(self._update)
            self._counted_j += (updated_s - self._updated_s) * self._mean_w(updated_s)
            self._updated_s = updated_s
        return front.gain * self._counted_j

    def _power_w(self, at_s: float) -> float:
        updated_s = self._update_s(self._last_update(at_s)) if self.front.period_s else at_s
        return self.front.gain * self._mean_w(updated_s)

    def _mean_w(self, until_s: float) -> float:
        window_s = self.front.averaging_s or 1e-6
        return (self._energy_j(until_s) - self._energy_j(until_s - window_s)) / window_s

    def _update_s(self, k: int) -> float:
        front = self.front
        return front.phase_s + (k + front.jitter * (_uniform(front.seed, k) - 0.5)) * front.period_s

    def _last_update(self, at_s: float) -> int:
        k = math.floor((at_s - self.front.phase_s) / self.front.period_s) + 1
        while self._update_s(k) > at_s:
            k -= 1
        return k


def describe(front: Front, **more: Any) -> Signal:
    """Return the signal that is true of a front; ``more`` are fields of :class:`Signal` to set."""
    power = front.quantity == "power_w"
    signal = Signal(
        domain="node0/gpu0",
        quantity=front.quantity,
        provenance="modelled",
        method="simulated, not a measurement",
        resolution_j=0.0 if power else front.resolution,
        resolution_w=front.resolution if power else 0.0,
        update_period_s=front.period_s,
        averaging_s=front.averaging_s,
        wrap_j=front.wrap_j,
    )
    return replace(signal, **more)


class Board(NamedTuple):
    """A board or processor to be simulated: its power, its sensor, and the bound that no power exceeds."""

    accelerator: Accelerator
    front: Front
    max_power_w: float
    rel_stderr: float
    domain: str = "node0/gpu0"


def _board(  # noqa: PLR0913 - a row of the table below
    static_w: float,
    tdp_w: float,
    flop_per_s: float,
    bytes_per_s: float,
    j_per_byte: float,
    front: Front,
    rel_stderr: float = 0.05,
    domain: str = "node0/gpu0",
) -> Board:
    j_per_flop = (tdp_w - static_w) / flop_per_s
    accelerator = Accelerator(static_w, j_per_flop, j_per_byte, flop_per_s, bytes_per_s, cap_w=tdp_w)
    return Board(accelerator, front, 4 * tdp_w, rel_stderr, domain)


def _nvml(period_s: float, averaging_s: float) -> Front:
    return Front("energy_j", period_s, averaging_s, resolution=1e-3, start_j=1e6)


_RAPL = Front("energy_j", 1e-3, resolution=2.0**-14, start_j=2.6e5)

BOARDS: dict[str, Board] = {
    "p100": _board(30, 250, 19e12, 732e9, 31e-12, Front("power_w", 0.020, 0.010, resolution=1e-3)),
    "v100": _board(40, 300, 125e12, 900e9, 31e-12, _nvml(0.020, 0.011)),
    "rtx2080ti": _board(20, 250, 54e12, 616e9, 60e-12, _nvml(0.101, 0.104)),
    "a100": _board(60, 400, 312e12, 2.0e12, 48e-12, _nvml(0.102, 0.022)),
    "rtx3090": _board(25, 350, 71e12, 936e9, 60e-12, _nvml(0.100, 0.105)),
    "h100": _board(70, 700, 989e12, 3.35e12, 40e-12, _nvml(0.100, 0.023)),
    "h100-average": _board(70, 700, 989e12, 3.35e12, 40e-12, Front("power_w", 0.100, 1.0, resolution=1e-3)),
    "rapl": _board(60, 240, 3e12, 200e9, 60e-12, replace(_RAPL, wrap_j=262143.32885), 0.0, "node0/package0"),
    "rapl-short": _board(
        60, 240, 3e12, 200e9, 60e-12, replace(_RAPL, wrap_j=65532.6, start_j=6.5e4), 0.0, "node0/package0"
    ),
}
"""Timing of the boards' sensors: "Part-time Power Measurements", arXiv 2312.02741; peaks, bandwidths and TDP: data
sheets. The energy per FLOP is TDP less static power over the peak; bytes at 3.9 (HBM2) to 7.5 pJ/bit (GDDR6)."""


def training(board: Accelerator) -> Load:
    """Return a board's fixed schedule: 40 steps of some 0.4 s, then an evaluation, and again."""
    second = Work(flop=0.6 * board.flop_per_s, bytes=0.4 * board.bytes_per_s)
    data, forward, backward, optimizer, evaluate = (
        Work(seconds=0.04),
        Work(0.10 * second.flop, 0.10 * second.bytes, 0.10),
        Work(0.24 * second.flop, 0.24 * second.bytes, 0.20),
        Work(0.0, 0.04 * board.bytes_per_s),
        Work(1.2 * second.flop, 3.0 * second.bytes, 3.0),
    )
    return board.load([*(data, forward, backward, optimizer) * 40, evaluate], repeat=True)


def open_simulated(machine: Machine) -> tuple[SimulatedSensor | None, Availability]:
    """Open the board that ``$ERGOMETRY_SIMULATED`` describes.

    Returns:
        The sensor (None where the variable makes no sense) and its availability.
    """
    try:
        board, front, faults = _parse(machine.environ.get(VARIABLE, "").strip() or "a100")
    except ValueError as error:
        known = ", ".join(BOARDS)
        remedy = f'{VARIABLE} takes one of {known}, or JSON such as {{"board": "a100", "gain": 1.03}}'
        return None, Availability("simulated", False, str(error), remedy)
    signal = describe(
        front,
        domain=board.domain,
        max_power_w=board.max_power_w,
        rel_stderr=board.rel_stderr,
        static_w=board.accelerator.static_w,
        static_rel_stderr=0.0,
    )
    load = training(board.accelerator)
    return SimulatedSensor(load.energy_j, front, faults, signal=signal), Availability(
        "simulated", True, "a simulated board: its joules are of a fixed schedule, not of this machine"
    )


def _parse(text: str) -> tuple[Board, Front, Faults]:
    """Return what a board's name, or JSON, describes.

    Raises:
        ValueError: it describes nothing; the message says why.
    """
    stated: Any = {"board": text}
    if text.startswith("{"):
        try:
            stated = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
    name = stated.pop("board", "a100")
    if not isinstance(name, str) or name not in BOARDS:
        raise ValueError(f"no board {name!r}")
    front, stated = _set(BOARDS[name].front, stated)
    faults, stated = _set(Faults(), stated)
    if stated:
        raise ValueError(f"no setting {', '.join(map(repr, stated))}")
    if front.quantity not in {"energy_j", "power_w"}:
        raise ValueError(f"quantity is energy_j or power_w, not {front.quantity!r}")
    return BOARDS[name], front, faults


def _set(plain: Any, stated: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a dataclass with the fields that are stated, and what it has no field for."""
    defaults = {field.name: getattr(plain, field.name) for field in fields(plain)}
    mine = {key: _like(key, defaults[key], value) for key, value in stated.items() if key in defaults}
    return replace(plain, **mine), {key: value for key, value in stated.items() if key not in defaults}


def _like(key: str, default: object, value: Any) -> Any:
    """Return a JSON value as the type of a field's default."""
    if isinstance(default, tuple):
        pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        if not (pairs and all(_number(x) for pair in value for x in pair)):
            raise ValueError(f"{key} is a list of pairs of numbers, not {value!r}")
        return tuple((float(a), float(b)) for a, b in value)
    if isinstance(default, (bool, str)):
        if type(value) is not type(default):
            raise ValueError(f"{key} is {type(default).__name__}, not {value!r}")
        return value
    if value is None and key == "wrap_j":
        return None
    least = -math.inf if key in {"phase_s", "start_j", "seed"} else 0.0
    if not (_number(value) and least <= value):
        raise ValueError(f"{key} is a number{'' if least else ' that is not negative'}, not {value!r}")
    return int(value) if key == "seed" else float(value)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _uniform(seed: int, k: int) -> float:
    """Return a number in [0, 1) that belongs to (seed, k): splitmix64, whatever was asked before."""
    z = (seed * 0x9E3779B97F4A7C15 + k * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return ((z ^ (z >> 31)) >> 11) / 2.0**53
