"""Summary: the JSON contract ``ergometry.run/1``, in which every number is a quantity with its error and provenance."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.masking import mask_secrets
from ergometry.core.notices import Notice
from ergometry.core.run import Run
from ergometry.report.findings import findings
from ergometry.report.roofline import roofline_json
from ergometry.report.spending import spending
from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts
from ergometry.work.timeline import Timeline

SCHEMA = "ergometry.run/1"

MOST_ROWS = 51
"""Rows of ``by_module`` and ``by_op``: the last sums those that are left. ``erg report --by`` has all of them."""


def summary(run: Run, books: Accounts | None = None, timeline: Timeline | None = None) -> dict[str, Any]:
    """Return the JSON summary of a run, in progress or ended: plain dicts, lists, strings and finite numbers.

    Args:
        run: a stored run.
        books: ``accounts(run)``, where they are at hand.
        timeline: ``Timeline.of(run)``, where it is at hand.
    """
    timeline = Timeline.of(run) if timeline is None else timeline
    books = accounts(run, timeline=timeline) if books is None else books
    equations = _equations(run, books)
    tree = {
        "schema": SCHEMA,
        "run": _identity(run),
        "energy": {
            "total": books.total,
            "by_component": books.by_component,
            "by_phase": books.by_phase,
            "by_domain": books.by_domain,
            "by_module": _spending(books, "module"),
            "by_op": _spending(books, "op"),
            "components_by_phase": books.components_by_phase,
            "process": books.process,
            "coverage": books.coverage.to_json(),
        },
        "work": books.work,
        "rates": books.rates,
        "roofline": roofline_json(run, books, timeline),
        "loss": {**{name: loss.value for name, loss in books.loss.items()}, "unit": "loss"},
        "noise": _noise(run),
        "equations": equations,
        "health": [{"board": board.name, **board.figures()} for board in books.boards],
        "findings": [finding.to_json() for finding in findings(run, books, equations)],
        "overhead": _overhead(run),
    }
    lost: list[str] = []
    plain: dict[str, Any] = to_plain(tree, lost)
    plain["warnings"] = _warnings(run, lost)
    return plain


def to_plain(node: Any, lost: list[str], path: str = "") -> Any:
    """Return a tree with its estimates as ``Q`` objects and NaN and infinity as null, noting in ``lost`` where."""
    if isinstance(node, Estimate):
        if node.value is not None and not node.known:
            lost.append(path)
        return node.to_json()
    if isinstance(node, Mapping):
        within = {str(key): to_plain(item, lost, f"{path}.{key}".lstrip(".")) for key, item in node.items()}
        # A Q that came ready-made says why, too.
        if within.get("value", 0) is None and not within.get("why", "-") and path in lost:
            within["why"] = f"the value is {node['value']}"
        return within
    if isinstance(node, (list, tuple)):
        return [to_plain(item, lost, path) for item in node]
    if isinstance(node, float) and not math.isfinite(node):
        lost.append(path.removesuffix(".value"))
        return None
    return node


def _identity(run: Run) -> dict[str, Any]:
    meta = run.meta
    return {
        "id": run.id,
        "name": meta.get("name"),
        "tags": list(meta.get("tags") or ()),
        "command": shlex.join(mask_secrets(meta.get("command") or ())).replace("'***'", "***"),
        "started": meta.get("started"),
        "duration_s": run.duration_s,
        "status": run.status,
        "host": meta.get("host"),
        "ranks": 1,
        "python": meta.get("python"),
        "torch": meta.get("torch"),
        "devices": list(meta.get("devices") or ()),
    }


def _spending(books: Accounts, by: str) -> dict[str, Any]:
    spent = spending(books, by)
    return {
        "rows": [row.to_json(spent.whole) for row in spent.top(MOST_ROWS)],
        "rest": spent.rest.energy,
        "why": spent.why,
    }


def _noise(run: Run) -> dict[str, Estimate]:
    from ergometry.estimators.noise_scale import read_noise

    found = read_noise(run)
    return {"b_noise": found.b_noise, "grad_sq": found.grad_sq, "trace_cov": found.trace_cov}


def _equations(run: Run, books: Accounts) -> Mapping[str, Any]:
    from ergometry.equations.live import entries

    return entries(run, books)


def _overhead(run: Run) -> dict[str, Any]:
    """Return the instrument's own time in the training process, and how much it recorded."""
    table = run.table(series.OVERHEAD)
    method = "time in hooks, ledger and FLOP counts over duration; leaves out what they cost the caches and the device"
    if len(table) and run.duration_s > 0:
        wall_s = float(sum(table[column][-1] for column in ("ledger_s", "flops_s", "hook_s")))
        fraction = Estimate(wall_s / run.duration_s, None, "", Provenance.MEASURED, method)
    else:
        wall_s, fraction = math.nan, Estimate.unknown("", "the instrument wrote no account of its own time")
    return {
        "fraction": fraction,
        "wall_s": None if math.isnan(wall_s) else wall_s,
        "samples": sum(len(samples.table) for samples in run.samples),
        "dropped": run.dropped,
        "physics": _physics(run),
    }


def _physics(run: Run) -> dict[str, Any]:
    """Return what each tap of the thermodynamic ledger cost the training, and why one has nothing to show.

    ``share`` is of the time of all steps, ``every`` how many steps there were to one use.
    """
    told = run.meta.get("physics")
    told = told if isinstance(told, Mapping) else {}
    steps = run.table(series.STEPS)
    lasted = steps["t1_s"] - steps["t0_s"]
    steps_s = float(lasted[np.isfinite(lasted)].sum())
    taps = {str(name): tap for name, tap in (told.get("taps") or {}).items() if isinstance(tap, Mapping)}

    def share(cost_s: Any) -> Estimate:
        if not isinstance(cost_s, int | float) or not steps_s > 0:
            return Estimate.unknown("", "needs a tap with a cadence of its own, and training steps")
        return Estimate(cost_s / steps_s, None, "", Provenance.MEASURED, "host time in the tap over that of all steps")

    costs_s = [tap.get("cost_s") or 0.0 for tap in taps.values()]
    return {
        "level": told.get("level"),
        "share": share(math.fsum([told.get("events_s") or 0.0, *costs_s]) if taps else None),
        "taps": {
            name: {
                "share": share(tap.get("cost_s")),
                "uses": tap.get("uses"),
                "every": tap["steps"] / tap["uses"] if tap.get("steps") and tap.get("uses") else None,
                "why": tap.get("why") or "",
            }
            for name, tap in taps.items()
        },
    }


def _warnings(run: Run, lost: list[str]) -> list[dict[str, str]]:
    """Return the run's notices, each once, and those that writing this summary gave rise to."""
    notices = list(run.notices)
    if run.dropped and not any(notice.code == "records.dropped" for notice in notices):
        notices.append(Notice("records.dropped", str(run.dropped)))
    if lost:
        notices.append(Notice("value.not_finite", ", ".join(dict.fromkeys(lost))))
    return list({(notice.code, notice.detail): notice.to_json() for notice in notices}.values())
