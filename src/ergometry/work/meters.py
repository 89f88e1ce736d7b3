"""Meters: which readings make up a run's total, and how one splits into the readings that lie inside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ergometry.core.domain import Domain, cover, inside
from ergometry.core.estimate import Provenance, total
from ergometry.core.ports import Signal
from ergometry.core.trace import Trace

Array = npt.NDArray[np.float64]
Traces = Mapping[Domain, Trace]

MOST_READ = 0.9
"""A reading of less than this of its own joules, the rest bridged, gives way to the readings inside it where those
are better, and is called modelled where there are none. Not that of a board or a package: a board's memory and a
package's cores are a part of it, and what they leave out would be lost without a word."""

_ONE_THING = re.compile(r"/(gpu|package|cpu|dram)[^/]*$")

_SURE = 3.0
"""Standard errors by which a domain must fall short of what lies inside it before its reading is refused."""

_MOST_POINTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Meter:
    """One domain's reading, the meters inside it that tell more than it does alone, and what they leave of it.

    Attributes:
        domain: where it is.
        trace: its whole reading, J over time.
        inner: meters that lie inside it and do not overlap; their joules are part of its own.
        rest: its joules less theirs, by difference; its own where there are none.
    """

    domain: Domain
    trace: Trace
    inner: tuple[Meter, ...]
    rest: Trace

    def leaves(self) -> list[tuple[str, Trace]]:
        """Return the name and the joules of each part that is split by itself; they sum to the meter's."""
        if not self.inner:
            return [(self.domain.path, self.trace)]
        parts = [part for meter in self.inner for part in meter.leaves()]
        return [*parts, (f"rest of {self.domain}", self.rest)]


@dataclass(frozen=True, eq=False)
class Metering:
    """The meters whose joules add up to a run's total; of all readings, those that were refused, each with why."""

    meters: tuple[Meter, ...]
    refused: Mapping[Domain, str]
    traces: Traces

    def cover(self) -> dict[Domain, Trace]:
        """Return the traces that are added; no two overlap."""
        return {meter.domain: meter.trace for meter in self.meters}


def metering(traces: Traces, duration_s: float) -> Metering:
    """Return the best cover of what was read that counts nothing twice: the outermost readings that can be trusted.

    An outer reading gives way to those inside it where it was read for less than :data:`MOST_READ` of its joules and
    they for more, unless it is of one board or package; or where it is less than their sum by more than the errors
    allow.

    Args:
        traces: every domain's.
        duration_s: the run's, s.
    """
    refused: dict[Domain, str] = {}
    chosen = _trusted(traces, duration_s, refused)
    meters = tuple(_meter(domain, trace, traces, duration_s) for domain, trace in chosen.items())
    return Metering(meters, refused, traces)


def measured_j(trace: Trace, duration_s: float) -> float:
    """Return the joules of a run that a trace holds from readings of hardware: neither modelled nor bridged."""
    return max(joules(trace, duration_s) - trace.bridged_j(0.0, duration_s), 0.0) if is_measured(trace.signal) else 0.0


def read_share(trace: Trace, duration_s: float) -> float:
    """Return the share of a run's joules that was read and not bridged; where there are none, of its seconds."""
    whole_j = joules(trace, duration_s)
    if whole_j > 0:
        return min(max(1.0 - trace.bridged_j(0.0, duration_s) / whole_j, 0.0), 1.0)
    return 1.0 - unread_s(trace, duration_s) / duration_s if duration_s > 0 else 1.0


def unread(trace: Trace, duration_s: float) -> Array:
    """Return the beginning and the end, (m, 2) s, of each stretch of a run that is bridged or beyond the samples."""
    last_s = trace.t_s[-1] if trace.sampled_until_s is None else trace.sampled_until_s
    ends = [[0.0, trace.t_s[0]], [last_s, duration_s]]
    spans = np.concatenate((ends[:1], trace.bridges[:, :2], ends[1:])).clip(0.0, duration_s)
    return np.asarray(spans[spans[:, 1] > spans[:, 0]])


def unread_s(trace: Trace, duration_s: float) -> float:
    """Return the seconds of a run that are bridged, those before the first and after the last sample included."""
    return float(np.diff(unread(trace, duration_s)).sum())


def joules(trace: Trace, duration_s: float) -> float:
    """Return the energy of a run, J."""
    return float(np.diff(trace.cumulative_j([0.0, duration_s]))[0])


def is_measured(signal: Signal) -> bool:
    """Say whether a signal is read from hardware, however it is then computed."""
    return Provenance(signal.provenance).rank <= Provenance.DERIVED.rank


def _trusted(traces: Traces, duration_s: float, refused: dict[Domain, str]) -> dict[Domain, Trace]:
    found: dict[Domain, Trace] = {}
    for domain, trace in cover(traces).items():
        within = inside(traces, domain)
        why = _refusal(domain, trace, cover(within), duration_s)
        if why:
            refused[domain] = why
            found |= _trusted(within, duration_s, refused)
        else:
            found[domain] = trace
    return found


def _refusal(domain: Domain, trace: Trace, within: Traces, duration_s: float) -> str:
    """Return why a reading does not stand for those inside it; nothing where it does."""
    if not within:
        return ""
    share = 1.0 if _ONE_THING.search(domain.path) else read_share(trace, duration_s)
    if share < min(MOST_READ, *(read_share(inner, duration_s) for inner in within.values())):
        return f"{domain} was read for {share:.0%} of its joules only: what lies inside it counts".replace("%", " %")
    if _falls_short(trace, within.values(), duration_s):
        return f"{domain} reads less than what lies inside it, which counts"
    return ""


def _falls_short(trace: Trace, within: Iterable[Trace], duration_s: float) -> bool:
    parts = [inner.energy(0.0, duration_s) for inner in within if is_measured(inner.signal)]
    if not parts:
        return False
    whole = trace.energy(0.0, duration_s)
    short = total(parts) - whole
    return (short.value or 0.0) > _SURE * (short.stderr or 0.0) + 1e-9 * abs(whole.value or 0.0)


def _meter(domain: Domain, trace: Trace, traces: Traces, duration_s: float) -> Meter:
    within = inside(traces, domain)
    telling = cover({d: inner for d, inner in within.items() if _tells_more(inner, trace, duration_s)})
    if not telling or duration_s <= 0 or _falls_short(trace, telling.values(), duration_s):
        return Meter(domain, trace, (), trace)
    inner = [_meter(d, telling[d], inside(traces, d), duration_s) for d in telling]
    whole_j, parts_j = joules(trace, duration_s), math.fsum(joules(meter.trace, duration_s) for meter in inner)
    if 0 <= whole_j < parts_j:  # within their errors: they are then all of it
        inner = [_scaled(meter, whole_j / parts_j) for meter in inner]
    return Meter(domain, trace, tuple(inner), _rest(domain, trace, [meter.trace for meter in inner], duration_s))


def _rest(domain: Domain, whole: Trace, parts: list[Trace], duration_s: float) -> Trace:
    """Return E_rest(t) = E(t) - Σ E_part(t) at the whole's own times, linear between them.

    A slow meter cannot tell when, between two of its readings, the rest used its joules. Where the delays of the
    meters make the difference fall for a while, those times are left out, as no joules come back. At the run's ends
    it is exact, so that rest and parts sum to the whole.
    """
    signal = whole.signal
    own_s = whole.t_s[(whole.t_s > 0) & (whole.t_s < duration_s)]
    stride = max(math.ceil(grain_s(whole) / _each_s(whole) - 0.01), len(own_s) // _MOST_POINTS + 1)
    at_s = np.concatenate(([0.0], own_s[::stride], [duration_s]))
    left_j = whole.cumulative_j(at_s)
    for part in parts:
        left_j = left_j - part.cumulative_j(at_s)
    rises = (left_j >= np.maximum.accumulate(left_j)) & (left_j <= np.minimum.accumulate(left_j[::-1])[::-1])
    rises[[0, -1]] = True
    derived = replace(
        signal,
        domain=f"{domain}/rest",
        quantity="energy_j",
        provenance=str(Provenance.DERIVED),
        method=f"rest of {domain}",
        resolution_j=math.hypot(signal.resolution_j, *(part.signal.resolution_j for part in parts)),
        averaging_s=0.0,
        resolution_w=0.0,
        gain=1.0,
        static_w=None,
        static_rel_stderr=None,
    )
    return Trace(at_s[rises], left_j[rises] - left_j[0], derived)


def _tells_more(inner: Trace, outer: Trace, duration_s: float) -> bool:
    """Say whether an inner reading tells of time what the outer one cannot: a device's own time, or a finer one."""
    if not is_measured(inner.signal) or read_share(inner, duration_s) < MOST_READ:
        return False
    return inner.signal.device != outer.signal.device or 2 * grain_s(inner) < grain_s(outer)


def grain_s(trace: Trace) -> float:
    """Return the time within which a trace cannot tell when its joules were used, s."""
    return max(_each_s(trace), trace.signal.update_period_s, trace.signal.averaging_s)


def _each_s(trace: Trace) -> float:
    return float(trace.t_s[-1] - trace.t_s[0]) / (len(trace.t_s) - 1)


def _scaled(meter: Meter, factor: float) -> Meter:
    inner = tuple(_scaled(one, factor) for one in meter.inner)
    return Meter(meter.domain, _times(meter.trace, factor), inner, _times(meter.rest, factor))


def _times(trace: Trace, factor: float) -> Trace:
    return replace(trace, e_j=trace.e_j * factor, bridges=trace.bridges * (1.0, 1.0, factor))
