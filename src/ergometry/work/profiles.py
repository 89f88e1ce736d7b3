"""Profiles: what the run did, operator by operator and module by module, and the joules that fall to each.

A profile is what one call of one signature does, counted once (table ``profile_uses`` says how often it was used
since); ``meta["profiles"]`` holds them, each an object with ``phase``, ``root`` and ``items``. The joules of a phase
are measured, or divided by the energy model; within a phase they go to modules and operators in proportion to what
the model gives each: its FLOP and bytes, and static power for as long as the roofline says that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance, weakest
from ergometry.core.run import Run
from ergometry.work.coefficients import Coefficients
from ergometry.work.energy_model import EnergyModel, divided, work_matrix
from ergometry.work.roofline import roofline_s

Array = npt.NDArray[np.float64]

PROFILES = "profiles"
"""The key of ``Run.meta`` that holds the profiles."""

_MOST = 1 << 14


@dataclass(frozen=True)
class Item:
    """What one operator of one dtype did in one module and phase, in the whole run.

    ``module`` is the dotted path below the model (``""`` the model itself), ``flops`` and bytes are sums over the run;
    ``parameter_bytes`` are of weights, gradients and optimizer state, ``example_bytes`` of activations.
    """

    phase: str
    module: str
    op: str
    dtype: str
    calls: float
    flops: float
    parameter_bytes: float
    example_bytes: float

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.parameter_bytes + self.example_bytes

    def times(self, uses: float) -> Item:
        """Return the item for so many uses of it."""
        return replace(
            self,
            calls=uses * self.calls,
            flops=uses * self.flops,
            parameter_bytes=uses * self.parameter_bytes,
            example_bytes=uses * self.example_bytes,
        )


@dataclass(frozen=True)
class Share:
    """One row of a table of joules: its name, work, seconds at the roofline, energy, and share of the run's total."""

    name: str
    flops: float
    bytes: float
    roofline_s: float
    energy: Estimate


@dataclass(frozen=True, eq=False)
class Profile:
    """One profile of a run: its phase, what a single use of it does, and its uses.

    ``noted_s`` (n,) are the times at which its uses were noted, ``used`` (n,) the uses since the note before.
    """

    phase: str
    items: tuple[Item, ...]
    noted_s: Array
    used: Array


def profiles(run: Run) -> list[Profile]:
    """Return the profiles that a run used. One that cannot be read, or whose numbers make no sense, is left out."""
    table = run.table(series.PROFILE_USES)
    numbers = np.nan_to_num(table["profile"], nan=-1.0).clip(-1, _MOST).astype(np.int16)
    order = np.argsort(numbers, kind="stable")  # of 16 bits: in linear time
    begins = np.searchsorted(numbers, np.arange(-1, _MOST), sorter=order)
    found = []
    for number, stored in enumerate((run.meta.get(PROFILES) or ())[: _MOST - 1]):
        notes = table.rows[order[begins[number + 1] : begins[number + 2]]]
        notes = notes[np.isfinite(notes[:, 0]) & (notes[:, 2] >= 0) & (notes[:, 2] < np.inf)]
        # Uses only rise: a row that came late says nothing new.
        used = np.diff(np.maximum.accumulate(notes[:, 2]), prepend=0.0)
        items = _items(stored)
        if items and used.sum() > 0:
            found.append(Profile(items[0].phase, items, notes[:, 0], used))
    return found


def items(used: Iterable[Profile]) -> tuple[Item, ...]:
    """Return everything that was done in all the uses of some profiles."""
    return tuple(item.times(float(profile.used.sum())) for profile in used for item in profile.items)


def _items(stored: Mapping[str, Any]) -> tuple[Item, ...]:
    """Return what one use of a profile does; nothing where it cannot be read."""
    try:
        phase = str(stored["phase"])
        found = tuple(
            Item(phase, str(module), str(op), str(dtype), calls, flops, rp + wp, re + we)
            for module, op, dtype, calls, flops, rp, wp, re, we, *_ in stored["items"]
        )
    except (KeyError, TypeError, ValueError):
        return ()
    numbers = np.array([(i.calls, i.flops, i.parameter_bytes, i.example_bytes) for i in found], dtype=object)
    try:
        sound = bool(np.all(np.isfinite(numbers.astype(np.float64)) & (numbers.astype(np.float64) >= 0)))
    except (TypeError, ValueError):
        return ()
    return found if sound else ()


def seconds_of(item: Item, known: Coefficients) -> float:
    """Return the least seconds that an item takes on a calibrated device, by its roofline; 0 where no peak is known."""
    peaks = {dtype: q.value for dtype, q in known.peak_flop_per_s.items() if q.value}
    rate = known.peak_byte_per_s.value
    if not peaks or not rate:
        return 0.0
    return roofline_s({item.dtype: item.flops}, item.bytes, peaks, rate)


def by_module(item: Item) -> str:
    """Name an item by its module."""
    return item.module


def by_op(item: Item) -> str:
    """Name an item by its operator."""
    return item.op


def shares(
    did: Sequence[Item],
    phase_energy: Mapping[str, Estimate],
    model: EnergyModel,
    known: Coefficients,
    key: Callable[[Item], str] = by_module,
    seconds: Mapping[str, float] | None = None,
) -> list[Share]:
    """Divide the energy of each phase among what ran in it, by module or by operator; the dearest first.

    The energies of the rows sum to those of the phases that have items, exactly; a phase without any is in no row.

    Args:
        did: :func:`items` of a run.
        phase_energy: J of each phase.
        model: the run's energy model.
        known: the calibration, for the roofline's seconds.
        key: names the row that an item belongs to.
        seconds: s that each phase took on the device, which its items share as the roofline says that they take; None:
            they took what the roofline says.
    """
    rows: dict[str, Share] = {}
    for phase in dict.fromkeys(item.phase for item in did):
        groups = _grouped((item for item in did if item.phase == phase), key)
        least = {name: math.fsum(seconds_of(item, known) for item in members) for name, members in groups.items()}
        within = math.fsum(least.values())
        slower = (seconds or {}).get(phase, within) / within if within else 1.0
        work = np.stack([_work(members, slower * least[name], model) for name, members in groups.items()])
        energies = _divide(phase_energy.get(phase), work, model)
        for (name, members), energy in zip(groups.items(), energies, strict=True):
            part = Share(
                name,
                math.fsum(item.flops for item in members),
                math.fsum(item.bytes for item in members),
                least[name],
                energy,
            )
            rows[name] = part if name not in rows else _added(rows[name], part)
    return sorted(rows.values(), key=lambda row: -(row.energy.value or 0.0))


def _grouped(did: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in did:
        groups.setdefault(key(item), []).append(item)
    return groups


def _divide(spent: Estimate | None, work: Array, model: EnergyModel) -> list[Estimate]:
    if spent is None or spent.value is None:
        why = spent.why if spent is not None else "its phase has no energy"
        return [Estimate.unknown("J", why)] * len(work)
    joules, errors = divided(np.array([spent.value]), work[None], model)
    relative = (spent.stderr or 0.0) / spent.value if spent.value else 0.0
    provenance = weakest(spent.provenance, Provenance.DERIVED)
    method = f"joules of its phase ({spent.method}) in proportion to counted work"
    return [
        Estimate(float(j), math.hypot(e, relative * j), "J", provenance, method)
        for j, e in zip(joules, errors, strict=True)
    ]


def _work(members: Sequence[Item], seconds: float, model: EnergyModel) -> Array:
    flops: dict[str, Array] = {}
    for item in members:
        flops[item.dtype] = flops.get(item.dtype, np.zeros(())) + item.flops
    moved = math.fsum(item.bytes for item in members)
    return work_matrix(np.array(seconds), flops, np.array(moved), model)


def _added(one: Share, other: Share) -> Share:
    return replace(
        one,
        flops=one.flops + other.flops,
        bytes=one.bytes + other.bytes,
        roofline_s=one.roofline_s + other.roofline_s,
        energy=one.energy + other.energy,
    )


def tree(rows: Sequence[Share], root: str = "model") -> list[tuple[str, str, float]]:
    """Return rows by module as a tree for an icicle: (path, parent's path, J), each node with all that is below it.

    >>> e = Estimate(2.0, None, "J")
    >>> tree([Share("a.b", 0, 0, 0, e), Share("a", 0, 0, 0, e)])
    [('model', '', 4.0), ('model.a', 'model', 4.0), ('model.a.b', 'model.a', 2.0)]
    """
    joules: dict[str, float] = {}
    for row in rows:
        path = root
        joules[path] = joules.get(path, 0.0) + (row.energy.value or 0.0)
        for part in filter(None, row.name.split(".")):
            path = f"{path}.{part}"
            joules[path] = joules.get(path, 0.0) + (row.energy.value or 0.0)
    return [(path, path.rpartition(".")[0], value) for path, value in sorted(joules.items())]


def compute_bound(did: Sequence[Item], known: Coefficients) -> float:
    """Return the share of the roofline's seconds spent above the ridge, bound by arithmetic; NaN without any."""
    above = total = 0.0
    for item in did:
        seconds = seconds_of(item, known)
        total += seconds
        ridge = known.ridge(item.dtype)
        if item.flops and (not item.bytes or item.flops / item.bytes >= ridge):
            above += seconds
    return above / total if total else math.nan
