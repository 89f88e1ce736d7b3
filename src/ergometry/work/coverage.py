"""Coverage: how much of a run's joules hardware measured, part by part, and what of the node its total leaves out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ergometry.core.domain import Domain, cover, inside
from ergometry.core.estimate import Estimate, Provenance, total, weakest
from ergometry.core.run import Run
from ergometry.core.trace import Trace
from ergometry.work import meters
from ergometry.work.meters import Metering

PROCESSORS, MEMORY, ACCELERATORS, REST = "processors", "memory", "accelerators", "rest of the node"
PARTS = (PROCESSORS, MEMORY, ACCELERATORS, REST)

MEASURED, MODELLED, ABSENT = "measured", "modelled", "absent"

_KINDS = {
    **dict.fromkeys(("package", "cpu", "core", "uncore", "die"), PROCESSORS),
    **dict.fromkeys(("dram", "memory"), MEMORY),
    **dict.fromkeys(("gpu", "ane"), ACCELERATORS),
}

_HOLDS = {"psys": (PROCESSORS, MEMORY), "module": (PROCESSORS, MEMORY, ACCELERATORS)}
"""What readings of several parts hold; that of a whole node holds all."""

SEEN, SEEN_STDERR = 0.75, 0.10
"""The share of the wall meter's joules that counters of processors, memory and accelerators see: comparisons of
counters with wall meters have medians of 0.70 to 0.80. Single machines lie further out: the package alone of a
workstation (Threadripper 1950X) was 0.6 of its plug at full load, 0.3 at a tenth of it
(mlco2/codecarbon, data/hardware/cpu_load_profiling)."""

UNUSED = "none was used"

BEYOND = "fans, power supply, network and disks"


@dataclass(frozen=True)
class Part:
    """A part of the node: how its joules are known, by which domains, and why so.

    ``energy`` is unknown where it is absent, or in another reading and not metered apart. ``included`` says whether
    it is in the run's total.
    """

    part: str
    how: str
    domains: tuple[str, ...]
    energy: Estimate
    why: str
    included: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON, but for its energy, which stays an estimate."""
        return {
            "part": self.part,
            "how": self.how,
            "included": self.included,
            "domains": list(self.domains),
            "energy": self.energy if self.energy.known else None,
            "why": self.why,
        }


@dataclass(frozen=True)
class Coverage:
    """What is known of a run's joules.

    Attributes:
        measured: the fraction of the total that hardware measured; what bridges a gap or is modelled is not.
        parts: one for each of :data:`PARTS`; the known energies of those included sum to the total.
        wall: J of the whole node: its own meter's, or modelled from the total, which is then less.
        notes: what else a reader must know: readings that were refused, each with why.
    """

    measured: Estimate
    parts: tuple[Part, ...]
    wall: Estimate
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the coverage as JSON, in which estimates stay."""
        return {
            "measured": self.measured,
            "parts": [part.to_json() for part in self.parts],
            "wall": self.wall,
            "notes": list(self.notes),
        }


def part_of(domain: Domain) -> str | None:
    """Return the part of the node that a domain belongs to, None for one that holds several parts or another.

    >>> [part_of(Domain(path)) for path in ("node0/psys/package0/core", "node0/gpu3/memory", "node0/psys")]
    ['processors', 'accelerators', None]
    """
    return next((_KINDS[kind] for kind in _kinds(domain) if kind in _KINDS), None)


def is_memory(domain: Domain) -> bool:
    """Say whether a domain is memory, of the node (``dram0``) or of a board (``gpu0/memory``).

    >>> is_memory(Domain("node0/dram0")), is_memory(Domain("node0/gpu0"))
    (True, False)
    """
    return any(_KINDS.get(kind) == MEMORY for kind in _kinds(domain))


def _kinds(domain: Domain) -> list[str]:
    """Return the names along a domain's path without their numbers, the node's own left out."""
    return [re.sub(r"\d+$", "", name) for name in domain.path.split("/")[1:]]


def _is_node(domain: Domain) -> bool:
    return "/" not in domain.path


def _holds(domain: Domain, part: str) -> bool:
    return _is_node(domain) or part in _HOLDS.get(_kinds(domain)[-1], ())


def coverage(run: Run, traces: Mapping[Domain, Trace], metered: Metering, spent: Estimate) -> Coverage:
    """Return what of a run's joules was measured, what modelled, and what is missing.

    Args:
        run: the run.
        traces: every domain's.
        metered: the meters that make up the total.
        spent: the total, J.
    """
    found: dict[str, dict[Domain, Estimate]] = {part: {} for part in PARTS}
    rests: list[Estimate] = []
    holding: list[Domain] = []
    for domain, trace in metered.cover().items():
        part = part_of(domain)
        if part is not None:
            found[part][domain] = trace.energy(0.0, run.duration_s)
            continue
        within = cover({d: t for d, t in inside(traces, domain).items() if part_of(d) is not None})
        energies = {d: t.energy(0.0, run.duration_s) for d, t in within.items()}
        for d, energy in energies.items():
            found[part_of(d) or REST][d] = energy
        holding.append(domain)
        rests.append(_less(trace.energy(0.0, run.duration_s), energies))
    parts = [_part(run, name, found[name], holding) for name in PARTS[:-1]]
    wall = _wall(spent, parts, holding)
    parts.append(_rest(rests, holding, wall, spent, parts))
    return Coverage(_measured(run, metered, spent), tuple(parts), wall, tuple(metered.refused.values()))


def _less(whole: Estimate, parts: Mapping[Domain, Estimate]) -> Estimate:
    if not parts:
        return whole
    method = f"{whole.method} less {', '.join(map(str, parts))}"
    left = total([whole, *(-part for part in parts.values())], method=method)
    return Estimate(left.value, left.stderr, "J", weakest(left.provenance, Provenance.DERIVED), method)


def _part(run: Run, name: str, energies: Mapping[Domain, Estimate], holding: Sequence[Domain]) -> Part:
    if not energies:
        unknown = Estimate.unknown("J", "")
        within = [str(domain) for domain in holding if _holds(domain, name)]
        if name == ACCELERATORS and not accelerated(run):
            return Part(name, ABSENT, (), unknown, UNUSED, included=False)
        if within:
            return Part(name, MEASURED, tuple(within), unknown, f"in {', '.join(within)}, not metered apart")
        sampled = [domain for domain in _sampled(run) if part_of(Domain(domain)) == name]
        why = f"too few readings of {', '.join(sampled)}" if sampled else f"no counter of the {name} could be read"
        return Part(name, ABSENT, tuple(sampled), unknown, f"{why}: not in the total", included=False)
    energy = total(energies.values())
    weak = [str(domain) for domain, e in energies.items() if e.provenance.rank > Provenance.DERIVED.rank]
    why = "; ".join(dict.fromkeys(e.why for e in energies.values() if e.why)) or energy.method
    if weak and len(weak) < len(energies):
        why = f"{', '.join(weak)} modelled, the others measured; {why}"
    return Part(name, MODELLED if weak else MEASURED, tuple(map(str, energies)), energy, why)


def accelerated(run: Run) -> bool:
    """Say whether the run used an accelerator, or one was sampled."""
    sampled = any(part_of(Domain(domain)) == ACCELERATORS for domain in _sampled(run))
    return sampled or any(str(device) != "cpu" for device in run.meta.get("devices") or ())


def _sampled(run: Run) -> list[str]:
    return sorted({signal.domain for samples in run.samples for signal in samples.signals})


def _wall(spent: Estimate, parts: Sequence[Part], holding: Sequence[Domain]) -> Estimate:
    """Return the node's joules at the wall: its own meter's, or the total over :data:`SEEN`."""
    if spent.value is None:
        return Estimate.unknown("J", spent.why, Provenance.MODELLED)
    if any(map(_is_node, holding)):
        return spent
    missing = [p.part for p in parts if p.part != MEMORY and p.how == ABSENT and p.why != UNUSED]
    if missing or holding:
        why = f"the {' and '.join(missing)} are missing" if missing else f"{', '.join(map(str, holding))} holds more"
        return Estimate.unknown("J", f"needs a meter of the whole node: {why}", Provenance.MODELLED)
    value = spent.value / SEEN
    stderr = None if spent.stderr is None else math.hypot(spent.stderr / SEEN, value * SEEN_STDERR / SEEN)
    method = f"total over {SEEN} ± {SEEN_STDERR}, the share that counters see of a wall meter's joules"
    return Estimate(value, stderr, "J", Provenance.MODELLED, method)


def _rest(
    rests: Sequence[Estimate], holding: Sequence[Domain], wall: Estimate, spent: Estimate, parts: Sequence[Part]
) -> Part:
    """Return the rest of the node: measured by difference where something that holds it is metered, else modelled."""
    if rests:
        energy, domains = total(rests), tuple(map(str, holding))
        apart = [part.part for part in parts if part.energy.known]
        why = f"what {', '.join(domains)} holds beside {', '.join(apart)}" if apart else "the whole reading"
        if any(map(_is_node, holding)):
            why += f": {BEYOND}, the board, and what is not metered apart"
        else:
            why += f"; {BEYOND} are not included"
        weak = energy.provenance.rank > Provenance.DERIVED.rank
        return Part(REST, MODELLED if weak else MEASURED, domains, energy, why)
    if not wall.known or wall.value is None or spent.value is None:
        return Part(REST, ABSENT, (), Estimate.unknown("J", wall.why), f"{BEYOND} are not included", included=False)
    extra = wall.value - spent.value
    own = (1 / SEEN - 1) * (spent.stderr or 0.0)
    stderr = None if spent.stderr is None else math.hypot(own, wall.value * SEEN_STDERR / SEEN)
    energy = Estimate(extra, stderr, "J", Provenance.MODELLED, f"{wall.method}, less the total")
    return Part(REST, MODELLED, (), energy, f"{BEYOND} are not included in the total", included=False)


def _measured(run: Run, metered: Metering, spent: Estimate) -> Estimate:
    """Return the fraction of the total that was read from hardware: Σ measured / Σ all.

    Its error is that of the two sums, taken as independent: the share of what is modelled is as uncertain as that is.
    """
    method = "joules read from hardware over the total; those modelled or bridged over gaps are not"
    if spent.value is None or not spent.value > 0:
        return Estimate.unknown("", spent.why or "no joules were spent")
    read = other = read_var = other_var = 0.0
    for trace in metered.cover().values():
        energy = trace.energy(0.0, run.duration_s)
        measured_j = min(meters.measured_j(trace, run.duration_s), energy.value or 0.0)
        share = measured_j / energy.value if energy.value else 0.0
        read, other = read + measured_j, other + (energy.value or 0.0) - measured_j
        variance = (energy.stderr or 0.0) ** 2
        read_var, other_var = read_var + share * variance, other_var + (1 - share) * variance
    fraction = min(max(read / spent.value, 0.0), 1.0)
    fraction = 1.0 if fraction > 1 - 1e-9 else fraction
    stderr = math.sqrt(other**2 * read_var + read**2 * other_var) / spent.value**2 if other > 0 else 0.0
    return Estimate(fraction, stderr, "", Provenance.DERIVED, method)
