"""The JSON summary, held to its contract on runs of every kind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.notices import Notice
from ergometry.core.run import STATUSES
from ergometry.report import render, summary
from ergometry.report.summary import to_plain
from ergometry.work import accounts
from support.odd_runs import ODD_RUNS, hostile, modelled, nan_losses
from support.synthetic import synthetic_run

PER_CHAPTER = (3, 3, 2, 2, 2, 3, 2, 3, 3)
EQUATIONS = [f"{chapter}.{i}" for chapter, last in enumerate(PER_CHAPTER, 1) for i in range(1, last + 1)]
VERDICTS = {"exact", "model", "vacuous", "inconsistent", "false"}
Q = {"value", "stderr", "unit", "provenance", "method", "why"}
KEYS = {
    "": {
        *("schema", "run", "energy", "work", "rates", "loss", "noise", "health", "equations", "findings", "overhead"),
        *("warnings", "roofline"),
    },
    "run": {"id", "command", "started", "duration_s", "status", "host", "ranks", "python", "torch", "devices"},
    "energy": {"total", "by_component", "by_phase", "by_domain", "process", "coverage", "by_module", "by_op"}
    | {"components_by_phase"},
    "work": {
        *("steps", "examples", "tokens", "parameters", "flops", "bytes", "communication_bytes", "peak_memory_bytes"),
    },
    "rates": {
        *("step_s", "power_w", "flop_per_s", "mfu", "j_per_step", "j_per_example", "j_per_flop", "hfu", "byte_per_s"),
        *("j_per_byte", "j_per_token", "intensity", "compute_bound"),
    },
    "roofline": {"why", "calibration", "peaks", "ridge", "points"},
    "loss": {"first", "last", "best", "unit"},
    "noise": {"b_noise", "grad_sq", "trace_cov"},
    "overhead": {"fraction", "wall_s", "samples", "dropped"},
}
PARTS = {
    "by_component": ["static", "compute", "memory", "communication", "residual"],
    "by_phase": ["data", "forward", "backward", "optimizer", "evaluation", "other"],
}


def check_quantity(q: Any, path: str) -> None:
    """Hold one Q object to the contract."""
    assert set(q) == Q, path
    assert q["provenance"] in set(Provenance), path
    assert all(isinstance(q[key], str) for key in ("unit", "method", "why")), path
    for key in ("value", "stderr"):
        assert q[key] is None or (isinstance(q[key], (int, float)) and math.isfinite(q[key])), path
    if q["value"] is None:
        assert q["why"], f"{path} is null and says no why"
        assert q["stderr"] is None, path
    else:
        assert q["stderr"] is None or q["stderr"] >= 0, path
        assert q["method"] or q["why"], f"{path} says no method"


def check(document: dict[str, Any]) -> None:
    """Hold a summary to the contract."""
    assert document["schema"] == "ergometry.run/1"
    for name, keys in KEYS.items():
        assert (document[name] if name else document).keys() >= keys, name
    run = document["run"]
    assert run["status"] in STATUSES
    assert isinstance(run["command"], str)
    assert isinstance(run["devices"], list)
    assert run["ranks"] == 1
    energy = document["energy"]
    check_quantity(energy["total"], "energy.total")
    for by, names in PARTS.items():
        assert list(energy[by]) == names
    for by in (*PARTS, "by_domain"):
        for name, q in energy[by].items():
            check_quantity(q, f"energy.{by}.{name}")
            assert q["unit"] == "J"
    check_quantity(energy["process"], "energy.process")
    check_coverage(energy["coverage"], energy["total"])
    for board in document["health"]:
        assert board["board"].startswith("gpu")
        for key in board.keys() - {"board"}:
            check_quantity(board[key], f"health.{key}")
    for name in ("work", "rates", "noise"):
        for key, q in document[name].items():
            check_quantity(q, f"{name}.{key}")
    assert document["loss"]["unit"] == "loss"
    check_quantity(document["overhead"]["fraction"], "overhead.fraction")
    check_division(energy)
    check_roofline(document["roofline"])
    check_words(document)
    check_equations(document["equations"])


def check_coverage(coverage: dict[str, Any], total: dict[str, Any]) -> None:
    """Hold what is said of the sensors to the contract."""
    check_quantity(coverage["measured"], "energy.coverage.measured")
    check_quantity(coverage["wall"], "energy.coverage.wall")
    assert all(isinstance(note, str) and note for note in coverage["notes"])
    parts = coverage["parts"]
    assert [part["part"] for part in parts] == ["processors", "memory", "accelerators", "rest of the node"]
    for part in parts:
        assert set(part) == {"part", "how", "included", "domains", "energy", "why"}
        assert part["how"] in ("measured", "modelled", "absent")
        assert part["why"]
        if part["how"] == "absent":
            assert part["energy"] is None
            assert not part["included"]
        if part["energy"] is not None:
            check_quantity(part["energy"], part["part"])
    included = [part["energy"]["value"] for part in parts if part["included"] and part["energy"] is not None]
    if total["value"] is None:
        assert included == []
        assert coverage["measured"]["value"] is None
    else:
        assert math.fsum(included) == pytest.approx(total["value"], rel=1e-9, abs=1e-9)
        assert coverage["measured"]["value"] is None or 0 <= coverage["measured"]["value"] <= 1


def check_division(energy: dict[str, Any]) -> None:
    """Hold what the joules went to, to the contract: its sums are the total's."""
    for by in ("by_module", "by_op"):
        table = energy[by]
        assert set(table) == {"rows", "rest", "why"}
        assert bool(table["why"]) == (not table["rows"])
        check_quantity(table["rest"], f"energy.{by}.rest")
        for row in table["rows"]:
            for name in ("energy", "share", "flops", "bytes", "roofline_s", "j_per_flop", "intensity"):
                check_quantity(row[name], f"energy.{by}.{row['name']}.{name}")
        if table["rows"]:
            joules = [row["energy"]["value"] for row in table["rows"]]
            assert math.fsum([*joules, table["rest"]["value"]]) == pytest.approx(energy["total"]["value"], rel=1e-9)
    for phase, parts in energy["components_by_phase"].items():
        for component, q in parts.items():
            check_quantity(q, f"energy.components_by_phase.{phase}.{component}")
        known = [q["value"] for q in parts.values() if q["value"] is not None]
        assert math.fsum(known) == pytest.approx(energy["by_phase"][phase]["value"], rel=1e-6, abs=1e-6), phase


def check_roofline(roofline: dict[str, Any]) -> None:
    """Hold the roofline to the contract."""
    known = roofline["calibration"] is not None
    assert bool(roofline["why"]) != known
    assert known == (roofline["peaks"] is not None) == (roofline["ridge"] is not None)
    if known:
        assert set(roofline["calibration"]) == {"device", "board", "date", "provenance", "remarks"}
        for dtype, q in roofline["peaks"]["flop_per_s"].items():
            check_quantity(q, dtype)
            check_quantity(roofline["ridge"][dtype], dtype)
    for point in roofline["points"]:
        check_quantity(point["intensity"], point["phase"])
        check_quantity(point["flop_per_s"], point["phase"])


def check_words(document: dict[str, Any]) -> None:
    """Hold findings and warnings to the contract."""
    for found in document["findings"]:
        assert set(found) == {"code", "text", "evidence", "remedy", "expected_saving"}
        assert all(found[key] for key in ("code", "text", "evidence", "remedy"))
        if found["expected_saving"] is not None:
            check_quantity(found["expected_saving"], found["code"])
    for warning in document["warnings"]:
        assert set(warning) == {"code", "text", "remedy"}
        assert warning["code"]
        assert warning["text"]


def check_equations(equations: dict[str, Any]) -> None:
    """Hold the equations to the contract."""
    assert list(equations) == EQUATIONS
    for number, entry in equations.items():
        assert entry.keys() >= {"title", "verdict", "why", "as_written", "repair"}
        verdict = entry["verdict"]
        if isinstance(verdict, dict):
            assert set(verdict) == {"physical", "algorithmic"}
            assert set(verdict.values()) <= VERDICTS
        else:
            assert verdict in VERDICTS
        for side in ("as_written", "repair"):
            for name, q in entry[side].items():
                check_quantity(q, f"equations.{number}.{side}.{name}")


@pytest.mark.parametrize("kind", ODD_RUNS)
def test_every_run_has_a_summary_that_keeps_the_contract(kind):
    document = json.loads(render(ODD_RUNS[kind](), "json"), parse_constant=lambda word: pytest.fail(word))
    check(document)


def test_the_summary_is_plain_data_that_json_gives_back():
    document = summary(synthetic_run())
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_numbers_are_those_of_the_accounts():
    run = synthetic_run()
    document, books = summary(run), accounts(run)
    assert Estimate.from_json(document["energy"]["total"]) == books.total
    assert Estimate.from_json(document["rates"]["j_per_example"]) == books.rates["j_per_example"]
    phases = [q["value"] for q in document["energy"]["by_phase"].values()]
    assert math.fsum(phases) == pytest.approx(document["energy"]["total"]["value"], rel=1e-12)
    assert document["loss"] == {name: e.value for name, e in books.loss.items()} | {"unit": "loss"}


def test_the_run_s_labels():
    run = summary(synthetic_run(3, name="n", tags=["t"]))["run"]
    assert run == {
        "id": "20260102-030405-abcd",
        "name": "n",
        "tags": ["t"],
        "command": "train.py --lr 0.01",
        "started": "2026-01-02T03:04:05Z",
        "duration_s": pytest.approx(0.5 + 0.3 + 0.25),
        "status": "completed",
        "host": "node0",
        "ranks": 1,
        "python": "3.11.7",
        "torch": "2.13.0",
        "devices": ["cpu"],
    }


def test_secrets_do_not_reach_the_summary_in_any_format():
    run = synthetic_run(3, command=["train.py", "--api-key", "abc123xyz", "HF_TOKEN=abc123xyz", "a b"])
    assert summary(run)["run"]["command"] == "train.py --api-key *** 'HF_TOKEN=***' 'a b'"
    for kind in ("text", "json", "markdown", "html"):
        assert "abc123xyz" not in render(run, kind)


def test_nan_becomes_null_with_a_why_and_a_warning():
    document = summary(nan_losses())
    assert document["loss"]["last"] is None
    (warning,) = document["warnings"]
    assert warning["code"] == "value.not_finite"
    assert "loss.last" in warning["text"]


def test_a_quantity_that_is_not_finite_becomes_null_and_says_what_it_was():
    lost: list[str] = []
    ready = Estimate(1.0, None, "J").to_json() | {"value": math.inf, "why": ""}
    tree = to_plain({"a": {"b": Estimate(math.nan, 1.0, "J")}, "c": [ready], "d": (math.nan,)}, lost)
    assert tree["a"]["b"]["value"] is tree["a"]["b"]["stderr"] is None
    assert tree["a"]["b"]["why"] == "the value is nan"
    assert tree["c"][0]["value"] is None
    assert tree["c"][0]["why"] == "the value is inf"
    assert tree["d"] == [None]
    assert set(lost) == {"a.b", "c", "d"}


def test_each_warning_is_given_once():
    assert [w["code"] for w in summary(modelled())["warnings"]] == ["sensor.absent"]
    run = replace(modelled(), notices=(Notice("sensor.failed", "a"), Notice("sensor.failed", "b")))
    assert len(summary(run)["warnings"]) == 2


def test_dropped_records_are_a_warning_even_if_nobody_said_so():
    document = summary(hostile())
    assert document["overhead"]["dropped"] == 3
    assert [w["code"] for w in document["warnings"]] == ["records.dropped"]
    said = replace(hostile(), notices=(Notice("records.dropped", "3"),))
    assert len(summary(said)["warnings"]) == 1


def test_overhead_is_the_instrument_s_own_seconds_over_the_run_s():
    run = synthetic_run()
    overhead = summary(run)["overhead"]
    assert overhead["wall_s"] == pytest.approx(0.01 + 0.02 + 0.004)
    assert overhead["fraction"]["value"] == pytest.approx(0.034 / run.duration_s)
    assert "leaves out" in overhead["fraction"]["method"]
    assert overhead["samples"] == len(run.samples[0].table)


def test_the_noise_scale_says_what_it_would_need():
    noise = summary(synthetic_run(3))["noise"]
    assert all(q["value"] is None and "two batch sizes" in q["why"] for q in noise.values())
