"""What a recurring job remembers between recurrences, and how it is written and read."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ergometry.planning.recurring.settings import Settings
from ergometry.planning.recurring.spec import JobSpec, wrong

SCHEMA = "ergometry.recurring/1"


@dataclass
class Attempt:
    """One attempt: how many epochs it ran, whether it reached the target, and the epoch each level was seen at."""

    batch_size: int
    epochs: int
    reached: bool
    crossed: list[int] = field(default_factory=list)


@dataclass
class Meter:
    """Totals at one (batch size, power limit): epochs done, s, J."""

    epochs: float = 0.0
    seconds: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True)
class Elsewhere:
    """History of the same job on another machine: its attempts, and its log cost of an epoch (up to a constant)."""

    attempts: tuple[Attempt, ...]
    log_epoch_cost: Mapping[int, float]
    limit_share: float | None


def _load(text: str) -> dict[str, Any]:
    try:
        state = json.loads(text)
    except ValueError as error:
        raise wrong("the JSON of a recurring job", error, "read it back from the file that save() wrote") from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise wrong(f"schema {SCHEMA}", found, "read it with the version of ergometry that wrote it")
    return state


def _attempt(raw: Mapping[str, Any], max_epochs: int, levels: int) -> Attempt:
    attempt = Attempt(**{f.name: raw[f.name] for f in fields(Attempt)})
    crossed = attempt.crossed
    sound = (
        1 <= attempt.epochs <= max_epochs
        and attempt.batch_size >= 1
        and len(crossed) <= levels
        and crossed == sorted(crossed)
        and all(1 <= e <= attempt.epochs for e in crossed)
        and (len(crossed) == levels or not attempt.reached)
    )
    if not sound:
        raise wrong("an attempt within its epochs and levels", attempt, "leave out runs that were not recorded whole")
    return attempt


@dataclass(frozen=True)
class State:
    """All that a job knows.

    ``log_cost`` is of an epoch at each size, in the order first read, ``probed`` the same from probes; ``due`` says how
    nearly a second look is due at each size.
    """

    spec: JobSpec
    settings: Settings
    attempts: list[Attempt]
    meters: dict[int, dict[float, Meter]]
    log_cost: dict[int, float]
    probed: list[tuple[int, float]]
    elsewhere: Elsewhere | None
    due: list[float]
    running: Attempt | None


def dump(state: State) -> str:
    """The state as JSON, one object, versioned."""
    far, running = state.elsewhere, state.running
    return json.dumps(
        {
            "schema": SCHEMA,
            "spec": asdict(state.spec),
            "settings": asdict(state.settings),
            "attempts": [asdict(a) for a in state.attempts],
            "meters": [
                [b, p, m.epochs, m.seconds, m.joules] for b, row in state.meters.items() for p, m in row.items()
            ],
            "log_cost": list(state.log_cost.items()),
            "probed": state.probed,
            "elsewhere": far
            and {
                "attempts": [asdict(a) for a in far.attempts],
                "log_epoch_cost": sorted(far.log_epoch_cost.items()),
                "limit_share": far.limit_share,
            },
            "due": state.due,
            "running": running and asdict(running),
        },
        allow_nan=False,
    )


def load(text: str) -> State:
    """Read what ``dump`` wrote.

    Raises:
        UsageError: If it is no such state, is of another version, or holds impossible values.
    """
    state = _load(text)
    try:
        raw = dict(state["spec"])
        raw["batch_sizes"] = tuple(raw["batch_sizes"])
        raw["limits_at"] = tuple(tuple(row) for row in raw["limits_at"])
        spec = JobSpec(**raw)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in state["settings"].items()}
        settings = Settings(**values)
        attempts = [_attempt(a, spec.max_epochs, spec.metric_levels) for a in state["attempts"]]
        meters: dict[int, dict[float, Meter]] = {}
        for b, p, *totals in state["meters"]:
            meter = meters.setdefault(int(b), {})[float(p)] = Meter(*(float(v) for v in totals))
            if not all(math.isfinite(v) and v > 0 for v in (meter.epochs, meter.seconds, meter.joules)):
                raise wrong("epochs, seconds and joules above 0", meter, "leave out stretches that were not metered")
        far = state["elsewhere"]
        elsewhere = far and Elsewhere(
            tuple(_attempt(a, spec.max_epochs, spec.metric_levels) for a in far["attempts"]),
            {int(b): float(c) for b, c in far["log_epoch_cost"]},
            far["limit_share"],
        )
        log_cost = {int(b): float(c) for b, c in state["log_cost"]}
        probed = [(int(b), float(c)) for b, c in state["probed"]]
        running = state["running"] and Attempt(**state["running"])
        all_attempts = [*attempts, running] if running else attempts
        known = {*meters, *log_cost, *(b for b, _ in probed), *(a.batch_size for a in all_attempts)}
        if not known <= set(spec.batch_sizes):
            raise wrong(f"batch sizes among {list(spec.batch_sizes)}", sorted(known), "give the whole state back")
        due = [float(v) for v in state["due"]]
        if len(due) != len(spec.batch_sizes):
            raise wrong(f"{len(spec.batch_sizes)} values of due", len(due), "give the whole state back")
    except (KeyError, TypeError, ValueError) as error:
        raise wrong("a whole state of a recurring job", repr(error), "read it back from what save() wrote") from None
    return State(spec, settings, attempts, meters, log_cost, probed, elsewhere, due, running)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a kill leaves either the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
