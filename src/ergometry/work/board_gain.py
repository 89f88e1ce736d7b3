"""Board gain: the factor that makes a board's readings those of a reference meter, from runs that both saw.

    directly            g = η·E_meter / E_board
    by difference       g = (η·ΔP_meter - ΔP_others) / ΔP_board

E_board is what the board's sensor counted, without any gain; η the share of the meter's reading that passes the power
supply. A meter at the wall reads the whole machine: of two runs, one of which leaves the board idle, what is the same
in both falls out of the difference of their mean powers, and what other sensors saw rise is taken off. What rises with
the board and is seen by none, such as its fans, is counted as the board's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from ergometry.core.domain import Domain, cover
from ergometry.core.errors import InvalidSeries, UsageError
from ergometry.core.estimate import Estimate
from ergometry.core.ports import Signal
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.sensors.gains import Gain


class Meter(NamedTuple):
    """What the reference read: J over the run, J over the idle run (None without one), and η; each with its error."""

    energy: Estimate
    baseline: Estimate | None = None
    efficiency: Estimate = Estimate(1.0, 0.0, "")


def calibrate(board: str, meter: Meter, run: Run, idle: Run | None = None, reference: str = "") -> Gain:
    """Return the gain of a board, by its identity, and the relative standard error that is left.

    Raises:
        UsageError: a run has no readings of the board, or board and reference do not both rise.
    """
    power, true = _board_power(run, board), _power(meter.energy, run)
    readings: dict[str, object] = {
        "run": run.id,
        "reference_j": meter.energy.value,
        "reference_stderr_j": meter.energy.stderr,
        "psu_efficiency": meter.efficiency.value,
        "psu_stderr": meter.efficiency.stderr,
    }
    if idle is not None and meter.baseline is not None:
        power, true = power - _board_power(idle, board), true - _power(meter.baseline, idle)
        others = _others_rise(run, idle, board)
        readings |= {"baseline": idle.id, "baseline_j": meter.baseline.value, "others_w": others.value}
        true = true * meter.efficiency - others
    else:
        true = true * meter.efficiency
    board_w, true_w = power.value or 0.0, true.value or 0.0
    if board_w <= 0 or true_w <= 0:
        raise UsageError(
            expected="a run in which board and reference both draw more" + (" than in the baseline" if idle else ""),
            got=f"{board_w:.3g} W of the board and {true_w:.3g} W of the reference",
            remedy="put the board under load in it, and leave it idle in a baseline",
        )
    readings |= {"board_w": board_w, "reference_w": true_w}
    rel_stderr = math.hypot((true.stderr or 0.0) / true_w, (power.stderr or 0.0) / board_w)
    return Gain(true_w / board_w, rel_stderr, reference=reference or f"a meter, over run {run.id}", readings=readings)


def _board_power(run: Run, board: str) -> Estimate:
    """Return the mean power that a board's sensor saw over a run, W, without the gain that the run was recorded with.

    Raises:
        UsageError: the run has no usable readings of the board.
    """
    for quantity in ("energy_j", "power_w"):
        for samples in run.samples:
            for column, signal in enumerate(samples.signals, start=1):
                if (signal.board, signal.quantity, signal.provenance) == (board, quantity, "measured"):
                    # Its own gain and the error of that are what is looked for.
                    raw = replace(signal, gain=1.0, rel_stderr=0.0)
                    try:
                        trace = Trace.from_samples(samples.table["t_s"], samples.table.rows[:, column], raw)
                    except InvalidSeries:
                        continue
                    return _power(trace.energy(0.0, run.duration_s), run)
    raise UsageError(
        expected=f"a run with two readings or more of {board}", got=run.id, remedy="record one on that machine"
    )


def _others_rise(run: Run, idle: Run, board: str) -> Estimate:
    """Return by how much more the other domains, as far as both runs metered them, drew in one run, W."""
    own = [Domain(signal.domain) for samples in run.samples for signal in samples.signals if signal.board == board]
    traces, at_rest = run.traces(), idle.traces()
    shared = {domain: trace for domain, trace in traces.items() if domain in at_rest}
    others = cover({domain: trace for domain, trace in shared.items() if not any(map(domain.overlaps, own))})
    rise = Estimate(0.0, 0.0, "W")
    for domain, trace in others.items():
        one, other = _power(_unshared(trace, run), run), _power(_unshared(at_rest[domain], idle), idle)
        part = one - other
        # The relative error is the same in both runs, so it is one of the difference.
        shared_w = trace.signal.rel_stderr * (part.value or 0.0)
        rise = rise + replace(part, stderr=math.hypot(part.stderr or 0.0, shared_w))
    return rise


def _unshared(trace: Trace, run: Run) -> Estimate:
    signal: Signal = replace(trace.signal, rel_stderr=0.0)
    return replace(trace, signal=signal).energy(0.0, run.duration_s)


def _power(energy: Estimate, run: Run) -> Estimate:
    return replace(energy * (1.0 / run.duration_s), unit="W")
