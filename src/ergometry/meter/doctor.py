"""Doctor: what every power source of a machine gives, examined by reading it; what is wrong, and the remedy.

Plain data out: the JSON contract of ``erg doctor``. Nothing raises for what is absent; that is what it is to find.
"""

from __future__ import annotations

import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ergometry.core.domain import Domain, cover
from ergometry.core.errors import ErgError
from ergometry.core.ports import Availability, Machine, OpenSource, Signal
from ergometry.core.series import PROCESS
from ergometry.meter.client import RecorderClient
from ergometry.meter.polling import Poll, Updates, mean_power_w, poll_all, updates
from ergometry.sensors import MODELS, SELECTION, gains, open_sensors, tree

SCHEMA = "ergometry.doctor/1"

SAMPLING_HZ = 1.0
"""The rate at which the recorder's own overhead is measured, its default."""

_BLOCKED = re.compile(r"permission|denied|cannot (be )?read|cannot (be )?opened|failed to open|no such source", re.I)
"""Words of an absence that someone can mend, unlike hardware that is not there."""

_BOARDS = {
    # PCI vendor -> (name, source, classes: 03 display, of which 02 is 3D and 80 other; 12 processing accelerator)
    "0x10de": ("NVIDIA", "nvml", re.compile(r"0x(03|12)")),
    "0x1002": ("AMD", "amdsmi", re.compile(r"0x(0302|0380|12)")),  # 0300 may be the graphics of a processor
}

Problem = dict[str, str]


def examine(machine: Machine, seconds: float) -> dict[str, Any]:
    """Look for every source of a machine, read those that are there for ``seconds``, and say what was found.

    Returns:
        The JSON of ``erg doctor``, less its ``overhead``. SI units; null is not known.
    """
    opened, found = open_sensors(machine)
    polls = poll_all(opened, seconds)
    known = gains.look(machine.environ)
    boards = _boards(machine.sysfs)
    read = {source.sensor.source: (source, poll) for source, poll in zip(opened, polls, strict=True)}
    sources = [_source(availability, read.get(availability.source), known.gains) for availability in found]
    for source, poll in zip(opened, polls, strict=True):
        if not poll.why:  # one that hangs may hang again
            source.sensor.close()
    domains = _by_path(sources)
    chosen = list(cover({Domain(path): path for path in domains}).values())
    return {
        "schema": SCHEMA,
        "sysfs": str(machine.sysfs),
        "selection": machine.environ.get(SELECTION, ""),
        "disabled": machine.environ.get("ERGOMETRY_DISABLE") == "1",
        "seconds": seconds,
        "problems": _problems(sources, boards, known, bool(machine.environ.get(SELECTION))),
        "sources": sources,
        "cover": chosen,
        "power": _power([domains[path] for path in chosen]),
        "covers": [domains[path]["covers"] for path in chosen],
        "leaves_out": leaves_out(chosen, boards, [domain for source in found for domain in source.missing]),
        "fallback": _fallback(sources),
        "gains": {
            "file": str(known.path),
            "exists": known.exists,
            "why": known.why,
            "boards": {
                board: {"gain": gain.gain, "rel_stderr": gain.rel_stderr, "date": gain.date}
                for board, gain in known.gains.items()
            },
        },
    }


def overhead(
    seconds: float, load: Callable[[Path], Any], sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Run a recorder beside this process for ``seconds``, as a training would have it, and say what it costs.

    Args:
        seconds: how long, after it has started.
        load: reads a stored run (:func:`ergometry.store.reader.load`, which needs NumPy, as this room may not).
        sleep: waits.

    Returns:
        ``fraction_of_core`` its processor time over the time, ``start_s`` until it was ready, ``bytes_per_hour``
        what a run without steps stores, at ``sampling_hz``; null, and ``why``, where it could not be run.
    """
    cost: dict[str, Any] = dict.fromkeys(("fraction_of_core", "start_s", "bytes_per_hour"))
    cost |= {"sampling_hz": SAMPLING_HZ, "seconds": seconds, "why": ""}
    try:
        with tempfile.TemporaryDirectory(prefix="ergometry-") as folder:
            began_s = time.perf_counter()
            client = RecorderClient.start(Path(folder), sampling_hz=SAMPLING_HZ)
            start_s = time.perf_counter() - began_s
            sleep(seconds)
            ended = client.finish("completed", 0)
            run = load(Path(folder))
    except (ErgError, OSError) as error:
        return cost | {"why": f"a recorder could not be run: {error}"}
    process = run.table(PROCESS)
    if not ended or len(process) < 2:
        return cost | {"why": "the recorder took no second sample"}
    t_s, cpu_s = process["t_s"], process["recorder_cpu_s"]
    tables = list(run.tables.values()) + [samples.table for samples in run.samples]
    row_bytes = sum(table.rows.nbytes for table in tables) / len(process)
    return cost | {
        "fraction_of_core": float((cpu_s[-1] - cpu_s[0]) / (t_s[-1] - t_s[0])),
        "start_s": start_s,
        "bytes_per_hour": float(row_bytes * 3600.0 * SAMPLING_HZ),
    }


def covers(path: str) -> str:
    """Return what a domain covers, in words.

    >>> covers("node0/psys/package0"), covers("node0/module1/gpu1/memory")
    ('CPU package 0 with its cores and uncore; not its memory', 'the memory of GPU 1')
    """
    parts = [_numbered(part) for part in path.split("/")[1:]]
    if not parts:
        return "the whole machine"
    (kind, number), outer = parts[-1], dict(parts[:-1])
    socket = outer.get("package", outer.get("socket", outer.get("dram", "")))
    if kind == "die":
        memory = "the memory beside " if "dram" in outer else ""
        return f"{memory}die {number} of CPU package {socket}"
    if kind == "memory" and "gpu" in outer:
        return f"the memory of GPU {outer['gpu']}"
    if "rails" in outer:
        return f"supply rail {parts[-1][0]}{number}"
    if kind == "gpu" and "package" in outer:
        return f"the GPU of package {socket}"
    words = _WORDS.get(kind if number or kind != "dram" else "all dram")
    if words is None:
        return f"{kind} {number}".strip() + (f" of {covers(path.rpartition('/')[0])}" if outer else "")
    return words.format(number=number, socket=socket)


_WORDS = {
    "psys": "the platform: packages, memory and mainboard; no accelerators in slots of their own",
    "module": "module {number}: CPU, GPU and their memories",
    "socket": "CPU socket {number} with its memory",
    "package": "CPU package {number} with its cores and uncore; not its memory",
    "core": "the cores of CPU package {socket}",
    "uncore": "the uncore of CPU package {socket}",
    "cpu": "the CPU packages; not their memory",
    "dram": "the memory of CPU package {number}",
    "all dram": "all memory of the processors",
    "gpu": "GPU {number}, the whole board with its memory",
}

_MISSED = ("fans", "losses of the power supply", "network cards", "disks")


def leaves_out(
    chosen: Iterable[str], boards: Mapping[str, int] | None = None, missing: Iterable[str] = ()
) -> list[str]:
    """Return the parts of a machine that the sum over these domains leaves out.

    Args:
        chosen: the domains that are added.
        boards: the number of accelerators that the machine has, by maker.
        missing: domains that are there and cannot be read; those that lie in a chosen one are not left out.
    """
    paths = list(chosen)
    if any("/" not in path for path in paths):
        return []
    added = [Domain(path) for path in paths]
    parts = [covers(path) for path in missing if not any(domain.overlaps(Domain(path)) for domain in added)]
    if not tree.meters(tree.CPU_METERS | {"cpu"}, paths):
        parts.append("processors")
    if not tree.meters(tree.MEMORY_METERS, paths):
        parts.append("memory")
    read = sum(_numbered(part)[0] in ("gpu", "module") for path in paths for part in path.split("/")[1:])
    if boards and sum(boards.values()) > read:
        parts.append("accelerators that are not read")
    if tree.meters({"module"}, paths):
        parts.append("rest of the mainboard")
    elif not tree.meters({"psys"}, paths):
        parts.append("voltage regulators and the rest of the mainboard")
    return [*parts, *_MISSED]


def _source(
    availability: Availability, read: tuple[OpenSource, Poll] | None, known: Mapping[str, gains.Gain]
) -> dict[str, Any]:
    source, poll = read if read is not None else (None, Poll(0.0))
    return {
        "source": availability.source,
        "present": availability.present,
        "why": availability.why,
        "remedy": availability.remedy,
        "missing": list(availability.missing),
        "fault": poll.why,
        "readings": len(poll.t_s),
        "read_s": statistics.median(poll.took_s) if poll.took_s else None,
        "domains": [_domain(signal, i, poll, known) for i, signal in enumerate(source.signals)] if source else [],
    }


def _domain(signal: Signal, column: int, poll: Poll, known: Mapping[str, gains.Gain]) -> dict[str, Any]:
    t_s, x = poll.of(column)
    counter = signal.quantity == "energy_j"
    seen = updates(t_s, x)
    described: dict[str, Any] = {
        "domain": signal.domain,
        "quantity": signal.quantity,
        "unit": "J" if counter else "W",
        "resolution": signal.resolution_j if counter else signal.resolution_w,
        "update_period_s": seen.period_s,
        "update_period_at_most": seen.at_most,
        "stated_update_period_s": signal.update_period_s,
        "averaging_s": signal.averaging_s,
        "polled_every_s": (poll.t_s[-1] - poll.t_s[0]) / (len(poll.t_s) - 1) if len(poll.t_s) > 1 else None,
        "power_w": mean_power_w(t_s, x, signal),
        "rel_stderr": signal.rel_stderr,
        "gain": signal.gain,
        "calibrated": signal.provenance == "measured" and signal.board in known,
        "board": signal.board,
        "device": signal.device,
        "provenance": signal.provenance,
        "method": signal.method,
        "covers": covers(signal.domain),
        "fault": _fault(signal, poll, len(x), seen),
    }
    # JSON has no NaN and no infinity.
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in described.items()}


def _fault(signal: Signal, poll: Poll, good: int, seen: Updates) -> str:
    """Return what is wrong with a signal's readings, in words; ``""`` if nothing is."""
    failed = len(poll.t_s) - good
    if failed:
        return f"{'all' if not good else failed} of {len(poll.t_s)} readings failed"
    span_s = poll.t_s[-1] - poll.t_s[0] if poll.t_s else 0.0
    still = seen.period_s is None and signal.quantity == "energy_j" and span_s > 4 * max(signal.update_period_s, 0.01)
    return f"the counter stood still for {span_s:.2g} s" if still else ""


def _power(chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum over the domains of the cover: W, its standard error, the weakest provenance, and the terms."""
    known = [domain for domain in chosen if domain["power_w"] is not None]
    errors = [math.nan if d["rel_stderr"] is None else d["rel_stderr"] * d["power_w"] for d in known]
    stderr = math.hypot(*errors) if known else math.nan
    ranks = ("measured", "derived", "modelled", "assumed")
    return {
        "value": math.fsum(domain["power_w"] for domain in known) if known else None,
        "stderr": stderr if math.isfinite(stderr) else None,
        "unit": "W",
        "provenance": max((domain["provenance"] for domain in known), key=ranks.index, default="measured"),
        "by_domain": {domain["domain"]: domain["power_w"] for domain in chosen},
    }


def _fallback(sources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the models in use: for which domain, with which error, and why."""
    models = [
        {
            "source": source["source"],
            "domain": domain["domain"],
            "used_for": domain["covers"],
            "method": domain["method"],
            "rel_stderr": domain["rel_stderr"],
            "power_w": domain["power_w"],
            "why": source["why"],
            "remedy": source["remedy"],
        }
        for source in sources
        for domain in source["domains"]
        if domain["provenance"] == "modelled"
    ]
    return {"in_use": bool(models), "models": models}


def _problems(
    sources: Sequence[Mapping[str, Any]], boards: Mapping[str, int], known: gains.GainsFile, named: bool
) -> list[Problem]:
    """Return what is wrong and could be mended, the worst first; what a machine simply does not have is not wrong."""
    problems: list[Problem] = []

    def add(what: str, remedy: str, source: str = "") -> None:
        problems.append({"source": source, "what": what, "remedy": remedy})

    read = [domain for source in sources for domain in source["domains"]]
    if not read:
        add(
            "no power source can be read here: a run would have times and counts, and no joules",
            "see each source below",
        )
    unread = {
        source: f"{name} boards are on the PCI bus ({boards[name]})"
        for name, source, _ in _BOARDS.values()
        if boards.get(name)
    }
    for source in sources:
        name, why = source["source"], source["why"]
        if source["fault"]:
            add(f"{name}: {source['fault']}", "see its driver, or leave it out with ERGOMETRY_SENSORS", name)
        if source["present"] and why and name not in MODELS:
            add(f"{name}{', in part' if source['missing'] else ''}: {why}", source["remedy"], name)
        elif not source["present"] and name in unread:
            add(f"{name}: {unread[name]}, but {why}", source["remedy"], name)
        elif not source["present"] and (named or _BLOCKED.search(why)):
            add(f"{name}: {why}", source["remedy"], name)
        for domain in source["domains"]:
            if domain["fault"]:
                add(f"{name}, {domain['domain']}: {domain['fault']}", "its joules are bridged with a wide error", name)
    if known.why:
        add(
            f"gains are not used, of {known.path}: {known.why}",
            f"mend the file or move it away, or name another with {gains.VARIABLE}",
        )
    return problems


def _by_path(sources: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the reading of each domain that counts: of several a counter, and of those the first."""
    chosen: dict[str, dict[str, Any]] = {}
    for domain in (domain for source in sources for domain in source["domains"]):
        before = chosen.setdefault(domain["domain"], domain)
        if before["quantity"] != "energy_j" and domain["quantity"] == "energy_j":
            chosen[domain["domain"]] = domain
    return chosen


def _boards(sysfs: Path) -> dict[str, int]:
    """Return how many accelerators of each maker are on the PCI bus."""
    count: dict[str, int] = {}
    for device in sorted(sysfs.glob("bus/pci/devices/*")):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except (OSError, ValueError):
            continue
        name, _, classes = _BOARDS.get(vendor, ("", "", re.compile("$")))
        if name and classes.match(kind):
            count[name] = count.get(name, 0) + 1
    return count


def _numbered(part: str) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z]+?)(\d*(?:-\d+)?)", part)
    return (match[1], match[2]) if match else (part, "")
