"""The summary's parts of the thermodynamic ledger: the noise scale, and what each tap cost."""

import json
from dataclasses import replace

import pytest

from ergometry.core import series
from ergometry.core.notices import Notice
from ergometry.report import summary
from support.physics import with_physics
from support.synthetic import synthetic_run

STEPS = 40


def told(**physics):
    run = synthetic_run(STEPS)
    return summary(replace(run, meta={**run.meta, "physics": physics}))["overhead"]["physics"]


def test_each_tap_says_what_it_cost_and_how_often_it_was_used():
    taps = {
        "first_law": {"uses": 8, "steps": 40, "cost_s": 0.02, "share": 0.02, "why": ""},
        "noise": {"uses": 40, "steps": 40, "cost_s": 0.04, "share": 0.01, "why": ""},
        "curvature": {"uses": 0, "steps": 40, "cost_s": 0.0, "share": 0.01, "why": "no double backward"},
        "length": {"uses": None, "steps": None, "cost_s": None, "share": None, "why": "the outputs are no classes"},
    }
    found = told(level="light", taps=taps)
    assert found["level"] == "light" and list(found["taps"]) == list(taps)
    steps_s = STEPS * 0.1
    assert found["share"]["value"] == pytest.approx(0.06 / steps_s)
    law, noise, curvature, length = found["taps"].values()
    assert law["share"]["value"] == pytest.approx(0.02 / steps_s) and (law["uses"], law["every"]) == (8, 5.0)
    assert noise["every"] == 1.0 and noise["why"] == ""
    assert (curvature["uses"], curvature["every"]) == (0, None) and curvature["why"] == "no double backward"
    assert length["share"]["value"] is None and length["share"]["why"] and length["why"] == "the outputs are no classes"


@pytest.mark.parametrize("physics", [{}, {"level": "off", "taps": {}}, {"level": "light"}, {"taps": {"noise": None}}])
def test_where_no_tap_ran_there_is_none_to_tell_of(physics):
    found = told(**physics)
    assert found["taps"] == {} and found["share"]["value"] is None and found["level"] == physics.get("level")


def test_a_run_from_before_there_were_taps():
    found = summary(synthetic_run(STEPS))["overhead"]["physics"]
    assert found["level"] is None and found["taps"] == {}


def test_a_run_without_steps_has_no_share():
    run = synthetic_run(0)
    tap = {"uses": 0, "steps": 0, "cost_s": 0.1, "share": 0.01, "why": ""}
    document = summary(replace(run, meta={**run.meta, "physics": {"level": "light", "taps": {"noise": tap}}}))
    found = document["overhead"]["physics"]["taps"]["noise"]
    assert found["share"]["value"] is None and found["every"] is None
    json.dumps(document, allow_nan=False)


def test_the_noise_scale_of_a_run_with_two_batch_sizes_and_why_there_is_none():
    run, truth = with_physics(synthetic_run(STEPS))
    noise = summary(run)["noise"]
    assert (
        noise["trace_cov"]["value"] == pytest.approx(truth.trace_cov.mean()) and "halves" in noise["b_noise"]["method"]
    )
    assert {name: q["unit"] for name, q in noise.items()} == {
        "b_noise": "example",
        "grad_sq": "loss^2",
        "trace_cov": "loss^2*example",
    }
    run, _ = with_physics(synthetic_run(STEPS), drop=[series.NOISE.name])
    physics = {"level": "light", "taps": {"noise": {"why": "all gradients are sparse"}}}
    none = summary(replace(run, meta={**run.meta, "physics": physics}))["noise"]
    assert all(q["value"] is None and "all gradients are sparse" in q["why"] for q in none.values())


def test_what_an_estimator_could_not_do_is_a_warning_with_its_remedy():
    run = replace(synthetic_run(STEPS), notices=(Notice("physics.failed", "curvature: RuntimeError: no"),))
    (warning,) = [w for w in summary(run)["warnings"] if w["code"] == "physics.failed"]
    assert "curvature: RuntimeError" in warning["text"] and "unaffected" in warning["remedy"]
