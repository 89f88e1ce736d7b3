"""What a report says of the sensors: which joules were measured, which not, and what the total leaves out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ergometry.core.run import Run
from ergometry.report import FORMATS, render, summary
from support.odd_runs import mixed, modelled, whole_node
from support.synthetic import BOARD, MEMORY_MODEL, MODELLED, NODE, PACKAGE, synthetic_run, with_source

POWER = replace(BOARD, quantity="power_w", method="NVML power")


def bare(**meta) -> Run:
    return replace(synthetic_run(100, evaluate_every=10**6, **meta), samples=())


def told(run: Run, form: str = "text") -> str:
    return " ".join(render(run, form).replace("\xa0", " ").split())


def test_a_measured_run_needs_no_caveat():
    assert "modelled, " not in told(synthetic_run()).partition("Energy by phase")[0].replace("(modelled)", "")
    assert "of these joules were measured" not in told(synthetic_run())


def test_a_run_on_the_processors_model_alone_says_so_plainly():
    words = "No sensor measured these joules: they are modelled, for the processors alone, and may be 30 % off."
    for form in ("text", "markdown", "html"):
        assert words in told(modelled(), form), form


def test_a_run_on_two_models_names_both():
    run = with_source(with_source(bare(), "cpu_model", {MODELLED: 40.0}), "memory_model", {MEMORY_MODEL: 8.0})
    assert "they are modelled, for the processors and memory, and may be 26 % off." in told(run)


def test_a_mixture_says_what_was_measured_and_how_much_of_the_joules_that_is():
    words = "78 % of these joules were measured, by the sensors of the accelerators; those of the processors and memory"
    assert f"{words} are modelled, and the sum may be 6.4 % off." in told(mixed())
    measured = summary(mixed())["energy"]["coverage"]["measured"]["value"]
    assert measured == pytest.approx(0.78, abs=0.005)


def test_a_processor_that_is_modelled_beside_one_that_is_read_is_another_one():
    other = replace(MODELLED, domain="node0/package1")
    run = with_source(with_source(bare(), "rapl", {PACKAGE: 90.0}), "cpu_model", {other: 10.0})
    assert "by the sensors of the processors; those of other processors are modelled, and the sum" in told(run)
    run = with_source(run, "memory_model", {MEMORY_MODEL: 8.0})
    assert "by the sensors of the processors; those of the memory and other processors are modelled" in told(run)


def test_a_gap_says_how_much_of_the_joules_and_how_long():
    run = with_source(bare(), "nvml", {POWER: 200.0}, failed_s=[(2.0, 5.0)])
    words = told(run)
    assert re.search(r"70 % of these joules were measured, and the sum may be [\d.]+ % off; what was not read", words)
    assert re.search(r"what was not read of node0/gpu0 \(3\.\d+ s\) is bridged\.", words)
    assert "% of it bridged" in told(run, "markdown")


def test_an_outer_reading_that_was_refused_is_told():
    run = with_source(with_source(bare(), "nvml", {BOARD: 200.0}), "ipmi", {NODE: 300.0}, until_s=6.0)
    (note,) = summary(run)["energy"]["coverage"]["notes"]
    assert note.startswith("node0 was read for")
    assert f"{note}." in told(run)


def test_an_accelerator_without_a_counter_is_said_to_be_missing():
    run = with_source(bare(devices=["NVIDIA H100"]), "rapl", {replace(PACKAGE, wrap_j=None): 50.0})
    words = "The accelerators' joules are missing: no counter of the accelerators could be read."
    for form in ("text", "markdown", "html"):
        assert words in told(run, form).replace("&#39;", "'"), form
    assert "joules are missing" not in told(synthetic_run())


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_what_the_total_leaves_out_stands_beside_it(form):
    words = "Not included: fans, power supply, network and disks, about 380 ± 200 J more (modelled)."
    assert words in told(synthetic_run(power_w=51.5), form)
    assert "Not included" not in told(whole_node(), form)


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_every_part_of_the_node_has_a_row_but_accelerators_that_nobody_used(form):
    document = render(synthetic_run(), form)
    table = document.partition("What was measured")[2].partition("quations")[0]
    for part in ("processors", "memory", "rest of the node"):
        assert part in table
    assert "none was used" not in table
    assert "accelerators" in render(mixed(), form).partition("What was measured")[2]


@pytest.mark.parametrize("form", FORMATS)
def test_this_process_s_share_is_a_line_of_its_own(form):
    run = synthetic_run()
    process = summary(run)["energy"]["process"]
    assert process["provenance"] == "modelled"
    assert 0 < process["value"] <= summary(run)["energy"]["total"]["value"]
    assert "this process" in told(run, form) or '"process"' in told(run, form)


def test_no_modelled_joule_of_a_mixture_looks_measured():
    domains = summary(mixed())["energy"]["by_domain"]
    assert {path: q["provenance"] for path, q in domains.items()} == {
        "node0/cpu": "modelled",
        "node0/dram": "modelled",
        "node0/gpu0": "measured",
        "node0/gpu1": "measured",
    }
    phases = summary(mixed())["energy"]["by_phase"]
    assert {q["provenance"] for q in phases.values()} == {"modelled"}
    assert "█" not in render(mixed(), "text").partition("Energy by phase")[2].partition("Energy by component")[0]
